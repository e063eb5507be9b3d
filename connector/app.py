"""The composition root: a configuration comes in, a running worker goes out."""

from __future__ import annotations

import asyncio
import hashlib
import logging
import os
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Final, TypeVar

from connector import __version__
from connector.core.diff import Rules
from connector.core.model import Source
from connector.core.transition import FeedRules
from connector.core.venues import VENUES, unknown_venues
from connector.kafka import admin
from connector.kafka.assignment import Group
from connector.kafka.avro import Codec
from connector.kafka.broker_clock import BrokerClock
from connector.kafka.clients import Clients
from connector.kafka.credentials import Credentials
from connector.kafka.foreign_members import worker_name
from connector.kafka.framing import framing_of, prepare_framing
from connector.kafka.held_back import HeldBackFinder
from connector.kafka.limits import require_valid_settings
from connector.kafka.members import Members
from connector.kafka.names import ShardId, Topics, partition_of
from connector.kafka.orphans import OrphanTopics
from connector.kafka.probe import Probe
from connector.kafka.quarantine import Quarantine
from connector.kafka.reader import Reader
from connector.kafka.shard_log import ShardLog
from connector.kafka.topic_watch import TopicWatch
from connector.kafka.validity import client_certificate_end
from connector.runtime.clock import Clock
from connector.runtime.clock_watch import ClockWatch
from connector.runtime.credential_watch import CredentialWatch
from connector.runtime.daily_look import DailyLook
from connector.runtime.foreign_members import ForeignMembersWatch
from connector.runtime.health import Health
from connector.runtime.held_back import PATIENCE_SECONDS, HeldBackWatch
from connector.runtime.kafka_watch import KafkaWatch
from connector.runtime.orphaned_feeds import OrphanedFeeds
from connector.runtime.outage import OutageLook
from connector.runtime.poller import Poller
from connector.runtime.ports import PollerContext, ShardContext, ShardSpec
from connector.runtime.service_manager import ServiceManager
from connector.runtime.shard import Shard
from connector.runtime.shards import CLOSE_SECONDS, Shards
from connector.runtime.startup import StartupDeadline, retry_until_usable
from connector.runtime.ticker import InBackground, Ticker
from connector.runtime.topic_look import TopicLook
from connector.telemetry.metrics import Metrics
from connector.telemetry.observer import KafkaClientObserver, MetricsObserver
from connector.upstream.budget import Budget, Month
from connector.upstream.client import Client
from connector.web.api import Api
from connector.web.server import Listener
from connector.web.views import StartedWorker, WorkerView

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine

    from connector.config.model import Config, Feed
    from connector.kafka.admin import TopicSpec
    from connector.kafka.avro import Framing
    from connector.kafka.names import Partition
    from connector.kafka.quarantine import Quarantined
    from connector.runtime.ports import TransactionalLog
    from connector.runtime.supervisor import Supervisor
    from connector.upstream.api_key import ApiKey

    NewLog = Callable[[ShardId], TransactionalLog]

_log = logging.getLogger(__name__)
_T = TypeVar("_T")

# Deadline of a graceful stop. Kubernetes kills a container after 30 s by default.
STOP_SECONDS: Final = 25

_GROUP_LOOP: Final = "group"
_GROUP_LOOP_LIMIT_SECONDS: Final = 60
# For the start-up, the status page, the reader's callbacks, and the watches over outages,
# credentials, orphaned feeds, topics, open transactions, the group and our clock, none of which
# must wait for a hanging shard.
_EXTRA_THREADS: Final = 10


@dataclass(frozen=True, slots=True)
class _Parts:
    """The parts of a worker that work without Kafka.

    A worker that waits for Kafka can be asked why, by `health`, `metrics` and `view`.
    """

    source: Source
    rules: dict[str, FeedRules]
    clock: Clock
    health: Health
    metrics: Metrics
    observer: MetricsObserver
    budget: Budget
    client: Client
    poller: Poller
    shards: Shards
    view: WorkerView


@dataclass(frozen=True, slots=True)
class _Kafka:
    """The Kafka clients, the topics, and the threads in which blocking calls run."""

    topics: Topics
    clients: Clients
    credentials: Credentials
    executor: ThreadPoolExecutor
    watch: KafkaWatch
    clock_watch: ClockWatch


@dataclass(frozen=True, slots=True)
class _Prepared:
    """The parts that exist once Kafka and the registry are usable."""

    new_log: NewLog
    reader: Reader
    quarantine: Quarantine
    topic_watch: TopicWatch
    group: Group
    specs: list[TopicSpec]
    orphan_topics: OrphanTopics


async def run_worker(config: Config, key: ApiKey, supervisor: Supervisor) -> int:
    """Start a worker, let it work until the supervisor stops it, and stop it.

    Returns the exit status.

    Raises:
        ConfigError: The listener's address cannot be used.
        KafkaError: Kafka or the registry were not usable in time.
    """
    _warn_of_unknown_venues(config)
    parts = _new_parts(config, key, supervisor)

    # Listen before anything that takes time, so that the probes are answered.
    api = Api(config.http, parts.view)
    addresses = config.http.addresses
    listener = Listener(parts.metrics, parts.health, addresses, api.routes())
    await listener.start()
    fields = {"url": " ".join(listener.urls), "worker": parts.source.worker}
    _log.info("listening", extra=fields)

    kafka = _new_kafka(config, parts)
    parts.view.troubles.kafka = kafka.watch
    credential_watch = CredentialWatch(
        kafka.credentials.are_replaced,
        supervisor.restart,
        lambda: kafka.watch.outage is not None,
        kafka.executor,
    )
    watches = [
        supervisor.watch(kafka.watch.run()),
        supervisor.watch(credential_watch.run()),
    ]
    try:
        prepared = await supervisor.until_stopped(_prepare_kafka(config, kafka, parts))
        if prepared is not None and not supervisor.is_stopping:
            _add_shards(config, parts, prepared, kafka)
            await _work(config, key, supervisor, parts, kafka, prepared)
    finally:
        for watch in watches:
            watch.cancel()
        await _clean_up(parts.client, api, listener, kafka.executor)
    return supervisor.exit_code


def _new_parts(config: Config, key: ApiKey, supervisor: Supervisor) -> _Parts:
    """Create the parts that work without Kafka."""
    source = Source(__version__, config.kafka.group_id, worker_name())
    clock = Clock(has_witness=True)
    health = Health(time.monotonic, Clock.now)
    metrics = _new_metrics(config, health, source)
    observer = MetricsObserver(metrics, config.http.level_symbols)
    month = Month(config.upstream.max_requests_per_month)
    budget = Budget(config.upstream.max_requests_per_minute, month=month)
    client = Client(config.upstream, key, budget)
    context = PollerContext(observer, clock, health, source)
    poller = Poller(config, client, budget, context)
    shards = Shards(poller, observer, supervisor, partial(_used_fraction, budget))
    view = WorkerView(config, source, health=health, clock=clock, shards=shards.owned)
    return _Parts(
        source=source,
        rules={feed.name: rules_of(feed) for feed in config.feeds},
        clock=clock,
        health=health,
        metrics=metrics,
        observer=observer,
        budget=budget,
        client=client,
        poller=poller,
        shards=shards,
        view=view,
    )


def _new_kafka(config: Config, parts: _Parts) -> _Kafka:
    """Create the clients, with one thread per shard: each has at most one blocking call."""
    observer = KafkaClientObserver(parts.metrics)
    total_shards = config.kafka.shards * len(config.feeds)
    topics = Topics(config.kafka.topic_prefix)
    any_topic = topics.current(config.feeds[0].name)
    credentials = Credentials(config.kafka, any_topic)
    certificate_end = client_certificate_end(config.kafka)
    if certificate_end is not None:
        seconds = certificate_end.timestamp()
        parts.metrics.set("gex_kafka_certificate_expiry_timestamp_seconds", seconds)
    clients = Clients(config.kafka, observer.error, observer.statistics)
    executor = ThreadPoolExecutor(
        total_shards + _EXTRA_THREADS, thread_name_prefix="kafka"
    )
    probe = Probe(clients, any_topic)
    watch = KafkaWatch(probe.ask, clients.reachability, executor)
    clock_watch = ClockWatch(
        BrokerClock(clients, topics),
        parts.clock,
        executor,
        parts.observer.clock_judged,
        parts.shards.clock_corrected,
    )
    parts.shards.is_clock_wrong = lambda: clock_watch.is_wrong
    return _Kafka(topics, clients, credentials, executor, watch, clock_watch)


async def _work(
    config: Config,
    key: ApiKey,
    supervisor: Supervisor,
    parts: _Parts,
    kafka: _Kafka,
    prepared: _Prepared,
) -> None:
    """Join the group, poll and publish until the supervisor stops the worker."""
    feed_of_topic = {kafka.topics.current(feed): feed for feed in parts.rules}
    members = Members(kafka.clients.admin(), parts.source.group, feed_of_topic)
    parts.view.live = StartedWorker(
        parts.poller, parts.budget, members.now, kafka.executor
    )
    group, topic_watch = prepared.group, prepared.topic_watch
    parts.health.require(lambda: _why_not_ready(kafka, topic_watch, group, parts))
    manager = ServiceManager(os.environ.get("NOTIFY_SOCKET"), parts.health)
    ticker = Ticker(
        [
            partial(_refresh_key, key, parts.poller),
            parts.shards.tick,
            InBackground(prepared.reader.serve_callbacks, kafka.executor),
            prepared.quarantine.serve_callbacks,
            topic_watch.serve_callbacks,
            kafka.clients.reachability.tick,
            manager.tick,
        ],
        parts.health,
    )
    # Join the group last: from now on shards are assigned, from its thread.
    parts.health.register(_GROUP_LOOP, _GROUP_LOOP_LIMIT_SECONDS)
    group.start()
    loops = [supervisor.watch(parts.poller.run()), supervisor.watch(ticker.run())]
    for look in _looks(config, parts, kafka, prepared, members):
        loops.append(supervisor.watch(look))
    try:
        await supervisor.until_stopped(
            retry_until_usable(
                "the consumer group",
                group.wait_joined,
                kafka.executor,
                config.kafka.start_timeout_seconds,
            )
        )
        manager.started()
        await supervisor.wait_stopped()
    finally:
        manager.stopping()
        await _stop(loops, group, parts.shards, prepared.quarantine)
        parts.health.unregister(_GROUP_LOOP)


def _looks(
    config: Config,
    parts: _Parts,
    kafka: _Kafka,
    prepared: _Prepared,
    members: Members,
) -> list[Coroutine[None, None, None]]:
    """Return the loops that look for trouble, beside the path of the data."""
    daily_look = DailyLook(
        parts.client,
        parts.budget,
        config.feeds,
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
    foreign_members = _new_foreign_members_watch(config, parts, kafka, members)
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
    config: Config, parts: _Parts, kafka: _Kafka, members: Members
) -> ForeignMembersWatch:
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


def _warn_of_unknown_venues(config: Config) -> None:
    """Log venues of later contracts: they may be misspelt, but they are used."""
    for feed in config.feeds:
        unknown = unknown_venues(feed.exchanges)
        if unknown:
            fields = {
                "feed": feed.name,
                "unknown": ",".join(unknown),
                "known": ",".join(VENUES),
            }
            _log.warning("the feed names unknown venues", extra=fields)


def _new_metrics(config: Config, health: Health, source: Source) -> Metrics:
    """Create the metrics, with those that never change."""
    feeds = [feed.name for feed in config.feeds]
    metrics = Metrics(feeds, health.progressed_at)
    metrics.set("gex_build_info", 1, source.version, source.worker)
    for feed in feeds:
        metrics.set("gex_shards", config.kafka.shards, feed)
    return metrics


async def _prepare_kafka(config: Config, kafka: _Kafka, parts: _Parts) -> _Prepared:
    """Prepare registry, topics and reader, and wait for those that are not usable yet."""
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
    group = await usable(partial(_new_group, config, parts, clients, topics))

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
    return _Prepared(
        new_log, reader, quarantine, topic_watch, group, specs, orphan_topics
    )


def _add_shards(
    config: Config, parts: _Parts, prepared: _Prepared, kafka: _Kafka
) -> None:
    """Create every configured shard. Each is served once it is assigned."""

    def quarantine(feed: str, entry: Quarantined) -> None:
        prepared.quarantine.add(feed, entry)
        parts.view.quarantined(feed, entry)

    startup_ends_at = time.monotonic() + config.kafka.start_timeout_seconds
    context = ShardContext(
        observer=parts.observer,
        clock=parts.clock,
        executor=kafka.executor,
        source=parts.source,
        grace_seconds=2 * config.upstream.timeout_seconds,
        polling_changed=parts.shards.update_polling,
        startup=StartupDeadline(startup_ends_at),
        used_fraction=partial(_used_fraction, parts.budget),
        silence_reason=parts.poller.silence_reason,
        plan_keeps_fresh=parts.poller.plan_keeps_fresh,
        published=parts.view.published,
        quarantine=quarantine,
        clock_explains_refusal=kafka.clock_watch.explains_refusal,
    )
    for feed in config.feeds:
        for partition in range(config.kafka.shards):
            shard_id = ShardId(feed.name, partition)
            symbols = _symbols_of(feed, partition, config.kafka.shards)
            spec = ShardSpec(shard_id, parts.rules[feed.name], symbols)
            new_log = partial(prepared.new_log, shard_id)
            parts.shards.add(Shard(spec, new_log, context))


async def _stop(
    loops: list[asyncio.Task[None]],
    group: Group,
    shards: Shards,
    quarantine: Quarantine,
) -> None:
    """Stop polling, finish transactions, close shards and leave the group, in time."""
    deadline = time.monotonic() + STOP_SECONDS
    _log.info("stopping")
    for loop in loops:
        loop.cancel()
    await asyncio.wait(loops)
    # The loops have ended, and with them the entries that are to be quarantined.
    closing = asyncio.create_task(asyncio.to_thread(quarantine.close))
    # Leaving revokes the shards, which closes them.
    left = await asyncio.to_thread(group.stop, STOP_SECONDS - CLOSE_SECONDS / 2)
    remaining_seconds = max(deadline - time.monotonic(), 0.1)
    await shards.close(list(shards.owned), remaining_seconds)
    await closing
    level = logging.INFO if left else logging.WARNING
    _log.log(level, "stopped", extra={"group_left_in_time": left})


async def _clean_up(
    client: Client, api: Api, listener: Listener, executor: ThreadPoolExecutor
) -> None:
    """Close everything that serves others, even if the client cannot be closed."""
    try:
        await client.close()
    finally:
        api.close()
        await listener.stop()
        # A call that hangs in a thread must not delay the end of the process.
        executor.shutdown(wait=False, cancel_futures=True)


def _symbols_of(feed: Feed, partition: int, shards: int) -> frozenset[str]:
    """Return the symbols of a feed whose keys hash to a partition."""
    symbols = []
    for symbol in feed.symbols:
        if partition_of(symbol, shards) == partition:
            symbols.append(symbol)
    return frozenset(symbols)


def _new_group(
    config: Config,
    parts: _Parts,
    clients: Clients,
    topics: Topics,
) -> Group:
    """Create the membership in the consumer group."""
    # The client id shows which worker owns which shard.
    client_id = config.kafka.client.get("client.id", parts.source.worker)
    return Group(
        clients.group() | {"client.id": client_id},
        {topics.current(feed): feed for feed in parts.rules},
        parts.shards,
        lambda: parts.health.progress(_GROUP_LOOP),
        clients.reachability.reached,
    )


def _used_fraction(budget: Budget) -> float:
    """Return the part of the request budget used within a minute, 0 to 1."""
    return budget.spending(time.monotonic()).used_fraction


def _refresh_key(key: ApiKey, poller: Poller) -> None:
    if key.refresh():
        poller.key_changed()


def _why_not_ready(
    kafka: _Kafka, topic_watch: TopicWatch, group: Group, parts: _Parts
) -> list[str]:
    # Without Kafka, or with a wrong clock, the group and the shards fail too, which explains
    # nothing.
    reasons = kafka.watch.why_not_ready() + kafka.clock_watch.why_not_ready()
    if not reasons:
        if not group.joined:
            reasons.append("this worker is not in the consumer group")
        reasons += _topic_faults(topic_watch, kafka.topics)
        reasons += parts.shards.why_not_ready()
    reasons += parts.poller.why_not_ready()
    return reasons


def _topic_faults(watch: TopicWatch, topics: Topics) -> list[str]:
    """Return the faults that keep events from being published."""
    reasons = []
    for name, fault in watch.faults.items():
        # Events go on without a quarantine.
        if name != topics.quarantine:
            reasons.append(fault)
    return reasons


def rules_of(feed: Feed) -> FeedRules:
    """Return the rules that decide which changes of a feed become events."""
    exchanges = ",".join(sorted(feed.exchanges))
    include = ",".join(sorted(feed.include))
    request = f"exchanges={exchanges};include={include}"
    if feed.positioning is not None:
        request += f";positioning={feed.positioning}"
    return FeedRules(
        name=feed.name,
        request_fingerprint=hashlib.sha256(request.encode()).hexdigest()[:16],
        rules=Rules.of(feed.ignore, feed.thresholds),
        stale_after_seconds=feed.stale_after_seconds,
    )
