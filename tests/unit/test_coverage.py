"""The polled symbols, their shards and their batches."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import pytest

from connector.config.model import Feed
from connector.kafka.names import ShardId
from connector.runtime.coverage import Coverage
from connector.schedule.batches import Batch
from connector.upstream.client import LevelsRequest

# Both feeds have BTC: a symbol belongs to a shard of each of its feeds.
FEED_A = Feed(
    name="a",
    symbols=("BTC", "ETH"),
    include=("max_pain",),
    positioning="std",
)
FEED_B = Feed(name="b", symbols=("BTC",))

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
    shard_id = ShardId(feed, partition)
    return StubShard(shard_id, frozenset(symbols))


@pytest.fixture
def coverage() -> Coverage:
    return Coverage([FEED_A, FEED_B])


def test_every_feed_is_packed_apart(coverage: Coverage) -> None:
    shard_of_a = shard("a", 0, "BTC", "ETH")
    shard_of_b = shard("b", 0, "BTC")

    coverage.set_shards([shard_of_a, shard_of_b])

    # One request has the parameters of one feed, such as its includes.
    batch_of_b = Batch("b", ("BTC",))
    assert coverage.batches() == [BOTH, batch_of_b]
    request = coverage.request_for(ETH)
    assert request == LevelsRequest(("ETH",), (), FEED_A.include, "std")


def test_only_symbols_of_new_shards_are_gained(coverage: Coverage) -> None:
    of_btc = shard("a", 0, "BTC")
    of_eth = shard("a", 1, "ETH")

    gained = coverage.set_shards([of_btc])
    assert gained == {("a", "BTC"): of_btc}

    gained = coverage.set_shards([of_btc, of_eth])
    assert gained == {("a", "ETH"): of_eth}

    # Losing a shard gains nothing.
    gained = coverage.set_shards([of_eth])
    assert gained == {}
    assert coverage.owner("a", "BTC") is None
    assert coverage.shards == {of_eth}


def test_a_batch_is_stuck_if_all_its_shards_are(coverage: Coverage) -> None:
    of_btc = shard("a", 0, "BTC")
    of_eth = shard("a", 1, "ETH")
    coverage.set_shards([of_btc, of_eth])
    assert not coverage.is_stuck(BOTH)

    # The other shard can still publish its part of an answer.
    of_btc.is_stuck = True
    assert not coverage.is_stuck(BOTH)

    of_eth.is_stuck = True
    assert coverage.is_stuck(BOTH)


def test_a_refused_batch_is_halved_until_it_is_answered(coverage: Coverage) -> None:
    coverage.set_shards([shard("a", 0, "BTC", "ETH")])

    # The upstream refuses the whole request for a single bad symbol. Halving finds it.
    coverage.refused(BOTH)
    assert coverage.batches() == [BTC, ETH]

    # Each half changes the batches when it is found healthy, and never again.
    assert coverage.answered(BTC)
    assert coverage.answered(ETH)
    assert not coverage.answered(BOTH)
    assert coverage.batches() == [BOTH]
