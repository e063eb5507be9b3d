"""A request of the budget: waiting for it, counting it, and ending it."""

from __future__ import annotations

import asyncio

import pytest

from connector.upstream.budget import Budget


class Clock:
    """A clock that stops until a test sets it."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.mark.parametrize("ending", ["normally", "by an error", "by cancellation"])
async def test_a_request_counts_until_a_minute_after_its_block_was_left(
    ending: str, clock: Clock
) -> None:
    budget = Budget(1, clock)

    async def send() -> None:
        async with budget.request():
            # In flight it counts for as long as it takes: the server may count it late.
            assert budget.spending(500.0).sent_last_minute == 1
            clock.now = 510.0
            if ending == "by an error":
                raise OSError
            if ending == "by cancellation":
                await asyncio.Event().wait()

    sending = asyncio.create_task(send())
    # Let the task run into its block. Cancelling a task that has ended does nothing.
    await asyncio.sleep(0)
    sending.cancel()
    await asyncio.wait([sending])

    assert budget.spending(569.9).sent_last_minute == 1
    assert budget.spending(570.0).sent_last_minute == 0


async def test_a_request_is_counted_from_the_moment_it_is_allowed(
    clock: Clock,
) -> None:
    budget = Budget(2, clock)

    async with budget.request() as first:
        clock.now = 7.0
        async with budget.request() as second:
            # The first request still counts, so a third one would have to wait.
            wait_seconds = budget.spending(7.0).wait_seconds

    assert first.started_at == 0.0
    assert second.started_at == 7.0
    assert wait_seconds > 0


async def test_the_first_to_wait_goes_first_and_a_cancelled_one_leaves_the_queue(
    clock: Clock,
) -> None:
    budget = Budget(1, clock)
    started: list[tuple[str, float]] = []
    has_started = asyncio.Event()

    async def send(name: str) -> None:
        async with budget.request():
            started.append((name, clock.now))
            has_started.set()

    # The limit only ends a test that would hang.
    async with asyncio.timeout(60):
        await send("first")
        first_waiter = asyncio.create_task(send("a"))
        cancelled = asyncio.create_task(send("b"))
        last_waiter = asyncio.create_task(send("c"))
        # Let all three queue before one of them gives up.
        await asyncio.sleep(0)
        cancelled.cancel()

        for _ in range(2):
            has_started.clear()
            clock.now += 60.0
            await has_started.wait()
        await asyncio.gather(first_waiter, last_waiter)

    # "c" does not wait for a minute of "b".
    assert started == [
        ("first", 0.0),
        ("a", 60.0),
        ("c", 120.0),
    ]
