"""The hard budget of one worker: a log of the last minute's requests that nothing bypasses. Pure.

What is guaranteed of the requests that the server counts, each at some moment between its start and its answer:

- Of one worker no sliding minute holds more than the largest `limit` that it had in that minute.
- Of workers with shares of one key none holds more than the key's limit and the first requests of the gains not yet
  over, if all know the same figures, no share is below one request a minute, and `spent_until` is the truth.
- None is refused to a worker alone with its key from its first answer on, if those before had all ended, whatever the
  key was used for before; that is, where the server's minutes are fixed: one that slides only says when some are back.

Where other programs use the key, theirs is what the server counted beyond ours and our siblings'. That is known only
while we ask: what they do after our last request of a window, or are refused, is not seen.
"""

from __future__ import annotations

from bisect import bisect_left
from collections import deque
from dataclasses import dataclass
from math import ceil, floor, inf
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Iterable

    from connector.core.decode import RateLimit

MINUTE_SECONDS: Final = 60.0
USUAL_LIMIT: Final = 60
"""Requests a minute of the smallest plan."""

PLANNED: Final = 0.9
"""Part of a limit to plan with; the rest is for retries and first requests."""

_MARGIN: Final = 1
"""Requests a minute that are nobody's where others use the key: between us and them, and the clocks."""

_LOOK_AGAIN_SECONDS: Final = 1.0
_SAME_RESET_SECONDS: Final = 2.0
_LEAST_SEEN_SECONDS: Final = 30.0
"""Having seen less of a window than this says nothing about its rest, if nothing else is known of it."""

_LEAST_PACE_SECONDS: Final = 10.0
"""Nor have two answers that are nearer to each other a pace between them."""

_MOST_BY_PACE: Final = 3 / 4
"""Part of the limit that a pace may lead to; with the rest we ask often enough to see a whole minute."""

_ROUNDING: Final = 1e-6


@dataclass(slots=True, frozen=True)
class Request:
    """A request that has left, and how many had ended by then."""

    started_at: float
    ended_before: int


@dataclass(slots=True, frozen=True)
class TakenOverShare:
    """A part of the share that owners before have spent; `first_requests` of it may go at once all the same.

    Until a minute after their last answer, and not before their own gains: `now + 60` is late enough if none of their
    requests is under way.
    """

    share: float
    first_requests: float
    spent_until: float


@dataclass(slots=True)
class _Window:
    """A minute of the server, which ends at `reset` (Unix seconds), as the answers show it.

    `planned`: requests that were for all workers when it began. `left`: that may start at least. `foreign`: that
    neither we nor our siblings made, as last `seen_at`; `first_foreign` as first seen. `contested`: more than our plan
    leaves to chance.
    """

    reset: float
    planned: int
    shared: bool
    resets_at: float = -inf
    left: float = inf
    foreign: int = 0
    contested: bool = False
    seen_at: float = -inf
    first_foreign: int = 0
    first_seen_at: float = inf

    def foreign_at_their_pace(self) -> int:
        """Requests that others make in a minute, if they go on as between its first answer and its last.

        Or in this one, with what they had made before the first answer.
        """
        seconds = self.seen_at - self.first_seen_at
        if seconds < _LEAST_PACE_SECONDS:
            return 0
        more = self.foreign - self.first_foreign
        pace = (more + (more > 0)) / seconds  # the next one may be due
        rest = max(self.resets_at - self.first_seen_at, 0.0)
        return ceil(
            max(self.first_foreign + pace * rest, pace * MINUTE_SECONDS) - _ROUNDING
        )

    def foreign_by(self, now: float, limit: int) -> int:
        """Requests that others make in such a window; more than were seen where it was not seen to its end."""
        if self.contested and self.left <= _MARGIN:
            # What they wanted besides was refused, if any: leave them two thirds, or a third of what they left.
            return limit - min(limit // 3, (limit - self.foreign) * 2 // 3)
        if now < self.resets_at:
            return self.foreign
        seen_seconds = self.seen_at - (self.resets_at - MINUTE_SECONDS)
        likely = ceil(
            self.foreign * MINUTE_SECONDS / max(seen_seconds, _LEAST_SEEN_SECONDS)
            - _ROUNDING
        )
        return max(self.foreign, min(likely, ceil(limit * _MOST_BY_PACE)))


class Limiter:
    """Who may ask when. Moments are monotonic seconds; the properties are as of the last one passed in.

    `limit_per_minute` is a cap on the server's limit; None: the server's, or 60 as long as it says none.
    """

    def __init__(self, limit_per_minute: int | None) -> None:
        self._cap = limit_per_minute
        self._server: int | None = None
        self._share = 1.0  # without siblings there is nobody to tell us
        self._now = self._held_until = -inf
        self._in_flight = self._ended_total = 0
        self._ended: deque[float] = deque()
        self._older: deque[float] = deque()
        self._windows: list[_Window] = []
        self._known_from = -inf
        self._gains: list[TakenOverShare] = []

    @property
    def foreign_per_minute(self) -> int:
        """Requests a minute that others make with our key, as seen in the last whole window and since.

        At their pace until the first whole window is over, whose rest would come as a surprise.
        """
        seen = [
            window.foreign_by(self._now, self._server or 0) for window in self._windows
        ]
        if self._now < self._known_from:
            most = ceil(
                (self._server or 0) * _MOST_BY_PACE
            )  # a burst looks like more than anybody may
            seen += [
                min(window.foreign_at_their_pace(), most) for window in self._windows
            ]
        return max(seen, default=0)

    @property
    def available(self) -> int:
        """Requests a minute for all workers together: at least 1, and one less than others leave."""
        if self._server is None:
            return self._cap or USUAL_LIMIT
        foreign = self.foreign_per_minute
        rest = max(self._server - foreign - _MARGIN * (foreign > 0), 1)
        return min(rest, self._cap or rest)

    @property
    def limit(self) -> int:
        """Requests of this worker that a minute may hold: its share, less what was spent of it before it was ours."""
        whole = max(floor(self._share * self.available + _ROUNDING), ceil(self._share))
        if not self._gains:
            return whole
        first_requests = sum(gain.first_requests for gain in self._gains)
        return min(
            floor(self._free_share * self.available + first_requests + _ROUNDING), whole
        )

    @property
    def plan_per_minute(self) -> float:
        """Requests a minute to plan with, more than 0. It changes with answers and as gains are over."""
        return PLANNED * max(self.limit, 1)

    def own(
        self, share: float, now: float, gains: Iterable[TakenOverShare] = ()
    ) -> None:
        """Have this part, 0 to 1, of the configured batches from now on; less counts at once.

        `gains`: all that count, those of earlier calls included. One whose batches are lost is left out: whoever has
        them now counts what was spent of them.
        """
        self._share, self._gains = share, list(gains)
        self._look(now)

    def hold(self, until: float) -> None:
        """Start nothing before this moment."""
        self._held_until = max(self._held_until, until)

    def wait_seconds(self, now: float) -> float:
        """How long until a request may start, as far as is known; 0: now. Look again soon, since that can change."""
        self._look(now)
        waits = [
            0.0,
            self._held_until - now,
            *(window.resets_at - now for window in self._windows if window.left <= 0),
        ]
        over = len(self._ended) + self._in_flight - self.limit
        if over >= 0:
            known = over < len(self._ended)
            waits.append(
                self._ended[over] + MINUTE_SECONDS - now
                if known
                else _LOOK_AGAIN_SECONDS
            )
        return max(waits)

    def started(self, now: float) -> Request:
        """A request leaves. It counts until a minute after its end, as the server may count it until then."""
        self._in_flight += 1
        for window in self._windows:
            window.left -= now < window.resets_at
        return Request(now, self._ended_total)

    def ended(self, now: float) -> None:
        """The answer of a request is there, or none will come."""
        self._in_flight -= 1
        self._ended_total += 1
        self._ended.append(now)

    def learn(
        self, request: Request, said: RateLimit, server_at: float, now: float
    ) -> None:
        """Take the server's figures of the answer, given at `server_at` (Unix seconds), of a request that has ended.

        Answers overtake each other. So each tells how many are left at least, had the server counted everything that
        was in flight with its request or started since only after it; and the least of a window counts.
        """
        self._look(now)
        if said.limit is not None and said.limit > 0:
            self._server = said.limit
        if said.remaining is None or said.reset_at_seconds is None:
            return
        remaining, resets_in = said.remaining, said.reset_at_seconds - server_at
        window = self._window(said.reset_at_seconds)
        window.resets_at = max(
            window.resets_at, now + min(max(resets_in, 0.0), MINUTE_SECONDS)
        )
        if len(self._windows) == 1:
            self._known_from = window.resets_at + MINUTE_SECONDS
        others_of_us = self._ended_total + self._in_flight - request.ended_before - 1
        window.left = min(window.left, remaining - others_of_us)
        if self._server is None or resets_in > MINUTE_SECONDS + _SAME_RESET_SECONDS:
            return  # no figures of a minute
        own = self._since(
            request.started_at + resets_in - MINUTE_SECONDS - _SAME_RESET_SECONDS
        )
        foreign = ceil(
            self._server - remaining - own - self._siblings(window, own) - _ROUNDING
        )
        window.foreign = max(window.foreign, foreign)
        if window.first_seen_at > now:
            window.first_seen_at, window.first_foreign = now, window.foreign
        window.contested |= (
            foreign > (1 - PLANNED) * self._free_share * self._server + _ROUNDING
        )
        window.seen_at = now

    def requests_last_minute(self, now: float) -> int:
        """Requests that count."""
        self._look(now)
        return len(self._ended) + self._in_flight

    def spent(self, now: float) -> float:
        """The part of our share that was used within a minute, 0 to 1.

        With what owners before used of it: less, the longer they are gone, or it would be counted on and on where
        shards change hands more than once a minute.
        """
        used = self.requests_last_minute(now)
        before = sum(
            gain.share * min((gain.spent_until - now) / MINUTE_SECONDS, 1.0)
            for gain in self._gains
        )
        return min(
            (used + before * self.available) / max(self._share * self.available, 1.0),
            1.0,
        )

    @property
    def _free_share(self) -> float:
        return max(self._share - sum(gain.share for gain in self._gains), 0.0)

    def _siblings(self, window: _Window, own: int) -> float:
        """Requests of the other workers: all that they may, or where others use the key as many as we for our share.

        Nobody is then taken for a stranger who is not, and strangers not for siblings that make room for them.
        """
        share = self._free_share
        return (
            own * (1 - share) / share
            if window.shared and share
            else window.planned * (1 - share)
        )

    def _window(self, reset: float) -> _Window:
        for window in self._windows:
            if abs(window.reset - reset) <= _SAME_RESET_SECONDS:
                return window
        self._windows.append(
            _Window(reset, self.available, self.foreign_per_minute > 0)
        )
        return self._windows[-1]

    def _since(self, moment: float) -> int:
        """Requests of ours that the server may have counted since."""
        return self._in_flight + sum(
            len(ends) - bisect_left(ends, moment) for ends in (self._older, self._ended)
        )

    def _look(self, now: float) -> None:
        """Forget what is over. What ended is kept another minute, as a window may have begun before the last one."""
        self._now = now
        while self._ended and self._ended[0] + MINUTE_SECONDS <= now:
            self._older.append(self._ended.popleft())
        while self._older and self._older[0] + 2 * MINUTE_SECONDS <= now:
            self._older.popleft()
        self._windows = [
            window
            for window in self._windows
            if now < window.resets_at + MINUTE_SECONDS
        ]
        self._gains = [gain for gain in self._gains if now < gain.spent_until]
