"""The hard limit: never more requests in any sliding minute than the budget, whatever asks for them.

The server's figures are the truth where it gives some, since a key can be shared with other programs. Moments are
seconds of a monotonic clock, passed in.
"""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from connector.core.decode import RateLimit

MINUTE_SECONDS: Final = 60.0


class Limiter:
    """A log of the last minute's requests, and what the server said is left.

    A request counts until a minute after its answer, so that no path to the server can bring two closer together
    than they were counted here.
    """

    def __init__(self, limit_per_minute: int) -> None:
        self._configured = limit_per_minute
        self._server: int | None = None
        self._left: int | None = None
        self._reset_at = float("-inf")
        self._in_flight = 0
        self._answered: deque[float] = deque()
        self.share = 1.0

    @property
    def limit(self) -> int:
        """Requests a minute that are this worker's: its share of the smaller of ours and the server's limit."""
        limit = self._configured if self._server is None else min(self._configured, self._server)
        return max(int(limit * self.share), 1)

    def wait_seconds(self, now: float) -> float:
        """How long until a request may start; 0: now. With all of them in flight that is unknown: look again soon."""
        while self._answered and self._answered[0] + MINUTE_SECONDS <= now:
            self._answered.popleft()
        wait = 0.0
        if len(self._answered) + self._in_flight >= self.limit:
            over = len(self._answered) + self._in_flight - self.limit
            wait = self._answered[over] + MINUTE_SECONDS - now if over < len(self._answered) else 1.0
        if self._left is not None and now < self._reset_at and self._left - self._in_flight <= 0:
            wait = max(wait, self._reset_at - now)
        return wait

    def started(self) -> None:
        """A request leaves."""
        self._in_flight += 1

    def ended(self, now: float) -> None:
        """Its answer is there, or none will come."""
        self._in_flight -= 1
        self._answered.append(now)
        if self._left is not None:
            self._left -= 1  # until the server says better, which not every answer does

    def learn(self, said: RateLimit, reset_in_seconds: float | None, now: float) -> None:
        """Take the server's figures, of an answer that has ended."""
        if said.limit is not None and said.limit > 0:
            self._server = said.limit
        if said.remaining is not None and reset_in_seconds is not None:
            self._left = max(said.remaining, 0)
            self._reset_at = now + min(max(reset_in_seconds, 0.0), MINUTE_SECONDS)
