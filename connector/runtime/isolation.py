"""Changes without an observation that the brokers refuse: each is tried alone. Pure."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from connector.core.model import Value

if TYPE_CHECKING:
    from collections.abc import Iterable

    from connector.core.model import State
    from connector.core.transition import Transition

# Somebody may have raised a limit of the topic meanwhile. Each try that is refused closes
# the shard for a moment. Shorter than the period of the alert, which so goes on.
RETRY_SECONDS: Final = 600.0


class _Isolated(Value, frozen=True):
    """The sequence of the refused state, and the moment of the next try (monotonic)."""

    sequence: int
    next_try_at: float


class Isolation:
    """The removals, lost states and stale levels of a shard that are tried alone.

    The broker refuses a transaction as a whole, and does not say which record is the cause.
    The inbox isolates observations in the same way.
    """

    def __init__(self) -> None:
        self._isolated: dict[str, _Isolated] = {}

    def isolate(self, states: Iterable[State], now: float) -> None:
        """Try each of these refused states alone, as soon as possible."""
        for state in states:
            self._isolated[state.symbol] = _Isolated(state.sequence, now)

    def give_up(self, state: State, now: float) -> None:
        """Leave a state alone for a while: it was refused although it came alone."""
        self._isolated[state.symbol] = _Isolated(state.sequence, now + RETRY_SECONDS)

    def others(self, transitions: Iterable[Transition]) -> list[Transition]:
        """Return the transitions that are not isolated."""
        return [other for other in transitions if not self._is_isolated(other)]

    def is_any_due(self, now: float) -> bool:
        """Return True if it is time to try one."""
        return any(one.next_try_at <= now for one in self._isolated.values())

    def next_alone(
        self, transitions: Iterable[Transition], now: float
    ) -> Transition | None:
        """Return one of these transitions to try alone now, None if it is time for none."""
        for transition in transitions:
            state = transition.state
            if state is None or not self._is_isolated(transition):
                continue
            if self._isolated[state.symbol].next_try_at <= now:
                return transition
        return None

    def committed(self, states: Iterable[State]) -> None:
        """Forget the changes that are done, or that a later one has replaced."""
        for state in states:
            isolated = self._isolated.get(state.symbol)
            if isolated is not None and isolated.sequence <= state.sequence:
                del self._isolated[state.symbol]

    def _is_isolated(self, transition: Transition) -> bool:
        # The next change of the same symbol may be smaller, or have another time.
        state = transition.state
        if state is None or state.symbol not in self._isolated:
            return False
        return self._isolated[state.symbol].sequence == state.sequence
