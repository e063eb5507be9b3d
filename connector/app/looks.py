"""The loops that look for trouble, beside the path of the data."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

from connector.kafka.held_back import HeldBackFinder
from connector.kafka.names import partition_of
from connector.runtime.clock import Clock
from connector.runtime.daily_look import DailyLook
from connector.runtime.foreign_members import ForeignMembersWatch
from connector.runtime.held_back import PATIENCE_SECONDS, HeldBackWatch
from connector.runtime.orphaned_feeds import OrphanedFeeds
from connector.runtime.outage import OutageLook
from connector.runtime.topic_look import TopicLook

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine

    from connector.app.parts import KafkaParts, Parts
    from connector.app.preparation import Prepared
    from connector.kafka.members import Members
    from connector.kafka.names import Partition, Topics
    from connector.runtime.shards import Shards


def new_looks(
    parts: Parts, kafka: KafkaParts, prepared: Prepared, members: Members
) -> list[Coroutine[None, None, None]]:
    """Return the loops. What they find is shown on the status page."""
    daily_look = DailyLook(
        parts.client,
        parts.budget,
        parts.config.feeds,
        parts.observer,
        is_polling=lambda: bool(parts.shards.owned),
    )
    orphaned_feeds = OrphanedFeeds(
        prepared.orphan_topics, parts.source, parts.observer, Clock.now, kafka.executor
    )
    topic_watch = prepared.topic_watch
    topic_look = TopicLook(
        topic_watch,
        [spec.name for spec in prepared.specs],
        kafka.executor,
        parts.observer.topic_checked,
        has_trouble=lambda: bool(parts.shards.why_not_ready()),
    )
    partitions = partial(
        _written_partitions, kafka.topics, parts.shards, topic_watch.partitions
    )
    held_back = HeldBackWatch(
        HeldBackFinder(prepared.reader, PATIENCE_SECONDS),
        partitions,
        parts.observer.held_back,
        kafka.clients.servers,
        kafka.executor,
    )
    foreign_members = _new_foreign_members_watch(parts, kafka, members)
    parts.view.troubles.topics = topic_watch
    parts.view.troubles.held_back = held_back
    parts.view.troubles.foreign_members = foreign_members
    return [
        daily_look.run(),
        OutageLook(parts.client, parts.poller.outage).run(),
        topic_look.run(),
        orphaned_feeds.run(),
        held_back.run(),
        kafka.clock_watch.run(),
        foreign_members.run(),
    ]


def _new_foreign_members_watch(
    parts: Parts, kafka: KafkaParts, members: Members
) -> ForeignMembersWatch:
    config = parts.config
    total_shards = config.kafka.shards * len(config.feeds)
    return ForeignMembersWatch(
        members.now,
        lambda: len(parts.shards.owned) == total_shards,
        config.kafka.group_id,
        config.kafka.client.get("client.id"),
        kafka.executor,
    )


def _written_partitions(
    topics: Topics, shards: Shards, counts: Callable[[str], int]
) -> set[Partition]:
    """Return the partitions with the events and states of our shards.

    `counts` returns the number of partitions of a topic.
    """
    written = set()
    for shard in shards.owned.values():
        feed = shard.id.feed
        written.add((topics.current(feed), shard.id.partition))
        changes = topics.changes(feed)
        for symbol in shard.symbols:
            written.add((changes, partition_of(symbol, counts(changes))))
    return written
