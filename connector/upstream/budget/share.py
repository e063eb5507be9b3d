"""This worker's part of the budget, and the use by previous owners of its shards."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from math import ceil
from typing import TYPE_CHECKING, Final

from connector.core.model import MICROS, Value
from connector.schedule.batches import MAX_SYMBOLS
from connector.upstream.budget.units import MINUTE_SECONDS, round_down

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Mapping

# A worker that wrote nothing for this long is gone, and has used nothing lately.
_GONE_SECONDS: Final = 3600


@dataclass(slots=True, frozen=True)
class TakenOverShare:
    """A part of the budget, 0 to 1, that previous owners have used.

    This part is unavailable until `used_until`, except for `first_requests`, which may be
    sent at once: otherwise nothing is known of the symbols for a minute.

    `used_until` is a minute after the last answer of the previous owners, and not before
    their own take-overs are over. `now + 60` is late enough if none of their requests is
    in flight.
    """

    share: float
    first_requests: float
    used_until: float


class Share:
    """This worker's part of the budget, 0 to 1."""

    def __init__(self) -> None:
        # Programs without a group, such as `check`, use the whole budget.
        self._share = 1.0
        self._taken_over: list[TakenOverShare] = []

    @property
    def fraction(self) -> float:
        """The share as it was set."""
        return self._share

    def set(self, share: float, taken_over: Iterable[TakenOverShare]) -> None:
        """Replace the share and everything that was taken over."""
        self._share = share
        self._taken_over = list(taken_over)

    def limit(self, available: int, now: float) -> int:
        """Return the requests a minute that this worker may send.

        A worker with any share may send a request a minute, however small the share:
        it would never see its symbols otherwise.
        """
        self._forget(now)
        least = ceil(self._share)
        full_limit = max(round_down(self._share * available), least)
        if not self._taken_over:
            return full_limit
        first_requests = sum(taken.first_requests for taken in self._taken_over)
        unused = round_down(self.unused(now) * available + first_requests)
        return min(unused, full_limit)

    def unused(self, now: float) -> float:
        """Return the part that no previous owner has used in the last minute."""
        self._forget(now)
        used = sum(taken.share for taken in self._taken_over)
        return max(self._share - used, 0.0)

    def used_fraction(self, sent: int, available: int, now: float) -> float:
        """Return the part of our share that was used within a minute, 0 to 1.

        The use of previous owners fades over its minute. It would be counted again and
        again otherwise if shards change hands more than once a minute.
        """
        self._forget(now)
        used_by_predecessors = 0.0
        for taken in self._taken_over:
            fading = (taken.used_until - now) / MINUTE_SECONDS
            used_by_predecessors += taken.share * min(fading, 1.0)
        used = sent + used_by_predecessors * available
        return min(used / max(self._share * available, 1.0), 1.0)

    def _forget(self, now: float) -> None:
        taken_over = self._taken_over
        self._taken_over = [taken for taken in taken_over if now < taken.used_until]


class PreviousOwner(Value, frozen=True):
    """The last writer of a shard, as the shard's topic shows it.

    `observed_at` is its last observation (microseconds). `used_fraction` is the part of
    its budget it had used within a minute by then; None if it did not record it.
    """

    worker: str
    observed_at: int
    used_fraction: float | None


def used_by_previous_owner(
    previous: PreviousOwner | None, now: int, worker: str
) -> float:
    """Return the part of a shard's budget, 0 to 1, used in the last minute.

    Assume that the previous owner has gone on at the pace it recorded, or has used
    everything if it recorded none. Requests of this `worker` are in our own count, even
    if they were for a shard we lost and got back. `now`: wall clock, microseconds.
    """
    if previous is None or previous.worker == worker:
        return 0.0
    silent_seconds = max(now - previous.observed_at, 0) / MICROS
    if silent_seconds >= _GONE_SECONDS:
        return 0.0
    if previous.used_fraction is None:
        return 1.0
    silent_minutes = min(silent_seconds / MINUTE_SECONDS, 1.0)
    return min((1 + silent_minutes) * previous.used_fraction, 1.0)


def batches_for(symbols: int) -> int:
    """Return the number of requests that this many symbols need."""
    return ceil(symbols / MAX_SYMBOLS)


def share_of(
    owned: Collection[tuple[str, str]], configured: Mapping[str, int]
) -> float:
    """Return the part of all batches that these symbols (feed, symbol) need, 0 to 1.

    The shares of all workers add up to 1. `configured` is the number of symbols of each
    feed.
    """
    owned_by_feed = Counter(feed for feed, _ in owned)
    ours = 0.0
    total = 0
    for feed, size in configured.items():
        batches = batches_for(size)
        ours += batches * owned_by_feed[feed] / size
        total += batches
    return ours / total
