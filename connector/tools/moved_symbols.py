"""Tells symbols that moved when partitions were added from misplaced records.

Kafka does not tell how many partitions a topic had before. So the counts are inferred from
the records: they have to explain where each symbol was, and in which order.
"""

from __future__ import annotations

from itertools import combinations
from typing import TYPE_CHECKING, Final

from connector.core.model import Value
from connector.kafka.names import partition_of

if TYPE_CHECKING:
    from collections.abc import Collection, Sequence

# Partitions are added rarely: at most so often within the retention of the events.
_MAX_ADDITIONS: Final = 2


class Judgement(Value, frozen=True):
    """The symbols that have moved, with the earlier counts, and the faults of the others."""

    earlier: tuple[int, ...]
    moved: tuple[str, ...]
    faults: tuple[str, ...]


class MovedSymbols:
    """Symbols with events in partitions that the present count does not explain."""

    def __init__(self) -> None:
        self._faults: dict[tuple[str, int], str] = {}
        self._paths: dict[str, Sequence[int]] = {}

    def add(self, symbol: str, partition: int, fault: str) -> None:
        """Note an event that is not where it belongs now. The first one is reported."""
        self._faults.setdefault((symbol, partition), fault)

    def set_path(self, symbol: str, partitions: Sequence[int]) -> None:
        """Note where a symbol was, in the order of its sequence."""
        self._paths[symbol] = partitions

    def judge(self, partitions: int) -> Judgement:
        """Compare everything noted with the present number of partitions."""
        earlier = earlier_counts(self._faults, partitions)
        if earlier is None:
            return Judgement((), (), tuple(self._faults.values()))
        counts = (*earlier, partitions)
        moved = set()
        faults = []
        for (symbol, _), fault in self._faults.items():
            if follows_additions(symbol, self._paths.get(symbol, ()), counts):
                moved.add(symbol)
            else:
                faults.append(fault)
        return Judgement(earlier, tuple(sorted(moved)), tuple(faults))


def earlier_counts(
    moved: Collection[tuple[str, int]], partitions: int
) -> tuple[int, ...] | None:
    """Return the earlier partition counts that explain where symbols were, or None.

    Each item is a symbol and a partition that the present count does not explain.
    """
    explained: dict[int, set[tuple[str, int]]] = {}
    for count in range(1, partitions):
        found = set()
        for symbol, partition in moved:
            if partition_of(symbol, count) == partition:
                found.add((symbol, partition))
        # Most counts explain nothing. With thousands of partitions, trying all pairs of
        # them would take minutes.
        if found:
            explained[count] = found

    # The fewest additions, and the latest counts, are the most likely ones.
    latest_first = sorted(explained, reverse=True)
    for additions in range(1, _MAX_ADDITIONS + 1):
        for counts in combinations(latest_first, additions):
            if set().union(*(explained[count] for count in counts)) == set(moved):
                return tuple(sorted(counts))
    return None


def follows_additions(
    symbol: str, partitions: Sequence[int], counts: Sequence[int]
) -> bool:
    """Return True if a symbol was in these partitions, in this order, as counts grew."""
    index = 0
    for partition in partitions:
        while partition_of(symbol, counts[index]) != partition:
            index += 1
            if index == len(counts):
                return False
    return True
