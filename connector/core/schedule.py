"""When to check each batch. Pure: moments come in as seconds of a monotonic clock, chance as a callable.

This schedule has a fixed interval, with the batches spread over it.
"""

from __future__ import annotations

from enum import Enum
from typing import TYPE_CHECKING, Final

import msgspec

from connector.core.model import Value

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from connector.core.batches import Batch

SLOW_RETRY_SECONDS: Final = 60
"""Between two tries of what is refused: a key, or a symbol that stands alone."""

_BUDGET_SHARE: Final = 0.9
"""Of the budget, what is planned; the rest is for retries."""


_MAX_DOUBLINGS: Final = 16
"""Of the wait after failures: past any `max_interval_seconds`, and a float's exponent ends."""


class Plan(Value, frozen=True):
    """The part of the configuration that a schedule needs."""

    target_delay_seconds: float = 0.4
    min_interval_seconds: float = 0.25
    max_interval_seconds: float = 60


class Outcome(Enum):
    """What a check brought, as far as the next one depends on it."""

    ANSWERED = "answered"
    FAILED = "failed"
    """Nothing: back off."""


class _Slot(msgspec.Struct):
    """One batch's place: when it is next, None while it is in flight."""

    at: float | None
    failures: int = 0


class Schedule:
    """Decides which batch is next, and when.

    A check every `2 * target_delay_seconds` sees a refresh `target_delay_seconds` late on average; the budget
    (requests a minute that are ours) wins over it, and over `max_interval_seconds` too.
    """

    def __init__(self, plan: Plan, chance: Callable[[], float]) -> None:
        self._plan = plan
        self._chance = chance
        self._slots: dict[Batch, _Slot] = {}
        self._in_flight: set[Batch] = set()
        self._held_until = self._held_for_key_until = float("-inf")
        self.budget_per_minute = 60.0

    @property
    def interval_seconds(self) -> float:
        """Between two checks of one batch."""
        wished = max(self._plan.min_interval_seconds, 2 * self._plan.target_delay_seconds)
        affordable = 60 * len(self._slots) / max(self.budget_per_minute * _BUDGET_SHARE, 1e-9)
        return max(min(wished, self._plan.max_interval_seconds), affordable)

    def cover(self, batches: Sequence[Batch], now: float) -> None:
        """Set the batches. One that was there keeps its place; the new ones are spread over an interval."""
        new = [batch for batch in batches if batch not in self._slots]
        self._slots = {batch: self._slots.get(batch) or _Slot(now) for batch in batches}
        for position, batch in enumerate(new):
            wait = SLOW_RETRY_SECONDS if batch.refused else position * self.interval_seconds / len(new)
            self._slots[batch].at = None if batch in self._in_flight else now + wait

    def next(self) -> tuple[float, Batch] | None:
        """The next check and its moment, None while there is nothing to wait for."""
        waiting = [(slot.at, batch) for batch, slot in self._slots.items() if slot.at is not None]
        if not waiting:
            return None
        at, batch = min(waiting, key=lambda item: item[0])
        return max(at, self._held_until, self._held_for_key_until), batch

    def started(self, batch: Batch) -> None:
        """The request is under way: no second one for this batch meanwhile."""
        self._in_flight.add(batch)
        self._slots[batch].at = None

    def finished(self, batch: Batch, outcome: Outcome, started_at: float, now: float) -> None:
        """The request ended. Failures back off exponentially with full jitter (AWS Architecture Blog, 2015)."""
        self._in_flight.discard(batch)
        slot = self._slots.get(batch)
        if slot is None:
            return
        interval = SLOW_RETRY_SECONDS if batch.refused else self.interval_seconds
        slot.failures = slot.failures + 1 if outcome is Outcome.FAILED else 0
        if slot.failures:
            ceiling = min(self._plan.max_interval_seconds, 2.0 ** min(slot.failures, _MAX_DOUBLINGS))
            slot.at = now + max(interval, self._chance() * ceiling)
        else:
            slot.at = max(started_at + interval, now)

    def hold(self, until: float) -> None:
        """No check of any batch before that moment: the server said so."""
        self._held_until = max(self._held_until, until)

    def hold_for_key(self, until: float) -> None:
        """No check of any batch before that moment, or until the key changes: it is refused."""
        self._held_for_key_until = until

    def release_for_key(self, now: float) -> None:
        """The key has changed: every batch is due."""
        self._held_for_key_until = float("-inf")
        for slot in self._slots.values():
            slot.at = None if slot.at is None else min(slot.at, now)
