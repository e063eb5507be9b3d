"""Alive and ready, and if not, why."""

from __future__ import annotations

import pytest

from connector.runtime.health import Health


class Clock:
    """Seconds that pass when told to."""

    def __init__(self) -> None:
        self.seconds = 100.0

    def monotonic(self) -> float:
        return self.seconds

    def wall(self) -> int:
        return 1_700_000_000_000_000 + round(self.seconds * 1_000_000)


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def health(clock: Clock) -> Health:
    return Health(clock.monotonic, clock.wall)


def test_a_worker_without_loops_is_alive(health: Health) -> None:
    assert health.why_not_live() == []


def test_a_loop_may_be_silent_up_to_its_own_limit_and_no_longer(
    health: Health, clock: Clock
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


def test_progress_brings_a_stalled_loop_back_to_life(
    health: Health, clock: Clock
) -> None:
    health.register("poll", 30)
    clock.seconds += 31
    assert health.why_not_live()
    health.progress("poll")
    assert health.why_not_live() == []


def test_a_loop_that_ended_is_not_waited_for(health: Health, clock: Clock) -> None:
    health.register("shard", 1)
    health.unregister("shard")
    health.unregister("shard")
    health.progress("shard")
    clock.seconds += 100
    assert health.why_not_live() == []
    assert health.progressed_at() == {}


def test_registering_again_starts_anew(health: Health, clock: Clock) -> None:
    health.register("shard", 1)
    clock.seconds += 10
    health.register("shard", 2)
    clock.seconds += 2
    assert health.why_not_live() == []


def test_a_clock_set_back_or_forth_stalls_nothing() -> None:
    wall = iter([1_700_000_000_000_000, 5, 1_900_000_000_000_000])
    health = Health(lambda: 1.0, lambda: next(wall))
    health.register("poll", 1)
    health.progress("poll")
    health.progress("poll")
    assert health.why_not_live() == []
    assert health.progressed_at() == {"poll": 1_900_000_000_000_000}


def test_progress_is_told_in_microseconds_since_the_epoch(
    health: Health, clock: Clock
) -> None:
    health.register("poll", 30)
    clock.seconds += 1.5
    health.progress("poll")
    assert health.progressed_at() == {"poll": 1_700_000_101_500_000}


def test_a_worker_that_nothing_is_required_of_yet_is_starting(health: Health) -> None:
    assert health.why_not_ready() == ["starting"]


def test_ready_is_when_no_check_has_anything_to_say(health: Health) -> None:
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


def test_what_is_not_ready_is_alive_all_the_same(health: Health) -> None:
    health.require(lambda: ["the key is refused"])
    assert health.why_not_live() == []
