"""Our wall clock, and an estimate of the upstream's."""

from __future__ import annotations

import time
from collections import deque
from statistics import median
from typing import Final

from connector.core.model import MICROS, Moment

# A server whose clock is further off than this is not followed any further.
MAX_CORRECTION_SECONDS: Final = 300

# The median of this many follows a step of the server's clock within half of them.
_SAMPLES: Final = 15

# With fewer, a single bogus timestamp could be the median.
_MIN_SAMPLES: Final = 3

# Smaller changes of our clock are NTP at work, and are learnt from the next answers.
_MIN_STEP_MICROS: Final = MICROS // 2


class Clock:
    """Wall time in microseconds since the epoch, by our clock and by the upstream's."""

    def __init__(self) -> None:
        self.correction = 0
        """Estimated upstream clock minus ours, in microseconds."""
        self._samples: deque[int] = deque(maxlen=_SAMPLES)
        self._ahead = self._ahead_of_monotonic()

    @staticmethod
    def now() -> int:
        """Return the present by our clock."""
        return time.time_ns() // 1000

    def upstream(self, ours: int) -> int:
        """Return the upstream's time at a moment of our clock."""
        self._follow_steps()
        return ours + self.correction

    def moment(self) -> Moment:
        """Return the present by our clock and by the upstream's."""
        local_at = self.now()
        return Moment(local_at, self.upstream(local_at))

    def learn(self, sent_at: int, received_at: int, server_at: int) -> None:
        """Learn from a response's `meta.timestamp`, created between sending and receiving.

        A difference that the round trip can explain is not corrected. The median of the
        last samples counts, so that a bogus timestamp changes nothing.
        """
        self._follow_steps()
        # A timestamp in whole seconds may stand for any moment of its second.
        resolution = MICROS if server_at % MICROS == 0 else 0
        smallest = server_at - received_at
        largest = server_at + resolution - sent_at
        if smallest <= 0 <= largest:
            sample = 0
        else:
            sample = min(smallest, largest, key=abs)
        self._samples.append(sample)
        self._settle()

    def _settle(self) -> None:
        if len(self._samples) < _MIN_SAMPLES:
            return
        limit = MAX_CORRECTION_SECONDS * MICROS
        correction = round(median(self._samples))
        self.correction = max(-limit, min(limit, correction))

    def _ahead_of_monotonic(self) -> int:
        # CLOCK_BOOTTIME continues while the machine is suspended. With time.monotonic a
        # suspension would look like a step of the wall clock.
        return self.now() - time.clock_gettime_ns(time.CLOCK_BOOTTIME) // 1000

    def _follow_steps(self) -> None:
        """Shift the samples when our clock is stepped."""
        ahead = self._ahead_of_monotonic()
        step = ahead - self._ahead
        if abs(step) < _MIN_STEP_MICROS:
            return
        self._ahead = ahead
        shifted = [sample - step for sample in self._samples]
        self._samples = deque(shifted, maxlen=_SAMPLES)
        self._settle()
