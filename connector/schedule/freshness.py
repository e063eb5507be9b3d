"""Judge if a plan of checks keeps the levels of a feed fresh. Pure.

Levels that a slow plan checks again only after they have become stale would alternate between
fresh and stale with every check. So they stay stale until the plan is fast enough.
"""

from __future__ import annotations

from typing import Final

from connector.schedule.forecast import USUAL_PERIOD_SECONDS

# The interval must be this part of the longest one before levels become fresh again. So a
# plan near the limit changes its side rarely.
_CLEARLY_FAST_FRACTION: Final = 0.8

# A plan that is slow for less than this is not judged as slow. After a take-over, requests of
# the previous owner count as spent for a minute, and look like another program's for another.
_PATIENCE_SECONDS: Final = 120.0


def longest_fresh_interval(stale_after_seconds: float) -> float:
    """Return the longest time between two checks that keeps levels fresh, in seconds.

    A check may find levels that are nearly a period old. If levels become stale within
    about a period, frequent checks do not help, and half of the time is enough.
    """
    after_old_levels = stale_after_seconds - USUAL_PERIOD_SECONDS
    return max(after_old_levels, stale_after_seconds / 2)


class Freshness:
    """The judgement of one feed. Moments are seconds of a monotonic clock."""

    def __init__(self, stale_after_seconds: float) -> None:
        self.is_kept = True
        """False if levels become stale between two checks."""
        self._longest_seconds = longest_fresh_interval(stale_after_seconds)
        self._settles_at: float | None = None
        self._slow_since: float | None = None

    def restart(self) -> None:
        """Judge at once for a while: nothing that came before says much about the plan."""
        self._settles_at = None

    def follow(self, interval_seconds: float, now: float) -> None:
        """Take note of the planned time between two checks of a symbol."""
        if self._settles_at is None:
            self._settles_at = now + _PATIENCE_SECONDS
        is_slow = interval_seconds > self._longest_seconds
        if not is_slow:
            self._slow_since = None
        elif self._slow_since is None:
            self._slow_since = now

        if now < self._settles_at:
            self.is_kept = not is_slow
        elif not self.is_kept:
            clearly_fast = _CLEARLY_FAST_FRACTION * self._longest_seconds
            self.is_kept = interval_seconds <= clearly_fast
        elif self._slow_since is not None:
            self.is_kept = now - self._slow_since < _PATIENCE_SECONDS
