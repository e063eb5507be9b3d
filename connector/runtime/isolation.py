"""Changes without an observation that the brokers refuse: each is tried alone. Pure."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Iterable

    from connector.core.model import State
    from connector.core.transition import Transition

# Somebody may have raised a limit of the topic meanwhile. Each try that is refused closes
# the shard for a moment. Shorter than the period of the alert, which so goes on.
RETRY_SECONDS: Final = 600.0


class Isolation:
    """The removals, lost states and stale levels of a shard that are tried alone.

    The broker refuses a transaction as a whole, and does not say which record is the cause.
    The inbox isolates observations in the same way.
    """

    def __init__(self) -> None:
        self._next_tries: dict[tuple[str, int], float] = {}
        """When to try each state next (monotonic), by its symbol and sequence.

        A symbol may have two: a lost state, and the removal that follows it.
        """

    def isolate(self, states: Iterable[State], now: float) -> None:
        """Try each of these refused states alone, as soon as possible."""
        for state in states:
            self._next_tries[_key(state)] = now

    def give_up(self, state: State, now: float) -> None:
        """Leave a state alone for a while: it was refused although it came alone."""
        self._next_tries[_key(state)] = now + RETRY_SECONDS

    def others(self, transitions: Iterable[Transition]) -> list[Transition]:
        """Return the transitions that are not isolated."""
        others = []
        for transition in transitions:
            state = transition.state
            if state is None or _key(state) not in self._next_tries:
                others.append(transition)
        return others

    def is_any_due(self, now: float) -> bool:
        """Return True if it is time to try one."""
        return any(next_try_at <= now for next_try_at in self._next_tries.values())

    def next_alone(
        self, transitions: Iterable[Transition], now: float
    ) -> Transition | None:
        """Return one of these transitions to try alone now, None if it is time for none."""
        for transition in transitions:
            if transition.state is None:
                continue
            next_try_at = self._next_tries.get(_key(transition.state))
            if next_try_at is not None and next_try_at <= now:
                return transition
        return None

    def committed(self, states: Iterable[State]) -> None:
        """Forget the changes that are done, or that a later one has replaced."""
        for state in states:
            for symbol, sequence in list(self._next_tries):
                if symbol == state.symbol and sequence <= state.sequence:
                    del self._next_tries[symbol, sequence]


def _key(state: State) -> tuple[str, int]:
    # The next change of the same symbol may be smaller, or have another time.
    return state.symbol, state.sequence
