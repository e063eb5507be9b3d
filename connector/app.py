"""The composition root: a configuration comes in, a running worker goes out."""

from __future__ import annotations

import asyncio
import hashlib
import logging
import os
import secrets
import socket
import time
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import TYPE_CHECKING, Final

from connector import __version__
from connector.core.diff import Rules
from connector.core.model import Source
from connector.core.transition import FeedRules
from connector.core.venues import VENUES, unknown_venues
from connector.kafka import admin
from connector.kafka.assignment import Group
from connector.kafka.avro import Codec
from connector.kafka.clients import Clients
from connector.kafka.framing import prepare_framing
from connector.kafka.members import Members
from connector.kafka.names import ShardId, Topics, partition_of
from connector.kafka.reader import Reader
from connector.kafka.shard_log import ShardLog
from connector.runtime.clock import Clock
from connector.runtime.daily_look import DailyLook
from connector.runtime.health import Health
from connector.runtime.poller import Poller
from connector.runtime.ports import PollerContext, ShardContext, ShardSpec
from connector.runtime.shard import Shard
from connector.runtime.shards import CLOSE_SECONDS, Shards
from connector.runtime.startup import StartupDeadline, retry_until_usable
from connector.runtime.ticker import Ticker
from connector.telemetry.metrics import Metrics
from connector.telemetry.observer import KafkaClientObserver, MetricsObserver
from connector.upstream.budget import Budget, Month
from connector.upstream.client import Client
from connector.web.api import Api
from connector.web.server import Listener
from connector.web.views import StartedWorker, WorkerView

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping
    from concurrent.futures import Executor

    from connector.config.model import Config, Feed
    from connector.kafka.framing import Framing
    from connector.runtime.ports import TransactionalLog
    from connector.runtime.supervisor import Supervisor
    from connector.upstream.api_key import ApiKey

    NewLog = Callable[[ShardId], TransactionalLog]

_log = logging.getLogger(__name__)

# Deadline of a graceful stop. Kubernetes kills a container after 30 s by default.
STOP_SECONDS: Final = 25

_GROUP_LOOP: Final = "group"
_GROUP_LOOP_LIMIT_SECONDS: Final = 60
# For the start-up and the status page, which must not wait for a hanging shard.
_EXTRA_THREADS: Final = 2


async def run_worker(config: Config, key: ApiKey, supervisor: Supervisor) -> int:
    """Start a worker, let it work until the supervisor stops it, and stop it.

    Returns the exit status.

    Raises:
        ConfigError: The listener's address cannot be used.
        KafkaError: Kafka or the registry were not usable in time.
    """
    _warn_of_unknown_venues(config)
    source = Source(__version__, config.kafka.group_id, _worker_name())
    rules = {feed.name: rules_of(feed) for feed in config.feeds}
    topics = Topics(config.kafka.topic_prefix)
    total_shards = config.kafka.shards * len(config.feeds)

    # These parts work without Kafka: a worker that waits for it can be asked why.
    clock = Clock()
    health = Health(time.monotonic, Clock.now)
    metrics = _new_metrics(config, health)
    observer = MetricsObserver(metrics, config.http.level_symbols)
    month = Month(config.upstream.max_requests_per_month)
    budget = Budget(config.upstream.max_requests_per_minute, month=month)
    client = Client(config.upstream, key, budget)
    poller = Poller(
        config, client, budget, PollerContext(observer, clock, health, source)
    )

    def used_fraction() -> float:
        return budget.spending(time.monotonic()).used_fraction

    shards = Shards(poller, observer, supervisor, used_fraction)

    # Listen before anything that takes time, so that the probes are answered.
    view = WorkerView(config, source, health=health, clock=clock, shards=shards.owned)
    api = Api(config.http, view)
    listener = Listener(
        metrics, health, config.http.host, config.http.port, api.routes()
    )
    await listener.start()
    _log.info("listening", extra={"url": listener.url, "worker": source.worker})

    # One thread per shard: each has at most one blocking call.
    client_observer = KafkaClientObserver(metrics)
    clients = Clients(config.kafka, client_observer.error, client_observer.statistics)
    executor = ThreadPoolExecutor(
        total_shards + _EXTRA_THREADS, thread_name_prefix="kafka"
    )
    try:
        prepared = await supervisor.until_stopped(
            _prepare_kafka(config, clients, topics, rules, executor)
        )
        if prepared is None or supervisor.is_stopping:
            return supervisor.exit_code
        new_log, reader = prepared

        context = ShardContext(
            observer=observer,
            clock=clock,
            executor=executor,
            source=source,
            grace_seconds=2 * config.upstream.timeout_seconds,
            polling_changed=shards.update_polling,
            startup=StartupDeadline(
                time.monotonic() + config.kafka.start_timeout_seconds
            ),
            used_fraction=used_fraction,
            silence_reason=poller.silence_reason,
            published=view.published,
        )
        for shard in _new_shards(config, rules, new_log, context):
            shards.add(shard)

        # Join the group last: from then on shards are assigned, from its thread.
        feed_of_topic = {topics.current(feed): feed for feed in rules}
        members = Members(clients.admin(), source.group, feed_of_topic)
        view.live = StartedWorker(poller, budget, members.now, executor)
        group = _new_group(config, source, clients, feed_of_topic, shards, health)
        health.require(lambda: _why_not_ready(group, shards, poller))
        refresh_key = partial(_refresh_key, key, poller)
        ticker = Ticker([refresh_key, shards.tick, reader.serve_callbacks], health)
        group.start()

        look = DailyLook(
            client,
            budget,
            config.feeds,
            observer,
            is_polling=lambda: bool(shards.owned),
        )
        loops = [
            supervisor.watch(poller.run()),
            supervisor.watch(ticker.run()),
            supervisor.watch(look.run()),
        ]
        try:
            await supervisor.until_stopped(
                retry_until_usable(
                    "the consumer group",
                    group.wait_joined,
                    executor,
                    config.kafka.start_timeout_seconds,
                )
            )
            await supervisor.wait_stopped()
        finally:
            await _stop(loops, group, shards)
            health.unregister(_GROUP_LOOP)
    finally:
        await _clean_up(client, api, listener, executor)
    return supervisor.exit_code


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


def _new_metrics(config: Config, health: Health) -> Metrics:
    """Create the metrics, with those that never change."""
    feeds = [feed.name for feed in config.feeds]
    metrics = Metrics(feeds, health.progressed_at)
    metrics.set("gex_build_info", 1, __version__)
    for feed in feeds:
        metrics.set("gex_shards", config.kafka.shards, feed)
    return metrics


async def _prepare_kafka(
    config: Config,
    clients: Clients,
    topics: Topics,
    rules: Mapping[str, FeedRules],
    executor: Executor,
) -> tuple[NewLog, Reader]:
    """Prepare registry, topics and reader, and wait for those that are not usable yet."""
    limit_seconds = config.kafka.start_timeout_seconds
    specs = admin.topic_specs(topics, rules, config.kafka)

    def prepare_registry() -> Framing:
        return prepare_framing(config.schema_registry, topics, rules)

    def prepare_topics() -> None:
        admin.prepare_topics(clients, specs, config.kafka.replication_factor)

    def warm_up_reader() -> Reader:
        # The first use of a consumer costs half a second, which no shard should wait for.
        reader = Reader(clients)
        reader.warm_up(topics.current(next(iter(rules))))
        return reader

    framing = await retry_until_usable(
        "the registry", prepare_registry, executor, limit_seconds
    )
    await retry_until_usable("Kafka", prepare_topics, executor, limit_seconds)
    reader = await retry_until_usable("Kafka", warm_up_reader, executor, limit_seconds)

    def new_log(shard: ShardId) -> TransactionalLog:
        return ShardLog(
            shard,
            config.kafka.shards,
            topics=topics,
            clients=clients,
            reader=reader,
            codec=Codec(framing),
        )

    return new_log, reader


def _new_shards(
    config: Config,
    rules: Mapping[str, FeedRules],
    new_log: NewLog,
    context: ShardContext,
) -> Iterator[Shard]:
    """Create every configured shard."""
    for feed in config.feeds:
        for partition in range(config.kafka.shards):
            shard = ShardId(feed.name, partition)
            symbols = _symbols_of(feed, partition, config.kafka.shards)
            spec = ShardSpec(shard, rules[feed.name], symbols)
            yield Shard(spec, partial(new_log, shard), context)


async def _stop(loops: list[asyncio.Task[None]], group: Group, shards: Shards) -> None:
    """Stop polling, finish transactions, close shards and leave the group, in time."""
    deadline = time.monotonic() + STOP_SECONDS
    _log.info("stopping")
    for loop in loops:
        loop.cancel()
    await asyncio.wait(loops)
    # Leaving revokes the shards, which closes them.
    left = await asyncio.to_thread(group.stop, STOP_SECONDS - CLOSE_SECONDS / 2)
    remaining_seconds = max(deadline - time.monotonic(), 0.1)
    await shards.close(list(shards.owned), remaining_seconds)
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
    source: Source,
    clients: Clients,
    feed_of_topic: Mapping[str, str],
    shards: Shards,
    health: Health,
) -> Group:
    """Create the membership in the consumer group, whose thread is watched."""
    health.register(_GROUP_LOOP, _GROUP_LOOP_LIMIT_SECONDS)
    # The client id shows which worker owns which shard.
    client_id = config.kafka.client.get("client.id", source.worker)
    return Group(
        clients.group() | {"client.id": client_id},
        feed_of_topic,
        shards,
        lambda: health.progress(_GROUP_LOOP),
    )


def _refresh_key(key: ApiKey, poller: Poller) -> None:
    if key.refresh():
        poller.key_changed()


def _why_not_ready(group: Group, shards: Shards, poller: Poller) -> list[str]:
    reasons = []
    if not group.joined:
        reasons.append("the group has not been joined yet")
    reasons += [f"topic {topic} is gone" for topic in group.missing_topics]
    reasons += shards.why_not_ready()
    if poller.key_refused:
        reasons.append("the upstream refuses the API key")
    if poller.plan_refused:
        reasons.append("the upstream refuses the plan of the API key's user")
    if poller.quota_exhausted:
        reasons.append("the requests of the month are used up")
    return reasons


def _worker_name() -> str:
    """Return a name that no other process has, however often a pod is recreated."""
    return f"{socket.gethostname()}-{os.getpid()}-{secrets.token_hex(2)}"


def rules_of(feed: Feed) -> FeedRules:
    """Return the rules that decide which changes of a feed become events."""
    exchanges = ",".join(sorted(feed.exchanges))
    include = ",".join(sorted(feed.include))
    request = f"exchanges={exchanges};include={include}"
    if feed.positioning is not None:
        request += f";positioning={feed.positioning}"
    return FeedRules(
        feed=feed.name,
        request_fingerprint=hashlib.sha256(request.encode()).hexdigest()[:16],
        rules=Rules.of(feed.ignore, feed.thresholds),
        stale_after_seconds=feed.stale_after_seconds,
    )
