"""A worker and the simulator that shows it a past day."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from connector.tools.text import json_line
from tests.support import checker
from tests.support.processes import (
    start_simulator,
    start_worker,
    variables_for,
    wait_until,
)
from tests.support.simulated_day import simulated_day
from tests.support.tools import run_tool

if TYPE_CHECKING:
    from pathlib import Path

    from connector.core.model import Event, Levels
    from connector.devkit.local_kafka import LocalKafka
    from tests.conftest import Names

SYMBOLS: Final = ("BTCUSDT", "ETHUSDT")
SPEED: Final = "30"


def levels_of(events: list[Event], symbol: str) -> list[Levels]:
    found = []
    for event in events:
        if event.symbol == symbol and event.after is not None:
            found.append(event.after)
    return found


def test_a_worker_publishes_the_levels_of_the_day_in_their_order(
    kafka: LocalKafka, names: Names, tmp_path: Path
) -> None:
    day = list(simulated_day(SYMBOLS, seconds=180, include=()))
    file = tmp_path / "day.jsonl"
    file.write_text("".join(f"{json_line(event)}\n" for event in day))
    last = {symbol: levels_of(day, symbol)[-1] for symbol in SYMBOLS}

    def has_last_levels() -> bool:
        found = checker.events(kafka, names.topic_prefix)
        return all(last[symbol] in levels_of(found, symbol) for symbol in SYMBOLS)

    options = ("--replay", str(file), "--speed", SPEED, "--limit", "0")
    with start_simulator(*options) as simulator:
        variables = variables_for(kafka, names, simulator, SYMBOLS)
        with start_worker(variables) as worker:
            wait_until(has_last_levels, "the last levels of the day", worker)

    events = checker.events(kafka, names.topic_prefix)
    for symbol in SYMBOLS:
        published = iter(levels_of(day, symbol))
        # A worker that is slow misses some, but shows none twice or out of order.
        for levels in levels_of(events, symbol):
            assert levels in published
    code, proof = run_tool("verify", variables=variables)
    assert code == 0, proof


def test_simulate_refuses_another_file(tmp_path: Path) -> None:
    file = tmp_path / "day.csv"
    file.write_text("observed_at,symbol\n")

    code, printed = run_tool("simulate", "--replay", str(file), variables={})

    assert code == 2
    assert "expected an event as `gex-connector history --json` prints it" in printed


def test_simulate_names_a_file_that_does_not_exist() -> None:
    code, printed = run_tool("simulate", "--replay", "/nowhere/day.jsonl", variables={})

    assert code == 2
    assert "cannot read /nowhere/day.jsonl: No such file or directory" in printed
