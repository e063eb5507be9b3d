"""Partitions are added to `changes`: readers follow, and workers go on."""

from __future__ import annotations

import sys
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec
import pytest

from connector.devkit.simulator.settings import EIGHT_SYMBOLS
from connector.kafka.names import partition_of
from tests.conftest import Names
from tests.support import checker
from tests.support.processes import (
    start,
    start_simulator,
    start_worker,
    variables_for,
    wait_until,
)
from tests.support.tools import run_tool
from tests.support.topics import add_partitions

if TYPE_CHECKING:
    from collections.abc import Iterator

    from connector.devkit.local_kafka import LocalKafka
    from tests.support.processes import Program, Variables

CONSUMER = Path(__file__).parents[2] / "examples" / "consumer.py"
BEFORE, AFTER = 6, 9
# Events of each symbol that are published before and after.
ENOUGH = 3


def has_moved(symbol: str) -> bool:
    return partition_of(symbol, BEFORE) != partition_of(symbol, AFTER)


MOVED = [symbol for symbol in EIGHT_SYMBOLS if has_moved(symbol)]


@dataclass(frozen=True)
class Grown:
    """Topics to which partitions were added while readers followed them."""

    variables: Variables
    watched: dict[str, list[int]]
    """The sequences that `watch` printed, by symbol."""
    consumed: dict[str, list[int]]
    """The sequences that the example printed, its restored states first."""
    log: str
    """That of the worker which was started afterwards."""


@pytest.fixture(scope="module")
def grown(kafka: LocalKafka) -> Iterator[Grown]:
    names = Names("grown")
    prefix = names.topic_prefix
    changes = f"{prefix}.all.changes"

    def last_sequences() -> dict[str, int]:
        found: dict[str, int] = {}
        for event in checker.events(kafka, prefix):
            found[event.symbol] = max(event.sequence, found.get(event.symbol, 0))
        return found

    def wait_for_events(worker: Program, beyond: dict[str, int]) -> None:
        def has_published() -> bool:
            found = last_sequences()
            for symbol in EIGHT_SYMBOLS:
                if found.get(symbol, 0) < beyond.get(symbol, 0) + ENOUGH:
                    return False
            return True

        wait_until(has_published, "events of each symbol", worker)

    follow = [sys.executable, str(CONSUMER), "--bootstrap", kafka.bootstrap_servers]
    follow += ["--prefix", prefix]
    watch = [sys.executable, "-m", "connector", "watch", "--json"]

    with start_simulator("--period", "1", "--limit", "0") as simulator:
        variables = variables_for(kafka, names, simulator)
        with start_worker(variables) as worker:
            wait_for_events(worker, {})
            assert worker.terminate() == 0
        restored = last_sequences()

        with start(watch, variables) as watcher, start(follow) as consumer:
            # Its restored states show that the example follows. `watch` shows nothing
            # before the first event.
            wait_until(
                lambda: len(consumed_by(consumer)) == len(EIGHT_SYMBOLS),
                "the example follows",
                consumer,
            )
            with start_worker(variables) as worker:
                wait_until(
                    lambda: len(watched_by(watcher)) == len(EIGHT_SYMBOLS),
                    "watch follows",
                    watcher,
                )
                assert worker.terminate() == 0

            add_partitions(kafka, changes, AFTER)
            with start_worker(variables) as worker:
                wait_for_events(worker, last_sequences())
                assert worker.terminate() == 0
                log = worker.log()

            last = last_sequences()

            def readers_are_done() -> bool:
                consumed = consumed_by(consumer)
                watched = watched_by(watcher)
                for symbol, sequence in last.items():
                    is_consumed = consumed[symbol][-1] == sequence
                    if not is_consumed or watched[symbol][-1] != sequence:
                        return False
                return True

            wait_until(readers_are_done, "the readers have everything", watcher)
            assert min(restored.values()) >= ENOUGH
            yield Grown(variables, watched_by(watcher), consumed_by(consumer), log)


def watched_by(watcher: Program) -> dict[str, list[int]]:
    found: dict[str, list[int]] = defaultdict(list)
    for line in watcher.lines():
        if line.startswith('{"event_id"'):
            event = msgspec.json.decode(line)
            found[event["symbol"]].append(event["sequence"])
    return found


def consumed_by(consumer: Program) -> dict[str, list[int]]:
    found: dict[str, list[int]] = defaultdict(list)
    # There are messages of librdkafka among them.
    for line in consumer.lines():
        symbol, number, *_ = line.split()
        if symbol in EIGHT_SYMBOLS:
            found[symbol].append(int(number.removeprefix("#")))
    return found


def assert_contiguous(sequences: list[int]) -> None:
    first = sequences[0]
    assert sequences == list(range(first, first + len(sequences)))


def test_symbols_move_in_these_tests() -> None:
    assert 0 < len(MOVED) < len(EIGHT_SYMBOLS)


def test_watch_follows_the_symbols_that_have_moved(grown: Grown) -> None:
    for symbol in EIGHT_SYMBOLS:
        assert_contiguous(grown.watched[symbol])


def test_the_example_sees_every_event_once_and_in_order(grown: Grown) -> None:
    for symbol in EIGHT_SYMBOLS:
        assert_contiguous(grown.consumed[symbol])


def test_a_worker_starts_and_says_what_to_set(grown: Grown) -> None:
    assert "another number of partitions than configured" in grown.log
    assert f"set kafka.partitions = {AFTER} instead of {BEFORE}" in grown.log


def test_verify_names_the_symbols_that_have_moved_and_finds_no_fault(
    grown: Grown,
) -> None:
    code, printed = run_tool("verify", variables=grown.variables)
    assert code == 0, printed
    note, summary = printed.splitlines()
    moved = ", ".join(sorted(MOVED))
    assert note.endswith(
        f"has {AFTER} partitions and seems to have had {BEFORE} before; "
        f"symbols that have moved: {moved}"
    )
    assert summary.startswith("ok: ")


def test_history_has_the_events_of_both_partitions_in_order(grown: Grown) -> None:
    for symbol in EIGHT_SYMBOLS:
        code, printed = run_tool("history", symbol, "--json", variables=grown.variables)
        assert code == 0, printed
        sequences = []
        for line in printed.splitlines():
            sequences.append(msgspec.json.decode(line)["sequence"])
        assert sequences[0] == 1
        assert sequences[-1] == grown.watched[symbol][-1]
        assert_contiguous(sequences)
