"""Recognizes values that come back within one refresh of a symbol.

Two nodes of the upstream may answer in turn, and differ a little about the same refresh. Each
of their values is news once. After that, an answer with a value that another one has
replaced is not a change of the market.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from connector.core.diff import compare

if TYPE_CHECKING:
    from connector.core.diff import Rules
    from connector.core.model import Entry, Levels

# Enough for several nodes. Levels that are computed for each request never come back.
_VALUES_KEPT: Final = 8


@dataclass(slots=True)
class _Refresh:
    """The values that were seen of a refresh: the latest, and those before it."""

    computed_at: int
    latest: Levels
    replaced: deque[Levels] = field(default_factory=lambda: deque(maxlen=_VALUES_KEPT))


class RefreshValues:
    """The values of each symbol's newest refresh, identified by its `computed_at`."""

    def __init__(self, rules: Rules) -> None:
        # Within the thresholds, too: each of two values would be written to the state.
        self._rules = rules.exact()
        self._refreshes: dict[str, _Refresh] = {}

    def clear(self) -> None:
        """Forget everything."""
        self._refreshes.clear()

    def forget(self, symbol: str) -> None:
        """Forget a symbol that has no levels: any value is news after that."""
        self._refreshes.pop(symbol, None)

    def is_flapping(self, symbol: str, entry: Entry) -> bool:
        """Return True if another value of the same refresh has replaced this one before.

        Take note of the value otherwise.
        """
        if entry.computed_at is None:
            return False
        known = self._refreshes.get(symbol)
        if known is None or entry.computed_at > known.computed_at:
            self._refreshes[symbol] = _Refresh(entry.computed_at, entry.levels)
            return False
        if entry.computed_at < known.computed_at:
            # Another part drops it, as older.
            return False

        is_same = self._are_same(known.latest, entry.levels)
        # Another model is always news, and never comparable.
        if not is_same and _have_same_model(known.latest, entry.levels):
            for levels in known.replaced:
                if self._are_same(levels, entry.levels):
                    return True
        if not is_same:
            known.replaced.append(known.latest)
        known.latest = entry.levels
        return False

    def _are_same(self, before: Levels, after: Levels) -> bool:
        if not _have_same_model(before, after):
            return False
        return not compare(before, after, self._rules)


def _have_same_model(before: Levels, after: Levels) -> bool:
    """Return False if the levels name two models. An answer may name none."""
    if before.positioning is None or after.positioning is None:
        return True
    return before.positioning == after.positioning
