"""Which symbols share a request: at most eight, packed over all the shards of a feed that a worker owns. Pure.

Symbols that are refreshed at about the same time are packed together, so that one check shows all of them.
"""

from __future__ import annotations

from itertools import pairwise
from math import log
from typing import TYPE_CHECKING, Final

from connector.core.model import Value

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

# The upstream's limit for one request.
MAX_SYMBOLS: Final = 8


# Periods within a tenth of each other are packed as one.
_SAME_PERIOD: Final = log(1.1)

_WORTH_IT: Final = 0.8
# Batches are packed anew where that makes them so much narrower, each by so much on
# average.
_WORTH_SECONDS: Final = 1.0


class Batch(Value, frozen=True):
    """The symbols of one request. A `refused` one stands alone, is known to be refused, and is tried slowly."""

    feed: str
    symbols: tuple[str, ...]
    refused: bool = False


class Batches:
    """Packs the symbols of one feed, and finds the one for which the upstream refuses a whole request.

    A refused batch is halved until its culprit stands alone; whatever is answered is packed with the others again.
    """

    def __init__(self, feed: str, size: int = MAX_SYMBOLS) -> None:
        self._feed = feed
        self._size = size
        self._owned: frozenset[str] = frozenset()
        self._healthy: set[str] = set()
        self._order: dict[str, int] = {}
        self._suspects: list[tuple[str, ...]] = []
        self._refused: set[str] = set()

    def own(self, symbols: Iterable[str]) -> None:
        """Set the symbols that are asked for from now on."""
        self._owned = owned = frozenset(symbols)
        self._suspects = [
            kept
            for group in self._suspects
            if (kept := tuple(s for s in group if s in owned))
        ]
        self._refused &= owned
        self._healthy = (
            set(owned)
            - self._refused
            - {symbol for group in self._suspects for symbol in group}
        )

    def all(self) -> tuple[Batch, ...]:
        """Every batch, in an order that depends on the symbols and on what `regroup` was told."""
        packed = self._packed(self._order)
        alone = [
            Batch(self._feed, (symbol,), refused=True)
            for symbol in sorted(self._refused)
        ]
        return (
            *(Batch(self._feed, symbols) for symbols in (*packed, *self._suspects)),
            *alone,
        )

    def refused(self, symbols: Sequence[str]) -> None:
        """The upstream refused a request for just these symbols."""
        self._forget(symbols)
        middle = len(symbols) // 2
        if middle == 0:
            self._refused |= self._owned.intersection(symbols)
        for half in (symbols[:middle], symbols[middle:]) if middle else ():
            if kept := tuple(symbol for symbol in half if symbol in self._owned):
                self._suspects.append(kept)

    def answered(self, symbols: Sequence[str]) -> bool:
        """The upstream answered a request for these symbols: none of them is a culprit. True: the batches changed."""
        if self._healthy.issuperset(symbols):
            return False
        self._forget(symbols)
        self._healthy |= self._owned.intersection(symbols)
        return True

    def regroup(self, rhythms: Mapping[str, tuple[float, float]]) -> bool:
        """Pack by period and next refresh (seconds; a symbol without a rhythm comes last). True: the batches changed.

        They change only where they become clearly narrower in time.
        """
        if len(self._healthy) <= self._size:
            return False
        order = {
            symbol: place
            for place, symbol in enumerate(_ordered(rhythms, self._healthy))
        }
        packed = self._packed(order)
        now, then = _width(self._packed(self._order), rhythms), _width(packed, rhythms)
        if then >= min(_WORTH_IT * now, now - _WORTH_SECONDS * len(packed)):
            return False
        self._order = order
        return True

    def _packed(self, order: Mapping[str, int]) -> list[tuple[str, ...]]:
        healthy = sorted(
            self._healthy, key=lambda symbol: (order.get(symbol, len(order)), symbol)
        )
        return [
            tuple(healthy[at : at + self._size])
            for at in range(0, len(healthy), self._size)
        ]

    def _forget(self, symbols: Sequence[str]) -> None:
        gone = set(symbols)
        self._healthy -= gone
        self._refused -= gone
        self._suspects = [
            kept
            for group in self._suspects
            if (kept := tuple(s for s in group if s not in gone))
        ]


def _ordered(
    rhythms: Mapping[str, tuple[float, float]], symbols: Iterable[str]
) -> list[str]:
    """Symbols of about one period together, in the order of their refreshes, from the longest pause on."""
    known = sorted(
        (rhythms[symbol][0], symbol) for symbol in symbols if symbol in rhythms
    )
    groups: list[tuple[float, list[str]]] = []
    for period, symbol in known:
        if not groups or log(period / groups[-1][0]) > _SAME_PERIOD:
            groups.append((period, []))
        groups[-1][1].append(symbol)
    ordered = []
    for period, members in groups:
        phases = sorted((rhythms[symbol][1] % period, symbol) for symbol in members)
        pauses = [
            (after[0] - before[0]) % period
            for before, after in pairwise([phases[-1], *phases])
        ]
        first = max(range(len(phases)), key=pauses.__getitem__)
        ordered += [symbol for _, symbol in phases[first:] + phases[:first]]
    return ordered


def _width(
    packed: Iterable[Sequence[str]], rhythms: Mapping[str, tuple[float, float]]
) -> float:
    """Seconds that the refreshes of each batch lie apart, in all; a period where they have no order."""
    total = 0.0
    for symbols in packed:
        known = [rhythms[symbol] for symbol in symbols if symbol in rhythms]
        if not known:
            continue
        shortest, longest = min(known)[0], max(known)[0]
        phases = sorted(at % longest for _, at in known)
        pause = max(
            after - before for before, after in pairwise([*phases, phases[0] + longest])
        )
        ordered = len(known) == len(symbols) and log(longest / shortest) < _SAME_PERIOD
        total += longest - pause if ordered else longest
    return total
