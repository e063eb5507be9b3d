"""The consumer group as its coordinator describes it: who is in it, and which shards each has."""

from __future__ import annotations

import logging
import subprocess
import sys
from typing import TYPE_CHECKING, Final

import confluent_kafka as ck
import msgspec

from connector.core.model import Value
from connector.errors import KafkaUnavailable
from connector.kafka import describe_group
from connector.kafka.errors import translate
from connector.kafka.names import ShardId
from connector.kafka.tokens import Tokens

if TYPE_CHECKING:
    from collections.abc import Mapping

    from connector.kafka.clients import Settings

_log = logging.getLogger(__name__)

_DOING: Final = "describing the group"
_TIMEOUT_SECONDS: Final = 5
# For the start of the child process on a busy machine. The request has the rest.
_START_SECONDS: Final = 2

_STDERR_CHARACTERS: Final = 500

# In every other state, a member may seem to have no shards.
_STABLE: Final = "STABLE"


class Member(Value, frozen=True):
    """A worker and its shards.

    `name` is the `client.id` of its membership: the worker's own name, unless one is
    configured.
    """

    name: str
    host: str
    shards: tuple[ShardId, ...]


class _Described(msgspec.Struct):
    """A member as the child process describes it."""

    client_id: str
    host: str
    partitions: list[tuple[str, int]]


class _Error(msgspec.Struct):
    """An error of librdkafka."""

    code: int
    text: str


class _Answer(msgspec.Struct):
    """The answer of the child process: members and state of the group, or an error."""

    members: list[_Described]
    state: str
    error: _Error | None


_DECODER: Final = msgspec.json.Decoder(_Answer)


class Members:
    """The members of a group, as a child process asks for them.

    librdkafka can abort the process that asks (see `connector.kafka.describe_group`),
    and a worker must outlive every look at its status page. Needs the right DESCRIBE on
    the group.
    """

    def __init__(
        self,
        settings: Settings,
        group_id: str,
        topics: Mapping[str, str],
        timeout_seconds: int = _TIMEOUT_SECONDS,
    ) -> None:
        """`topics` maps each compacted topic to its feed."""
        self._topics = topics
        self._timeout_seconds = timeout_seconds
        tokens = settings.get("oauth_cb")
        question = {
            "settings": _portable(settings),
            # Functions cannot be sent, but their names can.
            "oauth_cb": tokens.path if isinstance(tokens, Tokens) else None,
            "group_id": group_id,
            "request_seconds": timeout_seconds - _START_SECONDS,
            # Longer than this process waits.
            "life_seconds": timeout_seconds + 1,
        }
        self._question = msgspec.json.encode(question)

    def now(self) -> tuple[Member, ...]:
        """Return the members, sorted by name. Blocks for `timeout_seconds` at most.

        During a rebalance they may have no shards. Raises KafkaUnavailable.
        """
        return self._members_of(self._ask())

    def settled(self) -> tuple[Member, ...]:
        """Return the members as `now` does, but not during a rebalance.

        Raises KafkaUnavailable, also if the group is rebalancing.
        """
        answer = self._ask()
        members = self._members_of(answer)
        if answer.state != _STABLE:
            raise KafkaUnavailable(
                f"{_DOING}: the owners of shards are not known in state {answer.state}"
            )
        return members

    def _members_of(self, answer: _Answer) -> tuple[Member, ...]:
        if answer.error is not None:
            error = ck.KafkaError(answer.error.code, answer.error.text)
            raise translate(error, _DOING)
        members = [self._member(described) for described in answer.members]
        members.sort(key=lambda member: (member.name, member.host))
        return tuple(members)

    def _ask(self) -> _Answer:
        # By path and with -P, so that neither the working directory nor this folder can
        # shadow a module that the child imports.
        command = [sys.executable, "-P", describe_group.__file__]
        try:
            child = subprocess.run(  # noqa: S603 -- a file of ours
                command,
                input=self._question,
                capture_output=True,
                timeout=self._timeout_seconds,
                check=False,
            )
        except subprocess.TimeoutExpired:
            raise KafkaUnavailable(
                f"{_DOING}: no answer within {self._timeout_seconds} s"
            ) from None
        except OSError as error:
            raise KafkaUnavailable(
                f"{_DOING}: cannot start a process: {error.strerror}"
            ) from None
        if child.returncode != 0:
            # The last line has the reason of an abort.
            details = {
                "status": child.returncode,
                "stderr": child.stderr.decode(errors="replace")[-_STDERR_CHARACTERS:],
            }
            _log.debug("the process that describes the group failed", extra=details)
            raise KafkaUnavailable(
                f"{_DOING}: the process that asks Kafka {_ending(child.returncode)}"
            )
        try:
            return _DECODER.decode(child.stdout)
        except msgspec.DecodeError:
            raise KafkaUnavailable(
                f"{_DOING}: cannot read the answer of the process that asks Kafka"
            ) from None

    def _member(self, described: _Described) -> Member:
        shards = []
        for topic, partition in described.partitions:
            if topic in self._topics:
                shards.append(ShardId(self._topics[topic], partition))
        shards.sort()
        host = described.host.removeprefix("/")
        return Member(described.client_id, host, tuple(shards))


def _portable(settings: Settings) -> dict[str, str | int | float | bool]:
    """Return the settings that another process can have: no callbacks, no logger."""
    return {
        name: value
        for name, value in settings.items()
        if isinstance(value, str | int | float | bool)
    }


def _ending(status: int) -> str:
    if status < 0:
        return f"was ended by signal {-status}"
    return f"ended with status {status}"
