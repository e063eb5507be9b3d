"""Reads one partition from its beginning to its end, for restoring a shard."""

from __future__ import annotations

import logging
import threading
import time
from collections import defaultdict, deque
from typing import TYPE_CHECKING, Final

import confluent_kafka as ck

from connector.core.model import Value
from connector.errors import KafkaUnavailable
from connector.kafka.errors import kafka_error, new_client, translate

if TYPE_CHECKING:
    from connector.kafka.clients import Clients

_log = logging.getLogger(__name__)

_TIMEOUT_SECONDS: Final = 10
_STALLED_SECONDS: Final = 30
_REPORT_SECONDS: Final = 5
_AT_ONCE: Final = 10_000
_TURN_SECONDS: Final = 0.05
"""`consume` waits for all it was asked for until its time-out, however much there is already."""

_KEPT_VALUES: Final = 16
"""Of each key: refreshes enough to know a rhythm by."""


class Contents(Value, frozen=True):
    """The last values of each key (at most 16, oldest first), how many records were read, and the offset of the end.

    `headers`: of the last record, which is at offset `last`; -1 where there is none.
    """

    recent: dict[bytes, deque[bytes]]
    records: int
    end: int
    headers: dict[str, str | bytes | None]
    last: int

    @property
    def values(self) -> dict[bytes, bytes]:
        """The last value of each key, which is the one that counts."""
        return {key: values[-1] for key, values in self.recent.items()}


class Reader:
    """Two long-lived consumers, since the first use of one costs half a second; safe for concurrent use.

    The high watermark is asked by a read_uncommitted one: a read_committed one answers with the last stable offset.
    """

    def __init__(self, clients: Clients) -> None:
        self._lock = threading.Lock()
        self._clients = clients
        self._committed = new_client(ck.Consumer, clients.reader("read_committed"))
        self._uncommitted = new_client(ck.Consumer, clients.reader("read_uncommitted"))

    def high_watermark(self, topic: str, partition: int) -> int:
        """The offset behind the last record, committed or not. Raises `KafkaUnavailable`."""
        try:
            return self._end_of(topic, partition)
        except ck.KafkaException as exception:
            raise translate(
                kafka_error(exception), f"asking for the end of {topic}-{partition}"
            ) from None

    def contents(self, topic: str, partition: int, high: int) -> Contents:
        """Every committed record up to the end; a tombstone clears its key. Raises `KafkaUnavailable`."""
        return self._from(ck.OFFSET_BEGINNING, topic, partition, high)

    def warm_up(self, topic: str) -> None:
        """Have the slow first use of both consumers now. Raises `KafkaUnavailable`."""
        self._from(ck.OFFSET_END, topic, 0, self.high_watermark(topic, 0))

    def serve_callbacks(self) -> None:
        """Hand out what the clients have to say; call now and then."""
        if self._lock.acquire(blocking=False):
            try:
                self._committed.poll(0)
                self._uncommitted.poll(0)
            finally:
                self._lock.release()

    def close(self) -> None:
        """Let go of both."""
        with self._lock:
            self._committed.close()
            self._uncommitted.close()

    def _end_of(self, topic: str, partition: int, *, again: bool = True) -> int:
        place = ck.TopicPartition(topic, partition)
        try:
            offsets = self._uncommitted.get_watermark_offsets(
                place, timeout=_TIMEOUT_SECONDS, cached=False
            )
        except ck.KafkaException as exception:
            unknown = ck.KafkaError._UNKNOWN_PARTITION  # noqa: SLF001 -- librdkafka's name
            if not again or kafka_error(exception).code() != unknown:
                raise
            # What it keeps of the topic can lack partitions for minutes after brokers were away: ask anew.
            self._uncommitted.list_topics(topic, timeout=_TIMEOUT_SECONDS)
            return self._end_of(topic, partition, again=False)
        if offsets is None:
            raise KafkaUnavailable(
                f"asking for the end of {topic}-{partition}: no answer"
            )
        return int(offsets[1])

    def _from(self, offset: int, topic: str, partition: int, high: int) -> Contents:
        with self._lock:
            try:
                self._committed.assign([ck.TopicPartition(topic, partition, offset)])
                return self._read(topic, partition, high)
            except ck.KafkaException as exception:
                raise translate(
                    kafka_error(exception), f"reading {topic}-{partition}"
                ) from None
            finally:
                self._committed.unassign()

    def _read(self, topic: str, partition: int, high: int) -> Contents:
        recent: dict[bytes, deque[bytes]] = defaultdict(
            lambda: deque(maxlen=_KEPT_VALUES)
        )
        records, place = 0, f"{topic}-{partition}"
        last: ck.Message | None = None
        progress_at = reported_at = time.monotonic()
        while True:
            messages = self._committed.consume(_AT_ONCE, timeout=_TURN_SECONDS)
            now = time.monotonic()
            for message in messages:
                if (error := message.error()) is not None:
                    if error.code() != ck.KafkaError._PARTITION_EOF:  # noqa: SLF001 -- librdkafka's own
                        raise translate(error, f"reading {place}")
                    headers, at = (
                        ({}, -1)
                        if last is None
                        else (dict(last.headers() or {}), last.offset() or 0)
                    )
                    return Contents(recent, records, message.offset() or 0, headers, at)
                records += 1
                last = message
                key, value = message.key() or b"", message.value()
                if value is None:
                    recent.pop(bytes(key), None)
                else:
                    recent[bytes(key)].append(bytes(value))
            progress_at = now if messages else progress_at
            if now - progress_at > _STALLED_SECONDS:
                raise KafkaUnavailable(
                    f"reading {place}: nothing came for {_STALLED_SECONDS} s"
                )
            if now - reported_at > _REPORT_SECONDS:
                reported_at = now
                _log.info(
                    "restoring",
                    extra={"partition": place, "records": records, "of_about": high},
                )
