"""The moments at which requests may start under a budget."""

from __future__ import annotations

import pytest

from connector.schedule.pace import Pace


def take_until(pace: Pace, end: float, now: float = 0.0) -> int:
    """Start each request as soon as it may start. Return their number."""
    requests = 0
    while True:
        now = max(now, pace.ready_at)
        if now >= end:
            return requests
        pace.take(now)
        requests += 1


def take_at_once(pace: Pace, requests: int, now: float) -> None:
    """Start requests at the same moment. Each must find a token."""
    for _ in range(requests):
        assert pace.ready_at <= now
        pace.take(now)


# The smallest one is what a Starter plan's month affords.
@pytest.mark.parametrize("budget", [0.23, 6.0, 54.0, 540.0])
def test_requests_follow_each_other_at_the_rate_of_the_budget(budget: float) -> None:
    pace = Pace.of(budget)

    requests_in_ten_minutes = take_until(pace, 600.0)

    # The first requests may start ahead of the rate.
    assert requests_in_ten_minutes == pytest.approx(10 * budget, abs=2)


# The budget is nine tenths of the limit. Tokens that were saved must not exceed the rest:
# at the hard limit, the schedule would be silent until the end of the minute.
@pytest.mark.parametrize("limit", [80, 120, 600])
def test_a_full_bucket_and_a_minute_of_budget_are_no_more_than_the_hard_limit(
    limit: int,
) -> None:
    budget = 0.9 * limit
    pace = Pace.of(budget)
    pace.take(0.0)
    idle_seconds = 1_000.0
    pace.set_budget(budget, idle_seconds)

    # A request at the end of the minute belongs to the next one, despite rounding.
    end_of_minute = idle_seconds + 60 - 1e-6
    requests = take_until(pace, end_of_minute, idle_seconds)

    assert requests <= limit


def test_saved_tokens_allow_a_few_requests_at_once() -> None:
    # A ninth of the budget is 12 tokens.
    pace = Pace.of(108.0)
    pace.take(0.0)

    take_at_once(pace, 12, now=100.0)

    assert pace.ready_at > 100.0


# A ninth of this budget would be less than a token: too few to search for a refresh.
def test_a_small_budget_allows_eight_requests_at_once() -> None:
    pace = Pace.of(6.0)
    pace.take(0.0)

    take_at_once(pace, 8, now=200.0)

    assert pace.ready_at == pytest.approx(210.0)


def test_requests_that_did_not_wait_are_made_up_for_within_a_minute() -> None:
    # One request a second.
    pace = Pace.of(60.0)

    for _ in range(10):
        pace.take(0.0)
    assert pace.ready_at == pytest.approx(10.0)

    # The debt is limited, so that a burst does not silence the worker for long.
    for _ in range(1_000):
        pace.take(0.0)
    assert pace.ready_at == pytest.approx(61.0)


def test_another_budget_changes_the_pace_from_now_on() -> None:
    pace = Pace.of(60.0)
    pace.take(0.0)

    # Half of a token is missing: 5 seconds at the new rate.
    pace.set_budget(6.0, 0.5)
    assert pace.ready_at == pytest.approx(5.5)

    pace.set_budget(60.0, 0.5)
    assert pace.ready_at == pytest.approx(1.0)


def test_a_clock_that_goes_back_adds_no_tokens() -> None:
    pace = Pace.of(60.0)
    pace.take(100.0)

    pace.set_budget(60.0, 50.0)

    assert pace.ready_at == pytest.approx(101.0)


@pytest.mark.parametrize("limit", [6, 60, 600])
def test_starved_batches_are_paced_at_the_hard_limit(limit: int) -> None:
    budget = 0.9 * limit
    pace = Pace.of(budget)
    pace.set_budget(budget, 0.0, is_starved=True)

    requests_in_ten_minutes = take_until(pace, 600.0)

    assert requests_in_ten_minutes == pytest.approx(10 * limit, abs=2)


def test_starved_batches_may_save_a_quarter_of_the_budget() -> None:
    pace = Pace.of(108.0)
    pace.set_budget(108.0, 0.0, is_starved=True)
    take_at_once(pace, 27, 100.0)
    assert pace.ready_at > 100.0


def test_saved_tokens_are_lost_when_batches_are_starved_no_longer() -> None:
    pace = Pace.of(108.0)
    pace.set_budget(108.0, 0.0, is_starved=True)
    pace.set_budget(108.0, 100.0, is_starved=False)
    take_at_once(pace, 12, 100.0)
    assert pace.ready_at > 100.0
