"""Two workers share the shards of a feed: one is frozen, wakes up, and leaves."""

from __future__ import annotations

import signal
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
    from connector.devkit.local_kafka import LocalKafka
    from tests.conftest import Names
    from tests.support.processes import Program

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


def owned(worker: Program) -> int:
    return worker.metric("gex_shards_owned")


def _names_another_fleet(worker: Program) -> bool:
    return "another fleet uses these topics" in worker.log()


@pytest.mark.timeout(240)
def test_a_frozen_worker_does_no_harm_when_it_wakes_and_a_stopped_one_hands_over(
    kafka: LocalKafka, names: Names
) -> None:
    with start_simulator(
        "--period", "1", "--jitter", "0.1", "--limit", "0"
    ) as simulator:
        variables = variables_for(kafka, names, simulator, SYMBOLS) | {
            "GEX_SCHEDULE__TARGET_DELAY_SECONDS": "0.05",
            "GEX_SCHEDULE__MIN_INTERVAL_SECONDS": "0.05",
            "GEX_KAFKA__SHARDS": "2",
        }
        with start_worker(variables) as one, start_worker(variables) as other:
            wait_until(lambda: (owned(one), owned(other)) == (1, 1), "they share", one)
            one.signal(signal.SIGSTOP)
            wait_until(lambda: owned(other) == 2, "the other has both", other)
            one.signal(signal.SIGCONT)
            wait_until(
                lambda: (owned(one), owned(other)) == (1, 1), "they share again", one
            )
            wait_until(lambda: one.ready() and other.ready(), "both are ready", one)
            assert one.terminate() == 0
            wait_until(lambda: owned(other) == 2, "the other has both again", other)
            assert other.terminate() == 0
        shown = checker.shown(simulator.ask("/_control/truth")["answers"])
    events, current = (
        checker.events(kafka, names.topic_prefix),
        checker.states(kafka, names.topic_prefix),
    )
    assert set(current) == set(SYMBOLS)
    assert checker.violations(events, current) == []
    published = {(event.symbol, event.computed_at or 0) for event in events}
    assert published <= shown
    # What the frozen one and the two that stopped had in hand; the freeze may hold a few in the inbox.
    assert len(shown - published) <= 3 * len(SYMBOLS)


@pytest.mark.timeout(240)
def test_two_fleets_on_the_same_topics_name_each_other_and_break_no_sequence(
    kafka: LocalKafka, names: Names
) -> None:
    with start_simulator(
        "--period", "1", "--jitter", "0.1", "--limit", "0"
    ) as simulator:
        variables = variables_for(kafka, names, simulator, SYMBOLS)
        others = variables | {"GEX_KAFKA__GROUP_ID": f"{names.group_id}-others"}
        with start_worker(variables) as one, start_worker(others) as other:
            for worker, group in (
                (one, f"{names.group_id}-others"),
                (other, names.group_id),
            ):
                wait_until(partial(_names_another_fleet, worker), "it notices", worker)
                said = next(
                    line
                    for line in worker.log().splitlines()
                    if "another fleet" in line
                )
                assert f'"group": "{group}"' in said
                assert "gex_shard_fenced_total 0.0" not in worker.text("/metrics")
            assert [one.terminate(), other.terminate()] == [0, 0]
    events, current = (
        checker.events(kafka, names.topic_prefix),
        checker.states(kafka, names.topic_prefix),
    )
    assert checker.violations(events, current) == []


@pytest.mark.timeout(240)
def test_workers_are_replaced_one_by_one_by_others_with_more_symbols(
    kafka: LocalKafka, names: Names
) -> None:
    with start_simulator(
        "--period", "1", "--jitter", "0.1", "--limit", "0"
    ) as simulator:
        shards = {"GEX_KAFKA__SHARDS": "2", "GEX_SCHEDULE__TARGET_DELAY_SECONDS": "0.1"}
        old = variables_for(kafka, names, simulator, SYMBOLS[:4]) | shards
        new = variables_for(kafka, names, simulator, SYMBOLS) | shards
        with (
            start_worker(old) as first,
            start_worker(old) as second,
            start_worker(new) as third,
        ):
            assert first.terminate() == 0
            with start_worker(new) as fourth:
                assert second.terminate() == 0
                wait_until(
                    lambda: (owned(third), owned(fourth)) == (1, 1),
                    "the new ones share",
                    third,
                )
                wait_until(
                    lambda: _statuses(kafka, names) == dict.fromkeys(SYMBOLS, "LIVE"),
                    "all live",
                    third,
                )
                assert [third.terminate(), fourth.terminate()] == [0, 0]
    events, current = (
        checker.events(kafka, names.topic_prefix),
        checker.states(kafka, names.topic_prefix),
    )
    assert checker.violations(events, current) == []


def _statuses(kafka: LocalKafka, names: Names) -> dict[str, str]:
    return {
        symbol: str(state.status)
        for symbol, state in checker.states(kafka, names.topic_prefix).items()
    }


@pytest.mark.timeout(120)
def test_a_standby_is_ready_and_takes_over(kafka: LocalKafka, names: Names) -> None:
    with start_simulator("--period", "1", "--limit", "0") as simulator:
        variables = variables_for(kafka, names, simulator, SYMBOLS)
        with start_worker(variables) as one, start_worker(variables) as other:
            wait_until(lambda: owned(one) + owned(other) == 1, "one has it", one)
            active, standby = (one, other) if owned(one) else (other, one)
            assert standby.ready()
            active.kill()
            wait_until(lambda: owned(standby) == 1, "the standby has it", standby)
            standby.terminate()
    events, current = (
        checker.events(kafka, names.topic_prefix),
        checker.states(kafka, names.topic_prefix),
    )
    assert checker.violations(events, current) == []
