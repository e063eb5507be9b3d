"""The broker dies and comes back."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from connector.core.model import Kind
from connector.devkit.local_kafka import LocalKafka
from tests.chaos.scene import FAST, FAST_REFRESHES, EventCount, refreshes_of
from tests.support import checker
from tests.support.log_messages import SHARD_LOST
from tests.support.processes import (
    start_simulator,
    start_worker,
    variables_for,
    wait_for_log,
    wait_until,
)

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from tests.conftest import Names
    from tests.support.processes import Program

SYMBOLS = ("BTCUSDT", "ETHUSDT")
# Several times longer than the symbols' own intervals.
_PAUSE_SECONDS = 4.0


def shown(simulator: Program) -> set[tuple[str, int]]:
    """Return symbol and `computed_at` of every entry that an answer showed so far."""
    return checker.shown(simulator.ask("/_control/truth")["answers"])


def requests(simulator: Program) -> int:
    return int(simulator.ask("/_control/stats")["requests_total"])


def pauses(simulator: Program) -> Callable[[], bool]:
    """Return a check that is True once no request came for a few seconds."""

    def is_pausing() -> bool:
        before = requests(simulator)
        time.sleep(_PAUSE_SECONDS)
        return requests(simulator) == before

    return is_pausing


def test_a_broker_killed_in_the_middle_loses_and_duplicates_nothing(
    tmp_path: Path, names: Names
) -> None:
    with (
        LocalKafka(tmp_path / "kafka") as kafka,
        start_simulator(*FAST_REFRESHES) as simulator,
    ):
        events = EventCount(kafka, names)
        variables = variables_for(kafka, names, simulator, SYMBOLS) | FAST
        with start_worker(variables) as worker:

            def is_not_ready() -> bool:
                return not worker.ready()

            wait_until(events.at_least(7), "events", worker)
            shown_before = shown(simulator)

            kafka.kill()
            wait_until(is_not_ready, "not ready without Kafka", worker)
            in_hand = shown(simulator)
            # A restart of the worker would lose what it has in hand.
            assert worker.ask("/health/live")["ok"]
            # Symbols that cannot be published are checked seldom.
            wait_until(pauses(simulator), "no request for seconds", worker)
            requests_before = requests(simulator)
            wait_for_log(worker, SHARD_LOST)
            assert requests(simulator) - requests_before <= 2

            kafka.start()
            wait_until(worker.ready, "ready again", worker)
            shown_without_kafka = shown(simulator) - shown_before
            wait_until(events.more_than_now(), "events go on", worker)
            assert worker.terminate() == 0

        all_events = checker.events(kafka, names.topic_prefix)
        states = checker.states(kafka, names.topic_prefix)
        assert checker.violations(all_events, states) == []
        published = refreshes_of(all_events)
        # No refresh has two events, and none was invented. The event of a status has the
        # moment of an earlier refresh: Kafka can be away until symbols are stale.
        of_refreshes = [event for event in all_events if event.kind is not Kind.STALE]
        assert len(published) == len(of_refreshes)
        assert published <= shown(simulator)
        # Nobody else has written, so observations that waited with the shard are published.
        assert in_hand <= published
        # A refresh shown while Kafka was away is carried by the next observation. All
        # others are published, except answers under way when the broker died and when
        # the worker was stopped.
        on_time = shown(simulator) - shown_without_kafka
        assert len(on_time - published) <= 2 * len(SYMBOLS)
