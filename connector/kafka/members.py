"""The consumer group as its coordinator describes it: who is in it, and which shards each has."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import confluent_kafka as ck
from confluent_kafka.admin import AdminClient

from connector.core.model import Value
from connector.kafka.errors import kafka_error, new_client, translate
from connector.kafka.names import ShardId
from connector.kafka.topics import waited

if TYPE_CHECKING:
    from collections.abc import Mapping

    from connector.kafka.clients import Settings

_CALL_SECONDS: Final = 3


class Member(Value, frozen=True):
    """A worker, by the `client.id` of its membership, which is its name unless one was configured."""

    name: str
    host: str
    shards: tuple[ShardId, ...]


class Members:
    """Asks for the members of a group. `topics` maps each compacted topic to its feed. Needs DESCRIBE on the group."""

    def __init__(
        self, settings: Settings, group_id: str, topics: Mapping[str, str]
    ) -> None:
        self._settings, self._group_id, self._topics = settings, group_id, topics
        self._admin: AdminClient | None = (
            None  # a connection that is there once somebody has asked
        )

    def serve_callbacks(self) -> None:
        """Hand out what the client has to say; call now and then."""
        if self._admin is not None:
            self._admin.poll(0)

    def now(self) -> tuple[Member, ...]:
        """By name. Blocks for a few seconds at most. Raises KafkaUnavailable."""
        if self._admin is None:
            self._admin = new_client(AdminClient, self._settings)
        try:
            asked = self._admin.describe_consumer_groups(
                [self._group_id], request_timeout=_CALL_SECONDS
            )
            members = waited(
                asked[self._group_id], "describing the group", _CALL_SECONDS + 1
            ).members
        except ck.KafkaException as exception:
            raise translate(kafka_error(exception), "describing the group") from None
        found = []
        for one in members:
            mine = one.assignment.topic_partitions if one.assignment else []
            shards = sorted(
                ShardId(self._topics[p.topic], p.partition)
                for p in mine
                if p.topic in self._topics
            )
            found.append(
                Member(one.client_id, one.host.removeprefix("/"), tuple(shards))
            )
        return tuple(sorted(found, key=lambda member: (member.name, member.host)))
