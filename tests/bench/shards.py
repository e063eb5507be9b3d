"""One shard in this process, against a real broker: what a transaction costs, and how long an answer takes."""

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
from connector.runtime.ports import ShardContext, ShardSpec
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
_WARM_UP: Final = 10
_BROKER_WARM_UP: Final = 10
"""Its JVM compiles while it runs: the first hundred transactions take twice the time."""


def prepare(
    bootstrap: str, prefix: str, feed_name: str = _FEED
) -> tuple[Clients, Topics]:
    """Make the topics of a feed."""
    kafka = Kafka(bootstrap_servers=bootstrap, topic_prefix=prefix)
    clients, topics = Clients(kafka), Topics(prefix)
    admin.prepare_topics(
        clients,
        admin.topic_specs(topics, [feed_name], kafka),
        kafka.replication_factor,
    )
    return clients, topics


class _Encoded(Codec):
    """Encodes each value once and for all, so that what is left is the client's work."""

    def __init__(self) -> None:
        super().__init__(SingleObject())
        self._done: dict[int, bytes] = {}

    def encode_event(self, topic: str, event: Event) -> bytes:
        return self._done.get(id(event)) or self._done.setdefault(
            id(event), super().encode_event(topic, event)
        )

    def encode_state(self, topic: str, state: State) -> bytes:
        return self._done.get(id(state)) or self._done.setdefault(
            id(state), super().encode_state(topic, state)
        )


def produce(stack: Stack, name: str, transactions: int) -> dict[str, float]:
    """Eight events and eight states in a transaction: CPU in µs per event, librdkafka's threads too; and its time."""
    clients, topics = prepare(stack.bootstrap, stack.new_prefix())
    reader, codec = Reader(clients), _Encoded()
    log = ShardLog(
        ShardId(_FEED, 0), 1, topics=topics, clients=clients, reader=reader, codec=codec
    )
    log.open()
    made = [Transaction(one.events, one.states) for one in responses(name, _WARM_UP)]
    for transaction in made * _BROKER_WARM_UP:
        log.publish(transaction)
    started, took = time.process_time_ns(), []
    for n in range(transactions):
        began = time.perf_counter()
        log.publish(made[n % len(made)])
        took.append((time.perf_counter() - began) * 1000)
    spent = (time.process_time_ns() - started) / 1000 / transactions / len(SYMBOLS)
    log.drop()
    reader.close()
    return {"produce": spent, "begin to committed, ms": median(took)}


class _CommitTimes(MetricsObserver):
    """Records each duration that the real observer puts into a bucket."""

    def __init__(self) -> None:
        super().__init__(Metrics([_FEED]))
        self.published_ms: list[float] = []

    def committed(self, commit: Commit) -> None:
        super().committed(commit)
        for event in commit.events:
            self.published_ms.append((commit.at - event.observed_at) / 1000)


async def latency(
    stack: Stack, name: str, checks: int, interval_seconds: float
) -> dict[str, float]:
    """Response complete to acknowledged, ms: eight symbols, asked for at an interval; put together as a worker is."""
    prefix = stack.new_prefix()
    clients, topics = prepare(stack.bootstrap, prefix)
    upstream = UpstreamSettings(
        base_url=stack.upstream.base_url,
        api_key=Secret(DEFAULT_KEY),
        max_requests_per_minute=UNLIMITED,
    )
    schedule = Schedule(target_delay_seconds=0, min_interval_seconds=interval_seconds)
    config = Config(upstream=upstream, feeds=(feed(name),), schedule=schedule)
    key, budget = ApiKey(upstream), Budget(UNLIMITED)
    observer, clock = _CommitTimes(), Clock()
    client = Client(upstream, key, budget)
    poller = Poller(
        config,
        (client, key, budget),
        (observer, clock, Health(time.monotonic, clock.now)),
        SOURCE,
    )
    reader = Reader(clients)

    def new_log() -> ShardLog:
        return ShardLog(
            ShardId(_FEED, 0),
            1,
            topics=topics,
            clients=clients,
            reader=reader,
            codec=Codec(SingleObject()),
        )

    with ThreadPoolExecutor(1) as executor:
        context = ShardContext(
            observer,
            clock,
            executor,
            SOURCE,
            grace_seconds=20.0,
            polling_changed=lambda: poller.cover([shard] if shard.is_polled else []),
            startup=StartupDeadline(math.inf),
        )
        spec = ShardSpec(ShardId(_FEED, 0), rules(name), frozenset(SYMBOLS))
        shard = Shard(spec, new_log, context)
        owner = asyncio.create_task(shard.run())
        asking = asyncio.create_task(poller.run())
        shard.assign()
        try:
            async with asyncio.timeout(60 + checks * interval_seconds * 3):
                while len(observer.published_ms) < (checks + _WARM_UP) * len(SYMBOLS):  # noqa: ASYNC110 -- a list does not wake
                    await asyncio.sleep(interval_seconds)
        finally:
            asking.cancel()
            shard.close()
            await shard.wait_closed()
            owner.cancel()
            await asyncio.wait([owner, asking])
            await client.close()
    reader.close()
    took = observer.published_ms[_WARM_UP * len(SYMBOLS) :]
    return {
        "p50": percentile(took, 50),
        "p99": percentile(took, 99),
        "events": len(took),
    }
