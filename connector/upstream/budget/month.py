"""The budget of the month: spread the requests that are left over the time that is left.

The server counts the requests of all keys and programs of a user. Its figures are the
truth: our own count starts with the process, and sees neither other programs nor what was
sent before a restart. Without figures, only the operator's cap and our own count are left.

A plan for the rest of the month corrects itself: requests that were not sent, or were sent
beyond the plan, change the rest. So nothing here has to be exact but the last requests.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from datetime import UTC, datetime
from math import inf
from typing import TYPE_CHECKING, Final

from connector.core.decode import Quota
from connector.upstream.budget.month_pace import MonthPace
from connector.upstream.budget.units import MINUTE_SECONDS

if TYPE_CHECKING:
    from collections.abc import Callable

# Part of what is left to plan with. The rest is for retries and for first requests.
_PLANNED_FRACTION: Final = 0.98

# However much other programs spend, plan with this part of an even pace. Every answer
# shows their use, so a wrong estimate must not silence us.
_LEAST_FRACTION: Final = 1 / 4

# Interval of requests while the server says that the month is used up: the user may buy
# more, or the vendor may correct its count.
_PROBE_SECONDS: Final = 1800.0

# How far clocks may differ at the ends of a month, as a part of it: about a day.
_SLACK_FRACTION: Final = 1 / 30

# The rest of a month is never taken as shorter: clocks differ, and the plan divides by it.
_LEAST_REST_SECONDS: Final = 60.0

# The interval while the server still counts in the month before: clocks differ by little.
_LATE_SERVER_PROBE_SECONDS: Final = 60.0

# A share of less would make each of our requests look like hundreds of all workers.
_LEAST_SHARE: Final = 0.01

_MONTHS_A_YEAR: Final = 12
_YEARS: Final = range(2000, 2200)
_LATEST_SECONDS: Final = 2.0**32
_PERIOD_CHARACTERS: Final = 6


@dataclass(slots=True, frozen=True)
class Period:
    """A period of the quota, as Unix seconds of the server."""

    starts_at: float
    ends_at: float

    @property
    def seconds(self) -> float:
        """The length of the period."""
        return self.ends_at - self.starts_at


def calendar_month(name: str | None, at: float) -> Period:
    """Return the month named `YYYYMM` (UTC), or the month of a moment without such a name.

    Both come from a server, so neither has to make sense.
    """
    if name is not None and len(name) == _PERIOD_CHARACTERS and name.isdecimal():
        year, month = int(name[:4]), int(name[4:])
        if year in _YEARS and 1 <= month <= _MONTHS_A_YEAR:
            return _month(year, month)
    moment = datetime.fromtimestamp(min(max(at, 0.0), _LATEST_SECONDS), UTC)
    return _month(moment.year, moment.month)


def _month(year: int, month: int) -> Period:
    start = datetime(year, month, 1, tzinfo=UTC)
    is_last = month == _MONTHS_A_YEAR
    end = datetime(year + is_last, 1 if is_last else month + 1, 1, tzinfo=UTC)
    return Period(start.timestamp(), end.timestamp())


def _slack(period: Period) -> float:
    """Return how far clocks may differ at the ends of a period, in seconds."""
    return period.seconds * _SLACK_FRACTION


def _is_late(period: Period, at: float, known: Period) -> bool:
    """Return True if an answer is of a period before the known one.

    If its clock is long before the known one, that one came from a wrong clock.
    """
    has_begun = at >= known.starts_at - _slack(known)
    return period.starts_at < known.starts_at and has_begun


@dataclass(slots=True, frozen=True)
class MonthFigures:
    """The month at one moment. Moments are Unix seconds of the server; None: not known.

    `limit`, `used` and `remaining` are of all workers and other programs together, after
    the operator's cap. `projected_end_at` is when the rest is spent at the present pace.
    """

    limit: int | None = None
    used: int | None = None
    remaining: int | None = None
    period: str | None = None
    resets_at: float | None = None
    projected_end_at: float | None = None
    is_used_up: bool = False
    next_request_in: float = 0.0


class Month:
    """Knows what is left of the month, and how many requests a minute make it last.

    `cap` is the operator's limit. `period_of` returns the period with a name or at a
    moment. Moments without a comment are seconds of the monotonic clock.
    """

    def __init__(
        self,
        cap: int | None = None,
        period_of: Callable[[str | None, float], Period] = calendar_month,
        wall_minus_monotonic: float | None = None,
    ) -> None:
        self._cap = cap
        self._period_of = period_of
        self._server = Quota()
        self._period: Period | None = None
        if wall_minus_monotonic is None:
            wall_minus_monotonic = time.time() - time.monotonic()
        self._wall_minus_monotonic = wall_minus_monotonic
        # The server's clock, once an answer has shown it.
        self._server_minus_monotonic = wall_minus_monotonic
        self._ours = 0.0
        """Requests of all our workers in this month, estimated from our own."""
        self._maybe_uncounted = 0
        """Requests of this worker that may be missing in the server's figures."""
        self._probed_at = -inf
        self._probe_seconds = _PROBE_SECONDS
        self._pace = MonthPace()

    # --- inputs ---

    def start(self, share: float, now: float) -> None:
        """Count a request of a worker with this share of the budget."""
        self._follow_period(now)
        # Assume that siblings send as many for their share.
        self._ours += 1 / max(share, _LEAST_SHARE)
        self._maybe_uncounted += 1
        if self._server_left() <= 0:
            self._probed_at = now

    def learn(self, quota: Quota, maybe_uncounted: int, at: float, now: float) -> None:
        """Take the server's figures. `at` is its clock, in Unix seconds.

        `maybe_uncounted` requests of ours may be missing in the figures.
        """
        # Answers without figures are often not the API's, and neither is their clock.
        if quota == Quota():
            return
        period = self._believed_period(quota.period, at)
        if not period.starts_at <= at < period.ends_at:
            # A clock that is off, or an old body: ours is the better guess.
            at = now + self._wall_minus_monotonic
        self._server_minus_monotonic = at - now
        known = self._period
        self._probe_seconds = _PROBE_SECONDS
        if known is not None and _is_late(period, at, known):
            # A late answer, or a server that still counts in the month before.
            if quota.remaining != 0:
                return
            quota = Quota(quota.limit, 0, 0, quota.period)
            self._probe_seconds = _LATE_SERVER_PROBE_SECONDS
        elif period != known:
            self._begin(period)

        self._server = quota
        self._maybe_uncounted = maybe_uncounted
        if quota.used is not None:
            self._pace.note(float(quota.used), self._ours, now)
        # Requests in flight may have used up the rest: they find out, so none has to probe.
        if self._server_left() <= 0:
            self._probed_at = max(self._probed_at, now)

    def forget(self) -> None:
        """Forget the server's figures: they may be another user's. Our own count stays."""
        self._server = Quota()
        self._pace.forget()
        self._maybe_uncounted = 0
        self._probed_at = -inf

    # --- outputs ---

    def wait_seconds(self, now: float) -> float:
        """Return the time until the month allows a request; 0 if it does now."""
        self._follow_period(now)
        if self._left() > 0:
            return 0.0
        until_end = self._seconds_left(now)
        # More requests than the operator allows are never right, so do not probe.
        if self._left_of_cap() <= 0:
            return until_end
        until_probe = self._probed_at + self._probe_seconds - now
        return max(min(until_end, until_probe), 0.0)

    def per_minute(self, now: float) -> float:
        """Return the requests a minute of all workers that make the month last."""
        self._follow_period(now)
        left = self._left()
        if left == inf:
            return inf
        if left <= 0:
            # Plan as for the next month: a price of nearly no requests would outlast it.
            limit, period = self._limit(), self._period
            if limit is None or period is None:
                return inf
            return limit * MINUTE_SECONDS / period.seconds
        even = left / self._seconds_left(now)
        ours = even - self._pace.others_per_second()
        planned = _PLANNED_FRACTION * max(ours, _LEAST_FRACTION * even)
        return planned * MINUTE_SECONDS

    def figures(self, now: float) -> MonthFigures:
        """Return the figures of this moment."""
        self._follow_period(now)
        left = self._left()
        limit = self._limit()
        resets_at = None
        if self._period is not None and limit is not None:
            resets_at = self._period.ends_at
        return MonthFigures(
            limit=limit,
            used=self._used_or_none(),
            remaining=None if left == inf else max(int(left), 0),
            period=self._server.period,
            resets_at=resets_at,
            projected_end_at=self._projected_end_at(left, now),
            is_used_up=self._is_used_up(),
            next_request_in=self.wait_seconds(now),
        )

    # --- the period ---

    def _believed_period(self, name: str | None, at: float) -> Period:
        """Return the period of an answer. A name far ahead of its clock is not believed.

        It would outlast all answers with the right name, and spread the rest over years.
        """
        period = self._period_of(name, at)
        if period.starts_at > at + _slack(period):
            return self._period_of(None, at)
        return period

    def _begin(self, period: Period) -> None:
        """Begin a period: nothing of it is used, as far as is known."""
        # A count from before the first answer belongs to the first period.
        if self._period is not None:
            self._ours = 0.0
        self._period = period
        self._maybe_uncounted = 0
        self._probed_at = -inf
        self._pace.begin(period.seconds)

    def _follow_period(self, now: float) -> None:
        """Begin the next period at its time. The limit is assumed to stay."""
        at = now + self._server_minus_monotonic
        if self._period is None:
            # Without the server's figures, only the operator's cap needs a period.
            if self._cap is not None:
                self._begin(self._period_of(None, at))
                self._assume_even_pace(self._cap, at)
            return
        if at < self._period.ends_at:
            return

        self._begin(self._period_of(None, at))
        limit = self._server.limit
        used = None if self._server.used is None else 0
        self._server = Quota(limit, used, limit)

    def _assume_even_pace(self, cap: int, at: float) -> None:
        """Count the part of the cap that belongs to the time before the start as used.

        If the server does not count, nobody knows how much was used. With a cap that begins
        anew at each start, restarts would exceed it.
        """
        if self._period is not None:
            elapsed_seconds = at - self._period.starts_at
            self._ours += cap * elapsed_seconds / self._period.seconds

    def _seconds_left(self, now: float) -> float:
        if self._period is None:
            return inf
        at = now + self._server_minus_monotonic
        return max(self._period.ends_at - at, _LEAST_REST_SECONDS)

    # --- the requests ---

    def _limit(self) -> int | None:
        limits = [limit for limit in (self._server.limit, self._cap) if limit]
        return min(limits) if limits else None

    def _used(self) -> float:
        """Return the requests of this month, by the server's count if there is one."""
        if self._server.used is None:
            return self._ours
        return self._server.used + self._maybe_uncounted

    def _used_or_none(self) -> int | None:
        if self._server.used is None and self._cap is None:
            return None
        return int(self._used())

    def _server_left(self) -> float:
        remaining = self._server.remaining
        if remaining is None:
            return inf
        return remaining - self._maybe_uncounted

    def _left_of_cap(self) -> float:
        return inf if self._cap is None else self._cap - self._used()

    def _is_used_up(self) -> bool:
        # The server's own word: requests in flight only may have used up the rest.
        return self._server.remaining == 0 or self._left_of_cap() <= 0

    def _left(self) -> float:
        return min(self._server_left(), self._left_of_cap())

    def _projected_end_at(self, left: float, now: float) -> float | None:
        if left == inf:
            return None
        at = now + self._server_minus_monotonic
        if left <= 0:
            return at
        pace = self._pace.per_second()
        if pace is None or pace <= 0:
            return None
        return at + left / pace
