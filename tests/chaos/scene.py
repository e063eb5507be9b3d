"""Settings and questions that the scenes of this folder share."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tests.support import checker
from tests.support.ownership import shards_owned
from tests.support.processes import wait_until

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from connector.core.model import Event
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

# Arguments of the simulator: every symbol changes once a second.
FAST_REFRESHES = ("--period", "1", "--jitter", "0.1", "--limit", "0")

# Settings of a worker that sees every such refresh.
FAST = {
    "GEX_SCHEDULE__TARGET_DELAY_SECONDS": "0.05",
    "GEX_SCHEDULE__MIN_INTERVAL_SECONDS": "0.05",
}


class EventCount:
    """Counts the events of a feed, to wait for more of them."""

    def __init__(self, kafka: LocalKafka, names: Names) -> None:
        self._kafka = kafka
        self._topic = f"{names.topic_prefix}.all.changes"

    def now(self) -> int:
        """Return the number of events, 0 if the topic cannot be read yet."""
        try:
            return len(checker.records(self._kafka, self._topic))
        except (KeyError, AssertionError):
            # There is no topic yet, or no broker that leads its partitions.
            return 0

    def at_least(self, count: int) -> Callable[[], bool]:
        """Return a function that returns True once there are `count` events."""

        def is_reached() -> bool:
            return self.now() >= count

        return is_reached

    def more_than_now(self) -> Callable[[], bool]:
        """Return a function that returns True once an event has come since this call."""
        return self.at_least(self.now() + 1)


def violations(kafka: LocalKafka, names: Names) -> list[str]:
    """Return the invariants that a scene broke, as its topics show."""
    events = checker.events(kafka, names.topic_prefix)
    states = checker.states(kafka, names.topic_prefix)
    return checker.violations(events, states)


def refreshes_of(events: Iterable[Event]) -> set[tuple[str, int]]:
    """Return symbol and `computed_at` of every event, as `checker.shown` does of answers."""
    return {(event.symbol, event.computed_at or 0) for event in events}


def wait_for_shards(worker: Program, count: int) -> None:
    """Wait until a worker owns this number of shards."""

    def owns_them() -> bool:
        return shards_owned(worker) == count

    wait_until(owns_them, f"the worker owns {count} shards", worker)
