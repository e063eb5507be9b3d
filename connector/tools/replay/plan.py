"""Looks through the events of a replay before the first one is published."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from connector.core.model import Event, Kind, State, Status, Value
from connector.core.transition import UNKNOWN_REQUEST
from connector.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Iterable

# The status before the first event of a symbol, if its kind tells. A SNAPSHOT or a CHANGED
# leaves the status as it was. Before RESTORED it was one of those without levels.
_STATUS_BEFORE: Final = {
    Kind.STALE: Status.LIVE,
    Kind.FRESH: Status.STALE,
    Kind.RESTORED: Status.MISSING,
    Kind.MISSING: Status.LIVE,
    Kind.INVALID: Status.LIVE,
    Kind.REMOVED: Status.LIVE,
}


class Plan(Value, frozen=True):
    """The events of a replay in figures, and the states that they begin from.

    `symbols` has those of each feed. `states` are the states before the first events of
    symbols whose first event here has a predecessor.
    """

    events: int
    first_at: int
    last_at: int
    symbols: dict[str, frozenset[str]]
    states: tuple[State, ...]


def plan_of(events: Iterable[Event]) -> Plan | None:
    """Return the plan for events in the order of time, or None if there are none.

    Raises UsageError if an event is missing between two others of its symbol: a consumer
    would wait for it.
    """
    count = 0
    first_at = last_at = 0
    sequences: dict[tuple[str, str], int] = {}
    firsts: list[Event] = []
    for event in events:
        if count == 0:
            first_at = event.observed_at
        count += 1
        last_at = max(last_at, event.observed_at)
        key = event.feed, event.symbol
        last = sequences.get(key)
        if last is None:
            firsts.append(event)
        elif event.sequence != last + 1:
            raise UsageError(
                f"replay: {event.feed}/{event.symbol} #{event.sequence} follows #{last}, "
                "expected every event of a symbol in order; a file must be complete, as "
                "`history --json` writes it"
            )
        sequences[key] = event.sequence
    if count == 0:
        return None

    symbols: dict[str, set[str]] = {}
    for feed, symbol in sequences:
        symbols.setdefault(feed, set()).add(symbol)
    states = [_state_before(event, first_at) for event in firsts if event.sequence > 1]
    return Plan(
        count,
        first_at,
        last_at,
        {feed: frozenset(names) for feed, names in symbols.items()},
        tuple(states),
    )


def _state_before(event: Event, at: int) -> State:
    """Return the state that a symbol's first event here continues, as far as it tells."""
    levels = event.before
    status = _STATUS_BEFORE.get(event.kind, event.status)
    if levels is None and status.has_levels:
        status = Status.MISSING
    return State(
        feed=event.feed,
        symbol=event.symbol,
        sequence=event.sequence - 1,
        status=status,
        computed_at=event.previous_computed_at,
        observed_at=at,
        request_fingerprint=UNKNOWN_REQUEST,
        source=event.source,
        event_computed_at=event.previous_computed_at,
        positioning=None if levels is None else levels.positioning,
        levels=levels,
    )
