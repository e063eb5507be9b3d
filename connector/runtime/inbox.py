"""What waits to be committed to one shard. Pure."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from msgspec.structs import replace

from connector.core.model import Observation, Value

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from connector.core.model import Event, State
    from connector.kafka.shard import Quarantined

MAX_WAITING: Final = 8
"""Observations of one symbol kept apart; more of them overtake each other, so that memory stays bounded."""


class Work(Value, frozen=True):
    """What goes into one transaction: observations in order of arrival per symbol, and entries to quarantine."""

    seen: tuple[Observation, ...] = ()
    quarantined: tuple[Quarantined, ...] = ()


class Attempt(Value, frozen=True):
    """A transaction of which nobody knows whether it was committed: what it was made of, and what it said."""

    work: Work
    events: tuple[Event, ...]
    states: Mapping[str, State]

    def is_in(self, restored: Mapping[str, State]) -> bool:
        """Whether a restore by its own writer, before anybody else wrote, shows that it was committed."""
        found = [(restored.get(symbol), state) for symbol, state in self.states.items()]
        return bool(found) and all(
            there is not None and (there.sequence, there.observed_at) == (state.sequence, state.observed_at)
            for there, state in found
        )


class Inbox:
    """Collects observations while a transaction is under way or Kafka is away. `dropped` hears of each overtaken.

    It outlives the shard's object: what waits when Kafka is away for so long that the group gives the shard up is
    published by the same worker, if it gets the shard again before another one has written to it.
    """

    def __init__(self, dropped: Callable[[], None]) -> None:
        self._seen: dict[str, list[Observation]] = {}
        self._quarantined: dict[str, Quarantined] = {}
        self._attempt: Attempt | None = None
        self._dropped = dropped

    def __bool__(self) -> bool:
        return bool(self._seen or self._quarantined or self._attempt)

    def add(self, observation: Observation) -> None:
        """One more; the newest overtakes the one before it where too many wait."""
        waiting = self._seen.setdefault(observation.symbol, [])
        if len(waiting) >= MAX_WAITING:
            overtaken = waiting.pop()
            observation = replace(observation, collapsed=observation.collapsed + overtaken.collapsed + 1)
            self._dropped()
        waiting.append(observation)

    def quarantine(self, entry: Quarantined) -> None:
        """The newest of each symbol."""
        self._quarantined[entry.symbol] = entry

    def take(self) -> Work:
        """Everything; the inbox is empty afterwards."""
        work = Work(
            tuple(observation for waiting in self._seen.values() for observation in waiting),
            tuple(self._quarantined.values()),
        )
        self._seen, self._quarantined = {}, {}
        return work

    def keep(self, attempt: Attempt) -> None:
        """Until a restore says whether it was committed."""
        self._attempt = attempt

    def settle(self, restored: Mapping[str, State]) -> Attempt | None:
        """What was not committed goes before what came meanwhile; an attempt that was is returned."""
        attempt, self._attempt = self._attempt, None
        if attempt is None or attempt.is_in(restored):
            return attempt
        newer = self.take()
        for observation in (*attempt.work.seen, *newer.seen):
            self.add(observation)
        for entry in (*attempt.work.quarantined, *newer.quarantined):
            self.quarantine(entry)
        return None

    def clear(self) -> int:
        """Forget it all: the shard is another worker's. Returns how many observations that were."""
        tried = () if self._attempt is None else self._attempt.work.seen
        forgotten = sum(map(len, self._seen.values())) + len(tried)
        self._seen, self._quarantined, self._attempt = {}, {}, None
        return forgotten
