"""Workers that share shards are frozen, stopped, replaced and killed; two fleets meet."""

from __future__ import annotations

import json
import signal
from functools import partial
from typing import TYPE_CHECKING

import pytest

from tests.chaos.scene import FAST, FAST_REFRESHES, SYMBOLS, shards_owned, violations
from tests.support import checker
from tests.support.log_messages import OTHER_FLEET
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


def share(one: Program, other: Program) -> bool:
    """Return whether each of two workers owns one of two shards."""
    return shards_owned(one) == 1 and shards_owned(other) == 1


@pytest.mark.timeout(240)
def test_a_frozen_worker_does_no_harm_when_it_wakes_and_a_stopped_one_hands_over(
    kafka: LocalKafka, names: Names
) -> None:
    with start_simulator(*FAST_REFRESHES) as simulator:
        settings = {**FAST, "GEX_KAFKA__SHARDS": "2"}
        variables = variables_for(kafka, names, simulator, SYMBOLS) | settings
        with start_worker(variables) as one, start_worker(variables) as other:
            wait_until(partial(share, one, other), "they share", one)

            one.signal(signal.SIGSTOP)
            wait_until(lambda: shards_owned(other) == 2, "the other has both", other)
            one.signal(signal.SIGCONT)
            wait_until(partial(share, one, other), "they share again", one)
            wait_until(lambda: one.ready() and other.ready(), "both are ready", one)

            assert one.terminate() == 0
            wait_until(lambda: shards_owned(other) == 2, "the other has both", other)
            assert other.terminate() == 0
        shown = checker.shown(simulator.ask("/_control/truth")["answers"])

    events = checker.events(kafka, names.topic_prefix)
    states = checker.states(kafka, names.topic_prefix)
    assert set(states) == set(SYMBOLS)
    assert checker.violations(events, states) == []
    published = {(event.symbol, event.computed_at or 0) for event in events}
    assert published <= shown
    # The frozen worker and the two that stopped each may have had one answer of a
    # symbol in hand.
    assert len(shown - published) <= 3 * len(SYMBOLS)


def warnings_of_another_fleet(worker: Program) -> list[dict[str, str]]:
    found = []
    for line in worker.log().splitlines():
        if OTHER_FLEET in line:
            found.append(json.loads(line))
    return found


@pytest.mark.timeout(240)
def test_two_fleets_on_the_same_topics_name_each_other_and_break_no_sequence(
    kafka: LocalKafka, names: Names
) -> None:
    other_group = f"{names.group_id}-others"
    with start_simulator(*FAST_REFRESHES) as simulator:
        variables = variables_for(kafka, names, simulator, SYMBOLS)
        others = variables | {"GEX_KAFKA__GROUP_ID": other_group}
        with start_worker(variables) as one, start_worker(others) as other:
            for worker, group in ((one, other_group), (other, names.group_id)):
                warnings = wait_until(
                    partial(warnings_of_another_fleet, worker), "a warning", worker
                )
                assert warnings[0]["group"] == group
                assert "gex_shard_fenced_total 0.0" not in worker.text("/metrics")
            assert one.terminate() == 0
            assert other.terminate() == 0
    assert violations(kafka, names) == []


@pytest.mark.long
@pytest.mark.timeout(240)
def test_workers_are_replaced_one_by_one_by_others_with_more_symbols(
    kafka: LocalKafka, names: Names
) -> None:
    all_live = dict.fromkeys(SYMBOLS, "LIVE")
    with start_simulator(*FAST_REFRESHES) as simulator:
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
                wait_until(partial(share, third, fourth), "the new ones share", third)
                wait_until(
                    lambda: statuses(kafka, names) == all_live, "all are live", third
                )
                assert third.terminate() == 0
                assert fourth.terminate() == 0
    assert violations(kafka, names) == []


def statuses(kafka: LocalKafka, names: Names) -> dict[str, str]:
    """Return the status of each symbol's last state."""
    found = {}
    for symbol, state in checker.states(kafka, names.topic_prefix).items():
        found[symbol] = str(state.status)
    return found


@pytest.mark.timeout(120)
def test_a_standby_is_ready_and_takes_over(kafka: LocalKafka, names: Names) -> None:
    with start_simulator("--period", "1", "--limit", "0") as simulator:
        variables = variables_for(kafka, names, simulator, SYMBOLS)
        with start_worker(variables) as one, start_worker(variables) as other:
            wait_until(
                lambda: shards_owned(one) + shards_owned(other) == 1,
                "one of them has the shard",
                one,
            )
            active, standby = one, other
            if shards_owned(other):
                active, standby = other, one
            assert standby.ready()
            active.kill()
            wait_until(
                lambda: shards_owned(standby) == 1, "the standby has it", standby
            )
            standby.terminate()
    assert violations(kafka, names) == []
