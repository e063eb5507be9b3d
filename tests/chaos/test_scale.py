"""A fleet grows from one worker to five and shrinks again and again, under load."""

from __future__ import annotations

import time
from contextlib import ExitStack
from typing import TYPE_CHECKING

import pytest

from connector.core.entry import moment_or_none
from connector.core.model import MICROS
from tests.chaos.fleet import KEYS, SLOTS, Fleet
from tests.support import checker
from tests.support.processes import start_simulator, variables_for, wait_until

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from connector.devkit.local_kafka import LocalKafka
    from tests.conftest import Names

SYMBOLS = tuple(f"SYM{number:02d}USDT" for number in range(40))
# Long enough that a rebalance falls between two refreshes of most symbols.
PERIOD_SECONDS = 12
UP = tuple(range(2, SLOTS + 1))
DOWN = tuple(reversed(range(1, SLOTS)))


@pytest.mark.long
def test_one_worker_becomes_five_and_one_again_and_no_refresh_is_missed(
    kafka: LocalKafka,
    names: Names,
    tmp_path: Path,
    record_property: Callable[[str, object], None],
) -> None:
    with ExitStack() as stack:
        options = ("--period", str(PERIOD_SECONDS), "--limit", "0")
        simulator = stack.enter_context(
            start_simulator(*options, "--symbols", ",".join(SYMBOLS))
        )
        simulator.ask("/_control/set", {"keys": KEYS})
        variables = variables_for(kafka, names, simulator, SYMBOLS)
        # A shard for each worker of the largest fleet.
        variables["GEX_KAFKA__SHARDS"] = str(SLOTS)
        variables["GEX_SCHEDULE__TARGET_DELAY_SECONDS"] = "0.2"
        fleet = stack.enter_context(Fleet(variables, tmp_path, 1, module="connector"))

        def has_settled() -> bool:
            fleet.tend()
            return fleet.ready() and fleet.shards_owned() == SLOTS

        wait_until(has_settled, "one worker has all shards")
        began_at = time.time()
        # Refreshes of the first period do not count, so that at least two periods do.
        while time.time() < began_at + 3 * PERIOD_SECONDS:
            for wanted in (*UP, *DOWN):
                fleet.wanted = wanted
                wait_until(has_settled, f"{wanted} workers have all shards")
        ended_at = time.time()

        def last_refreshes_are_seen() -> bool:
            return time.time() > ended_at + PERIOD_SECONDS

        wait_until(last_refreshes_are_seen, "another round")
        truth = simulator.ask("/_control/truth")
        fleet.end()
        statuses = {life.status for life in fleet.lives}

    # Only refreshes while workers came and went count.
    computed = set()
    for refresh in truth["refreshes"]:
        visible_at = refresh["visible_at"] / MICROS
        if began_at + PERIOD_SECONDS < visible_at < ended_at:
            computed_at = moment_or_none(refresh["computed_at"])
            computed.add((refresh["symbol"], computed_at))
    events = checker.events(kafka, names.topic_prefix)
    states = checker.states(kafka, names.topic_prefix)
    published = {(event.symbol, event.computed_at) for event in events}
    record_property("refreshes while workers came and went", len(computed))
    record_property("missed", len(computed - published))
    record_property("seconds", round(ended_at - began_at))
    assert computed - published == set()
    assert len(computed) > len(SYMBOLS)
    assert checker.violations(events, states) == []
    # Every worker that was stopped ended in good order.
    assert statuses == {0}
