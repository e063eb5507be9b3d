"""Recognizes values that come back within one refresh of a symbol.

Two nodes of the upstream may answer in turn, and differ about the same refresh: a little in
the numbers, or in the model behind them. Each of their values is news once. After that, an
answer with a value that another one has replaced is not a change of the market.

A model that comes back and stays is a change, though: a fallback of seconds that is over.
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

# A model that came back is a change after this many answers in a row. Nodes that answer in
# turn never get there.
_LASTING_ANSWERS: Final = 3


@dataclass(slots=True)
class _Refresh:
    """The values that were seen of a refresh: the latest, and those before it.

    `returned` counts the answers in a row with `returned_model`, a model that came back.
    """

    computed_at: int
    latest: Levels
    model: str | None
    replaced: deque[Levels] = field(default_factory=lambda: deque(maxlen=_VALUES_KEPT))
    replaced_models: deque[str] = field(
        default_factory=lambda: deque(maxlen=_VALUES_KEPT)
    )
    returned_model: str | None = None
    returned: int = 0


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

    def is_undecided(self, symbol: str) -> bool:
        """Return True if the next answers decide whether the model has changed.

        So an answer counts even if it is the same as the last one.
        """
        refresh = self._refreshes.get(symbol)
        return refresh is not None and refresh.returned > 0

    def is_flapping(self, symbol: str, entry: Entry) -> bool:
        """Return True if another value of the same refresh has replaced this one before.

        Take note of the value otherwise.
        """
        if entry.computed_at is None:
            return False
        levels = entry.levels
        known = self._refreshes.get(symbol)
        if known is None or entry.computed_at > known.computed_at:
            self._refreshes[symbol] = _Refresh(
                entry.computed_at, levels, levels.positioning
            )
            return False
        if entry.computed_at < known.computed_at:
            # Another part drops it, as older.
            return False

        if _is_other_model(known.model, levels.positioning):
            return self._is_flapping_model(known, levels)
        known.returned = 0
        is_same = not compare(known.latest, levels, self._rules)
        if not is_same:
            for replaced in known.replaced:
                if self._are_same(replaced, levels):
                    return True
            known.replaced.append(known.latest)
        known.latest = levels
        known.model = levels.positioning or known.model
        return False

    def _is_flapping_model(self, known: _Refresh, levels: Levels) -> bool:
        """Return True if a model was replaced before, and has not stayed since it came back.

        The numbers do not matter: they are not comparable with those of the other model.
        """
        model = levels.positioning
        if model != known.returned_model:
            known.returned = 0
        if model in known.replaced_models:
            known.returned_model = model
            known.returned += 1
            if known.returned < _LASTING_ANSWERS:
                return True

        if known.model is not None and known.model not in known.replaced_models:
            known.replaced_models.append(known.model)
        known.replaced.append(known.latest)
        known.latest = levels
        known.model = model
        known.returned = 0
        return False

    def _are_same(self, before: Levels, after: Levels) -> bool:
        if _is_other_model(before.positioning, after.positioning):
            return False
        return not compare(before, after, self._rules)


def _is_other_model(known: str | None, latest: str | None) -> bool:
    """Return True if both models are named, and differ. An answer may name none."""
    return known is not None and latest is not None and latest != known
