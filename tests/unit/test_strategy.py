"""The example strategy: regimes, hysteresis, and when it must be flat."""

from __future__ import annotations

import msgspec
import pytest

from connector.core.model import AllExpiry, Levels, Status
from examples.strategy import Regime, Signal, Strategy, update

MARGIN = 0.01
FLIP, RESISTANCE, SUPPORT = 100.0, 120.0, 80.0


def levels(model: str = "flow", flip: float | None = FLIP) -> Levels:
    walls = AllExpiry(hvl=flip, call_resistance=RESISTANCE, put_support=SUPPORT)
    return Levels(spot_price=105.0, positioning=model, all_expiry=walls)


def regimes(*prices: float) -> list[Regime]:
    """Return the regime after each of these prices."""
    strategy = Strategy("BTCUSDT", MARGIN)
    found = []
    for price in prices:
        strategy.decide(price, levels())
        found.append(strategy.regime)
    return found


@pytest.mark.parametrize(
    ("price", "regime"),
    [
        (105, Regime.ABOVE_FLIP),
        (95, Regime.BELOW_FLIP),
        (119.5, Regime.AT_RESISTANCE),
        (80.5, Regime.AT_SUPPORT),
    ],
)
def test_the_first_price_has_a_regime(price: float, regime: Regime) -> None:
    assert regimes(price) == [regime]


def test_the_flip_is_crossed_only_beyond_the_margin() -> None:
    above, below = Regime.ABOVE_FLIP, Regime.BELOW_FLIP
    assert regimes(102, 99.5, 98.9, 100.5, 101.1) == [above, above, below, below, above]


def test_a_wall_is_left_only_beyond_two_margins() -> None:
    at_wall = Regime.AT_RESISTANCE
    assert regimes(119, 118, 117.5, 118) == [
        at_wall,
        at_wall,
        Regime.ABOVE_FLIP,
        Regime.ABOVE_FLIP,
    ]


def test_a_signal_comes_once_per_regime() -> None:
    strategy = Strategy("BTCUSDT", MARGIN)
    signal = strategy.decide(105, levels())
    assert signal == Signal("BTCUSDT", Regime.ABOVE_FLIP, 105, "flip 100, model flow")
    assert strategy.decide(106, levels()) is None


def test_another_model_begins_again() -> None:
    strategy = Strategy("BTCUSDT", MARGIN)
    strategy.decide(102, levels())
    # Within the margin the side would stay. But the flip is another model's.
    strategy.decide(102, levels("std", flip=102.5))
    assert strategy.regime is Regime.BELOW_FLIP


def test_without_a_flip_it_is_flat() -> None:
    strategy = Strategy("BTCUSDT", MARGIN)
    strategy.decide(105, levels())
    signal = strategy.decide(105, levels(flip=None))
    assert signal is not None
    assert signal.regime is Regime.FLAT


@pytest.mark.parametrize("status", [Status.STALE, Status.MISSING, Status.REMOVED])
def test_it_is_flat_unless_levels_are_live(
    status: Status, capsys: pytest.CaptureFixture[str]
) -> None:
    strategy = Strategy("BTCUSDT", MARGIN)
    update(strategy, Status.LIVE, levels())
    update(strategy, status, levels() if status.has_levels else None)
    assert capsys.readouterr().out.splitlines() == [
        "BTCUSDT above the flip at 105 (flip 100, model flow)",
        f"BTCUSDT flat (the status is {status})",
    ]


def test_a_price_is_needed() -> None:
    strategy = Strategy("BTCUSDT", MARGIN)
    update(strategy, Status.LIVE, msgspec.structs.replace(levels(), spot_price=None))
    assert strategy.regime is Regime.FLAT
