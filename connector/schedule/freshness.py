"""Judge if a plan of checks keeps the levels of a feed fresh. Pure.

Levels that a slow plan checks again only after they have become stale would alternate between
fresh and stale with every check. So they stay stale until the plan is fast enough.
"""

from __future__ import annotations

from typing import Final

from connector.schedule.forecast import USUAL_PERIOD_SECONDS

# Up to this part of the longest interval, levels stay fresh although checks are not evenly
# spaced. Measured with 80 symbols, whose longest interval is 60 s: with a plan of 44 s no
# levels become stale once the rhythm is known, with 55 s a third of them do in each round.
_CLEARLY_FAST_FRACTION: Final = 0.8

# A plan between the two is tried again this long after levels have become stale.
_NEXT_TRY_SECONDS: Final = 3600.0

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
        self._failed_at: float | None = None

    def restart(self) -> None:
        """Judge at once for a while: nothing that came before says much about the plan."""
        self._settles_at = None
        self._failed_at = None

    def became_stale(self, now: float) -> None:
        """Note that levels have become stale for want of a check."""
        self._failed_at = now

    def follow(self, interval_seconds: float, now: float) -> None:
        """Take note of the planned time between two checks of a symbol."""
        if self._settles_at is None:
            self._settles_at = now + _PATIENCE_SECONDS

        if interval_seconds > self._longest_seconds:
            self._follow_slow(now, is_settled=now >= self._settles_at)
            return

        self._slow_since = None
        if interval_seconds <= _CLEARLY_FAST_FRACTION * self._longest_seconds:
            self._failed_at = None
        self.is_kept = not self._has_failed_lately(now)

    def _follow_slow(self, now: float, *, is_settled: bool) -> None:
        if self._slow_since is None:
            self._slow_since = now
        if not is_settled:
            self.is_kept = False
        elif now - self._slow_since >= _PATIENCE_SECONDS:
            self.is_kept = False
            self._failed_at = now

    def _has_failed_lately(self, now: float) -> bool:
        if self._failed_at is None:
            return False
        return now - self._failed_at < _NEXT_TRY_SECONDS
