"""A feed whose topics a case writes itself: records committed, aborted or left open."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, Self

import confluent_kafka as ck
from confluent_kafka.admin import (
    AclBinding,
    AclOperation,
    AclPermissionType,
    AdminClient,
    NewPartitions,
    NewTopic,
    ResourcePatternType,
    ResourceType,
)

from connector.kafka.avro import EVENT, STATE, Codec, SingleObject
from connector.kafka.names import ShardId, Topics
from connector.kafka.records import RecordWriter
from tests.conformance.judge import Truth
from tests.conformance.story import FEED

if TYPE_CHECKING:
    from connector.core.model import Event, State
    from connector.kafka.avro import Framing
    from connector.kafka.shard_log import Transaction

PATIENCE_SECONDS: Final = 60.0


class Feed:
    """The topics of a feed called `all`, and the truth about their committed records."""

    def __init__(
        self,
        bootstrap: str,
        prefix: str,
        framing: Framing | None = None,
        partitions: int = 1,
        shards: int = 1,
    ) -> None:
        """Create the topics. `current` has a partition for each shard."""
        self.bootstrap = bootstrap
        self.prefix = prefix
        self.events: list[Event] = []
        self.states: list[State] = []

        self._topics = Topics(prefix)
        self.changes = self._topics.changes(FEED)
        self.current = self._topics.current(FEED)
        self._partitions = partitions
        self._shards = shards
        self._framing = framing or SingleObject()
        self._framing.prepare(self.changes, EVENT)
        self._framing.prepare(self.current, STATE)

        self._admin = AdminClient({"bootstrap.servers": bootstrap})
        self.create_topics()

    def records_of(self, shard: int) -> RecordWriter:
        """Return the maker of a shard's records."""
        return RecordWriter(ShardId(FEED, shard), self._topics, Codec(self._framing))

    def create_topics(self) -> None:
        """Create both topics."""
        compacted = {"cleanup.policy": "compact"}
        topics = [
            NewTopic(self.changes, self._partitions, 1),
            NewTopic(self.current, self._shards, 1, config=compacted),
        ]
        for made in self._admin.create_topics(topics).values():
            made.result(PATIENCE_SECONDS)

    def existing_topics(self) -> list[str]:
        """Return the topics with the feed's prefix."""
        # Asking for a topic by its name may create it.
        names = self._admin.list_topics(timeout=PATIENCE_SECONDS).topics
        return [name for name in names if name.startswith(self.prefix)]

    def truth(self, known: dict[str, int]) -> Truth:
        """Return what is committed, and the sequences before the programs started."""
        return Truth(self.events, self.states, known)

    def add_partitions(self, total: int) -> None:
        """Give `changes` more partitions."""
        added = self._admin.create_partitions([NewPartitions(self.changes, total)])
        added[self.changes].result(PATIENCE_SECONDS)

    def delete_topics(self, *topics: str) -> None:
        """Delete these topics."""
        deleted = self._admin.delete_topics(list(topics))
        for done in deleted.values():
            done.result(PATIENCE_SECONDS)

    def delete_events(self) -> None:
        """Delete every record of partition 0 of `changes`, as retention does."""
        all_of_it = ck.TopicPartition(self.changes, 0, ck.OFFSET_END)
        deleted = self._admin.delete_records([all_of_it])
        for done in deleted.values():
            done.result(PATIENCE_SECONDS)

    def deny_reading(self, topic: str) -> None:
        """Let everyone describe a topic, and nobody read it."""
        rules = []
        for operation, permission in (
            (AclOperation.DESCRIBE, AclPermissionType.ALLOW),
            (AclOperation.READ, AclPermissionType.DENY),
        ):
            rule = AclBinding(
                ResourceType.TOPIC,
                topic,
                ResourcePatternType.LITERAL,
                "User:*",
                "*",
                operation,
                permission,
            )
            rules.append(rule)
        for made in self._admin.create_acls(rules).values():
            made.result(PATIENCE_SECONDS)

    def commit(self, *moments: Transaction) -> None:
        """Commit each of these in a transaction of its own."""
        with Worker(self) as worker:
            for moment in moments:
                worker.commit(moment)

    def stray(self, topic: str, key: bytes, value: bytes | None) -> None:
        """Write a record as another program would: no transaction and no headers."""
        producer = ck.Producer({"bootstrap.servers": self.bootstrap})
        producer.produce(topic, value, key, partition=0)
        assert producer.flush(PATIENCE_SECONDS) == 0


class Worker:
    """A writer of a shard of the feed, with a transactional id of its own."""

    _count = 0

    def __init__(self, feed: Feed, shard: int = 0) -> None:
        Worker._count += 1
        self._feed = feed
        self._records = feed.records_of(shard)
        self._open: list[Transaction] = []
        settings = {
            "bootstrap.servers": feed.bootstrap,
            "transactional.id": f"{feed.prefix}-{Worker._count}",
            "partitioner": "murmur2_random",
            # On a very slow machine, a transaction stays open for long.
            "transaction.timeout.ms": 600_000,
            "linger.ms": 0,
        }
        self._producer = ck.Producer(settings)
        self._producer.init_transactions(PATIENCE_SECONDS)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self._open:
            self._producer.abort_transaction(PATIENCE_SECONDS)

    def write(self, moment: Transaction) -> None:
        """Write to the open transaction, or begin one. The broker has the records then."""
        if not self._open:
            self._producer.begin_transaction()
        self._open.append(moment)
        for record in self._records.records(moment):
            self._producer.produce(
                record.topic,
                record.value,
                record.key,
                partition=record.partition,
                timestamp=record.timestamp_ms,
                headers=record.headers,
            )
        assert self._producer.flush(PATIENCE_SECONDS) == 0

    def commit(self, moment: Transaction | None = None) -> None:
        """Commit the open transaction, after writing one more moment to it."""
        if moment is not None:
            self.write(moment)
        self._producer.commit_transaction(PATIENCE_SECONDS)
        for committed in self._open:
            self._feed.events += committed.events
            self._feed.states += committed.states
        self._open = []

    def abort(self, moment: Transaction | None = None) -> None:
        """Abort the open transaction, after writing one more moment to it."""
        if moment is not None:
            self.write(moment)
        self._producer.abort_transaction(PATIENCE_SECONDS)
        self._open = []
