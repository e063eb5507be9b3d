"""The server's own windows, as `X-RateLimit-Remaining` and `-Reset` describe them."""

from __future__ import annotations

from dataclasses import dataclass
from math import inf
from typing import Final

from connector.upstream.budget.units import MINUTE_SECONDS

# The server rounds its reset to a second, and its clock may be adjusted by another.
SAME_RESET_SECONDS: Final = 2.0


@dataclass(slots=True)
class ServerWindow:
    """A window in which the server counts requests.

    `reset_at_seconds` (Unix time of the server) identifies it, `ends_at` is the latest
    estimate of that moment on our clock. At least `left` more requests may start in it.
    """

    reset_at_seconds: float
    ends_at: float = -inf
    left: float = inf


class ServerWindows:
    """Knows how many requests the server still accepts, and until when it refuses.

    Several windows can be known at once, since answers overtake each other.
    """

    def __init__(self, length_seconds: float = MINUTE_SECONDS) -> None:
        self._length_seconds = length_seconds
        self._windows: list[ServerWindow] = []

    def start(self, now: float) -> None:
        """Take a request that starts now off every window it may be counted in."""
        for window in self._windows:
            if now < window.ends_at:
                window.left -= 1

    def wait_seconds(self, now: float) -> float:
        """Return the time until every used-up window has ended; 0 if all have."""
        wait = 0.0
        for window in self._windows:
            if window.left <= 0:
                wait = max(wait, window.ends_at - now)
        return wait

    def observe(
        self, reset_at_seconds: float, resets_in: float, left: int, now: float
    ) -> ServerWindow:
        """Record the figures of an answer; at least `left` requests remain in its window.

        Responses arrive out of order, so keep the smallest `left` and the latest end. A
        reset further away than the window's length is not believed.
        """
        self._forget(now)
        window = self._find(reset_at_seconds)
        if window is None:
            window = ServerWindow(reset_at_seconds)
            self._windows.append(window)

        # A late answer of a window that is over has a reset in the past.
        resets_in = min(max(resets_in, 0.0), self._length_seconds)
        window.ends_at = max(window.ends_at, now + resets_in)
        window.left = min(window.left, left)
        return window

    def _find(self, reset_at_seconds: float) -> ServerWindow | None:
        for window in self._windows:
            difference = abs(window.reset_at_seconds - reset_at_seconds)
            if difference <= SAME_RESET_SECONDS:
                return window
        return None

    def _forget(self, now: float) -> None:
        """Forget windows that ended a whole window ago: late answers still find theirs."""
        since = now - self._length_seconds
        self._windows = [window for window in self._windows if since < window.ends_at]
