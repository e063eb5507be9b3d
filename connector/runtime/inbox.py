"""What waits to be committed to one shard. Pure."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from msgspec.structs import replace

from connector.core.model import Observation, Value

if TYPE_CHECKING:
    from collections.abc import Callable

    from connector.kafka.shard import Quarantined

MAX_WAITING: Final = 8
"""Observations of one symbol kept apart; more of them overtake each other, so that memory stays bounded."""


class Work(Value, frozen=True):
    """What goes into one transaction: observations in order of arrival per symbol, and entries to quarantine."""

    seen: tuple[Observation, ...] = ()
    quarantined: tuple[Quarantined, ...] = ()


class Inbox:
    """Collects observations while a transaction is under way or Kafka is away. `dropped` hears of each overtaken."""

    def __init__(self, dropped: Callable[[], None]) -> None:
        self._seen: dict[str, list[Observation]] = {}
        self._quarantined: dict[str, Quarantined] = {}
        self._dropped = dropped

    def __bool__(self) -> bool:
        return bool(self._seen or self._quarantined)

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
        self.clear()
        return work

    def put_back(self, work: Work) -> None:
        """What was not committed goes before what came meanwhile."""
        newer = self.take()
        for observation in (*work.seen, *newer.seen):
            self.add(observation)
        for entry in (*work.quarantined, *newer.quarantined):
            self.quarantine(entry)

    def clear(self) -> int:
        """Forget it all: the shard is another worker's. Returns how many observations that were."""
        forgotten = sum(map(len, self._seen.values()))
        self._seen, self._quarantined = {}, {}
        return forgotten
