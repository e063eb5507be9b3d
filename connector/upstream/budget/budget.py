"""The request budget of one worker: nothing is sent without its permission.

Guarantees, for requests that the server counts at some moment between their start and
their answer:

- No sliding minute holds more requests of one worker than the largest limit that the
  worker had in that minute.
- If the workers of a user share its limit, no sliding minute holds more than it and the first
  requests of unfinished take-overs. This assumes that all workers know the same figures,
  that no share is below a request a minute, and that each `used_until` is right.
- No request starts if the month has none left, except for a rare probe.
- A worker that is its user's only program is never refused once it has its first answer, if
  all earlier requests had ended by then. This needs fixed minutes on the server: the
  reset of a sliding minute only says when some requests are back.

If other programs of the user send requests, too, `OtherClients` estimates their use.
"""

from __future__ import annotations

import asyncio
import time
from contextlib import asynccontextmanager
from dataclasses import dataclass
from math import inf
from typing import TYPE_CHECKING, Final

from connector.upstream.budget.month import Month, MonthFigures
from connector.upstream.budget.other_clients import PLANNED_FRACTION, OtherClients
from connector.upstream.budget.sent_requests import Permit, SentRequests
from connector.upstream.budget.server_windows import SAME_RESET_SECONDS, ServerWindows
from connector.upstream.budget.share import Share, TakenOverShare
from connector.upstream.budget.units import MINUTE_SECONDS

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterable

    from connector.core.decode import Quota, RateLimit

# Requests a minute of the smallest plan.
DEFAULT_LIMIT_PER_MINUTE: Final = 60

# Left unused between other clients and us: window boundaries are uncertain.
_MARGIN_PER_MINUTE: Final = 1

# A plan has to be more than nothing.
_LEAST_PLANNED_SHARE: Final = 1e-3

# Answers and pauses can change the wait either way, so look again this often.
_MAX_SLEEP_SECONDS: Final = 0.2


@dataclass(slots=True, frozen=True)
class Spending:
    """The budget at one moment. Figures are requests a minute unless they say otherwise.

    - `limit_per_minute`: this worker's limit.
    - `planned_per_minute`: the part of it to plan with, or of the month if that is less;
      more than 0.
    - `sent_last_minute`: this worker's requests that count against the limit.
    - `available_per_minute`: left for all workers together after other programs' use.
    - `other_clients_per_minute`: estimated use by other programs of the user.
    - `wait_seconds`: time until a request may start, as far as is known; 0: now.
    - `used_fraction`: part of our share used within a minute, 0 to 1.
    - `paused_until`: moment before which the server wants no requests.
    - `month`: the figures of the month, of all workers together.
    """

    limit_per_minute: int
    planned_per_minute: float
    sent_last_minute: int
    available_per_minute: int
    other_clients_per_minute: int
    wait_seconds: float
    used_fraction: float
    paused_until: float
    month: MonthFigures


class Budget:
    """Decides when a request may be sent.

    `cap_per_minute` caps the server's limit. Without a cap, the server's limit counts,
    or `DEFAULT_LIMIT_PER_MINUTE` until the server has said one. Moments are seconds of
    the monotonic `clock`.
    """

    def __init__(
        self,
        cap_per_minute: int | None,
        clock: Callable[[], float] = time.monotonic,
        month: Month | None = None,
    ) -> None:
        self._cap = cap_per_minute
        self._clock = clock
        self._queue = asyncio.Lock()
        self._server_limit: int | None = None
        self._paused_until = -inf
        self._share = Share()
        self._sent = SentRequests()
        self._windows = ServerWindows()
        self._others = OtherClients()
        self._month = Month() if month is None else month

    @asynccontextmanager
    async def request(self) -> AsyncIterator[Permit]:
        """Wait, first come first served, until the budget allows a request.

        The request counts from then until a minute after the block is left. It counts
        even if the block sends nothing: the budget is strict rather than exact.
        """
        permit = await self._acquire()
        try:
            yield permit
        finally:
            self.end(self._clock())

    async def _acquire(self) -> Permit:
        # The lock queues its waiters in order; only the first one looks at the budget.
        async with self._queue:
            wait = self._wait_seconds(self._clock())
            while wait > 0:
                await asyncio.sleep(min(wait, _MAX_SLEEP_SECONDS))
                wait = self._wait_seconds(self._clock())
            return self.start(self._clock())

    def start(self, now: float) -> Permit:
        """Count a request without checking the budget.

        For `request` and for simulations of time.
        """
        self._windows.start(now)
        self._month.start(self._share.fraction, now)
        return self._sent.start(now)

    def end(self, now: float) -> None:
        """Note that the request was answered, or will not be."""
        self._sent.end(now)

    def spending(self, now: float) -> Spending:
        """Return the figures of the budget at this moment."""
        available = self._available(now)
        limit = self._share.limit(available, now)
        sent = self._sent.counted(now)
        return Spending(
            limit_per_minute=limit,
            planned_per_minute=self._planned_per_minute(limit, now),
            sent_last_minute=sent,
            available_per_minute=available,
            other_clients_per_minute=self._other_clients(now),
            wait_seconds=self._wait_seconds(now),
            used_fraction=self._share.used_fraction(sent, available, now),
            paused_until=self._paused_until,
            month=self._month.figures(now),
        )

    def set_share(
        self, share: float, taken_over: Iterable[TakenOverShare] = ()
    ) -> None:
        """Set this worker's part of the configured batches, 0 to 1.

        A smaller share takes effect at once. `taken_over` replaces the take-overs of
        earlier calls. Leave out those whose batches are lost: the new owner counts their
        previous use.
        """
        self._share.set(share, taken_over)

    def pause(self, until: float) -> None:
        """Start nothing before this moment. The latest one counts."""
        self._paused_until = max(self._paused_until, until)

    def resume_with_new_key(self) -> None:
        """Forget pauses and used-up windows: the new key may be another user's.

        Our own count stays, so that a changed key is no way around the limit.
        """
        self._paused_until = -inf
        self._windows = ServerWindows()
        self._month.forget()

    def learn(
        self, permit: Permit, figures: RateLimit, server_at: float, now: float
    ) -> None:
        """Take the server's figures from an answer.

        `server_at` is the server's clock (Unix seconds) when it gave them.
        """
        if figures.limit is not None and figures.limit > 0:
            # Before `available` is computed below, which depends on it.
            self._server_limit = figures.limit
        remaining = figures.remaining
        reset_at_seconds = figures.reset_at_seconds
        if remaining is None or reset_at_seconds is None:
            return

        # Requests in flight with this one, or started since, may be missing in
        # `remaining`: assume that the server counts all of them after it.
        resets_in = reset_at_seconds - server_at
        left = remaining - self._sent.maybe_counted_after(permit)
        available = self._available(now)
        limit = self._server_limit or 0
        window = self._windows.observe(reset_at_seconds, resets_in, left, now)
        # Register the window even if these figures cannot be used below: the next ones of
        # this window have to find it.
        window_use = self._others.in_window(window, available, limit, now)

        # Figures of a longer window say nothing about other clients in a minute.
        of_a_minute = resets_in <= MINUTE_SECONDS + SAME_RESET_SECONDS
        if limit == 0 or not of_a_minute:
            return
        # The earliest moment at which this window can have begun, on our clock.
        began_at = permit.started_at + resets_in - MINUTE_SECONDS - SAME_RESET_SECONDS
        window_use.observe(
            counted=limit - remaining,
            ours=self._sent.maybe_counted_since(began_at, now),
            unused_share=self._share.unused(now),
            limit=limit,
            now=now,
        )

    def learn_month(
        self, permit: Permit, quota: Quota, server_at: float, now: float
    ) -> None:
        """Take the server's figures of the month from an answer, as `learn` does."""
        uncounted = self._sent.maybe_counted_after(permit)
        self._month.learn(quota, uncounted, server_at, now)

    def _planned_per_minute(self, limit: int, now: float) -> float:
        """Return the lower plan of minute and month."""
        of_minute = PLANNED_FRACTION * max(limit, 1)
        # Even a worker without shards plans with something.
        share = max(self._share.fraction, _LEAST_PLANNED_SHARE)
        of_month = share * self._month.per_minute(now)
        return min(of_minute, of_month)

    def _wait_seconds(self, now: float) -> float:
        limit = self._share.limit(self._available(now), now)
        return max(
            self._paused_until - now,
            self._windows.wait_seconds(now),
            self._month.wait_seconds(now),
            self._sent.wait_seconds(limit, now),
        )

    def _available(self, now: float) -> int:
        """Return the requests a minute of all workers together: at least 1."""
        if self._server_limit is None:
            return DEFAULT_LIMIT_PER_MINUTE if self._cap is None else self._cap
        others = self._other_clients(now)
        available = self._server_limit - others
        if others > 0:
            available -= _MARGIN_PER_MINUTE
        available = max(available, 1)
        return available if self._cap is None else min(available, self._cap)

    def _other_clients(self, now: float) -> int:
        return self._others.per_minute(self._server_limit or 0, now)
