"""Partitions in which an open transaction hides records from consumers."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from connector.errors import KafkaUnavailable
from connector.kafka.held_back import HeldBackFinder

if TYPE_CHECKING:
    from connector.kafka.names import Partition

PATIENCE_SECONDS = 30
ONE: Partition = ("levels.all.changes", 1)
TWO: Partition = ("levels.all.changes", 2)


class World:
    """The ends of partitions, and a clock."""

    def __init__(self) -> None:
        self.now = 1000.0
        self.ends: dict[Partition, tuple[int, int] | None] = {}
        self.asked_for_ends = 0
        self.finder = HeldBackFinder(self, PATIENCE_SECONDS, lambda: self.now)

    def last_stable_offset(self, topic: str, partition: int) -> int:
        return self._ends(topic, partition)[0]

    def high_watermark(self, topic: str, partition: int) -> int:
        self.asked_for_ends += 1
        return self._ends(topic, partition)[1]

    def _ends(self, topic: str, partition: int) -> tuple[int, int]:
        ends = self.ends[topic, partition]
        if ends is None:
            raise KafkaUnavailable("no answer")
        return ends

    def look_after(self, seconds: float) -> list[tuple[str, int, int, int]]:
        self.now += seconds
        found = self.finder.look(self.ends)
        return [(one.topic, one.partition, one.offset, one.records) for one in found]


@pytest.fixture
def world() -> World:
    return World()


def test_a_partition_that_stays_behind_is_found_once_patience_is_over(
    world: World,
) -> None:
    world.ends = {ONE: (40, 45), TWO: (7, 7)}
    assert world.look_after(0) == []
    assert world.finder.suspects
    assert world.look_after(PATIENCE_SECONDS - 1) == []

    # Our own events come after the open transaction.
    world.ends[ONE] = (40, 52)
    assert world.look_after(1) == [(*ONE, 40, 12)]


def test_a_stable_offset_that_moves_starts_the_wait_again(world: World) -> None:
    world.ends = {ONE: (40, 45)}
    world.look_after(0)
    world.ends = {ONE: (41, 45)}
    assert world.look_after(PATIENCE_SECONDS) == []
    assert world.look_after(1) == []

    assert world.look_after(PATIENCE_SECONDS) == [(*ONE, 41, 4)]


def test_a_transaction_that_ends_is_forgotten(world: World) -> None:
    world.ends = {ONE: (40, 45)}
    world.look_after(0)
    assert world.look_after(PATIENCE_SECONDS) == [(*ONE, 40, 5)]

    world.ends = {ONE: (46, 46)}
    assert world.look_after(1) == []
    assert not world.finder.suspects


def test_a_busy_partition_costs_one_request_a_look(world: World) -> None:
    world.ends = {ONE: (1, 1)}
    world.look_after(0)
    for offset in range(2, 10):
        world.ends = {ONE: (offset, offset)}
        world.look_after(1)

    # Only the first look has nothing to compare with.
    assert world.asked_for_ends == 1


def test_a_topic_that_is_gone_does_not_hide_the_others(world: World) -> None:
    world.ends = {ONE: None, TWO: (7, 9)}
    world.look_after(0)
    assert world.look_after(PATIENCE_SECONDS) == [(*TWO, 7, 2)]


def test_without_a_broker_the_look_fails(world: World) -> None:
    world.ends = {ONE: None}
    with pytest.raises(KafkaUnavailable):
        world.look_after(0)


def test_nothing_to_watch_is_no_failure(world: World) -> None:
    assert world.look_after(0) == []
