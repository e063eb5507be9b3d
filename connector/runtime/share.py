"""Which part of the budget is this worker's, and what of it those before may have spent."""

from __future__ import annotations

from collections import Counter
from math import inf
from typing import TYPE_CHECKING, Final

from connector.core.batches import MAX_SYMBOLS
from connector.core.model import MICROS
from connector.source.limits import MINUTE_SECONDS

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Mapping

    from connector.kafka.shard import Restored


_GONE_SECONDS: Final = 3600
_BURST: Final = 2


def batches_for(symbols: int) -> int:
    """Requests that so many symbols need."""
    return -(-symbols // MAX_SYMBOLS)


def share_of(owned: Collection[tuple[str, str]], configured: Mapping[str, int]) -> float:
    """The part of all batches that these symbols (feed, symbol) are, 0 to 1; over all workers the sum is 1.

    `configured`: symbols of each feed.
    """
    counts = Counter(feed for feed, _ in owned)
    part = sum(batches_for(size) * counts[feed] / size for feed, size in configured.items())
    return part / sum(batches_for(size) for size in configured.values())


def spent_before(shards: Iterable[Restored], now: int, me: str) -> float:
    """Requests that the last writers of these shards may have made in the last minute. `now`: wall clock, microseconds.

    What each said last, the same pace since, and a few more, as checks come in bursts; all that it might where it did
    not say. A worker that has been silent for an hour asks no more. `me` is not among them.
    """
    by_worker: dict[str, float] = {}
    for restored in shards:
        last = max(restored.states.values(), key=lambda state: state.observed_at, default=None)
        if last is None or last.source.worker == me:
            continue
        silent_seconds = max(now - last.observed_at, 0) / MICROS
        if silent_seconds < _GONE_SECONDS:
            pace = 1 + min(silent_seconds / MINUTE_SECONDS, 1.0)
            supposed = inf if restored.requests is None else pace * restored.requests + _BURST
            by_worker[last.source.worker] = max(supposed, by_worker.get(last.source.worker, 0))
    return sum(by_worker.values())
