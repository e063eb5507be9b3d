"""Reads the topics as a consumer of committed records does: as they come, or in part.

`connector.kafka.event_stream` decodes the events.
"""

from __future__ import annotations

import logging
import time
from functools import cached_property
from typing import TYPE_CHECKING, Final, TypeVar

import confluent_kafka as ck
import msgspec
from confluent_kafka.admin import AdminClient, OffsetSpec

from connector.core.model import Value
from connector.errors import KafkaUnavailable, ShardCorrupt
from connector.kafka.admin import (
    REQUEST_TIMEOUT_SECONDS,
    cluster_metadata,
    offsets_of,
)
from connector.kafka.errors import new_client, translate, translating
from connector.kafka.headers import headers_of
from connector.kafka.records import is_ours

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping

    from connector.errors import KafkaError
    from connector.kafka.clients import Clients
    from connector.kafka.names import Partition, Topics

_log = logging.getLogger(__name__)
_T = TypeVar("_T")

_POLL_SECONDS: Final = 0.2
_MAX_MESSAGES: Final = 1000
# Brokers abort a dead worker's transaction after 60 s, and look for it every 10 s.
_STALLED_SECONDS: Final = 90

# The first strays are named, and then each thousandth says how many there are.
_MAX_NAMED_STRAYS: Final = 10
_STRAYS_PER_REPORT: Final = 1000

# Partitions that were added to a topic are found after this time.
_PARTITION_LOOK_SECONDS: Final = 10
_LOOK_TIMEOUT_SECONDS: Final = 3

_END_OF_PARTITION: Final = ck.KafkaError._PARTITION_EOF  # noqa: SLF001 -- librdkafka's name
# The broker has deleted the records from this offset on, or the topic was created again.
_OFFSET_IS_GONE: Final = ck.KafkaError._AUTO_OFFSET_RESET  # noqa: SLF001 -- librdkafka's name

BEGINNING: Final = ck.OFFSET_BEGINNING
END: Final = ck.OFFSET_END


class Record(Value, frozen=True):
    """A record of a topic. `timestamp_ms` is in milliseconds since the epoch."""

    topic: str
    partition: int
    offset: int
    key: bytes
    value: bytes
    timestamp_ms: int = 0
    headers: dict[str, str | bytes | None] = msgspec.field(default_factory=dict)

    @property
    def is_ours(self) -> bool:
        """Return True if a connector wrote the record, of whatever version."""
        return is_ours(self.headers)

    @property
    def place(self) -> str:
        """Return the record's position, for messages."""
        return f"{self.topic}-{self.partition}, offset {self.offset}"

    def decoded(self, decode: Callable[[bytes], _T]) -> _T:
        """Return the decoded value.

        Raises ShardCorrupt, and KafkaUnavailable if a schema registry is needed and
        does not answer.
        """
        try:
            return decode(self.value)
        except (ShardCorrupt, msgspec.ValidationError) as error:
            raise ShardCorrupt(f"{self.place}: {error}") from None


class Strays:
    """Skips the records of a topic that cannot be decoded, and names them in the log.

    Another program wrote them, or a newer version. Nothing else depends on them, so a
    reader must not end because of them.
    """

    def __init__(self) -> None:
        self.skipped = 0

    def decoded(self, record: Record, decode: Callable[[bytes], _T]) -> _T | None:
        """Return the decoded value, or None if it is skipped. Raises KafkaUnavailable."""
        try:
            return record.decoded(decode)
        except ShardCorrupt as error:
            self.skipped += 1
            # Later ones are counted only: a program may go on writing to the wrong topic.
            if self.skipped <= _MAX_NAMED_STRAYS:
                fields = {"error": str(error), "skipped": self.skipped}
                _log.warning("skipped a record that cannot be read", extra=fields)
            elif self.skipped % _STRAYS_PER_REPORT == 0:
                fields = {"skipped": self.skipped}
                _log.warning("more records that cannot be read", extra=fields)
            return None


class Log:
    """The topics of one feed, or of every feed below a prefix.

    `partitions` has the partition count of each topic.
    """

    def __init__(
        self,
        clients: Clients,
        topics: Topics,
        feed: str | None = None,
        *,
        needs_feed: bool = True,
    ) -> None:
        """Raises KafkaUnavailable if the cluster does not answer or lacks the feed."""
        self._clients = clients
        self._consumer = new_client(ck.Consumer, clients.follower())
        metadata = cluster_metadata(self._consumer, clients, "listing topics")

        # Feeds are known by their topics: the configuration may not list them here.
        self.partitions = {}
        all_feeds = []
        for name, topic in sorted(metadata.topics.items()):
            self.partitions[name] = len(topic.partitions)
            found = topics.feed_of_changes(name)
            if found is not None:
                all_feeds.append(found)
        self.feeds = [name for name in all_feeds if feed in {None, name}]
        if not self.feeds and needs_feed:
            name = topics.changes(feed or "*")
            remedy = (
                "check that a connector has run with this kafka.topic_prefix, and that "
                "we may read the topic"
            )
            if all_feeds:
                remedy = f"the feeds here are {', '.join(all_feeds)}"
            raise KafkaUnavailable(f"cannot find a topic called {name}: {remedy}")

    def partitions_of(self, *topics: str) -> list[Partition]:
        """Return every partition of these topics.

        Raises KafkaUnavailable if a topic does not exist.
        """
        found = []
        for topic in topics:
            count = self.partitions.get(topic, 0)
            if count == 0:
                raise KafkaUnavailable(
                    f"cannot find topic {topic}: check that it was not deleted, and "
                    "that we may read it"
                )
            found += [(topic, partition) for partition in range(count)]
        return found

    def offsets(
        self, partitions: Iterable[Partition], moment: int
    ) -> dict[Partition, int]:
        """Return each partition's first offset with a timestamp from `moment` on.

        `moment` is in milliseconds, or BEGINNING or END. The offset is negative if
        there is no such record. Uncommitted records count, too.

        Raises KafkaUnavailable.
        """
        action = "asking for offsets"
        # The protocol has BEGINNING and END as the moments -2 and -1.
        spec = OffsetSpec.for_timestamp(moment)
        found = offsets_of(partitions, spec, action, self._admin, self._clients)
        return {partition: result.offset for partition, result in found.items()}

    def bounds(
        self, partitions: Iterable[Partition]
    ) -> dict[Partition, tuple[int, int]]:
        """Return each partition's first offset, and the one after its last committed record.

        Asks with the consumer, so that `follow` can run for days afterwards: nothing would
        poll an AdminClient. Raises KafkaUnavailable.
        """
        action = "asking for offsets"
        found = {}
        for partition in partitions:
            with translating(action, self._clients):
                bounds: tuple[int, int] | None = self._consumer.get_watermark_offsets(
                    ck.TopicPartition(*partition), timeout=REQUEST_TIMEOUT_SECONDS
                )
            if bounds is None:
                raise KafkaUnavailable(f"{action}: no answer")
            found[partition] = bounds
        return found

    def read(
        self, starts: Mapping[Partition, int], ends: Mapping[Partition, int]
    ) -> Iterator[Record]:
        """Yield the committed records from each start to its end.

        Waits for the transactions that are open in between. Raises KafkaUnavailable,
        also if nothing comes for 90 s.
        """
        # Empty partitions have nothing to wait for.
        unfinished = set()
        for partition, start in starts.items():
            if start < ends[partition]:
                unfinished.add(partition)
        self._assign({partition: starts[partition] for partition in unfinished})
        progress_at = time.monotonic()
        while unfinished:
            for message in self._messages():
                progress_at = time.monotonic()
                partition = (str(message.topic()), int(message.partition() or 0))
                if int(message.offset() or 0) >= ends[partition]:
                    unfinished.discard(partition)
                elif message.error() is None:
                    yield _record(message)
            if time.monotonic() - progress_at > _STALLED_SECONDS:
                topic, number = min(unfinished)
                raise KafkaUnavailable(
                    f"reading {topic}-{number}: no record for {_STALLED_SECONDS} s; if "
                    "`check` names an open transaction there, end it"
                )

    def follow(
        self,
        starts: Mapping[Partition, int],
        stopped: Callable[[], bool],
        may_lose: Callable[[str, KafkaError], bool] | None = None,
    ) -> Iterator[Record | None]:
        """Yield all records from `starts` on until `stopped()`.

        Partitions that are added to the topics meanwhile are read from their beginning. If
        records are deleted before they are read, that is logged, and the next ones follow.
        Yields None if nothing came for 0.2 s.

        If a topic cannot be read, `may_lose` is called with its name and the error. If it
        returns True, the other topics are followed without this one. Otherwise, and without
        `may_lose`, raises KafkaUnavailable.
        """
        self._assign(starts)
        topics = {topic for topic, _ in starts}

        lost = set()

        def goes_on(message: ck.Message, error: ck.KafkaError) -> bool:
            topic = str(message.topic())
            # Each partition of a topic reports its own error.
            if topic in lost:
                return True
            if error.code() == _OFFSET_IS_GONE:
                self._skip_deleted(message)
                return True
            if topic not in topics or may_lose is None:
                return False
            if not may_lose(topic, self._translated(message, error)):
                return False
            lost.add(topic)
            topics.discard(topic)
            self._unassign(topic)
            return True

        looked_at = time.monotonic()
        while not stopped():
            if time.monotonic() - looked_at > _PARTITION_LOOK_SECONDS:
                self._follow_new_partitions(topics)
                looked_at = time.monotonic()
            messages = self._messages(goes_on)
            records = [_record(found) for found in messages if found.error() is None]
            yield from records
            if not records:
                yield None

    @cached_property
    def _admin(self) -> AdminClient:
        # Made on demand: `follow` runs for days, and nothing would poll this client.
        return new_client(AdminClient, self._clients.admin())

    def close(self) -> None:
        """Close the consumer."""
        self._consumer.close()

    def _assign(self, starts: Mapping[Partition, int]) -> None:
        assignment = []
        for (topic, partition), offset in starts.items():
            assignment.append(ck.TopicPartition(topic, partition, offset))
        self._consumer.assign(assignment)

    def _follow_new_partitions(self, topics: Iterable[str]) -> None:
        try:
            metadata = self._consumer.list_topics(timeout=_LOOK_TIMEOUT_SECONDS)
        except ck.KafkaException:
            # Kafka is away, which reading reports.
            return
        added = []
        for topic in topics:
            before = self.partitions[topic]
            # A topic that was deleted has no metadata.
            found = metadata.topics.get(topic)
            now = before if found is None else len(found.partitions)
            for partition in range(before, now):
                added.append(ck.TopicPartition(topic, partition, BEGINNING))
            self.partitions[topic] = max(before, now)
        if added:
            self._consumer.incremental_assign(added)

    def _skip_deleted(self, message: ck.Message) -> None:
        """Go on with the first record that is left in the partition of an error."""
        topic, partition = str(message.topic()), int(message.partition() or 0)
        fields = {"topic": topic, "partition": partition}
        _log.warning("records were deleted before they were read", extra=fields)
        begin = [ck.TopicPartition(topic, partition, BEGINNING)]
        self._consumer.incremental_unassign(begin)
        self._consumer.incremental_assign(begin)

    def _unassign(self, topic: str) -> None:
        assigned = self._consumer.assignment()
        lost = [partition for partition in assigned if partition.topic == topic]
        self._consumer.incremental_unassign(lost)

    def _translated(self, message: ck.Message, error: ck.KafkaError) -> KafkaError:
        """Return our error for that of a message."""
        return translate(error, f"reading {message.topic()}", self._clients.last_error)

    def _messages(
        self, goes_on: Callable[[ck.Message, ck.KafkaError], bool] | None = None
    ) -> list[ck.Message]:
        """Wait for a message, and return all that are there, ends of partitions too.

        `goes_on` is called with each error, and returns True if it is no reason to end.
        Otherwise raises KafkaUnavailable.
        """
        with translating("reading", self._clients):
            # `consume` alone would wait for as many messages as it may return.
            first = self._consumer.poll(_POLL_SECONDS)
            if first is None:
                self._clients.reachability.tick()
                return []
            messages = [first, *self._consumer.consume(_MAX_MESSAGES, timeout=0)]
        for message in messages:
            error = message.error()
            if error is None or error.code() == _END_OF_PARTITION:
                continue
            if goes_on is None or not goes_on(message, error):
                raise self._translated(message, error)
        self._clients.reachability.reached()
        return messages


def _record(message: ck.Message) -> Record:
    _, timestamp_ms = message.timestamp()
    return Record(
        str(message.topic()),
        int(message.partition() or 0),
        int(message.offset() or 0),
        bytes(message.key() or b""),
        bytes(message.value() or b""),
        timestamp_ms,
        headers_of(message),
    )
