"""Finds the topics of feeds that are no longer configured.

A feed that was renamed or removed leaves its topics behind. Nobody polls its symbols any
more, so their states must not stay as they were.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Final

from connector.core.model import MICROS, Status, Value
from connector.errors import ShardCorrupt
from connector.kafka.avro import Codec
from connector.kafka.framing import prepare_framing
from connector.kafka.members import Members
from connector.kafka.names import ShardId, partition_of
from connector.kafka.reader import Reader
from connector.kafka.restore import StateReader
from connector.kafka.shard_log import ShardLog

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable

    from connector.core.model import State
    from connector.kafka.avro import Framing
    from connector.kafka.clients import Clients
    from connector.kafka.names import Topics

# Longer than a restart of the worker that still has the feed: somebody may be changing the
# configuration of one worker after the other.
IDLE_SECONDS: Final = 120


class OrphanedFeed(Value, frozen=True):
    """A feed that has topics, but is not configured.

    `symbols` are those that are not REMOVED. `group` wrote the last of their states, and
    `idle_seconds` have passed since then by our clock.
    """

    name: str
    shards: int
    symbols: tuple[str, ...]
    group: str
    idle_seconds: float

    @property
    def partitions(self) -> list[int]:
        """Return the shards that have one of the symbols."""
        return sorted({partition_of(symbol, self.shards) for symbol in self.symbols})

    @property
    def is_idle(self) -> bool:
        """Return True if no worker seems to have the feed. Another fleet may have it."""
        return self.idle_seconds > IDLE_SECONDS

    @property
    def description(self) -> str:
        """Return the feed with its symbols, for messages."""
        symbols = ", ".join(self.symbols)
        return (
            f"feed {self.name} is not configured, but {len(self.symbols)} of its symbols "
            f"are not REMOVED: {symbols}"
        )


def orphaned_feed(
    name: str, shards: int, states: Iterable[State]
) -> OrphanedFeed | None:
    """Return a feed that is not configured, None if all of its symbols are REMOVED."""
    left = [state for state in states if state.status is not Status.REMOVED]
    if not left:
        return None
    newest = max(left, key=lambda state: state.observed_at)
    idle_seconds = time.time() - newest.observed_at / MICROS
    symbols = sorted(state.symbol for state in left)
    return OrphanedFeed(name, shards, tuple(symbols), newest.source.group, idle_seconds)


def find_orphans(
    configured: Collection[str], topics: Topics, reader: Reader, codec: Codec
) -> list[OrphanedFeed]:
    """Return the feeds with topics, but without configuration, that have symbols left.

    Nothing is written or fenced. Raises KafkaUnavailable.
    """
    found = []
    for feed, count in _unconfigured(configured, topics, reader):
        states: list[State] = []
        for partition in range(count):
            shard = StateReader(
                ShardId(feed, partition),
                count,
                topics=topics,
                reader=reader,
                codec=codec,
            )
            try:
                # The topics of a longer prefix have states of other feeds: all are skipped.
                states += shard.read((), is_fenced=False).states.values()
            except ShardCorrupt:
                # Nobody can tell if it is ours.
                continue
        orphan = orphaned_feed(feed, count, states)
        if orphan is not None:
            found.append(orphan)
    return found


def _unconfigured(
    configured: Collection[str], topics: Topics, reader: Reader
) -> list[tuple[str, int]]:
    """Return the name and the shards of each feed with topics, but no configuration."""
    existing = reader.topics()
    found = []
    for topic, count in existing.items():
        feed = topics.feed_of_current(topic)
        if feed is None or feed in configured:
            continue
        # Another program's topic may end in ".current", too, and can be of any size.
        if topics.changes(feed) in existing:
            found.append((feed, count))
    return found


class OrphanTopics:
    """The topics below our prefix whose feeds are not configured. Every call blocks."""

    def __init__(
        self,
        configured: Collection[str],
        group_id: str,
        *,
        topics: Topics,
        clients: Clients,
        reader: Reader,
        framing: Framing,
    ) -> None:
        self._configured = frozenset(configured)
        self._group_id = group_id
        self._topics = topics
        self._clients = clients
        self._reader = reader
        self._framing = framing

    def find(self) -> list[OrphanedFeed]:
        """Return the feeds that have symbols left. Raises KafkaUnavailable."""
        if not _unconfigured(self._configured, self._topics, self._reader):
            return []
        # Not the workers' reader: a shard's restore would wait for it.
        reader = Reader(self._clients)
        try:
            codec = Codec(self._framing)
            return find_orphans(self._configured, self._topics, reader, codec)
        finally:
            reader.close()

    def owned(self, feeds: Collection[str]) -> set[str]:
        """Return the feeds of which a member of our group has a shard.

        Raises KafkaUnavailable, also during a rebalance.
        """
        feed_of_topic = {self._topics.current(feed): feed for feed in feeds}
        members = Members(self._clients.admin(), self._group_id, feed_of_topic)
        owned: set[str] = set()
        for member in members.settled():
            owned.update(shard.feed for shard in member.shards)
        return owned

    def log(self, feed: str, shards: int, partition: int) -> ShardLog:
        """Return the log of a shard. Opening it fences the worker that still has it.

        Raises SetupError, KafkaUnavailable.
        """
        # The start has prepared the topics of the configured feeds only.
        prepare_framing(self._framing, self._topics, [feed])
        return ShardLog(
            ShardId(feed, partition),
            shards,
            topics=self._topics,
            clients=self._clients,
            reader=self._reader,
            codec=Codec(self._framing),
        )
