"""Calls a program's functions when levels change or something is wrong."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar

from connector.client.errors import ClientStopped
from connector.client.views import SymbolView, value_at
from connector.core.model import Levels, Status

if TYPE_CHECKING:
    from connector.client.views import ViewChange


@dataclass(frozen=True, slots=True)
class Change:
    """A value that changed. `before` is None for a new symbol, too.

    `view` is the view since the change.
    """

    symbol: str
    path: str
    before: Any
    after: Any
    view: SymbolView


OnChange = Callable[[Change], None]
OnTrouble = Callable[[str | None], None]
_T = TypeVar("_T")


class Listeners:
    """The functions to call. `add` and `add_trouble` are safe from any thread."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._on_change: list[tuple[str | None, str, OnChange]] = []
        self._on_trouble: list[OnTrouble] = []
        self._trouble: str | None = None

    def add(self, symbol: str | None, path: str, call: OnChange) -> None:
        """Call a function when a value changes. Raises SettingsError for an unknown path."""
        value_at(_EMPTY, path)
        with self._lock:
            self._on_change.append((symbol, path, call))

    def add_trouble(self, call: OnTrouble) -> None:
        """Call a function when trouble begins, changes or ends."""
        with self._lock:
            self._on_trouble.append(call)

    def notify(self, change: ViewChange) -> None:
        """Call the functions for the values that differ between two views.

        Raises ClientStopped if a function raises, as `tick` does.
        """
        with self._lock:
            listening = list(self._on_change)
        after = change.after
        for symbol, path, call in listening:
            if symbol not in {None, after.symbol}:
                continue
            old = None if change.before is None else value_at(change.before, path)
            new = value_at(after, path)
            if old != new:
                _call(call, Change(after.symbol, path, old, new, after))

    def tick(self, trouble: str | None) -> None:
        """Tell of trouble that has begun or ended."""
        # The seconds in the text change all the time.
        if (trouble is None) == (self._trouble is None):
            return
        self._trouble = trouble
        with self._lock:
            listening = list(self._on_trouble)
        for call in listening:
            _call(call, trouble)


def _call(call: Callable[[_T], None], argument: _T) -> None:
    """Call a program's function. Raises ClientStopped if it raises."""
    try:
        call(argument)
    # The function may use the client, and raise one of its errors. That must not be taken
    # for an error of reading, such as an unknown symbol or missing events.
    except Exception as error:
        raise ClientStopped(
            f"a callback raised {error!r}; correct it, then make another LiveLevels"
        ) from error


_EMPTY = SymbolView("", "", 0, Status.REMOVED, None, None, 0, Levels())
