"""Pack symbols into requests: at most eight each, over all shards of a feed that a worker owns.

Pure.

Symbols that are refreshed at about the same time share a request, so that one check shows
all of them.
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


# Periods within a tenth of each other count as the same.
_SAME_PERIOD_LOG_RATIO: Final = log(1.1)

# Batches are regrouped if their refreshes then lie closer together: in this ratio, and
# by this much per batch.
_REGROUP_WIDTH_RATIO: Final = 0.8
_REGROUP_SECONDS_PER_BATCH: Final = 1.0


class Batch(Value, frozen=True):
    """The symbols of one request.

    A `refused` batch is one symbol that the upstream refuses; it is tried rarely.
    """

    feed: str
    symbols: tuple[str, ...]
    refused: bool = False


class Batches:
    """The batches of one feed.

    When the upstream refuses a request because of one symbol, the batch is halved until
    that symbol is alone. Symbols that are answered join the others again.
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
        """Set the symbols to request from now on."""
        self._owned = frozenset(symbols)
        self._forget(self._asked() - self._owned)
        self._healthy = set(self._owned) - self._refused
        for group in self._suspects:
            self._healthy.difference_update(group)

    def all(self) -> tuple[Batch, ...]:
        """Return every batch. The order depends only on the symbols and on the last regrouping."""
        batches = []
        for symbols in (*self._packed(self._order), *self._suspects):
            batches.append(Batch(self._feed, symbols))
        for symbol in sorted(self._refused):
            batches.append(Batch(self._feed, (symbol,), refused=True))
        return tuple(batches)

    def refused(self, symbols: Sequence[str]) -> None:
        """Take a request for exactly these symbols as refused."""
        self._forget(symbols)
        middle = len(symbols) // 2
        if middle == 0:
            self._refused |= self._owned.intersection(symbols)
            return
        for half in (symbols[:middle], symbols[middle:]):
            owned = tuple(symbol for symbol in half if symbol in self._owned)
            if owned:
                self._suspects.append(owned)

    def answered(self, symbols: Sequence[str]) -> bool:
        """Take these symbols as healthy, since a request for them was answered.

        Returns True if the batches changed.
        """
        if self._healthy.issuperset(symbols):
            return False
        self._forget(symbols)
        self._healthy |= self._owned.intersection(symbols)
        return True

    def regroup(self, rhythms: Mapping[str, tuple[float, float]]) -> bool:
        """Pack symbols by period and next refresh, in seconds. Symbols without a rhythm come last.

        Returns True if the batches changed. They change only if their refreshes then lie
        clearly closer together.
        """
        if len(self._healthy) <= self._size:
            return False
        order = {
            symbol: place
            for place, symbol in enumerate(_ordered(rhythms, self._healthy))
        }
        packed = self._packed(order)
        now, then = _width(self._packed(self._order), rhythms), _width(packed, rhythms)
        if then >= min(
            _REGROUP_WIDTH_RATIO * now, now - _REGROUP_SECONDS_PER_BATCH * len(packed)
        ):
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

    def _asked(self) -> set[str]:
        """Return the symbols of all batches."""
        return self._healthy.union(self._refused, *self._suspects)

    def _forget(self, symbols: Iterable[str]) -> None:
        """Take symbols out of all batches."""
        gone = set(symbols)
        self._healthy -= gone
        self._refused -= gone
        remaining = []
        for group in self._suspects:
            kept = tuple(symbol for symbol in group if symbol not in gone)
            if kept:
                remaining.append(kept)
        self._suspects = remaining


def _ordered(
    rhythms: Mapping[str, tuple[float, float]], symbols: Iterable[str]
) -> list[str]:
    """Return symbols of a period together, by their refreshes after the longest pause."""
    known = sorted(
        (rhythms[symbol][0], symbol) for symbol in symbols if symbol in rhythms
    )
    groups: list[tuple[float, list[str]]] = []
    for period, symbol in known:
        if not groups or log(period / groups[-1][0]) > _SAME_PERIOD_LOG_RATIO:
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
    """Return the total time over which the refreshes of each batch are spread, in seconds.

    A batch without a common rhythm counts with its longest period.
    """
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
        ordered = (
            len(known) == len(symbols)
            and log(longest / shortest) < _SAME_PERIOD_LOG_RATIO
        )
        total += longest - pause if ordered else longest
    return total
