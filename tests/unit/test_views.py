"""The worker's views: reasons for checks, the group, troubles, and symbols of others."""

from __future__ import annotations

import asyncio
import json
import math
import time
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import pytest
from confluent_kafka import KafkaError

from connector.app.rules import rules_of
from connector.config.load import load
from connector.core.model import MICROS, Source
from connector.errors import (
    KafkaUnavailable,
    KeyRefused,
    PlanRefused,
    QuotaExhausted,
    RateLimited,
    RequestRefused,
    UpstreamError,
    UpstreamUnavailable,
)
from connector.kafka.held_back import HeldBackFinder
from connector.kafka.members import Member
from connector.kafka.names import ShardId
from connector.kafka.quarantine import Quarantined
from connector.kafka.reachability import Reachability
from connector.runtime.clock import Clock
from connector.runtime.health import Health
from connector.runtime.held_back import HeldBackWatch
from connector.runtime.kafka_watch import KafkaWatch
from connector.runtime.open_shard import OpenShard
from connector.runtime.poller import Poller
from connector.runtime.ports import Phase, PollerContext, ShardContext, ShardSpec
from connector.runtime.shard import Shard
from connector.runtime.startup import StartupDeadline
from connector.schedule.batches import Batch
from connector.schedule.checks import Outcome
from connector.schedule.symbols import ComputedTimes
from connector.telemetry.metrics import Metrics
from connector.telemetry.observer import MetricsObserver
from connector.upstream.api_key import ApiKey
from connector.upstream.budget import Budget
from connector.upstream.client import Client
from connector.web.views import StartedWorker, WorkerView
from tests.support.memory_log import MemoryLog

if TYPE_CHECKING:
    from collections.abc import Mapping

ME = Source("test", "group", "me")
SHARD = ShardId("all", 0)
BATCH = Batch("all", ("BTC", "ETH"))
SINCE = 1_800_000_000 * MICROS


class Group:
    """The consumer group as Kafka describes it, or the error of asking for it."""

    def __init__(self) -> None:
        self.members: list[Member] = []
        self.error: KafkaUnavailable | None = None
        self.questions = 0

    def list_members(self) -> tuple[Member, ...]:
        self.questions += 1
        if self.error is not None:
            raise self.error
        return tuple(self.members)


class Bench:
    """A started worker's parts. Its one shard is open, and no loop runs."""

    def __init__(self) -> None:
        variables = {"GEX_UPSTREAM__API_KEY": "demo-key", "GEX_SYMBOLS": "BTC,ETH"}
        self.config = load(None, variables)
        self.clock = Clock()
        self.health = Health(time.monotonic, Clock.now)
        self.observer = MetricsObserver(Metrics(["all"]))
        self.budget = Budget(60)
        self.pool = ThreadPoolExecutor(1)
        self.group = Group()

        self.shard = self._open_shard()
        self.shards: dict[ShardId, Shard] = {SHARD: self.shard}
        self.poller = self._new_poller()
        self.poller.cover([self.shard])
        self.live = StartedWorker(
            self.poller, self.budget, self.group.list_members, self.pool
        )
        self.reachability = Reachability(lambda: SINCE / MICROS)
        self.kafka_watch = KafkaWatch(lambda: None, self.reachability, self.pool)
        # Ready, as no check has anything to object.
        self.health.require(list)
        self.view = self._new_view()

    def _new_poller(self) -> Poller:
        upstream = self.config.upstream
        client = Client(upstream, ApiKey(upstream), self.budget)
        context = PollerContext(self.observer, self.clock, self.health, ME)
        return Poller(self.config, client, self.budget, context)

    def _open_shard(self) -> Shard:
        context = ShardContext(
            self.observer,
            self.clock,
            self.pool,
            ME,
            grace_seconds=0.0,
            polling_changed=ignore,
            startup=StartupDeadline(math.inf),
        )
        rules = rules_of(self.config.feeds[0])
        spec = ShardSpec(SHARD, rules, frozenset(BATCH.symbols))
        shard = Shard(spec, MemoryLog, context)
        # Enter the phases directly: opening a shard would need its loop.
        shard._lifecycle.enter(Phase.OPENING, None)
        shard._lifecycle.enter(
            Phase.OPEN, OpenShard(MemoryLog().open(), rules, ME, 0.0)
        )
        return shard

    def _new_view(self) -> WorkerView:
        view = WorkerView(
            self.config,
            ME,
            health=self.health,
            clock=self.clock,
            shards=self.shards,
        )
        view.live = self.live
        view.troubles.kafka = self.kafka_watch
        return view

    def schedule(self) -> Any:
        return json.loads(self.view.schedule_json())

    def batch(self) -> Any:
        [batch] = self.schedule()["batches"]
        return batch

    def reason(self) -> str:
        """Return the reason that the page gives for the next check."""
        reason: str = self.batch()["why"]
        return reason

    def status(self) -> Any:
        # Forget the cached answer.
        self.view._cached_at = -math.inf
        return json.loads(self.view.status_json())

    def start_check(self, at: float) -> None:
        self.poller.schedule.start_check(BATCH, at)

    def fail(self, error: UpstreamError) -> None:
        """Let a check of the batch fail."""
        self.poller._failures.check_failed(BATCH, error)

    def fail_check(self, at: float) -> None:
        self.start_check(at)
        self.poller.schedule.finish_check(BATCH, Outcome.FAILED, at, at)

    def answer_check(self, at: float) -> None:
        """Answer a check with refreshes of both symbols, each seen as it is computed."""
        self.start_check(at)
        computed_at = dict.fromkeys(BATCH.symbols, round(at * MICROS))
        times = ComputedTimes(computed_at, 0.0)
        self.poller.schedule.finish_check(BATCH, Outcome.ANSWERED, at, at, times)


def ignore(*_: object) -> None:
    """Do nothing about a change of the polled symbols, or about a look at Kafka."""


def member(name: str, *shards: ShardId) -> Member:
    return Member(name, "h", shards)


@pytest.fixture
async def bench() -> Bench:
    return Bench()


# --- the reason for the next check ---


async def test_the_first_check_has_its_reason(bench: Bench) -> None:
    assert bench.reason() == "the current state is not known yet"


async def test_a_request_in_progress_has_no_next_check(bench: Bench) -> None:
    bench.start_check(time.monotonic())

    batch = bench.batch()
    assert batch["why"] == "a request is in progress"
    assert batch["next_check_at"] is None


async def test_the_reason_counts_failed_checks(bench: Bench) -> None:
    bench.fail_check(time.monotonic())

    assert bench.reason() == "the previous check failed (1 in a row)"


# A single refresh is no rhythm: the second one gives its period.
async def test_an_unknown_rhythm_is_the_reason_after_a_single_refresh(
    bench: Bench,
) -> None:
    bench.answer_check(time.monotonic())

    expected = "no rhythm is known, or the next refresh is long overdue"
    assert bench.reason() == expected


async def test_the_reason_follows_the_rhythm_that_is_learnt(bench: Bench) -> None:
    now = time.monotonic()

    for refreshed_after in (0, 30, 60):
        bench.answer_check(now + refreshed_after)

    batch = bench.batch()
    refreshes = f"{batch['expected_refreshes']:.2f} refreshes"
    assert batch["purpose"] == "expected"
    assert batch["why"].startswith(f"{refreshes} are expected by then")

    rhythm = batch["symbols"][0]
    # The tolerance covers the time between the two clocks' readings.
    next_refresh = pytest.approx(Clock.now() + 90 * MICROS, abs=5 * MICROS)
    assert rhythm["period_seconds"] == pytest.approx(30)
    assert rhythm["expected_at"] == next_refresh


async def test_a_reason_that_holds_all_batches_comes_first(bench: Bench) -> None:
    schedule = bench.poller.schedule
    now = time.monotonic()

    bench.shard._lifecycle.enter(Phase.OPENING, None)
    assert bench.reason().startswith("Kafka accepts no events")

    # A pause of the upstream holds requests even after Kafka is back.
    schedule.pause(now + 100)
    assert bench.reason() == "the upstream asked not to be called before then"
    answer = bench.schedule()
    next_check_at = answer["batches"][0]["next_check_at"]
    assert answer["held_until"] == next_check_at > answer["at"]

    # An operator has to replace a refused key, so this reason comes before the others.
    schedule.pause_for_key(now + 200)
    # The same pause is for a refused plan, which another key of the user does not help.
    assert "refuses the API key, or the plan of its user" in bench.reason()


# --- the group ---


# Describing the group starts a process, which is too slow for every look at the page.
async def test_the_group_is_queried_in_the_background_and_its_answer_is_kept(
    bench: Bench,
) -> None:
    bench.group.members = [member("me"), member("other", SHARD)]
    # Nobody waits for the answer to the first question.
    unknown = {"id": "group", "members": None, "as_of": None, "error": None}
    assert bench.status()["group"] == unknown

    assert await bench.view.owner_of(SHARD) == "other"

    group = bench.status()["group"]
    assert group["as_of"] == pytest.approx(Clock.now(), abs=60 * MICROS)
    assert group["members"] == [
        {"name": "me", "host": "h", "me": True, "shards": []},
        {"name": "other", "host": "h", "me": False, "shards": ["all-0"]},
    ]
    assert await bench.view.owner_of(SHARD) == "other"
    assert bench.group.questions == 1


async def test_simultaneous_requests_share_one_question(bench: Bench) -> None:
    bench.group.members = [member("other", SHARD)]

    requests = [bench.view.owner_of(SHARD) for _ in range(5)]
    owners = await asyncio.gather(*requests)

    assert owners == ["other"] * 5
    assert bench.group.questions == 1


async def test_a_group_that_cannot_be_described_shows_the_error(bench: Bench) -> None:
    bench.group.error = KafkaUnavailable("describing the group: no answer")

    assert await bench.view.owner_of(SHARD) is None

    group = bench.status()["group"]
    assert group["members"] is None
    assert group["error"] == "describing the group: no answer"


async def test_members_of_the_past_are_shown_as_such(bench: Bench) -> None:
    bench.group.members = [member("other", SHARD)]
    await bench.view.owner_of(SHARD)
    known_at = bench.status()["group"]["as_of"]

    bench.group.error = KafkaUnavailable("describing the group: no answer")
    bench.live._queried_at = -math.inf
    # The shard may have moved meanwhile, so nobody is sent to the old owner.
    assert await bench.view.owner_of(SHARD) is None

    group = bench.status()["group"]
    assert [shown["name"] for shown in group["members"]] == ["other"]
    assert group["as_of"] == known_at
    assert group["error"] == "describing the group: no answer"


# --- the troubles ---


async def test_there_is_no_trouble_without_a_cause(bench: Bench) -> None:
    assert bench.status()["troubles"] == []


async def test_an_outage_of_kafka_is_one_trouble(bench: Bench) -> None:
    # The shards fail in consequence, which must not hide the cause.
    bench.health.require(
        lambda: [*bench.kafka_watch.why_not_ready(), "topic t is gone"]
    )
    for _ in range(2):
        bench.reachability.silent("Connection refused", 0)

    kafka, worker = bench.status()["troubles"]

    assert kafka == {
        "service": "kafka",
        "summary": "Kafka unreachable",
        "detail": "Connection refused",
        "since": SINCE,
        "failures": None,
        "next_try_at": None,
        "is_waiting": False,
        "stops_feeds": ["all"],
    }
    assert worker["service"] == "worker"
    assert worker["summary"] == "topic t is gone"


async def test_a_refused_password_is_not_called_unreachable(bench: Bench) -> None:
    reason = "Authentication failed"
    bench.reachability.failed(KafkaError(KafkaError._AUTHENTICATION, reason))
    bench.reachability.failed(KafkaError(KafkaError._ALL_BROKERS_DOWN, "all down"))

    (kafka,) = bench.status()["troubles"]

    assert kafka["summary"] == "Kafka refuses the credentials"
    assert kafka["detail"].startswith("check sasl.mechanism")
    assert reason in kafka["detail"]
    (not_ready,) = bench.kafka_watch.why_not_ready()
    assert not_ready.startswith("Kafka refuses the credentials since ")


class LostTopics:
    """Topics of which one has a fault, as the watch of them found."""

    faults: Mapping[str, str] = {"t": "topic t is gone"}

    def look(self) -> None:
        pass


async def test_a_topic_that_is_gone_is_one_trouble(bench: Bench) -> None:
    bench.health.require(lambda: ["topic t is gone", "shard all-0 is opening"])
    bench.view.troubles.topics = LostTopics()

    topic, worker = bench.status()["troubles"]

    assert (topic["service"], topic["summary"]) == ("topic", "topic t is gone")
    assert worker["summary"] == "shard all-0 is opening"


async def test_without_its_changes_nothing_of_a_feed_is_published(bench: Bench) -> None:
    lost = LostTopics()
    lost.faults = {"p.all.changes": "topic p.all.changes is gone"}
    bench.view.troubles.topics = lost

    (topic,) = bench.status()["troubles"]

    assert topic["detail"].startswith("nothing is published. Restart one worker, ")
    assert topic["stops_feeds"] == ["all"]


async def test_without_a_quarantine_events_go_on(bench: Bench) -> None:
    lost = LostTopics()
    lost.faults = {"p.quarantine": "topic p.quarantine is gone"}
    bench.view.troubles.topics = lost

    (topic,) = bench.status()["troubles"]

    assert topic["detail"].startswith("entries that cannot be used are only logged; ")
    assert topic["stops_feeds"] == []


async def test_in_an_outage_of_kafka_nobody_knows_the_faults_of_topics(
    bench: Bench,
) -> None:
    bench.health.require(bench.kafka_watch.why_not_ready)
    bench.view.troubles.topics = LostTopics()
    for _ in range(2):
        bench.reachability.silent("Connection refused", 0)

    (trouble,) = bench.status()["troubles"]

    assert trouble["service"] == "kafka"


class HeldBackPartition:
    """Offsets of a partition in which another program's transaction is open."""

    def last_stable_offset(self, topic: str, partition: int) -> int:
        del topic, partition
        return 40

    def high_watermark(self, topic: str, partition: int) -> int:
        del topic, partition
        return 45


async def test_records_that_consumers_cannot_read_are_a_trouble(bench: Bench) -> None:
    finder = HeldBackFinder(HeldBackPartition(), patience_seconds=0)
    watch = HeldBackWatch(finder, lambda: [("t", 3)], ignore, "kafka:9092", bench.pool)
    bench.view.troubles.held_back = watch

    await watch.look()
    (trouble,) = bench.status()["troubles"]

    assert trouble["service"] == "topic"
    assert trouble["summary"].startswith("consumers cannot read new records of t-3: ")
    assert "abort --topic t --partition 3 --start-offset 40" in trouble["detail"]


async def test_failed_checks_are_one_trouble_that_counts_them(bench: Bench) -> None:
    for _ in range(8):
        bench.fail(UpstreamUnavailable("HTTP 503: UPSTREAM_ERROR: down"))
    now = time.monotonic()
    bench.start_check(now)
    bench.poller.schedule.finish_check(BATCH, Outcome.FAILED, now + 100, now + 100)

    (trouble,) = bench.status()["troubles"]

    assert trouble["service"] == "api"
    assert trouble["summary"] == "HTTP 503: UPSTREAM_ERROR: down"
    assert trouble["failures"] == 8
    assert trouble["since"] == pytest.approx(Clock.now(), abs=60 * MICROS)
    assert trouble["next_try_at"] > bench.status()["at"]
    assert trouble["is_waiting"] is False

    bench.poller._failures.check_answered(BATCH)
    assert bench.status()["troubles"] == []


async def test_the_apis_own_words_are_the_detail_of_its_error(bench: Bench) -> None:
    error = RateLimited("HTTP 429: RATE_LIMITED: Too many. Try again in 9 seconds.")
    error.is_from_api = True
    bench.fail(error)

    (trouble,) = bench.status()["troubles"]

    assert trouble["summary"] == "HTTP 429: RATE_LIMITED"
    assert trouble["detail"] == "Too many. Try again in 9 seconds"


async def test_a_429_waits_until_the_api_allows_the_next_request(bench: Bench) -> None:
    bench.budget.pause(time.monotonic() + 30)
    bench.fail(RateLimited("HTTP 429: RATE_LIMITED"))

    (trouble,) = bench.status()["troubles"]

    assert trouble["summary"] == "HTTP 429: RATE_LIMITED"
    assert trouble["is_waiting"] is True
    expected = pytest.approx(Clock.now() + 30 * MICROS, abs=20 * MICROS)
    assert trouble["next_try_at"] == expected


@pytest.mark.parametrize(
    ("error", "summary"),
    [
        (KeyRefused("HTTP 401: UNAUTHORIZED"), "API key refused"),
        (PlanRefused("HTTP 403: FORBIDDEN"), "plan of the API key's user refused"),
    ],
)
async def test_a_refusal_is_one_trouble_although_it_is_a_reason_too(
    bench: Bench, error: UpstreamError, summary: str
) -> None:
    bench.health.require(bench.poller.why_not_ready)
    bench.fail(error)

    (trouble,) = bench.status()["troubles"]

    assert trouble["summary"] == summary
    assert trouble["detail"] == str(error)
    assert trouble["next_try_at"] > bench.status()["at"]
    assert len(bench.status()["worker"]["reasons"]) == 1


async def test_a_used_up_month_says_when_it_is_tried_again(bench: Bench) -> None:
    bench.fail(QuotaExhausted("HTTP 429: the cap of 10000 is used up"))
    bench.poller.schedule.pause_for_month(time.monotonic() + 1800)

    (trouble,) = bench.status()["troubles"]

    assert trouble["summary"] == "the requests of the month are used up"
    assert trouble["detail"] == "HTTP 429: the cap of 10000 is used up"
    assert trouble["is_waiting"] is True
    assert trouble["next_try_at"] > bench.status()["at"]


async def test_a_refused_symbol_is_no_trouble_of_the_api(bench: Bench) -> None:
    bench.fail(RequestRefused("HTTP 422: VALIDATION_ERROR"))

    assert bench.status()["troubles"] == []


async def test_the_failures_of_other_workers_symbols_are_forgotten(
    bench: Bench,
) -> None:
    bench.fail(UpstreamUnavailable("HTTP 503"))

    bench.poller.cover([])

    assert bench.status()["troubles"] == []


# --- the quarantine ---


async def test_quarantined_entries_are_counted_with_the_last_reason(
    bench: Bench,
) -> None:
    assert bench.status()["quarantine"] == {"entries": 0, "last": None}

    for symbol in ("BTC", "ETH"):
        entry = Quarantined(symbol, b"{}", "wrong_type", "hvl is a text", SINCE, None)
        bench.view.quarantined("all", entry)

    assert bench.status()["quarantine"] == {
        "entries": 2,
        "last": {
            "feed": "all",
            "symbol": "ETH",
            "reason": "wrong_type",
            "fault": "hvl is a text",
            "observed_at": SINCE,
        },
    }


# --- the symbols ---


async def test_a_symbol_of_another_worker_has_no_state(bench: Bench) -> None:
    bench.shards.clear()

    known_from_configuration = {"feed", "symbol", "shard", "owned"}
    for row in bench.status()["symbols"]:
        assert row["owned"] is False
        for name in row.keys() - known_from_configuration:
            assert row[name] is None, name
