"""The parts of a worker, created before Kafka is asked for anything."""

from __future__ import annotations

import logging
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

from connector import __version__
from connector.app.rules import rules_of
from connector.core.model import Source
from connector.core.venues import VENUES, unknown_venues
from connector.kafka.broker_clock import BrokerClock
from connector.kafka.clients import Clients
from connector.kafka.credentials import Credentials
from connector.kafka.foreign_members import worker_name
from connector.kafka.names import Topics
from connector.kafka.probe import Probe
from connector.kafka.validity import client_certificate_end
from connector.runtime.clock import Clock
from connector.runtime.clock_watch import ClockWatch
from connector.runtime.health import Health
from connector.runtime.kafka_watch import KafkaWatch
from connector.runtime.poller import Poller
from connector.runtime.ports import PollerContext
from connector.runtime.process_limits import EXTRA_THREADS
from connector.runtime.shards import Shards
from connector.telemetry.metrics import Metrics
from connector.telemetry.observer import KafkaClientObserver, MetricsObserver
from connector.upstream.budget import Budget, Month
from connector.upstream.client import Client
from connector.web.views import WorkerView

if TYPE_CHECKING:
    from connector.config.model import Config
    from connector.core.transition import FeedRules
    from connector.runtime.supervisor import Supervisor
    from connector.upstream.api_key import ApiKey

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Parts:
    """A worker's configuration, and its parts that work without Kafka.

    A worker that waits for Kafka can be asked why, by `health`, `metrics` and `view`.
    """

    config: Config
    key: ApiKey
    supervisor: Supervisor
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
class KafkaParts:
    """The Kafka clients, the topics, and the threads in which blocking calls run."""

    topics: Topics
    clients: Clients
    credentials: Credentials
    executor: ThreadPoolExecutor
    watch: KafkaWatch
    clock_watch: ClockWatch


def new_parts(config: Config, key: ApiKey, supervisor: Supervisor) -> Parts:
    """Create the parts that work without Kafka."""
    _warn_of_unknown_venues(config)
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
    shards = Shards(poller, observer, supervisor, partial(used_fraction, budget))
    view = WorkerView(config, source, health=health, clock=clock, shards=shards.owned)
    return Parts(
        config=config,
        key=key,
        supervisor=supervisor,
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


def new_kafka_parts(parts: Parts) -> KafkaParts:
    """Create the clients, with one thread per shard: each has at most one blocking call."""
    config = parts.config
    total_shards = config.kafka.shards * len(config.feeds)
    observer = KafkaClientObserver(parts.metrics)
    topics = Topics(config.kafka.topic_prefix)
    any_feed = config.feeds[0].name
    any_topic = topics.current(any_feed)
    credentials = Credentials(config.kafka, any_topic)
    certificate_end = client_certificate_end(config.kafka)
    if certificate_end is not None:
        seconds = certificate_end.timestamp()
        parts.metrics.set("gex_kafka_certificate_expiry_timestamp_seconds", seconds)
    clients = Clients(config.kafka, observer.error, observer.statistics)
    executor = ThreadPoolExecutor(
        total_shards + EXTRA_THREADS, thread_name_prefix="kafka"
    )
    probe = Probe(clients, any_topic)
    watch = KafkaWatch(probe.ask, clients.reachability, executor)
    clock_watch = ClockWatch(
        BrokerClock(clients, topics, any_feed),
        parts.clock,
        executor,
        parts.observer.clock_judged,
    )
    parts.shards.is_clock_wrong = lambda: clock_watch.is_wrong
    return KafkaParts(topics, clients, credentials, executor, watch, clock_watch)


def used_fraction(budget: Budget) -> float:
    """Return the part of the request budget used within a minute, 0 to 1."""
    return budget.spending(time.monotonic()).used_fraction


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
