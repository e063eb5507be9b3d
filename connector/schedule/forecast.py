"""Learn when a symbol is refreshed, and predict its next refreshes. Pure.

Moments are seconds of our monotonic clock. The upstream tells exactly when it computed
a refresh; the refresh becomes visible some lag later.

Filters follow the rhythm of the refreshes (filter_bank.py). Their errors give the
distribution of the next refresh.
"""

from __future__ import annotations

from math import floor
from typing import TYPE_CHECKING, Final

from connector.schedule.filter_bank import SAME_INTERVAL_TOLERANCE, FilterBank
from connector.schedule.inspection import Point
from connector.schedule.refresh_filter import SETTLED_REFRESHES

if TYPE_CHECKING:
    from connector.schedule.refresh_filter import RefreshFilter

# The documented period of the upstream. It is assumed until two refreshes were seen.
USUAL_PERIOD_SECONDS: Final = 30.0

# Fraction of the refreshes that the upstream skips: the first guess, and the weight of
# each new refresh in the estimate.
_INITIAL_SKIPPED_FRACTION: Final = 0.02
_SKIPPED_WEIGHT: Final = 0.02

# More refreshes missing at once are an outage, which says nothing about usual skips.
_MAX_SKIPPED_AT_ONCE: Final = 2

# Bounds the work for a curve that spans very many short periods. The rest of such a
# curve would not change the plan.
_MAX_POINTS: Final = 1000


class Forecast:
    """The forecast of one symbol's refreshes, learnt from every refresh that was seen.

    `begun_at` is the moment from which the symbol was requested. `last` is the last
    refresh, None before the first.
    """

    def __init__(self, begun_at: float) -> None:
        self.last: float | None = None
        self._begun_at = begun_at
        self._skipped_fraction = _INITIAL_SKIPPED_FRACTION
        self._filters: FilterBank | None = None

    @property
    def period(self) -> float | None:
        """Seconds between refreshes, None before two were seen."""
        if self._filters is None:
            return None
        return self._filters.believed.period

    @property
    def phase(self) -> float | None:
        """A moment near which a refresh falls, None before two were seen."""
        if self._filters is None:
            return None
        return self._filters.believed.phase

    @property
    def jitter(self) -> float | None:
        """Standard deviation of the next refresh in seconds, None before two were seen."""
        if self._filters is None:
            return None
        return self._filters.jitter

    def learn(self, at: float, lag: float, unseen_since: float | None) -> None:
        """Learn that a refresh was computed at `at` and became visible `lag` later.

        `unseen_since` is when the last check was sent that did not show it yet. None:
        perhaps nobody has looked since the refresh before.
        """
        if self.last is None:
            self.last = at
            return
        interval = at - self.last
        is_watched = unseen_since is not None
        if unseen_since is None:
            unseen_since = self.last
        steps = self._steps(interval, at - unseen_since)
        if self._filters is not None:
            self._learn_skips(self._filters.believed, steps, unseen_since)
            self._filters.learn(at, lag, interval, steps)
        elif interval > 0 and is_watched:
            self._filters = FilterBank(at, interval / steps)
        # Otherwise the interval may be an outage, or a clock was set before the second
        # refresh: count this as the first.
        self.last = at

    def is_lost(self, now: float) -> bool:
        """Return True if no rhythm is known, or if the next two refreshes are overdue."""
        if self._filters is None:
            return True
        latest_error = self._filters.errors.at[-1]
        return now > self._filters.believed.expected(2) + latest_error

    def settled_by(self, since: float) -> float:
        """Return when the next refresh after `since` should be visible, unless it is late."""
        if self._filters is None:
            return since
        best = self._filters.believed
        end = best.expected(1) + self._filters.errors.latest
        # The periods that are over by then.
        passed = floor((since - end) / best.period) + 1
        return end + max(passed, 0) * best.period

    def curve(self, since: float, until: float) -> list[Point]:
        """Return the refreshes to expect, if a check sent at `since` showed nothing new.

        Each period brings one refresh unless it is skipped. The longer none came in a
        period, the less likely one is to come in it at all, but the more likely at any
        moment that remains.
        """
        if self._filters is None:
            return self._curve_without_rhythm(since, until)
        best = self._filters.believed
        errors = self._filters.errors
        chance = 1 - self._skipped_fraction
        background_rate = 0.0
        center = best.expected(1)

        overdue = since - center - errors.at[-1]
        if overdue > 0:
            # The longer nothing came, the less the rhythm is to be trusted: expect
            # fewer refreshes in its windows, and some at any moment.
            missed = int(overdue / best.period) + 1
            center += missed * best.period
            chance /= 1 + missed / 2
            background_rate = chance / best.period

        curve = [Point(since, 0.0, 0.0)]
        total = 0.0
        while center + errors.at[0] < until and len(curve) < _MAX_POINTS:
            # Bayes: the probability of this refresh, although it did not come so far.
            past = errors.below(since - center)
            weight = chance / max(1 - chance * past, 1e-9)
            if past:
                curve[0] = Point(since, 0.0, weight * (1 - past))
            for error, mass in zip(errors.at, errors.mass, strict=True):
                at = center + error
                # Windows of a short period overlap; a curve goes forwards only.
                if at > curve[-1].at:
                    in_window = total + weight * (mass - past)
                    expected = in_window + background_rate * (at - since)
                    curve.append(Point(at, expected, weight * (1 - mass)))
            total += weight * (1 - past)
            center += best.period
        if curve[-1].at < until:
            expected = total + background_rate * (until - since)
            curve.append(Point(until, expected, 0.0))
        return curve

    def _curve_without_rhythm(self, since: float, until: float) -> list[Point]:
        """Return a constant rate that falls the longer no refresh came."""
        rate = 1 / max(USUAL_PERIOD_SECONDS, since - self._begun_at)
        expected = (until - since) * rate
        return [Point(since, 0.0, 0.0), Point(until, expected, 0.0)]

    def _steps(self, interval: float, hidden: float) -> int:
        """Return the number of periods in an interval.

        No check looked into the last `hidden` seconds. A new filter does not know its
        period well. If checks looked into most of the interval, there was no refresh in
        between.
        """
        period = USUAL_PERIOD_SECONDS
        is_new = True
        if self._filters is not None:
            best = self._filters.believed
            period = best.period
            is_new = best.refreshes < SETTLED_REFRESHES - 1
        if is_new and hidden < interval / 2:
            return 1
        return max(1, round(interval / period))

    def _learn_skips(
        self, best: RefreshFilter, steps: int, unseen_since: float
    ) -> None:
        """Learn the fraction of refreshes that are skipped.

        Only a refresh that a check looked for after its time is known to be skipped.
        Others may have come and been replaced before a check could show them.
        """
        checked_periods = (unseen_since - best.phase) / best.period
        seen_missing = max(int(checked_periods - SAME_INTERVAL_TOLERANCE), 0)
        skipped = min(seen_missing, steps - 1, _MAX_SKIPPED_AT_ONCE)
        surplus = skipped - (skipped + 1) * self._skipped_fraction
        self._skipped_fraction += _SKIPPED_WEIGHT * surplus
