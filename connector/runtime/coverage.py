"""The symbols that this worker polls, and how they are packed into requests."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from connector.schedule.batches import Batch, Batches
from connector.upstream.client import LevelsRequest

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable

    from connector.config.model import Feed
    from connector.runtime.shard import Shard
    from connector.schedule.scheduler import Schedule

_log = logging.getLogger(__name__)

# Feed and symbol.
Key = tuple[str, str]


class Coverage:
    """Maps every polled symbol to its shard, and the symbols of each feed to batches."""

    def __init__(self, feeds: Iterable[Feed]) -> None:
        self._feeds = {feed.name: feed for feed in feeds}
        self._batches = {name: Batches(name) for name in self._feeds}
        self._owners: dict[Key, Shard] = {}

    @property
    def symbols(self) -> Collection[Key]:
        """Every polled symbol."""
        return self._owners.keys()

    @property
    def shards(self) -> set[Shard]:
        """The shards that the polled symbols belong to."""
        return set(self._owners.values())

    @property
    def feed_sizes(self) -> dict[str, int]:
        """The number of configured symbols of each feed."""
        return {name: len(feed.symbols) for name, feed in self._feeds.items()}

    def owner(self, feed: str, symbol: str) -> Shard | None:
        """Return the shard of a symbol, or None if this worker does not poll it."""
        return self._owners.get((feed, symbol))

    def set_shards(self, shards: Iterable[Shard]) -> dict[Key, Shard]:
        """Poll the symbols of these shards and no others. Return those that are new."""
        before = self._owners
        self._owners = {}
        for shard in shards:
            for symbol in shard.symbols:
                self._owners[shard.id.feed, symbol] = shard
        for name, batches in self._batches.items():
            owned = [symbol for feed, symbol in self._owners if feed == name]
            batches.own(owned)

        gained = {}
        for key, shard in self._owners.items():
            if key not in before:
                gained[key] = shard
        return gained

    def batches(self) -> list[Batch]:
        """Return all batches of all feeds."""
        found: list[Batch] = []
        for batches in self._batches.values():
            found += batches.all()
        return found

    def request_for(self, batch: Batch) -> LevelsRequest:
        """Return the request that checks a batch."""
        feed = self._feeds[batch.feed]
        return LevelsRequest(
            batch.symbols, feed.exchanges, feed.include, feed.positioning
        )

    def is_stuck(self, batch: Batch) -> bool:
        """Return True if no answer for the batch could be published now."""
        for symbol in batch.symbols:
            shard = self.owner(batch.feed, symbol)
            # One open shard is enough: its symbols should not wait for the others.
            if shard is not None and not shard.is_stuck:
                return False
        return True

    def answered(self, batch: Batch) -> bool:
        """Note that a request was answered. Return True if the batches changed."""
        return self._batches[batch.feed].answered(batch.symbols)

    def refused(self, batch: Batch) -> None:
        """Split a batch that was refused because of one of its symbols."""
        self._batches[batch.feed].refused(batch.symbols)

    def regroup(self, schedule: Schedule) -> bool:
        """Put symbols with a common rhythm into one batch. Return True if any moved."""
        changed = False
        for name, batches in self._batches.items():
            rhythms = {}
            for feed, symbol in self._owners:
                forecast = schedule.forecast(feed, symbol)
                if feed != name or forecast is None:
                    continue
                # Two refreshes must have been seen before there is a rhythm.
                if forecast.period is not None and forecast.phase is not None:
                    rhythms[symbol] = (forecast.period, forecast.phase)
            if batches.regroup(rhythms):
                changed = True
        if changed:
            _log.info("batches regrouped by the refresh times of their symbols")
        return changed
