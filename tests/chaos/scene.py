"""Settings and questions that the scenes of this folder share."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tests.support import checker

if TYPE_CHECKING:
    from collections.abc import Callable

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
            return 0

    def at_least(self, count: int) -> Callable[[], bool]:
        """Return a function that says whether there are so many events."""
        return lambda: self.now() >= count

    def more_than_now(self) -> Callable[[], bool]:
        """Return a function that says whether an event has come since this call."""
        return self.at_least(self.now() + 1)


def violations(kafka: LocalKafka, names: Names) -> list[str]:
    """Return the invariants that a scene broke, as its topics show."""
    events = checker.events(kafka, names.topic_prefix)
    states = checker.states(kafka, names.topic_prefix)
    return checker.violations(events, states)


def shards_owned(worker: Program) -> int:
    return worker.metric("gex_shards_owned")
