"""The judgement if a plan of checks keeps levels fresh."""

from __future__ import annotations

import pytest

from connector.schedule.freshness import Freshness, longest_fresh_interval

STALE_AFTER_SECONDS = 90.0
# Levels may be 30 s old when a check finds them.
LONGEST_SECONDS = 60.0
SLOW_SECONDS = LONGEST_SECONDS + 1
# Fast enough on average, but checks are not evenly spaced.
NEAR_SECONDS = LONGEST_SECONDS - 1
FAST_SECONDS = 0.8 * LONGEST_SECONDS
# Long after the first judgement.
LATER = 1_000.0


def settled(interval_seconds: float) -> Freshness:
    """Return the judgement of a plan that has been the same for long."""
    freshness = Freshness(STALE_AFTER_SECONDS)
    freshness.follow(interval_seconds, 0.0)
    freshness.follow(interval_seconds, LATER)
    return freshness


@pytest.mark.parametrize(
    ("stale_after_seconds", "expected"),
    [
        (90.0, 60.0),
        (300.0, 270.0),
        # Levels of any age are soon stale. More checks than this would not help.
        (60.0, 30.0),
        (30.0, 15.0),
        (3.0, 1.5),
    ],
)
def test_the_longest_interval_leaves_time_for_levels_that_arrive_old(
    stale_after_seconds: float, expected: float
) -> None:
    assert longest_fresh_interval(stale_after_seconds) == expected


@pytest.mark.parametrize(
    ("interval_seconds", "is_kept"),
    [(1.0, True), (LONGEST_SECONDS, True), (SLOW_SECONDS, False), (150.0, False)],
)
def test_a_plan_is_judged_at_once(interval_seconds: float, is_kept: bool) -> None:
    freshness = Freshness(STALE_AFTER_SECONDS)

    freshness.follow(interval_seconds, 0.0)

    assert freshness.is_kept is is_kept


def test_before_anything_is_known_levels_count_as_kept_fresh() -> None:
    assert Freshness(STALE_AFTER_SECONDS).is_kept


def test_a_plan_that_is_slow_for_a_minute_is_not_judged_as_slow() -> None:
    freshness = settled(NEAR_SECONDS)

    # The requests of a previous owner count as spent.
    judgements = []
    for interval, after_seconds in (
        (SLOW_SECONDS, 1),
        (SLOW_SECONDS, 61),
        (NEAR_SECONDS, 62),
        (SLOW_SECONDS, 122),
        (SLOW_SECONDS, 242),
    ):
        freshness.follow(interval, LATER + after_seconds)
        judgements.append(freshness.is_kept)

    # The last one: slow for two minutes without a break.
    assert judgements == [True, True, True, True, False]


def test_a_slow_plan_near_the_limit_stays_slow_until_it_is_clearly_fast() -> None:
    freshness = settled(SLOW_SECONDS)

    judgements = []
    for interval in (NEAR_SECONDS, FAST_SECONDS, NEAR_SECONDS):
        freshness.follow(interval, LATER + 1)
        judgements.append(freshness.is_kept)

    assert judgements == [False, True, True]


@pytest.mark.parametrize(
    ("interval_seconds", "is_kept"), [(FAST_SECONDS, True), (NEAR_SECONDS, False)]
)
def test_levels_that_become_stale_show_that_a_plan_near_the_limit_is_slow(
    interval_seconds: float, *, is_kept: bool
) -> None:
    freshness = settled(interval_seconds)

    freshness.became_stale(LATER)
    freshness.follow(interval_seconds, LATER + 1)
    assert freshness.is_kept is is_kept
    freshness.follow(interval_seconds, LATER + 3_599)
    assert freshness.is_kept is is_kept


def test_a_plan_near_the_limit_is_tried_again_after_an_hour() -> None:
    freshness = settled(NEAR_SECONDS)
    freshness.became_stale(LATER)

    freshness.follow(NEAR_SECONDS, LATER + 3_600)

    assert freshness.is_kept


def test_the_first_minutes_of_a_plan_leave_nothing_behind() -> None:
    freshness = Freshness(STALE_AFTER_SECONDS)

    # As after a take-over: the requests of the previous owner count as spent.
    freshness.follow(SLOW_SECONDS, 0.0)
    freshness.follow(NEAR_SECONDS, 61.0)

    assert freshness.is_kept


def test_other_symbols_begin_another_judgement() -> None:
    freshness = settled(NEAR_SECONDS)

    freshness.restart()
    freshness.follow(SLOW_SECONDS, LATER + 1)

    assert not freshness.is_kept
