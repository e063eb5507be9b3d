"""Reads partitions for several threads at once, with one consumer.

The first use of a consumer takes half a second, and reading one partition after another
would let a take-over grow with the number of shards. So all threads that wait for records
share a consumer: whichever holds the lock takes a turn for all of them.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import defaultdict, deque
from contextlib import suppress
from typing import TYPE_CHECKING, Final

import confluent_kafka as ck

from connector.errors import ConnectorError, KafkaUnavailable
from connector.kafka.errors import kafka_error, serve_callbacks, translate

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from connector.kafka.names import Partition

_log = logging.getLogger(__name__)

# For the metadata of the topics, which a broker answers in milliseconds.
_METADATA_SECONDS: Final = 1
# Without a record for this long, a read fails. Whoever needs it tries again.
_STALLED_SECONDS: Final = 30
_REPORT_SECONDS: Final = 5
_MAX_MESSAGES: Final = 10_000
# A read that comes meanwhile waits for the end of the turn.
_TURN_SECONDS: Final = 0.05

_END_OF_PARTITION: Final = ck.KafkaError._PARTITION_EOF  # noqa: SLF001 -- librdkafka's name


class SharedConsumer:
    """A consumer for reads of several threads. No group assigns it anything."""

    def __init__(self, consumer: ck.Consumer) -> None:
        self.consumer = consumer
        self._lock = threading.Lock()
        # Not under the lock: a thread that takes many turns would starve the others.
        self._waiting: deque[_Read] = deque()
        # Under the lock, as everything that reads.
        self._reads: dict[Partition, _Read] = {}

    def read(
        self,
        starts: Mapping[Partition, int],
        ends: Mapping[Partition, int],
        add: Callable[[list[ck.Message]], None],
        records_expected: int,
    ) -> int:
        """Read partitions, and return the offset of the end that was reported last.

        `add` is called with the records in order per partition, perhaps from another
        thread that reads. Without an entry in `ends`, a partition ends before its first
        open transaction. Raises KafkaUnavailable, and the errors of `add`.
        """
        read = _Read(starts, ends, add, records_expected)
        self._waiting.append(read)
        while not read.is_done:
            with self._lock:
                # The turn of another thread may have finished it.
                if not read.is_done:
                    self._take_turn()
        return read.result()

    def serve_callbacks(self) -> None:
        """Run the callbacks that wait in the consumer, unless it is in use."""
        # While something is read, that runs the callbacks.
        if self._lock.acquire(blocking=False):
            try:
                serve_callbacks(self.consumer)
            finally:
                self._lock.release()

    def close(self) -> None:
        """Close the consumer."""
        with self._lock:
            self.consumer.close()

    def _take_turn(self) -> None:
        """Take whatever has come, for every read."""
        try:
            self._begin_waiting()
            # Wait for one message, and take all that came with it: a call for many would
            # always wait until its time is over.
            messages = self.consumer.consume(1, timeout=_TURN_SECONDS)
            messages += self.consumer.consume(_MAX_MESSAGES, timeout=0)
            self._deliver(messages)
            self._end_done()
        except ck.KafkaException as exception:
            error = kafka_error(exception)
            for read in {*self._reads.values(), *self._waiting}:
                read.fail(error)
            self._waiting.clear()
            self._reads.clear()
            self.consumer.unassign()

    def _begin_waiting(self) -> None:
        """Begin the reads that wait, unless another one reads the same partition."""
        assignment = []
        for _ in range(len(self._waiting)):
            read = self._waiting.popleft()
            if read.starts.keys() & self._reads.keys():
                self._waiting.append(read)
                continue
            read.begin()
            for (topic, number), offset in read.starts.items():
                self._reads[topic, number] = read
                assignment.append(ck.TopicPartition(topic, number, offset))
        if assignment:
            self._learn_leaders(assignment)
            self.consumer.incremental_assign(assignment)

    def _learn_leaders(self, partitions: Sequence[ck.TopicPartition]) -> None:
        """Let librdkafka learn the leaders of partitions by one request for all.

        Otherwise it would look for those of a new topic only a second later, and once more
        for each topic that comes after that.
        """
        ends = []
        for partition in partitions:
            ends.append(
                ck.TopicPartition(partition.topic, partition.partition, ck.OFFSET_END)
            )
        # Without an answer, the read is late or fails by itself, with a better reason.
        with suppress(ck.KafkaException):
            self.consumer.offsets_for_times(ends, timeout=_METADATA_SECONDS)

    def _deliver(self, messages: list[ck.Message]) -> None:
        """Hand each message to the read of its partition."""
        received: dict[_Read, list[ck.Message]] = defaultdict(list)
        for message in messages:
            read = self._reads.get((str(message.topic()), message.partition() or 0))
            if read is not None:
                received[read].append(message)
                continue
            error = message.error()
            if message.topic() is None and error is not None:
                # It is about the consumer, and so about everything that is read.
                raise ck.KafkaException(error)
        for read in set(self._reads.values()):
            read.take(received[read])

    def _end_done(self) -> None:
        """Stop reading the partitions of reads that are done."""
        done = []
        for (topic, number), read in list(self._reads.items()):
            if read.is_done:
                done.append(ck.TopicPartition(topic, number))
                del self._reads[topic, number]
        if not self._reads:
            self.consumer.unassign()
        elif done:
            self.consumer.incremental_unassign(done)


class _Read:
    """Partitions that are read for one thread, and the outcome."""

    def __init__(
        self,
        starts: Mapping[Partition, int],
        ends: Mapping[Partition, int],
        add: Callable[[list[ck.Message]], None],
        records_expected: int,
    ) -> None:
        self.starts = starts
        self.names = ", ".join(f"{topic}-{number}" for topic, number in starts)
        self.is_done = False
        self._ends = ends
        self._add = add
        self._unfinished = set(starts)
        self._records_expected = records_expected
        self._progress = _Progress(self.names, records_expected)
        self._end = 0
        self._error: ConnectorError | None = None

    def begin(self) -> None:
        """Begin to measure the progress: a read may have waited for another one."""
        self._progress = _Progress(self.names, self._records_expected)

    def result(self) -> int:
        """Return the offset of the end that was reported last. Raises its error."""
        if self._error is not None:
            raise self._error
        return self._end

    def fail(self, error: ck.KafkaError) -> None:
        """End the read by an error."""
        self._error = translate(error, f"reading {self.names}")
        self.is_done = True

    def take(self, messages: Sequence[ck.Message]) -> None:
        """Take messages of the read's partitions, also if none have come."""
        try:
            records = self._records(messages)
            self._add(records)
            if self._unfinished:
                self._progress.note(len(records))
            else:
                self.is_done = True
        except ConnectorError as error:
            # Of this read only. Its own thread raises it.
            self._error = error
            self.is_done = True

    def _records(self, messages: Sequence[ck.Message]) -> list[ck.Message]:
        """Return the records before the ends, and note which partitions end."""
        records = []
        for message in messages:
            error = message.error()
            if error is None and not self._is_after_end(message):
                records.append(message)
                continue
            if error is not None and error.code() != _END_OF_PARTITION:
                raise translate(error, f"reading {self.names}")
            # `position()` would stop at the last record: commit markers have offsets, too.
            self._end = message.offset() or 0
            partition = (str(message.topic()), message.partition() or 0)
            # The end is reported again when an open transaction has ended. In a busy
            # partition it may never be reported, but later records come.
            if self._end >= self._ends.get(partition, 0):
                self._unfinished.discard(partition)
            if not self._unfinished:
                break
        return records

    def _is_after_end(self, message: ck.Message) -> bool:
        """Return True if a record is not wanted, because it came later than the end."""
        if not self._ends:
            return False
        end = self._ends.get((str(message.topic()), message.partition() or 0))
        return end is not None and (message.offset() or 0) >= end


class _Progress:
    """Logs the progress of a long read, and ends one that stalls."""

    def __init__(self, names: str, records_expected: int) -> None:
        self._names = names
        self._records_expected = records_expected
        self._records = 0
        self._progress_at = self._reported_at = time.monotonic()

    def note(self, records: int) -> None:
        """Note that records were read. Raises KafkaUnavailable after a long pause."""
        self._records += records
        now = time.monotonic()
        if records:
            self._progress_at = now
        if now - self._progress_at > _STALLED_SECONDS:
            raise KafkaUnavailable(
                f"reading {self._names}: no record for {_STALLED_SECONDS} s; if `check` "
                "names an open transaction there, end it"
            )
        if now - self._reported_at > _REPORT_SECONDS:
            self._reported_at = now
            progress = {
                "partition": self._names,
                "records": self._records,
                "of_about": self._records_expected,
            }
            _log.info("restoring", extra=progress)
