"""The records that a shard's transactions write: values, keys and headers."""

from __future__ import annotations

from datetime import UTC, datetime
from functools import lru_cache
from typing import TYPE_CHECKING, Final

from connector.core.model import MICROS, Event, State, Value

if TYPE_CHECKING:
    from collections.abc import Container, Iterator

    from connector.kafka.avro import Codec
    from connector.kafka.names import ShardId, Topics
    from connector.kafka.shard_log import Transaction

Headers = list[tuple[str, str | bytes | None]]

# The fraction of its budget that the writer of a state used within a minute.
SPENT_HEADER: Final = "spent"

GROUP_HEADER: Final = "group"
WORKER_HEADER: Final = "worker"

# The producer's partitioner chooses by the key.
ANY_PARTITION: Final = -1


def is_ours(headers: Container[str]) -> bool:
    """Return True if a record with these headers was written by a connector.

    Every version writes its name into events and states. So a record that has it, but
    cannot be decoded, is of a newer version or was damaged.
    """
    return WORKER_HEADER in headers


class OutgoingRecord(Value, frozen=True):
    """A record to produce."""

    topic: str
    key: bytes
    value: bytes
    timestamp_ms: int
    headers: Headers
    partition: int = ANY_PARTITION


class RecordWriter:
    """Makes the records of one shard. Not safe for concurrent use."""

    def __init__(self, shard: ShardId, topics: Topics, codec: Codec) -> None:
        self._shard = shard
        self._changes = topics.changes(shard.feed)
        self._current = topics.current(shard.feed)
        self._source = f"/{topics.prefix}/{shard.feed}"
        self._codec = codec

    def records(self, transaction: Transaction) -> Iterator[OutgoingRecord]:
        """Yield the records of a transaction, in order."""
        for event in transaction.events:
            yield self._event(event)
        for state in transaction.states:
            yield self._state(state, transaction.used_fraction)

    def _event(self, event: Event) -> OutgoingRecord:
        kind = f"gex.levels.{event.kind.lower()}"
        return OutgoingRecord(
            self._changes,
            event.symbol.encode(),
            self._codec.encode_event(self._changes, event),
            event.observed_at // 1000,
            self._headers(event, event.event_id, kind),
        )

    def _state(self, state: State, used_fraction: float) -> OutgoingRecord:
        feed = self._shard.feed
        state_id = f"{feed}/{state.symbol}/{state.sequence}/{state.observed_at}"
        headers = self._headers(state, state_id, "gex.levels.state")
        headers.append((SPENT_HEADER, f"{used_fraction:.3f}"))
        return OutgoingRecord(
            self._current,
            state.symbol.encode(),
            self._codec.encode_state(self._current, state),
            state.observed_at // 1000,
            headers,
            # Explicit, so that only this shard's transactional id ever writes to it.
            self._shard.partition,
        )

    def _headers(self, record: Event | State, record_id: str, kind: str) -> Headers:
        """Return CloudEvents 1.0 headers (Kafka binding, binary mode), and the writer."""
        return [
            ("ce_specversion", "1.0"),
            ("ce_id", record_id),
            ("ce_type", kind),
            ("ce_source", self._source),
            ("ce_time", _iso(record.observed_at)),
            (GROUP_HEADER, record.source.group),
            (WORKER_HEADER, record.source.worker),
        ]


@lru_cache(maxsize=8)
def _iso(at: int) -> str:
    # All records of a response have the same moment.
    return datetime.fromtimestamp(at / MICROS, UTC).isoformat()
