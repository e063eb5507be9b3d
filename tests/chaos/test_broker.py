"""The broker dies and comes back."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from connector.devkit.local_kafka import LocalKafka
from tests.support import checker
from tests.support.processes import (
    start_simulator,
    start_worker,
    variables_for,
    wait_until,
)

if TYPE_CHECKING:
    from pathlib import Path

    from tests.conftest import Names
    from tests.support.processes import Program

SYMBOLS = ("BTCUSDT", "ETHUSDT")


def shown(simulator: Program) -> set[tuple[str, int]]:
    """Symbol and `computed_at` (microseconds) of every entry that an answer showed."""
    return checker.shown(simulator.ask("/_control/truth")["answers"])


@pytest.mark.timeout(240)
def test_a_broker_killed_in_the_middle_loses_nothing_and_doubles_nothing(
    tmp_path: Path, names: Names
) -> None:
    with (
        LocalKafka(tmp_path / "kafka") as kafka,
        start_simulator(
            "--period", "1", "--jitter", "0.1", "--limit", "0"
        ) as simulator,
    ):
        fast = {
            "GEX_SCHEDULE__TARGET_DELAY_SECONDS": "0.05",
            "GEX_SCHEDULE__MIN_INTERVAL_SECONDS": "0.05",
        }
        with start_worker(
            variables_for(kafka, names, simulator, SYMBOLS) | fast
        ) as worker:
            wait_until(
                lambda: len(checker.events(kafka, names.topic_prefix)) > 6,
                "changes",
                worker,
            )
            until_then = shown(simulator)
            kafka.kill()
            wait_until(lambda: not worker.ready(), "not ready without Kafka", worker)
            in_hand = shown(simulator)
            assert worker.ask("/health/live")["ok"]
            asked = simulator.ask("/_control/stats")["requests_total"]
            wait_until(
                lambda: "shard lost" in worker.log(),
                "the group gives the shard up",
                worker,
            )
            assert simulator.ask("/_control/stats")["requests_total"] - asked <= 2, (
                "what gets nowhere is asked seldom"
            )
            kafka.start()
            wait_until(worker.ready, "ready again", worker)
            meanwhile = shown(simulator)
            already = len(checker.events(kafka, names.topic_prefix))
            wait_until(
                lambda: len(checker.events(kafka, names.topic_prefix)) > already,
                "changes go on",
                worker,
            )
            assert worker.terminate() == 0
        events, current = (
            checker.events(kafka, names.topic_prefix),
            checker.states(kafka, names.topic_prefix),
        )
        assert checker.violations(events, current) == []
        published = {(event.symbol, event.computed_at) for event in events}
        assert len(published) == len(events)
        assert published <= shown(simulator)
        # Nobody else has written: what waited when the group gave the shard up is published.
        assert in_hand <= published
        # What was shown later, while Kafka was away, is carried by the next observation; the rest is published, but
        # for what was on its way when the broker died and when the worker was stopped.
        on_time = shown(simulator) - (meanwhile - until_then)
        assert len(on_time - published) <= 2 * len(SYMBOLS)
