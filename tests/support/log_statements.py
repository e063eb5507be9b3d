"""Statements about a shard's transactional log that hold in memory and on a broker.

A test module subclasses `LogStatements` and provides the fixture `shard`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol

import pytest
from msgspec.structs import replace

from connector.core.entry import decode_entry
from connector.core.model import MICROS, Levels, Observation, Source, Status
from connector.core.transition import FeedRules, observe
from connector.errors import KafkaUnavailable, ShardFenced, Unpublishable
from connector.kafka.shard_log import Transaction
from tests.support.memory_log import LARGEST_RECORD_BYTES

if TYPE_CHECKING:
    from collections.abc import Callable

    from connector.core.model import Event, State
    from connector.runtime.ports import TransactionalLog

NOW = 1_795_446_000 * MICROS
ME = Source("test", "group", "worker")
RULES = FeedRules("all")


class ShardUnderTest(Protocol):
    """A shard of feed `all` whose records nothing else writes."""

    def new_log(self) -> TransactionalLog:
        """Return another log of the same shard."""

    def committed(self) -> list[Event]:
        """Return the events that a read_committed consumer sees, in order."""


def changed(state: State | None, hvl: int, symbol: str = "BTCUSDT") -> Transaction:
    """Return a transaction of one event and its state, after `state`."""
    raw = b'{"all_expiry": {"hvl": %d}, "computed_at": "2026-11-23T15:00:00Z"}' % hvl
    entry = decode_entry(raw, NOW)
    observed_at = NOW + hvl
    observation = Observation(symbol, Status.LIVE, entry, observed_at, observed_at, ME)
    step = observe(state, observation, RULES)
    assert step.event is not None
    assert step.state is not None
    return Transaction((step.event,), (step.state,))


def too_large(transaction: Transaction) -> Transaction:
    """Return the same with a state that the broker refuses."""
    (state,) = transaction.states
    levels = Levels(extra="x" * (LARGEST_RECORD_BYTES + 1))
    return replace(transaction, states=(replace(state, levels=levels),))


def hvl_of(events: list[Event]) -> list[tuple[int, Any]]:
    """Return each event's sequence number and its new `all_expiry.hvl`."""
    return [(event.sequence, event.changed_levels[0].after) for event in events]


class LogStatements:
    """The promises of `connector.runtime.ports.TransactionalLog` to a shard."""

    def test_a_shard_that_nobody_wrote_to_is_empty(self, shard: ShardUnderTest) -> None:
        restored = shard.new_log().open()
        assert restored.states == {}
        assert restored.records == 0
        assert restored.writer is None
        assert restored.used_fraction is None

    def test_published_states_are_restored(self, shard: ShardUnderTest) -> None:
        log = shard.new_log()
        log.open()
        first = changed(None, 1)
        log.publish(first)
        second = changed(first.states[0], 2)
        log.publish(second)
        other = changed(None, 3, "ETHUSDT")
        log.publish(other)
        restored = shard.new_log().open()
        assert restored.states == {
            "BTCUSDT": second.states[0],
            "ETHUSDT": other.states[0],
        }
        assert restored.records == 3

    def test_published_events_are_committed_in_order(
        self, shard: ShardUnderTest
    ) -> None:
        log = shard.new_log()
        log.open()
        first = changed(None, 1)
        log.publish(first)
        log.publish(changed(first.states[0], 2))
        assert hvl_of(shard.committed()) == [(1, 1.0), (2, 2.0)]

    def test_the_last_writer_and_its_used_budget_are_restored(
        self, shard: ShardUnderTest
    ) -> None:
        log = shard.new_log()
        log.open()
        first = changed(None, 1)
        log.publish(replace(first, used_fraction=0.5))
        (state,) = changed(None, 2, "ETHUSDT").states
        other = replace(ME, worker="another", group="others")
        by_another = replace(state, source=other)
        log.publish(Transaction(states=(by_another,), used_fraction=0.25))
        restored = shard.new_log().open()
        assert restored.writer is not None
        assert (restored.writer.worker, restored.writer.group) == ("another", "others")
        assert restored.used_fraction == 0.25

    def test_a_refused_record_takes_its_whole_transaction_along(
        self, shard: ShardUnderTest
    ) -> None:
        log = shard.new_log()
        log.open()
        first = changed(None, 1)
        log.publish(first)
        with pytest.raises(Unpublishable):
            log.publish(too_large(changed(first.states[0], 2)))
        assert hvl_of(shard.committed()) == [(1, 1.0)]
        assert log.open().states == {"BTCUSDT": first.states[0]}

    def test_a_newer_owner_fences_the_older(self, shard: ShardUnderTest) -> None:
        older, newer = shard.new_log(), shard.new_log()
        older.open()
        first = changed(None, 1)
        older.publish(first)
        assert newer.open().states == {"BTCUSDT": first.states[0]}
        with pytest.raises(ShardFenced):
            older.publish(changed(first.states[0], 2))
        newer.publish(changed(first.states[0], 3))
        assert hvl_of(shard.committed()) == [(1, 1.0), (2, 3.0)]

    @pytest.mark.parametrize("fail", ["fence", "refuse"])
    def test_after_an_error_the_log_must_be_opened_again(
        self, shard: ShardUnderTest, fail: str
    ) -> None:
        log = shard.new_log()
        log.open()
        first = changed(None, 1)
        if fail == "fence":
            shard.new_log().open()
            with pytest.raises(ShardFenced):
                log.publish(first)
        else:
            with pytest.raises(Unpublishable):
                log.publish(too_large(first))
        with pytest.raises(KafkaUnavailable, match="not open"):
            log.publish(first)
        assert log.open().states == {}
        log.publish(first)
        assert hvl_of(shard.committed()) == [(1, 1.0)]

    def test_publishing_before_opening_is_refused(self, shard: ShardUnderTest) -> None:
        with pytest.raises(KafkaUnavailable, match="not open"):
            shard.new_log().publish(changed(None, 1))

    def test_a_dropped_log_must_be_opened_again(self, shard: ShardUnderTest) -> None:
        log = shard.new_log()
        log.open()
        log.abort()
        log.abort()
        with pytest.raises(KafkaUnavailable, match="not open"):
            log.publish(changed(None, 1))
        log.open()
        log.publish(changed(None, 1))
        assert hvl_of(shard.committed()) == [(1, 1.0)]

    def test_an_abandoned_log_can_be_opened_again(self, shard: ShardUnderTest) -> None:
        log = shard.new_log()
        log.open()
        log.abandon()
        log.abort()
        log.open()
        log.publish(changed(None, 1))
        assert hvl_of(shard.committed()) == [(1, 1.0)]

    def test_callbacks_can_be_served_at_any_time(self, shard: ShardUnderTest) -> None:
        log = shard.new_log()
        steps: list[Callable[[], object]] = [
            log.open,
            lambda: log.publish(changed(None, 1)),
            log.abandon,
            log.abort,
        ]
        log.serve_callbacks()
        for step in steps:
            step()
            log.serve_callbacks()

    def test_nothing_waits_in_the_client_between_transactions(
        self, shard: ShardUnderTest
    ) -> None:
        log = shard.new_log()
        waiting = [log.waiting]
        log.open()
        waiting.append(log.waiting)
        log.publish(changed(None, 1))
        waiting.append(log.waiting)
        assert waiting == [0, 0, 0]
