"""The price of a check, as the target and the budget set it."""

from __future__ import annotations

from dataclasses import dataclass
from math import sqrt

import pytest
from hypothesis import given
from hypothesis import strategies as st

from connector.schedule.price import Price
from tests.support.profiles import cases

quick = cases(100)

# Refreshes a second, at random moments. At a price, the best checks are
# `sqrt(2 * price / RATE)` seconds apart (Keller).
RATE = 1 / 30

# Requests a minute that no test uses up.
PLENTY = 60_000.0


def checks(price: float, symbols: float = 1.0) -> float:
    """Return the best rate of checks for these symbols, each in a batch of its own."""
    return symbols * sqrt(RATE / 2 / price)


def mean_delay(price: Price) -> float:
    """Return the mean delay of a symbol's refreshes: half the interval between its checks."""
    return 0.5 / checks(price.value)


def run(
    price: Price,
    budget: float,
    seconds: float,
    start: float = 0.0,
    symbols: float = 1.0,
) -> float:
    """Check as often as the price asks.

    Returns the checks that were made in the last quarter of the time.
    """
    now = start
    made = 0.0
    last_quarter = start + seconds * 3 / 4
    while now < start + seconds:
        rate = checks(price.value, symbols)
        now += 1 / rate
        expected = symbols * RATE / rate
        price.checked(now, expected, expected * mean_delay(price))
        price.settle(budget, 1.0)
        if now > last_quarter:
            made += 1
    return made


def started(target: float, budget: float, symbols: float = 1.0) -> Price:
    price = Price(target)
    price.begin(0.0, checks(1.0, symbols), symbols * RATE)
    price.settle(budget, 1.0)
    return price


@pytest.mark.parametrize("target", [0.2, 0.4, 2.0, 10.0])
def test_the_target_is_met_if_the_budget_allows_it(target: float) -> None:
    price = started(target, PLENTY)
    run(price, PLENTY, 2_000)
    assert mean_delay(price) == pytest.approx(target, rel=0.03)


def test_a_lower_target_makes_a_lower_price() -> None:
    prices = []
    for target in (0.1, 0.4, 1.6, 6.4):
        price = started(target, PLENTY)
        run(price, PLENTY, 1_000)
        prices.append(price.value)
    assert prices == sorted(prices)
    assert prices[-1] > 100 * prices[0]


@pytest.mark.parametrize("budget", [1.0, 6.0, 20.0])
@pytest.mark.parametrize("symbols", [1, 10, 100])
def test_the_budget_wins_over_the_target(budget: float, symbols: int) -> None:
    price = started(0.01, budget, symbols)
    minutes = 200
    made = run(price, budget, minutes * 60, symbols=symbols)
    assert made == pytest.approx(budget * minutes / 4, rel=0.1)


@pytest.mark.parametrize("budget", [6.0, 54.0])
def test_a_budget_that_is_not_needed_is_not_spent(budget: float) -> None:
    price = started(10.0, budget)
    run(price, budget, 10_000)
    assert mean_delay(price) == pytest.approx(10, rel=0.1)


@pytest.mark.parametrize("symbols", [1.0, 8.0])
def test_an_easy_target_limits_the_price_to_a_few_of_its_symbols_target_delays(
    symbols: float,
) -> None:
    target = 0.4
    price = started(target, PLENTY)
    for number in range(1_000):
        price.checked(number * 30.0, symbols, 0.001)
        price.settle(PLENTY, symbols)
    all_delays = target * symbols
    assert all_delays <= price.value <= 4 * all_delays

    # The limit does not hold against the budget.
    price.settle(0.001, symbols)
    assert price.value > 100


def test_the_first_price_is_right_for_refreshes_at_random_moments() -> None:
    scarce = started(0.01, 10.0, symbols=8)
    checks_per_minute = 60 * checks(scarce.value, 8)
    assert checks_per_minute == pytest.approx(10, rel=0.01)
    ample = started(2.0, PLENTY, symbols=8)
    assert mean_delay(ample) == pytest.approx(2, rel=0.01)


@pytest.mark.parametrize("ratio", [0.5, 2.0, 3.0])
def test_the_affordable_price_grows_with_the_square_of_the_load(
    ratio: float,
) -> None:
    price = started(0.01, 6.0)
    run(price, 6.0, 1_000)
    before = price.value
    price.grow(ratio)
    price.settle(6.0, 1.0)
    assert price.value == pytest.approx(before * ratio**2, rel=1e-6)


def test_a_different_load_does_not_change_the_price_for_the_target() -> None:
    price = started(0.4, PLENTY)
    run(price, PLENTY, 1_000)
    before = price.value
    price.grow(5.0)
    price.settle(PLENTY, 1.0)
    assert price.value == pytest.approx(before)


def test_half_the_budget_makes_the_affordable_price_four_times_as_high() -> None:
    price = started(0.01, 6.0)
    run(price, 6.0, 5_000)
    before = price.value
    price.settle(3.0, 1.0)
    assert price.value == pytest.approx(before * 4, rel=1e-6)


def test_an_unannounced_load_is_kept_within_the_budget_before_long() -> None:
    price = started(0.01, 10.0)
    run(price, 10.0, 1_000)
    made = run(price, 10.0, 2_400, start=1_000, symbols=8)
    assert made == pytest.approx(100, rel=0.15)


def test_checks_that_expect_no_refresh_do_not_meet_the_target() -> None:
    price = Price(0.4)
    for number in range(10):
        price.checked(float(number), 0.0, 0.0)
        price.settle(60.0, 1.0)
    assert price.value > 0


@dataclass(frozen=True)
class Step:
    """A check after a wait, and then another load and another budget."""

    wait: float
    expected: float
    delay: float
    ratio: float
    budget: float


amounts = st.just(0.0) | st.floats(1e-9, 1e4)
steps = st.builds(
    Step,
    # A clock may be set back.
    wait=st.floats(-100, 1e5),
    expected=amounts,
    delay=amounts,
    ratio=st.floats(0.01, 100),
    budget=st.floats(0, 1e6),
)


@quick
@given(st.lists(steps, max_size=30), st.floats(0.01, 60))
def test_whatever_happens_a_price_is_bounded(steps: list[Step], target: float) -> None:
    price = Price(target)
    now = 0.0
    for step in steps:
        now += step.wait
        price.checked(now, step.expected, step.delay)
        price.grow(step.ratio)
        price.settle(step.budget, 1.0)
        assert 1e-4 < price.value <= 1e9
