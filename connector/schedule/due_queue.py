"""Order the batches by when their next checks may start. Pure."""

from __future__ import annotations

from heapq import heappop, heappush
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Iterable

    from connector.schedule.batch_plan import BatchPlan
    from connector.schedule.batches import Batch

# Fewer entries than this are never swept.
_MIN_SWEPT_ENTRIES: Final = 64

# When the check is due, the number of the entry, and the batch's plan.
_Entry = tuple[float, int, "BatchPlan"]


class DueQueue:
    """The planned checks in two heaps: first checks, and those that wait for the pace.

    A pause or the pace delays all checks of a heap alike, so the one that was due first
    may start first. An entry stays in its heap when the batch is planned again or its
    request starts. It is then void, and is dropped when it comes to the top. During a pause
    none does, although the batches may be planned again and again. So all void entries are
    swept out when the queue has doubled.
    """

    def __init__(self) -> None:
        self._first_checks: list[_Entry] = []
        self._paced_checks: list[_Entry] = []
        self._added = 0
        self._sweep_above = _MIN_SWEPT_ENTRIES

    def __len__(self) -> int:
        """Return the number of entries, void ones included."""
        return len(self._first_checks) + len(self._paced_checks)

    def add(self, plan: BatchPlan) -> None:
        """Queue the check of a batch that was just planned."""
        if plan.at is None:
            return
        heap = self._paced_checks if plan.waits_for_pace else self._first_checks
        # The number keeps the heap from comparing two plans.
        self._added += 1
        heappush(heap, (plan.at, self._added, plan))
        if len(self) > self._sweep_above:
            self._sweep()

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

    def _sweep(self) -> None:
        """Drop the void entries of both heaps."""
        self._first_checks = _swept(self._first_checks, waits_for_pace=False)
        self._paced_checks = _swept(self._paced_checks, waits_for_pace=True)
        self._sweep_above = max(2 * len(self), _MIN_SWEPT_ENTRIES)


def _earliest(heap: list[_Entry], *, waits_for_pace: bool) -> _Entry | None:
    """Drop the void entries at the top of a heap, and return the first that is left."""
    while heap:
        if not _is_void(heap[0], waits_for_pace=waits_for_pace):
            return heap[0]
        heappop(heap)
    return None


def _swept(entries: Iterable[_Entry], *, waits_for_pace: bool) -> list[_Entry]:
    """Return a heap with one entry of each batch that waits."""
    # A batch that was planned again for the same moment has several: the first one counts.
    by_batch: dict[Batch, _Entry] = {}
    for entry in sorted(entries):
        if not _is_void(entry, waits_for_pace=waits_for_pace):
            by_batch.setdefault(entry[2].batch, entry)
    # A sorted list is a heap.
    return list(by_batch.values())


def _is_void(entry: _Entry, *, waits_for_pace: bool) -> bool:
    at, _, plan = entry
    return plan.at != at or plan.waits_for_pace is not waits_for_pace
