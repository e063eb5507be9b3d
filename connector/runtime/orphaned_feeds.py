"""Publishes REMOVED for the symbols of feeds that are no longer configured."""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING, Final, Protocol

from msgspec.structs import replace

from connector.core.diff import DEFAULT_IGNORE, Rules
from connector.core.transition import FeedRules
from connector.errors import KafkaError, TimeRefused, Unpublishable
from connector.kafka.names import ShardId, partition_of
from connector.kafka.shard_log import Transaction
from connector.runtime.inbox import Attempt, Work
from connector.runtime.open_shard import OpenShard

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Collection, Sequence
    from concurrent.futures import Executor

    from connector.core.model import Source
    from connector.kafka.orphans import OrphanedFeed
    from connector.runtime.ports import ShardObserver, TransactionalLog

_log = logging.getLogger(__name__)

# The restore of a worker's own shards comes first.
_FIRST_LOOK_SECONDS: Final = 15.0
_LOOK_SECONDS: Final = 60.0
# If only an operator can help: the alert should not outlast the repair by much.
_REPORTED_LOOK_SECONDS: Final = 600.0

# A feed without a worker is removed at the third look in a row. The worker that has it may
# be restarting, and its states tell nothing at night, when nobody refreshes them.
_LOOKS_WITHOUT_OWNER: Final = 3


class FeedsInKafka(Protocol):
    """The topics of feeds that are not configured. Every call blocks."""

    def find(self) -> Sequence[OrphanedFeed]:
        """Return the feeds that have symbols left. Raises KafkaUnavailable."""

    def owned(self, feeds: Collection[str]) -> Collection[str]:
        """Return the feeds of which a member of our group has a shard.

        Raises KafkaUnavailable, also during a rebalance.
        """

    def log(self, feed: str, shards: int, partition: int) -> TransactionalLog:
        """Return the log of one shard of a feed. `shards` is the number of all.

        Raises SetupError, KafkaUnavailable.
        """


class OrphanedFeeds:
    """Removes the symbols that nobody is going to poll any more.

    A worker looks when it starts, and each minute while there is something left. It removes
    the symbols of a feed that its own group has written, if for two minutes no member of
    the group has had one of its shards, and its states have not been refreshed. A feed of
    another group is only reported: it may be another fleet's.

    Several workers may do so at once. Opening a shard fences the others, and a symbol that
    is REMOVED already causes no event.
    """

    def __init__(
        self,
        feeds: FeedsInKafka,
        source: Source,
        observer: ShardObserver,
        now: Callable[[], int],
        executor: Executor,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        """`now` is in microseconds. `executor` makes the blocking calls."""
        self._feeds = feeds
        self._source = source
        self._observer = observer
        self._now = now
        self._executor = executor
        self._sleep = sleep
        self._left: list[OrphanedFeed] = []
        self._without_owner: dict[str, int] = {}
        """For how many looks in a row each feed has had no worker."""
        self._reported: set[str] = set()
        self._refused: dict[str, int] = {}
        """The number of symbols of each feed whose removal was refused at this look."""

    async def run(self) -> None:
        """Look each minute until no symbol is left."""
        await self._sleep(_FIRST_LOOK_SECONDS)
        while await self.look():
            await self._sleep(self._pause_seconds())

    async def look(self) -> bool:
        """Remove what can be removed now. Return True if another look is needed."""
        try:
            loop = asyncio.get_running_loop()
            await loop.run_in_executor(self._executor, self._remove_orphans)
        except KafkaError as error:
            self._left = []
            self._without_owner = {}
            fields = {"error": str(error)}
            _log.warning("cannot look for feeds that are not configured", extra=fields)
            return True
        symbols = {orphan.name: len(orphan.symbols) for orphan in self._left}
        self._observer.orphans_found(symbols)
        for feed, count in self._refused.items():
            self._observer.dropped(feed, "unpublishable", count)
        for orphan in self._left:
            self._report(orphan)
        return bool(self._left)

    def _pause_seconds(self) -> float:
        # Nothing is left after a look that failed.
        if not self._left or any(map(self._may_be_removed_soon, self._left)):
            return _LOOK_SECONDS
        return _REPORTED_LOOK_SECONDS

    def _may_be_removed_soon(self, orphan: OrphanedFeed) -> bool:
        is_ours = orphan.group == self._source.group
        return is_ours and orphan.name not in self._refused

    def _report(self, orphan: OrphanedFeed) -> None:
        if orphan.name in self._reported:
            return
        self._reported.add(orphan.name)
        remedy = "they become REMOVED once no worker of the group has the feed"
        if orphan.group != self._source.group:
            remedy = "start a worker with this kafka.group_id, or delete the topics"
        fields = {
            "feed": orphan.name,
            "symbols": ",".join(orphan.symbols),
            "group": orphan.group,
            "remedy": remedy,
        }
        _log.warning("symbols of a feed that is not configured", extra=fields)

    def _remove_orphans(self) -> None:
        ours = []
        self._left = []
        self._refused = {}
        for orphan in self._feeds.find():
            if orphan.group == self._source.group:
                ours.append(orphan)
            elif orphan.is_idle:
                self._left.append(orphan)
        if not ours:
            return

        owned = self._feeds.owned([orphan.name for orphan in ours])
        without_owner = {}
        for orphan in ours:
            if orphan.name in owned or not orphan.is_idle:
                self._left.append(orphan)
                continue
            looks = self._without_owner.get(orphan.name, 0) + 1
            without_owner[orphan.name] = looks
            if looks < _LOOKS_WITHOUT_OWNER:
                self._left.append(orphan)
                continue
            self._remove(orphan)
        self._without_owner = without_owner

    def _remove(self, orphan: OrphanedFeed) -> None:
        refused: list[str] = []
        try:
            for partition in orphan.partitions:
                refused += self._remove_symbols(orphan, partition)
        except KafkaError as error:
            # Go on with the other feeds, and try this one again.
            self._left.append(orphan)
            fields = {"feed": orphan.name, "error": str(error)}
            _log.warning("cannot remove the symbols of a feed", extra=fields)
            return
        if refused:
            self._refused[orphan.name] = len(refused)
            self._left.append(replace(orphan, symbols=tuple(refused)))

    def _remove_symbols(self, orphan: OrphanedFeed, partition: int) -> list[str]:
        """Publish REMOVED for the symbols of a shard. Return those that are refused."""
        symbols = []
        for symbol in orphan.symbols:
            if partition_of(symbol, orphan.shards) == partition:
                symbols.append(symbol)
        try:
            self._publish_removals(orphan, partition, symbols)
        except TimeRefused:
            # The records have the time of now, so our clock is wrong.
            raise
        except Unpublishable:
            # The broker does not say which record it refuses.
            return self._remove_each_alone(orphan, partition, symbols)
        return []

    def _remove_each_alone(
        self, orphan: OrphanedFeed, partition: int, symbols: Sequence[str]
    ) -> list[str]:
        """Publish REMOVED for each symbol alone. Return those that are refused."""
        refused = []
        for symbol in symbols:
            try:
                self._publish_removals(orphan, partition, [symbol])
            except TimeRefused:
                raise
            except Unpublishable as error:
                refused.append(symbol)
                fields = {"feed": orphan.name, "symbol": symbol, "error": str(error)}
                _log.warning("the broker refuses to remove a symbol", extra=fields)
        return refused

    def _publish_removals(
        self, orphan: OrphanedFeed, partition: int, symbols: Collection[str]
    ) -> None:
        """Open a shard of a feed, which fences its former owner, and publish REMOVED."""
        log = self._feeds.log(orphan.name, orphan.shards, partition)
        # The rules of the feed went with its configuration.
        rules = FeedRules(orphan.name, rules=Rules.of(DEFAULT_IGNORE))
        try:
            opened = OpenShard(log.open(), rules, self._source, 0.0)
            kept = opened.states.keys() - symbols
            attempt = Attempt.of(Work(), opened.removals(kept, self._now()))
            if not attempt:
                return
            transaction = Transaction(attempt.events, tuple(attempt.states.values()))
            log.publish(transaction)
        finally:
            log.abort()
        shard = ShardId(orphan.name, partition)
        fields = {"shard": str(shard), "symbols": ",".join(attempt.states)}
        _log.warning(
            "removed the symbols of a feed that is not configured", extra=fields
        )
