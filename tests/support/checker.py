"""Reads what a connector left in Kafka, and finds violations of the invariants.

It shares no code with the restore of a shard.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

import confluent_kafka as ck

from connector.core.entry import moment_or_none
from connector.kafka.avro import Codec, SingleObject

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from connector.core.model import Event, Levels, State

PATIENCE_SECONDS = 30.0
_MAX_MESSAGES = 1000


class Brokers(Protocol):
    """A cluster of one broker or more."""

    @property
    def bootstrap_servers(self) -> str: ...


@dataclass(frozen=True, slots=True)
class Record:
    """A record of a topic."""

    key: bytes
    value: bytes
    headers: dict[str, bytes]
    partition: int
    offset: int
    timestamp_ms: int


def records(
    kafka: Brokers, topic: str, isolation: str = "read_committed"
) -> list[Record]:
    """Return every record of a topic up to its end, partition by partition."""
    consumer = ck.Consumer(
        {
            "bootstrap.servers": kafka.bootstrap_servers,
            "group.id": "checker-unused",
            "isolation.level": isolation,
            "enable.partition.eof": True,
            # With a longer wait, a busy partition never reports its end.
            "fetch.wait.max.ms": 20,
            "enable.auto.commit": False,
        }
    )
    try:
        return _read_to_end(consumer, topic)
    finally:
        consumer.close()


def _read_to_end(consumer: ck.Consumer, topic: str) -> list[Record]:
    metadata = consumer.list_topics(topic, timeout=PATIENCE_SECONDS)
    unfinished = set(metadata.topics[topic].partitions)
    assignment = []
    for partition in unfinished:
        assignment.append(ck.TopicPartition(topic, partition, ck.OFFSET_BEGINNING))
    consumer.assign(assignment)

    found: list[Record] = []
    while unfinished:
        first = consumer.poll(PATIENCE_SECONDS)
        assert first is not None, f"{topic}: no end within {PATIENCE_SECONDS} s"
        for message in (first, *consumer.consume(_MAX_MESSAGES, timeout=0)):
            error = message.error()
            if error is None:
                found.append(_record(message))
            else:
                assert error.code() == ck.KafkaError._PARTITION_EOF, error
                unfinished.discard(message.partition())
    return found


def _record(message: ck.Message) -> Record:
    key, value = message.key(), message.value()
    partition, offset = message.partition(), message.offset()
    assert isinstance(key, bytes)
    assert isinstance(value, bytes)
    assert partition is not None
    assert offset is not None
    headers = {}
    for name, text in dict(message.headers() or {}).items():
        if isinstance(text, bytes):
            headers[name] = text
    return Record(key, value, headers, partition, offset, message.timestamp()[1])


def events(kafka: Brokers, prefix: str, feed: str = "all") -> list[Event]:
    """Return every committed event of a feed."""
    codec = Codec(SingleObject())
    found = records(kafka, f"{prefix}.{feed}.changes")
    return [codec.decode_event(record.value) for record in found]


def states(kafka: Brokers, prefix: str, feed: str = "all") -> dict[str, State]:
    """Return the last committed state of each symbol."""
    codec = Codec(SingleObject())
    found = {}
    for record in records(kafka, f"{prefix}.{feed}.current"):
        state = codec.decode_state(record.value)
        found[state.symbol] = state
    return found


def shown(answers: Iterable[Mapping[str, Any]]) -> set[tuple[str, int]]:
    """Return symbol and `computed_at` of every entry in the simulator's truth log.

    `computed_at` is in microseconds.
    """
    found = set()
    for answer in answers:
        for symbol, entry in answer["shown"].items():
            found.add((symbol, moment_or_none(entry["computed_at"]) or 0))
    return found


def by_symbol(all_events: Iterable[Event]) -> dict[str, list[Event]]:
    """Return the events of each symbol, in their order."""
    found: dict[str, list[Event]] = {}
    for event in all_events:
        found.setdefault(event.symbol, []).append(event)
    return found


def violations(all_events: Iterable[Event], current: Mapping[str, State]) -> list[str]:
    """Return the violations of invariants 1, 2 and 5."""
    grouped = by_symbol(all_events)
    found = []
    for symbol in current.keys() - grouped.keys():
        found.append(f"{symbol}: has a state but no event")
    for symbol, its_events in grouped.items():
        faults = _sequence_faults(its_events)
        faults += _state_faults(its_events, current.get(symbol))
        found += [f"{symbol}: {fault}" for fault in faults]
    return found


def counted(levels: Levels | None) -> object:
    """Return the part of levels that counts with the default `ignore`.

    The spot price and undocumented fields do not count.
    """
    if levels is None:
        return None
    ranked = []
    for rows in (levels.ranked.all_expiry_top_10, levels.ranked.odte_top_10):
        ranked.append(None if rows is None else [row.strike for row in rows])
    return (
        levels.all_expiry,
        levels.odte,
        levels.max_pain,
        levels.expected_move,
        ranked,
        levels.zones,
    )


def _sequence_faults(its_events: list[Event]) -> list[str]:
    found = []
    numbers = [event.sequence for event in its_events]
    if numbers != list(range(1, len(numbers) + 1)):
        found.append(f"sequence is {numbers}")

    last_after: Levels | None = None
    newest = 0
    for event in its_events:
        if counted(event.before) != counted(last_after):
            found.append(
                f"#{event.sequence}: before is not the last after that had levels"
            )
        last_after = event.after or last_after
        if event.computed_at is not None:
            if event.computed_at < newest:
                found.append(f"#{event.sequence}: computed_at goes back")
            newest = event.computed_at
    return found


def _state_faults(its_events: list[Event], state: State | None) -> list[str]:
    if state is None:
        return ["has events but no state"]
    last_event = its_events[-1]
    last_after: Levels | None = None
    for event in its_events:
        last_after = event.after or last_after

    found = []
    if state.sequence != last_event.sequence:
        found.append(
            f"current has sequence {state.sequence}, "
            f"the last event {last_event.sequence}"
        )
    if state.status != last_event.status:
        found.append(f"current is {state.status}, the last event {last_event.status}")
    if counted(state.last_published) != counted(last_after):
        found.append("current does not have the levels of the last event with levels")
    if (state.computed_at or 0) < (last_event.computed_at or 0):
        found.append("current is older than the last event")
    return found
