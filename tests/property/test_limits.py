"""The budget, as the server counts it: a request counts when it arrives, at some moment between start and answer."""

from __future__ import annotations

import heapq
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from connector.core.decode import RateLimit
from connector.source.limits import MINUTE_SECONDS, Limiter

quick = settings(deadline=None, derandomize=True, max_examples=200)

# How long a request takes, and at which part of that time the server counts it.
requests = st.lists(
    st.tuples(st.sampled_from([0.0, 0.1, 5.0, 59.5, 60.0, 70.0]) | st.floats(0, 90), st.floats(0, 1)),
    min_size=1,
    max_size=40,
)
pauses = st.lists(st.sampled_from([0.0, 0.0, 0.0, 1.0, 30.0, 60.0]) | st.floats(0, 70), min_size=1, max_size=10)


def arrivals(limiter: Limiter, wanted: list[tuple[float, float]], pauses: list[float]) -> list[float]:
    """Start every request as soon as allowed after its pause; the moments at which the server counts them."""
    now, counted, answers = 0.0, list[float](), list[float]()
    for number, (takes, part) in enumerate(wanted):
        now += pauses[number % len(pauses)]
        while True:
            while answers and answers[0] <= now:
                limiter.ended(heapq.heappop(answers))
            wait = limiter.wait_seconds(now)
            if not wait:
                break
            now = min(now + wait, answers[0]) if answers else now + wait
        limiter.started()
        heapq.heappush(answers, now + takes)
        counted.append(now + takes * part)
    return sorted(counted)


def most_in_a_minute(moments: list[float]) -> int:
    """The largest number of moments in any 60 seconds, the first of them included."""
    return max(sum(start <= moment < start + MINUTE_SECONDS - 1e-6 for moment in moments) for start in moments)


@quick
@given(requests, pauses, st.integers(1, 7))
def test_no_sliding_minute_of_the_server_sees_more_than_the_budget(
    wanted: list[tuple[float, float]], pauses: list[float], budget: int
) -> None:
    assert most_in_a_minute(arrivals(Limiter(budget), wanted, pauses)) <= budget


@quick
@given(requests, st.integers(1, 20), st.floats(0.01, 1))
def test_a_share_of_the_budget_is_held_as_well(wanted: list[tuple[float, float]], budget: int, share: float) -> None:
    limiter = Limiter(budget)
    limiter.share = share
    assert most_in_a_minute(arrivals(limiter, wanted, [0.0])) <= max(budget * share, 1)


@quick
@given(st.integers(1, 60), st.integers(1, 8))
def test_shares_do_not_add_up_to_more_than_the_whole(budget: int, workers: int) -> None:
    limiters = [Limiter(budget) for _ in range(workers)]
    for limiter in limiters:
        limiter.share = 1 / workers
    assert sum(limiter.limit for limiter in limiters) <= max(budget, workers)


def test_the_whole_budget_can_be_used_at_once_and_again_a_minute_after_the_answers() -> None:
    limiter = Limiter(3)
    for _ in range(3):
        assert limiter.wait_seconds(100.0) == 0
        limiter.started()
    assert limiter.wait_seconds(100.0) > 0
    for _ in range(3):
        limiter.ended(102.0)
    assert limiter.wait_seconds(110.0) == pytest.approx(52.0)
    assert limiter.wait_seconds(162.0) == 0


def test_a_wait_ends_when_the_first_of_many_is_a_minute_old() -> None:
    limiter = Limiter(2)
    for now in (0.0, 10.0):
        limiter.started()
        limiter.ended(now)
    assert limiter.wait_seconds(20.0) == pytest.approx(40.0)
    limiter.learn(RateLimit(limit=1), None, 20.0)
    assert limiter.wait_seconds(20.0) == pytest.approx(50.0)


@pytest.mark.parametrize(("said", "limit"), [(30, 30), (90, 60), (None, 60), (0, 60), (-1, 60), (1, 1)])
def test_the_lower_of_our_limit_and_the_servers_counts(said: int | None, limit: int) -> None:
    limiter = Limiter(60)
    limiter.learn(RateLimit(limit=said), None, 0.0)
    assert limiter.limit == limit


def test_a_limit_that_the_server_raises_again_counts() -> None:
    limiter = Limiter(60)
    for said, limit in ((30, 30), (120, 60), (None, 60)):
        limiter.learn(RateLimit(limit=said), None, 0.0)
        assert limiter.limit == limit


def test_nothing_is_asked_while_the_server_says_that_nothing_is_left() -> None:
    limiter = Limiter(60)
    limiter.learn(RateLimit(remaining=0), 12.5, 100.0)
    assert limiter.wait_seconds(100.0) == pytest.approx(12.5)
    assert limiter.wait_seconds(112.0) == pytest.approx(0.5)
    assert limiter.wait_seconds(112.5) == 0


def test_what_is_in_flight_comes_off_what_the_server_said_is_left() -> None:
    limiter = Limiter(60)
    limiter.learn(RateLimit(remaining=2), 30.0, 0.0)
    for _ in range(2):
        assert limiter.wait_seconds(1.0) == 0
        limiter.started()
    assert limiter.wait_seconds(1.0) > 0


@quick
@given(st.integers(0, 5), st.lists(st.booleans(), max_size=12))
def test_what_is_left_is_never_exceeded_before_the_reset_answered_or_not(left: int, answered: list[bool]) -> None:
    limiter = Limiter(60)
    limiter.learn(RateLimit(remaining=left), 30.0, 0.0)
    started = 0
    for with_figures in answered:
        if limiter.wait_seconds(1.0):
            break
        limiter.started()
        started += 1
        limiter.ended(1.0)
        limiter.learn(RateLimit(remaining=left - started) if with_figures else RateLimit(), 29.0, 1.0)
    assert started == min(left, len(answered))


@pytest.mark.parametrize(("given", "wait"), [(-5.0, 0.0), (0.0, 0.0), (3600.0, 60.0)])
def test_a_reset_is_believed_for_a_minute_at_most(given: float, wait: float) -> None:
    limiter = Limiter(60)
    limiter.learn(RateLimit(remaining=0), given, 0.0)
    assert limiter.wait_seconds(0.0) == wait


def test_figures_without_a_reset_hold_nothing() -> None:
    limiter = Limiter(60)
    limiter.learn(RateLimit(remaining=0), None, 0.0)
    assert limiter.wait_seconds(0.0) == 0


@quick
@given(
    st.lists(st.tuples(st.none() | st.integers(-9, 9), st.none() | st.integers(-9, 9), st.none() | st.floats(-99, 99)))
)
def test_the_server_never_raises_the_budget_and_never_stops_it_for_good(figures: list[Any]) -> None:
    limiter = Limiter(5)
    for limit, remaining, reset in figures:
        limiter.learn(RateLimit(limit, remaining, reset), reset, 0.0)
        assert 1 <= limiter.limit <= 5
    assert limiter.wait_seconds(60.0) == 0
    assert most_in_a_minute(arrivals(limiter, [(0.0, 0.0)] * 12, [0.0])) <= 5
