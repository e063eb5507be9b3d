"""When a worker asks, over real HTTP: what it was told to wait, what it knows after a restart, what others left."""

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


def answers(simulator: Program) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = simulator.ask("/_control/truth")["answers"]
    return found


def without_a_limit_of_ours(variables: Mapping[str, str]) -> dict[str, str]:
    return {
        name: value
        for name, value in variables.items()
        if name != "GEX_UPSTREAM__MAX_REQUESTS_PER_MINUTE"
    }


def metric(worker: Program, series: str) -> float | None:
    with urllib.request.urlopen(f"{worker.url}/metrics", timeout=10) as response:
        lines = response.read().decode().splitlines()
    return next(
        (float(line.split()[-1]) for line in lines if line.startswith(series)), None
    )


def test_after_a_429_nothing_is_asked_for_as_long_as_it_says_and_then_at_once(
    kafka: LocalKafka, names: Names, record_property: Callable[[str, object], None]
) -> None:
    """One batch: of several, another request may be under way when the first is refused."""
    with start_simulator("--period", "1", "--limit", "0") as simulator:
        with start_worker(variables_for(kafka, names, simulator) | FAST) as worker:
            wait_until(lambda: len(answers(simulator)) > 10, "it asks", worker)
            simulator.ask(
                "/_control/faults",
                {"fault": "429", "retry_after_seconds": 5, "count": 1},
            )
            wait_until(
                lambda: any(answer["status"] == 429 for answer in answers(simulator)),
                "a 429",
                worker,
            )
            wait_until(
                lambda: answers(simulator)[-1]["status"] == 200, "it asks again", worker
            )
            worker.terminate()
        found = answers(simulator)
    told = next(answer for answer in found if answer["status"] == 429)
    after = min(
        answer["received_at"]
        for answer in found
        if answer["received_at"] > told["answered_at"]
    )
    seconds = (after - told["answered_at"]) / MICROS
    record_property(
        "seconds from a 429 with Retry-After 5 to the next request", round(seconds, 3)
    )
    assert 5.0 <= seconds < 6.0


def test_symbols_that_are_refreshed_together_come_to_share_requests(
    kafka: LocalKafka, names: Names
) -> None:
    """Packed by name they would be refreshed at every moment of the period."""
    symbols = [f"S{number:02d}USDT" for number in range(16)]
    with start_simulator(
        "--period",
        "4",
        "--jitter",
        "0.05",
        "--limit",
        "0",
        "--symbols",
        ",".join(symbols),
    ) as simulator:
        with start_worker(variables_for(kafka, names, simulator, symbols)) as worker:
            wait_until(lambda: "packed anew" in worker.log(), "other batches", worker)
            asked = len(answers(simulator))

            def all_asked() -> bool:
                """How often each of the two batches is due is chance."""
                since = answers(simulator)[asked:]
                return len(since) > 6 and {
                    symbol for answer in since for symbol in answer["symbols"]
                } == set(symbols)

            wait_until(all_asked, "more checks, of every symbol", worker)
            worker.terminate()
        found = answers(simulator)
    by_name = {tuple(symbols[:8]), tuple(symbols[8:])}
    late = {tuple(answer["symbols"]) for answer in found[-4:]}
    assert by_name.isdisjoint(late)
    assert {symbol for answer in found[asked:] for symbol in answer["symbols"]} == set(
        symbols
    )
    events, current = (
        checker.events(kafka, names.topic_prefix),
        checker.states(kafka, names.topic_prefix),
    )
    assert checker.violations(events, current) == []


def test_a_worker_that_takes_over_knows_the_rhythm_and_what_was_asked(
    kafka: LocalKafka, names: Names
) -> None:
    with start_simulator(
        "--period", "5", "--jitter", "0.05", "--phase", "together", "--limit", "60"
    ) as simulator:
        variables = without_a_limit_of_ours(variables_for(kafka, names, simulator))
        series = 'gex_symbol_period_seconds{feed="all",symbol="BTCUSDT"}'
        with start_worker(variables) as worker:
            wait_until(
                lambda: (metric(worker, series) or 0) == pytest.approx(5, abs=0.2),
                "the period",
                worker,
            )
            wait_until(
                lambda: len(checker.events(kafka, names.topic_prefix)) >= 4 * 8,
                "refreshes",
                worker,
            )
            worker.kill()
        asked = len(answers(simulator))
        with start_worker(variables) as worker:
            wait_until(
                lambda: len(answers(simulator)) > asked, "a first request", worker
            )
            assert metric(worker, series) == pytest.approx(5, abs=0.2)
            budget = metric(worker, "gex_request_budget_per_minute")
            assert budget is not None
            # What it asked within a minute counts as spent, and is not taken for another program's.
            assert 0 < budget <= 60 - asked
            wait_until(
                lambda: (
                    (
                        metric(
                            worker, 'gex_upstream_requests_total{purpose="expected"}'
                        )
                        or 0
                    )
                    > 2
                ),
                "",
                worker,
            )
            worker.terminate()
        received = sorted(answer["received_at"] for answer in answers(simulator))
    assert most_in_a_minute(received) <= 60


def most_in_a_minute(received_at: Sequence[int]) -> int:
    return max(
        sum(start <= moment < start + 60 * MICROS for moment in received_at)
        for start in received_at
    )


def test_what_a_worker_says_last_of_its_budget_is_what_it_has_used(
    tmp_path: Path, names: Names
) -> None:
    """Whoever takes over counts it as spent. The last record is committed after the shard was given up."""
    with (
        LocalKafka(tmp_path / "kafka") as broker,
        start_simulator(
            "--period", "0.3", "--jitter", "0.2", "--limit", "0"
        ) as simulator,
        start_worker(variables_for(broker, names, simulator) | FAST) as worker,
    ):
        wait_until(lambda: len(answers(simulator)) > 10, "it asks", worker)
        os.kill(broker.pid, signal.SIGSTOP)
        try:
            asked = len(answers(simulator))
            wait_until(
                lambda: len(answers(simulator)) > asked + 5,
                "more is seen than is committed",
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
        said = checker.records(broker, f"{names.topic_prefix}.all.current")
    assert max(float(record.headers["spent"]) for record in said) < 0.1
