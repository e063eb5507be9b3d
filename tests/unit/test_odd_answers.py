"""Answers that real caches, clocks and servers give, from the decoder to the log."""

from __future__ import annotations

import asyncio
import json
import logging
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import pytest
from msgspec.structs import replace

from connector.config.model import Feed
from connector.core.decode import RateLimit, decode_response
from connector.core.diff import Rules
from connector.core.model import Kind, Source, Status
from connector.core.transition import REASON_OLD, FeedRules
from connector.kafka.names import ShardId
from connector.runtime.backoff import Backoff
from connector.runtime.clock import Clock
from connector.runtime.coverage import Coverage
from connector.runtime.health import Health
from connector.runtime.ports import PollerContext, ShardContext, ShardSpec
from connector.runtime.responses import Responses
from connector.runtime.shard import Shard
from connector.runtime.startup import StartupDeadline
from connector.schedule.batches import Batch
from connector.schedule.checks import CheckSettings, Outcome
from connector.schedule.scheduler import Schedule
from connector.telemetry.metrics import Metrics
from connector.telemetry.observer import MetricsObserver
from connector.upstream.client import LevelsAnswer
from tests.support.levels import NOW, SECOND
from tests.support.memory_log import MemoryLog

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from connector.core.model import Event
    from connector.schedule.symbols import ComputedTimes

SYMBOL = "BTCUSDT"
ME = Source("test", "group", "worker")
FEED = "all"
BATCH = Batch(FEED, (SYMBOL,))
# As documented, and the default of `stale_after_seconds`.
PERIOD_SECONDS = 30
STALE_AFTER_SECONDS = 90
# From the request to its answer. A refresh is visible at once.
RULES = FeedRules(FEED, rules=Rules.of(ignore=["spot_price"]))
ROUND_TRIP = SECOND // 20
HOUR_SECONDS = 3600


def iso(at: int) -> str:
    moment = datetime.fromtimestamp(at / SECOND, UTC)
    return moment.isoformat(timespec="microseconds")


class VirtualTime:
    """The wall clock, which moves only when a test says so."""

    def __init__(self) -> None:
        self.now = NOW
        self.wrong_seconds = 0
        """How far our clock is ahead. The upstream's is right."""

    @property
    def ours(self) -> int:
        """The present by our clock."""
        return self.now + self.wrong_seconds * SECOND

    def pass_seconds(self, seconds: float) -> None:
        self.now += round(seconds * SECOND)

    def time_ns(self) -> int:
        return self.ours * 1000

    def clock_gettime_ns(self, _: int) -> int:
        return (self.now - NOW) * 1000


class Scene:
    """A market that is refreshed every 30 s, and a worker without Kafka and HTTP."""

    def __init__(self, virtual: VirtualTime) -> None:
        self.virtual = virtual
        self.metrics = Metrics([FEED])
        observer = MetricsObserver(self.metrics)
        self.clock = Clock()
        self.log = MemoryLog()
        self.quarantined: list[bytes] = []
        self.plan_keeps_fresh = True
        self.pool = ThreadPoolExecutor(1)
        spec = ShardSpec(SHARD, RULES, frozenset({SYMBOL}))
        shard_context = ShardContext(
            observer=observer,
            clock=self.clock,
            executor=self.pool,
            source=ME,
            grace_seconds=0.0,
            polling_changed=lambda: None,
            startup=StartupDeadline(float("inf")),
            plan_keeps_fresh=lambda _feed: self.plan_keeps_fresh,
            quarantine=lambda _feed, entry: self.quarantined.append(entry.raw),
            backoff=Backoff(first_seconds=0.001, max_seconds=0.001),
        )
        self.shard = Shard(spec, lambda: self.log, shard_context)
        coverage = Coverage([Feed(name=FEED, symbols=(SYMBOL,))])
        coverage.set_shards([self.shard])
        health = Health(time.monotonic, Clock.now)
        context = PollerContext(observer, self.clock, health, ME)
        self.responses = Responses(coverage, context)
        self.task = asyncio.create_task(self.shard.run())

    async def open(self) -> None:
        self.shard.assign()
        await self._wait_settled()

    async def end(self) -> None:
        self.shard.close()
        await self.shard.wait_closed()
        self.task.cancel()
        await asyncio.wait([self.task])
        self.pool.shutdown()

    # --- the upstream ---

    def entry(self, **changes: Any) -> dict[str, Any]:
        """Return the entry that the upstream serves now."""
        number = (self.virtual.now - NOW) // (PERIOD_SECONDS * SECOND)
        computed_at = NOW + number * PERIOD_SECONDS * SECOND
        hvl = 67_000 + 10 * number
        return {
            "all_expiry": {"hvl": hvl},
            "computed_at": iso(computed_at),
        } | changes

    def body(
        self,
        entry: Any = None,
        *,
        clock_ahead_seconds: int = 0,
        symbol: str = SYMBOL,
        **data: Any,
    ) -> bytes:
        """Return the response of this moment. `entry` replaces the market's."""
        if entry is None:
            entry = self.entry()
        results = {symbol: entry}
        timestamp = iso(self.virtual.now + clock_ahead_seconds * SECOND)
        document = {
            "success": True,
            "data": {"results": results, **data},
            "meta": {"version": "2.10", "timestamp": timestamp},
        }
        return json.dumps(document).encode()

    # --- the worker ---

    async def take(
        self,
        body: bytes | None = None,
        *,
        is_fallback_limit: bool = False,
        is_copy: bool = False,
    ) -> ComputedTimes | None:
        """Take a response, the one of this moment unless it is passed in."""
        if body is None:
            body = self.body()
        sent_at = self.virtual.ours
        self.virtual.now += ROUND_TRIP
        answer = LevelsAnswer(
            decode_response(body, (SYMBOL,)),
            RateLimit(10),
            sent_at=sent_at,
            received_at=self.virtual.ours,
            is_fallback_limit=is_fallback_limit,
            is_copy=is_copy,
        )
        times = self.responses.accept(BATCH, answer, time.monotonic())
        self.shard.tick()
        await self._wait_settled()
        return times

    async def let_pass(self, seconds: int) -> None:
        """Let time pass without an answer. The timer runs every second."""
        for _ in range(seconds):
            self.virtual.pass_seconds(1)
            self.shard.tick()
            await self._wait_settled()

    async def take_for(self, seconds: int, body: bytes | None = None) -> None:
        """Take a response every second: the same one if it is passed in."""
        for _ in range(seconds):
            self.virtual.pass_seconds(1)
            await self.take(body)

    async def _wait_settled(self) -> None:
        async with asyncio.timeout(60):
            for _ in range(10):
                await asyncio.sleep(0)
            while not self._has_settled():  # noqa: ASYNC110 -- the shard tells nobody
                await asyncio.sleep(0)
            for _ in range(10):
                await asyncio.sleep(0)

    def _has_settled(self) -> bool:
        is_idle = not self.shard.inbox and not self.shard.is_publishing
        return self.shard.is_open and is_idle

    # --- the evidence ---

    @property
    def events(self) -> list[Event]:
        return self.log.topic.events

    def kinds(self, since: int = 0) -> list[Kind]:
        return [event.kind for event in self.events[since:]]

    @property
    def status(self) -> Status:
        return self.log.topic.states[SYMBOL].status

    def sample(self, name: str, **labels: str) -> float:
        value = self.metrics.registry.get_sample_value(name, labels)
        assert value is not None
        return value

    def inconsistent(self, kind: str) -> float:
        return self.sample("gex_responses_inconsistent_total", kind=kind)


SHARD = ShardId(FEED, 0)


@pytest.fixture
async def scene(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Scene]:
    virtual = VirtualTime()
    monkeypatch.setattr(time, "time_ns", virtual.time_ns)
    monkeypatch.setattr(time, "clock_gettime_ns", virtual.clock_gettime_ns)
    scene = Scene(virtual)
    await scene.open()
    yield scene
    await scene.end()


def seconds_until_stale(events: list[Event]) -> float:
    """Return the age of the levels when the first STALE event called them old."""
    for event in events:
        if event.kind is Kind.STALE:
            assert event.reason == REASON_OLD
            assert event.computed_at is not None
            return (event.observed_at - event.computed_at) / SECOND
    raise AssertionError("no STALE event")


# --- our clock is wrong ---


@pytest.mark.parametrize("seconds", [-170, 170])
async def test_answers_wait_until_a_large_clock_difference_is_confirmed(
    scene: Scene, seconds: int
) -> None:
    expected: list[int] = []

    async def take_refresh() -> bool:
        """Take the levels of this moment. Return True if they were passed on."""
        computed_at = iso(scene.virtual.now + seconds * SECOND)
        levels = {"hvl": 67_000 + len(expected)}
        entry = scene.entry(computed_at=computed_at, all_expiry=levels)
        body = scene.body(entry, clock_ahead_seconds=seconds)
        return await scene.take(body) is not None

    # By our clock alone, these levels would be of the future, or much too old.
    for is_last in (False, False, True):
        expected.append(scene.virtual.now + seconds * SECOND)
        assert await take_refresh() is is_last
        if not is_last:
            assert scene.events == []
        scene.virtual.pass_seconds(2)

    # None of the refreshes is left out.
    assert [event.computed_at for event in scene.events] == expected
    assert {event.status for event in scene.events} == {Status.LIVE}
    assert scene.quarantined == []


async def test_an_answer_that_waits_is_kept_and_corrected_if_our_clock_is_set(
    scene: Scene,
) -> None:
    scene.virtual.wrong_seconds = 20
    await scene.take()
    assert scene.events == []
    first_at = scene.virtual.now

    scene.virtual.wrong_seconds = 0
    scene.virtual.pass_seconds(PERIOD_SECONDS)
    await scene.take()

    assert [event.observed_at for event in scene.events] == [
        first_at,
        scene.virtual.now,
    ]


async def test_answers_do_not_wait_for_ever_if_timestamps_are_missing(
    scene: Scene,
) -> None:
    await scene.take(scene.body(clock_ahead_seconds=20))
    assert scene.events == []

    # No response confirms the first one.
    document = json.loads(scene.body())
    del document["meta"]["timestamp"]
    for _ in range(5):
        await scene.take(json.dumps(document).encode())

    assert scene.kinds() == [Kind.SNAPSHOT]


# --- a cache serves the same bytes ---


@pytest.mark.parametrize("cached_seconds", [120, 420])
async def test_levels_of_a_cache_are_stale_after_90_s_and_fresh_with_the_next_answer(
    scene: Scene, cached_seconds: int
) -> None:
    await scene.take_for(61)
    copy = scene.body()
    before = len(scene.events)

    await scene.take_for(cached_seconds, copy)
    assert scene.kinds(since=before) == [Kind.STALE]
    assert seconds_until_stale(scene.events) == pytest.approx(90, abs=1.5)

    await scene.take()
    assert scene.kinds(since=before) == [Kind.STALE, Kind.FRESH]
    assert scene.status is Status.LIVE
    assert scene.quarantined == []
    # A clock that stands still is no clock, so nothing was learnt from it.
    assert scene.clock.correction == 0
    assert scene.inconsistent("copy") >= cached_seconds - 2


async def test_an_absence_in_an_old_copy_is_no_news(scene: Scene) -> None:
    absent = scene.body(results={SYMBOL: None}, missing=[SYMBOL])
    await scene.take_for(5)
    before = len(scene.events)

    # Two nodes answer in turn, and one of them is a cache.
    for _ in range(5):
        scene.virtual.pass_seconds(1)
        await scene.take(absent, is_copy=True)
        await scene.take()
    assert scene.kinds(since=before) == []

    await scene.take(absent)
    assert scene.kinds(since=before) == [Kind.MISSING]


async def test_a_cache_that_is_there_from_the_start_makes_no_old_levels_live(
    scene: Scene,
) -> None:
    copies = []
    # Each of several batches has a copy of its own.
    for _ in range(5):
        copies.append(scene.body())
        scene.virtual.pass_seconds(1)
    scene.virtual.pass_seconds(200)

    for _ in range(3):
        for copy in copies:
            await scene.take(copy)
        scene.virtual.pass_seconds(1)

    assert scene.status is Status.STALE
    assert scene.clock.correction == 0


async def test_a_cache_does_not_spoil_the_rhythm(scene: Scene) -> None:
    schedule = Schedule(CheckSettings(), lambda: 0.5)
    schedule.set_batches([BATCH], 0.0)
    schedule.set_budget(54, 0.0)

    async def check_until(end_seconds: float, copy: bytes | None = None) -> None:
        while True:
            planned = schedule.next()
            assert planned is not None
            at, _ = planned
            now = scene.virtual.now
            if at > end_seconds:
                return
            scene.virtual.now = max(now, NOW + round(at * SECOND))
            sent_at = (scene.virtual.now - NOW) / SECOND
            schedule.start_check(BATCH, sent_at)
            times = await scene.take(copy)
            assert times is not None
            offset_seconds = (NOW + scene.clock.correction) / SECOND
            times = replace(times, upstream_minus_monotonic_seconds=offset_seconds)
            schedule.finish_check(
                BATCH,
                Outcome.ANSWERED,
                sent_at=sent_at,
                now=(scene.virtual.now - NOW) / SECOND,
                times=times,
            )

    def mean_delay_seconds(since: int) -> float:
        delays = []
        for event in scene.events[since:]:
            if event.kind is Kind.CHANGED:
                assert event.computed_at is not None
                delays.append((event.observed_at - event.computed_at) / SECOND)
        assert len(delays) > 8
        return sum(delays) / len(delays)

    await check_until(610.0)
    usual_seconds = mean_delay_seconds(since=3)
    await check_until(1030.0, scene.body())
    # The cache is gone.
    since = len(scene.events)
    await check_until(1330.0)

    assert mean_delay_seconds(since) < usual_seconds + 0.5


# --- a server whose clock is far off ---


@pytest.mark.parametrize("ahead_seconds", [-HOUR_SECONDS, HOUR_SECONDS])
async def test_a_clock_an_hour_off_is_not_believed_and_one_warning_says_so(
    scene: Scene, ahead_seconds: int, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    await scene.take_for(20)

    for _ in range(300):
        scene.virtual.pass_seconds(1)
        await scene.take(scene.body(clock_ahead_seconds=ahead_seconds))

    assert set(scene.kinds()) == {Kind.SNAPSHOT, Kind.CHANGED}
    assert scene.quarantined == []
    assert scene.clock.correction == 0
    messages = [record.getMessage() for record in caplog.records]
    warning = "upstream clock is not believed; measuring ages by our own clock"
    assert messages.count(warning) == 1

    await scene.take_for(20)
    messages = [record.getMessage() for record in caplog.records]
    assert messages.count("upstream clock is believed again") == 1


# --- entries without any level ---


EMPTY_ENTRIES = {
    "no_fields": {},
    "null_fields": {"all_expiry": None, "odte": None, "computed_at": None},
    "null_leaves": {
        "all_expiry": {"hvl": None, "call_wall_2": None},
        "spot_price": None,
    },
    "dated": {"computed_at": "2027-01-15T08:00:00Z", "odte": {"hvl": None}},
    "empty_lists": {"ranked": {"odte_top_10": []}, "zones": []},
    "labelled": {"positioning": "flow", "freshness_seconds": 3},
}


@pytest.mark.parametrize("entry", EMPTY_ENTRIES.values(), ids=EMPTY_ENTRIES)
async def test_an_entry_without_any_level_is_missing(
    scene: Scene, entry: dict[str, Any]
) -> None:
    await scene.take(scene.body(entry))
    assert scene.status is Status.MISSING

    await scene.take()
    await scene.take(scene.body(entry))
    await scene.take(scene.body(entry))
    await scene.take()

    assert scene.kinds() == [
        Kind.MISSING,
        # The first levels, so there is nothing to restore.
        Kind.SNAPSHOT,
        Kind.MISSING,
        Kind.RESTORED,
    ]
    assert scene.quarantined == []
    assert scene.sample("gex_symbols_missing_total", feed=FEED, symbol=SYMBOL) == 3
    assert scene.inconsistent("empty_entry") == 3


@pytest.mark.parametrize(
    "entry",
    [
        {"spot_price": 0},
        {"odte": {"put_support": -1.5e3}},
        {"max_pain": {"value": 1}},
        {"ranked": {"odte_top_10": [67_000]}},
        {"zones": [{}]},
    ],
    ids=str,
)
async def test_an_entry_with_a_single_level_is_live(
    scene: Scene, entry: dict[str, Any]
) -> None:
    await scene.take(scene.body(entry))

    assert scene.status is Status.LIVE


# --- symbols under another name ---


def renamed(scene: Scene, symbol: str, **data: Any) -> bytes:
    """Return the response of this moment with the entry under another name."""
    return scene.body(symbol=symbol, **data)


@pytest.mark.parametrize("name", ["btcusdt", "bTCUSDT"])
async def test_a_symbol_in_another_case_is_accepted(scene: Scene, name: str) -> None:
    await scene.take(renamed(scene, name, missing=[]))
    scene.virtual.pass_seconds(PERIOD_SECONDS)
    await scene.take(renamed(scene, name))
    await scene.take(renamed(scene, "ETHUSDT", missing=[name]))

    assert scene.kinds() == [Kind.SNAPSHOT, Kind.CHANGED, Kind.MISSING]
    assert {event.symbol for event in scene.events} == {SYMBOL}


@pytest.mark.parametrize("name", ["BTC-USDT", "btc_usdt", "BTCUSDT-PERP", "kBTCUSDT"])
async def test_a_symbol_under_another_name_is_not_missing_and_both_are_named(
    scene: Scene, name: str, caplog: pytest.LogCaptureFixture
) -> None:
    # As the first answer: nothing is known, so nothing is published.
    await scene.take(renamed(scene, name))
    assert scene.kinds() == []

    await scene.take()
    for _ in range(3):
        await scene.take(renamed(scene, name))

    # Its levels become stale in time, but the API does not lack them.
    assert scene.kinds() == [Kind.SNAPSHOT]
    assert scene.status is Status.LIVE
    count = scene.sample(
        "gex_symbol_other_spelling_total", feed=FEED, symbol=SYMBOL, spelling=name
    )
    assert count == 4
    warnings = [record for record in caplog.records if hasattr(record, "spelling")]
    assert len(warnings) == 1
    assert warnings[0].__dict__["symbol"] == SYMBOL
    assert warnings[0].__dict__["spelling"] == name


async def test_levels_that_are_there_under_another_name_become_stale_as_old(
    scene: Scene,
) -> None:
    await scene.take()

    for _ in range(100):
        scene.virtual.pass_seconds(1)
        await scene.take(renamed(scene, "BTC-USDT"))

    # The upstream does answer, so the reason is not `no_answer`.
    assert scene.kinds() == [Kind.SNAPSHOT, Kind.STALE]
    assert scene.events[-1].reason == REASON_OLD


async def test_a_fallback_limit_is_logged_once_an_hour(
    scene: Scene, caplog: pytest.LogCaptureFixture
) -> None:
    for is_fallback_limit in (False, True, True):
        await scene.take(is_fallback_limit=is_fallback_limit)

    (record,) = (
        record
        for record in caplog.records
        if "stricter fallback" in record.getMessage()
    )
    assert vars(record)["limit_per_minute"] == 10


async def test_levels_become_stale_as_old_while_their_entries_are_quarantined(
    scene: Scene,
) -> None:
    await scene.take()

    for _ in range(100):
        scene.virtual.pass_seconds(1)
        await scene.take(scene.body(scene.entry(odte=0)))

    assert scene.sample("gex_quarantined_total", reason="wrong_type")
    assert scene.kinds() == [Kind.SNAPSHOT, Kind.STALE]
    assert scene.events[-1].reason == REASON_OLD


async def test_spellings_from_outside_make_a_bounded_number_of_series(
    scene: Scene,
) -> None:
    for number in range(9):
        await scene.take(renamed(scene, f"BTCUSDT-{number}"))

    rendered, _ = scene.metrics.render("")
    assert rendered.count(b"gex_symbol_other_spelling_total{") == 4
    count = scene.sample(
        "gex_symbol_other_spelling_total", feed=FEED, symbol=SYMBOL, spelling="other"
    )
    assert count == 6


@pytest.mark.parametrize("name", ["ETHUSDT", "BT", "-"])
async def test_a_symbol_without_entry_is_missing_if_no_name_is_similar(
    scene: Scene, name: str
) -> None:
    await scene.take(renamed(scene, name))

    assert scene.status is Status.MISSING


async def test_a_listed_symbol_is_missing_although_a_part_of_its_name_has_levels(
    scene: Scene,
) -> None:
    await scene.take(renamed(scene, "WBTCUSDT", missing=[SYMBOL]))
    assert scene.status is Status.MISSING

    # The same letters are the same symbol, whatever the lists say.
    await scene.take()
    await scene.take(renamed(scene, "BTC/USDT", missing=[SYMBOL]))
    assert scene.kinds() == [Kind.MISSING, Kind.SNAPSHOT]


# --- two nodes answer in turn ---


class TwoNodes:
    """The entries of two nodes in turn: the second's `hvl` is one higher."""

    def __init__(self, scene: Scene) -> None:
        self._scene = scene
        self._turn = 0

    def next(self, behind_seconds: int = 0, **changes: Any) -> bytes:
        """Return a response. The second node's `computed_at` is `behind_seconds` older."""
        entry = self._scene.entry(**changes)
        if self._turn % 2:
            entry["all_expiry"]["hvl"] += 1
            computed_at = datetime.fromisoformat(entry["computed_at"])
            older = computed_at - timedelta(seconds=behind_seconds)
            entry["computed_at"] = older.isoformat()
        self._turn += 1
        return self._scene.body(entry)


def dropped(scene: Scene, reason: str) -> float:
    return scene.sample("gex_observations_dropped_total", feed=FEED, reason=reason)


async def test_two_nodes_that_differ_about_a_refresh_make_two_changes_of_it(
    scene: Scene,
) -> None:
    nodes = TwoNodes(scene)
    # Both nodes have the refresh of the last second already.
    for _ in range(88):
        scene.virtual.pass_seconds(1)
        await scene.take(nodes.next())

    # Each of the four refreshes has two values, and each value is published once.
    refreshes = Counter(event.computed_at for event in scene.events)
    assert list(refreshes.values()) == [2, 2, 2, 2]
    assert dropped(scene, "flapping") == pytest.approx(40, abs=4)
    assert scene.status is Status.LIVE


async def test_two_nodes_20_s_apart_make_one_change_of_each_of_their_refreshes(
    scene: Scene,
) -> None:
    nodes = TwoNodes(scene)
    for _ in range(88):
        scene.virtual.pass_seconds(1)
        await scene.take(nodes.next(behind_seconds=20))

    # Both nodes have refreshes of their own. None is published after a newer one.
    refreshes = [event.computed_at or 0 for event in scene.events]
    assert refreshes == sorted(set(refreshes))
    assert len(refreshes) <= 2 * 4
    assert dropped(scene, "older") == pytest.approx(42, abs=4)


async def test_two_nodes_do_not_flap_while_their_levels_are_stale(scene: Scene) -> None:
    nodes = TwoNodes(scene)
    computed_at = iso(NOW)
    for _ in range(100):
        scene.virtual.pass_seconds(1)
        hvl = {"hvl": 67_000}
        await scene.take(nodes.next(all_expiry=hvl, computed_at=computed_at))

    assert scene.kinds() == [Kind.SNAPSHOT, Kind.CHANGED, Kind.STALE]


async def test_values_that_never_come_back_are_all_published(scene: Scene) -> None:
    # Other numbers under an equal `computed_at`, computed at the request.
    for hvl in range(67_000, 67_012):
        await scene.take(scene.body(scene.entry(all_expiry={"hvl": hvl})))

    assert scene.kinds() == [Kind.SNAPSHOT] + [Kind.CHANGED] * 11


async def test_a_value_that_comes_back_is_news_in_another_refresh(scene: Scene) -> None:
    for hvl in (67_000, 67_001, 67_000):
        entry = scene.entry(all_expiry={"hvl": hvl})
        await scene.take(scene.body(entry))
        scene.virtual.pass_seconds(PERIOD_SECONDS)

    assert scene.kinds() == [Kind.SNAPSHOT, Kind.CHANGED, Kind.CHANGED]
    assert dropped(scene, "flapping") == 0


async def test_a_value_that_comes_back_is_news_after_an_absence(scene: Scene) -> None:
    await scene.take(scene.body(scene.entry(all_expiry={"hvl": 67_000})))
    await scene.take(scene.body(scene.entry(all_expiry={"hvl": 67_001})))
    await scene.take(scene.body({}))
    await scene.take(scene.body(scene.entry(all_expiry={"hvl": 67_000})))

    assert scene.kinds()[-2:] == [Kind.MISSING, Kind.RESTORED]


async def test_the_ignored_spot_price_does_not_make_a_value_another_one(
    scene: Scene,
) -> None:
    for number in range(6):
        hvl = 67_000 + number % 2
        entry = scene.entry(all_expiry={"hvl": hvl}, spot_price=number)
        await scene.take(scene.body(entry))

    assert scene.kinds() == [Kind.SNAPSHOT, Kind.CHANGED]


# --- two nodes run two models ---


def models_of(scene: Scene) -> list[str | None]:
    """Return the model of each snapshot. Other events are changes of one model's numbers."""
    snapshots = [event for event in scene.events if event.kind is Kind.SNAPSHOT]
    assert set(scene.kinds()) <= {Kind.SNAPSHOT, Kind.CHANGED}
    assert {event.reason for event in snapshots[1:]} <= {"positioning"}
    return [event.after.positioning for event in snapshots if event.after]


async def take_models(scene: Scene, *models: str | None) -> None:
    for number, model in enumerate(models):
        # Numbers of another answer are others, if they are computed at the request.
        levels = {"hvl": 67_000 + number}
        entry = scene.entry(positioning=model, all_expiry=levels)
        await scene.take(scene.body(entry))


async def test_two_nodes_with_two_models_make_two_snapshots_of_a_refresh(
    scene: Scene,
) -> None:
    for number in range(88):
        scene.virtual.pass_seconds(1)
        model = "std" if number % 2 else "flow"
        await scene.take(scene.body(scene.entry(positioning=model)))

    # A refresh begins with the model of the last one, or with the other one.
    models = models_of(scene)
    assert models == ["flow", "std"] * (len(models) // 2) + ["flow"] * (len(models) % 2)
    refreshes = Counter(event.computed_at for event in scene.events)
    assert list(refreshes.values()) == [2, 2, 2, 2]
    assert dropped(scene, "flapping") == pytest.approx(40, abs=4)


async def test_two_nodes_with_two_models_do_not_flap_if_their_numbers_move(
    scene: Scene,
) -> None:
    await take_models(scene, *["flow", "std"] * 10)

    assert models_of(scene) == ["flow", "std"]


async def test_the_first_answer_of_another_model_is_published_at_once(
    scene: Scene,
) -> None:
    await take_models(scene, "flow", "std")
    assert models_of(scene) == ["flow", "std"]

    # Whatever came back in the refresh before.
    await take_models(scene, "flow")
    scene.virtual.pass_seconds(PERIOD_SECONDS)
    await take_models(scene, "flow")
    assert models_of(scene) == ["flow", "std", "flow"]


async def test_a_model_that_comes_back_and_stays_is_published_in_the_same_refresh(
    scene: Scene,
) -> None:
    entry = scene.entry(positioning="flow")
    await scene.take(scene.body(entry))
    await take_models(scene, "std")
    for count in (1, 2, 3, 4):
        # The very same bytes each time.
        await scene.take(scene.body(entry))
        assert len(scene.events) == (2 if count < 3 else 3)

    assert models_of(scene) == ["flow", "std", "flow"]
    assert scene.events[-1].after == scene.events[0].after


async def test_an_answer_of_the_other_node_ends_the_row_of_a_returned_model(
    scene: Scene,
) -> None:
    await take_models(scene, "flow", "std")
    for _ in range(4):
        await take_models(scene, "flow", "flow", "std")

    assert models_of(scene) == ["flow", "std"]
    assert dropped(scene, "flapping") == 8


async def test_a_third_model_is_news_and_then_flaps_like_the_others(
    scene: Scene,
) -> None:
    await take_models(scene, *["flow", "std", "mixed"] * 4)

    assert models_of(scene) == ["flow", "std", "mixed"]


async def test_an_old_server_in_turn_that_names_no_model_does_not_flap(
    scene: Scene,
) -> None:
    for model in ("flow", None) * 5:
        entry = scene.entry(positioning=model, all_expiry={"hvl": 67_000})
        await scene.take(scene.body(entry))

    assert scene.kinds() == [Kind.SNAPSHOT]


# --- a budget that permits few checks ---


async def test_rare_checks_make_one_stale_event_and_then_changes(scene: Scene) -> None:
    scene.plan_keeps_fresh = False
    for _ in range(5):
        await scene.take()
        await scene.let_pass(150)

    changes = [Kind.CHANGED] * 4
    assert scene.kinds() == [Kind.SNAPSHOT, Kind.STALE, *changes]
    assert scene.status is Status.STALE
    assert {event.reason for event in scene.events[2:]} == {"budget"}

    # A larger plan.
    scene.plan_keeps_fresh = True
    await scene.take()
    assert scene.kinds()[-1] is Kind.FRESH
    assert scene.events[-1].status is Status.LIVE


async def test_the_same_bytes_end_staleness_as_soon_as_the_plan_keeps_levels_fresh(
    scene: Scene,
) -> None:
    scene.plan_keeps_fresh = False
    await scene.take()
    await scene.let_pass(150)
    entry = scene.entry()
    await scene.take(scene.body(entry))
    await scene.take(scene.body(entry))
    assert scene.kinds() == [Kind.SNAPSHOT, Kind.STALE, Kind.CHANGED]

    scene.plan_keeps_fresh = True
    await scene.take(scene.body(entry))

    assert scene.kinds()[3:] == [Kind.FRESH]


async def test_nodes_that_answer_in_turn_make_no_changes_while_checks_are_rare(
    scene: Scene,
) -> None:
    scene.plan_keeps_fresh = False
    await scene.take()
    await scene.let_pass(150)
    one = scene.body(scene.entry())
    other = scene.body(scene.entry(all_expiry={"hvl": 1}))

    for _ in range(5):
        await scene.take(one)
        await scene.take(other)

    # Each value of a refresh is news once.
    assert scene.kinds()[2:] == [Kind.CHANGED, Kind.CHANGED]
