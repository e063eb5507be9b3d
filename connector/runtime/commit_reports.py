"""Reports committed transactions to everyone who waits for them."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from connector.core.model import Kind
from connector.core.transition import REASON_ASKED
from connector.runtime.ports import Commit

if TYPE_CHECKING:
    from collections.abc import Iterable

    from connector.core.model import Event
    from connector.runtime.inbox import Attempt
    from connector.runtime.ports import ShardContext
    from connector.runtime.snapshot_requests import SnapshotRequests

_log = logging.getLogger(__name__)


class CommitReports:
    """Tells observers, requesters of snapshots, and the log about commits."""

    def __init__(self, snapshots: SnapshotRequests, context: ShardContext) -> None:
        self._snapshots = snapshots
        self._context = context

    def report(self, attempt: Attempt) -> None:
        """Report that an attempt was committed."""
        now = self._context.clock.moment()
        commit = Commit(
            attempt.events,
            at=now.local_at,
            upstream_at=now.upstream_at,
        )
        self._context.observer.committed(commit)
        for event in attempt.events:
            self._context.published(event)
            if event.reason == REASON_ASKED:
                self._snapshots.fulfil(event)
        _log_events(attempt.events)


def _log_events(events: Iterable[Event]) -> None:
    for event in events:
        level = logging.INFO
        if event.kind is Kind.CHANGED:
            # Changes come every few seconds and are in the topic anyway.
            level = logging.DEBUG
        elif event.kind is Kind.INVALID:
            # Most often the symbol is misspelt, which somebody has to correct.
            level = logging.WARNING
        fields = {
            "event_id": event.event_id,
            "kind": event.kind,
            "status": event.status,
            "reason": event.reason,
        }
        _log.log(level, "event", extra=fields)
