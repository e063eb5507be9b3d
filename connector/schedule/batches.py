"""Pack symbols into requests: at most eight each, over all shards of a feed that a worker owns.

Pure.

Symbols that are refreshed at about the same time share a request, so that one check shows
all of them.
"""

from __future__ import annotations

from collections.abc import Mapping
from itertools import pairwise
from math import log
from typing import TYPE_CHECKING, Final

from connector.core.model import Value

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

# The upstream's limit for one request.
MAX_SYMBOLS: Final = 8

# The period of each symbol, and a moment at which it is refreshed. Both in seconds.
Rhythms = Mapping[str, tuple[float, float]]

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
        packed = self._packed(self._order)
        for symbols in (*packed, *self._suspects):
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

    def regroup(self, rhythms: Rhythms) -> bool:
        """Pack symbols by period and next refresh. Symbols without a rhythm come last.

        Returns True if the batches changed. They change only if their refreshes then lie
        clearly closer together.
        """
        if len(self._healthy) <= self._size:
            return False
        order = {}
        for place, symbol in enumerate(_ordered(rhythms, self._healthy)):
            order[symbol] = place
        packed = self._packed(order)

        # Keep the batches unless the gain is clear in both respects.
        width_before = _width(self._packed(self._order), rhythms)
        width_after = _width(packed, rhythms)
        is_clear_part = width_after < _REGROUP_WIDTH_RATIO * width_before
        least_gain_seconds = _REGROUP_SECONDS_PER_BATCH * len(packed)
        is_clear_gain = width_after < width_before - least_gain_seconds
        if not (is_clear_part and is_clear_gain):
            return False
        self._order = order
        return True

    def _packed(self, order: Mapping[str, int]) -> list[tuple[str, ...]]:
        def place(symbol: str) -> tuple[int, str]:
            return order.get(symbol, len(order)), symbol

        healthy = sorted(self._healthy, key=place)
        packed = []
        for begin in range(0, len(healthy), self._size):
            end = begin + self._size
            packed.append(tuple(healthy[begin:end]))
        return packed

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


def _ordered(rhythms: Rhythms, symbols: Iterable[str]) -> list[str]:
    """Return the symbols with a rhythm: by their periods, then by their refreshes."""
    ordered = []
    for period, members in _grouped_by_period(rhythms, symbols):
        ordered += _ordered_by_refresh(rhythms, period, members)
    return ordered


def _grouped_by_period(
    rhythms: Rhythms, symbols: Iterable[str]
) -> list[tuple[float, list[str]]]:
    """Return the shortest period of each group, and its symbols."""
    known = []
    for symbol in symbols:
        if symbol in rhythms:
            period, _ = rhythms[symbol]
            known.append((period, symbol))
    known.sort()

    groups: list[tuple[float, list[str]]] = []
    for period, symbol in known:
        if not groups or not _are_same_period(groups[-1][0], period):
            groups.append((period, []))
        groups[-1][1].append(symbol)
    return groups


def _ordered_by_refresh(
    rhythms: Rhythms, period: float, symbols: Iterable[str]
) -> list[str]:
    """Return symbols by their refreshes within a period, from its longest pause on."""
    phases = []
    for symbol in symbols:
        _, refreshed_at = rhythms[symbol]
        phases.append((refreshed_at % period, symbol))
    phases.sort()

    # The pause before each refresh. The last refresh of a period precedes the first.
    pauses = []
    for before, after in pairwise([phases[-1], *phases]):
        pauses.append((after[0] - before[0]) % period)
    first = pauses.index(max(pauses))
    from_first = phases[first:] + phases[:first]
    return [symbol for _, symbol in from_first]


def _width(packed: Iterable[Sequence[str]], rhythms: Rhythms) -> float:
    """Return the total time over which the refreshes of each batch are spread, in seconds."""
    return sum(_batch_width(symbols, rhythms) for symbols in packed)


def _batch_width(symbols: Sequence[str], rhythms: Rhythms) -> float:
    """Return the time over which the refreshes of a batch are spread, in seconds.

    A batch without a common rhythm counts with its longest period.
    """
    known = [rhythms[symbol] for symbol in symbols if symbol in rhythms]
    if not known:
        return 0.0
    periods = [period for period, _ in known]
    longest = max(periods)
    has_unknown = len(known) < len(symbols)
    if has_unknown or not _are_same_period(min(periods), longest):
        return longest

    phases = sorted(refreshed_at % longest for _, refreshed_at in known)
    pauses = []
    for before, after in pairwise([*phases, phases[0] + longest]):
        pauses.append(after - before)
    return longest - max(pauses)


def _are_same_period(shorter: float, longer: float) -> bool:
    return log(longer / shorter) <= _SAME_PERIOD_LOG_RATIO
