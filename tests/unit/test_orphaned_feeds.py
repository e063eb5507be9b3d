"""A worker removes the symbols of feeds that nobody has any more, and of no others."""

from __future__ import annotations

import asyncio
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

import pytest
from msgspec.structs import replace

from connector.core.model import MICROS, Kind, Source, Status
from connector.errors import KafkaUnavailable, TimeRefused, Unpublishable
from connector.kafka.orphans import IDLE_SECONDS, OrphanedFeed, orphaned_feed
from connector.runtime.orphaned_feeds import _LOOKS_WITHOUT_OWNER, OrphanedFeeds
from connector.telemetry.metrics import Metrics
from connector.telemetry.observer import MetricsObserver
from tests.support.log_statements import ME as WRITER
from tests.support.log_statements import changed
from tests.support.memory_log import MemoryLog

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterator

    from connector.core.model import State

ME = Source("test", WRITER.group, "next worker")
NOW = 1_800_000_000 * MICROS
IDLE = OrphanedFeed("old", 1, ("BTCUSDT",), WRITER.group, IDLE_SECONDS + 1)


class Feeds:
    """The shard of feed `old`, which has the state of one symbol."""

    def __init__(self) -> None:
        self.shard = MemoryLog()
        self.orphan = IDLE
        self.owners: set[str] = set()
        self.error: KafkaUnavailable | None = None
        self.unusable: list[OrphanedFeed] = []
        self.refuses: Callable[[State], bool] = lambda _: False
        self.shard.open()
        first = changed(None, 1)
        (state,), (event,) = first.states, first.events
        of_feed = replace(
            first,
            states=(replace(state, feed="old"),),
            events=(replace(event, feed="old"),),
        )
        self.shard.publish(of_feed)

    def find(self) -> list[OrphanedFeed]:
        if self.error is not None:
            raise self.error
        if self.shard.states["BTCUSDT"].status is Status.REMOVED:
            return self.unusable
        return [*self.unusable, self.orphan]

    def owned(self, feeds: Collection[str]) -> set[str]:
        return self.owners & set(feeds)

    def log(self, feed: str, shards: int, partition: int) -> MemoryLog:
        if feed in {orphan.name for orphan in self.unusable}:
            raise KafkaUnavailable("no such topic")
        assert (feed, shards, partition) == ("old", 1, 0)
        log = MemoryLog(self.shard.topic)
        log.refuses = self.refuses
        return log

    def kinds(self) -> list[Kind]:
        return [event.kind for event in self.shard.events]


class Harness:
    def __init__(self, pool: ThreadPoolExecutor) -> None:
        self.feeds = Feeds()
        self.metrics = Metrics(["all"])
        observer = MetricsObserver(self.metrics)
        self.slept: list[float] = []
        self.orphaned = OrphanedFeeds(
            self.feeds, ME, observer, lambda: NOW, pool, self._sleep
        )

    async def _sleep(self, seconds: float) -> None:
        self.slept.append(seconds)
        # The workers that still have the feed stop while this one waits.
        if len(self.slept) > 2:
            self.feeds.owners.clear()

    async def look_until_removed(self) -> bool:
        """Look as often as a feed must have no owner before it is removed."""
        for _ in range(_LOOKS_WITHOUT_OWNER - 1):
            assert await self.orphaned.look()
        assert self.feeds.kinds() == [Kind.SNAPSHOT]
        return await self.orphaned.look()

    def symbols_left(self) -> float | None:
        return self.metrics.registry.get_sample_value(
            "gex_orphaned_symbols", {"feed": "old"}
        )


@pytest.fixture
def harness() -> Iterator[Harness]:
    with ThreadPoolExecutor(1) as pool:
        yield Harness(pool)


async def test_the_symbols_of_an_idle_feed_of_our_group_become_removed(
    harness: Harness,
) -> None:
    assert not await harness.look_until_removed()

    assert harness.feeds.kinds() == [Kind.SNAPSHOT, Kind.REMOVED]
    removed = harness.feeds.shard.events[-1]
    assert (removed.feed, removed.sequence) == ("old", 2)
    assert removed.source == ME
    assert harness.symbols_left() is None


async def test_a_feed_that_a_worker_of_our_group_has_is_left_alone(
    harness: Harness,
) -> None:
    harness.feeds.owners = {"old"}

    assert await harness.orphaned.look()

    assert harness.feeds.kinds() == [Kind.SNAPSHOT]
    assert harness.symbols_left() == 1


async def test_a_feed_whose_worker_restarts_between_two_looks_is_left_alone(
    harness: Harness,
) -> None:
    for _ in range(2 * _LOOKS_WITHOUT_OWNER):
        harness.feeds.owners = set()
        assert await harness.orphaned.look()
        harness.feeds.owners = {"old"}
        assert await harness.orphaned.look()

    assert harness.feeds.kinds() == [Kind.SNAPSHOT]


async def test_a_feed_that_cannot_be_removed_does_not_keep_the_others(
    harness: Harness, caplog: pytest.LogCaptureFixture
) -> None:
    harness.feeds.unusable = [replace(IDLE, name="unusable")]

    assert await harness.look_until_removed()

    assert harness.feeds.kinds() == [Kind.SNAPSHOT, Kind.REMOVED]
    assert "cannot remove the symbols of a feed" in caplog.messages


async def test_a_refused_removal_is_named_and_keeps_no_other(
    harness: Harness, caplog: pytest.LogCaptureFixture
) -> None:
    topic = harness.feeds.shard.topic
    for symbol in ("ETHUSDT", "SOLUSDT"):
        topic.states[symbol] = replace(topic.states["BTCUSDT"], symbol=symbol)
    harness.feeds.orphan = replace(IDLE, symbols=tuple(topic.states))
    harness.feeds.refuses = lambda state: state.symbol == "BTCUSDT"

    assert await harness.look_until_removed()

    removed = [event.symbol for event in harness.feeds.shard.events[1:]]
    assert removed == ["ETHUSDT", "SOLUSDT"]
    [named] = [
        vars(record)["symbol"]
        for record in caplog.records
        if record.getMessage() == "the broker refuses to remove a symbol"
    ]
    assert named == "BTCUSDT"
    assert harness.symbols_left() == 1
    dropped = harness.metrics.registry.get_sample_value(
        "gex_observations_dropped_total", {"feed": "old", "reason": "unpublishable"}
    )
    assert dropped == 1


async def test_a_refused_removal_is_tried_again_every_ten_minutes(
    harness: Harness,
) -> None:
    def refuses(_: State) -> bool:
        # Somebody raises the limit after the third look.
        return len(harness.slept) < 4

    harness.feeds.refuses = refuses

    await harness.orphaned.run()

    assert harness.slept == [15, 60, 60, 600]
    assert harness.feeds.kinds() == [Kind.SNAPSHOT, Kind.REMOVED]


async def test_a_wrong_clock_is_not_taken_for_a_refused_removal(
    harness: Harness, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    publishes = 0

    def publish(*_: object) -> None:
        nonlocal publishes
        publishes += 1
        # Our clock is set between the first attempt and the next one.
        if publishes == 1:
            raise Unpublishable("too large")
        raise TimeRefused("late")

    monkeypatch.setattr(MemoryLog, "publish", publish)

    assert await harness.look_until_removed()

    assert publishes == 2
    assert "cannot remove the symbols of a feed" in caplog.messages
    assert "the broker refuses to remove a symbol" not in caplog.messages


async def test_a_feed_that_was_refreshed_a_moment_ago_is_left_alone(
    harness: Harness,
) -> None:
    # Its worker may be restarting.
    harness.feeds.orphan = replace(IDLE, idle_seconds=IDLE_SECONDS - 1)

    for _ in range(2 * _LOOKS_WITHOUT_OWNER):
        assert await harness.orphaned.look()

    assert harness.feeds.kinds() == [Kind.SNAPSHOT]


@pytest.mark.parametrize(("idle_seconds", "left"), [(0, None), (IDLE_SECONDS + 1, 1)])
async def test_a_feed_of_another_group_is_only_reported_and_only_if_idle(
    harness: Harness, idle_seconds: float, left: int | None
) -> None:
    another = replace(IDLE, group="another", idle_seconds=idle_seconds)
    harness.feeds.orphan = another

    for _ in range(2 * _LOOKS_WITHOUT_OWNER):
        await harness.orphaned.look()

    assert harness.feeds.kinds() == [Kind.SNAPSHOT]
    assert harness.symbols_left() == left


async def test_it_looks_until_the_last_worker_with_the_feed_has_stopped(
    harness: Harness, caplog: pytest.LogCaptureFixture
) -> None:
    harness.feeds.owners = {"old"}

    async with asyncio.timeout(60):
        await harness.orphaned.run()

    assert harness.feeds.kinds() == [Kind.SNAPSHOT, Kind.REMOVED]
    # Before two looks with an owner, and as many without as are needed.
    assert len(harness.slept) == 2 + _LOOKS_WITHOUT_OWNER
    # One line about the feed, and one about its end.
    messages = [record.getMessage() for record in caplog.records]
    assert messages == [
        "symbols of a feed that is not configured",
        "removed the symbols of a feed that is not configured",
    ]


async def test_a_look_that_fails_is_repeated(harness: Harness) -> None:
    harness.feeds.error = KafkaUnavailable("no broker")
    assert await harness.orphaned.look()

    harness.feeds.error = None
    assert not await harness.look_until_removed()


def test_a_feed_whose_symbols_are_removed_is_no_orphan() -> None:
    (live,) = changed(None, 1).states
    removed = replace(live, symbol="ETHUSDT", status=Status.REMOVED)

    assert orphaned_feed("old", 1, []) is None
    assert orphaned_feed("old", 1, [removed]) is None
    orphan = orphaned_feed("old", 1, [live, removed])
    assert orphan is not None
    assert orphan.symbols == ("BTCUSDT",)
    assert orphan.group == WRITER.group
