"""When a worker sends requests, over real HTTP: pauses, rhythms, and shared budgets."""

from __future__ import annotations

import os
import signal
import urllib.request
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
    from collections.abc import Callable, Mapping, Sequence
    from pathlib import Path

    from tests.conftest import Names
    from tests.support.processes import Program

MICROS = 1_000_000
FAST = {"GEX_SCHEDULE__TARGET_DELAY_SECONDS": "0.1"}


def requests(simulator: Program) -> list[dict[str, Any]]:
    """Return every request that the simulator has answered, in order."""
    found: list[dict[str, Any]] = simulator.ask("/_control/truth")["answers"]
    return found


def symbols_of(answered: Sequence[Mapping[str, Any]]) -> set[str]:
    symbols: set[str] = set()
    for request in answered:
        symbols.update(request["symbols"])
    return symbols


def without_own_limit(variables: Mapping[str, str]) -> dict[str, str]:
    """Return settings under which only the upstream limits the requests."""
    kept = dict(variables)
    kept.pop("GEX_UPSTREAM__MAX_REQUESTS_PER_MINUTE", None)
    return kept


def metric(worker: Program, series: str) -> float:
    """Return the value of a series, or 0 if there is none."""
    with urllib.request.urlopen(f"{worker.url}/metrics", timeout=10) as response:
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
        most = max(most, sum(start <= moment < end for moment in received_at))
    return most


def test_a_429_pauses_all_requests_for_as_long_as_it_says(
    kafka: LocalKafka, names: Names, record_property: Callable[[str, object], None]
) -> None:
    # A single batch: of several, another request may be in flight at the first refusal.
    with start_simulator("--period", "1", "--limit", "0") as simulator:
        with start_worker(variables_for(kafka, names, simulator) | FAST) as worker:
            wait_until(lambda: len(requests(simulator)) > 10, "requests", worker)
            simulator.ask(
                "/_control/faults",
                {"fault": "429", "retry_after_seconds": 5, "count": 1},
            )

            def is_refused() -> bool:
                return any(request["status"] == 429 for request in requests(simulator))

            def is_answered_again() -> bool:
                return bool(requests(simulator)[-1]["status"] == 200)

            wait_until(is_refused, "a 429", worker)
            wait_until(is_answered_again, "another request", worker)
            worker.terminate()
        sent = requests(simulator)
    refused = next(request for request in sent if request["status"] == 429)
    later = []
    for request in sent:
        if request["received_at"] > refused["answered_at"]:
            later.append(request["received_at"])
    pause_seconds = (min(later) - refused["answered_at"]) / MICROS
    record_property(
        "seconds from a 429 with Retry-After 5 to the next request",
        round(pause_seconds, 3),
    )
    assert 5.0 <= pause_seconds < 6.0


def test_symbols_with_a_common_rhythm_come_to_share_requests(
    kafka: LocalKafka, names: Names
) -> None:
    # Packed by name, each batch would be refreshed at every moment of the period.
    symbols = [f"S{number:02d}USDT" for number in range(16)]
    arguments = ["--period", "4", "--jitter", "0.05", "--limit", "0"]
    arguments += ["--symbols", ",".join(symbols)]
    with start_simulator(*arguments) as simulator:
        with start_worker(variables_for(kafka, names, simulator, symbols)) as worker:
            wait_until(
                lambda: "batches regrouped" in worker.log(), "other batches", worker
            )
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
    events = checker.events(kafka, names.topic_prefix)
    states = checker.states(kafka, names.topic_prefix)
    assert checker.violations(events, states) == []


def test_a_worker_that_takes_over_knows_the_rhythm_and_the_requests_before_it(
    kafka: LocalKafka, names: Names
) -> None:
    period = 'gex_symbol_period_seconds{feed="all",symbol="BTCUSDT"}'
    expected_checks = 'gex_upstream_requests_total{purpose="expected"}'
    with start_simulator(
        "--period", "5", "--jitter", "0.05", "--phase", "together", "--limit", "60"
    ) as simulator:
        variables = without_own_limit(variables_for(kafka, names, simulator))
        with start_worker(variables) as worker:

            def knows_the_period() -> bool:
                return metric(worker, period) == pytest.approx(5, abs=0.2)

            def has_published() -> bool:
                return len(checker.events(kafka, names.topic_prefix)) >= 4 * 8

            wait_until(knows_the_period, "the period", worker)
            wait_until(has_published, "refreshes", worker)
            worker.kill()
        before = len(requests(simulator))
        with start_worker(variables) as worker:
            wait_until(
                lambda: len(requests(simulator)) > before, "a first request", worker
            )
            assert metric(worker, period) == pytest.approx(5, abs=0.2)
            # The requests before count as used, and not as those of another program.
            budget = metric(worker, "gex_request_budget_per_minute")
            assert 0 < budget <= 60 - before
            wait_until(
                lambda: metric(worker, expected_checks) > 2, "expected checks", worker
            )
            worker.terminate()
        received_at = sorted(request["received_at"] for request in requests(simulator))
    assert most_in_a_minute(received_at) <= 60


def test_the_last_records_of_a_worker_carry_the_budget_it_has_used(
    tmp_path: Path, names: Names
) -> None:
    # The next owner counts it as used. The last record is committed after the shard was
    # given up, when the worker's share is already gone.
    with (
        LocalKafka(tmp_path / "kafka") as broker,
        start_simulator(
            "--period", "0.3", "--jitter", "0.2", "--limit", "0"
        ) as simulator,
        start_worker(variables_for(broker, names, simulator) | FAST) as worker,
    ):
        wait_until(lambda: len(requests(simulator)) > 10, "requests", worker)
        os.kill(broker.pid, signal.SIGSTOP)
        try:
            before = len(requests(simulator))
            wait_until(
                lambda: len(requests(simulator)) > before + 5,
                "more answers than commits",
                worker,
            )
            worker.signal(signal.SIGTERM)
            wait_until(
                lambda: worker.metric("gex_shards_owned") == 0,
                "the shard is given up",
                worker,
            )
        finally:
            os.kill(broker.pid, signal.SIGCONT)
        assert worker.wait() == 0
        states = checker.records(broker, f"{names.topic_prefix}.all.current")
    assert max(float(record.headers["spent"]) for record in states) < 0.1
