"""Liveness and readiness, and the reasons against them."""

from __future__ import annotations

import pytest

from connector.runtime.health import Health


class FakeClock:
    """Two clocks whose seconds pass when a test says so."""

    def __init__(self) -> None:
        self.seconds = 100.0

    def monotonic(self) -> float:
        return self.seconds

    def wall(self) -> int:
        return 1_700_000_000_000_000 + round(self.seconds * 1_000_000)


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
    clock.seconds += 5
    assert health.why_not_live() == []
    clock.seconds += 1
    assert health.why_not_live() == [
        "loop group has made no progress for 6.0 s, its limit is 5 s"
    ]
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
    health.register("shard", 2)
    clock.seconds += 2
    assert health.why_not_live() == []


def test_a_step_of_the_wall_clock_stalls_no_loop() -> None:
    wall = iter([1_700_000_000_000_000, 5, 1_900_000_000_000_000])
    health = Health(lambda: 1.0, lambda: next(wall))
    health.register("poll", 1)
    health.progress("poll")
    health.progress("poll")
    assert health.why_not_live() == []
    assert health.progressed_at() == {"poll": 1_900_000_000_000_000}


def test_progress_is_reported_in_microseconds_since_the_epoch(
    health: Health, clock: FakeClock
) -> None:
    health.register("poll", 30)
    clock.seconds += 1.5
    health.progress("poll")
    assert health.progressed_at() == {"poll": 1_700_000_101_500_000}


# --- ready ---


def test_a_worker_without_checks_is_starting(health: Health) -> None:
    assert health.why_not_ready() == ["starting"]


def test_a_worker_is_ready_when_no_check_objects(health: Health) -> None:
    reasons: dict[str, list[str]] = {
        "group": ["not joined"],
        "shards": ["all/0 is not open", "all/1 is not open"],
    }
    health.require(lambda: reasons["group"])
    health.require(lambda: reasons["shards"])
    assert health.why_not_ready() == [
        "not joined",
        "all/0 is not open",
        "all/1 is not open",
    ]
    reasons["group"] = []
    assert health.why_not_ready() == ["all/0 is not open", "all/1 is not open"]
    reasons["shards"] = []
    assert health.why_not_ready() == []


def test_a_worker_that_is_not_ready_is_live_all_the_same(health: Health) -> None:
    health.require(lambda: ["the key is refused"])
    assert health.why_not_live() == []
