"""Workers are killed (SIGKILL) at random moments while everything changes once a second."""

from __future__ import annotations

import os
import random
import threading
from typing import TYPE_CHECKING

import pytest

from tests.chaos.scene import (
    FAST,
    FAST_REFRESHES,
    SYMBOLS,
    EventCount,
    refreshes_of,
)
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

LONGEST_PAUSE_SECONDS = 1.2
MANY_KILLS = pytest.param(10, marks=pytest.mark.long)


@pytest.mark.parametrize("kills", [2, MANY_KILLS])
def test_kills_leave_every_sequence_complete_and_current_in_agreement(
    kills: int,
    kafka: LocalKafka,
    names: Names,
    record_property: Callable[[str, object], None],
) -> None:
    seed = int(os.environ.get("GEX_TEST_SEED", random.randrange(2**32)))
    record_property("seed", seed)
    chance = random.Random(seed)
    events = EventCount(kafka, names)
    with start_simulator(*FAST_REFRESHES, "--seed", str(seed)) as simulator:
        settings = {**FAST, "GEX_INCLUDE": "max_pain,ranked"}
        variables = variables_for(kafka, names, simulator, SYMBOLS) | settings
        for _ in range(kills):
            another_round = events.at_least(events.now() + len(SYMBOLS))
            with start_worker(variables, wait_ready=False) as worker:
                wait_until(another_round, "new events", worker)
                # Over a second, so that the kill meets any moment between two refreshes.
                threading.Event().wait(chance.uniform(0, LONGEST_PAUSE_SECONDS))
                worker.kill()

        # The last worker ends in good order, so that its state is complete.
        another_round = events.at_least(events.now() + len(SYMBOLS))
        with start_worker(variables, wait_ready=False) as worker:
            wait_until(another_round, "new events", worker)
            assert worker.terminate() == 0
        shown = checker.shown(simulator.ask("/_control/truth")["answers"])

    all_events = checker.events(kafka, names.topic_prefix)
    states = checker.states(kafka, names.topic_prefix)
    assert set(states) == set(SYMBOLS)
    assert checker.violations(all_events, states) == []
    published = refreshes_of(all_events)
    assert published <= shown
    # A worker may die with one answer in hand, and the stop may cut one off.
    assert len(shown - published) <= (kills + 1) * len(SYMBOLS)
    for symbol, state in states.items():
        moments = [at for name, at in shown if name == symbol]
        *_, before, newest = sorted(moments)
        assert state.computed_at in (before, newest)
    record_property("events", len(all_events))
    record_property("refreshes shown", len(shown))
