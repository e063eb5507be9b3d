"""A shard's log: fence its previous owners, restore its state, publish exactly once.

Only the producer that last returned from `init_transactions` with the shard's
transactional id can commit to it (KIP-98, KIP-360). That producer restores the shard
afterwards, so its state is never stale. Safety rests on nothing else.
"""

from __future__ import annotations

import time
from contextlib import suppress
from math import isfinite
from typing import TYPE_CHECKING, Final

import confluent_kafka as ck

from connector.core.model import Event, State, Value
from connector.errors import KafkaUnavailable
from connector.kafka.errors import (
    kafka_error,
    retry_retriable,
    serve_callbacks,
    translating,
)
from connector.kafka.records import (
    GROUP_HEADER,
    SPENT_HEADER,
    WORKER_HEADER,
    RecordWriter,
)
from connector.kafka.restore import StateReader, Stray
from connector.kafka.transactional_producer import transactional_producer

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Sequence

    from connector.kafka.avro import Codec
    from connector.kafka.clients import Clients
    from connector.kafka.names import ShardId, Topics
    from connector.kafka.reader import KeptRecord, Reader

# Timeout of one librdkafka call. Retriable errors repeat it for up to _RETRY_SECONDS.
_CALL_SECONDS: Final = 10
_RETRY_SECONDS: Final = 30
# Short: if the abort fails, the next owner aborts the transaction.
_ABORT_SECONDS: Final = 5
# A broker's thread takes longer than this only while it resolves a name.
_FINISH_SECONDS: Final = 1
_FLUSH_SECONDS: Final = 0.1
_WRONG_STATE: Final = ck.KafkaError._STATE  # noqa: SLF001 -- librdkafka's name


class Transaction(Value, frozen=True):
    """Everything that one transaction writes.

    `events` are in order, and `states` has the last state of each symbol. `used_fraction`
    is the part of its budget (0 to 1) that this worker used within a minute. The worker
    that takes over the shard reads it.
    """

    events: Sequence[Event] = ()
    states: Sequence[State] = ()
    used_fraction: float = 0.0

    def __bool__(self) -> bool:
        return bool(self.events or self.states)


class Writer(Value, frozen=True):
    """The writer of a partition's last record, and the record's offset."""

    worker: str
    group: str
    offset: int


class Restored(Value, frozen=True):
    """The state of a shard, and the cost of reading it.

    `records` counts the records that were read, and `end` is the offset after the last.
    `writer` is the last writer, None if there are no records. `used_fraction` is the part
    of its budget that this writer had used within a minute, None if it is not known.
    `strays` are the records of other programs that were skipped. `recovered` has the
    symbols whose state is not the last record of their key: write it again.
    """

    states: dict[str, State]
    records: int
    seconds: float
    used_fraction: float | None = None
    writer: Writer | None = None
    end: int = 0
    strays: tuple[Stray, ...] = ()
    recovered: tuple[str, ...] = ()


class ShardLog:
    """The log of one shard, in a partition of `current` and in `changes`.

    After any error it must be opened again. Every call blocks. Make one call at a time,
    except for `abandon` and `waiting`.
    """

    def __init__(
        self,
        shard_id: ShardId,
        shard_count: int,
        *,
        topics: Topics,
        clients: Clients,
        reader: Reader,
        codec: Codec,
    ) -> None:
        self._shard_id = shard_id
        self._current = topics.current(shard_id.feed)
        self._clients = clients
        self._states = StateReader(
            shard_id, shard_count, topics=topics, reader=reader, codec=codec
        )
        self._writer = RecordWriter(shard_id, topics, codec)
        self._producer: ck.Producer | None = None
        # A topic's limit, `max.message.bytes`, is that of a batch. librdkafka does not know
        # it: a batch can be refused although each of its records is small enough.
        self._sends_batches = True
        self._abandoned = False

    @property
    def transactional_id(self) -> str:
        """Return the id that fences the other owners of this shard.

        It consists of the topic and the partition. With anything else in it, two fleets
        on the same topics would not fence each other.
        """
        return f"{self._current}-{self._shard_id.partition}"

    def open(self, symbols: Collection[str] = ()) -> Restored:
        """Fence the previous owners, then restore the states.

        The configured `symbols` continue from their last event if they have no state.

        Raises:
            KafkaUnavailable: try again later.
            ShardCorrupt: a connector wrote a record that this version cannot use.
        """
        self.abort()
        started_at = time.monotonic()

        # Fence the predecessors before reading the state that they left.
        producer = self._fence()
        found = self._states.read(symbols)

        self._producer = producer
        contents, last = found.contents, found.contents.last_written
        return Restored(
            found.states,
            contents.records,
            time.monotonic() - started_at,
            None if last is None else _fraction(last.headers.get(SPENT_HEADER)),
            None if last is None else _writer_of(last),
            contents.end,
            found.strays,
            found.recovered,
        )

    def publish(self, transaction: Transaction) -> None:
        """Commit all of a transaction, or nothing.

        After an error the outcome is unknown. Open the log again: the restored state
        tells.

        Raises:
            ShardFenced: another worker has opened the shard.
            Unpublishable: the broker refuses one of the records.
            TimeRefused: the broker refuses the time of one of them.
            KafkaUnavailable: anything else.
        """
        producer = self._producer
        if producer is None:
            raise KafkaUnavailable(f"shard {self._shard_id} is not open")
        action = f"publishing to shard {self._shard_id}"
        with translating(action):
            try:
                producer.begin_transaction()
                self._produce(producer, transaction)
                self._retry(lambda: producer.commit_transaction(_CALL_SECONDS))
            except BufferError as full:
                self.abort()
                raise KafkaUnavailable(f"{action}: {full}") from None
            except ck.KafkaException as exception:
                # Never go on after a successful abort: librdkafka may have acquired an
                # expired id again inside it.
                error = kafka_error(exception)
                if error.code() == ck.KafkaError.MSG_SIZE_TOO_LARGE:
                    self._sends_batches = False
                self.abort(fatal=error.fatal())
                raise
        self._clients.reachability.reached()

    def abandon(self) -> None:
        """Stop retrying the call in progress. Safe to call from any thread."""
        self._abandoned = True

    @property
    def waiting(self) -> int:
        """Return the number of records and requests that wait in the producer."""
        # Another thread may drop the producer meanwhile.
        producer = self._producer
        return 0 if producer is None else len(producer)

    def serve_callbacks(self) -> None:
        """Run the callbacks that wait in the producer. Call every second. Never raises."""
        producer = self._producer
        if producer is not None:
            serve_callbacks(producer)

    def abort(self, *, fatal: bool = False) -> None:
        """Abort the open transaction, if there is one, and drop the producer.

        After a `fatal` error nothing can be aborted. Never calls `Producer.close`, which
        has no time-out: with a stopped broker it hung.
        """
        producer, self._producer = self._producer, None
        if producer is None:
            return
        if not fatal:
            # If the broker does not answer, the next owner aborts the transaction.
            with suppress(ck.KafkaException):
                producer.abort_transaction(_ABORT_SECONDS)
        _finish_requests(producer)

    def _fence(self) -> ck.Producer:
        """Return a producer that has fenced all others of this shard."""
        settings = self._clients.producer(
            self.transactional_id, in_batches=self._sends_batches
        )
        producer = transactional_producer(settings, self._current)
        with translating(f"opening shard {self._shard_id}", self._clients):
            self._retry(lambda: producer.init_transactions(_CALL_SECONDS))
        self._clients.reachability.reached()
        return producer

    def _produce(self, producer: ck.Producer, transaction: Transaction) -> None:
        for record in self._writer.records(transaction):
            try:
                producer.produce(
                    record.topic,
                    record.value,
                    record.key,
                    partition=record.partition,
                    timestamp=record.timestamp_ms,
                    headers=record.headers,
                )
            except ck.KafkaException as exception:
                # The brokers have refused an earlier record already. Only the commit, which
                # fails, tells the reason.
                if kafka_error(exception).code() == _WRONG_STATE:
                    producer.commit_transaction(_CALL_SECONDS)
                raise

    def _retry(self, call: Callable[[], None]) -> None:
        retry_retriable(call, _RETRY_SECONDS, lambda: self._abandoned)


def _finish_requests(producer: ck.Producer) -> None:
    """Wait until a producer waits for no broker, so that it can be destroyed.

    A fenced producer that wrote to two brokers is refused by both. If the second refusal
    comes while the producer is destroyed, librdkafka 2.16 frees the text of the first one
    twice (`rd_kafka_txns_term`), which ends the process.
    """
    deadline = time.monotonic() + _FINISH_SECONDS
    with suppress(ck.KafkaException):
        producer.purge(in_queue=True, in_flight=True, blocking=False)
    while len(producer) and time.monotonic() < deadline:
        # It raises the fatal error once, and then goes on.
        with suppress(ck.KafkaException):
            producer.flush(_FLUSH_SECONDS)


def _writer_of(record: KeptRecord) -> Writer:
    worker = _text(record.headers.get(WORKER_HEADER))
    group = _text(record.headers.get(GROUP_HEADER))
    return Writer(worker, group, record.offset)


def _text(header: str | bytes | None) -> str:
    if isinstance(header, bytes):
        return header.decode(errors="replace")
    return header or "unknown"


def _fraction(header: str | bytes | None) -> float | None:
    """Return the number in a header, clamped to 0..1, or None if it holds no number."""
    if header is None:
        return None
    try:
        value = float(header)
    except ValueError:
        return None
    if not isfinite(value):
        return None
    return min(max(value, 0.0), 1.0)
