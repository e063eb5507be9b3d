"""What is said of a worker: why the next check is when it is, and who else is in the group."""

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
from connector.runtime.ports import Phase, ShardContext, ShardSpec
from connector.runtime.shard import Shard
from connector.runtime.startup import StartupDeadline
from connector.schedule.batches import Batch
from connector.schedule.scheduler import ComputedTimes, Outcome
from connector.telemetry.metrics import Metrics
from connector.telemetry.observer import MetricsObserver
from connector.upstream.api_key import ApiKey
from connector.upstream.budget import Budget
from connector.upstream.client import Client
from connector.web.views import LiveView, WorkerView
from tests.support.memory_log import MemoryLog

ME = Source("test", "group", "me")
SHARD = ShardId("all", 0)
BATCH = Batch("all", ("BTC", "ETH"))


class Bench:
    """A worker's parts as after its start; its one shard is open, and nothing runs."""

    def __init__(self) -> None:
        config = load(
            None, {"GEX_UPSTREAM__API_KEY": "demo-key", "GEX_SYMBOLS": "BTC,ETH"}
        )
        health, clock = Health(time.monotonic, Clock.now), Clock()
        observer = MetricsObserver(Metrics(["all"]))
        budget, key = Budget(60), ApiKey(config.upstream)
        client = Client(config.upstream, key, budget)
        self.poller = Poller(
            config, (client, key, budget), (observer, clock, health), ME
        )
        self.pool = ThreadPoolExecutor(1)
        self.members: list[Member] | KafkaUnavailable = []
        self.asked = 0
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
        self.status = WorkerView(
            config, ME, health=health, clock=clock, shards=self.shards
        )
        self.status.live = LiveView(self.poller, budget, self._ask, self.pool)
        self.poller.cover([self.shard])

    def _ask(self) -> tuple[Member, ...]:
        self.asked += 1
        if isinstance(self.members, KafkaUnavailable):
            raise self.members
        return tuple(self.members)

    def batch(self) -> Any:
        [found] = json.loads(self.status.schedule_json())["batches"]
        return found

    def answered(self, *moments: float) -> None:
        """Refreshes of both symbols at these moments, each shown at once."""
        for at in moments:
            self.poller.schedule.started(BATCH)
            dates = dict.fromkeys(BATCH.symbols, round(at * MICROS))
            self.poller.schedule.finished(
                BATCH, Outcome.ANSWERED, at, at, ComputedTimes(dates, 0.0)
            )


@pytest.fixture
async def bench() -> Bench:
    return Bench()


async def test_why_a_check_is_when_it_is_follows_what_is_known(bench: Bench) -> None:
    now, schedule = time.monotonic(), bench.poller.schedule
    assert bench.batch()["why"] == "the current state is not known yet"
    schedule.started(BATCH)
    assert (bench.batch()["why"], bench.batch()["next_check_at"]) == (
        "a request is in progress",
        None,
    )
    schedule.finished(BATCH, Outcome.FAILED, now, now)
    assert bench.batch()["why"] == "the previous check failed (1 in a row)"
    bench.answered(now)
    assert (
        bench.batch()["why"]
        == "no rhythm is known, or the next refresh is long overdue"
    )
    bench.answered(now + 30, now + 60)
    batch = bench.batch()
    assert batch["purpose"] == "expected"
    assert batch["why"].startswith(
        f"{batch['expected_refreshes']:.2f} refreshes are expected by then"
    )
    assert batch["symbols"][0]["period_seconds"] == pytest.approx(30)
    assert batch["symbols"][0]["expected_at"] == pytest.approx(
        Clock.now() + 90 * MICROS, abs=5 * MICROS
    )


async def test_what_holds_all_batches_is_the_reason_while_it_does(bench: Bench) -> None:
    schedule, now = bench.poller.schedule, time.monotonic()
    bench.shard._enter(Phase.OPENING, None)
    assert bench.batch()["why"].startswith("Kafka accepts no events")
    schedule.hold(now + 100)
    said = json.loads(bench.status.schedule_json())
    assert bench.batch()["why"] == "the upstream asked not to be called before then"
    assert said["held_until"] == said["batches"][0]["next_check_at"] > said["at"]
    schedule.hold_for_key(now + 200)
    assert "refuses the API key" in bench.batch()["why"]


async def test_the_group_is_asked_in_the_background_and_not_by_every_look(
    bench: Bench,
) -> None:
    bench.members = [Member("me", "h", ()), Member("other", "h", (SHARD,))]
    assert json.loads(bench.status.status_json())["group"] == {
        "id": "group",
        "members": None,
        "error": None,
    }
    assert await bench.status.owner_of(SHARD) == "other"
    bench.status._cached_at = float("-inf")
    shown = json.loads(bench.status.status_json())["group"]["members"]
    assert [(one["name"], one["me"], one["shards"]) for one in shown] == [
        ("me", True, []),
        ("other", False, ["all-0"]),
    ]
    assert await bench.status.owner_of(SHARD) == "other"
    assert bench.asked == 1


async def test_looks_at_the_same_time_share_one_question(bench: Bench) -> None:
    bench.members = [Member("other", "h", (SHARD,))]
    owners = await asyncio.gather(*(bench.status.owner_of(SHARD) for _ in range(5)))
    assert owners == ["other"] * 5
    assert bench.asked == 1


async def test_a_group_that_cannot_be_asked_is_said_to_be(bench: Bench) -> None:
    bench.members = KafkaUnavailable("describing the group: no answer")
    assert await bench.status.owner_of(SHARD) is None
    shown = json.loads(bench.status.status_json())["group"]
    assert shown == {
        "id": "group",
        "members": None,
        "error": "describing the group: no answer",
    }


async def test_what_the_shard_of_another_worker_holds_is_not_known(
    bench: Bench,
) -> None:
    bench.shards.clear()
    rows = json.loads(bench.status.status_json())["symbols"]
    unknown = {
        "status",
        "sequence",
        "computed_at",
        "observed_at",
        "changed_at",
        "next_check_at",
    }
    assert all(row[name] is None for row in rows for name in unknown)
    assert [row["owned"] for row in rows] == [False, False]
