"""A worker whose own clock is wrong says so, and waits until it is right."""

from __future__ import annotations

import asyncio
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

import pytest

from connector.errors import KafkaUnavailable
from connector.runtime.clock import Clock
from connector.runtime.clock_watch import ClockWatch
from tests.support.levels import NOW, SECOND
from tests.support.wall_clock import set_clock

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

HOUR = 3600
# A timestamp in whole seconds may stand for any moment of its second.
ODD = 1
# A wrong clock that nobody sets is compared again after so many turns.
LOOK_TURNS = 10


class World:
    """The brokers' clock, None if it cannot be measured, and a watch that looks on demand."""

    def __init__(self) -> None:
        self.difference: float | None = 0.0
        self.judged: list[tuple[bool, float | None]] = []
        self.looks = 0
        self.clock = Clock(has_witness=True)
        self.pool = ThreadPoolExecutor(1)
        self._turns = asyncio.Semaphore(0)
        self._asleep = asyncio.Event()
        self.watch = ClockWatch(
            self,
            self.clock,
            self.pool,
            lambda is_wrong, seconds: self.judged.append((is_wrong, seconds)),
            self._sleep,
        )
        self.task = asyncio.create_task(self.watch.run())

    def difference_seconds(self) -> float:
        self.looks += 1
        if self.difference is None:
            raise KafkaUnavailable("no answer")
        return self.difference

    def is_wrong(self) -> bool:
        return self.watch.is_wrong

    def levels_wait(self) -> bool:
        return self.clock.needs_confirmation

    async def _sleep(self, _seconds: float) -> None:
        self._asleep.set()
        await self._turns.acquire()

    async def turn(self, count: int = 1) -> None:
        """Let the watch look, and wait until it sleeps again."""
        for _ in range(count):
            await self._asleep.wait()
            self._asleep.clear()
            self._turns.release()
            await self._asleep.wait()

    def upstream_differs(self, seconds: int) -> None:
        for _ in range(3):
            self.clock.learn(NOW, NOW, NOW + seconds * SECOND + ODD)


@pytest.fixture
async def world() -> AsyncIterator[World]:
    world = World()
    yield world
    world.task.cancel()
    await asyncio.wait([world.task])
    world.pool.shutdown()


async def test_nobody_is_asked_without_a_reason(world: World) -> None:
    world.upstream_differs(20)
    await world.turn(3)
    assert world.looks == 0
    assert world.watch.why_not_ready() == []


@pytest.mark.parametrize("seconds", [-600, 600])
async def test_our_clock_is_wrong_if_brokers_and_upstream_say_so(
    world: World, seconds: int
) -> None:
    world.difference = float(seconds)
    world.upstream_differs(seconds)
    await world.turn()

    assert world.is_wrong()
    assert world.judged[-1] == (True, float(seconds))
    side = "behind" if seconds > 0 else "ahead of"
    [reason] = world.watch.why_not_ready()
    assert f"600 s {side} the brokers' and 600 s {side} the API's" in reason


async def test_the_upstreams_clock_is_wrong_if_the_brokers_agree_with_ours(
    world: World,
) -> None:
    world.difference = 20.0
    world.upstream_differs(HOUR)
    assert world.levels_wait()
    await world.turn(3)

    assert not world.is_wrong()
    assert not world.levels_wait()
    assert world.looks == 1


async def test_levels_do_not_wait_for_ever_for_brokers_that_do_not_answer(
    world: World,
) -> None:
    world.difference = None
    world.upstream_differs(HOUR)
    await world.turn(2)
    assert world.levels_wait()
    await world.turn()
    assert not world.levels_wait()
    assert not world.is_wrong()


@pytest.mark.parametrize("difference", [-2.0 * HOUR, 90.0, None])
async def test_a_refused_time_is_explained_by_a_wrong_clock(
    world: World, difference: float | None
) -> None:
    world.difference = difference
    assert await world.watch.explains_refusal()
    assert world.is_wrong()
    # Another shard's record needs no other look.
    assert await world.watch.explains_refusal()
    assert world.looks == 1
    [reason] = world.watch.why_not_ready()
    assert "this machine's clock is" in reason


async def test_a_refused_time_is_not_explained_by_a_right_clock(world: World) -> None:
    world.difference = 2.0
    assert not await world.watch.explains_refusal()
    assert not world.is_wrong()


async def test_the_worker_goes_on_once_the_clock_is_right(world: World) -> None:
    world.difference = -2.0 * HOUR
    await world.watch.explains_refusal()
    await world.turn(LOOK_TURNS)
    assert world.is_wrong()
    assert world.looks == 2

    world.difference = 0.5
    await world.turn(LOOK_TURNS)

    assert not world.is_wrong()
    assert world.judged[-1] == (False, 0.5)


async def test_the_worker_tries_again_if_the_brokers_clock_cannot_be_measured(
    world: World,
) -> None:
    world.difference = None
    await world.watch.explains_refusal()
    await world.turn(30 * LOOK_TURNS - 1)
    assert world.is_wrong()
    await world.turn()
    assert not world.is_wrong()


async def test_a_clock_that_was_set_is_compared_at_once(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    world.difference = -2.0 * HOUR
    await world.watch.explains_refusal()
    await world.turn()
    assert world.looks == 1

    # As after the restart of a broker: the first answer fails.
    set_clock(monkeypatch, -2 * HOUR)
    world.difference = None
    await world.turn()
    assert world.is_wrong()
    world.difference = 0.0
    await world.turn()

    assert not world.is_wrong()


async def test_a_clock_that_was_set_to_another_wrong_time_is_compared_once(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    world.difference = -2.0 * HOUR
    await world.watch.explains_refusal()
    set_clock(monkeypatch, HOUR)
    await world.turn(LOOK_TURNS - 1)
    assert world.looks == 2
    assert world.is_wrong()


async def test_a_clock_that_is_set_while_it_is_compared_is_compared_again_at_once(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    def difference_seconds() -> float:
        set_clock(monkeypatch, -2 * HOUR)
        return -2.0 * HOUR

    with monkeypatch.context() as first_look:
        first_look.setattr(world, "difference_seconds", difference_seconds)
        await world.watch.explains_refusal()
    await world.turn(2)

    assert world.looks == 1
    assert not world.is_wrong()
