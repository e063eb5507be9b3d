"""Reads a partition from its beginning to its end, to restore a shard."""

from __future__ import annotations

import logging
import threading
import time
from typing import TYPE_CHECKING, Final

import confluent_kafka as ck

from connector.core.model import Value
from connector.errors import KafkaUnavailable
from connector.kafka.errors import (
    kafka_error,
    new_client,
    serve_callbacks,
    translate,
    translating,
)

if TYPE_CHECKING:
    from connector.kafka.clients import Clients

_log = logging.getLogger(__name__)

_REQUEST_TIMEOUT_SECONDS: Final = 10
# Without a record for this long, the restore fails and is tried again.
_STALLED_SECONDS: Final = 30
_REPORT_SECONDS: Final = 5
_MAX_MESSAGES: Final = 10_000
# `consume` always waits this long, unless it gets all the messages it may return.
_CONSUME_SECONDS: Final = 0.05

_END_OF_PARTITION: Final = ck.KafkaError._PARTITION_EOF  # noqa: SLF001 -- librdkafka's name
_UNKNOWN_PARTITION: Final = ck.KafkaError._UNKNOWN_PARTITION  # noqa: SLF001 -- librdkafka's name


class Contents(Value, frozen=True):
    """The committed records of a partition.

    `values` has the last value of each key, `records` counts all records, and `end` is
    the offset of the end. `last_offset` and `last_headers` are those of the last record;
    -1 and empty if there is none.
    """

    values: dict[bytes, bytes]
    records: int
    end: int
    last_offset: int
    last_headers: dict[str, str | bytes | None]


class Reader:
    """Two long-lived consumers, because the first use of one takes half a second.

    The read_uncommitted one tells the high watermark. A read_committed one would answer
    with the last stable offset instead. Safe for concurrent use.
    """

    def __init__(self, clients: Clients) -> None:
        self._committed_lock = threading.Lock()
        self._committed = new_client(ck.Consumer, clients.reader("read_committed"))
        self._uncommitted = new_client(ck.Consumer, clients.reader("read_uncommitted"))

    def high_watermark(self, topic: str, partition: int) -> int:
        """Return the offset after the last record, committed or not.

        Raises KafkaUnavailable.
        """
        action = f"asking for the end of {topic}-{partition}"
        with translating(action):
            try:
                offsets = self._watermarks(topic, partition)
            except ck.KafkaException as exception:
                if kafka_error(exception).code() != _UNKNOWN_PARTITION:
                    raise
                # After an outage librdkafka's metadata can lack partitions for minutes.
                self._uncommitted.list_topics(topic, timeout=_REQUEST_TIMEOUT_SECONDS)
                offsets = self._watermarks(topic, partition)
        if offsets is None:
            raise KafkaUnavailable(f"{action}: no answer")
        return int(offsets[1])

    def contents(self, topic: str, partition: int, high_watermark: int) -> Contents:
        """Read every committed record. A tombstone removes its key.

        `high_watermark` is for the progress that is logged. Raises KafkaUnavailable.
        """
        return self._read_from(ck.OFFSET_BEGINNING, topic, partition, high_watermark)

    def warm_up(self, topic: str) -> None:
        """Make the slow first use of both consumers. Raises KafkaUnavailable."""
        high_watermark = self.high_watermark(topic, 0)
        self._read_from(ck.OFFSET_END, topic, 0, high_watermark)

    def serve_callbacks(self) -> None:
        """Run the callbacks that wait in the consumers. Call every few seconds."""
        # While a restore holds the lock, its calls run the callbacks.
        if self._committed_lock.acquire(blocking=False):
            try:
                serve_callbacks(self._committed, self._uncommitted)
            finally:
                self._committed_lock.release()

    def close(self) -> None:
        """Close both consumers."""
        with self._committed_lock:
            self._committed.close()
            self._uncommitted.close()

    def _watermarks(self, topic: str, partition: int) -> tuple[int, int] | None:
        return self._uncommitted.get_watermark_offsets(
            ck.TopicPartition(topic, partition),
            timeout=_REQUEST_TIMEOUT_SECONDS,
            cached=False,
        )

    def _read_from(
        self, offset: int, topic: str, partition: int, high_watermark: int
    ) -> Contents:
        name = f"{topic}-{partition}"
        with self._committed_lock, translating(f"reading {name}"):
            try:
                self._committed.assign([ck.TopicPartition(topic, partition, offset)])
                return self._read_to_end(name, high_watermark)
            finally:
                self._committed.unassign()

    def _read_to_end(self, name: str, high_watermark: int) -> Contents:
        values: dict[bytes, bytes] = {}
        records = 0
        last: ck.Message | None = None
        progress_at = reported_at = time.monotonic()
        while True:
            messages = self._committed.consume(_MAX_MESSAGES, timeout=_CONSUME_SECONDS)
            for message in messages:
                error = message.error()
                if error is None:
                    records += 1
                    last = message
                    _apply(message, values)
                elif error.code() == _END_OF_PARTITION:
                    # `position()` would stop at the last record: commit markers have
                    # offsets, too.
                    return _contents(values, records, message.offset() or 0, last)
                else:
                    raise translate(error, f"reading {name}")

            now = time.monotonic()
            if messages:
                progress_at = now
            if now - progress_at > _STALLED_SECONDS:
                raise KafkaUnavailable(
                    f"reading {name}: no record for {_STALLED_SECONDS} s"
                )
            if now - reported_at > _REPORT_SECONDS:
                reported_at = now
                progress = {
                    "partition": name,
                    "records": records,
                    "of_about": high_watermark,
                }
                _log.info("restoring", extra=progress)


def _apply(message: ck.Message, values: dict[bytes, bytes]) -> None:
    key = bytes(message.key() or b"")
    value = message.value()
    if value is None:
        values.pop(key, None)
    else:
        values[key] = bytes(value)


def _contents(
    values: dict[bytes, bytes], records: int, end: int, last: ck.Message | None
) -> Contents:
    if last is None:
        return Contents(values, records, end, -1, {})
    headers = dict(last.headers() or {})
    return Contents(values, records, end, last.offset() or 0, headers)
