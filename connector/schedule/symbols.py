"""Keep what is known of each symbol, and learn from answers. Pure."""

from __future__ import annotations

from itertools import pairwise
from statistics import median_low
from typing import TYPE_CHECKING, Final

import msgspec

from connector.core.model import MICROS, Value
from connector.schedule.forecast import Forecast
from connector.schedule.visibility_lag import VisibilityLag

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from connector.schedule.batches import Batch


# An interval of a history that is longer than this many usual ones was an outage, or a
# refresh in it was skipped.
_MAX_USUAL_INTERVALS: Final = 1.5

# With fewer intervals, nobody can tell if one of them is usual.
_MIN_INTERVALS: Final = 2


class ComputedTimes(Value, frozen=True):
    """The moments at which the levels in an answer were computed.

    `computed_at` holds microseconds of the upstream's clock, for each symbol with levels.
    `upstream_minus_monotonic_seconds` is the upstream's clock minus our monotonic clock.
    `is_copy` says that the answer repeats an earlier one, as caches do. So it does not show
    that no refresh came since.
    """

    computed_at: Mapping[str, int]
    upstream_minus_monotonic_seconds: float
    is_copy: bool = False


class Refresh(Value, frozen=True):
    """A refresh that a check found.

    It became visible after `since`, when the last check was sent that did not show it. That
    check may have been sent later than the one that found the refresh, if it was answered
    earlier.
    """

    symbol: str
    since: float


class Symbol(msgspec.Struct):
    """The schedule's knowledge of a symbol.

    `computed_at` is the last refresh in microseconds of the upstream's clock. `checked_at`
    is when the check was sent that was answered last. `looked_at` is when the last check was
    sent whose answer was not a copy. Both are None before the first.
    """

    forecast: Forecast
    computed_at: int = 0
    checked_at: float | None = None
    looked_at: float | None = None


class Symbols:
    """The symbols of all batches, with their forecasts and the common visibility lag."""

    def __init__(self) -> None:
        self._known: dict[tuple[str, str], Symbol] = {}
        self._lag = VisibilityLag()

    def __len__(self) -> int:
        return len(self._known)

    @property
    def lag_seconds(self) -> float:
        """The estimated time until a computed refresh is visible."""
        return self._lag.seconds

    def of(self, batch: Batch) -> list[Symbol]:
        """Return the symbols of one of the batches that were set."""
        return [self._known[batch.feed, symbol] for symbol in batch.symbols]

    def forecast(self, feed: str, symbol: str) -> Forecast | None:
        """Return the forecast of a symbol's refreshes, None for an unknown symbol."""
        known = self._known.get((feed, symbol))
        return None if known is None else known.forecast

    def set_batches(self, batches: Sequence[Batch], now: float) -> None:
        """Keep the symbols of these batches, add new ones, and forget all others."""
        before = self._known
        self._known = {}
        for batch in batches:
            for symbol in batch.symbols:
                key = (batch.feed, symbol)
                if key in self._known:
                    continue
                known = before.get(key)
                if known is None:
                    known = Symbol(Forecast(now))
                self._known[key] = known

    def seed_history(
        self,
        feed: str,
        symbol: str,
        computed_at: Sequence[int],
        upstream_minus_monotonic_seconds: float,
    ) -> None:
        """Learn a symbol's rhythm from refreshes that others found, oldest first.

        During an outage they found none, although the upstream went on.
        """
        known = self._known.get((feed, symbol))
        if known is None or known.forecast.last is not None:
            return
        longest = _longest_usual_interval(computed_at)
        for moment in computed_at:
            at = moment / MICROS - upstream_minus_monotonic_seconds
            is_usual = moment - known.computed_at <= longest
            known.forecast.learn(at, 0.0, at if is_usual else None)
            known.computed_at = moment

    def learn(
        self, batch: Batch, sent_at: float, now: float, times: ComputedTimes | None
    ) -> list[Refresh]:
        """Learn from an answer, and return the refreshes that it showed."""
        found = []
        for symbol in batch.symbols:
            known = self._known.get((batch.feed, symbol))
            if known is None:
                continue
            before = known.looked_at
            known.checked_at = sent_at
            # Answers can overtake each other when symbols move to another batch.
            is_overtaken = before is not None and sent_at < before
            is_copy = times is not None and times.is_copy
            if not is_copy and not is_overtaken:
                known.looked_at = sent_at
            computed_at = None if times is None else times.computed_at.get(symbol)
            if times is None or computed_at is None or computed_at <= known.computed_at:
                continue
            known.computed_at = computed_at
            at = computed_at / MICROS - times.upstream_minus_monotonic_seconds
            if before is None:
                # The refresh may be old, and others may have come before it.
                known.forecast.learn(at, self._lag.seconds, None)
                continue
            least = min(before, now) - at
            lag = self._lag.learn(least, now - at)
            known.forecast.learn(at, lag, before)
            found.append(Refresh(symbol, before))
        return found


def _longest_usual_interval(computed_at: Sequence[int]) -> float:
    """Return the longest interval in which no refresh is missing, 0 if that is not known."""
    intervals = [later - earlier for earlier, later in pairwise(computed_at)]
    if len(intervals) < _MIN_INTERVALS:
        return 0.0
    return _MAX_USUAL_INTERVALS * median_low(intervals)
