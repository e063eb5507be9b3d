"""Forecasts of a symbol's refreshes, learnt from the moments of the last ones."""

from __future__ import annotations

from itertools import pairwise
from math import inf, sqrt
from random import Random
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from connector.schedule.error_distribution import shape_of
from connector.schedule.forecast import USUAL_PERIOD_SECONDS, Forecast
from tests.support.profiles import cases

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from connector.schedule.inspection import Point

quick = cases(100)

# Slack for sums of floats.
TINY = 1e-9


def grid(
    count: int,
    period: float = 30.0,
    jitter: float = 0.3,
    seed: int = 1,
    start: float = 1_000.0,
) -> list[float]:
    """Return refreshes on a grid, whose jitter does not add up."""
    chance = Random(seed)
    moments = []
    for number in range(count):
        on_grid = start + number * period
        moments.append(on_grid + chance.gauss(0, jitter))
    return moments


def sleeping(
    count: int, period: float = 30.0, jitter: float = 0.3, seed: int = 1
) -> list[float]:
    """Return refreshes that each follow a sleep after the one before."""
    chance = Random(seed)
    at = 1_000.0
    moments = [at]
    for _ in range(count):
        at += period + chance.gauss(0, jitter)
        moments.append(at)
    return moments


def some_skipped(
    moments: Iterable[float], skipped_fraction: float, seed: int = 3
) -> list[float]:
    chance = Random(seed)
    return [at for at in moments if chance.random() > skipped_fraction]


def follow(forecast: Forecast, moments: Iterable[float]) -> list[float]:
    """Let a forecast learn refreshes that checks looked for until just before.

    Returns the errors of its predictions in seconds.
    """
    errors = []
    for at in moments:
        if forecast.phase is not None and forecast.period is not None:
            predicted = forecast.phase + forecast.period
            errors.append(at - predicted)
        forecast.learn(at, 0.0, at - 0.01)
    return errors


def learnt(moments: Iterable[float]) -> Forecast:
    forecast = Forecast(0.0)
    follow(forecast, moments)
    return forecast


def rms(errors: Sequence[float]) -> float:
    """Return the root of the mean square."""
    squares = [error * error for error in errors]
    return sqrt(sum(squares) / len(squares))


def value(curve: Sequence[Point], at: float) -> float:
    """Return the refreshes that are expected until `at`."""
    for before, after in pairwise(curve):
        if at <= after.at:
            increase = after.expected - before.expected
            part = (at - before.at) / (after.at - before.at)
            return before.expected + increase * part
    return curve[-1].expected


def expected(forecast: Forecast, since: float, seconds: float) -> float:
    """Return the refreshes that are expected in this time."""
    curve = forecast.curve(since, since + seconds)
    return curve[-1].expected


def last_of(forecast: Forecast) -> float:
    assert forecast.last is not None
    return forecast.last


def phase_of(forecast: Forecast) -> float:
    assert forecast.phase is not None
    return forecast.phase


# --- the first refreshes ---


@pytest.mark.parametrize("begun_at", [0.0, 500.0])
def test_before_anything_is_known_a_refresh_is_expected_every_30_seconds(
    begun_at: float,
) -> None:
    forecast = Forecast(begun_at)
    assert USUAL_PERIOD_SECONDS == 30
    assert forecast.last is None
    assert forecast.period is None
    assert forecast.phase is None
    assert forecast.jitter is None
    assert forecast.settled_by(begun_at + 7) == begun_at + 7
    first, last = forecast.curve(begun_at, begun_at + 60)
    assert tuple(first) == (begun_at, 0, 0)
    assert tuple(last) == (begun_at + 60, 2, 0)


def test_less_is_expected_the_longer_no_refresh_ever_came() -> None:
    forecast = Forecast(100.0)
    after_an_hour = expected(forecast, 3_700, 60)
    after_a_day = expected(forecast, 100_000, 60)
    assert after_an_hour == pytest.approx(60 / 3_600)
    assert 0 < after_a_day < after_an_hour


def test_one_refresh_does_not_make_a_rhythm() -> None:
    forecast = learnt([50.0])
    assert forecast.last == 50
    assert forecast.period is None
    assert expected(forecast, 60, 30) > 0.3


def test_two_refreshes_make_a_rhythm() -> None:
    forecast = learnt([50.0, 70.0])
    curve = forecast.curve(70, 120)
    assert forecast.period == pytest.approx(20)
    assert 70 <= forecast.settled_by(70.0) < 100
    assert value(curve, 80) < 0.1
    assert value(curve, 100) > 0.8


# --- precision ---


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("moments", [grid, sleeping])
@pytest.mark.parametrize("jitter", [0.05, 0.3, 1.0])
def test_the_next_refresh_is_predicted_as_well_as_its_jitter_allows(
    moments: Callable[[int, float, float, int], list[float]], jitter: float, seed: int
) -> None:
    """Predict grids and sleepers alike, which no single gain can.

    On a grid, a prediction from the last refresh alone has sqrt(2) times the error. For an
    upstream that sleeps after its work, the error of a grid grows without bound.
    """
    errors = follow(Forecast(0.0), moments(400, 30.0, jitter, seed))
    settled = errors[150:]
    assert rms(settled) < 1.18 * jitter


@pytest.mark.parametrize(
    ("moments", "followed_part"),
    [(grid(200), 0.1), (sleeping(200), 1.0)],
    ids=["grid", "sleeping"],
)
def test_a_late_refresh_moves_the_next_one_only_if_the_upstream_sleeps_after_work(
    moments: list[float], followed_part: float
) -> None:
    forecast = learnt(moments)
    predicted = phase_of(forecast) + 30
    late = last_of(forecast) + 30.5
    follow(forecast, [late])
    moved = phase_of(forecast) - predicted
    assert moved == pytest.approx(followed_part * (late - predicted), abs=0.15)


@pytest.mark.parametrize("period", [5.0, 30.0, 60.0, 300.0])
@pytest.mark.parametrize("jitter", [0.1, 0.3, 0.6])
def test_period_and_jitter_are_learnt(period: float, jitter: float) -> None:
    forecast = learnt(grid(150, period, jitter))
    assert forecast.period == pytest.approx(period, rel=0.003, abs=0.02)
    assert forecast.jitter == pytest.approx(jitter, rel=0.35)


# --- refreshes that nobody saw ---


def test_skipped_refreshes_do_not_change_the_period() -> None:
    forecast = learnt(some_skipped(grid(600), 0.2))
    assert forecast.period == pytest.approx(30, rel=0.003)
    assert forecast.jitter == pytest.approx(0.3, rel=0.35)


def test_fewer_refreshes_are_expected_if_some_are_skipped() -> None:
    def in_ten_periods(forecast: Forecast) -> float:
        return expected(forecast, last_of(forecast) + 10, 300)

    steady = learnt(grid(600))
    assert in_ten_periods(steady) == pytest.approx(10, rel=0.12)

    patchy = learnt(some_skipped(grid(600), 0.3))
    assert in_ten_periods(patchy) == pytest.approx(7, rel=0.12)

    # From now on, no refresh is skipped.
    next_on_grid = round(last_of(patchy), -1) + 30
    follow(patchy, grid(300, start=next_on_grid))
    assert in_ten_periods(patchy) == pytest.approx(10, rel=0.05)


@pytest.mark.parametrize("every", [2, 3, 7])
def test_refreshes_hidden_between_two_checks_count_as_several_periods(
    every: int,
) -> None:
    moments = grid(500)
    forecast = learnt(moments[:10])
    before = moments[9]
    for at in moments[9 + every :: every]:
        forecast.learn(at, 0.0, before + 0.1)
        before = at
    assert forecast.period == pytest.approx(30, rel=0.003)


def test_an_interval_that_checks_looked_into_counts_as_one_period() -> None:
    """Each interval of 60 s is twice the usual period, but no refresh was hidden in it."""
    forecast = learnt([0.0, 60.0, 120.0])
    assert forecast.period == pytest.approx(60)


def test_a_first_interval_that_no_check_looked_into_has_the_usual_period() -> None:
    forecast = Forecast(0.0)
    for at in (30.0, 90.0):
        forecast.learn(at, 0.0, at - 55)
    assert forecast.period == pytest.approx(30)


# --- changes of the rhythm ---


@pytest.mark.parametrize(
    ("before", "after"),
    [(30.0, 20.0), (20.0, 30.0), (60.0, 30.0), (30.0, 5.0), (30.0, 37.0)],
)
def test_a_new_period_is_followed_after_two_refreshes(
    before: float, after: float
) -> None:
    moments = grid(100, before)
    last = moments[-1]
    forecast = learnt(moments)
    follow(forecast, grid(3, after, 0.06, start=last + after))
    assert forecast.period == pytest.approx(after, rel=0.05)
    errors = follow(forecast, grid(40, after, start=last + 4 * after, seed=2))
    assert rms(errors) < 0.6


@pytest.mark.parametrize("jump", [-12.0, -5.0, 5.0, 12.0])
def test_a_new_phase_is_followed_after_two_refreshes(jump: float) -> None:
    forecast = learnt(grid(100))
    errors = follow(forecast, grid(20, start=4_000 + jump, seed=2))
    assert abs(errors[0]) > 4
    assert rms(errors[2:]) < 1.0
    assert forecast.period == pytest.approx(30, rel=0.02)


@pytest.mark.parametrize("late", [3.0, 5.0, 12.0, -4.0])
def test_a_single_outlier_hardly_moves_the_forecast(late: float) -> None:
    forecast = learnt(grid(101))
    follow(forecast, [4_030.0 + late])
    errors = follow(forecast, grid(10, start=4_060.0, seed=2))
    assert abs(errors[0]) < 1.2
    assert rms(errors) < 0.6
    assert forecast.period == pytest.approx(30, rel=0.01)


def test_two_surprises_that_disagree_hardly_move_the_forecast() -> None:
    forecast = learnt(grid(101))
    follow(forecast, [4_036.0, 4_054.0])
    errors = follow(forecast, grid(10, start=4_090.0, seed=2))
    assert rms(errors) < 0.7


def test_an_agreeing_surprise_long_after_the_first_does_not_move_the_phase() -> None:
    forecast = learnt(grid(101))
    follow(forecast, [4_036.0])
    follow(forecast, grid(10, start=4_060.0, seed=2))
    follow(forecast, [4_366.0])
    errors = follow(forecast, grid(5, start=4_390.0, seed=3))
    assert rms(errors) < 0.8


# --- outages ---


def test_less_is_expected_the_longer_an_outage_lasts_but_never_nothing() -> None:
    forecast = learnt(grid(100))
    amounts = []
    for silent in (45, 75, 105, 315, 1_005, 10_005):
        amounts.append(expected(forecast, last_of(forecast) + silent, 60))
    assert 1 < amounts[0] < 4
    for more, less in pairwise(amounts):
        assert less < more
    assert amounts[-1] > 0


def test_the_rhythm_survives_an_outage() -> None:
    forecast = learnt(grid(100))
    end = 1_000.0 + 30 * 119
    follow(forecast, [end])
    errors = follow(forecast, grid(10, start=end + 30, seed=2))
    assert rms(errors) < 0.5
    assert forecast.period == pytest.approx(30, rel=0.003)


# --- the curve ---


def test_within_a_window_the_pending_probability_falls_from_1_to_0() -> None:
    forecast = learnt(grid(200))
    since = last_of(forecast) + 10
    pending = [point.pending for point in forecast.curve(since, since + 30)]
    before, *window, after = pending
    assert before == after == 0
    assert window[0] == pytest.approx(1, abs=0.05)
    assert window[-1] == 0
    for sooner, later in pairwise(window):
        assert later <= sooner


def test_the_rest_of_a_window_is_more_likely_if_nothing_came_so_far() -> None:
    forecast = learnt(grid(200))
    since = last_of(forecast) + 10
    end = last_of(forecast) + 45
    before = forecast.curve(since, end)
    middle = next(point.at for point in before if point.expected >= 0.5)
    after = forecast.curve(middle, end)

    def conditional(expected: float) -> float:
        """Return the expectation, if the refresh did not come until the middle."""
        gone = value(before, middle)
        return (expected - gone) / (1 - gone)

    soon = middle + 0.15
    soon_after_all = conditional(value(before, soon))
    at_all = conditional(before[-1].expected)
    assert value(after, soon) == pytest.approx(soon_after_all, rel=1e-6)
    assert after[-1].expected == pytest.approx(at_all, rel=1e-6)
    assert after[0].pending == pytest.approx(after[-1].expected, rel=1e-6)
    assert after[0].pending < before[1].pending


def test_each_period_brings_one_refresh() -> None:
    forecast = learnt(grid(500, 10.0, 0.1))
    since = last_of(forecast) + 5
    curve = forecast.curve(since, since + 100)
    until = [value(curve, since + 10 * number) for number in range(11)]
    for sooner, later in pairwise(until):
        assert later - sooner == pytest.approx(1, rel=0.05)
    assert until[1] == pytest.approx(curve[-1].expected / 10, rel=0.05)


@pytest.mark.parametrize(
    ("since", "next_at"), [(5, 30), (29, 30), (40, 60), (299, None)]
)
def test_a_refresh_is_settled_by_the_end_of_the_next_window(
    since: float, next_at: float | None
) -> None:
    """Moments are in seconds after the last refresh."""
    forecast = learnt(grid(200))
    last = 1_000 + 199 * 30
    end = forecast.settled_by(last + since) - last
    assert end > since
    if next_at is not None:
        assert next_at < end < next_at + 5


def test_a_lag_moves_the_curve_but_not_the_rhythm() -> None:
    sooner = learnt(grid(200))
    later = Forecast(0.0)
    for at in grid(200):
        later.learn(at, 2.0, at - 0.01)
    assert later.phase == pytest.approx(sooner.phase)

    since = last_of(sooner) + 10
    sooner_curve = sooner.curve(since, since + 40)
    later_curve = later.curve(since, since + 40)
    for at in (since + 19.8, since + 20.2):
        without_lag = value(sooner_curve, at)
        assert value(later_curve, at + 2) == pytest.approx(without_lag, abs=0.02)


@pytest.mark.parametrize(
    "moments",
    [
        [10.0, 10.0],
        [10.0, 5.0],
        [10.0, 10.000_001],
        [10.0, 40.0, 70.0, 100.0, 130.0, 130.000_001, 130.000_002],
        [10.0, 40.0, 35.0, 30.0, 25.0, 20.0, 15.0],
    ],
    ids=[
        "equal",
        "older",
        "a microsecond apart",
        "a microsecond apart later",
        "ever older",
    ],
)
def test_refreshes_next_to_each_other_do_not_make_endless_windows(
    moments: list[float],
) -> None:
    forecast = learnt(moments)
    assert forecast.period is None or forecast.period > 0
    assert 131 <= forecast.settled_by(131.0) < inf
    assert len(forecast.curve(131.0, 191.0)) < 50_000


# An interval between two refreshes, and the part of it that no check looked into.
any_interval = st.tuples(st.floats(0.2, 200), st.floats(0, 1))


@quick
@given(
    intervals=st.lists(any_interval, max_size=40),
    lag=st.floats(0, 2),
    silent=st.floats(0, 500),
    ahead=st.floats(0.1, 120),
)
def test_a_curve_starts_at_zero_and_never_falls_whatever_was_learnt(
    intervals: list[tuple[float, float]], lag: float, silent: float, ahead: float
) -> None:
    forecast = Forecast(0.0)
    at = 100.0
    for seconds, hidden_part in intervals:
        at += seconds
        forecast.learn(at, lag, at - hidden_part * seconds)
    since = at + silent
    curve = forecast.curve(since, since + ahead)

    assert curve[0].at == since
    assert curve[0].expected == 0
    assert curve[-1].at >= since + ahead
    for sooner, later in pairwise(curve):
        assert sooner.at < later.at
        assert sooner.expected <= later.expected + TINY
    for point in curve:
        assert -TINY <= point.pending <= 1 + TINY
    assert since <= forecast.settled_by(since)
    assert forecast.period is None or forecast.period > 0


# --- the distribution of errors ---


@quick
@given(st.lists(st.floats(-5, 5), min_size=1, max_size=64), st.floats(0.1, 20))
def test_a_distribution_has_a_total_mass_of_1_and_a_tail_on_both_sides(
    errors: list[float], widest: float
) -> None:
    shape = shape_of(errors, widest)
    lowest = min(errors)
    highest = max(errors)
    assert shape.mass[0] == 0
    assert shape.mass[-1] == 1
    for less, more in pairwise(shape.at):
        assert less < more
    for less, more in pairwise(shape.mass):
        assert less <= more
    assert shape.below(shape.at[0] - 1) == 0
    assert shape.below(shape.at[-1] + 1) == 1
    assert shape.below(lowest - 0.001) < 0.6
    assert shape.at[0] >= lowest - widest - 0.001
    assert shape.at[-1] <= highest + widest + 0.01


def test_the_distribution_of_many_errors_fits_them() -> None:
    chance = Random(1)
    errors = [chance.uniform(0, 10) for _ in range(64)]
    shape = shape_of(errors, 15)
    for bound in (2, 4, 6, 8):
        count = len([error for error in errors if error <= bound])
        assert shape.below(bound) == pytest.approx(count / 64, abs=0.06)
    assert shape.below(min(errors)) <= 0.08
    assert shape.below(max(errors)) >= 0.92
