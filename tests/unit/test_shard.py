"""The life of a shard and the events it makes of answers, with its log in memory."""

from __future__ import annotations

import asyncio
import contextlib
import json
import math
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from random import Random
from typing import TYPE_CHECKING, Any

import pytest
from msgspec.structs import replace

from connector.core.model import Kind, Levels, Source, Status
from connector.core.transition import FeedRules
from connector.errors import (
    AccessDenied,
    KafkaUnavailable,
    SetupError,
    ShardCorrupt,
    ShardFenced,
    Unpublishable,
)
from connector.kafka.names import ShardId
from connector.kafka.shard_log import Writer
from connector.runtime.backoff import FENCED_BACKOFF, Backoff
from connector.runtime.clock import Clock
from connector.runtime.ports import AnswerTimes, Phase, ShardContext, ShardSpec
from connector.runtime.shard import Shard
from connector.runtime.startup import StartupDeadline
from connector.telemetry.metrics import Metrics
from connector.telemetry.observer import MetricsObserver
from tests.support.memory_log import MemoryLog, MemoryTopic

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterator

    from connector.errors import KafkaError
    from connector.kafka.shard_log import Restored, Transaction

ME = Source("test", "group", "worker")
SHARD = ShardId("all", 0)
SECOND = 1_000_000
AT_ONCE = Backoff(0.001, 0.001)


class FaultyLog(MemoryLog):
    """A log whose opening can be delayed, and can fail or find another writer."""

    def __init__(self) -> None:
        super().__init__()
        self.may_open = threading.Event()
        self.may_open.set()
        self.open_error: KafkaError | None = None
        self.writer_at_next_open: Writer | None = None

    def open(self) -> Restored:
        assert self.may_open.wait(10)
        if self.open_error is not None:
            raise self.open_error
        if self.writer_at_next_open is not None:
            self.writer = self.writer_at_next_open
        return super().open()


class ExclusiveLog(MemoryLog):
    """A log that counts blocking calls made while another one is in progress."""

    def __init__(self, topic: MemoryTopic, lock: threading.Lock) -> None:
        super().__init__(topic)
        self._lock = lock
        self.overlaps = 0

    def open(self) -> Restored:
        with self._exclusively():
            return super().open()

    def publish(self, transaction: Transaction) -> None:
        with self._exclusively():
            super().publish(transaction)

    def abort(self) -> None:
        with self._exclusively():
            super().abort()

    @contextlib.contextmanager
    def _exclusively(self) -> Iterator[None]:
        if not self._lock.acquire(blocking=False):
            self.overlaps += 1
            yield
            return
        try:
            # Let the event loop run while the call is in progress.
            time.sleep(0.0005)
            yield
        finally:
            self._lock.release()


class RecordingObserver(MetricsObserver):
    """Also records the phases of the shard."""

    def __init__(self, metrics: Metrics) -> None:
        super().__init__(metrics)
        self.phases: list[Phase] = []

    def shard_changed(
        self, shard: ShardId, phase: Phase, polled: frozenset[str]
    ) -> None:
        super().shard_changed(shard, phase, polled)
        self.phases.append(phase)


class Bench:
    """A shard whose task runs, its log, and its metrics."""

    def __init__(
        self,
        startup: StartupDeadline | None = None,
        fenced_backoff: Backoff = AT_ONCE,
    ) -> None:
        self.log = FaultyLog()
        self.logs_created = 0
        self.metrics = Metrics(["all"])
        self.observer = RecordingObserver(self.metrics)
        self.pool = ThreadPoolExecutor(2)
        context = ShardContext(
            observer=self.observer,
            clock=Clock(),
            executor=self.pool,
            source=ME,
            grace_seconds=1.0,
            polling_changed=lambda: None,
            startup=startup or StartupDeadline(math.inf),
            backoff=AT_ONCE,
            fenced_backoff=fenced_backoff,
        )
        spec = ShardSpec(SHARD, FeedRules("all"), frozenset({"BTC", "ETH"}))
        self.shard = Shard(spec, self._new_log, context)
        self.task = asyncio.create_task(self.shard.run())

    def _new_log(self) -> FaultyLog:
        self.logs_created += 1
        return self.log

    async def open(self) -> None:
        self.shard.assign()
        await self.until(lambda: self.shard.is_open)

    async def close(self) -> None:
        self.shard.close()
        await self.shard.wait_closed()

    async def end(self) -> None:
        self.log.goes_on.set()
        await self.close()
        self.task.cancel()
        await asyncio.wait([self.task])
        self.pool.shutdown()

    def answer(
        self,
        answer: dict[str, Any] | bytes | Status,
        *,
        symbol: str = "BTC",
        asked_ago_seconds: float = 0.0,
        at: int | None = None,
    ) -> int | None:
        """Give an answer to the shard, complete now unless `at` says otherwise."""
        if isinstance(answer, dict):
            answer = json.dumps(answer).encode()
        if at is None:
            at = Clock.now()
        asked_at = time.monotonic() - asked_ago_seconds
        times = AnswerTimes(asked_at, at, at, ME)
        return self.shard.observe(symbol, answer, times)

    async def until(self, condition: Callable[[], object]) -> None:
        async with asyncio.timeout(10):
            while not condition():  # noqa: ASYNC110 -- the shard tells nobody
                await asyncio.sleep(0)

    async def settled(self) -> None:
        """Wait until all answers are committed, or have turned out to be no news."""
        await self.until(self._has_settled)
        await self.idle()

    def _has_settled(self) -> bool:
        is_idle = not self.shard.inbox and not self.shard.is_publishing
        return self.shard.is_open and is_idle

    async def idle(self) -> None:
        """Give every task the time to do what it can do without Kafka."""
        for _ in range(50):
            await asyncio.sleep(0)

    async def reopened(self) -> None:
        """Wait until the shard was restored a second time."""
        await self.until(lambda: self.log.opened == 2 and self.shard.is_open)

    async def publishing(self) -> None:
        """Wait until a transaction is in progress."""
        await self.until(lambda: self.shard.is_publishing)

    async def hang_in_a_commit(self, answer: dict[str, Any]) -> None:
        self.log.goes_on.clear()
        self.answer(answer)
        await self.publishing()

    def sample(self, name: str, **labels: str) -> float | None:
        return self.metrics.registry.get_sample_value(name, labels)

    def dropped(self, reason: str) -> float | None:
        name = "gex_observations_dropped_total"
        return self.sample(name, feed="all", reason=reason)

    def kinds(self) -> list[Kind]:
        return [event.kind for event in self.log.events]

    def spot_prices(self) -> list[float | None]:
        """Return the spot price of each symbol in the topic."""
        prices = []
        for state in self.log.states.values():
            if state.levels is not None:
                prices.append(state.levels.spot_price)
        return prices


@pytest.fixture
async def bench() -> AsyncIterator[Bench]:
    made = Bench()
    await made.open()
    yield made
    await made.end()


def computed(seconds_ago: int) -> dict[str, Any]:
    at = datetime.fromtimestamp(Clock.now() // SECOND - seconds_ago, UTC)
    return {"spot_price": 1, "computed_at": at.isoformat()}


# --- answers ---


async def test_an_answer_returns_when_the_newest_levels_were_computed(
    bench: Bench,
) -> None:
    newest = computed(seconds_ago=5)
    expected = datetime.fromisoformat(newest["computed_at"]).timestamp() * SECOND
    assert bench.answer({"spot_price": 1}) is None
    assert bench.answer(newest) == expected
    assert bench.answer(computed(seconds_ago=9)) == expected
    assert bench.answer(Status.MISSING) == expected


async def test_the_same_answer_makes_stale_levels_fresh_again(bench: Bench) -> None:
    bench.answer({"spot_price": 1})
    await bench.settled()
    stale = replace(bench.log.states["BTC"], status=Status.STALE)
    assert bench.shard._lifecycle.opened is not None
    bench.shard._lifecycle.opened.states["BTC"] = stale
    bench.answer({"spot_price": 1})
    await bench.settled()
    assert bench.kinds() == [Kind.SNAPSHOT, Kind.FRESH]


async def test_a_refused_entry_is_decoded_again_and_quarantined_once(
    bench: Bench,
) -> None:
    entry = computed(seconds_ago=-61)
    bench.answer(entry)
    bench.answer(entry)
    await bench.settled()
    assert bench.kinds() == []
    assert len(bench.log.quarantined) == 1
    bench.answer(entry, at=Clock.now() + 5 * SECOND)
    await bench.settled()
    assert bench.kinds() == [Kind.SNAPSHOT]


async def test_after_a_restore_the_same_answer_is_compared_again(bench: Bench) -> None:
    bench.log.errors = [Unpublishable("too large")]
    bench.answer({"spot_price": 1})
    await bench.reopened()
    bench.answer({"spot_price": 1})
    await bench.settled()
    assert bench.kinds() == [Kind.SNAPSHOT]


# --- phases ---


async def test_a_shard_opens_and_closes_in_order() -> None:
    bench = Bench()
    assert bench.shard.phase is Phase.CLOSED
    await bench.open()
    await bench.close()
    assert bench.observer.phases == [
        Phase.OPENING,
        Phase.OPEN,
        Phase.CLOSING,
        Phase.CLOSED,
    ]
    await bench.open()
    assert bench.logs_created == 2
    await bench.end()


async def test_an_assignment_that_ends_at_once_opens_nothing() -> None:
    bench = Bench()
    bench.shard.assign()
    bench.shard.close()
    await bench.shard.wait_closed()
    bench.shard.assign()
    bench.shard.abandon()
    await bench.idle()
    assert bench.log.opened == 0
    await bench.end()


async def test_a_shard_that_is_assigned_twice_is_opened_once(bench: Bench) -> None:
    bench.shard.assign()
    await bench.settled()
    assert bench.log.opened == 1


async def test_a_shard_that_is_lost_while_a_call_hangs_waits_for_it_before_it_reopens(
    bench: Bench,
) -> None:
    await bench.hang_in_a_commit({"spot_price": 1})
    bench.shard.abandon()
    bench.shard.assign()
    await bench.idle()
    assert bench.shard.phase is Phase.CLOSING
    assert bench.log.opened == 1
    bench.log.goes_on.set()
    await bench.until(lambda: bench.shard.is_open)
    assert bench.log.opened == 2
    assert bench.observer.phases[-3:] == [Phase.CLOSED, Phase.OPENING, Phase.OPEN]


async def test_a_request_during_an_assignment_that_is_never_served_is_refused(
    bench: Bench,
) -> None:
    await bench.hang_in_a_commit({"spot_price": 1})
    bench.shard.abandon()
    bench.shard.assign()
    request = bench.shard.request_snapshot("BTC")
    bench.shard.close()
    bench.log.goes_on.set()
    await bench.shard.wait_closed()
    async with asyncio.timeout(10):
        answer = await request
    assert isinstance(answer, str)
    assert "moved to another worker" in answer


async def test_a_shard_that_is_lost_while_it_is_opened_is_not_opened() -> None:
    bench = Bench()
    bench.log.may_open.clear()
    bench.shard.assign()
    await bench.until(lambda: bench.shard.phase is Phase.OPENING)
    bench.shard.abandon()
    bench.log.may_open.set()
    await bench.shard.wait_closed()
    assert Phase.OPEN not in bench.observer.phases
    await bench.end()


@pytest.mark.parametrize("seed", range(5))
async def test_calls_never_overlap_however_a_shard_comes_and_goes(seed: int) -> None:
    random = Random(seed)
    bench = Bench()
    topic, lock = MemoryTopic(), threading.Lock()
    logs: list[ExclusiveLog] = []

    def new_log() -> ExclusiveLog:
        logs.append(ExclusiveLog(topic, lock))
        return logs[-1]

    bench.shard._new_log = new_log
    inputs = [bench.shard.assign, bench.shard.assign, bench.shard.tick]
    inputs += [bench.shard.close, bench.shard.abandon]
    for number in range(100):
        random.choice(inputs)()
        for _ in range(random.randrange(300)):
            await asyncio.sleep(0)
        bench.answer({"spot_price": number, "all_expiry": {"hvl": number}})
    bench.shard.assign()
    bench.answer({"spot_price": -1})
    await bench.settled()
    bench.answer({"spot_price": -2})
    await bench.settled()
    assert len(topic.events) > 5
    assert sum(log.overlaps for log in logs) == 0
    sequences = [event.sequence for event in topic.events]
    assert sequences == list(range(1, len(sequences) + 1))
    assert topic.states["BTC"].levels == Levels(spot_price=-2.0)
    await bench.end()


async def test_an_error_that_no_retry_cures_ends_the_task_and_closes_the_shard() -> (
    None
):
    bench = Bench()
    bench.log.open_error = ShardCorrupt("a record of somebody else")
    bench.shard.assign()
    with pytest.raises(ShardCorrupt):
        await bench.task
    assert bench.shard.phase is Phase.CLOSED
    bench.pool.shutdown()


async def test_a_closed_shard_is_not_polled_and_takes_no_answers(bench: Bench) -> None:
    await bench.close()
    bench.answer({"spot_price": 1})
    assert not bench.shard.is_polled
    assert not bench.shard.inbox


@pytest.mark.parametrize(("until", "ends"), [(0.0, True), (math.inf, False)])
async def test_a_missing_right_is_retried_until_the_deadline_and_ends_the_worker_later(
    until: float, *, ends: bool
) -> None:
    bench = Bench(StartupDeadline(until))
    await bench.open()
    bench.log.errors = [AccessDenied("no right to write")]
    bench.answer({"spot_price": 1})
    if ends:
        with pytest.raises(SetupError, match="no right to write"):
            await bench.task
    else:
        await bench.until(lambda: bench.log.opened == 2)
    await bench.end()


# --- observations in hand ---


@pytest.mark.parametrize("another_has_written", [False, True])
async def test_waiting_observations_survive_a_lost_shard_unless_another_has_written(
    bench: Bench, *, another_has_written: bool
) -> None:
    bench.answer({"spot_price": 1})
    await bench.settled()
    bench.log.goes_on.clear()
    bench.log.errors = [KafkaUnavailable("away")]
    bench.answer({"spot_price": 2})
    await bench.publishing()
    bench.shard.abandon()
    bench.log.goes_on.set()
    await bench.shard.wait_closed()
    if another_has_written:
        bench.log.writer = Writer("another", "others", 99)
    await bench.open()
    await bench.settled()
    if another_has_written:
        assert (bench.spot_prices(), bench.dropped("lost")) == ([1.0], 1.0)
    else:
        assert (bench.spot_prices(), bench.dropped("lost")) == ([2.0], 0.0)


async def test_waiting_observations_survive_if_the_last_writer_was_known_before() -> (
    None
):
    bench = Bench()
    bench.log.writer = Writer("another", "group", 7)
    await bench.open()
    bench.log.errors = [KafkaUnavailable("away")]
    bench.answer({"spot_price": 2})
    await bench.reopened()
    await bench.settled()
    assert bench.spot_prices() == [2.0]
    await bench.end()


async def test_observations_in_a_hanging_commit_survive_a_lost_shard(
    bench: Bench,
) -> None:
    bench.answer({"spot_price": 1})
    await bench.settled()
    bench.log.errors = [KafkaUnavailable("away")]
    await bench.hang_in_a_commit({"spot_price": 2})
    bench.shard.abandon()
    bench.shard.assign()
    bench.log.goes_on.set()
    await bench.settled()
    assert bench.spot_prices() == [2.0]


async def test_a_lost_shard_publishes_nothing_after_the_hanging_commit(
    bench: Bench,
) -> None:
    await bench.hang_in_a_commit({"spot_price": 1})
    bench.answer({"spot_price": 2})
    bench.shard.abandon()
    bench.log.goes_on.set()
    await bench.shard.wait_closed()
    assert bench.spot_prices() == [1.0]


async def test_waiting_observations_are_committed_before_a_shard_is_handed_over(
    bench: Bench,
) -> None:
    await bench.hang_in_a_commit({"spot_price": 1})
    bench.answer({"spot_price": 2})
    bench.shard.close(0.25)
    bench.log.goes_on.set()
    await bench.shard.wait_closed()
    assert bench.log.used_fractions == [0.0, 0.25], (
        "as it was when the shard was given up"
    )
    assert bench.spot_prices() == [2.0]


async def test_an_uncommitted_observation_is_compared_with_the_restored_state(
    bench: Bench,
) -> None:
    bench.log.errors = [KafkaUnavailable("away")]
    bench.answer({"spot_price": 1})
    await bench.reopened()
    await bench.settled()
    assert bench.kinds() == [Kind.SNAPSHOT]


async def test_a_commit_whose_answer_was_lost_is_not_repeated(bench: Bench) -> None:
    bench.answer({"spot_price": 1})
    await bench.settled()
    bench.log.errors = [KafkaUnavailable("no answer")]
    bench.log.committed_all_the_same = True
    bench.answer(Status.MISSING)
    bench.answer({"spot_price": 2})
    await bench.reopened()
    await bench.settled()
    assert bench.kinds() == [Kind.SNAPSHOT, Kind.MISSING, Kind.RESTORED]
    assert bench.sample("gex_events_total", feed="all", kind="RESTORED") == 1


async def test_a_failed_commit_of_a_refresh_without_an_event_is_repeated(
    bench: Bench,
) -> None:
    bench.answer(computed(seconds_ago=9))
    await bench.settled()
    bench.log.errors = [KafkaUnavailable("away")]
    refreshed = computed(seconds_ago=8)
    bench.answer(refreshed)
    await bench.reopened()
    await bench.settled()
    computed_at = bench.log.states["BTC"].computed_at
    assert computed_at is not None
    moment = datetime.fromtimestamp(computed_at / SECOND, UTC)
    assert moment.isoformat() == refreshed["computed_at"]


async def test_an_answer_to_an_older_question_counts_if_only_this_worker_has_written(
    bench: Bench,
) -> None:
    bench.log.errors = [KafkaUnavailable("away")]
    bench.answer({"spot_price": 1})
    await bench.reopened()
    bench.answer(Status.MISSING, asked_ago_seconds=60)
    await bench.settled()
    assert bench.kinds() == [Kind.SNAPSHOT, Kind.MISSING]


# --- fencing ---


async def test_an_answer_to_an_older_question_is_ignored_if_another_has_written(
    bench: Bench, caplog: pytest.LogCaptureFixture
) -> None:
    bench.log.errors = [ShardFenced("another")]
    bench.log.writer = Writer("another", "others", 99)
    bench.answer({"spot_price": 1})
    await bench.reopened()
    assert "another fleet uses these topics" in caplog.text
    bench.answer(Status.MISSING, asked_ago_seconds=60)
    await bench.settled()
    assert bench.kinds() == []
    bench.answer(Status.MISSING)
    await bench.settled()
    assert bench.kinds() == [Kind.MISSING]


async def test_a_fenced_shard_takes_no_answers_until_it_is_open_again() -> None:
    bench = Bench(fenced_backoff=Backoff(60, 60))
    await bench.open()
    bench.log.errors = [ShardFenced("another")]
    bench.answer({"spot_price": 1})
    await bench.until(lambda: not bench.shard.is_polled)
    assert bench.shard.phase is Phase.OPENING
    assert bench.shard.inbox.clear() == 1
    bench.answer({"spot_price": 1})
    assert not bench.shard.inbox
    assert bench.kinds() == []
    await bench.end()


def test_a_fenced_shard_backs_off_two_heartbeats_at_least_and_doubles() -> None:
    backoff = FENCED_BACKOFF
    assert backoff.first_seconds >= 2 * 1.5
    for _ in range(100):
        assert 3.0 <= backoff.pause_seconds(1) <= 4.5
        assert 6.0 <= backoff.pause_seconds(2) <= 9.0
        assert 30.0 <= backoff.pause_seconds(5_000) <= 45.0


# --- records that the broker refuses ---


async def test_a_refused_record_is_given_up_and_the_shard_continues(
    bench: Bench,
) -> None:
    bench.log.errors = [Unpublishable("too large")]
    bench.answer({"spot_price": 1})
    await bench.reopened()
    bench.answer({"spot_price": 2})
    await bench.settled()
    prices = [event.after.spot_price for event in bench.log.events if event.after]
    assert prices == [2.0]


async def test_a_refused_record_takes_no_other_symbol_along(bench: Bench) -> None:
    bench.log.errors = [Unpublishable("too large"), Unpublishable("too large")]
    bench.answer({"spot_price": 1})
    bench.answer({"spot_price": 2}, symbol="ETH")
    await bench.until(lambda: bench.log.opened == 3)
    await bench.settled()
    [event] = bench.log.events
    assert (event.symbol, event.kind) == ("ETH", Kind.SNAPSHOT)
    assert bench.dropped("unpublishable") == 1


async def test_a_refused_snapshot_takes_no_observation_along(bench: Bench) -> None:
    bench.answer({"spot_price": 1})
    await bench.settled()
    bench.log.errors = [Unpublishable("too large")]
    request = bench.shard.request_snapshot("BTC")
    bench.answer({"spot_price": 2}, symbol="ETH")
    assert "too large" in str(await request)
    await bench.reopened()
    await bench.settled()
    assert [event.symbol for event in bench.log.events] == ["BTC", "ETH"]
    assert bench.dropped("unpublishable") == 0


# --- readiness ---


async def test_a_shard_is_stuck_while_it_is_not_open_or_a_commit_is_slow(
    bench: Bench,
) -> None:
    found = [(bench.shard.is_stuck, bench.shard.why_not_ready())]
    bench.shard._publisher._started_at = time.monotonic() - 6
    found.append((bench.shard.is_stuck, bench.shard.why_not_ready()))
    bench.shard._publisher._started_at = None
    await bench.close()
    found.append((bench.shard.is_stuck, bench.shard.why_not_ready()))
    assert found == [
        (False, None),
        (True, "shard all-0 has been committing for 6 s"),
        (True, "shard all-0 is not open"),
    ]


# --- snapshots ---


async def test_requests_for_a_snapshot_share_one_event_with_the_latest_levels(
    bench: Bench,
) -> None:
    bench.answer({"spot_price": 1, "all_expiry": {"hvl": 5}})
    await bench.settled()
    bench.answer({"spot_price": 1, "all_expiry": {"hvl": 5}, "new": "no difference"})
    await bench.settled()
    request = bench.shard.request_snapshot("BTC")
    assert bench.shard.request_snapshot("BTC") is request
    event = await request
    assert bench.log.events[1:] == [event]
    assert not isinstance(event, str)
    assert (event.kind, event.status) == (Kind.SNAPSHOT, Status.LIVE)
    assert (event.sequence, event.reason) == (2, "asked")
    assert event.after is not None
    assert event.after.extra == '{"new":"no difference"}'
    state = bench.log.states["BTC"]
    assert (event.after, state.published, state.sequence) == (state.levels, None, 2)
    bench.answer({"spot_price": 1, "all_expiry": {"hvl": 6}})
    await bench.settled()
    assert bench.kinds() == [Kind.SNAPSHOT, Kind.SNAPSHOT, Kind.CHANGED]


async def test_a_snapshot_follows_the_observations_of_its_transaction(
    bench: Bench,
) -> None:
    bench.answer({"spot_price": 1})
    await bench.settled()
    bench.log.goes_on.clear()
    bench.answer({"spot_price": 1}, symbol="ETH")
    await bench.publishing()
    bench.answer({"spot_price": 1, "all_expiry": {"hvl": 6}})
    request = bench.shard.request_snapshot("BTC")
    bench.log.goes_on.set()
    event = await request
    assert not isinstance(event, str)
    assert bench.kinds()[2:] == [Kind.CHANGED, Kind.SNAPSHOT]
    assert event.after == bench.log.events[2].after


@pytest.mark.parametrize("committed", [True, False])
async def test_a_snapshot_whose_commit_is_unknown_is_published_once(
    bench: Bench, *, committed: bool
) -> None:
    bench.answer({"spot_price": 1})
    await bench.settled()
    bench.log.errors = [KafkaUnavailable("time-out")]
    bench.log.committed_all_the_same = committed
    event = await bench.shard.request_snapshot("BTC")
    await bench.settled()
    assert not isinstance(event, str)
    assert event.sequence == 2
    published = [(event.kind, event.sequence) for event in bench.log.events]
    assert published == [(Kind.SNAPSHOT, 1), (Kind.SNAPSHOT, 2)]


async def test_a_snapshot_is_not_repeated_after_another_worker_has_written(
    bench: Bench,
) -> None:
    bench.answer({"spot_price": 1})
    await bench.settled()
    bench.log.goes_on.clear()
    bench.log.errors = [ShardFenced("another")]
    bench.log.committed_all_the_same = True
    request = bench.shard.request_snapshot("BTC")
    await bench.publishing()
    bench.log.writer_at_next_open = Writer("another", "group", 99)
    bench.log.goes_on.set()
    assert "see the topic `changes`" in str(await request)
    await bench.settled()
    assert len(bench.log.events) == 2


async def test_a_refused_snapshot_is_given_up(bench: Bench) -> None:
    bench.answer({"spot_price": 1})
    await bench.settled()
    bench.log.errors = [Unpublishable("too large")]
    assert "too large" in str(await bench.shard.request_snapshot("BTC"))
    await bench.settled()
    assert len(bench.log.events) == 1


async def test_a_snapshot_of_a_lost_shard_is_answered(bench: Bench) -> None:
    bench.answer({"spot_price": 1})
    await bench.settled()
    bench.log.goes_on.clear()
    request = bench.shard.request_snapshot("BTC")
    await bench.publishing()
    bench.shard.abandon()
    assert "another worker" in str(await request)
    assert "another worker" in str(await bench.shard.request_snapshot("ETH"))
    bench.log.goes_on.set()


async def test_a_snapshot_without_levels_is_refused_with_the_reason(
    bench: Bench,
) -> None:
    assert "has not been observed" in str(await bench.shard.request_snapshot("BTC"))
    bench.answer(Status.MISSING)
    await bench.settled()
    assert "it is MISSING" in str(await bench.shard.request_snapshot("BTC"))
