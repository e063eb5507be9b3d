"""Spread requests over time, so that a budget that binds is not spent in bursts. Pure.

A token bucket: tokens arrive at the rate of the budget, a request takes one, and the bucket
holds a few, so that checks at well-chosen moments can follow each other quickly. The budget
is nine tenths of the hard limit and the bucket holds a ninth of the budget, so a full
bucket and the tokens of a minute are the limit. A schedule that spends its minute faster
runs into the hard limit, and is silent for the rest of that minute.

Batches are starved if the budget allows fewer checks than there are refreshes. They want
the whole budget, and at full load the wait for a token grows without bound. So their tokens
arrive at the hard limit, and their bucket is larger. The price still keeps them to the
budget, and the caller to the hard limit.
"""

from __future__ import annotations

from typing import Final

import msgspec

# Tokens in a full bucket, as a fraction of the requests a minute.
_BURST_FRACTION: Final = 1 / 9

# Tokens that a full bucket holds at least: checks of one spell in which refreshes are
# likely.
#
# Measured at a limit of 60: with 4, refreshes spread over 10 of 30 s are seen 10 %
# later; with 8, as without a pace. A full bucket then allows up to 2 requests a minute
# too many, which wait for the hard limit.
_MIN_BURST: Final = 8.0

# The same for starved batches, and the budget as a fraction of the hard limit.
#
# Measured with 800 symbols, packed by rhythm, as the mean delay in seconds at limits of 120
# and 60. Without a pace: 15.3 and 54. With the pace of other batches: 21.5 and 56. With
# faster tokens: 16.0 and 49. With a larger bucket as well: 15.3 and 46.
_STARVED_BURST_FRACTION: Final = 1 / 4
_BUDGET_PER_LIMIT: Final = 0.9

# A minute allows each worker at least a request, but a month may allow far less.
_MIN_PER_MINUTE: Final = 0.01

# Requests that a bucket can owe at least: one for which no token was saved.
_MIN_OWED: Final = 1.0


class Pace(msgspec.Struct):
    """The pace of requests. Moments are seconds of a monotonic clock.

    `tokens` were in the bucket at `counted_at`. They are negative after requests that did
    not wait for a token.
    """

    per_second: float
    capacity: float
    tokens: float = 1.0
    counted_at: float | None = None

    @classmethod
    def of(cls, budget_per_minute: float) -> Pace:
        """Return the pace of a budget, with a token for one request."""
        pace = cls(0.0, 0.0)
        pace._adopt(budget_per_minute, is_starved=False)
        return pace

    @property
    def ready_at(self) -> float:
        """The moment from which a token is there."""
        if self.counted_at is None or self.tokens >= 1:
            return float("-inf")
        return self.counted_at + (1 - self.tokens) / self.per_second

    def set_budget(
        self, budget_per_minute: float, now: float, *, is_starved: bool = False
    ) -> None:
        """Follow another budget from now on. Saved tokens stay if they fit."""
        self._count(now)
        self._adopt(budget_per_minute, is_starved=is_starved)

    def take(self, now: float) -> None:
        """Take a token for a request that starts now."""
        self._count(now)
        # The hard limit forgets a request after a minute, and so does the bucket.
        most_owed = max(self.per_second * 60, _MIN_OWED)
        self.tokens = max(self.tokens - 1, -most_owed)

    def _adopt(self, budget_per_minute: float, *, is_starved: bool) -> None:
        burst_fraction = _BURST_FRACTION
        self.per_second = max(budget_per_minute, _MIN_PER_MINUTE) / 60
        if is_starved:
            burst_fraction = _STARVED_BURST_FRACTION
            self.per_second /= _BUDGET_PER_LIMIT
        self.capacity = max(_MIN_BURST, burst_fraction * budget_per_minute)
        self.tokens = min(self.tokens, self.capacity)

    def _count(self, now: float) -> None:
        """Add the tokens that have arrived."""
        if self.counted_at is not None:
            arrived = max(now - self.counted_at, 0.0) * self.per_second
            self.tokens = min(self.tokens + arrived, self.capacity)
            now = max(now, self.counted_at)
        self.counted_at = now
