"""A worker publishes only levels of the venues that its feed asks for."""

from __future__ import annotations

from typing import TYPE_CHECKING

from connector.core.model import Status
from tests.support import checker
from tests.support.processes import (
    start_simulator,
    start_worker,
    variables_for,
    wait_for_log,
    wait_until,
)

if TYPE_CHECKING:
    from connector.devkit.local_kafka import LocalKafka
    from tests.conftest import Names


def test_nothing_is_published_from_a_response_for_other_venues(
    kafka: LocalKafka, names: Names
) -> None:
    with start_simulator("--period", "1", "--limit", "0") as simulator:
        # Without a filter, each level differs.
        simulator.ask("/_control/faults", {"fault": "filter_ignored", "count": 3})
        variables = variables_for(kafka, names, simulator, ["BTCUSDT"])
        variables |= {
            "GEX_EXCHANGES": "Thalex,new_venue,okx",
            "GEX_SCHEDULE__MAX_INTERVAL_SECONDS": "1",
        }
        # The simulated API does not know `new_venue`, so this filter is never applied.
        with start_worker(variables) as worker:

            def are_refused() -> bool:
                return worker.metric("gex_venues_not_applied_total") >= 4

            wait_until(are_refused, "four responses for other venues", worker)
            wait_for_log(worker, "the feed names unknown venues")
            wait_for_log(worker, "a check failed: wrong_venues")
            assert worker.terminate() == 0
        assert checker.events(kafka, names.topic_prefix) == []

        variables["GEX_EXCHANGES"] = "Thalex,okx"
        with start_worker(variables) as worker:

            def is_published() -> bool:
                return worker.metric("gex_events_total") > 0

            wait_until(is_published, "levels of the right venues", worker)
            assert worker.metric("gex_venues_not_applied_total") == 0
            assert worker.terminate() == 0

    events = checker.events(kafka, names.topic_prefix)
    states = checker.states(kafka, names.topic_prefix)
    assert checker.violations(events, states) == []
    assert states["BTCUSDT"].status is Status.LIVE
    for event in events:
        assert set(event.source.exchanges) == {"thalex", "okx"}
