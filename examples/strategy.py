"""An example strategy: spot against the gamma flip and the walls, with hysteresis.

Above the flip dealers hedge against moves, so prices tend to return. Below it they hedge
with moves, so prices tend to run. Near the call resistance or the put support moves tend to
end. The program prints a line whenever a symbol's regime changes. It is no advice to trade.

Three rules matter for every strategy on these levels:

- Use levels only while they are fresh. Otherwise be flat.
- Forget everything that was derived from levels of another model: see `model`.
- Demand a margin before changing sides, or noise around a level makes a signal a minute.

The price here is the spot of the last event. A move of spot alone makes no event: with a
price feed of your own, call `decide` at each of its ticks, with the view of that moment.

On a past day, published again by `gex-connector replay`, the time of day says nothing about
the levels. With `--replay` the program does not look at it: the same events give the same
signals at every speed.
"""

from __future__ import annotations

import argparse
import logging
import sys
import time
from contextlib import suppress
from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING

from connector.client import ClientError, Levels, LiveLevels, Status

if TYPE_CHECKING:
    from connector.client import Event, EventStream

# How often to look at the freshness of every symbol.
LOOK_SECONDS = 1.0
# After an outage of this program come the events that it has missed. Do not trade them.
OLD_SECONDS = 60.0


class Regime(StrEnum):
    """The place of spot among the levels."""

    FLAT = "flat"
    ABOVE_FLIP = "above the flip"
    BELOW_FLIP = "below the flip"
    AT_RESISTANCE = "at the call resistance"
    AT_SUPPORT = "at the put support"


@dataclass(frozen=True, slots=True)
class Signal:
    """A change of regime, and the price at which it was noticed."""

    symbol: str
    regime: Regime
    price: float | None
    reason: str


class Strategy:
    """The regime of one symbol. Pure: prices and levels in, signals out.

    `margin` is a fraction of a level's price. Spot is at a wall within one margin of it, and
    leaves it beyond two. It changes the side of the flip beyond one.
    """

    def __init__(self, symbol: str, margin: float = 0.001) -> None:
        self.regime = Regime.FLAT
        self._symbol = symbol
        self._margin = margin
        self._model: str | None = None
        self._is_above = False

    def decide(self, price: float, levels: Levels) -> Signal | None:
        """Return a signal if the regime is another one at this price."""
        all_expiry = levels.all_expiry
        flip = all_expiry.hvl
        if flip is None:
            return self.flat("there is no flip")
        if levels.positioning != self._model or self.regime is Regime.FLAT:
            # Levels of another model are not comparable: begin again, on the nearer side.
            self._model = levels.positioning
            self.regime = Regime.FLAT
            self._is_above = price >= flip
        if price > flip * (1 + self._margin):
            self._is_above = True
        if price < flip * (1 - self._margin):
            self._is_above = False

        regime = Regime.ABOVE_FLIP if self._is_above else Regime.BELOW_FLIP
        if self._is_near(price, all_expiry.call_resistance, Regime.AT_RESISTANCE):
            regime = Regime.AT_RESISTANCE
        elif self._is_near(price, all_expiry.put_support, Regime.AT_SUPPORT):
            regime = Regime.AT_SUPPORT
        return self._become(regime, price, f"flip {flip:g}, model {self._model}")

    def flat(self, reason: str) -> Signal | None:
        """Return a signal if there was a regime: without fresh levels there is none."""
        return self._become(Regime.FLAT, None, reason)

    def _is_near(self, price: float, wall: float | None, regime: Regime) -> bool:
        if wall is None:
            return False
        margins = 2 if self.regime is regime else 1
        return abs(price - wall) <= wall * self._margin * margins

    def _become(
        self, regime: Regime, price: float | None, reason: str
    ) -> Signal | None:
        if regime is self.regime:
            return None
        self.regime = regime
        return Signal(self._symbol, regime, price, reason)


def follow(levels: LiveLevels, events: EventStream, margin: float) -> None:
    """Print the signals of every symbol until the program ends."""
    strategies = {}
    sequences = {}
    for symbol, view in events.start.items():
        strategies[symbol] = Strategy(symbol, margin)
        sequences[symbol] = view.sequence
        if levels.is_fresh(symbol):
            update(strategies[symbol], view.status, view.levels)

    look_at = time.monotonic()
    while True:
        event = events.next_event(timeout=LOOK_SECONDS)
        if event is not None:
            strategy = strategies.setdefault(
                event.symbol, Strategy(event.symbol, margin)
            )
            sequences[event.symbol] = event.sequence
            take(strategy, event)
        # Also while events come: they may be those of other symbols.
        if time.monotonic() >= look_at:
            leave_silent(levels, strategies, sequences)
            look_at = time.monotonic() + LOOK_SECONDS


def follow_replay(events: EventStream, margin: float) -> None:
    """Print the signals of a past day. What was stale on the day has this status.

    Nothing here depends on the time of day, which is not that of the levels.
    """
    strategies = {}
    for symbol, view in events.start.items():
        strategies[symbol] = Strategy(symbol, margin)
        update(strategies[symbol], view.status, view.levels)
    for event in events:
        strategy = strategies.setdefault(event.symbol, Strategy(event.symbol, margin))
        update(strategy, event.status, event.after)


def take(strategy: Strategy, event: Event) -> None:
    """Show the signal that an event gives, if it is not too old for one."""
    age = time.time() - event.observed_at / 1e6
    if age > OLD_SECONDS:
        show(strategy.flat("the event is old"))
    else:
        update(strategy, event.status, event.after)


def leave_silent(
    levels: LiveLevels, strategies: dict[str, Strategy], sequences: dict[str, int]
) -> None:
    """Be flat where levels are not fresh: silence is no event."""
    for symbol, strategy in strategies.items():
        reason = levels.why_not_fresh(symbol)
        # If the view is ahead, its event is on the way and says more.
        if reason is not None and levels[symbol].sequence == sequences[symbol]:
            show(strategy.flat(reason))


def update(strategy: Strategy, status: Status, levels: Levels | None) -> None:
    """Show the signal that new levels give."""
    if status is not Status.LIVE or levels is None or levels.spot_price is None:
        show(strategy.flat(f"the status is {status}"))
        return
    show(strategy.decide(levels.spot_price, levels))


def show(signal: Signal | None) -> None:
    """Print a signal; a trading system would act here."""
    if signal is not None:
        price = "" if signal.price is None else f" at {signal.price:g}"
        print(f"{signal.symbol} {signal.regime}{price} ({signal.reason})", flush=True)


def main() -> None:
    """Follow a feed until Ctrl-C."""
    parser = argparse.ArgumentParser(description="Print a symbol's changes of regime.")
    parser.add_argument("--bootstrap", default="127.0.0.1:9092", metavar="HOST:PORT")
    parser.add_argument("--prefix", default="gex.levels")
    parser.add_argument("--feed", default="all")
    parser.add_argument("--registry", metavar="URL")
    parser.add_argument(
        "--margin",
        type=float,
        default=0.001,
        help="fraction of a level's price (default: %(default)s)",
    )
    parser.add_argument(
        "--replay",
        action="store_true",
        help="for a past day that `gex-connector replay` publishes without --shift: "
        "do not compare its moments with the time of day",
    )
    options = parser.parse_args()
    with (
        LiveLevels(
            options.bootstrap,
            feed=options.feed,
            prefix=options.prefix,
            registry=options.registry,
        ) as levels,
        levels.events() as events,
    ):
        topic = f"{options.prefix}.{options.feed}.changes"
        print(f"following {topic}; Ctrl-C ends", file=sys.stderr, flush=True)
        if options.replay:
            follow_replay(events, options.margin)
        else:
            follow(levels, events, options.margin)


if __name__ == "__main__":
    logging.basicConfig(format="%(message)s")
    with suppress(KeyboardInterrupt):
        try:
            main()
        except ClientError as error:
            sys.exit(f"error: {error}")
