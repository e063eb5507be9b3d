"""Whoever looks at a worker's page, whenever they look, the worker goes on."""

from __future__ import annotations

import os
import time
from typing import TYPE_CHECKING, Any

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
    from collections.abc import Callable
    from pathlib import Path

    from tests.conftest import Names
    from tests.support.processes import Program

ROUNDS = int(os.environ.get("GEX_TEST_ROUNDS", "2"))
AWAY_SECONDS = 15.0
"""Long enough for a question to end by its time-out and for another to be under way."""

SYMBOLS = ("BTCUSDT", "ETHUSDT")


def group(worker: Program) -> Any:
    """Return the group as the page shows it, None without an answer: `wait_until` says if the worker has ended."""
    try:
        return worker.ask("/api/status")["group"]
    except OSError:
        return None


def members(worker: Program) -> Any:
    found = group(worker)
    return found and found["members"]


def looked_for(seconds: float, worker: Program) -> Callable[[], Any]:
    """Return a function that looks at each call, and has the group once so many seconds are over."""
    until = time.monotonic() + seconds

    def look() -> Any:
        found = group(worker)
        return found if time.monotonic() > until else None

    return look


def more_events(kafka: LocalKafka, names: Names) -> Callable[[], bool]:
    """Return a function that tells whether there are more events than now."""
    already = len(checker.events(kafka, names.topic_prefix))
    return lambda: len(checker.events(kafka, names.topic_prefix)) > already


@pytest.mark.timeout(120 * (ROUNDS + 1))
def test_a_worker_that_is_looked_at_while_kafka_is_away_publishes_again_when_it_returns(
    tmp_path: Path, names: Names
) -> None:
    with (
        LocalKafka(tmp_path / "kafka") as kafka,
        start_simulator("--period", "1", "--limit", "0") as simulator,
        start_worker(variables_for(kafka, names, simulator, SYMBOLS)) as worker,
    ):
        for _ in range(ROUNDS):
            shown = wait_until(lambda: members(worker), "the group is shown", worker)
            assert any(member["me"] for member in shown)
            kafka.stop()
            found = wait_until(
                looked_for(AWAY_SECONDS, worker),
                "looks at the page without Kafka",
                worker,
            )
            assert found["members"] is None
            assert found["error"].startswith("describing the group: ")
            kafka.start()
            more = more_events(kafka, names)
            wait_until(lambda: members(worker), "the group is shown again", worker)
            wait_until(more, "events go on", worker)
        assert worker.terminate() == 0
