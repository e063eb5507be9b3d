"""The worker's views: the reason for the next check, the group, and symbols of other workers."""

from __future__ import annotations

import asyncio
import json
import math
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from connector.app import rules_of
from connector.config.load import load
from connector.core.model import MICROS, Source
from connector.errors import KafkaUnavailable
from connector.kafka.members import Member
from connector.kafka.names import ShardId
from connector.runtime.clock import Clock
from connector.runtime.health import Health
from connector.runtime.open_shard import OpenShard
from connector.runtime.poller import Poller
from connector.runtime.ports import Phase, PollerContext, ShardContext, ShardSpec
from connector.runtime.shard import Shard
from connector.runtime.startup import StartupDeadline
from connector.schedule.batches import Batch
from connector.schedule.scheduler import Outcome
from connector.schedule.symbols import ComputedTimes
from connector.telemetry.metrics import Metrics
from connector.telemetry.observer import MetricsObserver
from connector.upstream.api_key import ApiKey
from connector.upstream.budget import Budget
from connector.upstream.client import Client
from connector.web.views import StartedWorker, WorkerView
from tests.support.memory_log import MemoryLog

ME = Source("test", "group", "me")
SHARD = ShardId("all", 0)
BATCH = Batch("all", ("BTC", "ETH"))


class Bench:
    """A started worker's parts. Its one shard is open, and no loop runs."""

    def __init__(self) -> None:
        variables = {"GEX_UPSTREAM__API_KEY": "demo-key", "GEX_SYMBOLS": "BTC,ETH"}
        config = load(None, variables)
        health = Health(time.monotonic, Clock.now)
        clock = Clock()
        observer = MetricsObserver(Metrics(["all"]))
        budget = Budget(60)
        client = Client(config.upstream, ApiKey(config.upstream), budget)
        polling = PollerContext(observer, clock, health, ME)
        self.poller = Poller(config, client, budget, polling)
        self.pool = ThreadPoolExecutor(1)
        self.members: list[Member] | KafkaUnavailable = []
        self.questions = 0
        context = ShardContext(
            observer,
            clock,
            self.pool,
            ME,
            grace_seconds=0.0,
            polling_changed=lambda: None,
            startup=StartupDeadline(math.inf),
        )
        rules = rules_of(config.feeds[0])
        spec = ShardSpec(SHARD, rules, frozenset(BATCH.symbols))
        self.shard = Shard(spec, MemoryLog, context)
        opened = OpenShard(MemoryLog().open(), rules, ME, 0.0)
        self.shard._enter(Phase.OPENING, None)
        self.shard._enter(Phase.OPEN, opened)
        self.shards: dict[ShardId, Shard] = {SHARD: self.shard}
        self.view = WorkerView(
            config, ME, health=health, clock=clock, shards=self.shards
        )
        self.view.live = StartedWorker(
            self.poller, budget, self._list_members, self.pool
        )
        self.poller.cover([self.shard])

    def _list_members(self) -> tuple[Member, ...]:
        self.questions += 1
        if isinstance(self.members, KafkaUnavailable):
            raise self.members
        return tuple(self.members)

    def schedule(self) -> Any:
        return json.loads(self.view.schedule_json())

    def batch(self) -> Any:
        [batch] = self.schedule()["batches"]
        return batch

    def status(self) -> Any:
        self.view._cached_at = -math.inf
        return json.loads(self.view.status_json())

    def answer(self, *moments: float) -> None:
        """Answer checks with refreshes of both symbols, each seen as it is computed."""
        for at in moments:
            self.poller.schedule.start_check(BATCH, at)
            computed_at = dict.fromkeys(BATCH.symbols, round(at * MICROS))
            times = ComputedTimes(computed_at, 0.0)
            self.poller.schedule.finish_check(BATCH, Outcome.ANSWERED, at, at, times)


@pytest.fixture
async def bench() -> Bench:
    return Bench()


async def test_the_first_check_has_its_reason(bench: Bench) -> None:
    assert bench.batch()["why"] == "the current state is not known yet"


async def test_a_request_in_progress_has_no_next_check(bench: Bench) -> None:
    bench.poller.schedule.start_check(BATCH, time.monotonic())
    assert bench.batch()["why"] == "a request is in progress"
    assert bench.batch()["next_check_at"] is None


async def test_the_reason_counts_failed_checks(bench: Bench) -> None:
    now = time.monotonic()
    bench.poller.schedule.start_check(BATCH, now)
    bench.poller.schedule.finish_check(BATCH, Outcome.FAILED, now, now)
    assert bench.batch()["why"] == "the previous check failed (1 in a row)"


async def test_the_reason_follows_the_rhythm_that_is_learnt(bench: Bench) -> None:
    now = time.monotonic()
    bench.answer(now)
    reason = "no rhythm is known, or the next refresh is long overdue"
    assert bench.batch()["why"] == reason

    bench.answer(now + 30, now + 60)
    batch = bench.batch()
    expected = f"{batch['expected_refreshes']:.2f} refreshes are expected by then"
    assert batch["purpose"] == "expected"
    assert batch["why"].startswith(expected)

    rhythm = batch["symbols"][0]
    next_refresh = pytest.approx(Clock.now() + 90 * MICROS, abs=5 * MICROS)
    assert rhythm["period_seconds"] == pytest.approx(30)
    assert rhythm["expected_at"] == next_refresh


async def test_a_reason_that_holds_all_batches_comes_first(bench: Bench) -> None:
    schedule = bench.poller.schedule
    now = time.monotonic()
    bench.shard._enter(Phase.OPENING, None)
    assert bench.batch()["why"].startswith("Kafka accepts no events")

    schedule.pause(now + 100)
    assert bench.batch()["why"] == "the upstream asked not to be called before then"
    answer = bench.schedule()
    next_check_at = answer["batches"][0]["next_check_at"]
    assert answer["held_until"] == next_check_at > answer["at"]

    schedule.pause_for_key(now + 200)
    assert "refuses the API key" in bench.batch()["why"]


async def test_the_group_is_queried_in_the_background_and_its_answer_is_kept(
    bench: Bench,
) -> None:
    bench.members = [
        Member("me", "h", ()),
        Member("other", "h", (SHARD,)),
    ]
    unknown = {"id": "group", "members": None, "error": None}
    assert bench.status()["group"] == unknown

    assert await bench.view.owner_of(SHARD) == "other"
    members = bench.status()["group"]["members"]
    assert members == [
        {"name": "me", "host": "h", "me": True, "shards": []},
        {"name": "other", "host": "h", "me": False, "shards": ["all-0"]},
    ]
    assert await bench.view.owner_of(SHARD) == "other"
    assert bench.questions == 1


async def test_simultaneous_requests_share_one_question(bench: Bench) -> None:
    bench.members = [Member("other", "h", (SHARD,))]
    requests = [bench.view.owner_of(SHARD) for _ in range(5)]
    assert await asyncio.gather(*requests) == ["other"] * 5
    assert bench.questions == 1


async def test_a_group_that_cannot_be_described_shows_the_error(bench: Bench) -> None:
    bench.members = KafkaUnavailable("describing the group: no answer")
    assert await bench.view.owner_of(SHARD) is None
    group = bench.status()["group"]
    assert group["members"] is None
    assert group["error"] == "describing the group: no answer"


async def test_a_symbol_of_another_worker_has_no_state(bench: Bench) -> None:
    bench.shards.clear()
    known = {"feed", "symbol", "shard", "owned"}
    for row in bench.status()["symbols"]:
        assert row["owned"] is False
        for name in row.keys() - known:
            assert row[name] is None, name
