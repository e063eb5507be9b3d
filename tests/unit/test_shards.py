"""The group's callbacks: which shards are opened, closed and abandoned."""

from __future__ import annotations

import asyncio
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
from connector.runtime import shards as shards_module
from connector.runtime.clock import Clock
from connector.runtime.ports import AnswerTimes, Phase, ShardContext, ShardSpec
from connector.runtime.shard import Shard
from connector.runtime.shards import Shards
from connector.runtime.startup import StartupDeadline
from connector.runtime.supervisor import Supervisor
from connector.telemetry.metrics import Metrics
from connector.telemetry.observer import MetricsObserver
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


class Bench:
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
            shard = Shard(spec, partial(self.logs.__getitem__, shard_id), context)
            self.by_id[shard_id] = shard
            self.shards.add(shard)

    async def assign(self, *shards: ShardId) -> None:
        self.shards.assigned(list(shards))
        await self.until(lambda: all(self.by_id[shard].is_open for shard in shards))

    async def hang_in_a_commit(self, shard_id: ShardId) -> None:
        self.logs[shard_id].goes_on.clear()
        shard = self.by_id[shard_id]
        now = Clock.now()
        times = AnswerTimes(math.inf, now, now, ME)
        shard.observe("BTC", b'{"spot_price": 1}', times)
        await self.until(lambda: shard.is_publishing)

    async def from_the_groups_thread(self, call: Callable[[], None]) -> None:
        await asyncio.get_running_loop().run_in_executor(self.pool, call)

    async def until(self, condition: Callable[[], object]) -> None:
        async with asyncio.timeout(10):
            while not condition():  # noqa: ASYNC110 -- the shards tell nobody
                await asyncio.sleep(0)

    def owned_metric(self) -> float | None:
        registry = self.metrics.registry
        return registry.get_sample_value("gex_shards_owned", {"feed": "all"})


@pytest.fixture
async def bench() -> AsyncIterator[Bench]:
    made = Bench()
    yield made
    await made.shards.close(list(made.shards.owned), 10)
    made.pool.shutdown()


async def test_assigned_shards_are_opened_and_polled(bench: Bench) -> None:
    await bench.assign(FIRST, SECOND)
    assert set(bench.shards.owned) == {FIRST, SECOND}
    assert set(bench.poller.polled) == {FIRST, SECOND}
    assert bench.owned_metric() == 2
    assert bench.shards.why_not_ready() == []


async def test_revoked_shards_are_closed_before_the_group_gives_them_away(
    bench: Bench,
) -> None:
    await bench.assign(FIRST, SECOND)
    await bench.from_the_groups_thread(lambda: bench.shards.revoked([FIRST]))
    assert bench.by_id[FIRST].phase is Phase.CLOSED
    assert bench.by_id[SECOND].is_open
    assert bench.poller.polled == [SECOND]
    assert bench.owned_metric() == 1


async def test_lost_shards_are_given_up_at_once(bench: Bench) -> None:
    await bench.assign(FIRST, SECOND)
    bench.shards.lost([FIRST])
    await bench.until(lambda: FIRST not in bench.shards.owned)
    assert bench.poller.polled == [SECOND]
    await bench.by_id[FIRST].wait_closed()


async def test_a_shard_that_does_not_close_in_time_is_abandoned(bench: Bench) -> None:
    await bench.assign(FIRST)
    shard = bench.by_id[FIRST]
    await bench.hang_in_a_commit(FIRST)
    await bench.shards.close([FIRST], timeout_seconds=0.01)
    assert shard.phase is Phase.CLOSING
    assert not shard.is_assigned
    bench.logs[FIRST].goes_on.set()
    await shard.wait_closed()


async def test_a_shard_that_comes_back_is_opened_again(bench: Bench) -> None:
    await bench.assign(FIRST)
    await bench.from_the_groups_thread(lambda: bench.shards.revoked([FIRST]))
    await bench.assign(FIRST)
    assert bench.logs[FIRST].opened == 2
    assert bench.poller.polled == [FIRST]


async def test_a_shard_assigned_again_while_it_closes_is_not_abandoned(
    bench: Bench,
) -> None:
    await bench.assign(FIRST)
    await bench.hang_in_a_commit(FIRST)
    closing = asyncio.create_task(bench.shards.close([FIRST], 0.1))
    await bench.until(lambda: FIRST not in bench.shards.owned)
    # The group's thread has stopped waiting, and has the shard again.
    bench.shards.assigned([FIRST])
    await closing
    bench.logs[FIRST].goes_on.set()
    await bench.until(lambda: bench.by_id[FIRST].is_open)
    assert bench.shards.why_not_ready() == []


async def test_a_shard_assigned_after_a_revocation_is_owned_though_the_loop_was_busy(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    await bench.assign(FIRST)
    monkeypatch.setattr(shards_module, "CLOSE_SECONDS", 0.05)

    def rebalance() -> None:
        bench.shards.revoked([FIRST])
        bench.shards.assigned([FIRST])

    group = threading.Thread(target=rebalance)
    group.start()
    # Blocks the event loop until the group's thread has given up waiting for it.
    group.join()
    await bench.until(lambda: bench.shards.owned and bench.by_id[FIRST].is_open)
    await asyncio.sleep(0)
    assert FIRST in bench.shards.owned
    assert bench.by_id[FIRST].is_open


async def test_an_owned_shard_that_is_not_open_is_a_reason_not_to_be_ready(
    bench: Bench,
) -> None:
    bench.shards.assigned([FIRST])
    await bench.until(lambda: FIRST in bench.shards.owned)
    assert bench.shards.why_not_ready() == ["shard all-0 is not open"]
    await bench.until(lambda: bench.by_id[FIRST].is_open)
    assert bench.shards.why_not_ready() == []


async def test_an_unknown_partition_stops_the_worker(
    bench: Bench, caplog: pytest.LogCaptureFixture
) -> None:
    bench.shards.assigned([ShardId("all", 2)])
    await bench.supervisor.wait_stopped()
    assert bench.supervisor.exit_code == EXIT_FATAL
    assert "partitions have been added" in str(vars(caplog.records[-1])["error"])


async def test_the_end_of_the_groups_thread_stops_the_worker(bench: Bench) -> None:
    bench.shards.failed(ValueError("x"))
    await bench.supervisor.wait_stopped()
    assert bench.supervisor.exit_code == EXIT_FATAL
