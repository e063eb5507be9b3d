"""Follow the refreshes of one symbol with an alpha-beta filter. Pure.

The filter tracks a phase and a period (Morrison, *Introduction to Sequential Smoothing and
Prediction*, 1969: a growing memory at first, a fading memory later).
"""

from __future__ import annotations

from collections import deque
from typing import Final

import msgspec

# Keeps a filter from dividing by zero after refreshes that lie next to each other.
_MIN_PERIOD_SECONDS: Final = 0.25

# The last errors of a filter, from which its distribution is made.
_ERRORS_KEPT: Final = 64

# Errors assumed at first, in periods, and the real errors that replace all of them.
_ASSUMED_ERRORS: Final = (-0.15, -0.08, -0.03, 0.0, 0.03, 0.08, 0.15)
_MIN_ERRORS: Final = 4

# A filter's loss is its mean error over about this many refreshes.
_LOSS_MEMORY: Final = 25

# One outlier counts in the loss as this fraction of the period at most.
_MAX_LOSS_PERIODS: Final = 0.25

# Refreshes after which a filter has settled.
SETTLED_REFRESHES: Final = 4


def _no_errors() -> deque[float]:
    return deque(maxlen=_ERRORS_KEPT)


class RefreshFilter(msgspec.Struct):
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
    errors: deque[float] = msgspec.field(default_factory=_no_errors)
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
        if self.refreshes > SETTLED_REFRESHES:
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
            phase_gain = max(self.alpha, (4 * k + 2) / growing_memory)
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
        has_enough = len(self.errors) == enough
        if not self.has_assumed_errors or not has_enough:
            return
        self.has_assumed_errors = False
        for _ in _ASSUMED_ERRORS:
            self.errors.popleft()
