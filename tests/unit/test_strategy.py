"""The example strategy: regimes, hysteresis, and when it must be flat."""

from __future__ import annotations

from typing import TYPE_CHECKING, cast

import msgspec
import pytest

from connector.client.views import Views
from connector.core.model import AllExpiry, Event, Levels, Status
from examples.strategy import (
    Regime,
    Signal,
    Strategy,
    follow,
    follow_replay,
    update,
)
from tests.support.written_feed import an_event, state_of

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from connector.client import EventStream, LiveLevels, SymbolView

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


class Feed:
    """The client and the stream of a feed in which ETHUSDT becomes silent."""

    def __init__(self, *events: Event) -> None:
        states = [state_of(an_event(1)), state_of(an_event(1, "ETHUSDT"))]
        self.start: Mapping[str, SymbolView] = dict(Views(states).all)
        self._events = list(events)
        self._views = Views(states)
        self._is_silent = False

    def __getitem__(self, symbol: str) -> SymbolView:
        return self._views.all[symbol]

    def is_fresh(self, symbol: str) -> bool:
        return self.why_not_fresh(symbol) is None

    def why_not_fresh(self, symbol: str) -> str | None:
        return "silent" if self._is_silent and symbol == "ETHUSDT" else None

    def next_event(self, timeout: float) -> Event:
        self._is_silent = True
        if not self._events:
            raise KeyboardInterrupt
        event = self._events.pop(0)
        self._views.take_event(event, 0)
        return event


def followed(feed: Feed) -> None:
    with pytest.raises(KeyboardInterrupt):
        follow(cast("LiveLevels", feed), cast("EventStream", feed), MARGIN)


def test_a_silent_symbol_is_flat_while_events_of_others_come(
    capsys: pytest.CaptureFixture[str],
) -> None:
    followed(Feed(an_event(2)))
    assert capsys.readouterr().out.splitlines()[-1] == "ETHUSDT flat (silent)"


def test_an_old_event_is_not_traded(capsys: pytest.CaptureFixture[str]) -> None:
    old = msgspec.structs.replace(an_event(2), observed_at=0)
    followed(Feed(old))
    assert "BTCUSDT flat (the event is old)" in capsys.readouterr().out


class Replayed:
    """A stream that ends after some events."""

    def __init__(self, *events: Event) -> None:
        self.start: Mapping[str, SymbolView] = {}
        self._events = events

    def __iter__(self) -> Iterator[Event]:
        return iter(self._events)


def test_the_clock_does_not_matter_in_a_replay(
    capsys: pytest.CaptureFixture[str],
) -> None:
    old = msgspec.structs.replace(an_event(2), observed_at=0)
    stale = an_event(3, status=Status.STALE)
    follow_replay(cast("EventStream", Replayed(old, stale)), MARGIN)
    assert capsys.readouterr().out.splitlines() == [
        "BTCUSDT above the flip at 100 (flip 2, model flow)",
        "BTCUSDT flat (the status is STALE)",
    ]
