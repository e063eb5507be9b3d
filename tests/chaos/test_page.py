"""Looking at a worker's status page never harms the worker."""

from __future__ import annotations

import os
import time
from typing import TYPE_CHECKING, Any

import pytest

from connector.devkit.local_kafka import LocalKafka
from connector.runtime.clock import Clock
from tests.chaos.scene import EventCount
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

# The client library's abort came in about one of three rounds.
MANY_ROUNDS = int(os.environ.get("GEX_TEST_ROUNDS", "5"))

# Long enough for a question to end by its time-out and for another one to be under way.
AWAY_SECONDS = 15.0

SYMBOLS = ("BTCUSDT", "ETHUSDT")


def group(worker: Program) -> Any:
    """Return the group as the page shows it, None if there is no answer.

    `wait_until` says so if the worker has ended.
    """
    try:
        return worker.ask("/api/status")["group"]
    except OSError:
        return None


def members(worker: Program) -> Any:
    """Return the members of the group, None unless Kafka's last answer named them."""
    found = group(worker)
    if found is None or found["error"] is not None:
        return None
    return found["members"]


def names_of(members: Any) -> list[str]:
    return [member["name"] for member in members]


def looking_for(seconds: float, worker: Program) -> Callable[[], Any]:
    """Return a function that looks at the page for a time, and until it shows an error.

    It returns the group with the error.
    """
    until = time.monotonic() + seconds

    def look() -> Any:
        found = group(worker)
        if found is None or found["error"] is None or time.monotonic() < until:
            return None
        return found

    return look


@pytest.mark.parametrize(
    "rounds", [1, pytest.param(MANY_ROUNDS, marks=pytest.mark.long)]
)
@pytest.mark.timeout(120 * (MANY_ROUNDS + 1))
def test_a_worker_looked_at_while_kafka_is_away_publishes_when_it_returns(
    rounds: int, tmp_path: Path, names: Names
) -> None:
    with (
        LocalKafka(tmp_path / "kafka") as kafka,
        start_simulator("--period", "1", "--limit", "0") as simulator,
        start_worker(variables_for(kafka, names, simulator, SYMBOLS)) as worker,
    ):
        events = EventCount(kafka, names)

        def shown_members() -> Any:
            return members(worker)

        for _ in range(rounds):
            shown = wait_until(shown_members, "the group is shown", worker)
            own = [member for member in shown if member["me"]]
            assert own

            # The page asks for the group at each look; now there is no answer.
            kafka.stop()
            stopped_at = Clock.now()
            look = looking_for(AWAY_SECONDS, worker)
            found = wait_until(look, "the page without Kafka", worker)
            # Those of before, with the moment when they were true. The last answer may have
            # come after our last look.
            assert names_of(found["members"]) == names_of(shown)
            assert found["as_of"] <= stopped_at
            assert found["error"].startswith("describing the group: ")

            kafka.start()
            more = events.more_than_now()
            wait_until(shown_members, "the group is shown again", worker)
            wait_until(more, "events go on", worker)
        assert worker.terminate() == 0
