"""Knows for which feeds the budget permits enough checks to keep their levels fresh."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from connector.schedule.freshness import Freshness
from connector.upstream.budget.units import MINUTE_SECONDS

if TYPE_CHECKING:
    from collections.abc import Sequence

    from connector.config.model import Feed
    from connector.runtime.coverage import Coverage
    from connector.upstream.budget import Budget


class FreshPlan:
    """Compares the planned time between two checks of a symbol with each feed's limit.

    Before the first answer the limits of the server are not known, so every plan counts as
    fast enough.
    """

    def __init__(
        self, feeds: Sequence[Feed], budget: Budget, coverage: Coverage
    ) -> None:
        self.requests_for_all = 0
        """Requests that check every symbol once, except for refused ones."""
        self.interval_seconds = 0.0
        """The planned time between two checks of a symbol."""
        self.least_stale_after_seconds = min(feed.stale_after_seconds for feed in feeds)
        self._budget = budget
        self._coverage = coverage
        self._feeds = {feed.name: Freshness(feed.stale_after_seconds) for feed in feeds}
        self._is_judged = False

    @property
    def keeps_all_fresh(self) -> bool:
        """False if the levels of any feed become stale between two checks."""
        return all(freshness.is_kept for freshness in self._feeds.values())

    def keeps_fresh(self, feed: str) -> bool:
        """Return False if the feed's levels become stale between two checks."""
        return self._feeds[feed].is_kept

    def restart(self) -> None:
        """Judge again with the next answer, because this worker polls other symbols."""
        self._is_judged = False
        for freshness in self._feeds.values():
            freshness.restart()

    def became_stale(self, feed: str) -> None:
        """Note that levels of the feed have become stale for want of a check."""
        self._feeds[feed].became_stale(time.monotonic())

    def answered(self) -> None:
        """Note that there was an answer, so that the limits of the server are known."""
        if not self._is_judged:
            self._is_judged = True
            now = time.monotonic()
            self.update(self._budget.spending(now).planned_per_minute, now)

    def update(self, planned_per_minute: float, now: float) -> None:
        """Follow the budget's planned requests a minute. Call about once a second."""
        if not self._is_judged:
            return
        # Refused symbols are checked rarely, and have no levels.
        batches = [batch for batch in self._coverage.batches() if not batch.refused]
        self.requests_for_all = len(batches)
        round_minutes = self.requests_for_all / planned_per_minute
        self.interval_seconds = round_minutes * MINUTE_SECONDS
        for freshness in self._feeds.values():
            freshness.follow(self.interval_seconds, now)
