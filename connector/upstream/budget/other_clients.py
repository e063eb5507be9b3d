"""Estimate of the requests that other programs of the user send, with any of their keys.

The server's figures count everybody. Requests beyond ours and those of our siblings (the
other workers of this connector) are from other clients. Only our own answers show them:
requests after our last answer of a window stay unseen, and so do refused ones.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import ceil, inf
from typing import TYPE_CHECKING, Final

from connector.upstream.budget.units import MINUTE_SECONDS, exceeds, round_up

if TYPE_CHECKING:
    from connector.upstream.budget.server_windows import ServerWindow

# Part of a limit to plan with. The rest is for retries and for first requests.
PLANNED_FRACTION: Final = 0.9

# Scale up less than half a window as if it had been half: a burst is not a rate.
_MIN_SEEN_SECONDS: Final = 30.0

# Two answers closer together than this show no pace.
_MIN_PACE_SECONDS: Final = 10.0

# An extrapolation never claims more of the limit than this. With the rest, we send often
# enough to see a whole window.
_MAX_EXTRAPOLATED_FRACTION: Final = 3 / 4


@dataclass(slots=True)
class OtherClientsInWindow:
    """Requests of other clients in one server window.

    `planned` is the number of requests that were available to all workers together when
    the window began. `shared` is True if other clients were known by then.
    """

    window: ServerWindow
    planned: int
    shared: bool
    requests: int = 0
    seen_at: float = -inf
    first_requests: int = 0
    first_seen_at: float = inf
    is_contested: bool = False
    """True if they sent more than the unplanned part of the limit."""

    def observe(
        self, counted: int, ours: int, unused_share: float, limit: int, now: float
    ) -> None:
        """Record that the server counted this many requests, `ours` among them."""
        others = round_up(counted - ours - self._of_siblings(ours, unused_share))
        self.requests = max(self.requests, others)
        self.seen_at = now
        if self.first_seen_at > now:
            self.first_seen_at = now
            self.first_requests = self.requests
        unplanned = (1 - PLANNED_FRACTION) * unused_share * limit
        self.is_contested = self.is_contested or exceeds(others, unplanned)

    def _of_siblings(self, ours: int, share: float) -> float:
        """Estimate the requests of the other workers.

        Assume that they use all they may, so that no sibling is taken for another
        client. If other clients are known, siblings make room as we do: assume that
        they send as many for their share as we do for ours.
        """
        if self.shared and share > 0:
            return ours * (1 - share) / share
        return self.planned * (1 - share)

    def per_minute(self, limit: int, now: float) -> int:
        """Estimate their requests a minute from the number seen in this window."""
        if self.is_contested and self.window.left <= 1:
            # The key is used up, so the server may have refused some of their requests.
            # Plan with a third of the limit, or two thirds of the rest if that is less.
            rest = limit - self.requests
            left_for_us = min(limit // 3, rest * 2 // 3)
            return limit - left_for_us
        if now < self.window.ends_at:
            return self.requests

        # The end of the window was not seen: scale up to a whole one.
        seen_seconds = self.seen_at - (self.window.ends_at - MINUTE_SECONDS)
        seen_seconds = max(seen_seconds, _MIN_SEEN_SECONDS)
        scaled = round_up(self.requests * MINUTE_SECONDS / seen_seconds)
        return max(self.requests, min(scaled, _max_extrapolated(limit)))

    def per_minute_at_their_pace(self, limit: int) -> int:
        """Extrapolate the pace between the first answer of the window and its last."""
        seconds = self.seen_at - self.first_seen_at
        if seconds < _MIN_PACE_SECONDS:
            return 0
        more = self.requests - self.first_requests
        if more > 0:
            more += 1  # the next request may be due now
        pace = more / seconds
        rest_seconds = max(self.window.ends_at - self.first_seen_at, 0.0)
        this_window = self.first_requests + pace * rest_seconds
        whole_window = pace * MINUTE_SECONDS
        extrapolated = round_up(max(this_window, whole_window))
        return min(extrapolated, _max_extrapolated(limit))


class OtherClients:
    """Estimates the use by other clients from the windows of the last minutes."""

    def __init__(self) -> None:
        self._windows: list[OtherClientsInWindow] = []
        self._whole_window_seen_at = -inf

    def per_minute(self, limit: int, now: float) -> int:
        """Return their requests a minute, as the last whole window and this one show.

        Until the first whole window is over, also extrapolate their pace: the unseen rest
        could be large.
        """
        self._forget(now)
        estimate = 0
        for window in self._windows:
            estimate = max(estimate, window.per_minute(limit, now))
            if now < self._whole_window_seen_at:
                estimate = max(estimate, window.per_minute_at_their_pace(limit))
        return estimate

    def in_window(
        self, window: ServerWindow, planned: int, limit: int, now: float
    ) -> OtherClientsInWindow:
        """Return the entry of a server window, a new one if the window is new."""
        shared = self.per_minute(limit, now) > 0
        found = self._find(window)
        if found is None:
            found = OtherClientsInWindow(window, planned, shared)
            self._windows.append(found)
        if len(self._windows) == 1:
            # Our first answer may come late in it: only the next one is seen whole.
            self._whole_window_seen_at = window.ends_at + MINUTE_SECONDS
        return found

    def _find(self, window: ServerWindow) -> OtherClientsInWindow | None:
        for known in self._windows:
            if known.window is window:
                return known
        return None

    def _forget(self, now: float) -> None:
        """Forget windows that ended a minute ago, as `ServerWindows` does."""
        since = now - MINUTE_SECONDS
        self._windows = [
            known for known in self._windows if since < known.window.ends_at
        ]


def _max_extrapolated(limit: int) -> int:
    return ceil(limit * _MAX_EXTRAPOLATED_FRACTION)
