"""Publishes the observations, timers and snapshots of one shard."""

from __future__ import annotations

import asyncio
import logging
import time
from functools import partial
from typing import TYPE_CHECKING, Final

from connector.core.transition import observe_all
from connector.errors import KafkaError, TimeRefused, Unpublishable
from connector.kafka.shard_log import Transaction
from connector.runtime.inbox import Attempt, Work
from connector.runtime.isolation import RETRY_SECONDS

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from connector.core.transition import Transition
    from connector.runtime.assignment import Assignment
    from connector.runtime.commit_reports import CommitReports
    from connector.runtime.inbox import Inbox
    from connector.runtime.intake import Intake
    from connector.runtime.open_shard import OpenShard
    from connector.runtime.ports import ShardContext, ShardSpec
    from connector.runtime.snapshot_requests import SnapshotRequests

_log = logging.getLogger(__name__)

# A commit takes milliseconds. After this long the broker is slow or unavailable.
SLOW_COMMIT_SECONDS: Final = 5


class Publisher:
    """Publishes the pending events and states of an open shard.

    One transaction at a time is in progress.
    """

    def __init__(
        self,
        spec: ShardSpec,
        inbox: Inbox,
        intake: Intake,
        snapshots: SnapshotRequests,
        reports: CommitReports,
        context: ShardContext,
    ) -> None:
        self._spec = spec
        self._inbox = inbox
        self._intake = intake
        self._snapshots = snapshots
        self._reports = reports
        self._context = context
        self._work_came = asyncio.Event()
        self._started_at: float | None = None

    def wake(self) -> None:
        """Look for work: an answer, a timer, a request or the end of the assignment."""
        self._work_came.set()

    @property
    def is_committing(self) -> bool:
        """True while a transaction is in progress."""
        return self._started_at is not None

    @property
    def committing_seconds(self) -> float:
        """Seconds since the transaction in progress began, 0 if there is none."""
        if self._started_at is None:
            return 0.0
        return time.monotonic() - self._started_at

    @property
    def is_slow(self) -> bool:
        """True if the transaction in progress takes far longer than usual."""
        return self.committing_seconds > SLOW_COMMIT_SECONDS

    async def serve(self, assignment: Assignment, opened: OpenShard) -> None:
        """Publish observations, timers and snapshots until the assignment is over.

        Raises:
            KafkaError: A transaction failed, so the state has to be restored.
        """
        isolation = assignment.isolation
        changes = isolation.others(self._repairs_and_removals(opened))
        await self._commit(assignment, opened, changes, Work())
        may_try_alone = False
        while not assignment.is_abandoned:
            # Clear before looking, so that nothing that comes meanwhile is missed.
            self._work_came.clear()
            work = self._inbox.take()
            transitions = self._transitions(opened, work)
            if opened.timer_is_due:
                opened.timer_is_due = False
                may_try_alone = True
                transitions += isolation.others(self._expired(opened, work))
                # No other call to the log is in progress here.
                assignment.log.serve_callbacks()
            # Last, so that a snapshot shows the levels of everything before it.
            transitions += self._requested_snapshots(opened, transitions)
            await self._commit(assignment, opened, transitions, work)

            # A try that is refused closes the shard: leave the others a second after it.
            if may_try_alone:
                may_try_alone = await self._try_alone(assignment, opened)
            # More may have come while the transactions were under way.
            if may_try_alone or self._inbox or self._snapshots:
                continue
            if assignment.ended.is_set():
                return
            await self._work_came.wait()

    def _transitions(self, opened: OpenShard, work: Work) -> list[Transition]:
        """Compare the waiting observations with the committed states."""
        return observe_all(opened.states, work.observations, self._spec.rules)

    def _repairs_and_removals(self, opened: OpenShard) -> list[Transition]:
        """Return the lost states, and the removals of symbols that nobody polls any more."""
        now = self._context.clock.now()
        # A removal comes after the lost state of the same symbol, and replaces it.
        return opened.repairs() + opened.removals(self._spec.symbols, now)

    async def _try_alone(self, assignment: Assignment, opened: OpenShard) -> bool:
        """Try one of the isolated changes alone. Return False if there is none to try."""
        now = time.monotonic()
        isolation = assignment.isolation
        if assignment.ended.is_set() or not isolation.is_any_due(now):
            return False
        changes = self._repairs_and_removals(opened) + self._expired(opened, Work())
        change = isolation.next_alone(changes, now)
        if change is None:
            return False
        await self._commit(assignment, opened, [change], Work())
        return True

    def _expired(self, opened: OpenShard, work: Work) -> list[Transition]:
        """Return the transitions of levels that have become stale without an answer."""
        just_seen = {observation.symbol for observation in work.observations}
        return opened.expired(
            self._context.clock.moment(),
            time.monotonic(),
            self._intake.last_answers(),
            just_seen,
            partial(self._context.silence_reason, self._spec.id.feed),
        )

    def _requested_snapshots(
        self, opened: OpenShard, before: Sequence[Transition]
    ) -> list[Transition]:
        """Return the requested snapshots, and reject the requests that have no levels."""
        if not self._snapshots:
            return []
        snapshots, rejections = opened.snapshots(
            self._snapshots.symbols, before, self._context.clock.moment()
        )
        for symbol, reason in rejections.items():
            self._snapshots.reject(symbol, reason)
        return snapshots

    async def _commit(
        self,
        assignment: Assignment,
        opened: OpenShard,
        transitions: Sequence[Transition],
        work: Work,
    ) -> None:
        """Publish in one transaction. The states are replaced only after it returned."""
        attempt = Attempt.of(work, transitions)
        if attempt:
            # A revoked shard reports the fraction as of its revocation.
            used_fraction = assignment.used_fraction
            if used_fraction is None:
                used_fraction = self._context.used_fraction()
            await self._publish(assignment, attempt, used_fraction)
        self._inbox.committed(attempt)
        # Only now: after an error, the same observations are compared again.
        for transition in transitions:
            if transition.dropped is not None:
                feed = self._spec.id.feed
                self._context.observer.dropped(feed, transition.dropped)
        if not attempt:
            return

        # A commit proves that the worker has every right it needs.
        assignment.failures = 0
        self._context.startup.has_committed = True
        opened.commit(attempt.states)
        assignment.isolation.committed(attempt.states.values())
        for state in attempt.states.values():
            self._context.observer.state_replaced(state)

    async def _publish(
        self, assignment: Assignment, attempt: Attempt, used_fraction: float
    ) -> None:
        """Commit an attempt, and report it.

        After an error it is unknown if the transaction was committed. The inbox keeps the
        attempt until a restore settles that.
        """
        transaction = Transaction(
            events=attempt.events,
            states=tuple(attempt.states.values()),
            used_fraction=used_fraction,
        )
        aheads = (self._context.clock.ahead, *attempt.work.aheads)
        self._started_at = time.monotonic()
        try:
            await self._context.in_thread(partial(assignment.log.publish, transaction))
        except KafkaError as error:
            self._context.observer.aborted()
            is_refused = isinstance(error, Unpublishable)
            if isinstance(error, TimeRefused):
                is_refused = not await self._is_our_clock_the_cause(aheads)
            if is_refused:
                # A refused record keeps the whole transaction from being committed.
                self._isolate(assignment, attempt, error)
            else:
                self._inbox.keep(attempt)
            raise
        finally:
            was_slow = self.is_slow
            self._started_at = None
        if was_slow:
            # The poller has postponed checks that could not be published.
            self._context.polling_changed()
        self._reports.report(attempt)

    async def _is_our_clock_the_cause(self, aheads: Iterable[int]) -> bool:
        """Return True if our clock is wrong, or was set since it had any of `aheads`.

        The brokers refuse every record that has the time of a wrong clock.
        """
        is_wrong = await self._context.clock_explains_refusal()
        return is_wrong or any(map(self._context.clock.step_since, aheads))

    def _isolate(
        self, assignment: Assignment, attempt: Attempt, error: KafkaError
    ) -> None:
        """Narrow down the records that the broker refuses to take.

        A symbol that was alone in its transaction is given up. Otherwise each is tried alone
        next time. A timer or a snapshot can be the cause as well as an observation.
        """
        # The broker answers, so the next attempt needs no longer pause than the first one.
        assignment.failures = 0
        # A snapshot may be the refused record, and would be refused again and again.
        self._snapshots.reject_all(f"the broker refused a record: {error}")
        symbols = attempt.work.symbols | attempt.states.keys()
        was_alone = len(symbols) == 1
        given_up = self._inbox.isolate(attempt.work, alone=was_alone)
        unobserved = attempt.unobserved
        now = time.monotonic()
        if was_alone:
            for symbol in attempt.work.symbols:
                self._intake.refuse(symbol, now + RETRY_SECONDS)
        if was_alone and unobserved:
            given_up += 1
            assignment.isolation.give_up(unobserved[0], now)
            self._name_refused(attempt, error)
        else:
            assignment.isolation.isolate(unobserved, now)
        if given_up:
            feed = self._spec.id.feed
            self._context.observer.dropped(feed, "unpublishable", given_up)

    def _name_refused(self, attempt: Attempt, error: KafkaError) -> None:
        """Log a change that the broker refuses although it came alone."""
        kinds = [event.kind for event in attempt.events]
        fields = {
            "shard": str(self._spec.id),
            "symbol": ",".join(attempt.states),
            "kind": ",".join(kinds) or "lost state",
            "error": str(error),
            "retry_in_seconds": RETRY_SECONDS,
        }
        _log.warning("the broker refuses a record; going on without it", extra=fields)
