"""A request of the budget: waiting for it, counting it, and ending it."""

from __future__ import annotations

import asyncio

import pytest

from connector.upstream.budget import Budget


class Clock:
    """A clock that stands still until it is set."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.mark.parametrize("how", ["normally", "by an error", "by cancellation"])
async def test_a_request_counts_until_a_minute_after_its_block_was_left(
    how: str,
) -> None:
    clock = Clock()
    budget = Budget(1, clock)

    async def send() -> None:
        async with budget.request():
            # In flight it counts for as long as it takes.
            assert budget.spending(500.0).sent_last_minute == 1
            clock.now = 510.0
            if how == "by an error":
                raise OSError
            if how == "by cancellation":
                await asyncio.Event().wait()

    sending = asyncio.create_task(send())
    await asyncio.sleep(0)
    sending.cancel()
    await asyncio.wait([sending])
    assert budget.spending(569.9).sent_last_minute == 1
    assert budget.spending(570.0).sent_last_minute == 0


async def test_a_request_is_counted_from_the_moment_it_is_allowed() -> None:
    clock = Clock()
    budget = Budget(2, clock)
    async with budget.request() as first:
        clock.now = 7.0
        async with budget.request() as second:
            assert (first.started_at, second.started_at) == (0.0, 7.0)
            assert budget.spending(7.0).wait_seconds > 0


async def test_who_came_first_goes_first_and_who_gave_up_does_not_count() -> None:
    clock = Clock()
    budget = Budget(1, clock)
    started: list[tuple[str, float]] = []
    started_one = asyncio.Event()

    async def send(name: str) -> None:
        async with budget.request():
            started.append((name, clock.now))
            started_one.set()

    async with asyncio.timeout(10):
        await send("first")
        waiting = [asyncio.create_task(send(name)) for name in ("a", "b", "c")]
        await asyncio.sleep(0)
        waiting.pop(1).cancel()
        for _ in waiting:
            started_one.clear()
            clock.now += 60.0
            await started_one.wait()
        await asyncio.gather(*waiting)
    assert started == [("first", 0.0), ("a", 60.0), ("c", 120.0)]
