"""Forecasts of a symbol's refreshes, learnt from the moments of the last ones."""

from __future__ import annotations

from itertools import pairwise
from math import inf, sqrt
from random import Random
from typing import TYPE_CHECKING

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from connector.schedule.error_distribution import shape_of
from connector.schedule.forecast import USUAL_PERIOD_SECONDS, Forecast

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from connector.schedule.inspection import Point

quick = settings(deadline=None, derandomize=True, max_examples=100)


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
        moments.append(start + number * period + chance.gauss(0, jitter))
    return moments


def sleeping(
    count: int, period: float = 30.0, jitter: float = 0.3, seed: int = 1
) -> list[float]:
    """Return refreshes that each follow a sleep after the one before."""
    chance = Random(seed)
    moments = [1_000.0]
    for _ in range(count):
        moments.append(moments[-1] + (period + chance.gauss(0, jitter)))
    return moments


def follow(forecast: Forecast, moments: Iterable[float]) -> list[float]:
    """Let a forecast learn refreshes that checks looked for until just before.

    Returns the errors of its predictions in seconds.
    """
    errors = []
    for at in moments:
        if forecast.phase is not None and forecast.period is not None:
            errors.append(at - forecast.phase - forecast.period)
        forecast.learn(at, 0.0, at - 0.01)
    return errors


def learnt(moments: Iterable[float]) -> Forecast:
    forecast = Forecast(0.0)
    follow(forecast, moments)
    return forecast


def rms(errors: Sequence[float]) -> float:
    return sqrt(sum(error * error for error in errors) / len(errors))


def value(curve: Sequence[Point], at: float) -> float:
    """Return the refreshes that are expected until `at`."""
    for before, after in pairwise(curve):
        if at <= after.at:
            increase = after.expected - before.expected
            part = (at - before.at) / (after.at - before.at)
            return before.expected + increase * part
    return curve[-1].expected


def expected(forecast: Forecast, since: float, until: float) -> float:
    return forecast.curve(since, until)[-1].expected


def last_of(forecast: Forecast) -> float:
    assert forecast.last is not None
    return forecast.last


def phase_of(forecast: Forecast) -> float:
    assert forecast.phase is not None
    return forecast.phase


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
    assert [*first, *last] == [begun_at, 0, 0, begun_at + 60, 2, 0]


def test_less_is_expected_the_longer_no_refresh_ever_came() -> None:
    forecast = Forecast(100.0)
    hour = expected(forecast, 3_700, 3_760)
    assert hour == pytest.approx(60 / 3_600)
    assert 0 < expected(forecast, 100_000, 100_060) < hour


def test_one_refresh_does_not_make_a_rhythm() -> None:
    forecast = learnt([50.0])
    assert forecast.last == 50
    assert forecast.period is None
    assert expected(forecast, 60, 90) > 0.3


def test_two_refreshes_make_a_rhythm() -> None:
    forecast = learnt([50.0, 70.0])
    assert forecast.period == pytest.approx(20)
    assert 70 <= forecast.settled_by(70.0) < 100
    assert value(forecast.curve(70, 120), 80) < 0.1
    assert value(forecast.curve(70, 120), 100) > 0.8


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
    assert rms(errors[150:]) < 1.18 * jitter


def test_a_late_refresh_moves_the_next_one_only_if_the_upstream_sleeps_after_work() -> (
    None
):
    for moments, followed in ((grid(200), 0.1), (sleeping(200), 1.0)):
        forecast = learnt(moments)
        before = phase_of(forecast)
        follow(forecast, [last_of(forecast) + 30.5])
        moved = phase_of(forecast) - before - 30
        ahead = last_of(forecast) - before - 30
        assert moved == pytest.approx(followed * ahead, abs=0.15)


@pytest.mark.parametrize("period", [5.0, 30.0, 60.0, 300.0])
@pytest.mark.parametrize("jitter", [0.1, 0.3, 0.6])
def test_period_and_jitter_are_learnt(period: float, jitter: float) -> None:
    forecast = learnt(grid(150, period, jitter))
    assert forecast.period == pytest.approx(period, rel=0.003, abs=0.02)
    assert forecast.jitter == pytest.approx(jitter, rel=0.35)


def test_skipped_refreshes_do_not_change_the_period() -> None:
    chance = Random(3)
    forecast = learnt(at for at in grid(600) if chance.random() > 0.2)
    assert forecast.period == pytest.approx(30, rel=0.003)
    assert forecast.jitter == pytest.approx(0.3, rel=0.35)


def test_fewer_refreshes_are_expected_if_some_are_skipped() -> None:
    chance = Random(3)
    steady = learnt(grid(600))
    patchy = learnt(at for at in grid(600) if chance.random() > 0.3)
    for forecast, part in ((steady, 1.0), (patchy, 0.7)):
        since = last_of(forecast) + 10
        ten_periods = expected(forecast, since, since + 300)
        assert ten_periods == pytest.approx(10 * part, rel=0.12)
    follow(patchy, grid(300, start=round(last_of(patchy), -1) + 30))
    since = last_of(patchy) + 10
    assert expected(patchy, since, since + 300) == pytest.approx(10, rel=0.05)


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


@pytest.mark.parametrize(
    ("before", "after"),
    [(30.0, 20.0), (20.0, 30.0), (60.0, 30.0), (30.0, 5.0), (30.0, 37.0)],
)
def test_a_new_period_is_followed_after_two_refreshes(
    before: float, after: float
) -> None:
    moments = grid(100, before)
    forecast = learnt(moments)
    follow(forecast, grid(3, after, 0.06, start=moments[-1] + after))
    assert forecast.period == pytest.approx(after, rel=0.05)
    errors = follow(forecast, grid(40, after, start=moments[-1] + 4 * after, seed=2))
    assert rms(errors) < 0.6


@pytest.mark.parametrize("jump", [-12.0, -5.0, 5.0, 12.0])
def test_a_new_phase_is_followed_after_two_refreshes(jump: float) -> None:
    moments = grid(100)
    forecast = learnt(moments)
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
    errors = follow(forecast, [4_036.0, 4_054.0, *grid(10, start=4_090.0, seed=2)])
    assert rms(errors[2:]) < 0.7


def test_an_agreeing_surprise_long_after_the_first_does_not_move_the_phase() -> None:
    forecast = learnt(grid(101))
    follow(forecast, [4_036.0, *grid(10, start=4_060.0, seed=2), 4_366.0])
    assert rms(follow(forecast, grid(5, start=4_390.0, seed=3))) < 0.8


def test_less_is_expected_the_longer_an_outage_lasts_but_never_nothing() -> None:
    forecast = learnt(grid(100))
    last = last_of(forecast)
    amounts = []
    for silent in (45, 75, 105, 315, 1_005, 10_005):
        since = last + silent
        amounts.append(expected(forecast, since, since + 60))
    assert 1 < amounts[0] < 4
    assert all(less < more for more, less in pairwise(amounts))
    assert amounts[-1] > 0


def test_the_rhythm_survives_an_outage() -> None:
    forecast = learnt(grid(100))
    end = 1_000.0 + 30 * 119
    errors = follow(forecast, [end, *grid(10, start=end + 30, seed=2)])
    assert rms(errors[1:]) < 0.5
    assert forecast.period == pytest.approx(30, rel=0.003)


def test_within_a_window_the_pending_probability_falls_from_1_to_0() -> None:
    forecast = learnt(grid(200))
    since = last_of(forecast) + 10
    curve = forecast.curve(since, since + 30)
    pending = [point.pending for point in curve]
    window = pending[1:-1]
    assert pending[0] == pending[-1] == 0
    assert window[0] == pytest.approx(1, abs=0.05)
    assert window[-1] == 0
    assert all(later <= sooner for sooner, later in pairwise(window))


def test_the_rest_of_a_window_is_more_likely_if_nothing_came_so_far() -> None:
    forecast = learnt(grid(200))
    before = forecast.curve(last_of(forecast) + 10, last_of(forecast) + 45)
    middle = next(point.at for point in before if point.expected >= 0.5)
    until = middle + 0.15
    gone = value(before, middle)
    whole = before[-1].expected
    after = forecast.curve(middle, last_of(forecast) + 45)
    conditional = (value(before, until) - gone) / (1 - gone)
    assert value(after, until) == pytest.approx(conditional, rel=1e-6)
    assert after[-1].expected == pytest.approx((whole - gone) / (1 - gone), rel=1e-6)
    assert after[0].pending == pytest.approx(after[-1].expected, rel=1e-6)
    assert after[0].pending < before[1].pending


def test_each_period_brings_one_refresh() -> None:
    forecast = learnt(grid(500, 10.0, 0.1))
    since = last_of(forecast) + 5
    curve = forecast.curve(since, since + 100)
    whole = [value(curve, since + 10 * number) for number in range(11)]
    assert all(
        later - sooner == pytest.approx(1, rel=0.05)
        for sooner, later in pairwise(whole)
    )
    assert whole[1] == pytest.approx(curve[-1].expected / 10, rel=0.05)


def test_a_refresh_is_settled_by_the_end_of_the_next_window() -> None:
    forecast = learnt(grid(200))
    last = 1_000 + 199 * 30
    for since, next_at in (
        (last + 5, last + 30),
        (last + 29, last + 30),
        (last + 40, last + 60),
        (last + 299, None),
    ):
        end = forecast.settled_by(since)
        assert end > since
        if next_at is not None:
            assert next_at < end < next_at + 5


def test_a_lag_moves_the_curve_but_not_the_rhythm() -> None:
    sooner = learnt(grid(200))
    later = Forecast(0.0)
    for at in grid(200):
        later.learn(at, 2.0, at - 0.01)
    since = last_of(sooner) + 10
    assert later.phase == pytest.approx(sooner.phase)
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
@pytest.mark.timeout(10)
def test_refreshes_next_to_each_other_do_not_make_endless_windows(
    moments: list[float],
) -> None:
    forecast = learnt(moments)
    assert forecast.period is None or forecast.period > 0
    assert 131 <= forecast.settled_by(131.0) < inf
    assert len(forecast.curve(131.0, 191.0)) < 50_000


@quick
@given(
    st.lists(st.floats(0.2, 200), min_size=0, max_size=40),
    st.lists(st.floats(0, 1), min_size=40, max_size=40),
    st.floats(0, 2),
    st.floats(0, 500),
    st.floats(0.1, 120),
)
def test_a_curve_starts_at_zero_and_never_falls_whatever_was_learnt(
    intervals: list[float], unseen: list[float], lag: float, silent: float, ahead: float
) -> None:
    forecast = Forecast(0.0)
    at = 100.0
    for interval, part in zip(intervals, unseen, strict=False):
        at += interval
        forecast.learn(at, lag, at - part * interval)
    since = at + silent
    curve = forecast.curve(since, since + ahead)
    assert curve[0][:2] == (since, 0)
    assert curve[-1].at >= since + ahead
    assert all(sooner.at < later.at for sooner, later in pairwise(curve))
    assert all(
        sooner.expected <= later.expected + 1e-9 for sooner, later in pairwise(curve)
    )
    assert all(-1e-9 <= point.pending <= 1 + 1e-9 for point in curve)
    assert since <= forecast.settled_by(since)
    assert forecast.period is None or forecast.period > 0


@quick
@given(st.lists(st.floats(-5, 5), min_size=1, max_size=64), st.floats(0.1, 20))
def test_a_distribution_has_a_total_mass_of_1_and_a_tail_on_both_sides(
    errors: list[float], widest: float
) -> None:
    shape = shape_of(errors, widest)
    assert shape.mass[0] == 0
    assert shape.mass[-1] == 1
    assert all(less < more for less, more in pairwise(shape.at))
    assert all(less <= more for less, more in pairwise(shape.mass))
    assert shape.below(shape.at[0] - 1) == 0
    assert shape.below(shape.at[-1] + 1) == 1
    assert shape.below(min(errors) - 0.001) < 0.6
    assert shape.at[0] >= min(errors) - widest - 0.001
    assert shape.at[-1] <= max(errors) + widest + 0.01


def test_the_distribution_of_many_errors_fits_them() -> None:
    chance = Random(1)
    errors = [chance.uniform(0, 10) for _ in range(64)]
    shape = shape_of(errors, 15)
    for bound in (2, 4, 6, 8):
        fraction = len([error for error in errors if error <= bound]) / 64
        assert shape.below(bound) == pytest.approx(fraction, abs=0.06)
    assert shape.below(min(errors)) <= 0.08
    assert shape.below(max(errors)) >= 0.92
