"""A machine whose clock is minutes off takes a shard over."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from connector.core.model import Status
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

SYMBOLS = ("BTCUSDT", "ETHUSDT")
REFRESHES = ("--period", "2", "--jitter", "0.1", "--limit", "0")


# The upstream's clock is set instead of ours: it is the difference that counts. It is less
# than what is corrected, and more than what a symbol's levels may be ahead or old.
@pytest.mark.parametrize("seconds", [170, -170])
def test_a_wrong_clock_neither_delays_a_take_over_nor_invents_a_fault(
    kafka: LocalKafka, names: Names, seconds: int
) -> None:
    def sequences() -> dict[str, int]:
        found = dict.fromkeys(SYMBOLS, 0)
        for event in checker.events(kafka, names.topic_prefix):
            found[event.symbol] = event.sequence
        return found

    def wait_for_later_events() -> None:
        """Wait until each symbol has two more events."""
        before = sequences()

        def have_come() -> bool:
            now = sequences()
            return all(now[symbol] >= before[symbol] + 2 for symbol in SYMBOLS)

        wait_until(have_come, "later events of each symbol")

    with start_simulator(*REFRESHES) as simulator:
        simulator.ask("/_control/faults", {"fault": "clock_step", "seconds": seconds})
        variables = variables_for(kafka, names, simulator, SYMBOLS)
        with start_worker(variables):
            wait_for_later_events()
        with start_worker(variables) as successor:
            wait_for_later_events()
            quarantined = successor.log().count("entry quarantined")

    statuses = {event.status for event in checker.events(kafka, names.topic_prefix)}
    assert statuses == {Status.LIVE}
    assert quarantined == 0
