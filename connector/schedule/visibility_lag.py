"""Learn how long after its computation a refresh becomes visible. Pure.

The lag includes the error of our estimate of the upstream's clock, so it can be negative.
"""

from __future__ import annotations

from collections import deque
from typing import Final

# Refreshes whose bounds are remembered.
_BOUNDS_KEPT: Final = 32

# The estimate stays this far inside the range that most refreshes agree on.
_MARGIN_SECONDS: Final = 0.25


class VisibilityLag:
    """An estimate of the lag from bounds: each refresh appeared between two checks.

    The lag differs a little each time. The estimate lies in the range that agrees with most
    refreshes.
    """

    def __init__(self) -> None:
        self.seconds = 0.0
        self._bounds: deque[tuple[float, float]] = deque(maxlen=_BOUNDS_KEPT)

    def learn(self, least: float, most: float) -> float:
        """Learn that a refresh was invisible after `least` seconds, and visible after `most`.

        `most` is not below `least`. Returns the best guess for this refresh.
        """
        guess = min(max(self.seconds, least), most)
        self._bounds.append((least, most))
        low, high = self._agreed_range()
        margin = min((high - low) / 2, _MARGIN_SECONDS)
        lowest = low + margin
        highest = high - margin
        self.seconds = min(max(self.seconds, lowest), highest)
        return guess

    def _agreed_range(self) -> tuple[float, float]:
        """Return the first range that lies within as many bounds as any other."""
        # At the same moment, ranges open before others close.
        opens, closes = 0, 1
        ends = [(least, opens) for least, _ in self._bounds]
        ends += [(most, closes) for _, most in self._bounds]
        ends.sort()

        open_count = most_open = 0
        low = high = ends[0][0]
        for place, (at, kind) in enumerate(ends):
            if kind == closes:
                open_count -= 1
                continue
            open_count += 1
            if open_count > most_open:
                most_open = open_count
                low = at
                high = ends[place + 1][0]
        return low, high
