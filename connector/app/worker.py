"""The composition root: a configuration comes in, a running worker goes out."""

from __future__ import annotations

import asyncio
import logging
import os
import time
from functools import partial
from typing import TYPE_CHECKING, Final

from connector.app.looks import new_looks
from connector.app.parts import new_kafka_parts, new_parts
from connector.app.preparation import GROUP_LOOP, prepare_kafka
from connector.app.readiness import why_not_ready
from connector.app.shards import add_shards
from connector.kafka.members import Members
from connector.runtime.credential_watch import CredentialWatch
from connector.runtime.process_limits import require_process_limits
from connector.runtime.service_manager import ServiceManager
from connector.runtime.shards import CLOSE_SECONDS
from connector.runtime.startup import retry_until_usable
from connector.runtime.ticker import InBackground, Ticker
from connector.web.api import Api
from connector.web.server import Listener
from connector.web.views import StartedWorker

if TYPE_CHECKING:
    from concurrent.futures import ThreadPoolExecutor

    from connector.app.parts import KafkaParts, Parts
    from connector.app.preparation import Prepared
    from connector.config.model import Config
    from connector.kafka.assignment import Group
    from connector.kafka.quarantine import Quarantine
    from connector.runtime.poller import Poller
    from connector.runtime.shards import Shards
    from connector.runtime.supervisor import Supervisor
    from connector.upstream.api_key import ApiKey
    from connector.upstream.client import Client

_log = logging.getLogger(__name__)

# Deadline of a graceful stop. Kubernetes kills a container after 30 s by default.
STOP_SECONDS: Final = 25

_GROUP_LOOP_LIMIT_SECONDS: Final = 60


async def run_worker(config: Config, key: ApiKey, supervisor: Supervisor) -> int:
    """Start a worker, let it work until the supervisor stops it, and stop it.

    Returns the exit status.

    Raises:
        ConfigError: A limit permits too few threads or open files, or the listener's address
            cannot be used.
        KafkaError: Kafka or the registry were not usable in time.
    """
    require_process_limits(config)
    parts = new_parts(config, key, supervisor)

    # Listen before anything that takes time, so that the probes are answered.
    api = Api(config.http, parts.view)
    addresses = config.http.addresses
    listener = Listener(parts.metrics, parts.health, addresses, api.routes())
    await listener.start()
    fields = {"url": " ".join(listener.urls), "worker": parts.source.worker}
    _log.info("listening", extra=fields)

    kafka = new_kafka_parts(parts)
    parts.view.troubles.kafka = kafka.watch
    parts.view.levels.kafka = kafka.watch
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
        prepared = await supervisor.until_stopped(prepare_kafka(parts, kafka))
        if prepared is not None and not supervisor.is_stopping:
            add_shards(parts, kafka, prepared)
            await _work(parts, kafka, prepared)
    finally:
        for watch in watches:
            watch.cancel()
        await _clean_up(parts.client, api, listener, kafka.executor)
    return supervisor.exit_code


async def _work(parts: Parts, kafka: KafkaParts, prepared: Prepared) -> None:
    """Join the group, poll and publish until the supervisor stops the worker."""
    supervisor, group = parts.supervisor, prepared.group
    feed_of_topic = {kafka.topics.current(feed): feed for feed in parts.rules}
    members = Members(kafka.clients.admin(), parts.source.group, feed_of_topic)
    parts.view.live = StartedWorker(
        parts.poller, parts.budget, members.now, kafka.executor
    )
    parts.view.levels.others = prepared.current_states
    parts.health.require(partial(why_not_ready, parts, kafka, prepared))
    manager = ServiceManager(os.environ.get("NOTIFY_SOCKET"), parts.health)
    ticker = Ticker(
        [
            partial(_refresh_key, parts.key, parts.poller),
            parts.shards.tick,
            InBackground(prepared.reader.serve_callbacks, kafka.executor),
            prepared.quarantine.serve_callbacks,
            prepared.topic_watch.serve_callbacks,
            kafka.clients.reachability.tick,
            manager.tick,
        ],
        parts.health,
    )
    # Join the group last: from now on shards are assigned, from its thread.
    parts.health.register(GROUP_LOOP, _GROUP_LOOP_LIMIT_SECONDS)
    group.start()
    loops = [supervisor.watch(parts.poller.run()), supervisor.watch(ticker.run())]
    for look in new_looks(parts, kafka, prepared, members):
        loops.append(supervisor.watch(look))
    try:
        await supervisor.until_stopped(
            retry_until_usable(
                "the consumer group",
                group.wait_joined,
                kafka.executor,
                parts.config.kafka.start_timeout_seconds,
            )
        )
        manager.started()
        await supervisor.wait_stopped()
    finally:
        manager.stopping()
        await _stop(loops, group, parts.shards, prepared.quarantine)
        parts.health.unregister(GROUP_LOOP)


def _refresh_key(key: ApiKey, poller: Poller) -> None:
    if key.refresh():
        poller.key_changed()


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
