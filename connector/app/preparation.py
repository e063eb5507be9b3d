"""Wait until Kafka and the registry are usable, and create the parts that need them."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Final, TypeVar

from connector.kafka import admin
from connector.kafka.assignment import Group
from connector.kafka.avro import Codec
from connector.kafka.current_states import CurrentStates
from connector.kafka.events import Log
from connector.kafka.framing import framing_of, prepare_framing
from connector.kafka.limits import require_valid_settings
from connector.kafka.orphans import OrphanTopics
from connector.kafka.quarantine import Quarantine
from connector.kafka.reader import Reader
from connector.kafka.shard_log import ShardLog
from connector.kafka.topic_watch import TopicWatch
from connector.runtime.startup import retry_until_usable

if TYPE_CHECKING:
    from collections.abc import Callable

    from connector.app.parts import KafkaParts, Parts
    from connector.kafka.admin import TopicSpec
    from connector.kafka.avro import Framing
    from connector.kafka.names import ShardId
    from connector.runtime.ports import TransactionalLog

    NewLog = Callable[[ShardId], TransactionalLog]

_T = TypeVar("_T")

GROUP_LOOP: Final = "group"
"""The name of the group's thread among the loops whose health is watched."""


@dataclass(frozen=True, slots=True)
class Prepared:
    """The parts that exist once Kafka and the registry are usable."""

    new_log: NewLog
    reader: Reader
    quarantine: Quarantine
    topic_watch: TopicWatch
    group: Group
    specs: list[TopicSpec]
    orphan_topics: OrphanTopics
    current_states: CurrentStates


async def prepare_kafka(parts: Parts, kafka: KafkaParts) -> Prepared:
    """Prepare registry, topics and reader, and wait for those that are not usable yet."""

    async def usable(call: Callable[[], _T]) -> _T:
        # Even to create a client may take a while: it may have to wait for a token.
        limit_seconds = parts.config.kafka.start_timeout_seconds
        return await retry_until_usable("Kafka", call, kafka.executor, limit_seconds)

    clients, topics = kafka.clients, kafka.topics
    specs = admin.topic_specs(topics, parts.rules, parts.config.kafka)
    replicas = parts.config.kafka.replication_factor
    quarantine_failed = parts.observer.quarantine_failed

    framing = await _prepare_registry(parts, kafka)
    await usable(partial(admin.prepare_topics, clients, specs, replicas))
    reader = await usable(partial(_warm_reader, parts, kafka))
    quarantine = await usable(partial(Quarantine, clients, topics, quarantine_failed))
    topic_watch = await usable(partial(TopicWatch, clients, reader, specs))
    group = await usable(partial(_new_group, parts, kafka))
    return Prepared(
        new_log=partial(_new_log, parts, kafka, reader, framing),
        reader=reader,
        quarantine=quarantine,
        topic_watch=topic_watch,
        group=group,
        specs=specs,
        orphan_topics=_new_orphan_topics(parts, kafka, reader, framing),
        current_states=_new_current_states(parts, kafka, reader, framing),
    )


async def _prepare_registry(parts: Parts, kafka: KafkaParts) -> Framing:
    """Check the settings, and register the schemas if there is a registry."""
    config = parts.config

    def check_settings() -> Framing:
        # Before anything is registered or created.
        require_valid_settings(kafka.clients)
        return framing_of(config.schema_registry)

    loop = asyncio.get_running_loop()
    framing = await loop.run_in_executor(kafka.executor, check_settings)
    await retry_until_usable(
        "the registry",
        partial(prepare_framing, framing, kafka.topics, parts.rules),
        kafka.executor,
        config.kafka.start_timeout_seconds,
    )
    return framing


def _warm_reader(parts: Parts, kafka: KafkaParts) -> Reader:
    """Return a reader that has read. Its first use costs half a second."""
    any_feed = next(iter(parts.rules))
    reader = Reader(kafka.clients)
    reader.warm_up(kafka.topics.current(any_feed))
    return reader


def _new_log(
    parts: Parts, kafka: KafkaParts, reader: Reader, framing: Framing, shard: ShardId
) -> TransactionalLog:
    """Return the log of a shard for one assignment."""
    return ShardLog(
        shard,
        parts.config.kafka.shards,
        topics=kafka.topics,
        clients=kafka.clients,
        reader=reader,
        codec=Codec(framing),
    )


def _new_orphan_topics(
    parts: Parts, kafka: KafkaParts, reader: Reader, framing: Framing
) -> OrphanTopics:
    return OrphanTopics(
        parts.rules,
        parts.config.kafka.group_id,
        topics=kafka.topics,
        clients=kafka.clients,
        reader=reader,
        framing=framing,
    )


def _new_current_states(
    parts: Parts, kafka: KafkaParts, reader: Reader, framing: Framing
) -> CurrentStates:
    return CurrentStates(
        partial(Log, kafka.clients, kafka.topics, needs_feed=False),
        reader,
        kafka.topics,
        parts.rules,
        codec=Codec(framing),
    )


def _new_group(parts: Parts, kafka: KafkaParts) -> Group:
    """Create the membership in the consumer group."""
    # The client id shows which worker owns which shard.
    client_id = parts.config.kafka.client.get("client.id", parts.source.worker)
    return Group(
        kafka.clients.group() | {"client.id": client_id},
        {kafka.topics.current(feed): feed for feed in parts.rules},
        parts.shards,
        lambda: parts.health.progress(GROUP_LOOP),
        kafka.clients.reachability.reached,
    )
