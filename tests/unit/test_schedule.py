"""When each batch is checked. Written against what any schedule must hold, not against this one."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from connector.core.batches import Batch
from connector.core.schedule import SLOW_RETRY_SECONDS, Outcome, Plan, Schedule

quick = settings(deadline=None, derandomize=True, max_examples=150)


def batch(name: str, *, refused: bool = False) -> Batch:
    return Batch("f", (name,), refused)


def scheduled(*names: str, chance: float = 0.5, budget: float = 60_000, plan: Plan | None = None) -> Schedule:
    """With so much budget that only the plan counts."""
    schedule = Schedule(plan or Plan(), lambda: chance)
    schedule.budget_per_minute = budget
    schedule.cover([batch(name) for name in names], 0.0)
    return schedule


def run(schedule: Schedule, until: float, outcome: Outcome = Outcome.ANSWERED, takes: float = 0.05) -> list[float]:
    """The moments of the checks until then, each answered at once."""
    moments: list[float] = []
    now = 0.0
    while (planned := schedule.next()) is not None and max(planned[0], now) < until:
        now = max(planned[0], now)
        moments.append(now)
        schedule.started(planned[1])
        schedule.finished(planned[1], outcome, now, now + takes)
    return moments


def moment(schedule: Schedule) -> float:
    planned = schedule.next()
    assert planned is not None
    return planned[0]


def test_without_batches_there_is_nothing_to_wait_for() -> None:
    schedule = scheduled()
    assert schedule.next() is None
    schedule.cover([batch("A")], 5.0)
    assert moment(schedule) == 5.0


def test_new_batches_are_spread() -> None:
    schedule = scheduled(*"ABCDEFGH", plan=Plan(target_delay_seconds=4, min_interval_seconds=8))
    first: list[float] = []
    for _ in range(8):
        planned = schedule.next()
        assert planned is not None
        first.append(planned[0])
        schedule.started(planned[1])
    assert schedule.next() is None
    assert first[0] == 0
    assert first[-1] < 8
    assert all(later - sooner == pytest.approx(1) for sooner, later in pairwise(first))


def test_a_batch_in_flight_is_not_started_again() -> None:
    schedule = scheduled("A")
    schedule.started(batch("A"))
    assert schedule.next() is None
    schedule.cover([batch("A")], 100.0)
    assert schedule.next() is None
    schedule.finished(batch("A"), Outcome.ANSWERED, 0.0, 100.0)
    assert moment(schedule) >= 100.0


def test_a_batch_that_went_and_came_back_in_flight_is_not_started_again() -> None:
    schedule = scheduled("A", "B")
    schedule.started(batch("A"))
    schedule.cover([batch("B")], 1.0)
    schedule.cover([batch("A"), batch("B")], 2.0)
    schedule.started(batch("B"))
    assert schedule.next() is None
    schedule.finished(batch("A"), Outcome.ANSWERED, 0.0, 3.0)
    planned = schedule.next()
    assert planned is not None
    assert planned[1] == batch("A")


def test_a_batch_that_went_in_flight_is_forgotten_when_it_ends() -> None:
    schedule = scheduled("A")
    schedule.started(batch("A"))
    schedule.cover([], 1.0)
    schedule.finished(batch("A"), Outcome.FAILED, 0.0, 2.0)
    assert schedule.next() is None
    schedule.cover([batch("A")], 3.0)
    assert moment(schedule) == 3.0


@quick
@given(st.data())
def test_never_are_two_requests_for_a_batch_in_flight(data: st.DataObject) -> None:
    names = "ABC"
    schedule, now = scheduled(*names), 0.0
    in_flight: dict[Batch, float] = {}
    covered = {batch(name) for name in names}
    for _ in range(data.draw(st.integers(1, 30))):
        now += data.draw(st.floats(0, 30))
        act = data.draw(st.sampled_from(["start", "start", "end", "cover", "hold", "release"]))
        planned = schedule.next()
        if act == "start" and planned is not None and planned[0] <= now:
            assert planned[1] in covered
            assert planned[1] not in in_flight
            schedule.started(planned[1])
            in_flight[planned[1]] = now
        elif act == "end" and in_flight:
            one = data.draw(st.sampled_from(sorted(in_flight, key=lambda b: b.symbols)))
            schedule.finished(one, data.draw(st.sampled_from(Outcome)), in_flight.pop(one), now)
        elif act == "cover":
            covered = {batch(name) for name in data.draw(st.sets(st.sampled_from(names)))}
            schedule.cover(sorted(covered, key=lambda b: b.symbols), now)
        elif act == "hold":
            schedule.hold(now + 5)
        elif act == "release":
            schedule.hold_for_key(now + 60)
            schedule.release_for_key(now)
    waiting = covered - in_flight.keys()
    assert (schedule.next() is None) == (not waiting)


@pytest.mark.parametrize(
    ("target", "least", "interval"), [(0.4, 0.25, 0.8), (0.1, 0.25, 0.25), (30, 0.25, 60), (50, 0.25, 60)]
)
def test_a_batch_is_checked_as_often_as_the_target_delay_asks(target: float, least: float, interval: float) -> None:
    moments = run(scheduled("A", plan=Plan(target, least, 60)), 600)
    assert all(later - sooner == pytest.approx(interval) for sooner, later in pairwise(moments))


@quick
@given(st.integers(1, 120), st.integers(1, 12), st.floats(0.01, 20), st.floats(0.1, 60))
def test_the_budget_wins_over_every_wish(budget: int, count: int, target: float, longest: float) -> None:
    plan = Plan(target, 0.01, longest)
    schedule = scheduled(*(f"S{number}" for number in range(count)), budget=budget, plan=plan)
    moments = run(schedule, 600)
    # Not counting the first round, in which every batch has its first check.
    assert len(moments) - count <= budget * 10
    assert schedule.interval_seconds * budget >= 60 * count


@quick
@given(st.integers(1, 30), st.floats(0, 1, exclude_max=True))
def test_failures_back_off_with_jitter_that_is_bounded(failures: int, chance: float) -> None:
    schedule, now = scheduled("A", chance=chance), 0.0
    for count in range(1, failures + 1):
        schedule.started(batch("A"))
        schedule.finished(batch("A"), Outcome.FAILED, now, now)
        wait = moment(schedule) - now
        assert schedule.interval_seconds <= wait + 1e-9
        assert wait <= max(schedule.interval_seconds, min(60.0, 2.0**count)) + 1e-9
        now = moment(schedule)
    assert moment(schedule) >= now


def test_the_jitter_is_full() -> None:
    waits = []
    for chance in (0.0, 0.25, 0.5, 0.75):
        schedule = scheduled("A", chance=chance)
        for _ in range(10):
            schedule.started(batch("A"))
            schedule.finished(batch("A"), Outcome.FAILED, 0.0, 0.0)
        waits.append(moment(schedule))
    assert waits == [pytest.approx(schedule.interval_seconds), 15, 30, 45]


@pytest.mark.parametrize("refused", [False, True])
def test_failures_can_go_on_for_ever(refused: bool) -> None:
    schedule, one = Schedule(Plan(), lambda: 0.5), batch("A", refused=refused)
    schedule.cover([one], 0.0)
    for _ in range(5_000):
        schedule.started(one)
        schedule.finished(one, Outcome.FAILED, 0.0, 0.0)
    assert moment(schedule) <= 60


def test_an_answer_ends_the_back_off() -> None:
    schedule = scheduled("A", chance=0.99)
    for outcome in (*[Outcome.FAILED] * 9, Outcome.ANSWERED):
        schedule.started(batch("A"))
        schedule.finished(batch("A"), outcome, 100.0, 100.1)
    assert moment(schedule) == pytest.approx(100.0 + schedule.interval_seconds)


def test_a_refused_symbol_is_tried_slowly() -> None:
    schedule = Schedule(Plan(), lambda: 0.0)
    schedule.budget_per_minute = 60_000
    schedule.cover([batch("A", refused=True)], 0.0)
    moments = run(schedule, 601, Outcome.FAILED)
    assert all(later - sooner >= SLOW_RETRY_SECONDS for sooner, later in pairwise([0.0, *moments]))
    assert len(moments) >= 9


def test_a_hold_holds_every_batch_until_it_is_over() -> None:
    schedule = scheduled("A", "B")
    schedule.hold(50.0)
    assert moment(schedule) == 50.0
    schedule.hold(20.0)
    assert moment(schedule) == 50.0
    schedule.cover([batch("A"), batch("B"), batch("C")], 10.0)
    assert moment(schedule) == 50.0
    schedule.started(batch("A"))
    schedule.finished(batch("A"), Outcome.ANSWERED, 0.0, 10.0)
    assert moment(schedule) == 50.0


def test_a_hold_for_the_key_ends_with_the_key_and_every_batch_is_due() -> None:
    schedule = scheduled("A")
    schedule.started(batch("A"))
    schedule.finished(batch("A"), Outcome.ANSWERED, 0.0, 0.1)
    schedule.hold_for_key(50.0)
    assert moment(schedule) == 50.0
    schedule.release_for_key(1.0)
    assert moment(schedule) <= 1.0


def test_another_key_does_not_end_what_the_server_told_us_to_wait() -> None:
    schedule = scheduled("A")
    schedule.hold(50.0)
    schedule.hold_for_key(60.0)
    schedule.release_for_key(1.0)
    assert moment(schedule) == 50.0


def test_a_batch_that_was_there_keeps_its_place() -> None:
    schedule = scheduled("A")
    schedule.started(batch("A"))
    schedule.finished(batch("A"), Outcome.ANSWERED, 0.0, 0.1)
    planned = moment(schedule)
    schedule.cover([batch("A")], 0.2)
    assert moment(schedule) == planned


def test_a_slow_answer_does_not_make_two_checks_at_once() -> None:
    schedule = scheduled("A")
    schedule.started(batch("A"))
    schedule.finished(batch("A"), Outcome.ANSWERED, 0.0, 30.0)
    assert moment(schedule) == 30.0
