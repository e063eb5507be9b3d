"""Liveness and readiness, and the reasons against them."""

from __future__ import annotations

import pytest

from connector.core.model import MICROS
from connector.runtime.health import Health

# The fake wall clock shows this moment plus the seconds of the monotonic clock.
WALL_START = 1_700_000_000 * MICROS


class FakeClock:
    """Two clocks whose seconds pass when a test says so."""

    def __init__(self) -> None:
        self.seconds = 100.0

    def monotonic(self) -> float:
        return self.seconds

    def wall(self) -> int:
        return WALL_START + round(self.seconds * MICROS)


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


@pytest.fixture
def health(clock: FakeClock) -> Health:
    return Health(clock.monotonic, clock.wall)


# --- live ---


def test_a_worker_without_loops_is_live(health: Health) -> None:
    assert health.why_not_live() == []


def test_a_loop_may_be_silent_up_to_its_own_limit(
    health: Health, clock: FakeClock
) -> None:
    health.register("poll", 30)
    health.register("group", 5)

    # The limit itself is still fine.
    clock.seconds += 5
    assert health.why_not_live() == []

    clock.seconds += 1
    stalled = "loop group has made no progress for 6.0 s, its limit is 5 s"
    assert health.why_not_live() == [stalled]

    # Every stalled loop is named, not only the first.
    clock.seconds += 25
    assert len(health.why_not_live()) == 2


def test_a_stalled_loop_that_makes_progress_is_live_again(
    health: Health, clock: FakeClock
) -> None:
    health.register("poll", 30)
    clock.seconds += 31
    assert health.why_not_live()

    health.progress("poll")

    assert health.why_not_live() == []


def test_a_loop_that_ended_is_not_expected_to_make_progress(
    health: Health, clock: FakeClock
) -> None:
    health.register("shard", 1)
    health.unregister("shard")
    # A loop that ends may say so twice, and may report progress once more.
    health.unregister("shard")
    health.progress("shard")

    clock.seconds += 100

    assert health.why_not_live() == []
    assert health.progressed_at() == {}


def test_a_loop_that_is_registered_again_has_all_its_time(
    health: Health, clock: FakeClock
) -> None:
    health.register("shard", 1)
    clock.seconds += 10

    # The shard was lost and came back: the silence in between does not count.
    health.register("shard", 2)
    clock.seconds += 2

    assert health.why_not_live() == []


def test_a_step_of_the_wall_clock_stalls_no_loop() -> None:
    # The wall clock jumps to 1970 and back. A worker must not be killed for that.
    final = 1_900_000_000_000_000
    wall = iter([WALL_START, 5, final])

    def stopped_monotonic() -> float:
        return 1.0

    health = Health(stopped_monotonic, wall.__next__)
    health.register("poll", 1)
    health.progress("poll")
    health.progress("poll")

    assert health.why_not_live() == []
    assert health.progressed_at() == {"poll": final}


def test_progress_is_reported_in_microseconds_since_the_epoch(
    health: Health, clock: FakeClock
) -> None:
    health.register("poll", 30)
    clock.seconds += 1.5

    health.progress("poll")

    assert health.progressed_at() == {"poll": 1_700_000_101_500_000}


# --- ready ---


def test_a_worker_without_checks_is_starting(health: Health) -> None:
    # It would otherwise be ready before anything was set up.
    assert health.why_not_ready() == ["starting"]


def test_a_worker_is_ready_when_no_check_objects(health: Health) -> None:
    group = ["not joined"]
    shards = ["all/0 is not open", "all/1 is not open"]

    def check_group() -> list[str]:
        return group

    def check_shards() -> list[str]:
        return shards

    health.require(check_group)
    health.require(check_shards)
    assert health.why_not_ready() == [
        "not joined",
        "all/0 is not open",
        "all/1 is not open",
    ]

    group.clear()
    assert health.why_not_ready() == ["all/0 is not open", "all/1 is not open"]

    shards.clear()
    assert health.why_not_ready() == []


def test_a_worker_that_is_not_ready_is_live_all_the_same(health: Health) -> None:
    # A restart does not help against trouble outside, and loses what is in memory.
    def check_key() -> list[str]:
        return ["the key is refused"]

    health.require(check_key)

    assert health.why_not_live() == []
