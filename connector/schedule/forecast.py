"""Learn when a symbol is refreshed, and predict its next refreshes. Pure.

Moments are seconds of our monotonic clock. The upstream tells exactly when it computed
a refresh; the refresh becomes visible some lag later.

Upstreams keep time in different ways. Some follow a grid, so that jitter does not add
up. Others sleep after their work, so that it does. An alpha-beta filter, which tracks a
phase and a period, fits both, but with different gains (Morrison, *Introduction to
Sequential Smoothing and Prediction*, 1969: a growing memory at first, a fading memory
later). So a few filters run side by side, and the forecast believes the one that lately
predicted best. The errors of that filter give the distribution of the next refresh.
"""

from __future__ import annotations

from collections import deque
from math import floor
from typing import Final, NamedTuple

import msgspec

from connector.schedule.error_distribution import ErrorDistribution, shape_of
from connector.schedule.inspection import Point

# The documented period of the upstream. It is assumed until two refreshes were seen.
USUAL_PERIOD_SECONDS: Final = 30.0

# Keeps a filter from dividing by zero after refreshes that lie next to each other.
_MIN_PERIOD_SECONDS: Final = 0.25

# Gains for phase and period: for a grid, for something between, for a sleep after work.
_GAINS: Final = ((0.1, 0.0025), (0.4, 0.03), (1.0, 0.03))

# The last errors of a filter, from which its distribution is made.
_ERRORS_KEPT: Final = 64

# Errors assumed at first, in periods, and the real errors that replace all of them.
_ASSUMED_ERRORS: Final = (-0.15, -0.08, -0.03, 0.0, 0.03, 0.08, 0.15)
_MIN_ERRORS: Final = 4

# A filter's loss is its mean error over about this many refreshes.
_LOSS_MEMORY: Final = 25

# One outlier counts in the loss as this fraction of the period at most.
_MAX_LOSS_PERIODS: Final = 0.25

# Switch to another filter only when its loss is clearly lower, so that noise does not
# make the forecast jump between two that are about equal.
_SWITCH_LOSS_RATIO: Final = 0.9

# A settled filter follows at most this many of its losses of an error. A larger error
# is a surprise: an outlier, or the start of another rhythm.
_MAX_ERROR_LOSSES: Final = 5.0
_MIN_ERROR_LIMIT_SECONDS: Final = 0.02

# In periods. Smaller errors are never a surprise, and intervals that differ by less are
# the same.
_SAME_INTERVAL_TOLERANCE: Final = 0.05

# Two surprises agree on another phase if their errors differ by less than this fraction.
_SAME_ERROR_TOLERANCE: Final = 0.3

# Refreshes after which a filter has settled.
_SETTLED_REFRESHES: Final = 4

# Fraction of the refreshes that the upstream skips: the first guess, and the weight of
# each new refresh in the estimate.
_INITIAL_SKIPPED_FRACTION: Final = 0.02
_SKIPPED_WEIGHT: Final = 0.02

# More refreshes missing at once are an outage, which says nothing about usual skips.
_MAX_SKIPPED_AT_ONCE: Final = 2

# Bounds the work for a curve that spans very many short periods. The rest of such a
# curve would not change the plan.
_MAX_POINTS: Final = 1000


class _Surprise(NamedTuple):
    """A refresh far from its prediction, and the interval before it. Both in seconds."""

    error: float
    interval: float


class _Filter(msgspec.Struct):
    """An alpha-beta filter of one symbol's refreshes, and its last prediction errors.

    `phase` is the filtered moment of the last refresh. `loss` is the mean absolute
    error in seconds.
    """

    alpha: float
    beta: float
    phase: float
    period: float
    refreshes: int = 0
    loss: float = 0.0
    errors: deque[float] = msgspec.field(
        default_factory=lambda: deque(maxlen=_ERRORS_KEPT)
    )
    has_assumed_errors: bool = True

    def expected(self, steps: int) -> float:
        """Return when the refresh `steps` periods after the last one is expected."""
        return self.phase + steps * self.period

    def restart(self, at: float, period: float, refreshes: int) -> None:
        """Continue from a refresh at `at`, as after this many with this period."""
        self.phase = at
        self.period = max(period, _MIN_PERIOD_SECONDS)
        self.refreshes = refreshes

    def assume_errors(self) -> None:
        """Fill in errors until there are enough real ones."""
        for error_periods in _ASSUMED_ERRORS:
            self.errors.append(error_periods * self.period)

    def learn(self, at: float, lag: float, steps: int, error_limit: float) -> None:
        """Learn from a refresh at `at`, `steps` periods after the last one.

        Once settled, the filter follows at most `error_limit` seconds of the error.
        """
        self._drop_assumed_errors()
        expected = self.expected(steps)
        error = at - expected
        self.errors.append(error + lag)
        self.refreshes += 1
        self._update_loss(error)

        followed = error
        if self.refreshes > _SETTLED_REFRESHES:
            followed = min(max(error, -error_limit), error_limit)
        self._correct(at, expected, followed, steps)

    def _correct(self, at: float, expected: float, followed: float, steps: int) -> None:
        """Move phase and period towards the refresh.

        The gains fall with the number of refreshes (a growing memory), down to alpha
        and beta (a fading one).
        """
        k = self.refreshes
        if self.alpha == 1:
            # The next refresh follows from this one alone, even if it was an outlier.
            self.phase = at
            period_gain = max(self.beta, 1 / k)
        else:
            growing_memory = (k + 1) * (k + 2)
            phase_gain = max(self.alpha, 2 * (2 * k + 1) / growing_memory)
            period_gain = max(self.beta, 6 / growing_memory)
            self.phase = expected + phase_gain * followed
        period = self.period + period_gain * followed / steps
        self.period = max(period, _MIN_PERIOD_SECONDS)

    def _update_loss(self, error: float) -> None:
        weight = max(1 / _LOSS_MEMORY, 1 / self.refreshes)
        counted = min(abs(error), self.period * _MAX_LOSS_PERIODS)
        self.loss += weight * (counted - self.loss)

    def _drop_assumed_errors(self) -> None:
        """Remove the assumed errors, the oldest, when there are enough real ones."""
        enough = len(_ASSUMED_ERRORS) + _MIN_ERRORS
        if not self.has_assumed_errors or len(self.errors) != enough:
            return
        self.has_assumed_errors = False
        for _ in _ASSUMED_ERRORS:
            self.errors.popleft()


class Forecast:
    """The forecast of one symbol's refreshes, learnt from every refresh that was seen.

    `begun_at` is the moment from which the symbol was requested. `last` is the last
    refresh, None before the first.
    """

    def __init__(self, begun_at: float) -> None:
        self.last: float | None = None
        self._begun_at = begun_at
        self._skipped_fraction = _INITIAL_SKIPPED_FRACTION
        self._filters: list[_Filter] = []
        self._best = 0
        self._has_rhythm = False
        self._surprise: _Surprise | None = None
        self._cached_errors: ErrorDistribution | None = None

    @property
    def period(self) -> float | None:
        """Seconds between refreshes, None before two were seen."""
        return self._believed.period if self._has_rhythm else None

    @property
    def phase(self) -> float | None:
        """A moment near which a refresh falls, None before two were seen."""
        return self._believed.phase if self._has_rhythm else None

    @property
    def jitter(self) -> float | None:
        """Standard deviation of the next refresh in seconds, None before two were seen."""
        if not self._has_rhythm:
            return None
        # Metrics read this in another thread, which must not write to the cache.
        errors = self._cached_errors
        if errors is None:
            errors = self._new_distribution()
        return errors.deviation

    def learn(self, at: float, lag: float, unseen_since: float) -> None:
        """Learn that a refresh was computed at `at` and became visible `lag` later.

        `unseen_since` is when the last check was sent that did not show it yet.
        """
        if self.last is None:
            for alpha, beta in _GAINS:
                self._filters.append(_Filter(alpha, beta, at, USUAL_PERIOD_SECONDS))
        elif self._has_rhythm:
            self._follow(at, lag, at - self.last, unseen_since)
        elif at > self.last:
            self._begin_rhythm(at, at - self.last, unseen_since)
        # Otherwise a clock was set before the second refresh: count this as the first.
        self.last = at

    def is_lost(self, now: float) -> bool:
        """Return True if no rhythm is known, or if the next two refreshes are overdue."""
        if not self._has_rhythm:
            return True
        return now > self._believed.expected(2) + self._errors().at[-1]

    def settled_by(self, since: float) -> float:
        """Return when the next refresh after `since` should be visible, unless it is late."""
        if not self._has_rhythm:
            return since
        best = self._believed
        end = best.expected(1) + self._errors().latest
        periods = max(floor((since - end) / best.period) + 1, 0)
        return end + periods * best.period

    def curve(self, since: float, until: float) -> list[Point]:
        """Return the refreshes to expect, if a check sent at `since` showed nothing new.

        Each period brings one refresh unless it is skipped. The longer none came in a
        period, the less likely one is to come in it at all, but the more likely at any
        moment that remains.
        """
        if not self._has_rhythm:
            return self._curve_without_rhythm(since, until)
        best = self._believed
        errors = self._errors()
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

    @property
    def _believed(self) -> _Filter:
        return self._filters[self._best]

    def _errors(self) -> ErrorDistribution:
        """Return the error distribution of the believed filter."""
        if self._cached_errors is None:
            # Made on demand, since many refreshes are learnt at once and never planned for.
            self._cached_errors = self._new_distribution()
        return self._cached_errors

    def _new_distribution(self) -> ErrorDistribution:
        best = self._believed
        return shape_of(list(best.errors), best.period / 2)

    def _curve_without_rhythm(self, since: float, until: float) -> list[Point]:
        """Return a constant rate that falls the longer no refresh came."""
        rate = 1 / max(USUAL_PERIOD_SECONDS, since - self._begun_at)
        return [Point(since, 0.0, 0.0), Point(until, (until - since) * rate, 0.0)]

    def _begin_rhythm(self, at: float, interval: float, unseen_since: float) -> None:
        steps = self._steps(interval, at - unseen_since)
        for candidate in self._filters:
            candidate.restart(at, interval / steps, 1)
            candidate.assume_errors()
        self._has_rhythm = True

    def _steps(self, interval: float, hidden: float) -> int:
        """Return the number of periods in an interval.

        No check looked into the last `hidden` seconds. A new filter does not know its
        period well. If checks looked into most of the interval, there was no refresh in
        between.
        """
        best = self._believed
        is_new = best.refreshes < _SETTLED_REFRESHES - 1
        if is_new and hidden < interval / 2:
            return 1
        return max(1, round(interval / best.period))

    def _follow(
        self, at: float, lag: float, interval: float, unseen_since: float
    ) -> None:
        """Learn from a refresh `interval` seconds after the last one."""
        best = self._believed
        steps = self._steps(interval, at - unseen_since)
        error = at - best.expected(steps)
        error_limit = max(_MAX_ERROR_LOSSES * best.loss, _MIN_ERROR_LIMIT_SECONDS)
        # Kept for a restart: learning changes it.
        period = best.period

        self._learn_skips(steps, unseen_since)
        for candidate in self._filters:
            candidate.learn(at, lag, steps, error_limit)
        if abs(error) <= max(error_limit, _SAME_INTERVAL_TOLERANCE * period):
            self._surprise = None
        else:
            self._learn_surprise(at, period, steps, _Surprise(error, interval))
        self._choose_filter()
        self._cached_errors = None

    def _learn_skips(self, steps: int, unseen_since: float) -> None:
        """Learn the fraction of refreshes that are skipped.

        Only a refresh that a check looked for after its time is known to be skipped.
        Others may have come and been replaced before a check could show them.
        """
        best = self._believed
        checked_periods = (unseen_since - best.phase) / best.period
        seen_missing = max(int(checked_periods - _SAME_INTERVAL_TOLERANCE), 0)
        skipped = min(seen_missing, steps - 1, _MAX_SKIPPED_AT_ONCE)
        surplus = skipped - (skipped + 1) * self._skipped_fraction
        self._skipped_fraction += _SKIPPED_WEIGHT * surplus

    def _learn_surprise(
        self, at: float, period: float, steps: int, surprise: _Surprise
    ) -> None:
        """Restart the filters if two surprises in a row agree on a period or a phase."""
        before = self._surprise
        self._surprise = surprise
        if before is None:
            return
        interval = surprise.interval
        interval_change = abs(before.interval - interval)
        error_change = abs(before.error - surprise.error)
        if steps == 1 and interval_change < _SAME_INTERVAL_TOLERANCE * interval:
            self._restart(at, interval)
        elif error_change < _SAME_ERROR_TOLERANCE * abs(surprise.error):
            self._restart(at, period)

    def _restart(self, at: float, period: float) -> None:
        self._surprise = None
        for candidate in self._filters:
            candidate.restart(at, period, _SETTLED_REFRESHES - 1)
            # The new rhythm explains both surprises, so they are no errors.
            candidate.errors.pop()
            candidate.errors.pop()

    def _choose_filter(self) -> None:
        losses = [candidate.loss for candidate in self._filters]
        best = losses.index(min(losses))
        if losses[best] < _SWITCH_LOSS_RATIO * losses[self._best]:
            self._best = best
