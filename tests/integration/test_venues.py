"""A worker publishes only levels of the venues that its feed asks for."""

from __future__ import annotations

import urllib.request
from typing import TYPE_CHECKING

from connector.core.model import Kind, Status
from tests.support import checker
from tests.support.processes import (
    PATIENCE_SECONDS,
    start_simulator,
    start_worker,
    variables_for,
    wait_for_log,
    wait_until,
)

if TYPE_CHECKING:
    from pathlib import Path

    from connector.core.model import Event
    from connector.devkit.local_kafka import LocalKafka
    from tests.conftest import Names
    from tests.support.processes import Program


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


def test_levels_are_stale_because_of_venues_until_the_filter_is_applied(
    kafka: LocalKafka, names: Names, tmp_path: Path
) -> None:
    # The limit of staleness is a setting of a feed, so it needs a file. On a busy machine,
    # levels must not be older before the filter is ignored.
    config = tmp_path / "venues.toml"
    config.write_text(
        '[[feeds]]\nname = "all"\nsymbols = ["BTCUSDT"]\n'
        'exchanges = ["okx"]\nstale_after_seconds = 8\n'
    )

    def events_since_stale() -> list[Event]:
        """Return the first event that is stale because of venues, and all later ones."""
        events = checker.events(kafka, names.topic_prefix)
        for number, event in enumerate(events):
            if event.kind is Kind.STALE and event.reason == "venues":
                return events[number:]
        return []

    with start_simulator("--period", "1", "--limit", "0") as simulator:
        variables = variables_for(kafka, names, simulator)
        # The file has the symbols.
        del variables["GEX_SYMBOLS"]
        arguments = ["--config", str(config)]
        with start_worker(variables, arguments=arguments) as worker:
            wait_until(
                lambda: worker.metric("gex_events_total"), "first levels", worker
            )
            simulator.ask("/_control/faults", {"fault": "filter_ignored"})
            wait_until(events_since_stale, "levels stale because of venues", worker)
            clear_faults(simulator)
            wait_until(lambda: len(events_since_stale()) > 1, "fresh levels", worker)
            assert worker.terminate() == 0

    _, fresh, *_ = events_since_stale()
    assert fresh.kind is Kind.FRESH
    assert fresh.source.exchanges == ("okx",)
    events = checker.events(kafka, names.topic_prefix)
    states = checker.states(kafka, names.topic_prefix)
    assert checker.violations(events, states) == []


def clear_faults(simulator: Program) -> None:
    url = f"{simulator.url}/_control/faults"
    request = urllib.request.Request(url, method="DELETE")
    urllib.request.urlopen(request, timeout=PATIENCE_SECONDS).close()
