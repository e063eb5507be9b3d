"""The hard limit of one worker's requests, in virtual time."""

from __future__ import annotations

from collections import deque
from math import inf
from typing import Final

MINUTE_SECONDS: Final = 60.0


class SlidingMinute:
    """Allows at most `limit` requests within any minute, by the rule of connector/upstream/budget.

    A request counts from its start until a minute after its end.
    """

    def __init__(self, limit: float) -> None:
        self._limit = limit
        self._in_flight = 0
        self._ended_at: deque[float] = deque()

    def opens_at(self, now: float) -> float:
        """Return when the next request may start: `now`, later, or `inf` until one has ended."""
        while self._ended_at and self._ended_at[0] + MINUTE_SECONDS <= now:
            self._ended_at.popleft()

        excess = len(self._ended_at) + self._in_flight - self._limit
        if excess < 0:
            return now

        must_expire = int(excess)
        if must_expire < len(self._ended_at):
            return self._ended_at[must_expire] + MINUTE_SECONDS
        return inf

    def start(self) -> None:
        """Count a request that starts."""
        self._in_flight += 1

    def end(self, now: float) -> None:
        """Keep counting a request that ends until a minute from now."""
        self._in_flight -= 1
        self._ended_at.append(now)
