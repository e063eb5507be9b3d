"""The present levels of each symbol, as a program sees them."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

import msgspec

from connector.client.errors import SettingsError
from connector.client.sequences import SequenceKeeper
from connector.core.model import MICROS, Levels, State, Status

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    from connector.core.model import Event

NO_LEVELS: Final = Levels()


@dataclass(frozen=True, slots=True)
class SymbolView:
    """The state of one symbol at one moment. It never changes; ask again for a newer one.

    Moments (`..._at`) are integers: microseconds since the Unix epoch, UTC. Prices are
    floats in quote units, or None if the API has no value.
    """

    feed: str
    symbol: str
    sequence: int
    """The number of the last event: 1, 2, 3 and so on for each feed and symbol."""
    status: Status
    """LIVE: use the levels. STALE: with care or not at all. Others: there are none."""
    reason: str | None
    """Details of the last event's kind; None also if that event is older than this client."""
    computed_at: int | None
    """When the API computed the levels, None if it did not say."""
    observed_at: int
    """When the connector saw the last refresh or decided the last event, by its clock."""
    levels: Levels
    """The levels. All are None if the status has no levels."""
    clock: Callable[[], float] = field(default=time.time, repr=False, compare=False)
    """The source of the time for `age`, in seconds since the epoch."""

    @property
    def model(self) -> str | None:
        """Return the model behind the levels, `flow` or `std`; None if it is not named.

        Never compare levels of two models.
        """
        return self.levels.positioning

    @property
    def age(self) -> float | None:
        """Return the age of the levels in seconds by this machine's clock.

        None if the API did not say when it computed them.
        """
        if self.computed_at is None:
            return None
        return max(0.0, self.clock() - self.computed_at / MICROS)

    def at(self, path: str) -> Any:
        """Return the value at a path: `all_expiry.hvl`, `spot_price`, `zones`, `status`.

        Raises SettingsError if there is no such path.
        """
        return value_at(self, path)


def value_at(view: SymbolView, path: str) -> Any:
    """Return the value at a path of a view. Raises SettingsError."""
    if path in {"status", "model"}:
        return getattr(view, path)
    value: Any = view.levels
    for name in path.split("."):
        if not isinstance(value, msgspec.Struct) or name not in value.__struct_fields__:
            raise SettingsError(
                f"there is no path {path!r} in levels; use status, model, or a path such "
                "as all_expiry.hvl (docs/reference/levels.md lists them)"
            )
        value = getattr(value, name)
    return value


def usable_levels(status: Status, levels: Levels | None) -> Levels:
    """Return the levels that may be used with a status: none unless it is LIVE or STALE."""
    if levels is None or not status.has_levels:
        return NO_LEVELS
    return levels


@dataclass(frozen=True, slots=True)
class ViewChange:
    """A view that replaced another one. `before` is None for a new symbol."""

    before: SymbolView | None
    after: SymbolView


class Views:
    """The views of a feed, from its restored states and what is read after them.

    A view moves to the next sequence only by an event, so that it shows every event, each
    once. A state of the same sequence refreshes what no event carries: spot, the moment of
    the last refresh, and other values that the connector does not publish.

    Not safe for concurrent use. `now` is a monotonic time in seconds.
    """

    def __init__(
        self, states: Iterable[State], clock: Callable[[], float] = time.time
    ) -> None:
        """`clock` returns seconds since the epoch, for the age of the views."""
        self._clock = clock
        self._views: dict[str, SymbolView] = {}
        # States whose events have not come.
        self._ahead: dict[str, State] = {}
        for state in states:
            self._views[state.symbol] = self._from_state(state, None)
        known = {symbol: view.sequence for symbol, view in self._views.items()}
        self.keeper = SequenceKeeper(known)

    @property
    def all(self) -> Mapping[str, SymbolView]:
        """Return the view of each symbol."""
        return self._views

    def take_event(self, event: Event, now: float) -> list[ViewChange]:
        """Move to the events that can be delivered now, and return the changes in order."""
        changes = []
        for delivered in self.keeper.offer(event, now):
            changes.append(self._replace(self._from_event(delivered)))
        state = self._ahead.get(event.symbol)
        # A new symbol has no known sequence until its first event has come.
        known = self.keeper.known.get(event.symbol, 0)
        if state is not None and state.sequence <= known:
            del self._ahead[event.symbol]
            changes += self.take_state(state, now)
        return changes

    def take_state(self, state: State, now: float) -> list[ViewChange]:
        """Refresh a symbol, or keep the state until its event has come."""
        known = self.keeper.known.get(state.symbol, 0)
        if state.sequence > known:
            self._ahead[state.symbol] = state
            self.keeper.expect(state.symbol, state.sequence, now)
            return []
        view = self._views.get(state.symbol)
        if view is None or state.sequence < known:
            return []
        return [self._replace(self._from_state(state, view.reason))]

    def _replace(self, view: SymbolView) -> ViewChange:
        before = self._views.get(view.symbol)
        self._views[view.symbol] = view
        return ViewChange(before, view)

    def _from_state(self, state: State, reason: str | None) -> SymbolView:
        return SymbolView(
            feed=state.feed,
            symbol=state.symbol,
            sequence=state.sequence,
            status=state.status,
            reason=reason,
            computed_at=state.computed_at,
            observed_at=state.observed_at,
            levels=usable_levels(state.status, state.levels),
            clock=self._clock,
        )

    def _from_event(self, event: Event) -> SymbolView:
        return SymbolView(
            feed=event.feed,
            symbol=event.symbol,
            sequence=event.sequence,
            status=event.status,
            reason=event.reason,
            computed_at=event.computed_at,
            observed_at=event.observed_at,
            levels=usable_levels(event.status, event.after),
            clock=self._clock,
        )
