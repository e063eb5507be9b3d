"""`replay` as a process, with a real broker: readers see what they saw on the day."""

from __future__ import annotations

import gzip
from typing import TYPE_CHECKING, Any, Final

import pytest

from connector.core.model import MICROS, Event, State, Status
from connector.kafka.avro import Codec, SingleObject
from connector.kafka.names import partition_of
from connector.tools.replay.publisher import REPLAY_GROUP
from connector.tools.text import json_line
from tests.support import checker
from tests.support.simulated_day import DAY_BEGINS_AT, SECOND, simulated_day
from tests.support.tools import run_tool

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

    from connector.devkit.local_kafka import LocalKafka
    from tests.conftest import Names

MINUTE: Final = 60
SHARDS: Final = 3
PARTITIONS: Final = 5
# The distance from the flip, as a part of it, at which the strategy changes its mind.
HYSTERESIS: Final = 0.001


@pytest.fixture(scope="module")
def day() -> list[Event]:
    """Return the first twenty minutes of a day."""
    return list(simulated_day(seconds=20 * MINUTE))


@pytest.fixture
def variables(kafka: LocalKafka, names: Names) -> dict[str, str]:
    return {
        "GEX_KAFKA__BOOTSTRAP_SERVERS": kafka.bootstrap_servers,
        "GEX_KAFKA__TOPIC_PREFIX": f"{names.topic_prefix}.live",
        "GEX_KAFKA__SHARDS": str(SHARDS),
        "GEX_KAFKA__PARTITIONS": str(PARTITIONS),
    }


@pytest.fixture
def file(day: list[Event], tmp_path: Path) -> Path:
    path = tmp_path / "day.jsonl.gz"
    lines = "".join(f"{json_line(event)}\n" for event in day)
    path.write_bytes(gzip.compress(lines.encode()))
    return path


def in_order(events: Iterable[Event]) -> list[Event]:
    return sorted(events, key=lambda event: (event.symbol, event.sequence))


def last_states(kafka: LocalKafka, prefix: str) -> dict[str, State]:
    codec = Codec(SingleObject())
    states = {}
    for record in checker.records(kafka, f"{prefix}.all.current"):
        state = codec.decode_state(record.value)
        assert record.partition == partition_of(state.symbol, SHARDS)
        states[state.symbol] = state
    return states


def decisions(events: Iterable[Event]) -> list[Any]:
    """Return what a strategy decides: long above the flip, short below it, else nothing."""
    positions: dict[str, str] = {}
    decided: list[Any] = []
    for event in events:
        position = positions.get(event.symbol, "none")
        if event.status is not Status.LIVE or event.after is None:
            wanted = "none"
        else:
            spot, flip = event.after.spot_price, event.after.all_expiry.hvl
            assert spot is not None
            assert flip is not None
            distance = spot / flip - 1
            wanted = position
            if abs(distance) > HYSTERESIS:
                wanted = "long" if distance > 0 else "short"
        if wanted != position:
            positions[event.symbol] = wanted
            decided.append((event.symbol, event.sequence, position, wanted))
    return decided


def test_a_replay_of_a_file_is_what_the_connector_wrote(
    kafka: LocalKafka,
    names: Names,
    variables: dict[str, str],
    day: list[Event],
    file: Path,
) -> None:
    to = f"{names.topic_prefix}.replay"

    options = ("replay", str(file), "--to", to, "--speed", "max")
    code, printed = run_tool(*options, variables=variables)
    assert code == 0, printed

    # Events, keys, headers and times.
    assert in_order(checker.events(kafka, to)) == in_order(day)
    events = {f"{event.feed}/{event.symbol}/{event.sequence}": event for event in day}
    for record in checker.records(kafka, f"{to}.all.changes"):
        event = events[record.headers["ce_id"].decode()]
        assert record.key == event.symbol.encode()
        assert record.headers["ce_source"] == f"/{to}/all".encode()
        assert record.headers["worker"] == event.source.worker.encode()
        assert record.timestamp_ms == event.observed_at // 1000
        assert record.partition < PARTITIONS

    # States.
    states = last_states(kafka, to)
    for event in day:
        assert event.sequence <= states[event.symbol].sequence
    # No connector's group: that one may run, or not, whatever the replay does.
    assert {state.source.group for state in states.values()} == {REPLAY_GROUP}
    code, proof = run_tool(
        "verify", variables={**variables, "GEX_KAFKA__TOPIC_PREFIX": to}
    )
    assert code == 0, proof

    # Never twice into the same topics.
    code, printed = run_tool(*options, variables=variables)
    assert code == 2
    assert "has records, expected empty topics; choose another prefix" in printed


def test_a_strategy_decides_the_same_in_a_fast_replay_of_a_period(
    kafka: LocalKafka,
    names: Names,
    variables: dict[str, str],
    day: list[Event],
    file: Path,
) -> None:
    # The day of a connector, as far as this test is concerned.
    live, fast = f"{names.topic_prefix}.day", f"{names.topic_prefix}.fast"
    code, printed = run_tool(
        "replay", str(file), "--to", live, "--speed", "max", variables=variables
    )
    assert code == 0, printed

    since = DAY_BEGINS_AT + 5 * MINUTE * SECOND
    until = DAY_BEGINS_AT + 15 * MINUTE * SECOND
    period = ("--since", "2024-11-25T00:05Z", "--until", "2024-11-25T00:15Z")
    pace = ("--speed", "600", "--shift")
    # Other numbers than those of the topics that are replayed, which count.
    variables |= {"GEX_KAFKA__TOPIC_PREFIX": live, "GEX_KAFKA__SHARDS": "1"}
    code, printed = run_tool(
        "replay", *period, *pace, "--to", fast, variables=variables
    )
    assert code == 0, printed

    original = [event for event in day if since <= event.observed_at <= until]
    replayed = checker.events(kafka, fast)
    assert decisions(in_order(replayed)) == decisions(in_order(original))
    assert decisions(original)

    # All but the moments is equal, and those are ten minutes in one second.
    replayed = in_order(replayed)
    for new, old in zip(replayed, in_order(original), strict=True):
        assert (new.event_id, new.kind, new.before, new.after) == (
            old.event_id,
            old.kind,
            old.before,
            old.after,
        )
    moments = [event.observed_at for event in replayed]
    spread = max(moments) - min(moments)
    old_moments = [event.observed_at for event in original]
    old_spread = max(old_moments) - min(old_moments)
    assert spread * 600 / MICROS == pytest.approx(old_spread / MICROS, abs=0.01)

    # A consumer that restores finds the states before the first events.
    codec = Codec(SingleObject())
    first_states: dict[str, State] = {}
    for record in checker.records(kafka, f"{fast}.all.current"):
        state = codec.decode_state(record.value)
        first_states.setdefault(state.symbol, state)
    earlier = {event.symbol: event for event in day if event.observed_at < since}
    for symbol, state in first_states.items():
        assert state.sequence == earlier[symbol].sequence
        assert state.levels == earlier[symbol].after
        assert state.source.group == REPLAY_GROUP
    assert last_states(kafka, fast).keys() == earlier.keys()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--to", "scratch"], "expected FILE, or --since"),
        (["FILE", "--to", "LIVE"], "has topics in common with kafka.topic_prefix"),
        (["FILE", "--to", "s", "--speed", "max", "--shift"], "--shift needs a speed"),
    ],
)
def test_replay_refuses_options_that_do_not_fit(
    variables: dict[str, str], file: Path, options: list[str], message: str
) -> None:
    live = variables["GEX_KAFKA__TOPIC_PREFIX"]
    names = {"FILE": str(file), "LIVE": live}
    arguments = [names.get(option, option) for option in options]

    code, printed = run_tool("replay", *arguments, variables=variables)

    assert code == 2
    assert message in printed


def test_a_period_without_events_is_said_to_have_none(
    variables: dict[str, str], names: Names, file: Path
) -> None:
    to = f"{names.topic_prefix}.none"
    period = ("--since", "2020-01-01", "--until", "2020-01-02")

    code, printed = run_tool(
        "replay", str(file), *period, "--to", to, variables=variables
    )

    assert code == 1
    assert "no events to replay" in printed
