"""Our own requests in a sliding minute."""

from __future__ import annotations

from bisect import bisect_left
from collections import deque
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from connector.upstream.budget.units import MINUTE_SECONDS

if TYPE_CHECKING:
    from collections.abc import Sequence

# If only requests in flight count, nobody knows when one will leave the minute.
_LOOK_AGAIN_SECONDS: Final = 1.0

# A server window can have begun up to a minute before the sliding minute did.
_KEPT_SECONDS: Final = 2 * MINUTE_SECONDS


@dataclass(slots=True, frozen=True)
class Permit:
    """Permission to send one request, counted since `started_at`.

    `ended_before` is the number of our requests that had ended by then: the server
    has certainly counted those before this one.
    """

    started_at: float
    ended_before: int


class SentRequests:
    """Counts requests from their start until a minute after their end.

    The server counts a request at some moment between its start and its answer. We do
    not learn when, so a request counts for as long as the server may count it.
    """

    def __init__(self) -> None:
        self._in_flight = 0
        self._ended_total = 0
        self._ended_last_minute: deque[float] = deque()
        self._ended_earlier: deque[float] = deque()

    def start(self, now: float) -> Permit:
        """Count a request from now on."""
        self._in_flight += 1
        return Permit(now, self._ended_total)

    def end(self, now: float) -> None:
        """Record that a request ended. It counts for one more minute."""
        self._in_flight -= 1
        self._ended_total += 1
        self._ended_last_minute.append(now)

    def counted(self, now: float) -> int:
        """Return the number of requests that count."""
        self._forget(now)
        return len(self._ended_last_minute) + self._in_flight

    def wait_seconds(self, limit: int, now: float) -> float:
        """Return the time until one more request fits into the limit; 0 if it does now."""
        excess = self.counted(now) - limit
        if excess < 0:
            return 0.0

        # The limit may have shrunk: then more than one request must leave the minute.
        if excess >= len(self._ended_last_minute):
            return _LOOK_AGAIN_SECONDS
        return self._ended_last_minute[excess] + MINUTE_SECONDS - now

    def maybe_counted_after(self, permit: Permit) -> int:
        """Return how many other requests the server may have counted after this one."""
        started_total = self._ended_total + self._in_flight
        return started_total - permit.ended_before - 1

    def maybe_counted_since(self, moment: float, now: float) -> int:
        """Return how many requests the server may have counted since a moment."""
        self._forget(now)
        last_minute = _count_since(self._ended_last_minute, moment)
        earlier = _count_since(self._ended_earlier, moment)
        return self._in_flight + last_minute + earlier

    def _forget(self, now: float) -> None:
        last_minute, earlier = self._ended_last_minute, self._ended_earlier
        while last_minute and last_minute[0] + MINUTE_SECONDS <= now:
            earlier.append(last_minute.popleft())
        while earlier and earlier[0] + _KEPT_SECONDS <= now:
            earlier.popleft()


def _count_since(moments: Sequence[float], moment: float) -> int:
    return len(moments) - bisect_left(moments, moment)
