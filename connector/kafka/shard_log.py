"""One shard's log: fence the predecessors, restore what they left, publish exactly once.

Whoever last returned from `init_transactions` for a shard's transactional id is the only one who can commit to it,
and it restored afterwards: safety rests on that alone (KIP-98, KIP-360). Everything here blocks; one call at a time.
"""

from __future__ import annotations

import time
from contextlib import suppress
from datetime import UTC, datetime
from functools import lru_cache
from typing import TYPE_CHECKING, Final

import confluent_kafka as ck
import msgspec

from connector.core.model import MICROS, Event, State, Value
from connector.errors import KafkaUnavailable, SetupError, ShardCorrupt
from connector.kafka.errors import kafka_error, new_client, retry_retriable, translate
from connector.kafka.names import partition_of

if TYPE_CHECKING:
    from collections.abc import Sequence

    from connector.kafka.avro import Codec
    from connector.kafka.clients import Clients
    from connector.kafka.names import ShardId, Topics
    from connector.kafka.reader import Contents, Reader

_CALL_SECONDS: Final = 10
_RETRY_SECONDS: Final = 30
_ABORT_SECONDS: Final = 5
_MAX_QUARANTINED_BYTES: Final = 64 * 1024

_SPENT: Final = "spent"
"""The header of `current` that says which part of its budget its writer had used within a minute."""

Headers = list[tuple[str, str | bytes | None]]


class Quarantined(Value, frozen=True):
    """An entry that could not be used: whose it is, the bytes as they came, and what is wrong."""

    symbol: str
    raw: bytes
    reason: str
    message: str
    observed_at: int
    request_id: str | None


class Transaction(Value, frozen=True):
    """What one transaction writes: events in order, the last state of each symbol, and what could not be used.

    `spent`: the part of its budget that this worker has used within a minute, 0 to 1, for whoever takes over.
    """

    events: Sequence[Event] = ()
    states: Sequence[State] = ()
    quarantined: Sequence[Quarantined] = ()
    spent: float = 0.0

    def __bool__(self) -> bool:
        return bool(self.events or self.states or self.quarantined)


class Writer(Value, frozen=True):
    """Who wrote a partition's last record, as its headers say, and the record's offset."""

    worker: str
    group: str
    offset: int


class Restored(Value, frozen=True):
    """What the shard's partition of `current` says, and what it took to read it.

    `history`: for each symbol in `states` the distinct `computed_at` of its last records, 16 at most, that compaction
    has left, ascending; the state's own is among them. Empty where no record had one. `writer`: the worker that wrote
    last and its group, None where nobody did. `spent`: the part of its budget that it had used within a minute;
    None where it did not say.
    """

    states: dict[str, State]
    records: int
    seconds: float
    history: dict[str, tuple[int, ...]] = msgspec.field(default_factory=dict)
    spent: float | None = None
    writer: Writer | None = None
    end: int = 0
    """The offset at which the partition ended."""


def _text(header: str | bytes | None) -> str:
    return (
        header.decode(errors="replace")
        if isinstance(header, bytes)
        else header or "unknown"
    )


def _part(header: str | bytes | None) -> float | None:
    with suppress(ValueError):
        return min(max(float(header or "none"), 0.0), 1.0)
    return None


@lru_cache(maxsize=8)
def _iso(at: int) -> str:
    """All records of a response have the same moment."""
    return datetime.fromtimestamp(at / MICROS, UTC).isoformat()


class ShardLog:
    """The records of one shard. After any error it must be opened again: nothing it knew before counts."""

    def __init__(
        self,
        shard: ShardId,
        shards: int,
        topics: Topics,
        tools: tuple[Clients, Reader, Codec],
    ) -> None:
        self._shard = shard
        self._shards = shards
        self._topics = topics
        self._current = topics.current(shard.feed)
        self._clients, self._reader, self._codec = tools
        self._producer: ck.Producer | None = None
        self._abandoned = False

    @property
    def transactional_id(self) -> str:
        """Made of topic and partition only: whatever else were in it, two of them would not fence each other."""
        return f"{self._current}-{self._shard.partition}"

    def open(self) -> Restored:
        """Fence, then restore.

        Raises:
            KafkaUnavailable: try again later.
            ShardCorrupt: what is there cannot be ours.
        """
        self.drop()
        started_at = time.monotonic()
        try:
            producer = new_client(
                ck.Producer, self._clients.producer(self.transactional_id)
            )
            retry_retriable(
                lambda: producer.init_transactions(_CALL_SECONDS),
                _RETRY_SECONDS,
                self._is_abandoned,
            )
        except ck.KafkaException as exception:
            raise translate(
                kafka_error(exception),
                f"opening shard {self._shard}",
                self._clients.last_error,
            ) from None
        high = self._reader.high_watermark(self._current, self._shard.partition)
        contents = self._reader.contents(self._current, self._shard.partition, high)
        if contents.end < high:
            raise KafkaUnavailable(
                f"{self.transactional_id} ends at {contents.end} for readers of committed records, but at {high} for "
                "others: some program writes to it in a transaction of another id; stop that one"
            )
        states = {
            key.decode(errors="replace"): self._state(key, value)
            for key, value in contents.values.items()
        }
        history = self._history(contents, states)
        self._producer = producer
        spent = _part(contents.headers.get(_SPENT))
        worker, group = (
            _text(contents.headers.get(name)) for name in ("worker", "group")
        )
        writer = Writer(worker, group, contents.last) if contents.records else None
        return Restored(
            states,
            contents.records,
            time.monotonic() - started_at,
            history,
            spent,
            writer,
            high,
        )

    def publish(self, transaction: Transaction) -> None:
        """Commit all of it or none of it. After an error the outcome is unknown: open again.

        Raises:
            ShardFenced: another worker has opened the shard.
            KafkaUnavailable: anything else.
        """
        producer = self._producer
        if producer is None:
            raise KafkaUnavailable(f"shard {self._shard} is not open")
        try:
            producer.begin_transaction()
            self._produce(producer, transaction)
            retry_retriable(
                lambda: producer.commit_transaction(_CALL_SECONDS),
                _RETRY_SECONDS,
                self._is_abandoned,
            )
        except BufferError as error:
            self.drop()
            raise KafkaUnavailable(
                f"publishing to shard {self._shard}: {error}"
            ) from None
        except ck.KafkaException as exception:
            self.drop(fatal=kafka_error(exception).fatal())
            raise translate(
                kafka_error(exception), f"publishing to shard {self._shard}"
            ) from None

    def abandon(self) -> None:
        """From any thread: the shard is no longer ours, so that a call under way is not tried again."""
        self._abandoned = True

    def _is_abandoned(self) -> bool:
        return self._abandoned

    @property
    def waiting(self) -> int:
        """Records and requests that the producer has not been rid of yet."""
        producer = self._producer  # `drop` in a pool thread may take it away meanwhile
        return 0 if producer is None else len(producer)

    def serve_callbacks(self) -> None:
        """Hand out what the client has to say; call now and then."""
        if self._producer is not None:
            self._producer.poll(0)

    def drop(self, *, fatal: bool = False) -> None:
        """Abort what is open and let the producer go.

        `Producer.close` has no time-out and is never called: it has hung with a stopped broker.
        """
        producer, self._producer = self._producer, None
        if producer is not None and not fatal:
            with suppress(
                ck.KafkaException
            ):  # nothing open, or not to be reached: the next one to open aborts it
                producer.abort_transaction(_ABORT_SECONDS)

    def _produce(self, producer: ck.Producer, transaction: Transaction) -> None:
        feed = self._shard.feed
        changes = self._topics.changes(feed)
        for event in transaction.events:
            producer.produce(
                changes,
                self._codec.event(changes, event),
                event.symbol.encode(),
                timestamp=event.observed_at // 1000,
                headers=self._headers(
                    event, event.event_id, f"gex.levels.{event.kind.lower()}"
                ),
            )
        for state in transaction.states:
            producer.produce(
                self._current,
                self._codec.state(self._current, state),
                state.symbol.encode(),
                partition=self._shard.partition,  # given, so that only this transactional id ever writes to it
                timestamp=state.observed_at // 1000,
                headers=[
                    *self._headers(
                        state,
                        f"{feed}/{state.symbol}/{state.sequence}/{state.observed_at}",
                        "gex.levels.state",
                    ),
                    (_SPENT, f"{transaction.spent:.3f}"),
                ],
            )
        for entry in transaction.quarantined:
            producer.produce(
                self._topics.quarantine,
                entry.raw[:_MAX_QUARANTINED_BYTES],
                entry.symbol.encode(),
                timestamp=entry.observed_at // 1000,
                headers=[
                    ("what", "entry"),
                    ("where", f"{feed}/{entry.symbol}/{entry.request_id or ''}"),
                    ("why", f"{entry.reason}: {entry.message}"),
                    ("size", str(len(entry.raw))),
                ],
            )

    def _headers(self, record: Event | State, record_id: str, kind: str) -> Headers:
        """CloudEvents 1.0, Kafka protocol binding, binary mode; and who wrote it."""
        return [
            ("ce_specversion", "1.0"),
            ("ce_id", record_id),
            ("ce_type", kind),
            ("ce_source", f"/{self._topics.prefix}/{record.feed}"),
            ("ce_time", _iso(record.observed_at)),
            ("group", record.source.group),
            ("worker", record.source.worker),
        ]

    def _history(
        self, contents: Contents, states: dict[str, State]
    ) -> dict[str, tuple[int, ...]]:
        """When the last refreshes were. A help, no need: what cannot be read is left out."""
        moments = {symbol: {state.computed_at} for symbol, state in states.items()}
        with suppress(
            KafkaUnavailable, SetupError
        ):  # the registry, asked for a schema that no last value has
            for key, values in contents.recent.items():
                symbol = key.decode()
                for value in list(values)[:-1]:
                    with suppress(ShardCorrupt):
                        moments[symbol].add(self._codec.computed_at(value, symbol))
        return {
            symbol: tuple(sorted(at for at in found if at is not None))
            for symbol, found in moments.items()
        }

    def _state(self, key: bytes, value: bytes) -> State:
        try:
            state = self._codec.decode_state(value)
        except (ShardCorrupt, msgspec.ValidationError) as error:
            raise ShardCorrupt(
                f"{self.transactional_id}, key {key[:40]!r}: {error}"
            ) from None
        if state.symbol.encode() != key or state.feed != self._shard.feed:
            raise ShardCorrupt(
                f"{self.transactional_id}, key {key[:40]!r}: holds the state of {state.feed}/{state.symbol}"
            )
        if partition_of(state.symbol, self._shards) != self._shard.partition:
            raise ShardCorrupt(
                f"{self.transactional_id} holds {state.symbol}, which belongs to partition "
                f"{partition_of(state.symbol, self._shards)} of {self._shards}: were partitions added to the topic? "
                "Start anew with another kafka.topic_prefix"
            )
        return state
