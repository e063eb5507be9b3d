"""This worker's share of the request budget as shards come and go."""

from __future__ import annotations

import math
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

import pytest

from connector.config.model import Feed
from connector.core.model import MICROS, Source, State, Status
from connector.core.transition import FeedRules
from connector.kafka.names import ShardId
from connector.kafka.shard_log import Restored, Writer
from connector.runtime.budget_share import BudgetShare
from connector.runtime.clock import Clock
from connector.runtime.coverage import Coverage
from connector.runtime.open_shard import OpenShard
from connector.runtime.ports import Phase, ShardContext, ShardSpec
from connector.runtime.shard import Shard
from connector.runtime.startup import StartupDeadline
from connector.telemetry.metrics import Metrics
from connector.telemetry.observer import MetricsObserver
from connector.upstream.budget import Budget
from tests.support.memory_log import MemoryLog

if TYPE_CHECKING:
    from collections.abc import Iterator

ME = Source("1", "group", "me")
OTHER = Source("1", "group", "other")
NOW = 1_800_000_000 * MICROS
FEED = Feed(name="all", symbols=("A", "B", "C", "D"))
SYMBOLS_PER_SHARD = 2
LIMIT_PER_MINUTE = 60


def restored_from(writer: Source, symbol: str, used_fraction: float | None) -> Restored:
    """Return the content of a shard's topic with one state, written just now."""
    state = State(
        feed="all",
        symbol=symbol,
        sequence=1,
        status=Status.LIVE,
        computed_at=None,
        observed_at=NOW,
        request_fingerprint="",
        source=writer,
    )
    last_writer = Writer(writer.worker, writer.group, 0)
    return Restored(
        {symbol: state}, 1, 0.0, used_fraction=used_fraction, writer=last_writer
    )


class Bench:
    """Two shards of one feed, half of its symbols in each."""

    def __init__(self) -> None:
        self.coverage = Coverage([FEED])
        self.budget = Budget(LIMIT_PER_MINUTE)
        self.share = BudgetShare(self.budget, self.coverage, ME.worker)
        self.pool = ThreadPoolExecutor(1)
        self.now = 1000.0
        self.context = ShardContext(
            MetricsObserver(Metrics(["all"])),
            Clock(),
            self.pool,
            ME,
            grace_seconds=0.0,
            polling_changed=lambda: None,
            startup=StartupDeadline(math.inf),
        )

    def shard(
        self,
        partition: int,
        writer: Source | None = None,
        used_fraction: float | None = None,
    ) -> Shard:
        """Return an open shard, last written by `writer`; by default it is empty.

        `used_fraction` is the fraction of its budget that the writer recorded, if it did.
        """
        first = partition * SYMBOLS_PER_SHARD
        symbols = FEED.symbols[first : first + SYMBOLS_PER_SHARD]
        shard_id = ShardId("all", partition)
        spec = ShardSpec(shard_id, FeedRules("all"), frozenset(symbols))
        shard = Shard(spec, MemoryLog, self.context)

        if writer is None:
            restored = Restored({}, 0, 0.0)
        else:
            restored = restored_from(writer, symbols[0], used_fraction)
        # Set the phases by hand: opening a shard needs its loop and a log.
        shard._lifecycle.enter(Phase.OPENING, None)
        opened = OpenShard(restored, spec.rules, ME, 0.0)
        shard._lifecycle.enter(Phase.OPEN, opened)
        return shard

    def cover(self, *shards: Shard) -> int:
        """Poll these shards, and return the requests a minute that may be sent."""
        gained = self.coverage.set_shards(shards)
        self.share.update(gained, self.now, NOW)
        return self.budget.spending(self.now).limit_per_minute


@pytest.fixture
def bench() -> Iterator[Bench]:
    made = Bench()
    yield made
    made.pool.shutdown()


def test_the_share_is_that_of_the_polled_symbols(bench: Bench) -> None:
    first = bench.shard(0)
    second = bench.shard(1)

    assert bench.cover(first, second) == 60
    assert bench.cover(bench.shard(0)) == 30
    assert bench.cover() == 0


def test_the_requests_of_a_previous_owner_count_except_for_the_first(
    bench: Bench,
) -> None:
    half_used = bench.shard(0, OTHER, used_fraction=0.5)

    # Half of 30, and one first request: the symbols would be unknown for a minute.
    assert bench.cover(half_used) == 16


def test_a_previous_owner_that_recorded_nothing_has_used_everything(
    bench: Bench,
) -> None:
    taken_over = bench.shard(0, OTHER, used_fraction=None)

    # Only the first request is left.
    assert bench.cover(taken_over) == 1


def test_requests_of_this_worker_are_not_counted_twice(bench: Bench) -> None:
    # A shard that was lost and comes back: its requests are in our own count.
    ours_before = bench.shard(0, ME, used_fraction=1.0)

    assert bench.cover(ours_before) == 30


def test_a_take_over_counts_for_a_minute_even_if_the_shard_comes_and_goes(
    bench: Bench,
) -> None:
    taken_over = bench.shard(0, OTHER, used_fraction=1.0)
    # When it comes back, this worker is its last writer, as if nobody else had used it.
    returned = bench.shard(0, ME, used_fraction=0.0)

    assert bench.cover(taken_over) == 1
    bench.cover()
    assert bench.cover(returned) == 1

    bench.now += 61
    assert bench.cover(returned) == 30
