"""What a check may cost, as the target and the budget have it."""

from __future__ import annotations

from math import sqrt

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from connector.schedule.price import Price

quick = settings(deadline=None, derandomize=True, max_examples=100)

# Refreshes a second that come at any moment: at a price, checks are `sqrt(2 * price /
# RATE)` apart (Keller).
RATE = 1 / 30

PLENTY = 60_000.0

AMOUNT = st.just(0.0) | st.floats(1e-9, 1e4)


def checks(price: float, symbols: float = 1.0) -> float:
    """Checks a second that are best for so many symbols, each in a batch of its own."""
    return symbols * sqrt(RATE / 2 / price)


def run(
    price: Price,
    budget: float,
    seconds: float,
    start: float = 0.0,
    symbols: float = 1.0,
) -> float:
    """Check as often as the price asks. Returns how many checks were made in the last quarter."""
    now, made = start, 0.0
    while now < start + seconds:
        rate = checks(price.value, symbols)
        now += 1 / rate
        expected = symbols * RATE / rate
        price.checked(now, expected, expected / checks(price.value) / 2)
        price.settle(budget, 1.0)
        made += now > start + seconds * 3 / 4
    return made


def started(target: float, budget: float, symbols: float = 1.0) -> Price:
    price = Price(target)
    price.begin(0.0, checks(1.0, symbols), symbols * RATE)
    price.settle(budget, 1.0)
    return price


@pytest.mark.parametrize("target", [0.2, 0.4, 2.0, 10.0])
def test_the_target_is_met_where_the_budget_allows_it(target: float) -> None:
    price = started(target, PLENTY)
    run(price, PLENTY, 2_000)
    assert 0.5 / checks(price.value) == pytest.approx(target, rel=0.03)


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
    seconds = 12_000
    assert run(price, budget, seconds, symbols=symbols) == pytest.approx(
        budget * seconds / 4 / 60, rel=0.1
    )


@pytest.mark.parametrize("budget", [6.0, 54.0])
def test_a_budget_that_is_not_needed_is_not_spent(budget: float) -> None:
    price = started(10.0, budget)
    run(price, budget, 10_000)
    assert 0.5 / checks(price.value) == pytest.approx(10, rel=0.1)


@pytest.mark.parametrize("symbols", [1.0, 8.0])
def test_a_target_that_is_met_easily_does_not_make_a_check_dearer_than_what_its_symbols_may_wait(
    symbols: float,
) -> None:
    price = started(0.4, PLENTY)
    for number in range(1_000):
        price.checked(number * 30.0, symbols, 0.001)
        price.settle(PLENTY, symbols)
    assert 0.4 * symbols <= price.value <= 4 * 0.4 * symbols
    price.settle(0.001, symbols)
    assert price.value > 100


def test_the_first_price_is_right_where_refreshes_come_at_any_moment() -> None:
    price = started(0.01, 10.0, symbols=8)
    assert checks(price.value, 8) * 60 == pytest.approx(10, rel=0.01)
    price = started(2.0, PLENTY, symbols=8)
    assert 0.5 / checks(price.value) == pytest.approx(2, rel=0.01)


@pytest.mark.parametrize("ratio", [0.5, 2.0, 3.0])
def test_so_many_times_the_load_makes_the_price_that_is_affordable_its_square(
    ratio: float,
) -> None:
    price = started(0.01, 6.0)
    run(price, 6.0, 1_000)
    before = price.value
    price.grow(ratio)
    price.settle(6.0, 1.0)
    assert price.value == pytest.approx(before * ratio**2, rel=1e-6)


def test_another_load_does_not_change_what_the_target_needs() -> None:
    price = started(0.4, PLENTY)
    run(price, PLENTY, 1_000)
    before = price.value
    price.grow(5.0)
    price.settle(PLENTY, 1.0)
    assert price.value == pytest.approx(before)


def test_half_the_budget_makes_an_affordable_price_four_times_as_high() -> None:
    price = started(0.01, 6.0)
    run(price, 6.0, 5_000)
    before = price.value
    price.settle(3.0, 1.0)
    assert price.value == pytest.approx(before * 4, rel=1e-6)


def test_a_load_that_comes_unannounced_is_paid_for_before_long() -> None:
    price = started(0.01, 10.0)
    run(price, 10.0, 1_000)
    made = run(price, 10.0, 2_400, start=1_000, symbols=8)
    assert made == pytest.approx(100, rel=0.15)


def test_checks_that_bring_nothing_to_expect_do_not_meet_a_target() -> None:
    price = Price(0.4)
    for number in range(10):
        price.checked(float(number), 0.0, 0.0)
        price.settle(60.0, 1.0)
    assert price.value > 0


@quick
@given(
    st.lists(
        st.tuples(
            st.floats(-100, 1e5),
            AMOUNT,
            AMOUNT,
            st.floats(0, 1e6),
            st.floats(0.01, 100),
        ),
        max_size=30,
    ),
    st.floats(0.01, 60),
)
def test_whatever_happens_a_price_is_bounded(
    steps: list[tuple[float, float, float, float, float]], target: float
) -> None:
    price, now = Price(target), 0.0
    for wait, expected, delay, budget, ratio in steps:
        now += wait
        price.checked(now, expected, delay)
        price.grow(ratio)
        price.settle(budget, 1.0)
        assert 1e-4 < price.value <= 1e9
