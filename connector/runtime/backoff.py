"""Pauses between attempts that fail."""

from __future__ import annotations

import random
from dataclasses import dataclass
from typing import Final

# Enough to reach every maximum used here, and no number overflows.
_MAX_DOUBLINGS: Final = 10

# Shards that fail together do not try again together.
_MAX_JITTER: Final = 1.5


@dataclass(frozen=True, slots=True)
class Backoff:
    """Doubles the pause with each failure in a row, between two bounds, plus jitter."""

    first_seconds: float
    max_seconds: float

    def pause_seconds(self, failures: int) -> float:
        """Return the pause after this many failures in a row (1 or more).

        Never shorter than `first_seconds`: jitter only adds to the pause.
        """
        factor = 2.0 ** min(failures - 1, _MAX_DOUBLINGS)
        pause = min(self.first_seconds * factor, self.max_seconds)
        return pause * random.uniform(1, _MAX_JITTER)  # noqa: S311 -- not a secret


BACKOFF: Final = Backoff(first_seconds=0.5, max_seconds=10.0)

# At least two heartbeats of the group, whose interval is at most 1.5 s.
#
# A zombie has to hear that it lost the shard before it opens it again, or it would
# fence the new owner.
FENCED_BACKOFF: Final = Backoff(first_seconds=3.0, max_seconds=30.0)
