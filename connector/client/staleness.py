"""Tells from the records alone if levels still arrive.

A connector that died is silent, and so is one that has nothing to tell. The difference is
in `current`: it is rewritten at every refresh of every symbol. The API computes a symbol
about every 30 s, and each state has the moments of its last 16 refreshes. So it is known,
from the first state on, how long a symbol may be silent.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from statistics import median
from typing import TYPE_CHECKING, Final

from connector.core.model import MICROS, Status

if TYPE_CHECKING:
    from collections.abc import Callable

    from connector.core.model import State

# The API's period, if a state has too few refreshes to tell.
_USUAL_PERIOD_SECONDS: Final = 30.0
# One refresh may be missed, and the next one may be late.
_PERIODS: Final = 2.0
# Another worker takes over a dead worker's symbols within 6 to 9 s.
_TAKEOVER_SECONDS: Final = 10.0

# Long silences are told in these units, once there are so many: a past day that is replayed
# is silent for years.
_UNITS: Final = (("days", 86_400), ("h", 3_600))
_UNITS_SHOWN: Final = 3


@dataclass(slots=True)
class _Arrival:
    """The last state of a symbol: when it was observed, and when the next must come."""

    at: float
    limit_seconds: float
    status: Status


class StalenessClock:
    """Measures the silence of a feed and of each symbol. Not safe for concurrent use.

    `last_group` is the consumer group of the last record's writer.

    The silence begins when a state was observed, not when it is read: a client that was cut
    off reads a backlog. So it is as exact as the clocks of the two machines. `wall` (seconds
    since the epoch) gives the age of a state when it is read, and `monotonic` the time since.
    """

    def __init__(
        self, monotonic: Callable[[], float], wall: Callable[[], float]
    ) -> None:
        self._monotonic = monotonic
        self._wall = wall
        self._arrivals: dict[str, _Arrival] = {}
        self._last_at: float | None = None
        self.last_group: str | None = None

    def note(self, state: State) -> None:
        """Note the last state of a symbol."""
        age = max(0.0, self._wall() - state.observed_at / MICROS)
        at = self._monotonic() - age
        limit = _PERIODS * _period_of(state) + _TAKEOVER_SECONDS
        self._arrivals[state.symbol] = _Arrival(at, limit, state.status)
        if self._last_at is None or at >= self._last_at:
            self._last_at = at
            self.last_group = state.source.group

    @property
    def silent_for(self) -> float | None:
        """Return the seconds since the last record of any symbol; None if there is none."""
        if self._last_at is None:
            return None
        return max(0.0, self._monotonic() - self._last_at)

    def limit_of(self, symbol: str) -> float | None:
        """Return the seconds after which the silence of a symbol is too long."""
        arrival = self._arrivals.get(symbol)
        return None if arrival is None else arrival.limit_seconds

    def overdue(self, symbol: str) -> str | None:
        """Return why a symbol is silent for too long, None if it is not."""
        arrival = self._arrivals.get(symbol)
        if arrival is None:
            return "it has no state"
        return self._too_long(arrival)

    def feed_overdue(self) -> str | None:
        """Return why the feed is silent for too long, None if it is not.

        Symbols without levels are not refreshed, so they count only if all are so.
        """
        silent_for = self.silent_for
        if silent_for is None:
            return None
        limits = []
        for arrival in self._arrivals.values():
            if arrival.status is Status.LIVE:
                limits.append(arrival.limit_seconds)
        if not limits or silent_for <= min(limits):
            return None
        return _sentence("no record", silent_for, min(limits))

    def _too_long(self, arrival: _Arrival) -> str | None:
        silent_for = self._monotonic() - arrival.at
        if silent_for <= arrival.limit_seconds:
            return None
        return _sentence("no refresh", silent_for, arrival.limit_seconds)


def _period_of(state: State) -> float:
    """Return the usual time between two refreshes of a symbol, in seconds."""
    gaps = []
    for earlier, later in pairwise(state.recent_computed_at):
        gaps.append((later - earlier) / MICROS)
    # The median, because an outage leaves one long gap.
    return median(gaps) if gaps else _USUAL_PERIOD_SECONDS


def _sentence(subject: str, silent_for: float, limit: float) -> str:
    return f"{subject} for {_duration(silent_for)} (expected within {limit:.0f} s)"


def _duration(seconds: float) -> str:
    """Return a duration in the unit that suits it: 90 s, 30 h, 732 days."""
    for unit, unit_seconds in _UNITS:
        if seconds >= _UNITS_SHOWN * unit_seconds:
            return f"{seconds / unit_seconds:.0f} {unit}"
    return f"{seconds:.0f} s"
