"""Order the batches by when their next checks may start. Pure."""

from __future__ import annotations

from heapq import heappop, heappush
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from connector.schedule.batch_plan import BatchPlan

# When the check is due, the number of the entry, and the batch's plan.
_Entry = tuple[float, int, "BatchPlan"]


class DueQueue:
    """The planned checks in two heaps: first checks, and those that wait for the pace.

    A pause or the pace delays all checks of a heap alike, so the one that was due first
    may start first. An entry stays in its heap when the batch is planned again or its
    request starts. It is then void, and is dropped when it comes to the top.
    """

    def __init__(self) -> None:
        self._first_checks: list[_Entry] = []
        self._paced_checks: list[_Entry] = []
        self._entries = 0

    def add(self, plan: BatchPlan) -> None:
        """Queue the check of a batch that was just planned."""
        if plan.at is None:
            return
        heap = self._paced_checks if plan.waits_for_pace else self._first_checks
        # The number keeps the heap from comparing two plans.
        self._entries += 1
        heappush(heap, (plan.at, self._entries, plan))

    def next(
        self, paused_until: float, ready_at: float
    ) -> tuple[float, BatchPlan] | None:
        """Return when the next check may start, and its batch's plan.

        No check starts before `paused_until`, and only first checks start before the pace
        is ready.
        """
        first = _earliest(self._first_checks, waits_for_pace=False)
        paced = _earliest(self._paced_checks, waits_for_pace=True)
        if paced is None:
            if first is None:
                return None
            return max(first[0], paused_until), first[2]

        paced_at = max(paced[0], paused_until, ready_at)
        if first is not None:
            first_at = max(first[0], paused_until)
            # At the same moment, the check that was due first goes first.
            if (first_at, first[0]) <= (paced_at, paced[0]):
                return first_at, first[2]
        return paced_at, paced[2]


def _earliest(heap: list[_Entry], *, waits_for_pace: bool) -> _Entry | None:
    """Drop the void entries at the top of a heap, and return the first that is left."""
    while heap:
        at, _, plan = heap[0]
        if plan.at == at and plan.waits_for_pace is waits_for_pace:
            return heap[0]
        heappop(heap)
    return None
