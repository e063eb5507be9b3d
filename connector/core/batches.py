"""Which symbols share a request: at most eight, packed over all the shards of a feed that a worker owns. Pure."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from connector.core.model import Value

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

MAX_SYMBOLS: Final = 8
"""The upstream's limit for one request."""


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
        self._suspects: list[tuple[str, ...]] = []
        self._refused: set[str] = set()

    def own(self, symbols: Iterable[str]) -> None:
        """Set the symbols that are asked for from now on."""
        self._owned = owned = frozenset(symbols)
        self._suspects = [kept for group in self._suspects if (kept := tuple(s for s in group if s in owned))]
        self._refused &= owned
        self._healthy = set(owned) - self._refused - {symbol for group in self._suspects for symbol in group}

    def all(self) -> tuple[Batch, ...]:
        """Every batch, in an order that depends on the symbols alone."""
        healthy = sorted(self._healthy)
        packed = [tuple(healthy[at : at + self._size]) for at in range(0, len(healthy), self._size)]
        alone = [Batch(self._feed, (symbol,), refused=True) for symbol in sorted(self._refused)]
        return (*(Batch(self._feed, symbols) for symbols in (*packed, *self._suspects)), *alone)

    def refused(self, symbols: Sequence[str]) -> None:
        """The upstream refused a request for just these symbols."""
        self._forget(symbols)
        middle = len(symbols) // 2
        if middle == 0:
            self._refused |= self._owned.intersection(symbols)
        for half in (symbols[:middle], symbols[middle:]) if middle else ():
            if kept := tuple(symbol for symbol in half if symbol in self._owned):
                self._suspects.append(kept)

    def answered(self, symbols: Sequence[str]) -> None:
        """The upstream answered a request for these symbols: none of them is a culprit."""
        if not self._healthy.issuperset(symbols):
            self._forget(symbols)
            self._healthy |= self._owned.intersection(symbols)

    def _forget(self, symbols: Sequence[str]) -> None:
        gone = set(symbols)
        self._healthy -= gone
        self._refused -= gone
        self._suspects = [kept for group in self._suspects if (kept := tuple(s for s in group if s not in gone))]
