"""The best moment for a check, compared with an exact recursion and known results.

A law maps a moment to the probability that the event has come by then.
"""

from __future__ import annotations

from itertools import pairwise
from math import erf, inf, sqrt
from typing import TYPE_CHECKING, Any, Final

import pytest
from hypothesis import given
from hypothesis import strategies as st

from connector.schedule import inspection
from connector.schedule.inspection import Check, Point, next_check
from tests.support.profiles import cases

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    Law = Callable[[float], float]

quick = cases(60)

END: Final = 60.0
GRID_STEPS: Final = 400

# Below this, the probability that an event has come counts as none.
NEGLIGIBLE: Final = 1e-6

# The check at the end of a plan costs half the price: it serves later refreshes, too.
LAST_CHECK_PRICES: Final = 0.5


# --- laws ---


def normal(at: float) -> float:
    return (1 + erf((at - 10) / sqrt(2))) / 2


def uniform(at: float) -> float:
    since_start = (at - 6) / 8
    return min(max(since_start, 0), 1)


def bimodal(at: float) -> float:
    """Return the law of an event that is mostly on time, else five seconds late."""
    on_time = normal(7 + at)
    late = normal(2 + at)
    return 0.7 * on_time + 0.3 * late


LAWS: Final = (normal, uniform, bimodal)


# --- curves ---

# A point is: moment, refreshes expected until then, probability that one is pending.


def curve_of(
    law: Law, since: float = 0.0, until: float = END, steps: int = 600
) -> list[Point]:
    """Return the curve of one event that has not come by `since`."""
    gone = law(since)
    left = 1 - gone
    may_be_pending = gone > NEGLIGIBLE
    points = [Point(since, 0.0, float(may_be_pending))]
    for step in range(1, steps + 1):
        at = since + (until - since) * step / steps
        come = law(at)
        expected = (come - gone) / left
        pending = 0.0
        if come > NEGLIGIBLE:
            pending = (1 - come) / left
        points.append(Point(at, expected, pending))
    return points


def steady(until: float, expected: float) -> list[Point]:
    """Return the curve of refreshes that come at a constant rate, at random."""
    return [
        Point(0.0, 0.0, 0.0),
        Point(until, expected, 0.0),
    ]


def window(start: float, width: float = 0.2, since: float = 0.0) -> list[Point]:
    """Return the curve of a refresh that comes at any moment of a short window."""
    end = start + width
    return [
        Point(since, 0.0, 0.0),
        Point(start, 0.0, 1.0),
        Point(end, 1.0, 0.0),
        Point(40.0, 1.0, 0.0),
    ]


def first_check(
    *curves: Sequence[Point],
    price: float,
    start: float = 0.0,
    end: float = END,
) -> Check:
    """Return the first check of the best plan for these curves."""
    return next_check(curves, price, start, end)


# --- costs ---


def price_at(check: float, price: float) -> float:
    """Return the price of a check at a moment of the plan."""
    if check >= END:
        return LAST_CHECK_PRICES * price
    return price


def delay(law: Law, start: float, end: float, steps: int = 200) -> float:
    """Return the expected seconds for which an event after `start` waits until `end`."""
    step = (end - start) / steps
    total = 0.0
    for number in range(steps):
        middle = start + (number + 0.5) * step
        total += law(middle) - law(start)
    return total * step


def cost_of(law: Law, checks: Sequence[float], price: float) -> float:
    """Return the expected delay and price of checks up to the one that shows the event.

    The last of the checks is at the end of the plan, and costs half the price.
    """
    cost = 0.0
    shown_before = 0.0
    for start, check in pairwise([0.0, *checks]):
        # A check is only made if none before has shown the event.
        is_made = 1 - shown_before
        cost += price_at(check, price) * is_made
        cost += delay(law, start, check)
        shown_before = law(check)
    return cost


def followed(law: Law, price: float) -> list[float]:
    """Return the checks that are made as long as none shows the event."""
    checks: list[float] = []
    now = 0.0
    while now < END and law(now) < 1 - 1e-4:
        # Each check that shows nothing changes the curve, so plan again.
        curve = curve_of(law, since=now)
        check = first_check(curve, price=price, start=now)
        now = check.at
        checks.append(now)
    if checks[-1] < END:
        checks.append(END)
    return checks


def optimum(law: Law, price: float) -> float:
    """Return the lowest cost, by recursion over a fine grid from the end backwards."""
    grid = [END * step / GRID_STEPS for step in range(GRID_STEPS + 1)]
    come = [law(at) for at in grid]

    # The integral of the law up to each moment, by trapezoids.
    area = [0.0]
    for step in range(GRID_STEPS):
        width = grid[step + 1] - grid[step]
        height = (come[step] + come[step + 1]) / 2
        area.append(area[-1] + height * width)

    best = [0.0] * (GRID_STEPS + 1)
    for here in range(GRID_STEPS - 1, -1, -1):
        best[here] = inf
        is_made = 1 - come[here]
        for there in range(here + 1, GRID_STEPS + 1):
            width = grid[there] - grid[here]
            waited = area[there] - area[here] - come[here] * width
            paid = price_at(grid[there], price) * is_made
            cost = waited + paid + best[there]
            best[here] = min(best[here], cost)
    return best[0]


# --- known results ---


@pytest.mark.parametrize("price", [0.05, 0.3, 1.0, 5.0])
@pytest.mark.parametrize("law", LAWS)
def test_checks_for_one_event_cost_hardly_more_than_the_optimum(
    law: Law, price: float
) -> None:
    checks = followed(law, price)

    cost = cost_of(law, checks, price)

    assert cost <= optimum(law, price) * 1.02


def test_a_check_predicts_its_refreshes_and_their_delay() -> None:
    check = first_check(curve_of(normal), price=1.0)

    expected_delay = delay(normal, 0.0, check.at)
    expected = normal(check.at)
    assert check.expected == pytest.approx(expected, abs=0.01)
    assert check.delay == pytest.approx(expected_delay, abs=0.01)


@pytest.mark.parametrize("price", [0.01, 0.1, 1.0, 10.0])
@pytest.mark.parametrize("rate", [1 / 300, 1 / 30, 1.0])
def test_checks_for_random_refreshes_are_as_far_apart_as_kellers(
    price: float, rate: float
) -> None:
    """Compare with sqrt(2 * price / rate).

    Keller, *Optimum checking schedules for systems subject to random failure*.
    """
    interval = sqrt(2 * price / rate)
    end = 15 * interval
    curve = steady(until=end, expected=rate * end)

    check = first_check(curve, price=price, end=end)

    # Near the optimum the cost is flat, so compare the cost and not the interval.
    ratio = check.at / interval
    cost_ratio = (ratio + 1 / ratio) / 2
    assert cost_ratio < 1.03


def test_many_curves_are_planned_like_one_with_all_their_refreshes() -> None:
    one = steady(until=100.0, expected=2.0)
    four_together = steady(until=100.0, expected=8.0)

    apart = first_check(one, one, one, one, price=1.0, end=100.0)
    together = first_check(four_together, price=1.0, end=100.0)

    assert apart == pytest.approx(together)


# --- windows ---


def test_cheap_checks_serve_each_of_two_windows_and_expensive_ones_both_together() -> (
    None
):
    first_window = window(10.0)
    second_window = window(12.0)
    both = (first_window, second_window)

    cheap = first_check(*both, price=0.5, end=40.0)
    expensive = first_check(*both, price=5.0, end=40.0)

    # A check is best at the end of a window, when its refresh has come for sure.
    assert cheap.at == pytest.approx(10.2, abs=0.05)
    assert cheap.expected == pytest.approx(1, abs=0.1)
    assert expensive.at == pytest.approx(12.2, abs=0.05)
    assert expensive.expected == pytest.approx(2, abs=0.1)


def test_after_the_first_of_two_windows_the_second_is_checked() -> None:
    seen = [
        Point(10.2, 0.0, 0.0),
        Point(40.0, 0.0, 0.0),
    ]
    to_come = window(12.0, since=10.2)

    check = first_check(seen, to_come, price=0.5, start=10.2, end=40.0)

    assert check.at == pytest.approx(12.2, abs=0.05)


def test_a_cheap_check_does_not_wait_for_the_last_refreshes_of_a_window() -> None:
    """Nine of ten refreshes come at once, the tenth within ten seconds."""
    tail = [
        Point(0.0, 0.0, 0.0),
        Point(5.0, 0.0, 1.0),
        Point(5.1, 0.9, 0.1),
        Point(15.0, 1.0, 0.0),
        Point(40.0, 1.0, 0.0),
    ]

    check = first_check(tail, price=0.5, end=40.0)

    assert check.at == pytest.approx(5.1, abs=0.1)


def test_the_last_refreshes_of_a_window_are_checked_sooner_if_it_is_cheap() -> None:
    tail = [
        Point(5.1, 0.0, 1.0),
        Point(15.0, 1.0, 0.0),
        Point(40.0, 1.0, 0.0),
    ]

    cheap = first_check(tail, price=0.3, start=5.1, end=40.0)
    expensive = first_check(tail, price=3.0, start=5.1, end=40.0)

    assert 5.1 < cheap.at < expensive.at <= 15.1


# --- ends of a plan ---


def test_the_check_is_at_the_end_if_nothing_is_expected() -> None:
    nothing = steady(until=9.0, expected=0.0)

    assert first_check(nothing, price=1.0, end=9.0).at == 9
    # Nor is there any symbol.
    assert first_check(price=1.0, end=9.0).at == 9


def test_refreshes_before_the_start_of_the_plan_count() -> None:
    """Four refreshes are waiting already, so that every second costs four."""
    curve = [
        Point(0.0, 0.0, 0.0),
        Point(4.0, 4.0, 0.0),
        Point(100.0, 4.0, 0.0),
    ]

    check = first_check(curve, price=1.0, start=5.0, end=100.0)

    assert check.at < 6
    assert check.expected == pytest.approx(4)


# --- properties ---


@pytest.mark.parametrize("law", LAWS)
def test_a_lower_price_never_makes_a_later_check(law: Law) -> None:
    curve = curve_of(law)

    moments = []
    for price in (0.01, 0.1, 0.5, 2, 8, 30):
        check = first_check(curve, price=price)
        moments.append(check.at)

    for sooner, later in pairwise(moments):
        # Each price has its own candidates, and they are not the same moments.
        assert sooner <= later + 0.3


@st.composite
def curves(draw: st.DrawFn) -> list[list[Point]]:
    more_refreshes = st.sampled_from([0.0, 1e-6, 0.01, 0.3, 1.0])
    drawn = []
    for _ in range(draw(st.integers(1, 8))):
        at = draw(st.floats(0, 5))
        expected = 0.0
        points = []
        for _ in range(draw(st.integers(2, 15))):
            pending = draw(st.floats(0, 1))
            points.append(Point(at, expected, pending))
            at += draw(st.floats(1e-4, 10))
            expected += draw(more_refreshes)
        points.append(Point(500.0, expected, 0.0))
        drawn.append(points)
    return drawn


@quick
@given(
    curves(),
    st.floats(1e-3, 1e5),
    st.floats(5, 10),
    st.floats(0, 100),
)
def test_the_check_lies_between_start_and_end_whatever_is_expected(
    drawn: list[list[Point]], price: float, start: float, ahead: float
) -> None:
    end = start + ahead
    all_refreshes = 0.0
    for curve in drawn:
        all_refreshes += curve[-1].expected

    check = first_check(*drawn, price=price, start=start, end=end)

    # Sums of floats may be off by a rounding error.
    assert start <= check.at <= end
    assert 0 <= check.expected <= all_refreshes + 1e-9
    assert -1e-9 <= check.delay < inf


@quick
@given(
    st.integers(1, 8),
    st.floats(1e-3, 1e5),
    st.floats(0.1, 120),
)
def test_a_check_follows_a_check_only_after_some_time(
    symbols: int, price: float, ahead: float
) -> None:
    """A plan that checks again at the same moment would never end."""
    shared = [curve_of(normal, steps=50)] * symbols

    check = first_check(*shared, price=price, end=ahead)

    assert check.at > 0


# No constant in seconds may decide a plan: symbols refresh every second or every day.
@pytest.mark.parametrize("scale", [0.01, 100.0, 86_400.0])
@pytest.mark.parametrize("law", [normal, bimodal])
def test_only_the_ratio_of_times_and_price_matters(law: Law, scale: float) -> None:
    curve = curve_of(law)
    scaled_curve = []
    for at, expected, pending in curve:
        scaled_curve.append(Point(at * scale, expected, pending))

    plain = first_check(curve, price=0.5)
    scaled = first_check(scaled_curve, price=0.5 * scale, end=END * scale)

    expected_check = Check(plain.at * scale, plain.expected, plain.delay * scale)
    assert scaled == pytest.approx(expected_check, rel=0.01)


# The monotonic clock may have run for years, which leaves fewer digits for the plan. A step
# that is lost in rounding would go on without end, until the test's time limit.
@pytest.mark.parametrize("started_at", [1e5, 1e7, 1e8])
def test_a_plan_does_not_depend_on_how_long_the_clock_has_run(
    started_at: float,
) -> None:
    curve = curve_of(normal)
    later_curve = []
    for at, expected, pending in curve:
        later_curve.append(Point(at + started_at, expected, pending))

    plain = first_check(curve, price=0.5)
    later = first_check(
        later_curve,
        price=0.5,
        start=started_at,
        end=started_at + END,
    )

    assert later.at - started_at == pytest.approx(plain.at, abs=0.15)


# --- work ---


def busy_curve(symbol: int) -> list[Point]:
    """Return a curve with twenty windows of forty corners, unlike those of other symbols."""
    curve = [Point(0.0, 0.0, 0.0)]
    for turn in range(20):
        for corner in range(1, 40):
            at = 5.0 * turn + symbol / 2 + corner / 8
            come = corner / 40
            expected = turn + come
            curve.append(Point(at, expected, 1 - come))
    return curve


# The work grows with the square of the candidates.
@pytest.mark.parametrize("price", [1e-3, 1.0])
def test_a_long_plan_considers_few_candidates(
    price: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    considered: list[Sequence[object]] = []
    real_candidates = inspection._candidates

    def counted(*args: Any) -> Any:
        candidates = real_candidates(*args)
        considered.append(candidates)
        return candidates

    monkeypatch.setattr(inspection, "_candidates", counted)
    curves_of_eight = [busy_curve(symbol) for symbol in range(8)]

    first_check(*curves_of_eight, price=price, end=100.0)

    assert len(considered[0]) < 400
