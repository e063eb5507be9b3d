"""Measures one shard in this process against a real broker."""

from __future__ import annotations

import asyncio
import math
import time
from concurrent.futures import ThreadPoolExecutor
from statistics import median
from typing import TYPE_CHECKING, Final

from connector.config.model import Config, Kafka, Schedule
from connector.config.model import Upstream as UpstreamSettings
from connector.config.secrets import Secret
from connector.devkit.simulator.settings import DEFAULT_KEY
from connector.kafka import admin
from connector.kafka.avro import Codec, SingleObject
from connector.kafka.clients import Clients
from connector.kafka.names import ShardId, Topics
from connector.kafka.reader import Reader
from connector.kafka.shard_log import ShardLog, Transaction
from connector.runtime.clock import Clock
from connector.runtime.health import Health
from connector.runtime.poller import Poller
from connector.runtime.ports import PollerContext, ShardContext, ShardSpec
from connector.runtime.shard import Shard
from connector.runtime.startup import StartupDeadline
from connector.telemetry.metrics import Metrics
from connector.telemetry.observer import MetricsObserver
from connector.upstream.api_key import ApiKey
from connector.upstream.budget import Budget
from connector.upstream.client import Client
from tests.bench.measure import percentile
from tests.bench.sample import SOURCE, SYMBOLS, feed, responses, rules
from tests.bench.stack import UNLIMITED, Stack

if TYPE_CHECKING:
    from connector.core.model import Event, State
    from connector.runtime.ports import Commit

_FEED: Final = "bench"
_SHARD: Final = ShardId(_FEED, 0)

# Until then, the connections are new and caches are cold.
_WARM_UP_CHECKS: Final = 10

# The broker's JVM compiles meanwhile: its first 100 transactions take twice as long.
_BROKER_WARM_UP_ROUNDS: Final = 10

# For opening the shard, on a machine that is busy.
_START_LIMIT_SECONDS: Final = 60


def prepare(
    bootstrap: str, prefix: str, feed_name: str = _FEED
) -> tuple[Clients, Topics]:
    """Create the topics of a feed."""
    kafka = Kafka(bootstrap_servers=bootstrap, topic_prefix=prefix)
    clients = Clients(kafka)
    topics = Topics(prefix)
    specs = admin.topic_specs(topics, [feed_name], kafka)
    admin.prepare_topics(clients, specs, kafka.replication_factor)
    return clients, topics


class _CachingCodec(Codec):
    """Encodes each value once, so that only the client's work is measured."""

    def __init__(self) -> None:
        super().__init__(SingleObject())
        self._encoded: dict[int, bytes] = {}

    # By identity: the samples live as long as the codec, and hashing them would take time.
    def encode_event(self, topic: str, event: Event) -> bytes:
        if id(event) not in self._encoded:
            self._encoded[id(event)] = super().encode_event(topic, event)
        return self._encoded[id(event)]

    def encode_state(self, topic: str, state: State) -> bytes:
        if id(state) not in self._encoded:
            self._encoded[id(state)] = super().encode_state(topic, state)
        return self._encoded[id(state)]


def produce(stack: Stack, name: str, transactions: int) -> dict[str, float]:
    """Commit eight events and eight states per transaction.

    Returns the CPU time in µs per event, librdkafka's threads included, and the median
    duration of a transaction in ms.
    """
    clients, topics = prepare(stack.bootstrap, stack.new_prefix())
    reader = Reader(clients)
    log = _new_log(clients, topics, reader, _CachingCodec())
    log.open()
    samples = []
    for checked in responses(name, _WARM_UP_CHECKS):
        samples.append(Transaction(checked.events, checked.states))
    for transaction in samples * _BROKER_WARM_UP_ROUNDS:
        log.publish(transaction)

    # Measure the same transactions again, now that their encoding is cached.
    cpu_started_ns = time.process_time_ns()
    durations_ms = []
    for number in range(transactions):
        transaction = samples[number % len(samples)]
        started = time.perf_counter()
        log.publish(transaction)
        durations_ms.append((time.perf_counter() - started) * 1000)
    cpu_micros = (time.process_time_ns() - cpu_started_ns) / 1000

    log.abort()
    reader.close()
    return {
        "produce": cpu_micros / transactions / len(SYMBOLS),
        "begin to committed, ms": median(durations_ms),
    }


def _new_log(
    clients: Clients, topics: Topics, reader: Reader, codec: Codec
) -> ShardLog:
    return ShardLog(
        _SHARD,
        1,
        topics=topics,
        clients=clients,
        reader=reader,
        codec=codec,
    )


class _CommitTimes(MetricsObserver):
    """Records each duration that the real observer puts into a bucket."""

    def __init__(self) -> None:
        super().__init__(Metrics([_FEED]))
        self.published_ms: list[float] = []

    def committed(self, commit: Commit) -> None:
        super().committed(commit)
        for event in commit.events:
            waited_micros = commit.at - event.observed_at
            self.published_ms.append(waited_micros / 1000)


async def latency(
    stack: Stack, name: str, checks: int, interval_seconds: float
) -> dict[str, float]:
    """Check eight symbols at an interval, with the parts of a worker.

    Returns percentiles of the time from the complete response to the acknowledged commit,
    in ms.
    """
    clients, topics = prepare(stack.bootstrap, stack.new_prefix())
    upstream = UpstreamSettings(
        base_url=stack.upstream.base_url,
        api_key=Secret(DEFAULT_KEY),
        max_requests_per_minute=UNLIMITED,
    )
    schedule = Schedule(target_delay_seconds=0, min_interval_seconds=interval_seconds)
    config = Config(upstream=upstream, feeds=(feed(name),), schedule=schedule)

    # The parts of a worker, as the composition root builds them.
    observer = _CommitTimes()
    clock = Clock()
    budget = Budget(UNLIMITED)
    client = Client(upstream, ApiKey(upstream), budget)
    health = Health(time.monotonic, clock.now)
    polling = PollerContext(observer, clock, health, SOURCE)
    poller = Poller(config, client, budget, polling)
    reader = Reader(clients)

    def new_log() -> ShardLog:
        return _new_log(clients, topics, reader, Codec(SingleObject()))

    def polling_changed() -> None:
        polled = [shard] if shard.is_polled else []
        poller.cover(polled)

    with ThreadPoolExecutor(1) as executor:
        context = ShardContext(
            observer,
            clock,
            executor,
            SOURCE,
            grace_seconds=20.0,
            polling_changed=polling_changed,
            startup=StartupDeadline(math.inf),
        )
        spec = ShardSpec(_SHARD, rules(name), frozenset(SYMBOLS))
        shard = Shard(spec, new_log, context)

        # Run until enough events are committed.
        serving = asyncio.create_task(shard.run())
        polls = asyncio.create_task(poller.run())
        shard.assign()
        all_checks = checks + _WARM_UP_CHECKS
        events = all_checks * len(SYMBOLS)
        # Three times the planned duration: a check may take longer than the interval.
        limit_seconds = _START_LIMIT_SECONDS + checks * interval_seconds * 3
        try:
            async with asyncio.timeout(limit_seconds):
                while len(observer.published_ms) < events:  # noqa: ASYNC110 -- a list wakes nobody
                    await asyncio.sleep(interval_seconds)
        finally:
            polls.cancel()
            shard.close()
            await shard.wait_closed()
            serving.cancel()
            await asyncio.wait([serving, polls])
            await client.close()
    reader.close()

    # The first checks include the shard's start.
    warm_up_events = _WARM_UP_CHECKS * len(SYMBOLS)
    durations_ms = observer.published_ms[warm_up_events:]
    return {
        "p50": percentile(durations_ms, 50),
        "p99": percentile(durations_ms, 99),
        "events": len(durations_ms),
    }
