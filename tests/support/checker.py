"""Reads what a connector left in Kafka, and finds violations of the invariants.

It shares no code with the restore of a shard.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

import confluent_kafka as ck

from connector.core.entry import moment_or_none
from connector.kafka.avro import Codec, SingleObject
from tests.support.levels import strikes_and_signs

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from connector.core.model import Event, Levels, State

# A broker that restarts during a chaos run answers within seconds.
PATIENCE_SECONDS = 30.0
# Per call; more calls follow until the end of the topic.
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
    # The group is never joined: the consumer assigns the partitions itself.
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
        start = ck.TopicPartition(topic, partition, ck.OFFSET_BEGINNING)
        assignment.append(start)
    consumer.assign(assignment)

    found: list[Record] = []
    while unfinished:
        # Wait for one message, and take all that came with it.
        first = consumer.poll(PATIENCE_SECONDS)
        assert first is not None, f"{topic}: no end within {PATIENCE_SECONDS} s"
        rest = consumer.consume(_MAX_MESSAGES, timeout=0)
        for message in (first, *rest):
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
    # The client's types allow None; a message without an error has all of them.
    assert isinstance(key, bytes)
    assert isinstance(value, bytes)
    assert partition is not None
    assert offset is not None

    headers = {}
    all_headers = dict(message.headers() or {})
    for name, text in all_headers.items():
        if isinstance(text, bytes):
            headers[name] = text
    _, timestamp_ms = message.timestamp()
    return Record(key, value, headers, partition, offset, timestamp_ms)


def events(kafka: Brokers, prefix: str, feed: str = "all") -> list[Event]:
    """Return every committed event of a feed."""
    codec = Codec(SingleObject())
    found = []
    for record in records(kafka, f"{prefix}.{feed}.changes"):
        found.append(codec.decode_event(record.value))
    return found


def states(kafka: Brokers, prefix: str, feed: str = "all") -> dict[str, State]:
    """Return the last committed state of each symbol."""
    codec = Codec(SingleObject())
    # Compaction may have left several records of a symbol: the last one counts.
    found = {}
    for record in records(kafka, f"{prefix}.{feed}.current"):
        state = codec.decode_state(record.value)
        found[state.symbol] = state
    return found


# A symbol and the `computed_at` of an entry, in microseconds.
Shown = tuple[str, int]


def shown(answers: Iterable[Mapping[str, Any]]) -> set[Shown]:
    """Return symbol and `computed_at` of every entry in the simulator's truth log."""
    found = set()
    for answer in answers:
        for symbol, entry in answer["shown"].items():
            computed_at = moment_or_none(entry["computed_at"])
            found.add((symbol, computed_at or 0))
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
    # Event and state are committed together, so neither comes without the other.
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
    return (
        levels.all_expiry,
        levels.odte,
        levels.max_pain,
        levels.expected_move,
        strikes_and_signs(levels.ranked.all_expiry_top_10),
        strikes_and_signs(levels.ranked.odte_top_10),
        levels.zones,
    )


def _sequence_faults(its_events: list[Event]) -> list[str]:
    found = []
    # A duplicate, a gap and another order all show here.
    numbers = [event.sequence for event in its_events]
    expected = range(1, len(numbers) + 1)
    if numbers != list(expected):
        found.append(f"sequence is {numbers}")

    # Absences have no levels; the next event continues from the levels before them.
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
    # The state may be newer: a refresh without a change makes no event.
    state_date = state.computed_at or 0
    event_date = last_event.computed_at or 0
    if state_date < event_date:
        found.append("current is older than the last event")
    return found
