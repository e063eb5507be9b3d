"""One worker process: started in a fixed order, given shards by the group, stopped inside one deadline."""

from __future__ import annotations

import asyncio
import hashlib
import logging
import os
import secrets
import socket
import time
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any, Final, TypeVar

from connector import __version__
from connector.core.diff import Rules
from connector.core.model import Source
from connector.core.transition import FeedRules
from connector.errors import EXIT_FATAL, ConnectorError, KafkaUnavailable
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
from connector.runtime.health import Health
from connector.runtime.poller import Poller
from connector.runtime.ports import ShardContext, StartupDeadline
from connector.runtime.shard import CLOSE_SECONDS, Shard
from connector.telemetry.metrics import Metrics
from connector.telemetry.observer import KafkaClientObserver, MetricsObserver
from connector.upstream.api_key import ApiKey
from connector.upstream.budget import Budget
from connector.upstream.client import Client
from connector.web.api import Api
from connector.web.server import Listener
from connector.web.views import LiveView, WorkerView

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine

    from connector.config.model import Config, Feed
    from connector.runtime.inbox import Inbox

_log = logging.getLogger(__name__)
_T = TypeVar("_T")

STOP_SECONDS: Final = 25
"""For all of a graceful stop; Kubernetes kills after 30."""

_GROUP, _TICKER = "group", "ticker"
_GROUP_LIMIT_SECONDS: Final = 60
_TICKER_LIMIT_SECONDS: Final = 30
_TICK_SECONDS: Final = 1.0
_FIRST_PAUSE_SECONDS: Final = 0.2


class Worker:
    """Everything that runs in one process."""

    def __init__(self, config: Config) -> None:
        self._config = config
        self.key = ApiKey(config.upstream)
        self._me = Source(
            __version__,
            config.kafka.group_id,
            f"{socket.gethostname()}-{os.getpid()}-{secrets.token_hex(2)}",
        )
        self._rules = {feed.name: rules_of(feed) for feed in config.feeds}
        self._topics = Topics(config.kafka.topic_prefix)
        self._clock = Clock()
        self._health = Health(time.monotonic, Clock.now)
        self._metrics = Metrics(
            (feed.name for feed in config.feeds), self._health.progressed_at
        )
        self._metrics.set("gex_build_info", 1, __version__)
        self._observer = MetricsObserver(self._metrics, config.http.level_symbols)
        clients_observer = KafkaClientObserver(self._metrics)
        self._clients = Clients(
            config.kafka, clients_observer.error, clients_observer.statistics
        )
        shards = config.kafka.shards * len(config.feeds)
        self._executor = ThreadPoolExecutor(shards + 2, thread_name_prefix="kafka")
        self._shards: dict[ShardId, tuple[Shard, asyncio.Task[None]]] = {}
        self._inboxes: dict[ShardId, Inbox] = {}
        self._status = WorkerView(
            config,
            self._me,
            health=self._health,
            clock=self._clock,
            shards=self._shards,
        )
        self._api = Api(config.http, self._status)
        self.listener = Listener(
            self._metrics,
            self._health,
            config.http.host,
            config.http.port,
            self._api.routes(),
        )
        self._stopping = asyncio.Event()
        self._exit_code = 0

    def stop(self) -> None:
        """Stop as asked; exit status 0."""
        self._stopping.set()

    async def run(self) -> int:
        """Start, work until `stop`, and stop. Returns the exit status.

        Raises:
            ConfigError: the listener's address.
            KafkaError: Kafka or the registry were not usable in time.
        """
        self._loop = asyncio.get_running_loop()
        await self.listener.start()
        _log.info(
            "listening", extra={"url": self.listener.url, "worker": self._me.worker}
        )
        try:
            await self._until_stopped(self._start())
            if not self._stopping.is_set():
                await self._work()
        finally:
            self._api.close()
            await self.listener.stop()
            self._executor.shutdown(wait=False, cancel_futures=True)
        return self._exit_code

    async def _start(self) -> None:
        """Registry, topics, reader: each tried again until the start's time-out is over."""
        kafka, registry = self._config.kafka, self._config.schema_registry
        self._framing = await self._in_time(
            "the registry",
            lambda: prepare_framing(registry, self._topics, self._rules),
        )
        wanted = admin.topic_specs(self._topics, self._rules, kafka)
        await self._in_time(
            "Kafka",
            lambda: admin.prepare_topics(
                self._clients, wanted, kafka.replication_factor
            ),
        )
        self._reader = await self._in_time("Kafka", self._warm_reader)

    async def _work(self) -> None:
        budget = Budget(self._config.upstream.max_requests_per_minute)
        client = Client(self._config.upstream, self.key, budget)
        tools = (self._observer, self._clock, self._health)
        self._poller = Poller(self._config, (client, self.key, budget), tools, self._me)
        currents = {self._topics.current(feed): feed for feed in self._rules}
        self._tools = ShardContext(
            observer=self._observer,
            clock=self._clock,
            executor=self._executor,
            source=self._me,
            grace_seconds=2 * self._config.upstream.timeout_seconds,
            trial=StartupDeadline(
                time.monotonic() + self._config.kafka.start_timeout_seconds
            ),
            changed=self._cover,
            spent=lambda: budget.spending(time.monotonic()).used_fraction,
            published=self._status.published,
        )
        members = Members(self._clients.admin(), self._me.group, currents)
        self._status.live = LiveView(self._poller, budget, members.now, self._executor)
        named = {"client.id": self._me.worker, **self._config.kafka.client}["client.id"]
        self._group = Group(
            self._clients.group() | {"client.id": named},
            currents,
            self,
            lambda: self._health.progress(_GROUP),
        )
        self._health.register(_GROUP, _GROUP_LIMIT_SECONDS)
        self._health.require(self._why_not_ready)
        for feed in self._rules:
            self._metrics.set("gex_shards", self._config.kafka.shards, feed)
        self._group.start()
        loops = [self._watched(self._poller.run()), self._watched(self._tick())]
        try:
            await self._until_stopped(
                self._in_time("the consumer group", self._group.wait_joined)
            )
            await self._stopping.wait()
        finally:
            await self._end(loops)
            await client.close()

    async def _end(self, loops: list[asyncio.Task[None]]) -> None:
        """Stop polling, finish transactions, close shards, leave the group; all of it inside one deadline."""
        deadline = time.monotonic() + STOP_SECONDS
        _log.info("stopping")
        for loop in loops:
            loop.cancel()
        await asyncio.wait(loops)
        left = await asyncio.to_thread(
            self._group.stop, STOP_SECONDS - CLOSE_SECONDS / 2
        )
        await self._close(list(self._shards), max(deadline - time.monotonic(), 0.1))
        self._health.unregister(_GROUP)
        _log.log(
            logging.INFO if left else logging.WARNING,
            "stopped",
            extra={"group_left_in_time": left},
        )

    def assigned(self, shards: list[ShardId]) -> None:
        """From the group's thread: these are ours."""
        self._loop.call_soon_threadsafe(self._open, shards)

    def revoked(self, shards: list[ShardId]) -> None:
        """From the group's thread: finish these before they go to another worker."""
        closed = asyncio.run_coroutine_threadsafe(
            self._close(shards, CLOSE_SECONDS), self._loop
        )
        try:
            closed.result(CLOSE_SECONDS + 1)
        except TimeoutError:
            _log.warning(
                "shards were not closed in time; their new owner fences them",
                extra={"shards": len(shards)},
            )

    def lost(self, shards: list[ShardId]) -> None:
        """From the group's thread: these belong to others already."""
        self._loop.call_soon_threadsafe(self._lose, shards)

    def failed(self, error: Exception) -> None:
        """From the group's thread: it has ended by a defect."""
        _log.critical("a defect of the connector", exc_info=error)
        self._loop.call_soon_threadsafe(
            self._incurable,
            f"the group's thread ended: {type(error).__name__}: {error}",
        )

    def _open(self, shards: list[ShardId]) -> None:
        kafka = self._config.kafka
        for shard in shards:
            if shard.partition >= kafka.shards:
                self._incurable(
                    f"{shard} was assigned, but {kafka.shards} shards are configured: were partitions added?"
                )
                return
            configured = next(
                feed.symbols for feed in self._config.feeds if feed.name == shard.feed
            )
            symbols = frozenset(
                s
                for s in configured
                if partition_of(s, kafka.shards) == shard.partition
            )
            log = ShardLog(
                shard,
                kafka.shards,
                topics=self._topics,
                clients=self._clients,
                reader=self._reader,
                codec=Codec(self._framing),
            )
            owned = Shard(
                shard,
                self._rules[shard.feed],
                symbols,
                log,
                self._tools,
                self._inboxes.pop(shard, None),
            )
            _log.info(
                "shard assigned", extra={"shard": str(shard), "symbols": len(symbols)}
            )
            self._shards[shard] = (owned, self._watched(owned.run()))

    async def _close(self, shards: list[ShardId], seconds: float) -> None:
        closing = [self._shards.pop(shard) for shard in shards if shard in self._shards]
        spent = (
            self._tools.spent()
        )  # before the first is given up: a part of what is left would look like all
        for shard, _ in closing:
            shard.close(spent)
        if closing:
            await asyncio.wait([task for _, task in closing], timeout=seconds)
        for shard, _ in closing:
            shard.lose()  # nothing more for those that are done; the others are fenced by their next owner
            self._inboxes[shard.id] = shard.inbox
            _log.info("shard handed over", extra={"shard": str(shard.id)})
        self._cover()

    def _lose(self, shards: list[ShardId]) -> None:
        for shard in shards:
            if shard in self._shards:
                owned, _ = self._shards.pop(shard)
                owned.lose()
                self._inboxes[shard] = owned.inbox
                _log.warning("shard lost", extra={"shard": str(shard)})
        self._cover()

    def _cover(self) -> None:
        """What is polled has changed."""
        owned = [shard for shard, _ in self._shards.values()]
        self._poller.cover(shard for shard in owned if shard.is_polled)
        for feed in self._rules:
            self._observer.shards_owned(
                feed, sum(shard.is_open for shard in owned if shard.id.feed == feed)
            )

    async def _tick(self) -> None:
        self._health.register(_TICKER, _TICKER_LIMIT_SECONDS)
        while True:
            await asyncio.sleep(_TICK_SECONDS)
            self._health.progress(_TICKER)
            if self.key.refresh():
                self._poller.key_changed()
            for shard, _ in self._shards.values():
                shard.tick()
            self._observer.queue_length(
                sum(shard.waiting for shard, _ in self._shards.values())
            )
            self._reader.serve_callbacks()

    def _why_not_ready(self) -> list[str]:
        reasons = [] if self._group.joined else ["the group has not been joined yet"]
        reasons += [f"topic {topic} is gone" for topic in self._group.missing_topics]
        reasons += [
            why
            for shard, _ in self._shards.values()
            if (why := shard.why_not_ready()) is not None
        ]
        return (
            [*reasons, "the upstream refuses the API key"]
            if self._poller.key_refused
            else reasons
        )

    def _watched(self, work: Coroutine[None, None, None]) -> asyncio.Task[None]:
        """A task whose failure ends the process: nothing of ours dies in silence."""

        def ended(task: asyncio.Task[None]) -> None:
            error = None if task.cancelled() else task.exception()
            if isinstance(error, ConnectorError):
                self._incurable(str(error), error.exit_code)
            elif error is not None:
                _log.critical("a defect of the connector", exc_info=error)
                self._incurable(f"a defect of the connector: {type(error).__name__}")

        task = self._loop.create_task(work)
        task.add_done_callback(ended)
        return task

    def _incurable(self, why: str, exit_code: int = EXIT_FATAL) -> None:
        _log.critical("cannot go on", extra={"error": why})
        self._exit_code = exit_code
        self._stopping.set()

    def _warm_reader(self) -> Reader:
        """The first use of a consumer costs half a second: have it now."""
        reader = Reader(self._clients)
        reader.warm_up(self._topics.current(next(iter(self._rules))))
        return reader

    async def _in_time(self, what: str, call: Callable[[], _T]) -> _T:
        """Try until it works or the start's time-out is over. Raises the last KafkaError."""
        limit = self._config.kafka.start_timeout_seconds
        deadline, pause = self._loop.time() + limit, _FIRST_PAUSE_SECONDS
        while True:
            try:
                return await self._loop.run_in_executor(self._executor, call)
            except KafkaUnavailable as error:
                level = (
                    logging.WARNING if pause > _FIRST_PAUSE_SECONDS else logging.DEBUG
                )  # a new topic needs a moment
                _log.log(
                    level, "%s is not usable yet", what, extra={"error": str(error)}
                )
                if self._loop.time() + pause > deadline:
                    raise KafkaUnavailable(
                        f"{what} was not usable within {limit:g} s: {error}"
                    ) from None
            await asyncio.sleep(pause)
            pause = min(2 * pause, _TICK_SECONDS)

    async def _until_stopped(self, work: Coroutine[Any, Any, None]) -> None:
        """Run it, but not longer than until `stop`."""
        task, stop = (
            self._loop.create_task(work),
            self._loop.create_task(self._stopping.wait()),
        )
        await asyncio.wait({task, stop}, return_when=asyncio.FIRST_COMPLETED)
        stop.cancel()
        if task.done():
            task.result()
        else:
            task.cancel()


def rules_of(feed: Feed) -> FeedRules:
    """What a feed's configuration says of its events."""
    asked = f"exchanges={','.join(sorted(feed.exchanges))};include={','.join(sorted(feed.include))}"
    return FeedRules(
        feed=feed.name,
        request_fingerprint=hashlib.sha256(asked.encode()).hexdigest()[:16],
        rules=Rules.of(feed.ignore, feed.thresholds),
        stale_after_seconds=feed.stale_after_seconds,
    )
