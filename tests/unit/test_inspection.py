"""The best moment for a check, compared with an exact recursion and known results."""

from __future__ import annotations

from itertools import pairwise
from math import erf, inf, sqrt
from typing import TYPE_CHECKING, Any, Final

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from connector.schedule import inspection
from connector.schedule.inspection import Check, Point, next_check

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

quick = settings(deadline=None, derandomize=True, max_examples=60)

END: Final = 60.0
GRID: Final = 400


def normal(at: float) -> float:
    return (1 + erf((at - 10) / sqrt(2))) / 2


def uniform(at: float) -> float:
    return min(max((at - 6) / 8, 0), 1)


def bimodal(at: float) -> float:
    """Return the law of an event that is mostly on time, else five seconds late."""
    return 0.7 * normal(7 + at) + 0.3 * normal(2 + at)


def curve_of(
    law: Callable[[float], float], since: float, until: float = END, steps: int = 600
) -> list[Point]:
    """Return the curve of one event that has not come by `since`."""
    gone = law(since)
    points = [Point(since, 0.0, float(gone > 1e-6))]
    for step in range(1, steps + 1):
        at = since + (until - since) * step / steps
        expected = (law(at) - gone) / (1 - gone)
        pending = 0.0
        if law(at) > 1e-6:
            pending = (1 - law(at)) / (1 - gone)
        points.append(Point(at, expected, pending))
    return points


def cost_of(
    law: Callable[[float], float], checks: Sequence[float], price: float
) -> float:
    """Return the expected delay and price of checks up to the one that shows the event.

    The last of the checks is at the end of the plan, and costs half the price.
    """
    cost = 0.0
    before = 0.0
    for start, check in pairwise([0.0, *checks]):
        check_price = price
        if check >= END:
            check_price = 0.5 * price
        cost += check_price * (1 - before) + delay(law, start, check)
        before = law(check)
    return cost


def delay(
    law: Callable[[float], float], start: float, end: float, steps: int = 200
) -> float:
    """Return the expected seconds for which an event after `start` waits until `end`."""
    step = (end - start) / steps
    total = 0.0
    for number in range(steps):
        total += law(start + (number + 0.5) * step) - law(start)
    return total * step


def followed(law: Callable[[float], float], price: float) -> list[float]:
    """Return the checks that are made as long as none shows the event."""
    checks = []
    now = 0.0
    while now < END and law(now) < 1 - 1e-4:
        now = next_check([curve_of(law, now)], price, now, END).at
        checks.append(now)
    return checks if checks[-1] >= END else [*checks, END]


def optimum(law: Callable[[float], float], price: float) -> float:
    """Return the lowest cost, by recursion over a fine grid from the end backwards."""
    grid = [END * step / GRID for step in range(GRID + 1)]
    seen = [law(at) for at in grid]
    area = [0.0]
    for (start, end), (less, more) in zip(pairwise(grid), pairwise(seen), strict=True):
        area.append(area[-1] + (less + more) / 2 * (end - start))
    best = [0.0] * (GRID + 1)
    for here in range(GRID - 1, -1, -1):
        best[here] = inf
        for there in range(here + 1, GRID + 1):
            waited = area[there] - area[here] - seen[here] * (grid[there] - grid[here])
            check_price = price
            if there == GRID:
                check_price = 0.5 * price
            paid = check_price * (1 - seen[here])
            best[here] = min(best[here], waited + paid + best[there])
    return best[0]


@pytest.mark.parametrize("price", [0.05, 0.3, 1.0, 5.0])
@pytest.mark.parametrize("law", [normal, uniform, bimodal])
def test_checks_for_one_event_cost_hardly_more_than_the_optimum(
    law: Callable[[float], float], price: float
) -> None:
    cost = cost_of(law, followed(law, price), price)
    assert cost <= optimum(law, price) * 1.02


def test_a_check_predicts_its_refreshes_and_their_delay() -> None:
    check = next_check([curve_of(normal, 0.0)], 1.0, 0.0, END)
    assert check.expected == pytest.approx(normal(check.at), abs=0.01)
    assert check.delay == pytest.approx(delay(normal, 0.0, check.at), abs=0.01)


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
    curve = [Point(0.0, 0.0, 0.0), Point(end, rate * end, 0.0)]
    check = next_check([curve], price, 0.0, end)
    cost_ratio = (check.at / interval + interval / check.at) / 2
    assert cost_ratio < 1.03


def test_many_curves_are_planned_like_one_with_all_their_refreshes() -> None:
    one = [Point(0.0, 0.0, 0.0), Point(100.0, 2.0, 0.0)]
    four = [Point(0.0, 0.0, 0.0), Point(100.0, 8.0, 0.0)]
    together = next_check([four], 1.0, 0.0, 100.0)
    assert next_check([one] * 4, 1.0, 0.0, 100.0) == pytest.approx(together)


def window(start: float, width: float = 0.2, since: float = 0.0) -> list[Point]:
    end = start + width
    return [
        Point(since, 0.0, 0.0),
        Point(start, 0.0, 1.0),
        Point(end, 1.0, 0.0),
        Point(40.0, 1.0, 0.0),
    ]


def test_cheap_checks_serve_two_windows_one_by_one_and_expensive_ones_together() -> (
    None
):
    apart = [window(10.0), window(12.0)]
    cheap = next_check(apart, 0.5, 0.0, 40.0)
    expensive = next_check(apart, 5.0, 0.0, 40.0)
    assert cheap.at == pytest.approx(10.2, abs=0.05)
    assert cheap.expected == pytest.approx(1, abs=0.1)
    assert expensive.at == pytest.approx(12.2, abs=0.05)
    assert expensive.expected == pytest.approx(2, abs=0.1)


def test_after_the_first_of_two_windows_the_second_is_checked() -> None:
    seen = [Point(10.2, 0.0, 0.0), Point(40.0, 0.0, 0.0)]
    check = next_check([seen, window(12.0, since=10.2)], 0.5, 10.2, 40.0)
    assert check.at == pytest.approx(12.2, abs=0.05)


def test_the_last_refreshes_of_a_window_are_worth_a_check_only_if_it_is_cheap() -> None:
    """Nine of ten refreshes come at once, the tenth within ten seconds."""
    tail = [
        Point(0.0, 0.0, 0.0),
        Point(5.0, 0.0, 1.0),
        Point(5.1, 0.9, 0.1),
        Point(15.0, 1.0, 0.0),
        Point(40, 1.0, 0),
    ]
    assert next_check([tail], 0.5, 0.0, 40.0).at == pytest.approx(5.1, abs=0.1)
    after = [Point(5.1, 0.0, 1.0), Point(15.0, 1.0, 0.0), Point(40.0, 1.0, 0.0)]
    first, second = (next_check([after], price, 5.1, 40.0).at for price in (0.3, 3.0))
    assert 5.1 < first < second <= 15.1


def test_the_check_is_at_the_end_if_nothing_is_expected() -> None:
    nothing = [Point(0.0, 0.0, 0.0), Point(9.0, 0.0, 0.0)]
    assert next_check([nothing], 1.0, 0.0, 9.0).at == 9
    assert next_check([], 1.0, 0.0, 9.0).at == 9


def test_refreshes_before_the_start_of_the_plan_count() -> None:
    """Four refreshes are waiting already, so that every second costs four."""
    curve = [Point(0.0, 0.0, 0.0), Point(4.0, 4.0, 0.0), Point(100.0, 4.0, 0.0)]
    check = next_check([curve], 1.0, 5.0, 100.0)
    assert check.at < 6
    assert check.expected == pytest.approx(4)


def test_a_lower_price_never_makes_a_later_check() -> None:
    for law in (normal, uniform, bimodal):
        moments = [
            next_check([curve_of(law, 0.0)], price, 0.0, END).at
            for price in (0.01, 0.1, 0.5, 2, 8, 30)
        ]
        assert all(sooner <= later + 0.3 for sooner, later in pairwise(moments))


@st.composite
def curves(draw: st.DrawFn) -> list[list[Point]]:
    drawn = []
    for _ in range(draw(st.integers(1, 8))):
        at = draw(st.floats(0, 5))
        expected = 0.0
        points = []
        for _ in range(draw(st.integers(2, 15))):
            points.append(Point(at, expected, draw(st.floats(0, 1))))
            at += draw(st.floats(1e-4, 10))
            expected += draw(st.sampled_from([0.0, 1e-6, 0.01, 0.3, 1.0]))
        drawn.append([*points, Point(500.0, expected, 0.0)])
    return drawn


@quick
@given(curves(), st.floats(1e-3, 1e5), st.floats(5, 10), st.floats(0, 100))
def test_the_check_lies_between_start_and_end_whatever_is_expected(
    drawn: list[list[Point]], price: float, start: float, ahead: float
) -> None:
    check = next_check(drawn, price, start, start + ahead)
    assert start <= check.at <= start + ahead
    assert 0 <= check.expected <= sum(curve[-1].expected for curve in drawn) + 1e-9
    assert -1e-9 <= check.delay < inf


@quick
@given(st.integers(1, 8), st.floats(1e-3, 1e5), st.floats(0.1, 120))
def test_a_check_follows_a_check_only_after_some_time(
    symbols: int, price: float, ahead: float
) -> None:
    """A plan that checks again at the same moment would never end."""
    shared = [curve_of(normal, 0.0, steps=50) for _ in range(symbols)]
    assert next_check(shared, price, 0.0, ahead).at > 0


@pytest.mark.timeout(10)
@pytest.mark.parametrize("scale", [0.01, 100.0, 86_400.0])
def test_only_the_ratio_of_times_and_price_matters(scale: float) -> None:
    for law in (normal, bimodal):
        plain = next_check([curve_of(law, 0.0)], 0.5, 0.0, END)
        points = [
            Point(at * scale, expected, left)
            for at, expected, left in curve_of(law, 0.0)
        ]
        scaled = next_check([points], 0.5 * scale, 0.0, END * scale)
        assert scaled == pytest.approx(
            Check(plain.at * scale, plain.expected, plain.delay * scale), rel=0.01
        )


@pytest.mark.timeout(10)
@pytest.mark.parametrize("at", [1e5, 1e7, 1e8])
def test_a_plan_does_not_depend_on_how_long_the_clock_has_run(at: float) -> None:
    plain = next_check([curve_of(normal, 0.0)], 0.5, 0.0, END)
    later = [
        Point(moment + at, expected, left)
        for moment, expected, left in curve_of(normal, 0.0)
    ]
    check = next_check([later], 0.5, at, END + at)
    assert check.at - at == pytest.approx(plain.at, abs=0.15)


@pytest.mark.parametrize("price", [1e-3, 1.0])
def test_a_long_plan_considers_few_candidates(
    price: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    considered: list[Sequence[object]] = []
    candidates = inspection._candidates

    def counted(*args: Any) -> Any:
        considered.append(candidates(*args))
        return considered[-1]

    monkeypatch.setattr(inspection, "_candidates", counted)
    curves_of_eight = []
    for symbol in range(8):
        curve = [Point(0.0, 0.0, 0.0)]
        for turn in range(20):
            for corner in range(1, 40):
                at = 5.0 * turn + symbol / 2 + corner / 8
                curve.append(Point(at, turn + corner / 40, 1 - corner / 40))
        curves_of_eight.append(curve)
    next_check(curves_of_eight, price, 0.0, 100.0)
    assert len(considered[0]) < 400
