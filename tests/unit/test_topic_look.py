"""Topics are looked at rarely while all is well, and often while something is wrong."""

from __future__ import annotations

import asyncio
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

import pytest

from connector.runtime.topic_look import TopicLook

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

CALM_SECONDS = 20
TROUBLE_SECONDS = 2


class World:
    """A topic that has a fault on demand, and a look in virtual time."""

    def __init__(self) -> None:
        self.faults: dict[str, str] = {}
        self.is_gone = False
        self.has_trouble = False
        self.looked_at: list[float] = []
        self.shown: list[bool] = []
        self.now = 0.0
        self.pool = ThreadPoolExecutor(1)
        self._until = 0.0
        self._asleep = asyncio.Event()
        self._time_passes = asyncio.Event()
        look = TopicLook(
            self,
            ["changes"],
            self.pool,
            lambda _name, is_faulty: self.shown.append(is_faulty),
            lambda: self.has_trouble,
            self._sleep,
        )
        self.task = asyncio.create_task(look.run())

    def shows_fault(self) -> bool:
        return self.shown[-1]

    def look(self) -> None:
        self.looked_at.append(self.now)
        self.faults = {"changes": "topic changes is gone"} if self.is_gone else {}

    async def _sleep(self, seconds: float) -> None:
        ends_at = self.now + seconds
        while ends_at > self._until:
            self._time_passes.clear()
            self._asleep.set()
            await self._time_passes.wait()
        self.now = ends_at

    async def wait(self, seconds: float) -> None:
        """Let time pass, until the look sleeps for longer."""
        self._until += seconds
        self._asleep.clear()
        self._time_passes.set()
        await self._asleep.wait()


@pytest.fixture
async def world() -> AsyncIterator[World]:
    world = World()
    yield world
    world.task.cancel()
    await asyncio.wait([world.task])
    world.pool.shutdown()


async def test_looks_are_rare_while_all_is_well(world: World) -> None:
    await world.wait(3 * CALM_SECONDS)
    assert world.looked_at == [20, 40, 60]
    assert world.shown == [False, False, False]


async def test_a_topic_that_is_back_is_found_soon(world: World) -> None:
    world.is_gone = True
    await world.wait(CALM_SECONDS + TROUBLE_SECONDS)
    assert world.shows_fault()

    world.is_gone = False
    await world.wait(TROUBLE_SECONDS)
    assert not world.shows_fault()

    looks = len(world.looked_at)
    await world.wait(CALM_SECONDS - TROUBLE_SECONDS)
    assert len(world.looked_at) == looks


async def test_a_topic_that_is_gone_is_named_soon_after_transactions_fail(
    world: World,
) -> None:
    await world.wait(CALM_SECONDS)
    world.is_gone = True
    world.has_trouble = True
    await world.wait(TROUBLE_SECONDS)
    assert world.shows_fault()


async def test_the_first_look_gives_new_topics_time(world: World) -> None:
    world.has_trouble = True
    await world.wait(CALM_SECONDS - 1)
    assert world.looked_at == []
