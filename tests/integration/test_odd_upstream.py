"""Odd answers of a real server, and the events that a worker makes of them."""

from __future__ import annotations

import urllib.request
from typing import TYPE_CHECKING, Any

from connector.core.model import Status
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
    from tests.support.processes import Program

SYMBOLS = ("BTCUSDT", "ETHUSDT")
FAST = {
    "GEX_SCHEDULE__TARGET_DELAY_SECONDS": "0.1",
    "GEX_SCHEDULE__MAX_INTERVAL_SECONDS": "0.5",
}


class Scene:
    """A simulator, and a worker that polls it."""

    def __init__(self, simulator: Program, worker: Program) -> None:
        self._simulator = simulator
        self._worker = worker

    def arm(self, **fault: Any) -> None:
        self._simulator.ask("/_control/faults", fault)

    def clear(self) -> None:
        url = f"{self._simulator.url}/_control/faults"
        request = urllib.request.Request(url, method="DELETE")
        with urllib.request.urlopen(request, timeout=60):
            pass

    def value(self, series: str) -> float:
        """Return the value of a series, written as in `/metrics`, or 0 if there is none."""
        for line in self._worker.text("/metrics").splitlines():
            if line.startswith(series):
                return float(line.split()[-1])
        return 0.0

    def wait(self, condition: Callable[[], bool], text: str) -> None:
        wait_until(condition, text, self._worker)

    def wait_for_more(self, series: str, count: int) -> None:
        """Wait until a counter has grown by `count`."""
        before = self.value(series)
        self.wait(lambda: self.value(series) >= before + count, f"more of {series}")


def test_odd_answers_make_no_wrong_events(kafka: LocalKafka, names: Names) -> None:
    changes = 'gex_events_total{feed="all",kind="CHANGED"}'
    with (
        start_simulator(
            "--period", "1", "--jitter", "0.1", "--limit", "0"
        ) as simulator,
        start_worker(variables_for(kafka, names, simulator, SYMBOLS) | FAST) as worker,
    ):
        scene = Scene(simulator, worker)
        scene.wait_for_more(changes, 4)

        scene.arm(fault="nan_meta")
        scene.wait_for_more(changes, 6)
        scene.clear()

        for seconds in (-3600, 3600):
            scene.arm(fault="meta_clock", seconds=seconds)
            # More than the clock remembers.
            scene.wait_for_more(changes, 20)
            assert abs(scene.value("gex_clock_correction_seconds")) < 1
            scene.clear()

        scene.arm(fault="renamed", variant="lower")
        scene.wait_for_more(changes, 6)
        scene.clear()

        scene.arm(fault="renamed", variant="dash")
        # The labels are in alphabetical order.
        spelling = 'gex_symbol_other_spelling_total{feed="all",spelling="BTC-USDT",'
        scene.wait_for_more(spelling, 3)
        scene.clear()

        scene.arm(fault="two_nodes")
        flapping = 'gex_observations_dropped_total{feed="all",reason="flapping"}'
        scene.wait_for_more(flapping, 3)
        scene.clear()

        scene.arm(fault="cached")
        scene.wait_for_more('gex_responses_inconsistent_total{kind="copy"}', 20)
        assert abs(scene.value("gex_clock_correction_seconds")) < 1
        scene.clear()
        scene.wait_for_more(changes, 4)

        missing = 'gex_events_total{feed="all",kind="MISSING"}'
        assert scene.value(missing) == 0
        scene.arm(fault="empty_entry", variant="null_leaves")
        scene.wait_for_more(missing, len(SYMBOLS))
        scene.clear()
        scene.wait_for_more(
            'gex_events_total{feed="all",kind="RESTORED"}', len(SYMBOLS)
        )
        log = worker.log()
        assert worker.terminate() == 0

    # Once, or twice if the clock was believed in between.
    assert log.count("upstream clock is not believed") in {1, 2}
    assert log.count("upstream spells a symbol in another way") == len(SYMBOLS)
    events = checker.events(kafka, names.topic_prefix)
    states = checker.states(kafka, names.topic_prefix)
    assert checker.violations(events, states) == []
    for event in events:
        assert event.status in {Status.LIVE, Status.MISSING}
    assert checker.records(kafka, f"{names.topic_prefix}.quarantine") == []
