"""What waits to be committed to one shard. Pure."""

from __future__ import annotations

from itertools import chain
from typing import TYPE_CHECKING, Final

from msgspec.structs import replace

from connector.core.model import Observation, Value

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from connector.core.model import Event, State
    from connector.kafka.shard_log import Quarantined, Writer

MAX_WAITING: Final = 8
"""Observations of one symbol kept apart; more of them overtake each other, so that memory stays bounded."""


class Work(Value, frozen=True):
    """What goes into one transaction: observations in order of arrival per symbol, and entries to quarantine."""

    seen: tuple[Observation, ...] = ()
    quarantined: tuple[Quarantined, ...] = ()

    @property
    def symbols(self) -> set[str]:
        """Whose it is."""
        return {one.symbol for one in self.seen} | {
            one.symbol for one in self.quarantined
        }


class Attempt(Value, frozen=True):
    """A transaction of which nobody knows whether it was committed: what it was made of, and what it said."""

    work: Work
    events: tuple[Event, ...]
    states: Mapping[str, State]

    def was_committed(self, restored: Mapping[str, State]) -> bool:
        """Whether a restore by its own writer, before anybody else wrote, shows that it was committed."""
        found = [(restored.get(symbol), state) for symbol, state in self.states.items()]
        return bool(found) and all(
            there is not None
            and (there.sequence, there.observed_at)
            == (state.sequence, state.observed_at)
            for there, state in found
        )


class Inbox:
    """Collects observations while a transaction is under way or Kafka is away. `dropped` hears of each overtaken.

    It outlives the shard's object: what waits when Kafka is away for so long that the group gives the shard up is
    published by the same worker, if it gets the shard again before another one has written to it. `writer`: who had
    written last when the shard was opened last.
    """

    def __init__(self, dropped: Callable[[], None]) -> None:
        self._seen: dict[str, list[Observation]] = {}
        self._quarantined: dict[str, Quarantined] = {}
        self._attempt: Attempt | None = None
        self._apart: set[str] = set()
        self.writer: Writer | None = None
        self._dropped = dropped

    def __bool__(self) -> bool:
        return bool(self._seen or self._quarantined or self._attempt)

    def add(self, observation: Observation) -> None:
        """One more; the newest overtakes the one before it where too many wait."""
        waiting = self._seen.setdefault(observation.symbol, [])
        if len(waiting) >= MAX_WAITING:
            overtaken = waiting.pop()
            observation = replace(
                observation, collapsed=observation.collapsed + overtaken.collapsed + 1
            )
            self._dropped()
        waiting.append(observation)

    def quarantine(self, entry: Quarantined) -> None:
        """The newest of each symbol."""
        self._quarantined[entry.symbol] = entry

    def take(self) -> Work:
        """All of it; but a symbol whose records may be refused is taken alone, after the others."""
        waiting = list({**self._seen, **self._quarantined})
        taken = [symbol for symbol in waiting if symbol not in self._apart] or waiting[
            :1
        ]
        self._apart.difference_update(taken)
        return Work(
            tuple(
                observation
                for symbol in taken
                for observation in self._seen.pop(symbol, ())
            ),
            tuple(
                self._quarantined.pop(symbol)
                for symbol in taken
                if symbol in self._quarantined
            ),
        )

    def refuse(self, work: Work, *, alone: bool) -> int:
        """The broker will not take what some symbol's records hold: each is to be tried alone from now on.

        What was `alone` in its transaction is given up. Returns how many observations that were.
        """
        self._apart |= work.symbols
        if alone:
            return len(work.seen)
        self._put_back(work)
        return 0

    def keep(self, attempt: Attempt) -> None:
        """Until a restore says whether it was committed."""
        self._attempt = attempt

    def settle(self, restored: Mapping[str, State]) -> Attempt | None:
        """What was not committed goes before what came meanwhile; an attempt that was is returned."""
        attempt, self._attempt = self._attempt, None
        if attempt is None or attempt.was_committed(restored):
            return attempt
        self._put_back(attempt.work)
        return None

    def clear(self) -> int:
        """Forget it all: the shard is another worker's. Returns how many observations that were."""
        tried = () if self._attempt is None else self._attempt.work.seen
        forgotten = sum(map(len, self._seen.values())) + len(tried)
        self._seen, self._quarantined, self._attempt = {}, {}, None
        return forgotten

    def _put_back(self, work: Work) -> None:
        seen, quarantined = self._seen, self._quarantined
        self._seen, self._quarantined = {}, {}
        for observation in (*work.seen, *chain.from_iterable(seen.values())):
            self.add(observation)
        for entry in (*work.quarantined, *quarantined.values()):
            self.quarantine(entry)
