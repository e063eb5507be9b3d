"""The lag from a refresh's computation until it is visible, learnt from checks."""

from __future__ import annotations

from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from connector.schedule.visibility_lag import VisibilityLag
from tests.support.profiles import cases

quick = cases(200)

# The lower bound of a refresh's lag, and the distance to the upper bound.
bounds = st.tuples(st.floats(-1e4, 1e4), st.floats(0, 1e4))

SECONDS_BETWEEN_CHECKS = 0.4


class Upstream:
    """Serves refreshes after a lag that only checks can find out."""

    def __init__(self, seed: int) -> None:
        self.chance = Random(seed)
        self.estimate = VisibilityLag()

    def check_around_estimate(self, true_lag: float) -> None:
        """Check until the refresh is visible, and learn from it."""
        # Some check is due at a random moment just before the estimate.
        early_by = SECONDS_BETWEEN_CHECKS * self.chance.random()
        visible_at = self.estimate.seconds - early_by
        invisible_at = -20.0
        while visible_at < true_lag:
            invisible_at = visible_at
            visible_at += SECONDS_BETWEEN_CHECKS
        self.estimate.learn(invisible_at, visible_at)

    def refresh(self, true_lag: float, times: int) -> None:
        for _ in range(times):
            self.check_around_estimate(true_lag)


# A negative lag means that our estimate of the upstream's clock is off.
@pytest.mark.parametrize("true_lag", [0.0, 0.5, 3.0, -2.0, 60.0])
def test_a_constant_lag_is_found_from_either_side(true_lag: float) -> None:
    upstream = Upstream(seed=1)

    upstream.refresh(true_lag, times=60)

    assert upstream.estimate.seconds == pytest.approx(true_lag, abs=0.15)


def test_the_mean_of_a_varying_lag_is_found() -> None:
    upstream = Upstream(seed=2)

    for _ in range(200):
        true_lag = upstream.chance.gauss(1.0, 0.1)
        upstream.check_around_estimate(true_lag)

    assert upstream.estimate.seconds == pytest.approx(1.0, abs=0.25)


def test_a_new_lag_is_followed_once_most_refreshes_have_it() -> None:
    upstream = Upstream(seed=3)

    upstream.refresh(0.2, times=40)
    upstream.refresh(5.0, times=40)

    assert upstream.estimate.seconds == pytest.approx(5.0, abs=0.3)


# The checks of one outage must not delay the checks of the refreshes after it.
def test_a_single_late_refresh_hardly_moves_the_estimate() -> None:
    upstream = Upstream(seed=4)
    upstream.refresh(0.2, times=40)
    before = upstream.estimate.seconds

    upstream.estimate.learn(9.0, 9.4)

    assert upstream.estimate.seconds == pytest.approx(before, abs=0.1)


@quick
@given(st.lists(bounds, min_size=1, max_size=60))
def test_guesses_lie_within_their_bounds_and_the_lag_within_all_of_them(
    observed: list[tuple[float, float]],
) -> None:
    lag = VisibilityLag()
    lowest = min(least for least, _ in observed)
    highest = max(least + width for least, width in observed)

    for least, width in observed:
        most = least + width
        guess = lag.learn(least, most)
        assert least <= guess <= most

    assert lowest <= lag.seconds <= highest
