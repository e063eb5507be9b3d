"""The group's callbacks: which shards are opened, closed and abandoned."""

from __future__ import annotations

import asyncio
import logging
import math
import threading
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import TYPE_CHECKING

import pytest

from connector.core.model import Source
from connector.core.transition import FeedRules
from connector.errors import EXIT_FATAL
from connector.kafka.names import ShardId
from connector.runtime import loop_watch
from connector.runtime import shards as shards_module
from connector.runtime.clock import Clock
from connector.runtime.ports import AnswerTimes, Phase, ShardContext, ShardSpec
from connector.runtime.shard import Shard
from connector.runtime.shards import Shards
from connector.runtime.startup import StartupDeadline
from connector.runtime.supervisor import Supervisor
from connector.telemetry.metrics import Metrics
from connector.telemetry.observer import MetricsObserver
from tests.support.log_messages import STANDS_BY
from tests.support.memory_log import MemoryLog

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterable

ME = Source("1", "group", "me")
FIRST, SECOND = ShardId("all", 0), ShardId("all", 1)


class RecordingPoller:
    """Keeps the shards that it is told to poll."""

    def __init__(self) -> None:
        self.polled: list[ShardId] = []

    def cover(self, shards: Iterable[Shard]) -> None:
        self.polled = [shard.id for shard in shards]


class ShardsHarness:
    """Two configured shards, and the parts around them."""

    def __init__(self) -> None:
        self.poller = RecordingPoller()
        self.metrics = Metrics(["all"])
        self.supervisor = Supervisor()
        self.pool = ThreadPoolExecutor(3)
        self.logs = {FIRST: MemoryLog(), SECOND: MemoryLog()}
        observer = MetricsObserver(self.metrics)
        self.shards = Shards(self.poller, observer, self.supervisor, lambda: 0.25)
        context = ShardContext(
            observer,
            Clock(),
            self.pool,
            ME,
            grace_seconds=0.0,
            polling_changed=self.shards.update_polling,
            startup=StartupDeadline(math.inf),
        )
        self.by_id: dict[ShardId, Shard] = {}
        for shard_id in self.logs:
            spec = ShardSpec(shard_id, FeedRules("all"), frozenset({"BTC"}))
            new_log = partial(self.logs.__getitem__, shard_id)
            shard = Shard(spec, new_log, context)
            self.by_id[shard_id] = shard
            self.shards.add(shard)

    async def assign(self, *shards: ShardId) -> None:
        self.shards.assigned(list(shards))
        for shard_id in shards:
            await self.wait_open(shard_id)

    async def wait_open(self, shard_id: ShardId) -> None:
        shard = self.by_id[shard_id]
        await self.wait_until(lambda: shard.is_open)

    async def wait_owned(self, shard_id: ShardId, *, owned: bool) -> None:
        await self.wait_until(lambda: (shard_id in self.shards.owned) is owned)

    async def hang_in_a_commit(self, shard_id: ShardId) -> None:
        self.logs[shard_id].goes_on.clear()
        shard = self.by_id[shard_id]
        now = Clock.now()
        # Sent in the far future: never taken for an answer to an outdated request.
        times = AnswerTimes(sent_at=math.inf, at=now, upstream_at=now, source=ME)
        shard.observe("BTC", b'{"spot_price": 1}', times)
        await self.wait_until(lambda: shard.is_publishing)

    async def call_in_group_thread(self, call: Callable[[], None]) -> None:
        loop = asyncio.get_running_loop()
        await loop.run_in_executor(self.pool, call)

    async def wait_until(self, condition: Callable[[], object]) -> None:
        async with asyncio.timeout(60):
            while not condition():  # noqa: ASYNC110 -- the shards tell nobody
                await asyncio.sleep(0)

    def owned_metric(self) -> float | None:
        registry = self.metrics.registry
        return registry.get_sample_value("gex_shards_owned", {"feed": "all"})


@pytest.fixture
async def harness() -> AsyncIterator[ShardsHarness]:
    harness = ShardsHarness()
    yield harness
    await harness.shards.close(list(harness.shards.owned), 10)
    harness.pool.shutdown()


async def test_assigned_shards_are_opened_and_polled(harness: ShardsHarness) -> None:
    await harness.assign(FIRST, SECOND)

    assert set(harness.shards.owned) == {FIRST, SECOND}
    assert set(harness.poller.polled) == {FIRST, SECOND}
    assert harness.owned_metric() == 2
    assert harness.shards.why_not_ready() == []


async def test_revoked_shards_are_closed_before_the_group_gives_them_away(
    harness: ShardsHarness,
) -> None:
    await harness.assign(FIRST, SECOND)
    await harness.call_in_group_thread(lambda: harness.shards.revoked([FIRST]))

    assert harness.by_id[FIRST].phase is Phase.CLOSED
    assert harness.by_id[SECOND].is_open
    assert harness.poller.polled == [SECOND]
    assert harness.owned_metric() == 1


async def test_lost_shards_are_given_up_at_once(harness: ShardsHarness) -> None:
    await harness.assign(FIRST, SECOND)
    harness.shards.lost([FIRST])
    await harness.wait_owned(FIRST, owned=False)
    assert harness.poller.polled == [SECOND]
    await harness.by_id[FIRST].wait_closed()


async def test_a_shard_that_does_not_close_in_time_is_abandoned(
    harness: ShardsHarness,
) -> None:
    await harness.assign(FIRST)
    shard = harness.by_id[FIRST]
    await harness.hang_in_a_commit(FIRST)
    await harness.shards.close([FIRST], timeout_seconds=0.01)

    assert shard.phase is Phase.CLOSING
    assert not shard.is_assigned
    harness.logs[FIRST].goes_on.set()
    await shard.wait_closed()


async def test_a_shard_that_comes_back_is_opened_again(harness: ShardsHarness) -> None:
    await harness.assign(FIRST)
    await harness.call_in_group_thread(lambda: harness.shards.revoked([FIRST]))
    await harness.assign(FIRST)
    assert harness.logs[FIRST].opened == 2
    assert harness.poller.polled == [FIRST]


async def test_a_shard_assigned_again_while_it_closes_is_not_abandoned(
    harness: ShardsHarness,
) -> None:
    await harness.assign(FIRST)
    await harness.hang_in_a_commit(FIRST)
    closing = asyncio.create_task(harness.shards.close([FIRST], 0.1))
    await harness.wait_owned(FIRST, owned=False)
    # The group's thread has stopped waiting, and has the shard again.
    harness.shards.assigned([FIRST])
    await closing
    harness.logs[FIRST].goes_on.set()
    await harness.wait_open(FIRST)
    assert harness.shards.why_not_ready() == []


async def test_a_shard_assigned_after_a_revocation_is_owned_though_the_loop_was_busy(
    harness: ShardsHarness, monkeypatch: pytest.MonkeyPatch
) -> None:
    await harness.assign(FIRST)
    monkeypatch.setattr(shards_module, "CLOSE_SECONDS", 0.05)

    def rebalance() -> None:
        harness.shards.revoked([FIRST])
        harness.shards.assigned([FIRST])

    group = threading.Thread(target=rebalance)
    group.start()
    # Blocks the event loop until the group's thread has given up waiting for it.
    group.join()
    await harness.wait_owned(FIRST, owned=True)
    await harness.wait_open(FIRST)
    # A late revocation would come now.
    await asyncio.sleep(0)
    assert FIRST in harness.shards.owned
    assert harness.by_id[FIRST].is_open


async def test_a_revocation_does_not_wait_for_a_stuck_event_loop(
    harness: ShardsHarness, monkeypatch: pytest.MonkeyPatch
) -> None:
    await harness.assign(FIRST)
    monkeypatch.setattr(loop_watch, "STALL_SECONDS", 0)
    # The loop does not turn between the two looks.
    harness.shards.can_serve()
    assert not harness.shards.can_serve()

    # Would wait for the event loop, which is the one of this test.
    harness.shards.revoked([FIRST])

    await harness.wait_owned(FIRST, owned=False)
    await harness.by_id[FIRST].wait_closed()
    assert harness.poller.polled == []


async def test_a_standby_says_so_once(
    harness: ShardsHarness, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)

    def lines() -> int:
        return caplog.messages.count(STANDS_BY)

    # Every rebalance calls, also those that change nothing.
    harness.shards.assigned([])
    harness.shards.assigned([])
    await harness.assign(FIRST)
    assert lines() == 1
    harness.shards.assigned([])

    await harness.call_in_group_thread(lambda: harness.shards.revoked([FIRST]))
    harness.shards.assigned([])
    await harness.wait_until(lambda: lines() == 2)


async def test_an_owned_shard_that_is_not_open_is_a_reason_not_to_be_ready(
    harness: ShardsHarness,
) -> None:
    harness.shards.assigned([FIRST])
    await harness.wait_owned(FIRST, owned=True)
    assert harness.shards.why_not_ready() == ["shard all-0 is not open"]
    await harness.wait_open(FIRST)
    assert harness.shards.why_not_ready() == []


async def test_an_unknown_partition_stops_the_worker(
    harness: ShardsHarness, caplog: pytest.LogCaptureFixture
) -> None:
    harness.shards.assigned([ShardId("all", 2)])
    await harness.supervisor.wait_stopped()
    assert harness.supervisor.exit_code == EXIT_FATAL
    assert "partitions have been added" in str(vars(caplog.records[-1])["error"])


async def test_the_end_of_the_groups_thread_stops_the_worker(
    harness: ShardsHarness,
) -> None:
    harness.shards.failed(ValueError("x"))
    await harness.supervisor.wait_stopped()
    assert harness.supervisor.exit_code == EXIT_FATAL
