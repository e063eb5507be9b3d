"""Events that were lost because somebody deleted their topic.

The run reads `changes` before it deletes it. Events that were committed between that
reading and the deletion are lost. But `current`, which is not compacted in a chaos run,
has their states, because an event and its state are one transaction. So the judge knows
their sequences and levels: a stand-in takes the place of each of them, and every check
goes on as if the topic had not been deleted. An event that is missing for another reason
gets no stand-in.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass
from typing import TYPE_CHECKING

from connector.core.model import Event, Kind, State, Status

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

    from tests.chaos.evidence import States

# Kinds of events without levels.
_ABSENCES = {
    Status.MISSING: Kind.MISSING,
    Status.INVALID: Kind.INVALID,
    Status.REMOVED: Kind.REMOVED,
}


@dataclass(frozen=True, slots=True)
class DeletedTopic:
    """A `changes` topic that was deleted.

    Attributes:
        events: those read before the deletion.
        since: for each partition of `current` an offset; `events` has the events of all
        states before it.
        until: for each partition of `current` its end after the deletion. The events of
        all states behind it are in the next topic.
    """

    events: Sequence[Event]
    since: Mapping[int, int]
    until: Mapping[int, int]

    def may_have_had(self, partition: int, offset: int) -> bool:
        """Return whether the topic may have had the event of a state unread."""
        return self.since[partition] <= offset < self.until[partition]


@dataclass(frozen=True, slots=True)
class AllEvents:
    """The events of all topics, in order per symbol. `stand_ins` counts those not read."""

    events: Sequence[Event]
    stand_ins: int


def all_events(
    deleted: Iterable[DeletedTopic],
    last: Sequence[Event],
    current: States,
) -> AllEvents:
    """Return the events of deleted topics and of the `last` one, which still exists."""
    deleted = list(deleted)
    read = {event.event_id for event in last}
    for topic in deleted:
        read.update(event.event_id for event in topic.events)

    found: list[Event] = []
    count = 0
    for topic in deleted:
        found += topic.events
        for stand_in in _stand_ins(topic, current):
            # A second deletion must not add those of the first one again.
            if stand_in.event_id not in read:
                read.add(stand_in.event_id)
                found.append(stand_in)
                count += 1
    found += last
    return AllEvents(found, count)


def covers(events: Iterable[Event], current: States) -> bool:
    """Return whether there is an event for the last state of each symbol, or a later one."""
    sequences: dict[str, int] = defaultdict(int)
    for event in events:
        sequences[event.symbol] = max(sequences[event.symbol], event.sequence)
    last = {}
    for records in current.values():
        for _, state in records:
            last[state.symbol] = state.sequence
    return all(sequences[symbol] >= number for symbol, number in last.items())


def _stand_ins(topic: DeletedTopic, current: States) -> Iterator[Event]:
    """Yield a stand-in for each event whose state proves that it may have been in the topic."""
    for partition, records in current.items():
        states: dict[str, State] = {}
        for offset, state in records:
            before = states.get(state.symbol)
            states[state.symbol] = state
            known = 0 if before is None else before.sequence
            # Other states are refreshes that had no event.
            is_new = state.sequence > known
            if is_new and topic.may_have_had(partition, offset):
                for sequence in range(known + 1, state.sequence):
                    yield _unknown(before, state, sequence)
                yield _stand_in(before, state)


def _stand_in(before: State | None, state: State) -> Event:
    """Return an event with the levels and the sequence that a state shows."""
    return Event(
        event_id=_id(state, state.sequence),
        feed=state.feed,
        symbol=state.symbol,
        sequence=state.sequence,
        # No other kind makes a claim about the levels before it.
        kind=_ABSENCES.get(state.status, Kind.SNAPSHOT),
        status=state.status,
        reason=None,
        computed_at=state.event_computed_at,
        previous_computed_at=None,
        observed_at=state.observed_at,
        changed_levels=(),
        changed_sections=(),
        collapsed_observations=0,
        source=state.source,
        before=None if before is None else before.last_published,
        after=state.last_published if state.status.has_levels else None,
    )


def _unknown(before: State | None, state: State, sequence: int) -> Event:
    """Return an event of which only the state of its successor in the transaction is left.

    It may have had levels, so it excuses one refresh as an event does that counts a
    collapsed one.
    """
    return Event(
        event_id=_id(state, sequence),
        feed=state.feed,
        symbol=state.symbol,
        sequence=sequence,
        kind=Kind.SNAPSHOT,
        status=state.status,
        reason=None,
        computed_at=None,
        previous_computed_at=None,
        observed_at=state.observed_at,
        changed_levels=(),
        changed_sections=(),
        collapsed_observations=1,
        source=state.source,
        before=None if before is None else before.last_published,
        after=None,
    )


def _id(state: State, sequence: int) -> str:
    return f"{state.feed}/{state.symbol}/{sequence}"
