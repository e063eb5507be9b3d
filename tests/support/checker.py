"""Reads what a connector left in Kafka, and says what of it breaks the invariants. Independent of the restore code."""

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


class Brokers(Protocol):
    """Whatever has an address: one broker or several."""

    @property
    def bootstrap_servers(self) -> str: ...


@dataclass(frozen=True, slots=True)
class Record:
    """A record as it lies in its topic."""

    key: bytes
    value: bytes
    headers: dict[str, bytes]
    partition: int
    offset: int
    timestamp_ms: int


def records(
    kafka: Brokers, topic: str, isolation: str = "read_committed"
) -> list[Record]:
    """Every record of a topic up to its end now, partition by partition."""
    consumer = ck.Consumer(
        {
            "bootstrap.servers": kafka.bootstrap_servers,
            "group.id": "checker-unused",
            "isolation.level": isolation,
            "enable.partition.eof": True,
            "fetch.wait.max.ms": 20,  # else a partition that is written to more often never has an end
            "enable.auto.commit": False,
        }
    )
    found: list[Record] = []
    try:
        partitions = set(
            consumer.list_topics(topic, timeout=PATIENCE_SECONDS)
            .topics[topic]
            .partitions
        )
        consumer.assign(
            [
                ck.TopicPartition(topic, partition, ck.OFFSET_BEGINNING)
                for partition in partitions
            ]
        )
        while partitions:
            first = consumer.poll(PATIENCE_SECONDS)
            assert first is not None, f"{topic}: no end within {PATIENCE_SECONDS} s"
            for message in (first, *consumer.consume(1000, timeout=0)):
                if (error := message.error()) is not None:
                    assert error.code() == ck.KafkaError._PARTITION_EOF, error
                    partitions.discard(message.partition())
                    continue
                found.append(_record(message))
    finally:
        consumer.close()
    return found


def _record(message: ck.Message) -> Record:
    key, value, partition, offset = (
        message.key(),
        message.value(),
        message.partition(),
        message.offset(),
    )
    assert isinstance(key, bytes)
    assert isinstance(value, bytes)
    assert partition is not None
    assert offset is not None
    headers = {
        name: text
        for name, text in dict(message.headers() or {}).items()
        if isinstance(text, bytes)
    }
    return Record(key, value, headers, partition, offset, message.timestamp()[1])


def events(kafka: Brokers, prefix: str, feed: str = "all") -> list[Event]:
    """Every committed event of a feed."""
    codec = Codec(SingleObject())
    return [
        codec.decode_event(record.value)
        for record in records(kafka, f"{prefix}.{feed}.changes")
    ]


def states(kafka: Brokers, prefix: str, feed: str = "all") -> dict[str, State]:
    """The last committed state of each symbol."""
    codec = Codec(SingleObject())
    found = (
        codec.decode_state(record.value)
        for record in records(kafka, f"{prefix}.{feed}.current")
    )
    return {state.symbol: state for state in found}


def shown(answers: Iterable[Mapping[str, Any]]) -> set[tuple[str, int]]:
    """Symbol and `computed_at` (microseconds) of every entry that the simulator's truth log says was shown."""
    return {
        (symbol, moment_or_none(entry["computed_at"]) or 0)
        for answer in answers
        for symbol, entry in answer["shown"].items()
    }


def by_symbol(all_events: Iterable[Event]) -> dict[str, list[Event]]:
    """The events of each symbol in their order."""
    found: dict[str, list[Event]] = {}
    for event in all_events:
        found.setdefault(event.symbol, []).append(event)
    return found


def violations(all_events: Iterable[Event], current: Mapping[str, State]) -> list[str]:
    """What breaks invariants 1, 2 and 5; empty where nothing does."""
    grouped = by_symbol(all_events)
    found = [
        f"{symbol}: has a state but no event"
        for symbol in current.keys() - grouped.keys()
    ]
    for symbol, its in grouped.items():
        found += [
            f"{symbol}: {fault}"
            for fault in (
                *_sequence_faults(its),
                *_state_faults(its, current.get(symbol)),
            )
        ]
    return found


def counted(levels: Levels | None) -> object:
    """What of levels counts with the default `ignore`: everything but the spot price and what is not documented."""
    if levels is None:
        return None
    ranked = [
        None if rows is None else [row.strike for row in rows]
        for rows in (levels.ranked.all_expiry_top_10, levels.ranked.odte_top_10)
    ]
    return (
        levels.all_expiry,
        levels.odte,
        levels.max_pain,
        levels.expected_move,
        ranked,
        levels.zones,
    )


def _sequence_faults(its: list[Event]) -> list[str]:
    found = []
    if (numbers := [event.sequence for event in its]) != list(range(1, len(its) + 1)):
        found.append(f"sequence is {numbers}")
    said, newest = None, 0
    for event in its:
        if counted(event.before) != counted(said):
            found.append(
                f"#{event.sequence}: before is not the after of the last event that had one"
            )
        said = event.after or said
        if event.computed_at is not None:
            if event.computed_at < newest:
                found.append(f"#{event.sequence}: computed_at goes back")
            newest = event.computed_at
    return found


def _state_faults(its: list[Event], state: State | None) -> list[str]:
    if state is None:
        return ["has events but no state"]
    last = its[-1]
    said = next(
        (event.after for event in reversed(its) if event.after is not None), None
    )
    faults = {
        f"current has sequence {state.sequence}, the last event {last.sequence}": state.sequence
        != last.sequence,
        f"current is {state.status}, the last event {last.status}": state.status
        != last.status,
        "current does not say what the last event with levels said": counted(
            state.last_published
        )
        != counted(said),
        "current is older than the last event": (state.computed_at or 0)
        < (last.computed_at or 0),
    }
    return [fault for fault, there in faults.items() if there]
