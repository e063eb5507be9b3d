"""Our clock, and the upstream's as well as it is known."""

from __future__ import annotations

import time
from collections import deque
from statistics import median
from typing import Final

from connector.core.model import MICROS

MAX_CORRECTION_SECONDS: Final = 300
"""A server further off than this is not believed any further."""

_SAMPLES: Final = 15
_LEAST_SAMPLES: Final = 3


_STEP_MICROS: Final = MICROS // 2
"""By how much our clock must be set to be noticed at once."""


class Clock:
    """Wall time in microseconds since the epoch, and the correction that makes the upstream's of it."""

    def __init__(self) -> None:
        self._samples: deque[int] = deque(maxlen=_SAMPLES)
        self._ahead = self._ahead_of_monotonic()
        self.correction = 0

    @staticmethod
    def now() -> int:
        """Our wall clock."""
        return time.time_ns() // 1000

    def upstream(self, ours: int) -> int:
        """The upstream's clock at a moment of ours."""
        self._follow()
        return ours + self.correction

    def learn(self, sent_at: int, received_at: int, server_at: int) -> None:
        """Take a response's `meta.timestamp`, which was made between sending and receiving.

        What of a difference the way there and back explains is not corrected; the median of the last few is taken,
        so that one bogus timestamp does nothing.
        """
        self._follow()
        resolution = MICROS if server_at % MICROS == 0 else 0
        least, most = server_at - received_at, server_at + resolution - sent_at
        sample = 0 if least <= 0 <= most else min(least, most, key=abs)
        self._samples.append(sample)
        self._settle()

    def _settle(self) -> None:
        if len(self._samples) >= _LEAST_SAMPLES:
            limit = MAX_CORRECTION_SECONDS * MICROS
            self.correction = max(-limit, min(limit, round(median(self._samples))))

    def _ahead_of_monotonic(self) -> int:
        """Of one that goes on while the machine is suspended, or else a suspension would look like a step."""
        return self.now() - time.clock_gettime_ns(time.CLOCK_BOOTTIME) // 1000

    def _follow(self) -> None:
        """Where our clock was set, what was learnt of the upstream's moves with it."""
        ahead = self._ahead_of_monotonic()
        step = ahead - self._ahead
        if abs(step) >= _STEP_MICROS:
            self._ahead = ahead
            self._samples = deque((sample - step for sample in self._samples), _SAMPLES)
            self._settle()
