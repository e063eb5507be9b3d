"""The poller while the requests of the month are used up."""

from __future__ import annotations

import asyncio
import logging
import time
from typing import TYPE_CHECKING, cast

import pytest

from connector.config.load import load
from connector.core.decode import Quota, RateLimit
from connector.core.model import Source
from connector.errors import KeyRefused, PlanRefused, UpstreamError, UpstreamUnavailable
from connector.kafka.names import ShardId
from connector.runtime.clock import Clock
from connector.runtime.health import Health
from connector.runtime.poller import Poller
from connector.runtime.ports import BudgetReport, PollerContext
from connector.schedule.batches import Batch
from connector.schedule.freshness import Freshness
from connector.telemetry.metrics import Metrics
from connector.telemetry.observer import MetricsObserver
from connector.upstream.api_key import ApiKey
from connector.upstream.budget import Budget
from connector.upstream.client import Client

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from connector.runtime.shard import Shard


class OneShard:
    """As much of a shard as a poller needs that sends no requests."""

    id = ShardId("all", 0)
    symbols = frozenset({"BTC"})
    restored = None
    # No request leaves, since nothing could be published.
    is_stuck = True

    @staticmethod
    def state_of(_: str) -> None:
        """Return no state: nothing is known of the symbol."""


class Bench:
    """A poller, the shards it covers, none at first, and the budget it follows."""

    def __init__(self) -> None:
        config = load(None, {"GEX_UPSTREAM__API_KEY": "demo-key", "GEX_SYMBOLS": "BTC"})
        self.shards: list[OneShard] = []
        self.budget = Budget(None)
        self.metrics = Metrics(["all"])
        self.client = Client(config.upstream, ApiKey(config.upstream), self.budget)
        context = PollerContext(
            MetricsObserver(self.metrics),
            Clock(),
            Health(time.monotonic, Clock.now),
            Source("1", "group", "worker"),
        )
        self.poller = Poller(config, self.client, self.budget, context)

    def learn(self, remaining: int, limit: int = 10_000) -> None:
        """Take the figures of an answer from now."""
        now = time.monotonic()
        permit = self.budget.start(now)
        self.budget.end(now)
        quota = Quota(limit, limit - remaining, remaining, None)
        self.budget.learn_month(permit, quota, time.time(), now)

    def learn_limit(self, limit: int) -> None:
        """Take the figures of a minute in which nothing was sent before."""
        now = time.monotonic()
        permit = self.budget.start(now)
        self.budget.end(now)
        figures = RateLimit(limit, limit, time.time() + 60)
        self.budget.learn(permit, figures, time.time(), now)

    def is_held(self) -> bool:
        """Return True if the month holds all checks."""
        return self.poller.schedule.month_paused_until > time.monotonic()

    def sample(self, name: str) -> float | None:
        return self.metrics.registry.get_sample_value(name)

    def exhausted_metric(self) -> float | None:
        return self.sample("gex_quota_exhausted")

    async def follow(self) -> None:
        """Let the poller take one turn."""
        self.poller.cover(cast("list[Shard]", self.shards))
        # A pause, so that no first check leaves.
        self.poller.schedule.pause(time.monotonic() + 60)
        turn = asyncio.create_task(self.poller.run())
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        turn.cancel()
        await asyncio.wait([turn])


@pytest.fixture
async def bench() -> AsyncIterator[Bench]:
    bench = Bench()
    yield bench
    await bench.client.close()


async def test_a_used_up_month_holds_every_check_until_there_is_more(
    bench: Bench, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    bench.shards = [OneShard()]
    # The last request of the month was answered well.
    bench.learn(remaining=0)
    await bench.follow()
    await bench.follow()

    assert bench.is_held()
    assert bench.exhausted_metric() == 1
    assert caplog.text.count("the month's requests are used up") == 1

    bench.learn(remaining=5_000)
    await bench.follow()

    assert not bench.is_held()
    assert bench.exhausted_metric() == 0
    assert "the month has requests again" in caplog.text


async def test_a_new_key_is_tried_at_once_although_the_month_is_used_up(
    bench: Bench,
) -> None:
    bench.learn(remaining=0)
    await bench.follow()
    assert bench.is_held()

    bench.poller.key_changed()
    await bench.follow()

    assert not bench.is_held()
    assert not bench.budget.spending(time.monotonic()).month.is_used_up


async def test_a_new_key_ends_the_pause_of_the_refused_one(bench: Bench) -> None:
    now = time.monotonic()
    bench.poller.schedule.pause_for_key(now + 60)
    bench.poller._failures.quota_message = "the month of the previous user"

    bench.poller.key_changed()

    assert not bench.poller.schedule.is_paused(now)
    assert bench.poller.quota_message is None


@pytest.mark.parametrize(
    ("remaining", "error", "reason"),
    [
        # The last check was answered, and the next one has to wait.
        (5_000, None, "budget"),
        (5_000, UpstreamUnavailable("HTTP 503"), "no_answer"),
        (5_000, KeyRefused("HTTP 401"), "key"),
        (5_000, PlanRefused("HTTP 403"), "plan"),
        (0, None, "quota"),
        (0, UpstreamUnavailable("HTTP 503"), "quota"),
    ],
)
async def test_the_poller_knows_why_a_symbol_has_had_no_answer(
    bench: Bench, remaining: int, error: UpstreamError | None, reason: str
) -> None:
    bench.learn(remaining)
    bench.shards = [OneShard()]
    await bench.follow()
    if error is not None:
        bench.poller._failures.check_failed(Batch("all", ("BTC",)), error)

    assert bench.poller.silence_reason("all", "BTC") == reason


@pytest.mark.parametrize(("limit", "is_warned"), [(1, True), (60, False)])
async def test_a_budget_that_cannot_keep_levels_fresh_is_warned_of_once(
    bench: Bench, caplog: pytest.LogCaptureFixture, limit: int, is_warned: bool
) -> None:
    bench.shards = [OneShard()]
    bench.learn_limit(limit)
    await bench.follow()
    # Until the first answer, the limit of the server is not known.
    assert "the budget cannot keep all levels fresh" not in caplog.text

    keeps_fresh = bench.poller.plan_keeps_fresh("all")
    await bench.follow()
    await bench.follow()

    assert keeps_fresh is not is_warned
    warnings = caplog.text.count("the budget cannot keep all levels fresh")
    assert warnings == (1 if is_warned else 0)


async def test_a_budget_is_reported_when_it_changes(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    reports: list[BudgetReport] = []

    def keep(_: MetricsObserver, report: BudgetReport) -> None:
        reports.append(report)

    monkeypatch.setattr(MetricsObserver, "budget_changed", keep)
    bench.shards = [OneShard()]
    bench.learn_limit(1)
    for _ in range(3):
        bench.poller._budget_watch.update()
    assert len(reports) == 1

    bench.learn_limit(60)
    bench.poller._budget_watch.update()
    assert [report.limit_per_minute for report in reports] == [1, 60]


@pytest.mark.parametrize(("limit", "is_kept"), [(10_000, False), (1_000_000, True)])
async def test_a_used_up_month_is_judged_as_the_next_one(
    bench: Bench, limit: int, *, is_kept: bool
) -> None:
    bench.shards = [OneShard()]
    bench.learn(0, limit)
    await bench.follow()

    # Spread over a month, 10,000 requests are one in four minutes.
    assert bench.poller.plan_keeps_fresh("all") is is_kept


async def test_levels_that_become_stale_show_that_the_budget_was_too_small(
    bench: Bench,
) -> None:
    bench.shards = [OneShard()]
    bench.learn_limit(1)
    # The planned 67 s are little less than the 70 s that keep such levels fresh.
    bench.poller._fresh_plan._feeds["all"] = Freshness(stale_after_seconds=100.0)
    await bench.follow()
    assert bench.poller.plan_keeps_fresh("all")

    assert bench.poller.silence_reason("all", "BTC") == "budget"
    bench.poller._budget_watch.update()

    assert not bench.poller.plan_keeps_fresh("all")


async def test_other_symbols_are_judged_by_the_plan_that_covers_them(
    bench: Bench,
) -> None:
    bench.learn_limit(1)
    # Before this worker polls anything, any budget is enough.
    assert bench.poller.plan_keeps_fresh("all")

    bench.shards = [OneShard()]
    await bench.follow()

    assert not bench.poller.plan_keeps_fresh("all")


async def test_a_request_on_its_way_makes_no_upstream_silent_if_the_plan_is_slow(
    bench: Bench,
) -> None:
    bench.shards = [OneShard()]
    bench.learn_limit(1)
    await bench.follow()
    checker = bench.poller._checker
    checker._on_the_way["all", "BTC"] += 1
    assert bench.poller.silence_reason("all", "BTC") == "no_answer"

    # The levels are old because nobody has asked until now.
    bench.poller.plan_keeps_fresh("all")
    assert bench.poller.silence_reason("all", "BTC") == "budget"


async def test_a_standby_is_not_held_responsible_for_a_used_up_month(
    bench: Bench,
) -> None:
    bench.learn(remaining=0)
    await bench.follow()

    # It sends no requests, so it would never find out that there are more.
    assert not bench.poller.quota_exhausted
    assert bench.exhausted_metric() == 0


async def test_the_last_worker_to_own_shards_does_not_raise_the_alarm_for_ever(
    bench: Bench,
) -> None:
    bench.shards = [OneShard()]
    bench.learn(remaining=0)
    await bench.follow()
    assert bench.sample("gex_quota_remaining") == 0

    bench.shards = []
    await bench.follow()

    assert bench.exhausted_metric() == 0
    assert bench.sample("gex_quota_remaining") is None
