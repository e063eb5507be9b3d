"""Reads a partition from its beginning to its end, to restore a shard."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import confluent_kafka as ck

from connector.core.model import Value
from connector.errors import KafkaUnavailable
from connector.kafka.admin import size_of
from connector.kafka.errors import (
    kafka_error,
    new_client,
    serve_callbacks,
    translate,
    translating,
)
from connector.kafka.headers import headers_of
from connector.kafka.records import is_ours
from connector.kafka.shared_consumer import SharedConsumer

if TYPE_CHECKING:
    from collections.abc import Callable, Container, Iterable, Mapping

    from connector.kafka.admin import TopicSize
    from connector.kafka.clients import Clients
    from connector.kafka.names import Partition

_REQUEST_TIMEOUT_SECONDS: Final = 10
# Brokers answer in milliseconds. A NAT may have forgotten a connection that was idle: the
# request that times out closes it.
_FIRST_ANSWER_SECONDS: Final = 1
_TIMED_OUT: Final = ck.KafkaError._TIMED_OUT  # noqa: SLF001 -- librdkafka's name
_UNKNOWN_PARTITION: Final = ck.KafkaError._UNKNOWN_PARTITION  # noqa: SLF001 -- librdkafka's name


class KeptRecord(Value, frozen=True):
    """A record as it is kept while a partition is read. A tombstone's value is None."""

    key: bytes
    value: bytes | None
    partition: int
    offset: int
    headers: dict[str, str | bytes | None]

    @property
    def is_ours(self) -> bool:
        """Return True if a connector wrote the record, of whatever version."""
        return is_ours(self.headers)


class Contents(Value, frozen=True):
    """The committed records of a partition.

    `latest` has the last record of each key, tombstones too. `repeated` has the keys of
    several records, `records` counts all records, and `end` is the offset of the end.
    `last_written` is the last record that a connector wrote, None if there is none.
    """

    latest: dict[bytes, KeptRecord]
    repeated: frozenset[bytes]
    records: int
    end: int
    last_written: KeptRecord | None


class Reader:
    """Two long-lived consumers, because the first use of one takes half a second.

    The read_uncommitted one tells the high watermark. A read_committed one would answer
    with the last stable offset instead. Safe for concurrent use.
    """

    def __init__(self, clients: Clients) -> None:
        committed = new_client(ck.Consumer, clients.reader("read_committed"))
        self._committed = SharedConsumer(committed)
        self._uncommitted = new_client(ck.Consumer, clients.reader("read_uncommitted"))

    def high_watermark(self, topic: str, partition: int) -> int:
        """Return the offset after the last record, committed or not.

        Raises KafkaUnavailable.
        """
        return _end(self._uncommitted, topic, partition)

    def last_stable_offset(self, topic: str, partition: int) -> int:
        """Return the offset before which every transaction has ended.

        Raises KafkaUnavailable.
        """
        # Needs no turn: nothing is assigned or read.
        return _end(self._committed.consumer, topic, partition)

    def ends(self, topic: str, partitions: Iterable[int]) -> dict[Partition, int]:
        """Return the high watermark of each partition that has records.

        Raises KafkaUnavailable.
        """
        found = {}
        for partition in partitions:
            end = self.high_watermark(topic, partition)
            if end > 0:
                found[topic, partition] = end
        return found

    def partition_count(self, topic: str) -> int:
        """Return the number of partitions of a topic, 0 if there is no such topic.

        Raises KafkaUnavailable.
        """
        size = self.size(topic)
        return 0 if size is None else size.partitions

    def size(self, topic: str) -> TopicSize | None:
        """Return the size of a topic, None if there is no such topic.

        Raises KafkaUnavailable.
        """
        action = f"asking for the partitions of {topic}"
        with translating(action):
            metadata = self._uncommitted.list_topics(
                topic, timeout=_REQUEST_TIMEOUT_SECONDS
            )
        found = metadata.topics[topic]
        # Without the right to describe a topic, it seems to have no partitions.
        error = found.error
        if error is not None and error.code() != ck.KafkaError.UNKNOWN_TOPIC_OR_PART:
            raise translate(error, action)
        return size_of(found)

    def topics(self) -> dict[str, int]:
        """Return the number of partitions of every topic. Raises KafkaUnavailable."""
        with translating("listing topics"):
            metadata = self._uncommitted.list_topics(timeout=_REQUEST_TIMEOUT_SECONDS)
        return {name: len(topic.partitions) for name, topic in metadata.topics.items()}

    def contents(self, topic: str, partition: int, high_watermark: int) -> Contents:
        """Read the committed records of a partition up to its present end.

        `high_watermark` is for the progress that is logged. Raises KafkaUnavailable.
        """
        collected = _Collected()
        start = {(topic, partition): ck.OFFSET_BEGINNING}
        end = self._committed.read(start, {}, collected.add, high_watermark)
        return collected.contents(end)

    def records_of(
        self,
        keys: Container[bytes],
        ends: Mapping[Partition, int],
        take: Callable[[KeptRecord], None],
    ) -> None:
        """Call `take` with each committed record of some keys, in order per partition.

        Each partition is read up to its end in `ends`. Waits for the transactions that
        are open before it. Raises KafkaUnavailable if they stay open, even if records
        come in other partitions meanwhile.
        """

        def add(messages: list[ck.Message]) -> None:
            for message in messages:
                if message.key() in keys:
                    take(_kept(message))

        starts = dict.fromkeys(ends, ck.OFFSET_BEGINNING)
        self._committed.read(starts, ends, add, sum(ends.values()))

    def warm_up(self, topic: str) -> None:
        """Make the slow first use of both consumers. Raises KafkaUnavailable."""
        high_watermark = self.high_watermark(topic, 0)
        start = {(topic, 0): ck.OFFSET_END}
        self._committed.read(start, {}, _Collected().add, high_watermark)

    def serve_callbacks(self) -> None:
        """Run the callbacks that wait in the consumers. Call every few seconds.

        Blocks while another thread waits for an answer to the read_uncommitted one.
        """
        self._committed.serve_callbacks()
        serve_callbacks(self._uncommitted)

    def close(self) -> None:
        """Close both consumers."""
        self._committed.close()
        self._uncommitted.close()


class _Collected:
    """The records of one partition while it is read."""

    def __init__(self) -> None:
        self._latest: dict[bytes, ck.Message] = {}
        self._repeated: set[bytes] = set()
        self._last_written: KeptRecord | None = None
        self._records = 0

    def add(self, messages: list[ck.Message]) -> None:
        """Keep the last message of each key."""
        self._records += len(messages)
        for message in messages:
            key = bytes(message.key() or b"")
            if key in self._latest:
                self._repeated.add(key)
            self._latest[key] = message

        # Reading headers is slow. The last record of a batch is nearly always ours.
        for message in reversed(messages):
            record = _kept(message)
            if record.is_ours:
                self._last_written = record
                return

    def contents(self, end: int) -> Contents:
        """Return everything collected. `end` is the offset of the partition's end."""
        latest = {key: _kept(message) for key, message in self._latest.items()}
        return Contents(
            latest, frozenset(self._repeated), self._records, end, self._last_written
        )


def _end(consumer: ck.Consumer, topic: str, partition: int) -> int:
    """Return the offset up to which a consumer can read. Raises KafkaUnavailable."""
    action = f"asking for the end of {topic}-{partition}"
    with translating(action):
        try:
            offsets = _watermarks(consumer, topic, partition, _FIRST_ANSWER_SECONDS)
        except ck.KafkaException as exception:
            code = kafka_error(exception).code()
            if code not in {_TIMED_OUT, _UNKNOWN_PARTITION}:
                raise
            if code == _UNKNOWN_PARTITION:
                # After an outage librdkafka's metadata can lack partitions for minutes.
                consumer.list_topics(topic, timeout=_REQUEST_TIMEOUT_SECONDS)
            offsets = _watermarks(consumer, topic, partition, _REQUEST_TIMEOUT_SECONDS)
    if offsets is None:
        raise KafkaUnavailable(f"{action}: no answer")
    return int(offsets[1])


def _watermarks(
    consumer: ck.Consumer, topic: str, partition: int, timeout_seconds: float
) -> tuple[int, int] | None:
    return consumer.get_watermark_offsets(
        ck.TopicPartition(topic, partition),
        timeout=timeout_seconds,
        cached=False,
    )


def _kept(message: ck.Message) -> KeptRecord:
    value = message.value()
    return KeptRecord(
        bytes(message.key() or b""),
        None if value is None else bytes(value),
        message.partition() or 0,
        message.offset() or 0,
        headers_of(message),
    )
