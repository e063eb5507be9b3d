"""The life of a shard and the events it makes of answers, with its log in memory."""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import math
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from random import Random
from typing import TYPE_CHECKING, Any

import pytest
from msgspec.structs import replace

from connector.core.model import MICROS, Kind, Levels, Source, Status
from connector.core.transition import FeedRules
from connector.errors import (
    AccessDenied,
    KafkaUnavailable,
    SetupError,
    ShardCorrupt,
    ShardFenced,
    TimeRefused,
    Unpublishable,
)
from connector.kafka.names import ShardId
from connector.kafka.restore import Stray
from connector.kafka.shard_log import Writer
from connector.runtime.backoff import FENCED_BACKOFF, Backoff
from connector.runtime.clock import Clock
from connector.runtime.inbox import MAX_WAITING
from connector.runtime.ports import AnswerTimes, Phase, ShardContext, ShardSpec
from connector.runtime.shard import Shard
from connector.runtime.startup import StartupDeadline
from connector.telemetry.metrics import Metrics
from connector.telemetry.observer import MetricsObserver
from tests.support.memory_log import MemoryLog, MemoryTopic
from tests.support.wall_clock import set_clock

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Collection, Iterator

    from connector.errors import KafkaError
    from connector.kafka.quarantine import Quarantined
    from connector.kafka.shard_log import Restored, Transaction

ME = Source("test", "group", "worker")
SHARD = ShardId("all", 0)
SECOND_MICROS = 1_000_000
REFUSED = "the broker refuses a record; going on without it"
# No test waits for a pause before the next attempt.
AT_ONCE = Backoff(first_seconds=0.001, max_seconds=0.001)


class FaultyLog(MemoryLog):
    """A log whose opening can be delayed, and can fail or find another writer."""

    def __init__(self) -> None:
        super().__init__()
        self.may_open = threading.Event()
        self.may_open.set()
        self.open_error: KafkaError | None = None
        self.writer_at_next_open: Writer | None = None

    def open(self, symbols: Collection[str] = ()) -> Restored:
        assert self.may_open.wait(60)
        if self.open_error is not None:
            raise self.open_error
        if self.writer_at_next_open is not None:
            self.writer = self.writer_at_next_open
        return super().open(symbols)


class ExclusiveLog(MemoryLog):
    """A log that counts blocking calls harness while another one is in progress."""

    def __init__(self, topic: MemoryTopic, lock: threading.Lock) -> None:
        super().__init__(topic)
        self._lock = lock
        self.overlaps = 0

    def open(self, symbols: Collection[str] = ()) -> Restored:
        with self._exclusively():
            return super().open(symbols)

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


class ShardHarness:
    """A shard whose task runs, its log, and its metrics."""

    def __init__(
        self,
        startup: StartupDeadline | None = None,
        fenced_backoff: Backoff = AT_ONCE,
    ) -> None:
        self.log = FaultyLog()
        self.logs_created = 0
        self.quarantined: list[Quarantined] = []
        self.is_clock_wrong = False
        self.before_comparison: Callable[[], None] = lambda: None
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
            quarantine=lambda _feed, entry: self.quarantined.append(entry),
            backoff=AT_ONCE,
            fenced_backoff=fenced_backoff,
            clock_explains_refusal=self._clock_explains_refusal,
        )
        spec = ShardSpec(SHARD, FeedRules("all"), frozenset({"BTC", "ETH"}))
        self.shard = Shard(spec, self._new_log, context)
        self.task = asyncio.create_task(self.shard.run())

    async def _clock_explains_refusal(self) -> bool:
        self.before_comparison()
        return self.is_clock_wrong

    def _new_log(self) -> FaultyLog:
        self.logs_created += 1
        return self.log

    async def open(self) -> None:
        self.shard.assign()
        await self.wait_until(lambda: self.shard.is_open)

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
        sent_ago_seconds: float = 0.0,
        at: int | None = None,
    ) -> int | None:
        """Give an answer to the shard, complete now unless `at` says otherwise."""
        if isinstance(answer, dict):
            answer = json.dumps(answer).encode()
        if at is None:
            at = Clock.now()
        sent_at = time.monotonic() - sent_ago_seconds
        times = AnswerTimes(sent_at, at, at, ME)
        return self.shard.observe(symbol, answer, times)

    async def wait_until(self, condition: Callable[[], object]) -> None:
        async with asyncio.timeout(60):
            while not condition():  # noqa: ASYNC110 -- the shard tells nobody
                await asyncio.sleep(0)

    async def wait_settled(self) -> None:
        """Wait until all answers are committed, or have turned out to be no news."""
        await self.wait_until(self._has_settled)
        await self.wait_idle()

    def _has_settled(self) -> bool:
        is_idle = not self.shard.inbox and not self.shard.is_publishing
        return self.shard.is_open and is_idle

    async def wait_idle(self) -> None:
        """Give every task the time to do everything it can do without Kafka."""
        # Each turn of the loop advances every task by one step; no chain is this long.
        for _ in range(50):
            await asyncio.sleep(0)

    async def wait_reopened(self) -> None:
        """Wait until the shard was restored a second time."""
        await self.wait_until(lambda: self.log.opened == 2 and self.shard.is_open)

    async def wait_publishing(self) -> None:
        """Wait until a transaction is in progress."""
        await self.wait_until(lambda: self.shard.is_publishing)

    async def hang_in_a_commit(self, answer: dict[str, Any]) -> None:
        self.log.goes_on.clear()
        self.answer(answer)
        await self.wait_publishing()

    def sample(self, name: str, **labels: str) -> float | None:
        return self.metrics.registry.get_sample_value(name, labels)

    def dropped(self, reason: str) -> float | None:
        name = "gex_observations_dropped_total"
        return self.sample(name, feed="all", reason=reason)

    def readiness(self) -> tuple[bool, str | None]:
        """Return if the shard is stuck, and the reason why it is not ready."""
        return self.shard.is_stuck, self.shard.why_not_ready()

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
async def harness() -> AsyncIterator[ShardHarness]:
    harness = ShardHarness()
    await harness.open()
    yield harness
    await harness.end()


def computed(seconds_ago: int) -> dict[str, Any]:
    # Whole seconds, as the upstream sends them.
    now_seconds = Clock.now() // SECOND_MICROS
    at = datetime.fromtimestamp(now_seconds - seconds_ago, UTC)
    return {"spot_price": 1, "computed_at": at.isoformat()}


def refreshed(hvl: float, seconds_ago: int) -> dict[str, Any]:
    return {**computed(seconds_ago), "all_expiry": {"hvl": hvl}}


# --- answers ---


async def test_an_answer_returns_when_the_newest_levels_were_computed(
    harness: ShardHarness,
) -> None:
    newest = computed(seconds_ago=5)
    moment = datetime.fromisoformat(newest["computed_at"])
    expected = moment.timestamp() * SECOND_MICROS

    assert harness.answer({"spot_price": 1}) is None
    assert harness.answer(newest) == expected
    assert harness.answer(computed(seconds_ago=9)) == expected
    assert harness.answer(Status.MISSING) == expected


async def test_the_same_answer_makes_stale_levels_fresh_again(
    harness: ShardHarness,
) -> None:
    harness.answer({"spot_price": 1})
    await harness.wait_settled()
    stale = replace(harness.log.states["BTC"], status=Status.STALE)
    # Levels become stale with time; put the state there directly.
    opened = harness.shard._lifecycle.opened
    assert opened is not None
    opened.states["BTC"] = stale
    harness.answer({"spot_price": 1})
    await harness.wait_settled()
    assert harness.kinds() == [Kind.SNAPSHOT, Kind.FRESH]


async def test_a_refused_entry_is_decoded_again_and_quarantined_once(
    harness: ShardHarness,
) -> None:
    # A second further ahead of the clock than is plausible.
    entry = computed(seconds_ago=-61)
    harness.answer(entry)
    harness.answer(entry)
    await harness.wait_settled()
    assert harness.kinds() == []
    assert len(harness.quarantined) == 1

    # The same entry is plausible five seconds later.
    harness.answer(entry, at=Clock.now() + 5 * SECOND_MICROS)
    await harness.wait_settled()
    assert harness.kinds() == [Kind.SNAPSHOT]


# --- phases ---


async def test_a_shard_opens_and_closes_in_order() -> None:
    harness = ShardHarness()
    assert harness.shard.phase is Phase.CLOSED
    await harness.open()
    await harness.close()
    assert harness.observer.phases == [
        Phase.OPENING,
        Phase.OPEN,
        Phase.CLOSING,
        Phase.CLOSED,
    ]
    await harness.open()
    assert harness.logs_created == 2
    await harness.end()


async def test_an_assignment_that_ends_at_once_opens_nothing() -> None:
    harness = ShardHarness()
    harness.shard.assign()
    harness.shard.close()
    await harness.shard.wait_closed()
    harness.shard.assign()
    harness.shard.abandon()
    await harness.wait_idle()
    assert harness.log.opened == 0
    await harness.end()


async def test_a_shard_that_is_assigned_twice_is_opened_once(
    harness: ShardHarness,
) -> None:
    harness.shard.assign()
    await harness.wait_settled()
    assert harness.log.opened == 1


async def test_a_shard_that_is_lost_while_a_call_hangs_waits_for_it_before_it_reopens(
    harness: ShardHarness,
) -> None:
    await harness.hang_in_a_commit({"spot_price": 1})
    harness.shard.abandon()
    harness.shard.assign()
    await harness.wait_idle()
    assert harness.shard.phase is Phase.CLOSING
    assert harness.log.opened == 1
    harness.log.goes_on.set()
    await harness.wait_until(lambda: harness.shard.is_open)
    assert harness.log.opened == 2
    assert harness.observer.phases[-3:] == [Phase.CLOSED, Phase.OPENING, Phase.OPEN]


async def test_a_request_during_an_assignment_that_is_never_served_is_refused(
    harness: ShardHarness,
) -> None:
    await harness.hang_in_a_commit({"spot_price": 1})
    harness.shard.abandon()
    harness.shard.assign()
    request = harness.shard.request_snapshot("BTC")
    harness.shard.close()
    harness.log.goes_on.set()
    await harness.shard.wait_closed()
    # Without an answer the request would hang for good.
    async with asyncio.timeout(60):
        answer = await request
    assert isinstance(answer, str)
    assert "moved to another worker" in answer


async def test_a_shard_that_is_lost_while_it_is_opened_is_not_opened() -> None:
    harness = ShardHarness()
    harness.log.may_open.clear()
    harness.shard.assign()
    await harness.wait_until(lambda: harness.shard.phase is Phase.OPENING)
    harness.shard.abandon()
    harness.log.may_open.set()
    await harness.shard.wait_closed()
    assert Phase.OPEN not in harness.observer.phases
    await harness.end()


@pytest.mark.parametrize("seed", range(5))
async def test_calls_never_overlap_however_a_shard_comes_and_goes(seed: int) -> None:
    random = Random(seed)
    harness = ShardHarness()
    topic = MemoryTopic()
    lock = threading.Lock()
    logs: list[ExclusiveLog] = []

    def new_log() -> ExclusiveLog:
        logs.append(ExclusiveLog(topic, lock))
        return logs[-1]

    harness.shard._new_log = new_log
    shard = harness.shard
    # Assign more often than the other inputs, or the shard would hardly ever open.
    inputs = [shard.assign, shard.assign, shard.tick, shard.close, shard.abandon]
    for number in range(100):
        random.choice(inputs)()
        for _ in range(random.randrange(300)):
            await asyncio.sleep(0)
        harness.answer({"spot_price": number, "all_expiry": {"hvl": number}})
        if number % 10 == 0:
            # On a slow machine the shard would never be open for long enough otherwise.
            shard.assign()
            await harness.wait_settled()
            harness.answer({"spot_price": number + 0.5})
            await harness.wait_settled()
    harness.shard.assign()
    harness.answer({"spot_price": -1})
    await harness.wait_settled()
    harness.answer({"spot_price": -2})
    await harness.wait_settled()

    # Enough was published for the test to mean something.
    assert len(topic.events) > 5
    assert sum(log.overlaps for log in logs) == 0
    sequences = [event.sequence for event in topic.events]
    assert sequences == list(range(1, len(sequences) + 1))
    assert topic.states["BTC"].levels == Levels(spot_price=-2.0)
    await harness.end()


async def test_an_error_that_no_retry_cures_ends_the_task_and_closes_the_shard() -> (
    None
):
    harness = ShardHarness()
    harness.log.open_error = ShardCorrupt("a record of somebody else")
    harness.shard.assign()
    with pytest.raises(ShardCorrupt):
        await harness.task
    assert harness.shard.phase is Phase.CLOSED
    harness.pool.shutdown()


async def test_a_state_behind_a_stray_is_written_again_without_an_event(
    harness: ShardHarness, caplog: pytest.LogCaptureFixture
) -> None:
    harness.answer({"spot_price": 1})
    await harness.wait_settled()
    await harness.close()
    topic = harness.log.topic
    before = topic.states["BTC"]
    records = topic.state_records
    topic.strays = (
        Stray("BTC", 7, "a tombstone", is_recovered=True),
        Stray("someone's key", 8, "no state", is_recovered=False),
    )
    topic.recovered = ("BTC",)

    await harness.open()
    await harness.wait_settled()

    assert harness.kinds() == [Kind.SNAPSHOT]
    assert topic.state_records == records + 1
    assert topic.states["BTC"] == before
    # Operators learn of the records that they have to remove.
    assert harness.sample("gex_stray_records", feed="all", shard="0") == 2
    named = [vars(record).get("key") for record in caplog.records]
    assert {"BTC", "someone's key"} <= set(named)
    await harness.close()
    assert harness.sample("gex_stray_records", feed="all", shard="0") is None


async def test_lost_states_that_the_broker_refuses_close_the_shard_only_once(
    harness: ShardHarness, caplog: pytest.LogCaptureFixture
) -> None:
    harness.answer({"spot_price": 1})
    await harness.wait_settled()
    await harness.close()
    harness.log.topic.recovered = ("BTC",)
    # The topic takes no record as old as the state.
    harness.log.errors = [TimeRefused("observed too long ago")]
    opened = harness.log.opened

    await harness.open()
    await harness.wait_until(lambda: harness.log.opened == opened + 2)
    harness.answer({"spot_price": 2})
    await harness.wait_settled()

    assert harness.kinds() == [Kind.SNAPSHOT, Kind.CHANGED]
    assert harness.dropped("unpublishable") == 1
    assert REFUSED in caplog.text

    # Meanwhile somebody may have changed the limits of the topic.
    await harness.close()
    harness.log.topic.recovered = ("BTC",)
    records = harness.log.topic.state_records
    await harness.open()
    await harness.wait_settled()
    assert harness.log.topic.state_records == records + 1


async def test_a_removed_symbol_behind_a_stray_is_written_once() -> None:
    harness = ShardHarness()
    await harness.open()
    harness.answer({"spot_price": 1})
    await harness.wait_settled()
    # Somebody has renamed a symbol while a stray hid its state.
    topic = harness.log.topic
    topic.states = {"OLD": replace(topic.states["BTC"], symbol="OLD")}
    topic.recovered = ("OLD",)
    records = topic.state_records
    await harness.close()

    await harness.open()
    await harness.wait_settled()

    assert topic.states["OLD"].status is Status.REMOVED
    assert harness.kinds() == [Kind.SNAPSHOT, Kind.REMOVED]
    assert topic.state_records == records + 1
    await harness.end()


async def test_a_closed_shard_is_not_polled_and_takes_no_answers(
    harness: ShardHarness,
) -> None:
    await harness.close()
    harness.answer({"spot_price": 1})
    assert not harness.shard.is_polled
    assert not harness.shard.inbox


@pytest.mark.parametrize(("until", "ends"), [(0.0, True), (math.inf, False)])
async def test_a_missing_right_is_retried_until_the_deadline_and_ends_the_worker_later(
    until: float, *, ends: bool
) -> None:
    harness = ShardHarness(StartupDeadline(until))
    await harness.open()
    harness.log.errors = [AccessDenied("no right to write")]
    harness.answer({"spot_price": 1})
    if ends:
        with pytest.raises(SetupError, match="no right to write"):
            await harness.task
    else:
        await harness.wait_until(lambda: harness.log.opened == 2)
    await harness.end()


# --- observations in hand ---


@pytest.mark.parametrize("another_has_written", [False, True])
async def test_waiting_observations_survive_a_lost_shard_unless_another_has_written(
    harness: ShardHarness, *, another_has_written: bool
) -> None:
    harness.answer({"spot_price": 1})
    await harness.wait_settled()
    harness.log.goes_on.clear()
    harness.log.errors = [KafkaUnavailable("away")]
    harness.answer({"spot_price": 2})
    await harness.wait_publishing()
    harness.shard.abandon()
    harness.log.goes_on.set()
    await harness.shard.wait_closed()
    if another_has_written:
        harness.log.writer = Writer("another", "others", 99)
    await harness.open()
    await harness.wait_settled()

    if another_has_written:
        assert harness.spot_prices() == [1.0]
        assert harness.dropped("lost") == 1
    else:
        assert harness.spot_prices() == [2.0]
        assert harness.dropped("lost") == 0


async def test_waiting_observations_survive_if_the_last_writer_was_known_before() -> (
    None
):
    harness = ShardHarness()
    harness.log.writer = Writer("another", "group", 7)
    await harness.open()
    harness.log.errors = [KafkaUnavailable("away")]
    harness.answer({"spot_price": 2})
    await harness.wait_reopened()
    await harness.wait_settled()
    assert harness.spot_prices() == [2.0]
    await harness.end()


async def test_observations_in_a_hanging_commit_survive_a_lost_shard(
    harness: ShardHarness,
) -> None:
    harness.answer({"spot_price": 1})
    await harness.wait_settled()
    harness.log.errors = [KafkaUnavailable("away")]
    await harness.hang_in_a_commit({"spot_price": 2})
    harness.shard.abandon()
    harness.shard.assign()
    harness.log.goes_on.set()
    await harness.wait_settled()
    assert harness.spot_prices() == [2.0]


async def test_a_lost_shard_publishes_nothing_after_the_hanging_commit(
    harness: ShardHarness,
) -> None:
    await harness.hang_in_a_commit({"spot_price": 1})
    harness.answer({"spot_price": 2})
    harness.shard.abandon()
    harness.log.goes_on.set()
    await harness.shard.wait_closed()
    assert harness.spot_prices() == [1.0]


async def test_waiting_observations_are_committed_before_a_shard_is_handed_over(
    harness: ShardHarness,
) -> None:
    await harness.hang_in_a_commit({"spot_price": 1})
    harness.answer({"spot_price": 2})
    harness.shard.close(0.25)
    harness.log.goes_on.set()
    await harness.shard.wait_closed()
    assert harness.log.used_fractions == [0.0, 0.25], (
        "as it was when the shard was given up"
    )
    assert harness.spot_prices() == [2.0]


async def test_an_uncommitted_observation_is_compared_with_the_restored_state(
    harness: ShardHarness,
) -> None:
    harness.log.errors = [KafkaUnavailable("away")]
    harness.answer({"spot_price": 1})
    await harness.wait_reopened()
    await harness.wait_settled()
    assert harness.kinds() == [Kind.SNAPSHOT]


async def test_a_commit_whose_answer_was_lost_is_not_repeated(
    harness: ShardHarness,
) -> None:
    harness.answer({"spot_price": 1})
    await harness.wait_settled()
    harness.log.errors = [KafkaUnavailable("no answer")]
    harness.log.committed_all_the_same = True
    harness.answer(Status.MISSING)
    harness.answer({"spot_price": 2})
    await harness.wait_reopened()
    await harness.wait_settled()
    assert harness.kinds() == [Kind.SNAPSHOT, Kind.MISSING, Kind.RESTORED]
    assert harness.sample("gex_events_total", feed="all", kind="RESTORED") == 1


async def test_a_failed_commit_of_a_refresh_without_an_event_is_repeated(
    harness: ShardHarness,
) -> None:
    harness.answer(computed(seconds_ago=9))
    await harness.wait_settled()
    harness.log.errors = [KafkaUnavailable("away")]
    refreshed = computed(seconds_ago=8)
    harness.answer(refreshed)
    await harness.wait_reopened()
    await harness.wait_settled()

    computed_at = harness.log.states["BTC"].computed_at
    assert computed_at is not None
    moment = datetime.fromtimestamp(computed_at / SECOND_MICROS, UTC)
    assert moment.isoformat() == refreshed["computed_at"]


async def test_an_answer_to_an_older_question_counts_if_only_this_worker_has_written(
    harness: ShardHarness,
) -> None:
    harness.log.errors = [KafkaUnavailable("away")]
    harness.answer({"spot_price": 1}, sent_ago_seconds=61)
    await harness.wait_reopened()
    harness.answer(Status.MISSING, sent_ago_seconds=60)
    await harness.wait_settled()
    assert harness.kinds() == [Kind.SNAPSHOT, Kind.MISSING]


async def test_a_difference_that_came_and_went_unpublished_is_counted_by_the_next_event(
    harness: ShardHarness,
) -> None:
    await harness.hang_in_a_commit(refreshed(hvl=0, seconds_ago=30))
    for number in range(1, MAX_WAITING):
        harness.answer(refreshed(hvl=number, seconds_ago=30 - number))
    # The last place: another level, which the next refresh takes back.
    harness.answer(refreshed(hvl=100, seconds_ago=20))
    harness.answer(refreshed(hvl=MAX_WAITING - 1, seconds_ago=19))
    harness.log.goes_on.set()
    await harness.wait_settled()
    assert len(harness.log.events) == MAX_WAITING

    # Neither a refresh without a difference nor an older one has an event.
    harness.answer(refreshed(hvl=MAX_WAITING - 1, seconds_ago=18))
    await harness.wait_settled()
    harness.answer(refreshed(hvl=300, seconds_ago=25))
    await harness.wait_settled()
    assert harness.dropped("older") == 1
    harness.answer(refreshed(hvl=200, seconds_ago=17))
    await harness.wait_settled()
    harness.answer(refreshed(hvl=201, seconds_ago=16))
    await harness.wait_settled()

    counts = [event.collapsed_observations for event in harness.log.events]
    assert counts == [0] * MAX_WAITING + [1, 0]


async def test_an_invalid_symbol_is_logged_as_a_warning(
    harness: ShardHarness, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    harness.answer({"spot_price": 1})
    await harness.wait_settled()
    harness.answer(Status.INVALID)
    await harness.wait_settled()

    levels = []
    for record in caplog.records:
        if record.getMessage() == "event":
            levels.append(record.levelname)
    assert harness.kinds() == [Kind.SNAPSHOT, Kind.INVALID]
    assert levels == ["INFO", "WARNING"]


# --- fencing ---


async def test_an_answer_to_an_older_question_is_ignored_if_another_has_written(
    harness: ShardHarness, caplog: pytest.LogCaptureFixture
) -> None:
    harness.log.errors = [ShardFenced("another")]
    harness.log.writer = Writer("another", "others", 99)
    harness.answer({"spot_price": 1})
    await harness.wait_reopened()
    assert "another fleet uses these topics" in caplog.text
    harness.answer(Status.MISSING, sent_ago_seconds=60)
    await harness.wait_settled()
    assert harness.kinds() == []
    harness.answer(Status.MISSING)
    await harness.wait_settled()
    assert harness.kinds() == [Kind.MISSING]


async def test_a_fenced_shard_takes_no_answers_until_it_is_open_again() -> None:
    harness = ShardHarness(fenced_backoff=Backoff(60, 60))
    await harness.open()
    harness.log.errors = [ShardFenced("another")]
    harness.answer({"spot_price": 1})
    await harness.wait_until(lambda: not harness.shard.is_polled)
    assert harness.shard.phase is Phase.OPENING
    assert harness.shard.inbox.clear() == 1
    harness.answer({"spot_price": 1})
    assert not harness.shard.inbox
    assert harness.kinds() == []
    await harness.end()


def test_a_fenced_shard_backs_off_two_heartbeats_at_least_and_doubles() -> None:
    backoff = FENCED_BACKOFF
    assert backoff.first_seconds >= 2 * 1.5
    # The pauses are random, so look at many.
    for _ in range(100):
        assert 3.0 <= backoff.pause_seconds(1) <= 4.5
        assert 6.0 <= backoff.pause_seconds(2) <= 9.0
        assert 30.0 <= backoff.pause_seconds(5_000) <= 45.0


# --- records that the broker refuses ---


async def test_a_refused_record_is_given_up_and_the_shard_continues(
    harness: ShardHarness,
) -> None:
    harness.log.errors = [Unpublishable("too large")]
    harness.answer({"spot_price": 1})
    await harness.wait_reopened()
    harness.answer({"spot_price": 2})
    await harness.wait_settled()
    [event] = harness.log.events
    assert event.after is not None
    assert event.after.spot_price == 2.0


async def test_a_refused_record_closes_the_shard_once_however_often_it_is_answered(
    harness: ShardHarness,
) -> None:
    harness.log.errors = [Unpublishable("too large")]
    harness.answer({"spot_price": 1})
    await harness.wait_reopened()

    for _ in range(3):
        harness.answer({"spot_price": 1})
        await harness.wait_settled()
    assert harness.log.events == []
    assert harness.dropped("unpublishable") == 1


async def test_an_overtaken_answer_is_counted_once_however_often_a_commit_fails(
    harness: ShardHarness,
) -> None:
    now = datetime.now(UTC)
    newer, older = now.isoformat(), (now - timedelta(seconds=30)).isoformat()
    harness.log.errors = [KafkaUnavailable("away"), KafkaUnavailable("away")]
    harness.answer({"spot_price": 2, "computed_at": newer})
    harness.answer({"spot_price": 1, "computed_at": older})
    await harness.wait_until(lambda: harness.log.events)
    await harness.wait_settled()

    assert harness.dropped("older") == 1


async def test_a_refused_record_takes_no_other_symbol_along(
    harness: ShardHarness,
) -> None:
    harness.log.errors = [Unpublishable("too large"), Unpublishable("too large")]
    harness.answer({"spot_price": 1})
    harness.answer({"spot_price": 2}, symbol="ETH")
    await harness.wait_until(lambda: harness.log.opened == 3)
    await harness.wait_settled()

    [event] = harness.log.events
    assert event.symbol == "ETH"
    assert event.kind is Kind.SNAPSHOT
    assert harness.dropped("unpublishable") == 1


async def test_a_record_is_kept_if_our_clock_explains_why_its_time_is_refused(
    harness: ShardHarness,
) -> None:
    harness.is_clock_wrong = True
    harness.log.errors = [
        TimeRefused("two hours ahead"),
        TimeRefused("two hours ahead"),
    ]
    harness.answer({"spot_price": 1})
    await harness.wait_until(lambda: harness.log.opened == 3)
    await harness.wait_settled()

    [event] = harness.log.events
    assert event.after is not None
    assert event.after.spot_price == 1.0
    assert harness.dropped("unpublishable") == 0


async def test_a_record_is_kept_if_our_clock_was_set_before_it_could_be_compared(
    harness: ShardHarness, monkeypatch: pytest.MonkeyPatch
) -> None:
    harness.before_comparison = lambda: set_clock(monkeypatch, -7200)
    harness.log.errors = [TimeRefused("two hours ahead")]
    harness.answer({"spot_price": 1})
    observed_at = time.time_ns() // 1000
    await harness.wait_reopened()
    await harness.wait_settled()

    [event] = harness.log.events
    assert event.after is not None
    assert event.after.spot_price == 1.0
    assert event.observed_at < observed_at - 3600 * MICROS
    assert harness.dropped("unpublishable") == 0


async def test_a_record_is_given_up_if_its_time_is_refused_and_our_clock_is_right(
    harness: ShardHarness,
) -> None:
    harness.log.errors = [TimeRefused("observed too long ago")]
    harness.answer({"spot_price": 1})
    await harness.wait_reopened()
    harness.answer({"spot_price": 2})
    await harness.wait_settled()

    [event] = harness.log.events
    assert event.after is not None
    assert event.after.spot_price == 2.0
    assert harness.dropped("unpublishable") == 1


async def test_a_refused_snapshot_takes_no_observation_along(
    harness: ShardHarness,
) -> None:
    harness.answer({"spot_price": 1})
    await harness.wait_settled()
    harness.log.errors = [Unpublishable("too large")]
    request = harness.shard.request_snapshot("BTC")
    harness.answer({"spot_price": 2}, symbol="ETH")
    assert "too large" in str(await request)
    await harness.wait_reopened()
    await harness.wait_settled()
    assert [event.symbol for event in harness.log.events] == ["BTC", "ETH"]
    assert harness.dropped("unpublishable") == 0


async def have_states(harness: ShardHarness, symbols: Collection[str]) -> None:
    """Leave LIVE states of these symbols in the topic of a closed shard."""
    harness.answer({"spot_price": 1})
    await harness.wait_settled()
    await harness.close()
    [state] = harness.log.states.values()
    for symbol in symbols:
        harness.log.states[symbol] = replace(state, symbol=symbol)


async def tick_until(harness: ShardHarness, condition: Callable[[], object]) -> None:
    """Let the shard tick again and again until the condition is true."""
    async with asyncio.timeout(60):
        while not condition():
            harness.shard.tick()
            await harness.wait_idle()


def refused_symbols(caplog: pytest.LogCaptureFixture) -> list[tuple[str, str]]:
    """Return symbol and kind of each record that the shard has given up."""
    found = []
    for record in caplog.records:
        if record.getMessage() == REFUSED:
            fields = vars(record)
            found.append((fields["symbol"], fields["kind"]))
    return found


async def test_a_refused_removal_keeps_neither_other_removals_nor_levels(
    harness: ShardHarness, caplog: pytest.LogCaptureFixture
) -> None:
    await have_states(harness, ["OLD1", "OLD2", "OLD3"])
    harness.log.refuses = lambda state: state.symbol == "OLD2"

    await harness.open()
    await tick_until(harness, lambda: harness.dropped("unpublishable") == 1)
    await harness.wait_until(lambda: harness.shard.is_open)
    opened = harness.log.opened
    harness.answer({"spot_price": 2}, symbol="ETH")
    for _ in range(5):
        harness.shard.tick()
        await harness.wait_settled()

    states = harness.log.states
    assert states["OLD1"].status is Status.REMOVED
    assert states["OLD3"].status is Status.REMOVED
    assert states["ETH"].status is Status.LIVE
    assert refused_symbols(caplog) == [("OLD2", Kind.REMOVED)]
    # It is not tried again at once.
    assert harness.log.opened == opened
    assert harness.dropped("unpublishable") == 1


async def test_each_lost_state_stands_alone_if_one_is_refused(
    harness: ShardHarness, caplog: pytest.LogCaptureFixture
) -> None:
    await have_states(harness, ["ETH"])
    topic = harness.log.topic
    topic.recovered = ("BTC", "ETH")
    harness.log.refuses = lambda state: state.symbol == "BTC"

    await harness.open()
    await tick_until(harness, lambda: harness.dropped("unpublishable") == 1)
    await tick_until(harness, lambda: topic.recovered == ("BTC",))

    assert refused_symbols(caplog) == [("BTC", "lost state")]


async def test_refused_stale_levels_do_not_keep_others_from_becoming_stale(
    harness: ShardHarness, caplog: pytest.LogCaptureFixture
) -> None:
    await have_states(harness, ["ETH"])
    for state in harness.log.states.values():
        harness.log.states[state.symbol] = replace(state, computed_at=1)
    harness.log.refuses = lambda state: (
        state.symbol == "BTC" and state.status is Status.STALE
    )

    await harness.open()
    await tick_until(harness, lambda: harness.dropped("unpublishable") == 1)
    await tick_until(harness, lambda: harness.log.states["ETH"].status is Status.STALE)
    harness.answer({"spot_price": 2})
    await harness.wait_settled()

    assert harness.log.states["BTC"].status is Status.LIVE
    assert refused_symbols(caplog) == [("BTC", Kind.STALE)]


async def test_a_refused_lost_state_and_its_refused_removal_keep_no_other(
    harness: ShardHarness, caplog: pytest.LogCaptureFixture
) -> None:
    await have_states(harness, ["OLD"])
    harness.log.topic.recovered = ("OLD",)
    harness.log.refuses = lambda state: state.symbol == "OLD"

    await harness.open()
    await tick_until(harness, lambda: harness.dropped("unpublishable") == 2)
    harness.answer({"spot_price": 2}, symbol="ETH")
    await harness.wait_until(lambda: "ETH" in harness.log.states)
    for _ in range(5):
        harness.shard.tick()
        await harness.wait_settled()

    assert sorted(refused_symbols(caplog)) == [
        ("OLD", Kind.REMOVED),
        ("OLD", "lost state"),
    ]


async def test_a_refused_lost_state_that_is_stale_is_not_tried_again_at_once(
    harness: ShardHarness, caplog: pytest.LogCaptureFixture
) -> None:
    await have_states(harness, [])
    [state] = harness.log.states.values()
    harness.log.states["BTC"] = replace(state, computed_at=1)
    harness.log.topic.recovered = ("BTC",)
    harness.log.refuses = lambda state: state.symbol == "BTC"

    await harness.open()
    await tick_until(harness, lambda: harness.dropped("unpublishable") == 2)
    await harness.wait_until(lambda: harness.shard.is_open)
    opened = harness.log.opened
    for _ in range(5):
        harness.shard.tick()
        await harness.wait_settled()

    assert sorted(refused_symbols(caplog)) == [
        ("BTC", Kind.STALE),
        ("BTC", "lost state"),
    ]
    assert harness.log.opened == opened


# --- readiness ---


async def test_a_shard_is_stuck_while_it_is_not_open_or_a_commit_is_slow(
    harness: ShardHarness,
) -> None:
    assert harness.readiness() == (False, None)

    # Pretend that a commit has been in progress for longer than is normal.
    harness.shard._publisher._started_at = time.monotonic() - 6
    reason = "shard all-0 has been committing for 6 s"
    assert harness.readiness() == (True, reason)

    harness.shard._publisher._started_at = None
    await harness.close()
    assert harness.readiness() == (True, "shard all-0 is not open")


# --- snapshots ---


async def test_requests_for_a_snapshot_share_one_event_with_the_latest_levels(
    harness: ShardHarness,
) -> None:
    harness.answer({"spot_price": 1, "all_expiry": {"hvl": 5}})
    await harness.wait_settled()
    harness.answer({"spot_price": 1, "all_expiry": {"hvl": 5}, "new": "no difference"})
    await harness.wait_settled()
    request = harness.shard.request_snapshot("BTC")
    assert harness.shard.request_snapshot("BTC") is request
    event = await request

    assert harness.log.events[1:] == [event]
    assert not isinstance(event, str)
    assert event.kind is Kind.SNAPSHOT
    assert event.status is Status.LIVE
    assert event.sequence == 2
    assert event.reason == "asked"
    assert event.after is not None
    assert event.after.extra == '{"new":"no difference"}'
    # Consumers hold the latest levels now, and the state says so.
    state = harness.log.states["BTC"]
    assert state.levels == event.after
    assert state.published is None
    assert state.sequence == 2

    harness.answer({"spot_price": 1, "all_expiry": {"hvl": 6}})
    await harness.wait_settled()
    assert harness.kinds() == [Kind.SNAPSHOT, Kind.SNAPSHOT, Kind.CHANGED]


async def test_a_snapshot_follows_the_observations_of_its_transaction(
    harness: ShardHarness,
) -> None:
    harness.answer({"spot_price": 1})
    await harness.wait_settled()
    harness.log.goes_on.clear()
    harness.answer({"spot_price": 1}, symbol="ETH")
    await harness.wait_publishing()
    harness.answer({"spot_price": 1, "all_expiry": {"hvl": 6}})
    request = harness.shard.request_snapshot("BTC")
    harness.log.goes_on.set()
    event = await request
    assert not isinstance(event, str)
    assert harness.kinds()[2:] == [Kind.CHANGED, Kind.SNAPSHOT]
    assert event.after == harness.log.events[2].after


@pytest.mark.parametrize("committed", [True, False])
async def test_a_snapshot_whose_commit_is_unknown_is_published_once(
    harness: ShardHarness, *, committed: bool
) -> None:
    harness.answer({"spot_price": 1})
    await harness.wait_settled()
    harness.log.errors = [KafkaUnavailable("time-out")]
    harness.log.committed_all_the_same = committed
    event = await harness.shard.request_snapshot("BTC")
    await harness.wait_settled()
    assert not isinstance(event, str)
    assert event.sequence == 2
    assert harness.kinds() == [Kind.SNAPSHOT, Kind.SNAPSHOT]
    assert [event.sequence for event in harness.log.events] == [1, 2]


async def test_a_snapshot_is_not_repeated_after_another_worker_has_written(
    harness: ShardHarness,
) -> None:
    harness.answer({"spot_price": 1})
    await harness.wait_settled()
    harness.log.goes_on.clear()
    harness.log.errors = [ShardFenced("another")]
    harness.log.committed_all_the_same = True
    request = harness.shard.request_snapshot("BTC")
    await harness.wait_publishing()
    harness.log.writer_at_next_open = Writer("another", "group", 99)
    harness.log.goes_on.set()
    assert "see the topic `changes`" in str(await request)
    await harness.wait_settled()
    assert len(harness.log.events) == 2


async def test_a_refused_snapshot_is_given_up(harness: ShardHarness) -> None:
    harness.answer({"spot_price": 1})
    await harness.wait_settled()
    harness.log.errors = [Unpublishable("too large")]
    reason = await harness.shard.request_snapshot("BTC")
    assert "too large" in str(reason)
    await harness.wait_settled()
    assert len(harness.log.events) == 1


async def test_a_snapshot_of_a_lost_shard_is_answered(harness: ShardHarness) -> None:
    harness.answer({"spot_price": 1})
    await harness.wait_settled()
    harness.log.goes_on.clear()
    request = harness.shard.request_snapshot("BTC")
    await harness.wait_publishing()
    harness.shard.abandon()

    reason = await request
    assert "another worker" in str(reason)
    reason = await harness.shard.request_snapshot("ETH")
    assert "another worker" in str(reason)
    harness.log.goes_on.set()


async def test_a_snapshot_without_levels_is_refused_with_the_reason(
    harness: ShardHarness,
) -> None:
    reason = await harness.shard.request_snapshot("BTC")
    assert "has not been observed" in str(reason)

    harness.answer(Status.MISSING)
    await harness.wait_settled()
    reason = await harness.shard.request_snapshot("BTC")
    assert "it is MISSING" in str(reason)
