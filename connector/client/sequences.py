"""Delivers the events of each symbol once and in order."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping

    from connector.core.model import Event


@dataclass(frozen=True, slots=True)
class Gap:
    """An event that has not come, although a later record of its symbol has.

    `expected` is its sequence, and `seen` the sequence of the later record.
    """

    symbol: str
    expected: int
    seen: int


class SequenceKeeper:
    """The last sequence of each symbol, and the events that came too early.

    The topics of a feed have several partitions, and a reader may see the records of one
    partition before those of another. If partitions were added, a symbol may have moved.
    So an event can come before its predecessor, and a state before its event.

    Not safe for concurrent use. `now` is a monotonic time in seconds.
    """

    def __init__(self, known: Mapping[str, int]) -> None:
        self.known = dict(known)
        self._early: dict[str, dict[int, Event]] = {}
        # The symbols that wait for an event, and since when.
        self._waiting: dict[str, tuple[int, float]] = {}

    @property
    def has_early(self) -> bool:
        """Return True if events are held that came too early."""
        return bool(self._early)

    def offer(self, event: Event, now: float) -> list[Event]:
        """Return the events that can be delivered now that `event` has come.

        The result is empty if the event was delivered before, or came too early.
        """
        symbol = event.symbol
        last = self.known.get(symbol, 0)
        if event.sequence <= last:
            return []
        early = self._early.setdefault(symbol, {})
        early[event.sequence] = event

        delivered = []
        while last + 1 in early:
            last += 1
            delivered.append(early.pop(last))
        if delivered:
            self.known[symbol] = last
            # The patience begins again: the symbol makes progress.
            self._waiting.pop(symbol, None)
        if early:
            self.expect(symbol, max(early), now)
        else:
            del self._early[symbol]
        return delivered

    def expect(self, symbol: str, sequence: int, now: float) -> None:
        """Note that the event with this sequence exists, so that its absence is noticed."""
        if sequence <= self.known.get(symbol, 0):
            return
        seen, since = self._waiting.get(symbol, (0, now))
        self._waiting[symbol] = (max(seen, sequence), since)

    def is_waiting(self, symbol: str) -> bool:
        """Return True if a later record of the symbol has come than its last event."""
        return self.waits_since(symbol) is not None

    def waits_since(self, symbol: str) -> float | None:
        """Return since when the symbol waits for an event, None if it does not."""
        seen, since = self._waiting.get(symbol, (0, 0.0))
        return since if seen > self.known.get(symbol, 0) else None

    def gap(self, now: float, patience_seconds: float) -> Gap | None:
        """Return a gap that has lasted for longer than `patience_seconds`."""
        for symbol, (seen, since) in self._waiting.items():
            if self.is_waiting(symbol) and now - since > patience_seconds:
                return Gap(symbol, self.known.get(symbol, 0) + 1, seen)
        return None
