"""Measures how fast the requests of a month are spent, by all programs and by others."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from typing import Final

# The pace is measured over this part of the month, about a day: programs have daily
# rhythms. Over less than a fiftieth of that, a single request would look like a rate.
_MEMORY_FRACTION: Final = 1 / 30
_CHECKPOINTS: Final = 50

# Answers that overtake each other can show a count that is smaller by some. A count that
# is smaller by more was corrected by the server.
_OVERTAKEN: Final = 100


@dataclass(slots=True, frozen=True)
class _Checkpoint:
    """The requests that had been sent by a moment: by all programs, and by our workers."""

    at: float
    used: float
    ours: float


class MonthPace:
    """Compares the server's count with its count of about a day ago.

    Moments are seconds of the monotonic clock.
    """

    def __init__(self) -> None:
        self._memory_seconds = 0.0
        self._checkpoints: deque[_Checkpoint] = deque()

    def begin(self, period_seconds: float) -> None:
        """Begin a period of this length, in which nothing has been counted."""
        self._memory_seconds = period_seconds * _MEMORY_FRACTION
        self.forget()

    def forget(self) -> None:
        """Forget all counts: they may be another user's."""
        self._checkpoints.clear()

    def note(self, used: float, ours: float, now: float) -> None:
        """Keep a count for comparison, a few times a day.

        `used` are the requests of all programs, and `ours` those of all our workers.
        """
        checkpoints = self._checkpoints
        if checkpoints:
            newest = checkpoints[-1]
            if used < newest.used - _OVERTAKEN:
                checkpoints.clear()
            elif used < newest.used:
                return

        # The last one always holds the present figures.
        if len(checkpoints) > 1:
            seconds = checkpoints[-1].at - checkpoints[-2].at
            if seconds < self._least_seconds():
                checkpoints.pop()
        checkpoints.append(_Checkpoint(now, used, ours))
        while checkpoints[0].at < now - self._memory_seconds:
            checkpoints.popleft()

    def per_second(self) -> float | None:
        """Return the requests of all programs, None if they are not known for long enough."""
        ends = self._ends()
        if ends is None:
            return None
        first, last = ends
        return (last.used - first.used) / (last.at - first.at)

    def others_per_second(self) -> float:
        """Return the requests of other programs, 0 if they are not known for long enough."""
        ends = self._ends()
        if ends is None:
            return 0.0
        first, last = ends
        used = last.used - first.used
        ours = last.ours - first.ours
        return max(used - ours, 0.0) / (last.at - first.at)

    def _least_seconds(self) -> float:
        """Return the least time between two checkpoints, and the least that shows a pace."""
        return self._memory_seconds / _CHECKPOINTS

    def _ends(self) -> tuple[_Checkpoint, _Checkpoint] | None:
        """Return the first and the last checkpoint, None if they are too close."""
        if not self._checkpoints:
            return None
        first, last = self._checkpoints[0], self._checkpoints[-1]
        if last.at - first.at < self._least_seconds():
            return None
        return first, last
