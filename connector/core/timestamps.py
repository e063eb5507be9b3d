"""Recognize responses that are copies of earlier ones by their timestamps."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from connector.core.model import MICROS

if TYPE_CHECKING:
    from collections.abc import Hashable

# A timestamp in whole seconds stays the same for a second. One that was there before is that
# of a copy: a server's clock advances with ours.
_MAX_REPEAT_MICROS: Final = MICROS

# The batches of all feeds may have a copy each.
_TIMESTAMPS_KEPT: Final = 1024


class Timestamps:
    """The latest timestamps of a server, and when each was first seen.

    Moments of our clock are microseconds of a monotonic one.
    """

    def __init__(self) -> None:
        self._first_seen_at: dict[Hashable, int] = {}

    def is_repeated(self, stamp: Hashable, requested_at: int, received_at: int) -> bool:
        """Take note of a response's timestamp, or of it and whatever else tells copies apart.

        Return True if it was seen more than a second before the request, so that the response
        is a copy of an earlier one.
        """
        first_seen_at = self._first_seen_at.pop(stamp, received_at)
        # The last in the dictionary is forgotten last.
        self._first_seen_at[stamp] = first_seen_at
        if len(self._first_seen_at) > _TIMESTAMPS_KEPT:
            oldest = next(iter(self._first_seen_at))
            del self._first_seen_at[oldest]
        return requested_at > first_seen_at + _MAX_REPEAT_MICROS
