"""Moments at which a worker sends requests over real HTTP: pauses, rhythms, budgets."""

from __future__ import annotations

import json
import os
import signal
import time
import urllib.request
from collections import Counter
from typing import TYPE_CHECKING, Any

import pytest

from connector.core.model import Kind
from connector.devkit.local_kafka import LocalKafka
from tests.support import checker
from tests.support.processes import (
    start_simulator,
    start_worker,
    variables_for,
    wait_for_log,
    wait_until,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from pathlib import Path

    from connector.core.model import Event
    from tests.conftest import Names
    from tests.support.processes import Program, Variables

MICROS = 1_000_000
MINUTE_MICROS = 60 * MICROS
# Many requests in a short time.
FAST = {"GEX_SCHEDULE__TARGET_DELAY_SECONDS": "0.1"}


def requests(simulator: Program) -> list[dict[str, Any]]:
    """Return every request that the simulator has answered, in order."""
    found: list[dict[str, Any]] = simulator.ask("/_control/truth")["answers"]
    return found


def wait_for_requests(simulator: Program, worker: Program, count: int) -> None:
    """Wait until the simulator has answered at least `count` requests in total."""

    def has_answered() -> bool:
        return len(requests(simulator)) >= count

    wait_until(has_answered, f"{count} requests", worker)


def symbols_of(answered: Sequence[Mapping[str, Any]]) -> set[str]:
    symbols: set[str] = set()
    for request in answered:
        symbols.update(request["symbols"])
    return symbols


def without_own_limit(variables: Variables) -> dict[str, str]:
    """Return settings under which only the upstream limits the requests."""
    kept = dict(variables)
    kept.pop("GEX_UPSTREAM__MAX_REQUESTS_PER_MINUTE", None)
    return kept


def metric(worker: Program, series: str) -> float:
    """Return the value of a series, or 0 if there is none."""
    with urllib.request.urlopen(f"{worker.url}/metrics", timeout=60) as response:
        lines = response.read().decode().splitlines()
    for line in lines:
        if line.startswith(series):
            return float(line.split()[-1])
    return 0.0


def most_in_a_minute(received_at: Sequence[int]) -> int:
    """Return the most requests that any sliding minute holds."""
    most = 0
    for start in received_at:
        end = start + 60 * MICROS
        within = [moment for moment in received_at if start <= moment < end]
        most = max(most, len(within))
    return most


def pause_after_refusal(sent: Sequence[Mapping[str, Any]]) -> float:
    """Return the seconds from the first 429 to the next request."""
    refusals = [request for request in sent if request["status"] == 429]
    refused_at = refusals[0]["answered_at"]
    later = []
    for request in sent:
        if request["received_at"] > refused_at:
            later.append(request["received_at"])
    return float(min(later) - refused_at) / MICROS


def test_a_429_pauses_all_requests_for_as_long_as_it_says(
    kafka: LocalKafka, names: Names, record_property: Callable[[str, object], None]
) -> None:
    # A single batch: of several, another request may be in flight at the first refusal.
    with start_simulator("--period", "1", "--limit", "0") as simulator:
        with start_worker(variables_for(kafka, names, simulator) | FAST) as worker:
            wait_for_requests(simulator, worker, 11)
            fault = {"fault": "429", "retry_after_seconds": 5, "count": 1}
            simulator.ask("/_control/faults", fault)

            def is_refused() -> bool:
                statuses = {request["status"] for request in requests(simulator)}
                return 429 in statuses

            def is_answered_again() -> bool:
                return bool(requests(simulator)[-1]["status"] == 200)

            wait_until(is_refused, "a 429", worker)
            wait_until(is_answered_again, "another request", worker)
            worker.terminate()
        sent = requests(simulator)

    pause_seconds = pause_after_refusal(sent)
    figure = "seconds from a 429 with Retry-After 5 to the next request"
    record_property(figure, round(pause_seconds, 3))
    # The simulator's clock may be slewed meanwhile.
    assert pause_seconds >= 4.9


def test_symbols_with_a_common_rhythm_come_to_share_requests(
    kafka: LocalKafka, names: Names
) -> None:
    # Packed by name, each batch would be refreshed at every moment of the period.
    symbols = [f"S{number:02d}USDT" for number in range(16)]
    arguments = ["--period", "4", "--jitter", "0.05", "--limit", "0"]
    arguments += ["--symbols", ",".join(symbols)]
    with start_simulator(*arguments) as simulator:
        with start_worker(variables_for(kafka, names, simulator, symbols)) as worker:
            wait_for_log(worker, "batches regrouped")
            before = len(requests(simulator))

            def every_symbol_is_checked() -> bool:
                # How often each of the two batches is due is chance.
                since = requests(simulator)[before:]
                return len(since) > 6 and symbols_of(since) == set(symbols)

            wait_until(every_symbol_is_checked, "checks of every symbol", worker)
            worker.terminate()
        sent = requests(simulator)

    packed_by_name = {tuple(symbols[:8]), tuple(symbols[8:])}
    packed_now = {tuple(request["symbols"]) for request in sent[-4:]}
    assert packed_by_name.isdisjoint(packed_now)
    assert symbols_of(sent[before:]) == set(symbols)

    # No symbol was lost or checked twice at the change of the batches.
    events = checker.events(kafka, names.topic_prefix)
    states = checker.states(kafka, names.topic_prefix)
    assert checker.violations(events, states) == []


def is_five_seconds(period: float) -> bool:
    """Return True for a period of five seconds, as learned from a few refreshes."""
    # Each refresh may be a quarter of a second early or late.
    return period == pytest.approx(5, abs=0.5)


def test_a_worker_that_takes_over_knows_the_rhythm_and_the_requests_before_it(
    kafka: LocalKafka, names: Names
) -> None:
    period = 'gex_symbol_period_seconds{feed="all",symbol="BTCUSDT"}'
    expected_checks = 'gex_upstream_requests_total{purpose="expected"}'
    arguments = ["--period", "5", "--jitter", "0.05"]
    arguments += ["--phase", "together", "--limit", "60"]
    with start_simulator(*arguments) as simulator:
        variables = without_own_limit(variables_for(kafka, names, simulator))
        with start_worker(variables) as worker:

            def knows_the_period() -> bool:
                return is_five_seconds(metric(worker, period))

            def has_published() -> bool:
                # The rhythm travels in the states, so each symbol needs a few.
                return len(checker.events(kafka, names.topic_prefix)) >= 4 * 8

            wait_until(knows_the_period, "the period", worker)
            wait_until(has_published, "refreshes", worker)
            # A killed worker hands nothing over: its heir has only what is in Kafka.
            worker.kill()
        before = requests(simulator)

        with start_worker(variables) as worker:

            def expects_refreshes() -> bool:
                return metric(worker, expected_checks) > 2

            wait_for_requests(simulator, worker, len(before) + 1)
            assert is_five_seconds(metric(worker, period))
            # The requests before count as used, and not as those of another program.
            budget = metric(worker, "gex_request_budget_per_minute")
            minute_ago = time.time() * MICROS - MINUTE_MICROS
            recent = [one for one in before if one["received_at"] > minute_ago]
            assert 0 < budget <= 60 - len(recent)
            wait_until(expects_refreshes, "expected checks", worker)
            worker.terminate()
        received_at = [request["received_at"] for request in requests(simulator)]

    assert most_in_a_minute(received_at) <= 60


def test_the_last_records_of_a_worker_carry_the_budget_it_has_used(
    tmp_path: Path, names: Names
) -> None:
    # The next owner counts it as used. The last record is committed after the shard was
    # given up, when the worker's share is already gone.
    arguments = ["--period", "0.3", "--jitter", "0.2", "--limit", "0"]
    with (
        LocalKafka(tmp_path / "kafka") as broker,
        start_simulator(*arguments) as simulator,
        start_worker(variables_for(broker, names, simulator) | FAST) as worker,
    ):

        def has_no_shard() -> bool:
            return worker.metric("gex_shards_owned") == 0

        wait_for_requests(simulator, worker, 11)
        # A broker that stands still holds the last commits back until after the stop.
        os.kill(broker.pid, signal.SIGSTOP)
        try:
            # More answers than commits.
            before = len(requests(simulator))
            wait_for_requests(simulator, worker, before + 6)
            worker.signal(signal.SIGTERM)
            wait_until(has_no_shard, "the shard is given up", worker)
        finally:
            os.kill(broker.pid, signal.SIGCONT)
        assert worker.wait() == 0
        states = checker.records(broker, f"{names.topic_prefix}.all.current")

    # A share of 1 would mean that the whole budget was counted as used.
    spent = [float(record.headers["spent"]) for record in states]
    assert max(spent) < 0.1


def test_a_budget_for_rare_checks_makes_no_pairs_of_stale_and_fresh(
    kafka: LocalKafka, names: Names, tmp_path: Path
) -> None:
    symbols = [f"COIN{number:02}USDT" for number in range(80)]
    config = tmp_path / "rare.toml"
    # Ten requests check every symbol, so 240 a minute check each about every 3 s.
    listed = json.dumps(symbols)
    config.write_text(
        f'[[feeds]]\nname = "all"\nsymbols = {listed}\nstale_after_seconds = 2\n'
    )
    arguments = ["--config", str(config)]

    def events() -> list[Event]:
        return checker.events(kafka, names.topic_prefix)

    def has_changes_due_to_budget(count: int) -> bool:
        changes: Counter[str] = Counter()
        for event in events():
            if event.kind is Kind.CHANGED and event.reason == "budget":
                changes[event.symbol] += 1
        return len(changes) == len(symbols) and min(changes.values()) >= count

    with start_simulator(
        "--symbols", ",".join(symbols), "--period", "0.5", "--limit", "240"
    ) as simulator:
        settings = without_own_limit(variables_for(kafka, names, simulator, symbols))
        del settings["GEX_SYMBOLS"]
        with start_worker(settings, arguments=arguments) as worker:
            wait_for_log(worker, "the budget cannot keep all levels fresh")
            wait_until(lambda: has_changes_due_to_budget(1), "a change each", worker)
            worker.terminate()

        # The next owner knows nothing but the status.
        with start_worker(settings, arguments=arguments) as worker:
            wait_until(lambda: has_changes_due_to_budget(2), "more changes", worker)
            counts = Counter(event.kind for event in events())
            assert counts[Kind.SNAPSHOT] == len(symbols)
            assert counts[Kind.STALE] <= len(symbols)
            assert counts[Kind.FRESH] == 0

            # A larger plan.
            simulator.ask("/_control/set", {"limit_per_minute": 6_000})

            def are_fresh() -> bool:
                fresh = {e.symbol for e in events() if e.kind is Kind.FRESH}
                return len(fresh) == len(symbols)

            wait_until(are_fresh, "fresh levels of every symbol", worker)
            worker.terminate()
    states = checker.states(kafka, names.topic_prefix)
    assert checker.violations(events(), states) == []
