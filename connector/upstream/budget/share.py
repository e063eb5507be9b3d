"""Which part of the budget is this worker's, and what of it those before may have spent."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Final

from connector.core.model import MICROS
from connector.schedule.batches import MAX_SYMBOLS
from connector.upstream.budget.limiter import MINUTE_SECONDS

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping

    from connector.kafka.shard_log import Restored


_GONE_SECONDS: Final = 3600
"""A worker that has been silent for so long asks no more."""


def batches_for(symbols: int) -> int:
    """Requests that so many symbols need."""
    return -(-symbols // MAX_SYMBOLS)


def share_of(
    owned: Collection[tuple[str, str]], configured: Mapping[str, int]
) -> float:
    """The part of all batches that these symbols (feed, symbol) are, 0 to 1; over all workers the sum is 1.

    `configured`: symbols of each feed.
    """
    counts = Counter(feed for feed, _ in owned)
    part = sum(
        batches_for(size) * counts[feed] / size for feed, size in configured.items()
    )
    return part / sum(batches_for(size) for size in configured.values())


def spent_before(restored: Restored | None, now: int, me: str) -> float:
    """The part of a shard's budget, 0 to 1, that its last writer may have used in the last minute.

    What it said last of its whole budget, and the same pace since; all of it where it did not say. What was ours is in
    our own log. `now`: wall clock, microseconds.
    """
    last = (
        max((state.observed_at for state in restored.states.values()), default=None)
        if restored
        else None
    )
    if (
        restored is None
        or restored.writer is None
        or restored.writer.worker == me
        or last is None
    ):
        return 0.0
    silent_seconds = max(now - last, 0) / MICROS
    if silent_seconds >= _GONE_SECONDS:
        return 0.0
    pace = 1 + min(silent_seconds / MINUTE_SECONDS, 1.0)
    return 1.0 if restored.spent is None else min(pace * restored.spent, 1.0)
