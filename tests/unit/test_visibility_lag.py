"""The lag from a refresh's computation until it is visible, learnt from checks."""

from __future__ import annotations

from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from connector.schedule.visibility_lag import VisibilityLag

quick = settings(deadline=None, derandomize=True, max_examples=200)

bounds = st.tuples(st.floats(-1e4, 1e4), st.floats(0, 1e4))


def check_around(
    lag: VisibilityLag, true_lag: float, chance: Random, every: float = 0.4
) -> None:
    """Check around the estimated lag until a check shows the refresh, and learn from it."""
    visible_at = lag.seconds - every * chance.random()
    invisible_at = -20.0
    while visible_at < true_lag:
        invisible_at = visible_at
        visible_at += every
    lag.learn(invisible_at, visible_at)


@pytest.mark.parametrize("true_lag", [0.0, 0.5, 3.0, -2.0, 60.0])
def test_a_constant_lag_is_found_from_either_side(true_lag: float) -> None:
    lag = VisibilityLag()
    chance = Random(1)
    for _ in range(60):
        check_around(lag, true_lag, chance)
    assert lag.seconds == pytest.approx(true_lag, abs=0.15)


def test_the_mean_of_a_varying_lag_is_found() -> None:
    lag = VisibilityLag()
    chance = Random(2)
    for _ in range(200):
        check_around(lag, chance.gauss(1.0, 0.1), chance)
    assert lag.seconds == pytest.approx(1.0, abs=0.25)


def test_a_new_lag_is_followed_once_most_refreshes_have_it() -> None:
    lag = VisibilityLag()
    chance = Random(3)
    for _ in range(40):
        check_around(lag, 0.2, chance)
    for _ in range(40):
        check_around(lag, 5.0, chance)
    assert lag.seconds == pytest.approx(5.0, abs=0.3)


def test_a_single_late_refresh_hardly_moves_the_estimate() -> None:
    lag = VisibilityLag()
    chance = Random(4)
    for _ in range(40):
        check_around(lag, 0.2, chance)
    before = lag.seconds
    lag.learn(9.0, 9.4)
    assert lag.seconds == pytest.approx(before, abs=0.1)


@quick
@given(st.lists(bounds, min_size=1, max_size=60))
def test_guesses_lie_within_their_bounds_and_the_lag_within_all_of_them(
    observed: list[tuple[float, float]],
) -> None:
    lag = VisibilityLag()
    lowest = min(least for least, _ in observed)
    highest = max(least + width for least, width in observed)
    for least, width in observed:
        guess = lag.learn(least, least + width)
        assert least <= guess <= least + width
    assert lowest <= lag.seconds <= highest
