"""Keeps the request budget in line with the shards that are polled."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

from connector.upstream.budget import TakenOverShare
from connector.upstream.budget.share import (
    PreviousOwner,
    batches_for,
    share_of,
    used_by_previous_owner,
)
from connector.upstream.budget.units import MINUTE_SECONDS

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from connector.kafka.names import ShardId
    from connector.runtime.coverage import Coverage, Key
    from connector.runtime.shard import Shard
    from connector.upstream.budget import Budget


class BudgetShare:
    """Computes this worker's share, and what the previous owners have used of it."""

    def __init__(self, budget: Budget, coverage: Coverage, worker: str) -> None:
        self._budget = budget
        self._coverage = coverage
        self._worker = worker
        self._taken_over: dict[ShardId, TakenOverShare] = {}

    def update(self, gained: Mapping[Key, Shard], now: float, wall_now: int) -> None:
        """Set the share after the polled shards have changed.

        `gained` are the symbols that are new. `now` is monotonic seconds, and `wall_now`
        the wall clock in microseconds.
        """
        # A take-over stays until its minute is over, even if the shard comes and goes:
        # shards that return without another writer have no new one.
        for shard_id, taken_over in list(self._taken_over.items()):
            if taken_over.used_until <= now:
                del self._taken_over[shard_id]
        self._take_over(gained, now, wall_now)

        # What was used of shards that are lost again is counted by their next owner.
        owned = {shard.id for shard in self._coverage.shards}
        counted = []
        for shard_id, taken_over in self._taken_over.items():
            if shard_id in owned:
                counted.append(taken_over)
        share = share_of(self._coverage.symbols, self._coverage.feed_sizes)
        self._budget.set_share(share, counted)

    def _take_over(
        self, gained: Mapping[Key, Shard], now: float, wall_now: int
    ) -> None:
        """Count the requests that the previous owners of new shards may have used."""
        shares = {}
        used = {}
        for shard in set(gained.values()):
            shares[shard] = self._share_of(shard)
            previous = _previous_owner(shard)
            fraction = used_by_previous_owner(previous, wall_now, self._worker)
            if fraction > 0:
                used[shard] = shares[shard] * fraction

        gained_share = sum(shares.values())
        unused_share = gained_share - sum(used.values())
        first_requests = self._first_requests(gained, unused_share, now)
        for shard, used_share in used.items():
            # Each shard gets its part of the first requests.
            part = shares[shard] / gained_share
            self._taken_over[shard.id] = TakenOverShare(
                used_share,
                first_requests * part,
                used_until=now + MINUTE_SECONDS,
            )

    def _first_requests(
        self, gained: Iterable[Key], unused_share: float, now: float
    ) -> int:
        """Return how many requests may go at once, so that new symbols are seen.

        The unused share bounds them: a worker that dies again and again would otherwise
        send its first requests each time.
        """
        batches = 0
        for symbols in Counter(feed for feed, _ in gained).values():
            batches += batches_for(symbols)
        available = self._budget.spending(now).available_per_minute
        return min(batches, max(int(unused_share * available), 1))

    def _share_of(self, shard: Shard) -> float:
        symbols = [(shard.id.feed, symbol) for symbol in shard.symbols]
        return share_of(symbols, self._coverage.feed_sizes)


def _previous_owner(shard: Shard) -> PreviousOwner | None:
    """Return the last writer of a shard, or None if its topic is empty."""
    restored = shard.restored
    if restored is None or restored.writer is None or not restored.states:
        return None
    observed_at = max(state.observed_at for state in restored.states.values())
    return PreviousOwner(restored.writer.worker, observed_at, restored.used_fraction)
