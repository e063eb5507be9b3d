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
    config = parts.config
    topics, clients, executor = kafka.topics, kafka.clients, kafka.executor
    limit_seconds = config.kafka.start_timeout_seconds
    rules = parts.rules
    specs = admin.topic_specs(topics, rules, config.kafka)

    def check_settings() -> Framing:
        # Before anything is registered or created.
        require_valid_settings(clients)
        return framing_of(config.schema_registry)

    def prepare_registry() -> None:
        prepare_framing(framing, topics, rules)

    def prepare_topics() -> None:
        admin.prepare_topics(clients, specs, config.kafka.replication_factor)

    def warm_up_reader() -> Reader:
        # The first use of a consumer costs half a second, which no shard should wait for.
        reader = Reader(clients)
        reader.warm_up(topics.current(next(iter(rules))))
        return reader

    async def usable(call: Callable[[], _T]) -> _T:
        # Even to create a client may take a while: it may have to wait for a token.
        return await retry_until_usable("Kafka", call, executor, limit_seconds)

    loop = asyncio.get_running_loop()
    framing = await loop.run_in_executor(executor, check_settings)
    await retry_until_usable("the registry", prepare_registry, executor, limit_seconds)
    await usable(prepare_topics)
    reader = await usable(warm_up_reader)
    quarantine_failed = parts.observer.quarantine_failed
    quarantine = await usable(partial(Quarantine, clients, topics, quarantine_failed))
    topic_watch = await usable(partial(TopicWatch, clients, reader, specs))
    group = await usable(partial(_new_group, parts, kafka))

    def new_log(shard: ShardId) -> TransactionalLog:
        return ShardLog(
            shard,
            config.kafka.shards,
            topics=topics,
            clients=clients,
            reader=reader,
            codec=Codec(framing),
        )

    orphan_topics = OrphanTopics(
        rules,
        config.kafka.group_id,
        topics=topics,
        clients=clients,
        reader=reader,
        framing=framing,
    )
    current_states = CurrentStates(
        partial(Log, clients, topics, needs_feed=False),
        reader,
        topics,
        rules,
        codec=Codec(framing),
    )
    return Prepared(
        new_log,
        reader,
        quarantine,
        topic_watch,
        group,
        specs,
        orphan_topics,
        current_states,
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
