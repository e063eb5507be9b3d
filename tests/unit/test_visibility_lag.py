"""How long after its computation a refresh can be seen, learnt from when it was not and when it was."""

from __future__ import annotations

from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from connector.schedule.visibility_lag import VisibilityLag

quick = settings(deadline=None, derandomize=True, max_examples=200)


def looked(
    lag: VisibilityLag, truth: float, chance: Random, every: float = 0.4
) -> None:
    """Checks about where the lag is supposed to be, one of them the first that shows the refresh."""
    at = lag.seconds - every * chance.random()
    before = -20.0
    while at < truth:
        before, at = at, at + every
    lag.learn(before, at)


@pytest.mark.parametrize("truth", [0.0, 0.5, 3.0, -2.0, 60.0])
def test_a_constant_lag_is_found_from_either_side(truth: float) -> None:
    lag, chance = VisibilityLag(), Random(1)
    for _ in range(60):
        looked(lag, truth, chance)
    assert lag.seconds == pytest.approx(truth, abs=0.15)


def test_a_lag_that_differs_is_found_about_its_middle() -> None:
    lag, chance = VisibilityLag(), Random(2)
    for _ in range(200):
        looked(lag, chance.gauss(1.0, 0.1), chance)
    assert lag.seconds == pytest.approx(1.0, abs=0.25)


def test_another_lag_is_followed_once_it_is_that_of_most_checks() -> None:
    lag, chance = VisibilityLag(), Random(3)
    for _ in range(40):
        looked(lag, 0.2, chance)
    for _ in range(40):
        looked(lag, 5.0, chance)
    assert lag.seconds == pytest.approx(5.0, abs=0.3)


def test_a_single_late_one_moves_nothing_much() -> None:
    lag, chance = VisibilityLag(), Random(4)
    for _ in range(40):
        looked(lag, 0.2, chance)
    before = lag.seconds
    lag.learn(9.0, 9.4)
    assert lag.seconds == pytest.approx(before, abs=0.1)


@quick
@given(
    st.lists(
        st.tuples(st.floats(-1e4, 1e4), st.floats(0, 1e4)), min_size=1, max_size=60
    )
)
def test_the_guess_for_a_refresh_lies_between_its_checks_and_the_lag_within_what_was_seen(
    seen: list[tuple[float, float]],
) -> None:
    lag = VisibilityLag()
    for least, width in seen:
        assert least <= lag.learn(least, least + width) <= least + width
    assert (
        min(least for least, _ in seen)
        <= lag.seconds
        <= max(least + width for least, width in seen)
    )
