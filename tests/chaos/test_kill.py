"""kill -9 at random moments while everything changes once a second."""

from __future__ import annotations

import os
import random
import threading
from functools import partial
from typing import TYPE_CHECKING

import pytest

from tests.support import checker
from tests.support.processes import (
    start_simulator,
    start_worker,
    variables_for,
    wait_until,
)

if TYPE_CHECKING:
    from collections.abc import Callable

    from connector.devkit.local_kafka import LocalKafka
    from tests.conftest import Names

KILLS = 10
SYMBOLS = (
    "BTCUSDT",
    "ETHUSDT",
    "SOLUSDT",
    "HYPEUSDT",
    "XRPUSDT",
    "BNBUSDT",
    "DOGEUSDT",
    "AVAXUSDT",
)


@pytest.mark.timeout(400)
def test_ten_kills_leave_every_sequence_whole_and_current_in_agreement(
    kafka: LocalKafka, names: Names, record_property: Callable[[str, object], None]
) -> None:
    seed = int(os.environ.get("GEX_TEST_SEED", random.randrange(2**32)))
    record_property("seed", seed)
    chance = random.Random(seed)
    with start_simulator(
        "--period", "1", "--jitter", "0.1", "--limit", "0", "--seed", str(seed)
    ) as simulator:
        variables = variables_for(kafka, names, simulator, SYMBOLS) | {
            "GEX_SCHEDULE__TARGET_DELAY_SECONDS": "0.05",
            "GEX_SCHEDULE__MIN_INTERVAL_SECONDS": "0.05",
            "GEX_INCLUDE": "max_pain,ranked",
        }
        count = 0
        for _ in range(KILLS):
            with start_worker(variables, wait_ready=False) as worker:
                count = wait_until(
                    partial(_more_events, kafka, names, count), "new events", worker
                )
                threading.Event().wait(chance.uniform(0, 1.2))
                worker.kill()
        with start_worker(variables, wait_ready=False) as worker:
            wait_until(partial(_more_events, kafka, names, count), "new events", worker)
            assert worker.terminate() == 0
        shown = checker.shown(simulator.ask("/_control/truth")["answers"])
    events = checker.events(kafka, names.topic_prefix)
    current = checker.states(kafka, names.topic_prefix)
    assert set(current) == set(SYMBOLS)
    assert checker.violations(events, current) == []
    published = {(event.symbol, event.computed_at or 0) for event in events}
    assert published <= shown
    # A worker may die with one answer in hand, and the stop may cut one off.
    assert len(shown - published) <= (KILLS + 1) * len(SYMBOLS)
    for symbol, state in current.items():
        *_, before, newest = sorted(at for name, at in shown if name == symbol)
        assert state.computed_at in (before, newest)
    record_property("events", len(events))
    record_property("refreshes shown", len(shown))


def _more_events(kafka: LocalKafka, names: Names, before: int) -> int:
    """How many events there are, once they are more than before by a round of all symbols."""
    try:
        found = len(checker.records(kafka, f"{names.topic_prefix}.all.changes"))
    except (KeyError, AssertionError):
        return 0
    return found if found >= before + len(SYMBOLS) else 0
