"""The polled symbols, their shards and their batches."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from connector.config.model import Feed
from connector.kafka.names import ShardId
from connector.runtime.coverage import Coverage
from connector.schedule.batches import Batch
from connector.upstream.client import LevelsRequest

FEEDS = (
    Feed(name="a", symbols=("BTC", "ETH"), include=("max_pain",)),
    Feed(name="b", symbols=("BTC",)),
)


# Batches of feed "a".
BOTH = Batch("a", ("BTC", "ETH"))
BTC = Batch("a", ("BTC",))
ETH = Batch("a", ("ETH",))


@dataclass(eq=False)
class StubShard:
    """As much of a shard as coverage reads."""

    id: ShardId
    symbols: frozenset[str] = field(default_factory=frozenset)
    is_stuck: bool = False


# Any: a stub is no `Shard`, and its `is_stuck` can be set.
def shard(feed: str, partition: int, *symbols: str) -> Any:
    return StubShard(ShardId(feed, partition), frozenset(symbols))


def test_every_feed_is_packed_apart() -> None:
    coverage = Coverage(FEEDS)
    shard_of_a = shard("a", 0, "BTC", "ETH")
    shard_of_b = shard("b", 0, "BTC")
    coverage.set_shards([shard_of_a, shard_of_b])
    assert coverage.batches() == [BOTH, Batch("b", ("BTC",))]
    request = coverage.request_for(ETH)
    assert request == LevelsRequest(("ETH",), (), ("max_pain",))


def test_only_symbols_of_new_shards_are_gained() -> None:
    coverage = Coverage(FEEDS)
    one = shard("a", 0, "BTC")
    other = shard("a", 1, "ETH")
    assert coverage.set_shards([one]) == {("a", "BTC"): one}
    assert coverage.set_shards([one, other]) == {("a", "ETH"): other}
    assert coverage.set_shards([other]) == {}
    assert coverage.owner("a", "BTC") is None
    assert coverage.shards == {other}


def test_a_batch_is_stuck_if_all_its_shards_are() -> None:
    coverage = Coverage(FEEDS)
    one = shard("a", 0, "BTC")
    other = shard("a", 1, "ETH")
    coverage.set_shards([one, other])
    assert not coverage.is_stuck(BOTH)
    # The other shard can still publish its part of an answer.
    one.is_stuck = True
    assert not coverage.is_stuck(BOTH)
    other.is_stuck = True
    assert coverage.is_stuck(BOTH)


def test_a_refused_batch_is_halved_until_it_is_answered() -> None:
    coverage = Coverage(FEEDS)
    coverage.set_shards([shard("a", 0, "BTC", "ETH")])
    coverage.refused(BOTH)
    assert coverage.batches() == [BTC, ETH]
    assert coverage.answered(BTC)
    assert coverage.answered(ETH)
    # The batches do not change any more.
    assert not coverage.answered(BOTH)
    assert coverage.batches() == [BOTH]
