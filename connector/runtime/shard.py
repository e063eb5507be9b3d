"""The life of a shard: opened when it is assigned, fed with answers, and closed."""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING

from msgspec.structs import replace

from connector.core.model import Status
from connector.errors import (
    AccessDenied,
    KafkaError,
    SetupError,
    ShardCorrupt,
    ShardFenced,
)
from connector.runtime.assignment import Assignment
from connector.runtime.commit_reports import CommitReports
from connector.runtime.inbox import Inbox
from connector.runtime.intake import Intake
from connector.runtime.lifecycle import Lifecycle
from connector.runtime.ports import Phase, Sighting
from connector.runtime.publisher import Publisher
from connector.runtime.restorer import Restorer
from connector.runtime.snapshot_requests import MOVED_AWAY, SnapshotRequests

if TYPE_CHECKING:
    from collections.abc import Callable

    from connector.core.model import Event, State
    from connector.kafka.names import ShardId
    from connector.kafka.shard_log import Restored
    from connector.runtime.ports import (
        AnswerTimes,
        ShardContext,
        ShardSpec,
        TransactionalLog,
    )

_log = logging.getLogger(__name__)


class Shard:
    """A shard of a feed. It lives as long as the worker, assigned or not.

    The consumer group calls `assign`, `close` (revoked) and `abandon` (lost). One task runs
    `run` and makes every blocking call to Kafka. So the calls of two assignments never
    overlap: the shard is opened again only after a hanging call has returned. Otherwise the
    two assignments would fence each other.

    The inbox outlives assignments, too. Observations that could not be published before the
    shard was lost are published when it comes back, unless another worker has written since.
    Everything but the calls to the log runs on the event loop.
    """

    # Longer than other classes: every input, and the task that they steer, are in one place.
    # A reader has to see both to judge a race. The parts below do the work.

    def __init__(
        self,
        spec: ShardSpec,
        new_log: Callable[[], TransactionalLog],
        context: ShardContext,
    ) -> None:
        """`new_log` is called once for each assignment."""
        self.spec = spec
        self.inbox = Inbox(self._count_collapsed, context.clock)
        self._new_log = new_log
        self._context = context
        self._assignment: Assignment | None = None
        self._assigned = asyncio.Event()
        self._lifecycle = Lifecycle(spec, context)
        self._intake = Intake(spec.rules)
        self._snapshots = SnapshotRequests()
        reports = CommitReports(self._snapshots, context)
        self._publisher = Publisher(
            spec, self.inbox, self._intake, self._snapshots, reports, context
        )
        self._restorer = Restorer(
            spec,
            context,
            inbox=self.inbox,
            intake=self._intake,
            snapshots=self._snapshots,
            report_committed=reports.report,
        )

    # --- properties ---

    @property
    def id(self) -> ShardId:
        """Feed and partition."""
        return self.spec.id

    @property
    def symbols(self) -> frozenset[str]:
        """The configured symbols of the shard."""
        return self.spec.symbols

    @property
    def phase(self) -> Phase:
        """The phase. After `assign`, it lags until an earlier call to Kafka has returned."""
        return self._lifecycle.phase

    @property
    def is_assigned(self) -> bool:
        """True from `assign` until `close` or `abandon`."""
        return self._assignment is not None and not self._assignment.ended.is_set()

    @property
    def is_open(self) -> bool:
        """True if the shard is restored and publishes."""
        return self._lifecycle.is_open

    @property
    def is_polled(self) -> bool:
        """True if answers for its symbols are wanted."""
        return self._lifecycle.is_polled

    @property
    def is_stuck(self) -> bool:
        """True if observations do not reach Kafka now."""
        return not self.is_open or self._publisher.is_slow

    @property
    def is_publishing(self) -> bool:
        """True while a transaction is in progress. Tests wait for it."""
        return self._publisher.is_committing

    @property
    def waiting(self) -> int:
        """Records that wait for Kafka in the producer."""
        return 0 if self._assignment is None else self._assignment.log.waiting

    @property
    def restored(self) -> Restored | None:
        """The contents of the topic when the shard was last opened."""
        opened = self._lifecycle.opened
        return None if opened is None else opened.restored

    def state_of(self, symbol: str) -> State | None:
        """Return the last committed state of a symbol."""
        opened = self._lifecycle.opened
        return None if opened is None else opened.states.get(symbol)

    def computed_at(self, symbol: str) -> int | None:
        """Return the moment when a symbol's newest levels were computed, committed or not."""
        return self._intake.computed_at(symbol)

    def observed_at(self, symbol: str) -> int | None:
        """Return the moment when the latest answer for a symbol was complete."""
        return self._intake.observed_at(symbol)

    def why_not_ready(self) -> str | None:
        """Return the reason why the shard is not ready, or None."""
        if not self.is_open:
            return f"shard {self.id} is not open"
        if self._publisher.is_slow:
            seconds = self._publisher.committing_seconds
            return f"shard {self.id} has been committing for {seconds:.0f} s"
        return None

    # --- inputs ---

    def assign(self) -> None:
        """Open the shard as soon as no earlier call for it is in progress."""
        if self.is_assigned:
            return
        # The task picks it up when the assignment before it is finished.
        self._assignment = Assignment(self._new_log())
        self._assigned.set()

    def close(self, used_fraction: float | None = None) -> None:
        """Start closing, because the shard is revoked.

        Accept no more answers, and commit those accepted before.

        `used_fraction` is the part of the request budget in use, 0 to 1. The last records
        carry it to the next owner. Compute it before any shard is closed. Afterwards, the
        requests of all shards would count as those of the remaining ones.
        """
        if self._assignment is None:
            return
        self._assignment.used_fraction = used_fraction
        self._assignment.ended.set()
        self._start_closing()

    def abandon(self) -> None:
        """Publish nothing more: the shard already belongs to another worker."""
        if self._assignment is None:
            return
        # The thread of a call in progress sees only `log.abandon`. The rest is for the task.
        self._assignment.is_abandoned = True
        self._assignment.log.abandon()
        self._assignment.ended.set()
        self._snapshots.reject_all(MOVED_AWAY)
        self._start_closing()

    async def wait_closed(self) -> None:
        """Wait until no call for the shard is in progress."""
        await self._lifecycle.wait_closed()

    def observe(
        self,
        symbol: str,
        answer: bytes | Status,
        times: AnswerTimes,
        reason: str | None = None,
    ) -> int | None:
        """Take an answer: an entry's bytes, or the status of a symbol without levels.

        Ignore it if the shard is not polled. In any case, return the moment when the
        symbol's newest levels were computed (microseconds).
        """
        if self.is_polled and not self._intake.is_outdated(times):
            self._accept(symbol, answer, times, reason)
        return self._intake.computed_at(symbol)

    def note_answer(self, symbol: str, times: AnswerTimes) -> None:
        """Note an answer from which nothing can be published for a symbol."""
        if self.is_polled and not self._intake.is_outdated(times):
            self._intake.note_answer(symbol, times)

    def request_snapshot(self, symbol: str) -> asyncio.Future[Event | str]:
        """Publish the symbol's levels again.

        The future holds the event once it is committed, or the reason why there is none.
        The request stays open as long as the shard is assigned.
        """
        request = self._snapshots.request(symbol)
        if self.is_assigned:
            self._publisher.wake()
        else:
            self._snapshots.reject(symbol, MOVED_AWAY)
        return request

    def tick(self) -> None:
        """Make the task look for stale levels, and serve the Kafka client's callbacks.

        Call once a second.
        """
        opened = self._lifecycle.opened
        if opened is not None and self.is_open:
            opened.timer_is_due = True
            self._publisher.wake()

    # --- task ---

    async def run(self) -> None:
        """Serve one assignment after another, until cancelled.

        Raises:
            ShardCorrupt: The topic holds a record of ours that this version cannot use.
            SetupError: A topic does not fit, or a right is still missing after the start-up
                deadline and no transaction was ever committed.
        """
        while True:
            assignment = await self._next_assignment()
            self._lifecycle.enter(Phase.OPENING, None)
            try:
                while not assignment.ended.is_set():
                    await self._open_and_serve(assignment)
                # Drop the producer: the next owner aborts anything that is left.
                await self._context.in_thread(assignment.log.abort)
            finally:
                self._finish(assignment)

    async def _next_assignment(self) -> Assignment:
        # An assignment that ended before it was served is skipped.
        while self._assignment is None or self._assignment.ended.is_set():
            self._assignment = None
            # Nobody else answers the requests that came during a skipped assignment.
            self._snapshots.reject_all(MOVED_AWAY)
            self._assigned.clear()
            await self._assigned.wait()
        return self._assignment

    async def _open_and_serve(self, assignment: Assignment) -> None:
        try:
            opened = await self._restorer.restore(assignment)
            if opened is None:
                return
            self._lifecycle.enter(Phase.OPEN, opened)
            _log_opened(self.id, opened.restored)
            await self._publisher.serve(assignment, opened)
        except (ShardCorrupt, SetupError):
            raise
        except KafkaError as error:
            # A missing right may come: retry until the start-up deadline. A worker that has
            # ever committed never misses it, since somebody may be changing the rights.
            is_denied = isinstance(error, AccessDenied)
            if is_denied and self._context.startup.is_missed():
                raise SetupError(str(error)) from None
            await self._back_off(assignment, error)

    async def _back_off(self, assignment: Assignment, error: KafkaError) -> None:
        """Record the failure, and wait before the next attempt.

        That attempt restores the state. It never reuses the old one.
        """
        assignment.failures += 1
        assignment.was_fenced = isinstance(error, ShardFenced)
        backoff = self._context.backoff
        message = "shard closed by an error"
        opened = self._lifecycle.opened
        if assignment.was_fenced:
            # The new owner polls the symbols. Forgetting the state stops our polling.
            backoff = self._context.fenced_backoff
            message = "another worker took the shard"
            opened = None
            self._context.observer.fenced()
        if self.phase is not Phase.CLOSING:
            self._lifecycle.enter(Phase.OPENING, opened)

        pause_seconds = backoff.pause_seconds(assignment.failures)
        fields = {
            "shard": str(self.id),
            "error": str(error),
            "retry_in_seconds": round(pause_seconds, 1),
        }
        _log.warning(message, extra=fields)

        # A shard that is given up meanwhile is closed at once.
        try:
            async with asyncio.timeout(pause_seconds):
                await assignment.ended.wait()
        except TimeoutError:
            return

    def _finish(self, assignment: Assignment) -> None:
        """Close, after the last call of an assignment has returned."""
        # The shard may have been assigned again while a call of this assignment hung.
        if self._assignment is assignment:
            self._assignment = None
            self._snapshots.reject_all(MOVED_AWAY)
        # An error that ends the task leaves an open shard behind.
        if self.phase is not Phase.CLOSING:
            self._lifecycle.enter(Phase.CLOSING, None)
        # The raw answers are not needed any more, and a worker can lose many shards.
        self._intake.restart()
        self._lifecycle.enter(Phase.CLOSED, None)

    def _start_closing(self) -> None:
        if self.phase in {Phase.OPENING, Phase.OPEN}:
            self._lifecycle.enter(Phase.CLOSING, self._lifecycle.opened)
        self._publisher.wake()

    # --- answers ---

    def _accept(
        self,
        symbol: str,
        answer: bytes | Status,
        times: AnswerTimes,
        reason: str | None,
    ) -> None:
        state = self.state_of(symbol)
        is_stale = state is not None and state.status is Status.STALE
        keeps_fresh = self._context.plan_keeps_fresh(self.id.feed)
        reading = self._intake.accept(
            symbol,
            answer,
            times,
            reason,
            may_become_fresh=is_stale and keeps_fresh,
        )
        if reading.observation is not None:
            observation = reading.observation
            if not keeps_fresh:
                observation = replace(observation, plan_keeps_fresh=False)
            self.inbox.add(observation)
            self._publisher.wake()
        if reading.dropped is not None:
            self._context.observer.dropped(self.id.feed, reading.dropped)
        if reading.quarantined is not None:
            self._context.observer.quarantined(reading.quarantined.reason)
            self._context.quarantine(self.id.feed, reading.quarantined)

        sighting = Sighting(
            self.id.feed,
            symbol,
            observed_at=times.at,
            computed_at=reading.computed_at,
            detection_seconds=reading.detection_seconds,
        )
        self._context.observer.sighted(sighting)

    def _count_collapsed(self) -> None:
        self._context.observer.dropped(self.id.feed, "collapsed")


def _log_opened(shard: ShardId, restored: Restored) -> None:
    writer = restored.writer
    last_writer = None
    if writer is not None:
        last_writer = f"{writer.worker} of group {writer.group}"
    fields = {
        "shard": str(shard),
        "symbols": len(restored.states),
        "records": restored.records,
        "end": restored.end,
        "seconds": round(restored.seconds, 3),
        "last_writer": last_writer,
    }
    _log.info("shard open", extra=fields)
