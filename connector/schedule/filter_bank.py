"""Follow the rhythm of one symbol with several filters, and believe the best. Pure.

Upstreams keep time in different ways. Some follow a grid, so that jitter does not add up.
Others sleep after their work, so that it does. An alpha-beta filter fits both, but with
different gains. So a few filters run side by side.
"""

from __future__ import annotations

from typing import Final, NamedTuple

from connector.schedule.error_distribution import ErrorDistribution, shape_of
from connector.schedule.refresh_filter import SETTLED_REFRESHES, RefreshFilter

# Gains for phase and period: for a grid, for something between, for a sleep after work.
_GAINS: Final = ((0.1, 0.0025), (0.4, 0.03), (1.0, 0.03))

# Switch to another filter only when its loss is clearly lower, so that noise does not
# make the forecast jump between two that are about equal.
_SWITCH_LOSS_RATIO: Final = 0.9

# A settled filter follows at most this many of its losses of an error. A larger error
# is a surprise: an outlier, or the start of another rhythm.
_MAX_ERROR_LOSSES: Final = 5.0
_MIN_ERROR_LIMIT_SECONDS: Final = 0.02

# In periods. Smaller errors are never a surprise, and intervals that differ by less are
# the same.
SAME_INTERVAL_TOLERANCE: Final = 0.05

# Two surprises agree on another phase if their errors differ by less than this fraction.
_SAME_ERROR_TOLERANCE: Final = 0.3


class _Surprise(NamedTuple):
    """A refresh far from its prediction, and the interval before it. Both in seconds."""

    error: float
    interval: float


class FilterBank:
    """The filters of one symbol, from its second refresh on.

    The errors of the believed filter give the distribution of the next refresh.
    """

    def __init__(self, at: float, period: float) -> None:
        self._filters: list[RefreshFilter] = []
        for alpha, beta in _GAINS:
            candidate = RefreshFilter(alpha, beta, at, period)
            candidate.restart(at, period, 1)
            candidate.assume_errors()
            self._filters.append(candidate)
        self._best = 0
        self._surprise: _Surprise | None = None
        self._cached_errors: ErrorDistribution | None = None

    @property
    def believed(self) -> RefreshFilter:
        """The filter that lately predicted best."""
        return self._filters[self._best]

    @property
    def errors(self) -> ErrorDistribution:
        """The error distribution of the believed filter."""
        if self._cached_errors is None:
            # Made on demand, since many refreshes are learnt at once and never planned for.
            self._cached_errors = self._new_distribution()
        return self._cached_errors

    @property
    def jitter(self) -> float:
        """The standard deviation of the next refresh, in seconds."""
        # Metrics read this in another thread, which must not write to the cache.
        errors = self._cached_errors
        if errors is None:
            errors = self._new_distribution()
        return errors.deviation

    def learn(self, at: float, lag: float, interval: float, steps: int) -> None:
        """Learn from a refresh `interval` seconds and `steps` periods after the last one."""
        best = self.believed
        error = at - best.expected(steps)
        error_limit = max(_MAX_ERROR_LOSSES * best.loss, _MIN_ERROR_LIMIT_SECONDS)
        # Kept for a restart: learning changes it.
        period = best.period

        for candidate in self._filters:
            candidate.learn(at, lag, steps, error_limit)
        if abs(error) <= max(error_limit, SAME_INTERVAL_TOLERANCE * period):
            self._surprise = None
        else:
            self._learn_surprise(at, period, steps, _Surprise(error, interval))
        self._choose_filter()
        self._cached_errors = None

    def _new_distribution(self) -> ErrorDistribution:
        best = self.believed
        return shape_of(list(best.errors), best.period / 2)

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
        if steps == 1 and interval_change < SAME_INTERVAL_TOLERANCE * interval:
            self._restart(at, interval)
        elif error_change < _SAME_ERROR_TOLERANCE * abs(surprise.error):
            self._restart(at, period)

    def _restart(self, at: float, period: float) -> None:
        self._surprise = None
        for candidate in self._filters:
            candidate.restart(at, period, SETTLED_REFRESHES - 1)
            # The new rhythm explains both surprises, so they are no errors.
            candidate.errors.pop()
            candidate.errors.pop()

    def _choose_filter(self) -> None:
        losses = [candidate.loss for candidate in self._filters]
        best = losses.index(min(losses))
        if losses[best] < _SWITCH_LOSS_RATIO * losses[self._best]:
            self._best = best
