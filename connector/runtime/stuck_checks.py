"""Postpones checks while their answers could not be published."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from connector.runtime.coverage import Coverage
    from connector.schedule.batches import Batch
    from connector.schedule.scheduler import Schedule

# Interval of checks while nothing can be published. Only the metrics need them.
_STUCK_INTERVAL_SECONDS: Final = 30


class StuckChecks:
    """The checks that wait for Kafka, or for the shards of their symbols."""

    def __init__(self, schedule: Schedule, coverage: Coverage) -> None:
        self._schedule = schedule
        self._coverage = coverage
        self._postponed: set[Batch] = set()

    def postpone(self, batch: Batch) -> bool:
        """Move a check that is due if it is stuck. Return True if it moved."""
        sent_at = self._schedule.last_sent_at(batch)
        if sent_at is None or not self._coverage.is_stuck(batch):
            return False
        until = sent_at + _STUCK_INTERVAL_SECONDS
        if until <= time.monotonic():
            return False
        self._schedule.reschedule(batch, until)
        self._postponed.add(batch)
        return True

    def resume(self, now: float) -> None:
        """Make every postponed check due."""
        for batch in self._postponed:
            self._schedule.reschedule(batch, now)
        self._postponed.clear()
