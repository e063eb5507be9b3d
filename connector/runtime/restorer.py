"""Restores a shard from its topic, and settles the observations that were waiting."""

from __future__ import annotations

import logging
import time
from functools import partial
from typing import TYPE_CHECKING, Final

from connector.runtime.open_shard import OpenShard
from connector.runtime.snapshot_requests import MOVED_AWAY

if TYPE_CHECKING:
    from collections.abc import Callable

    from connector.kafka.shard_log import Restored, Writer
    from connector.runtime.assignment import Assignment
    from connector.runtime.inbox import Attempt, Inbox
    from connector.runtime.intake import Intake
    from connector.runtime.ports import ShardContext, ShardSpec
    from connector.runtime.snapshot_requests import SnapshotRequests

_log = logging.getLogger(__name__)

# A program that writes to the wrong topic may have left thousands.
_MAX_LOGGED_STRAYS: Final = 10


class Restorer:
    """Restores a shard from its topic.

    It also decides what happens to the observations that were waiting.
    """

    def __init__(
        self,
        spec: ShardSpec,
        context: ShardContext,
        *,
        inbox: Inbox,
        intake: Intake,
        snapshots: SnapshotRequests,
        report_committed: Callable[[Attempt], None],
    ) -> None:
        """`report_committed` is called with an attempt that turns out to be committed."""
        self._spec = spec
        self._context = context
        self._inbox = inbox
        self._intake = intake
        self._snapshots = snapshots
        self._report_committed = report_committed

    async def restore(self, assignment: Assignment) -> OpenShard | None:
        """Fence the predecessors and restore. None if the assignment has ended by then."""
        log_open = partial(assignment.log.open, self._spec.symbols)
        restored = await self._context.in_thread(log_open)
        # Revoked or lost meanwhile: the next owner fences this producer.
        if assignment.ended.is_set():
            return None
        self._context.observer.restored(self._spec.id, restored)
        self._name_strays(restored)

        now = time.monotonic()
        opened = OpenShard(
            restored,
            self._spec.rules,
            self._context.source,
            first_answers_until=now + self._context.grace_seconds,
        )
        self._intake.restart()
        self._settle(assignment, opened, now)
        # An answer with the restored levels is no refresh: its delay must not be counted.
        for state in opened.states.values():
            self._intake.learn_computed_at(state.symbol, state.computed_at)
            self._context.observer.state_replaced(state)
        return opened

    def _name_strays(self, restored: Restored) -> None:
        """Log the records that were skipped, and the symbols whose state they hid."""
        for stray in restored.strays[:_MAX_LOGGED_STRAYS]:
            fields = {
                "shard": str(self._spec.id),
                "key": stray.key,
                "offset": stray.offset,
                "reason": stray.reason,
                "strays_in_shard": len(restored.strays),
            }
            message = "skipped a record of another program in the state topic"
            if stray.is_recovered:
                message = (
                    "found the state of a symbol behind a record of another program"
                )
            _log.warning(message, extra=fields)

        if restored.recovered:
            fields = {
                "shard": str(self._spec.id),
                "symbols": ",".join(restored.recovered),
            }
            _log.warning(
                "states were lost from the topic; writing them again", extra=fields
            )

    def _settle(self, assignment: Assignment, opened: OpenShard, now: float) -> None:
        """Decide what happens to the observations that waited during the restore."""
        writer = opened.restored.writer
        known_writer = self._inbox.last_writer
        self._inbox.last_writer = writer
        me = self._context.source.worker
        if _has_another_worker_written(writer, known_writer, me):
            # The waiting observations may be older than the other worker's records. So may
            # answers to requests sent before now.
            self._intake.ignore_requests_before(now)
            self._drop_inbox()
            if assignment.was_fenced:
                self._warn_of_another_fleet(writer)
            return
        # Only this worker has written, so the states show what became of its last attempt.
        committed = self._inbox.settle(opened.states)
        if committed is not None:
            self._report_committed(committed)

    def _drop_inbox(self) -> None:
        dropped = self._inbox.clear()
        if dropped:
            self._context.observer.dropped(self._spec.id.feed, "lost", dropped)
        self._snapshots.reject_all(MOVED_AWAY)

    def _warn_of_another_fleet(self, writer: Writer | None) -> None:
        """Warn if a worker of another group has written: both will go on fencing."""
        if writer is None or writer.group == self._context.source.group:
            return
        fields = {
            "shard": str(self._spec.id),
            "group": writer.group,
            "worker": writer.worker,
        }
        _log.error(
            "another fleet uses these topics; stop it or change its kafka.topic_prefix",
            extra=fields,
        )


def _has_another_worker_written(
    writer: Writer | None, known_writer: Writer | None, worker: str
) -> bool:
    """Return True if another worker has written since this one last opened the shard."""
    if writer is None or writer.worker == worker:
        return False
    return writer != known_writer
