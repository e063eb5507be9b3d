"""The order of the planned checks, with pauses and a pace."""

from __future__ import annotations

from connector.schedule.averages import Averages
from connector.schedule.batch_plan import BatchPlan
from connector.schedule.batches import Batch
from connector.schedule.checks import Purpose
from connector.schedule.due_queue import DueQueue

NO_PAUSE = float("-inf")
PACE_IS_READY = float("-inf")


def plan(name: str, at: float, purpose: Purpose = Purpose.EXPECTED) -> BatchPlan:
    made = BatchPlan(Batch("f", (name,)), [], Averages(1.0))
    made.set_next(at, purpose)
    return made


def queue_of(*plans: BatchPlan) -> DueQueue:
    queue = DueQueue()
    for each in plans:
        queue.add(each)
    return queue


def upcoming(
    queue: DueQueue,
    paused_until: float = NO_PAUSE,
    ready_at: float = PACE_IS_READY,
) -> tuple[float, str]:
    """Return the moment of the next check, and its only symbol."""
    found = queue.next(paused_until, ready_at)
    assert found is not None
    at, found_plan = found
    return at, found_plan.batch.symbols[0]


def test_empty_queue_has_no_next_check() -> None:
    assert DueQueue().next(NO_PAUSE, PACE_IS_READY) is None


def test_check_that_is_due_first_is_next() -> None:
    queue = queue_of(plan("late", 9.0), plan("early", 3.0), plan("middle", 5.0))
    assert upcoming(queue) == (3.0, "early")


def test_after_a_pause_the_check_that_was_due_first_is_next() -> None:
    queue = queue_of(plan("late", 9.0), plan("early", 3.0))
    assert upcoming(queue, paused_until=20.0) == (20.0, "early")


def test_first_check_does_not_wait_for_the_pace() -> None:
    queue = queue_of(plan("known", 3.0), plan("new", 5.0, Purpose.FIRST))
    assert upcoming(queue, ready_at=4.0) == (4.0, "known")
    assert upcoming(queue, ready_at=6.0) == (5.0, "new")
    assert upcoming(queue, paused_until=20.0, ready_at=6.0) == (20.0, "known")


def test_batch_that_was_planned_again_is_checked_at_its_new_moment_only() -> None:
    moved = plan("moved", 3.0)
    queue = queue_of(moved, plan("other", 5.0))
    moved.set_next(7.0, Purpose.EXPECTED)
    queue.add(moved)
    assert upcoming(queue) == (5.0, "other")

    moved.set_next(1.0, Purpose.EXPECTED)
    queue.add(moved)
    assert upcoming(queue) == (1.0, "moved")


def test_batch_in_flight_is_not_next() -> None:
    started = plan("started", 3.0)
    queue = queue_of(started, plan("other", 5.0))
    started.start(NO_PAUSE)
    assert upcoming(queue) == (5.0, "other")


def test_retry_at_the_moment_of_a_first_check_waits_for_the_pace() -> None:
    retried = plan("retried", 3.0, Purpose.FIRST)
    queue = queue_of(retried)
    retried.set_next(3.0, Purpose.RETRY)
    queue.add(retried)
    assert upcoming(queue, ready_at=8.0) == (8.0, "retried")


def test_a_batch_that_is_planned_again_and_again_in_a_pause_takes_no_more_room() -> (
    None
):
    waiting, moved = plan("waiting", 1.0), plan("moved", 2.0)
    queue = queue_of(waiting, moved)

    # The first check stays at the top, so nothing below it is ever dropped.
    for step in range(1_000):
        moved.set_next(2.0 + step, Purpose.EXPECTED)
        queue.add(moved)
        assert upcoming(queue, paused_until=5_000.0) == (5_000.0, "waiting")

    assert len(queue) < 200


def test_a_batch_that_is_planned_for_the_same_moment_again_takes_no_more_room() -> None:
    known, new = plan("known", 1.0), plan("new", 2.0, Purpose.FIRST)
    queue = queue_of(known, new)

    for _ in range(1_000):
        queue.add(known)
        queue.add(new)

    assert len(queue) < 200
    assert upcoming(queue) == (1.0, "known")
    known.start(NO_PAUSE)
    assert upcoming(queue) == (2.0, "new")
