"""What a shard makes of the answers it is shown, with its log in memory."""

from __future__ import annotations

import asyncio
import json
import math
import time
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import pytest
from msgspec.structs import replace

from connector.core.model import Kind, Source, Status
from connector.core.transition import FeedRules
from connector.errors import (
    AccessDenied,
    KafkaUnavailable,
    SetupError,
    ShardFenced,
    Unpublishable,
)
from connector.kafka.names import ShardId
from connector.kafka.shard_log import Writer
from connector.runtime.clock import Clock
from connector.runtime.ports import AnswerTimes, ShardContext, StartupDeadline
from connector.runtime.shard import Shard
from connector.telemetry.metrics import Metrics
from connector.telemetry.observer import MetricsObserver
from tests.support.memory_log import MemoryLog

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable


ME = Source("test", "group", "worker")
SHARD = ShardId("all", 0)
SECOND = 1_000_000


class Bench:
    """A shard that runs, its log, and the moment that answers are of."""

    def __init__(self, trial: StartupDeadline | None = None) -> None:
        self.log = MemoryLog()
        self.metrics = Metrics(["all"])
        self.polled = asyncio.Event()
        self.pool = ThreadPoolExecutor(2)
        tools = ShardContext(
            MetricsObserver(self.metrics),
            Clock(),
            self.pool,
            ME,
            1.0,
            self._changed,
            trial or StartupDeadline(math.inf),
        )
        self.shard = Shard(
            SHARD, FeedRules("all"), frozenset({"BTC", "ETH"}), self.log, tools
        )
        self.task = asyncio.create_task(self.shard.run())

    def _changed(self) -> None:
        if self.shard.is_polled:
            self.polled.set()

    def show(
        self,
        answer: dict[str, Any] | bytes | Status,
        asked_ago_seconds: float = 0.0,
        symbol: str = "BTC",
    ) -> None:
        now = Clock.now()
        raw = json.dumps(answer).encode() if isinstance(answer, dict) else answer
        self.shard.observe(
            symbol, raw, AnswerTimes(time.monotonic() - asked_ago_seconds, now, now, ME)
        )

    async def until(self, true: Callable[[], object]) -> None:
        async with asyncio.timeout(10):
            while not true():  # noqa: ASYNC110 -- what is waited for is in the shard, and tells nobody
                await asyncio.sleep(0)

    async def settled(self) -> None:
        """Whatever was shown is committed, or was nothing new."""
        await self.until(
            lambda: not self.shard.inbox and self.shard._publishing_since is None
        )
        for _ in range(50):
            await asyncio.sleep(0)


@pytest.fixture
async def bench() -> AsyncIterator[Bench]:
    made = Bench()
    await made.polled.wait()
    yield made
    made.shard.close()
    await made.task
    made.pool.shutdown()


def kinds(bench: Bench) -> list[Kind]:
    return [event.kind for event in bench.log.events]


async def test_the_same_answer_makes_stale_levels_fresh_again(bench: Bench) -> None:
    bench.show({"spot_price": 1})
    await bench.settled()
    bench.shard._states["BTC"] = replace(bench.log.states["BTC"], status=Status.STALE)
    bench.show({"spot_price": 1})
    await bench.settled()
    assert kinds(bench) == [Kind.SNAPSHOT, Kind.FRESH]


async def test_an_entry_that_was_of_no_use_is_looked_at_again_and_quarantined_once(
    bench: Bench,
) -> None:
    ahead = Clock.now() + 61 * SECOND
    entry = {
        "spot_price": 1,
        "computed_at": datetime.fromtimestamp(ahead / SECOND, UTC).isoformat(),
    }
    bench.show(entry)
    bench.show(entry)
    await bench.settled()
    assert (kinds(bench), len(bench.log.quarantined)) == ([], 1)
    later = Clock.now() + 5 * SECOND
    bench.shard.observe(
        "BTC",
        json.dumps(entry).encode(),
        AnswerTimes(time.monotonic(), later, later, ME),
    )
    await bench.settled()
    assert kinds(bench) == [Kind.SNAPSHOT]


async def test_what_was_asked_before_the_restore_is_not_taken_where_another_has_written_meanwhile(
    bench: Bench, caplog: pytest.LogCaptureFixture
) -> None:
    bench.log.errors = [ShardFenced("another")]
    bench.log.writer = Writer("another", "others", 99)
    bench.shard._failures = -10  # no long wait for the next try
    bench.show({"spot_price": 1})
    await bench.until(lambda: bench.log.opened == 2 and bench.shard.is_open)
    assert "another fleet uses these topics" in caplog.text
    bench.show(Status.MISSING, asked_ago_seconds=60)
    await bench.settled()
    assert kinds(bench) == []
    bench.show(Status.MISSING)
    await bench.settled()
    assert kinds(bench) == [Kind.MISSING]


async def test_what_was_asked_before_a_restore_of_our_own_words_is_taken(
    bench: Bench,
) -> None:
    bench.log.errors = [KafkaUnavailable("away")]
    bench.show({"spot_price": 1})
    await bench.until(lambda: bench.log.opened == 2 and bench.shard.is_open)
    bench.show(Status.MISSING, asked_ago_seconds=60)
    await bench.settled()
    assert kinds(bench) == [Kind.SNAPSHOT, Kind.MISSING]


async def test_what_a_lost_commit_had_written_after_all_is_not_said_again(
    bench: Bench,
) -> None:
    bench.show({"spot_price": 1})
    await bench.settled()
    bench.log.errors, bench.log.committed_all_the_same = (
        [KafkaUnavailable("no answer")],
        True,
    )
    bench.show(Status.MISSING)
    bench.show({"spot_price": 2})
    await bench.until(lambda: bench.log.opened == 2)
    await bench.settled()
    assert kinds(bench) == [Kind.SNAPSHOT, Kind.MISSING, Kind.RESTORED]
    events = bench.metrics.registry.get_sample_value(
        "gex_events_total", {"feed": "all", "kind": "RESTORED"}
    )
    assert events == 1


@pytest.mark.parametrize("another_has_written", [False, True])
async def test_what_waits_when_the_group_gives_a_shard_up_is_published_unless_another_has_written_since(
    another_has_written: bool,
) -> None:
    first = Bench()
    await first.polled.wait()
    first.show({"spot_price": 1})
    await first.settled()
    first.log.errors = [KafkaUnavailable("away")]
    first.show({"spot_price": 2})
    await first.until(lambda: not first.log.errors)
    first.shard.lose()
    await first.task
    if another_has_written:
        first.log.writer = Writer("another", "others", 99)
    second = Shard(
        SHARD,
        FeedRules("all"),
        frozenset({"BTC"}),
        first.log,
        first.shard._tools,
        first.shard.inbox,
    )
    task = asyncio.create_task(second.run())
    await first.until(lambda: second.is_open and not second.inbox)
    second.close()
    await task
    first.pool.shutdown()
    published = [
        state.levels.spot_price for state in first.log.states.values() if state.levels
    ]
    lost = first.metrics.registry.get_sample_value(
        "gex_observations_dropped_total", {"feed": "all", "reason": "lost"}
    )
    assert (published, lost) == (([1.0], 1.0) if another_has_written else ([2.0], 0.0))


async def test_what_waits_is_kept_where_the_last_word_of_another_was_known_before() -> (
    None
):
    first = Bench()
    first.log.writer = Writer("another", "group", 7)
    await first.polled.wait()
    first.log.errors = [KafkaUnavailable("away")]
    first.show({"spot_price": 2})
    await first.until(lambda: first.log.opened == 2)
    await first.settled()
    first.shard.close()
    await first.task
    first.pool.shutdown()
    assert [
        state.levels.spot_price for state in first.log.states.values() if state.levels
    ] == [2.0]


async def test_what_is_inside_a_commit_that_hangs_while_the_shard_goes_and_comes_back_is_not_lost() -> (
    None
):
    first = Bench()
    await first.polled.wait()
    first.show({"spot_price": 1})
    await first.settled()
    first.log.goes_on.clear()
    first.log.errors = [KafkaUnavailable("away")]
    first.show({"spot_price": 2})
    await first.until(lambda: first.shard._publishing_since is not None)
    first.shard.lose()
    second = Shard(
        SHARD,
        FeedRules("all"),
        frozenset({"BTC"}),
        first.log,
        first.shard._tools,
        first.shard.inbox,
    )
    task = asyncio.create_task(second.run())
    first.log.goes_on.set()
    await first.until(lambda: second.is_open and not second.inbox)
    second.close()
    await asyncio.wait([task, first.task])
    first.pool.shutdown()
    assert [
        state.levels.spot_price for state in first.log.states.values() if state.levels
    ] == [2.0]


async def test_what_waits_is_committed_before_a_shard_is_handed_over(
    bench: Bench,
) -> None:
    bench.log.goes_on.clear()
    bench.show({"spot_price": 1})
    await bench.until(lambda: bench.shard._publishing_since is not None)
    bench.show({"spot_price": 2})
    bench.shard.close(0.25)
    bench.log.goes_on.set()
    await bench.task
    assert bench.log.spent == [0.0, 0.25], "as it was when the shard was given up"
    assert [
        state.levels.spot_price for state in bench.log.states.values() if state.levels
    ] == [2.0]


async def test_a_commit_is_not_taken_for_made_where_only_a_refresh_without_an_event_was_in_it(
    bench: Bench,
) -> None:
    def entry(second: int) -> dict[str, Any]:
        return {
            "spot_price": 1,
            "computed_at": datetime.fromtimestamp(
                Clock.now() // SECOND - 9 + second, UTC
            ).isoformat(),
        }

    bench.show(entry(0))
    await bench.settled()
    bench.log.errors = [KafkaUnavailable("away")]
    bench.show(refreshed := entry(1))
    await bench.until(lambda: bench.log.opened == 2)
    await bench.settled()
    computed_at = bench.log.states["BTC"].computed_at
    assert computed_at is not None
    assert (
        datetime.fromtimestamp(computed_at / SECOND, UTC).isoformat()
        == refreshed["computed_at"]
    )


async def test_after_a_restore_the_same_answer_is_looked_at_again(bench: Bench) -> None:
    bench.log.errors = [Unpublishable("too large")]
    bench.show({"spot_price": 1})
    await bench.until(lambda: bench.log.opened == 2 and bench.shard.is_open)
    bench.show({"spot_price": 1})
    await bench.settled()
    assert kinds(bench) == [Kind.SNAPSHOT]


async def test_nothing_gets_to_kafka_while_a_shard_is_not_open(bench: Bench) -> None:
    found = [bench.shard.is_stuck]
    bench.shard._publishing_since = time.monotonic() - 6
    found.append(bench.shard.is_stuck)
    bench.shard._publishing_since = None
    bench.shard._set(is_open=False, is_polled=True)
    found.append(bench.shard.is_stuck)
    assert found == [False, True, True]


async def test_what_was_not_committed_is_compared_again_with_what_is_restored(
    bench: Bench,
) -> None:
    bench.log.errors = [KafkaUnavailable("away")]
    bench.show({"spot_price": 1})
    await bench.until(lambda: bench.log.opened == 2)
    await bench.settled()
    assert kinds(bench) == [Kind.SNAPSHOT]


async def test_what_the_broker_never_takes_is_given_up_and_the_shard_goes_on(
    bench: Bench,
) -> None:
    bench.log.errors = [Unpublishable("too large")]
    bench.show({"spot_price": 1})
    await bench.until(lambda: bench.log.opened == 2)
    bench.show({"spot_price": 2})
    await bench.settled()
    assert [event.after.spot_price for event in bench.log.events if event.after] == [
        2.0
    ]


async def test_what_the_broker_never_takes_takes_no_other_symbol_along(
    bench: Bench,
) -> None:
    bench.log.errors = [Unpublishable("too large"), Unpublishable("too large")]
    bench.show({"spot_price": 1})
    bench.show({"spot_price": 2}, symbol="ETH")
    await bench.until(lambda: bench.log.opened == 3)
    await bench.settled()
    assert [(event.symbol, event.kind) for event in bench.log.events] == [
        ("ETH", Kind.SNAPSHOT)
    ]
    dropped = {"feed": "all", "reason": "unpublishable"}
    assert (
        bench.metrics.registry.get_sample_value(
            "gex_observations_dropped_total", dropped
        )
        == 1
    )


async def test_a_snapshot_that_the_broker_refuses_takes_no_observation_along(
    bench: Bench,
) -> None:
    bench.show({"spot_price": 1})
    await bench.settled()
    bench.log.errors = [Unpublishable("too large")]
    asked = bench.shard.ask("BTC")
    bench.show({"spot_price": 2}, symbol="ETH")
    assert "too large" in str(await asked)
    await bench.until(lambda: bench.log.opened == 2)
    await bench.settled()
    assert [event.symbol for event in bench.log.events] == ["BTC", "ETH"]
    dropped = {"feed": "all", "reason": "unpublishable"}
    assert (
        bench.metrics.registry.get_sample_value(
            "gex_observations_dropped_total", dropped
        )
        == 0
    )


async def test_a_fenced_shard_takes_nothing_until_it_is_open_again(
    bench: Bench,
) -> None:
    bench.log.errors = [ShardFenced("another")]
    bench.show({"spot_price": 1})
    await bench.until(lambda: not bench.shard.is_polled)
    waiting = bench.shard.inbox.clear()
    bench.show({"spot_price": 1})
    assert (waiting, bool(bench.shard.inbox)) == (1, False)
    assert kinds(bench) == []


async def test_two_objects_of_one_shard_never_work_at_the_same_time() -> None:
    first = Bench()
    await first.polled.wait()
    second = Shard(
        SHARD, FeedRules("all"), frozenset({"BTC"}), first.log, first.shard._tools
    )
    waiting = asyncio.create_task(second.run())
    for _ in range(50):
        await asyncio.sleep(0)
    assert (first.log.opened, second.is_open) == (1, False)
    first.shard.close()
    await first.until(lambda: second.is_open)
    assert first.log.opened == 2
    second.close()
    await asyncio.wait([waiting, first.task])
    first.pool.shutdown()


@pytest.mark.parametrize(("until", "ends"), [(0.0, True), (math.inf, False)])
async def test_a_right_that_is_missing_ends_the_start_and_is_waited_for_later(
    until: float, ends: bool
) -> None:
    bench = Bench(StartupDeadline(until))
    bench.log.errors = [AccessDenied("no right to write")]
    await bench.polled.wait()
    bench.show({"spot_price": 1})
    if ends:
        with pytest.raises(SetupError, match="no right to write"):
            await bench.task
    else:
        await bench.until(lambda: bench.log.opened == 2)
        bench.shard.close()
        await bench.task
    bench.pool.shutdown()


async def test_a_snapshot_that_is_asked_for_says_the_levels_last_seen_in_one_event(
    bench: Bench,
) -> None:
    bench.show({"spot_price": 1, "all_expiry": {"hvl": 5}})
    await bench.settled()
    bench.show({"spot_price": 1, "all_expiry": {"hvl": 5}, "new": "and no difference"})
    await bench.settled()
    asked, again = bench.shard.ask("BTC"), bench.shard.ask("BTC")
    event = await asked
    assert again is asked
    assert bench.log.events[1:] == [event]
    assert not isinstance(event, str)
    assert (event.kind, event.status, event.sequence, event.reason) == (
        Kind.SNAPSHOT,
        Status.LIVE,
        2,
        "asked",
    )
    state = bench.log.states["BTC"]
    assert event.after is not None
    assert event.after.extra == '{"new":"and no difference"}'
    assert (event.after, state.published, state.sequence) == (state.levels, None, 2)
    bench.show({"spot_price": 1, "all_expiry": {"hvl": 6}})
    await bench.settled()
    assert kinds(bench) == [Kind.SNAPSHOT, Kind.SNAPSHOT, Kind.CHANGED]


async def test_a_snapshot_follows_what_is_committed_with_it(bench: Bench) -> None:
    bench.show({"spot_price": 1})
    await bench.settled()
    bench.log.goes_on.clear()
    bench.show({"spot_price": 1}, symbol="ETH")
    await bench.until(lambda: bench.shard._publishing_since is not None)
    bench.show({"spot_price": 1, "all_expiry": {"hvl": 6}})
    asked = bench.shard.ask("BTC")
    bench.log.goes_on.set()
    event = await asked
    assert kinds(bench) == [Kind.SNAPSHOT, Kind.SNAPSHOT, Kind.CHANGED, Kind.SNAPSHOT]
    assert not isinstance(event, str)
    assert event.after == bench.log.events[2].after


@pytest.mark.parametrize("committed", [True, False])
async def test_a_snapshot_whose_commit_is_unknown_is_published_once(
    bench: Bench, *, committed: bool
) -> None:
    bench.show({"spot_price": 1})
    await bench.settled()
    bench.log.errors, bench.log.committed_all_the_same = (
        [KafkaUnavailable("time-out")],
        committed,
    )
    event = await bench.shard.ask("BTC")
    await bench.settled()
    assert not isinstance(event, str)
    assert [(one.kind, one.sequence) for one in bench.log.events] == [
        (Kind.SNAPSHOT, 1),
        (Kind.SNAPSHOT, 2),
    ]
    assert event.sequence == 2


async def test_a_snapshot_is_not_published_once_more_after_another_has_written(
    bench: Bench,
) -> None:
    bench.show({"spot_price": 1})
    await bench.settled()
    bench.log.errors, bench.log.committed_all_the_same = [ShardFenced("another")], True
    asked = bench.shard.ask("BTC")
    await bench.until(lambda: not bench.log.errors)
    bench.log.writer = Writer("another", "group", 99)
    assert "`changes` says" in str(await asked)
    await bench.until(lambda: bench.shard.is_open)
    await bench.settled()
    assert len(bench.log.events) == 2


async def test_a_snapshot_that_the_broker_refuses_is_given_up(bench: Bench) -> None:
    bench.show({"spot_price": 1})
    await bench.settled()
    bench.log.errors = [Unpublishable("too large")]
    assert "too large" in str(await bench.shard.ask("BTC"))
    await bench.until(lambda: bench.shard.is_open)
    assert len(bench.log.events) == 1


async def test_a_snapshot_of_a_shard_that_is_lost_is_answered(bench: Bench) -> None:
    bench.show({"spot_price": 1})
    await bench.settled()
    bench.log.goes_on.clear()
    asked = bench.shard.ask("BTC")
    await bench.until(lambda: bench.shard._publishing_since is not None)
    bench.shard.lose()
    assert "another worker" in str(await asked)
    assert "another worker" in str(await bench.shard.ask("ETH"))
    bench.log.goes_on.set()
