"""How long after its computation a refresh can be seen, clocks included, from when it was not and when it was. Pure."""

from __future__ import annotations

from collections import deque
from typing import Final

_KEPT: Final = 32
_MARGIN_SECONDS: Final = 0.25
"""How far inside of what agrees with most checks the lag is supposed to be."""


class VisibilityLag:
    """The lag is a little different each time, and known to lie between two checks only: what most of them allow."""

    def __init__(self) -> None:
        self.seconds = 0.0
        self._between: deque[tuple[float, float]] = deque(maxlen=_KEPT)

    def learn(self, least: float, most: float) -> float:
        """A refresh was not there `least` seconds after its computation, and was after `most`. Returns the best guess.

        `most` is not below `least`; both are negative where the upstream's clock is ahead of what we take it for.
        """
        guess = min(max(self.seconds, least), most)
        self._between.append((least, most))
        low, high = self._agreed()
        margin = min((high - low) / 2, _MARGIN_SECONDS)
        self.seconds = min(max(self.seconds, low + margin), high - margin)
        return guess

    def _agreed(self) -> tuple[float, float]:
        """The first stretch that lies between as many pairs of checks as any."""
        ends = sorted(
            [(least, 0) for least, _ in self._between]
            + [(most, 1) for _, most in self._between]
        )
        count = best = 0
        low = high = ends[0][0]
        for place, (at, is_end) in enumerate(ends):
            count += -1 if is_end else 1
            if count > best:
                best, low, high = count, at, ends[place + 1][0]
        return low, high
