"""A worker tells a change of the API's model from a move of the market."""

from __future__ import annotations

import urllib.request
from typing import TYPE_CHECKING

import pytest

from connector.core.model import Kind
from tests.support import checker
from tests.support.processes import (
    PATIENCE_SECONDS,
    start_simulator,
    start_worker,
    variables_for,
    wait_until,
)

if TYPE_CHECKING:
    from connector.core.model import Event
    from connector.devkit.local_kafka import LocalKafka
    from tests.conftest import Names
    from tests.support.processes import Program

SYMBOLS = ["BTCUSDT", "ETHUSDT"]


def fall_back(simulator: Program, symbols: list[str], *, equal_numbers: bool) -> None:
    fault = {
        "fault": "flow_fallback",
        "symbols": symbols,
        "equal_numbers": equal_numbers,
    }
    simulator.ask("/_control/faults", fault)


def recover(simulator: Program) -> None:
    url = f"{simulator.url}/_control/faults"
    request = urllib.request.Request(url, method="DELETE")
    urllib.request.urlopen(request, timeout=PATIENCE_SECONDS).close()


def wait_for_events(worker: Program, count: int) -> None:
    def are_published() -> bool:
        return worker.metric("gex_events_total") >= count

    wait_until(are_published, f"{count} events", worker)


def events_of_fallbacks(
    kafka: LocalKafka, names: Names, placement: str, *, equal_numbers: bool
) -> list[Event]:
    """Let one symbol fall back and recover, then both. Return all events."""
    with start_simulator("--period", "1", "--limit", "0") as simulator:
        # Only the model moves, so that every further event is due to it.
        settings = {
            "change_probability": 0.0,
            "positioning_placement": placement,
        }
        simulator.ask("/_control/set", settings)
        variables = variables_for(kafka, names, simulator, SYMBOLS)
        variables["GEX_SCHEDULE__MAX_INTERVAL_SECONDS"] = "1"
        with start_worker(variables) as worker:
            wait_for_events(worker, 2)
            fall_back(simulator, ["BTCUSDT"], equal_numbers=equal_numbers)
            wait_for_events(worker, 3)
            recover(simulator)
            wait_for_events(worker, 4)
            fall_back(simulator, SYMBOLS, equal_numbers=equal_numbers)
            wait_for_events(worker, 6)
            recover(simulator)
            wait_for_events(worker, 8)
            assert worker.terminate() == 0
    return checker.events(kafka, names.topic_prefix)


@pytest.mark.parametrize("placement", ["entry", "extra_by_symbol"])
@pytest.mark.parametrize("equal_numbers", [False, True])
def test_a_fallback_and_its_end_are_snapshots_whatever_the_numbers(
    kafka: LocalKafka, names: Names, placement: str, equal_numbers: bool
) -> None:
    events = events_of_fallbacks(kafka, names, placement, equal_numbers=equal_numbers)

    states = checker.states(kafka, names.topic_prefix)
    assert checker.violations(events, states) == []
    models = {"BTCUSDT": ["flow"], "ETHUSDT": ["flow"]}
    for event in events:
        assert event.kind is Kind.SNAPSHOT
        assert event.after is not None
        is_fallback = event.after.positioning == "std"
        reason = event.after.positioning_fallback_reason
        assert reason == ("flow_tape_empty" if is_fallback else None)
        if event.before is None:
            assert event.reason is None
            continue

        assert event.reason == "positioning"
        assert event.before.positioning == models[event.symbol][-1]
        models[event.symbol].append(str(event.after.positioning))
        # The numbers that differ are named, as for every kind.
        assert bool(event.changed_levels) != equal_numbers
    assert models == {
        "BTCUSDT": ["flow", "std", "flow", "std", "flow"],
        "ETHUSDT": ["flow", "std", "flow"],
    }


def test_two_nodes_with_two_models_make_two_snapshots_of_a_refresh(
    kafka: LocalKafka, names: Names
) -> None:
    # One symbol, so that its answers alternate.
    symbols = ["BTCUSDT"]
    with start_simulator("--period", "3", "--limit", "0") as simulator:
        variables = variables_for(kafka, names, simulator, symbols)
        variables["GEX_SCHEDULE__TARGET_DELAY_SECONDS"] = "0"
        variables["GEX_SCHEDULE__MAX_INTERVAL_SECONDS"] = "0.25"
        with start_worker(variables) as worker:
            wait_for_events(worker, 1)
            fault = {"fault": "flow_fallback", "symbols": symbols, "in_turn": True}
            simulator.ask("/_control/faults", fault)

            def have_flapped() -> bool:
                return flapping_answers(worker) >= 20

            wait_until(have_flapped, "20 answers of a replaced model", worker)
            recover(simulator)
            wait_for_events(worker, worker.metric("gex_events_total") + 2)

            def has_ended() -> bool:
                return worker.metric("gex_symbol_positioning_fallback") == 0

            # The model that stays is published, whichever was before.
            wait_until(has_ended, "the end of the fallback", worker)
            assert worker.terminate() == 0

    events = checker.events(kafka, names.topic_prefix)
    assert checker.violations(events, checker.states(kafka, names.topic_prefix)) == []
    switches = 0
    for event in events:
        assert event.after is not None
        if event.before is None:
            continue
        is_other_model = event.before.positioning != event.after.positioning
        assert (event.reason == "positioning") == is_other_model
        switches += is_other_model
    # The first answer of a refresh may be a switch, and the first of the other node. The end
    # of the fallback may be one more.
    refreshes = {event.computed_at for event in events}
    assert switches <= 2 * len(refreshes) + 1


def flapping_answers(worker: Program) -> float:
    series = 'gex_observations_dropped_total{feed="all",reason="flapping"}'
    for line in worker.text("/metrics").splitlines():
        if line.startswith(series):
            return float(line.split()[-1])
    return 0.0


def test_a_feed_that_asks_for_std_has_one_model_during_a_fallback(
    kafka: LocalKafka, names: Names
) -> None:
    with start_simulator("--period", "1", "--limit", "0") as simulator:
        simulator.ask("/_control/set", {"change_probability": 0.0})
        fall_back(simulator, SYMBOLS, equal_numbers=False)
        variables = variables_for(kafka, names, simulator, SYMBOLS)
        variables["GEX_POSITIONING"] = "std"
        with start_worker(variables) as worker:
            wait_for_events(worker, 2)

            def are_named() -> bool:
                return worker.metric("gex_symbol_positioning") == 2

            wait_until(are_named, "the models of both symbols", worker)
            assert worker.metric("gex_symbol_positioning_fallback") == 0
            assert worker.terminate() == 0

    for event in checker.events(kafka, names.topic_prefix):
        assert event.after is not None
        assert event.after.positioning == "std"
        assert event.after.positioning_fallback_reason is None
