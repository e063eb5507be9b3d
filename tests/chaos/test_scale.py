"""From one worker to five and back to one, under load: no refresh is missed for it."""

from __future__ import annotations

import time
from contextlib import ExitStack
from typing import TYPE_CHECKING

import pytest

from connector.core.entry import moment_or_none
from tests.chaos.fleet import KEYS, SLOTS, Fleet
from tests.support import checker
from tests.support.processes import start_simulator, variables_for, wait_until

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from connector.devkit.local_kafka import LocalKafka
    from tests.conftest import Names

SYMBOLS = tuple(f"SYM{number:02d}USDT" for number in range(40))
PERIOD_SECONDS = 12
MICROS = 1_000_000


@pytest.mark.timeout(300)
def test_one_worker_becomes_five_and_one_again_and_no_refresh_is_missed(
    kafka: LocalKafka,
    names: Names,
    tmp_path: Path,
    record_property: Callable[[str, object], None],
) -> None:
    with ExitStack() as stack:
        simulator = stack.enter_context(
            start_simulator(
                "--period",
                str(PERIOD_SECONDS),
                "--limit",
                "0",
                "--symbols",
                ",".join(SYMBOLS),
            )
        )
        simulator.ask("/_control/set", {"keys": KEYS})
        variables = variables_for(kafka, names, simulator, SYMBOLS) | {
            "GEX_KAFKA__SHARDS": str(SLOTS),
            "GEX_SCHEDULE__TARGET_DELAY_SECONDS": "0.2",
        }
        fleet = stack.enter_context(Fleet(variables, tmp_path, 1, module="connector"))

        def settled() -> bool:
            fleet.tend()
            return fleet.ready() and fleet.shards_owned() == SLOTS

        wait_until(settled, "one worker has all")
        began = time.time()
        for wanted in (*range(2, SLOTS + 1), *reversed(range(1, SLOTS))):
            fleet.wanted = wanted
            wait_until(settled, f"{wanted} workers have all")
        ended = time.time()
        # What was computed last is still to be seen.
        wait_until(lambda: time.time() > ended + PERIOD_SECONDS, "another round")
        truth = simulator.ask("/_control/truth")
        fleet.end()
        statuses = {life.status for life in fleet.lives}
    computed = {
        (one["symbol"], moment_or_none(one["computed_at"]))
        for one in truth["refreshes"]
        if began + PERIOD_SECONDS < one["visible_at"] / MICROS < ended
    }
    events, current = (
        checker.events(kafka, names.topic_prefix),
        checker.states(kafka, names.topic_prefix),
    )
    published = {(event.symbol, event.computed_at) for event in events}
    record_property("refreshes while workers came and went", len(computed))
    record_property("missed", len(computed - published))
    record_property("seconds", round(ended - began))
    assert computed - published == set()
    assert len(computed) > len(SYMBOLS) / 4
    assert checker.violations(events, current) == []
    assert statuses == {0}
