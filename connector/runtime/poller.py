"""Decides when to poll the upstream, and starts the checks."""

from __future__ import annotations

import asyncio
import logging
import random
import time
from typing import TYPE_CHECKING, Final

from connector.core.transition import (
    REASON_BUDGET,
    REASON_KEY,
    REASON_NO_ANSWER,
    REASON_PLAN,
    REASON_QUOTA,
)
from connector.runtime.budget_share import BudgetShare
from connector.runtime.budget_watch import BudgetWatch
from connector.runtime.checker import Checker
from connector.runtime.coverage import Coverage
from connector.runtime.failures import Failures
from connector.runtime.fresh_plan import FreshPlan
from connector.runtime.stuck_checks import StuckChecks
from connector.schedule.checks import CheckSettings
from connector.schedule.scheduler import Schedule

if TYPE_CHECKING:
    from collections.abc import Iterable

    from connector.config.model import Config
    from connector.core.decode import RateLimit
    from connector.runtime.failing_checks import FailingChecks
    from connector.runtime.outage import Outage
    from connector.runtime.ports import PollerContext
    from connector.runtime.shard import Shard
    from connector.schedule.batches import Batch
    from connector.schedule.checks import Purpose
    from connector.upstream.budget import Budget
    from connector.upstream.client import Client

_log = logging.getLogger(__name__)

HEALTH_LOOP_NAME: Final = "poller"
# The loop reports every second. A stall this long is a defect, not a slow turn.
_LOOP_LIMIT_SECONDS: Final = 30

# Longest wait: the budget and the health check need a look every second.
_MAX_SLEEP_SECONDS: Final = 1.0

# Rhythms change slowly, and computing the groups takes far longer than any other step.
_REGROUP_INTERVAL_SECONDS: Final = 20


class Poller:
    """Waits for each batch's next check, and makes it in a task of its own.

    At most one request per batch is in flight.
    """

    def __init__(
        self, config: Config, client: Client, budget: Budget, context: PollerContext
    ) -> None:
        self._budget = budget
        self._context = context
        self._schedule = _new_schedule(config)
        self._coverage = Coverage(config.feeds)
        self._share = BudgetShare(budget, self._coverage, context.source.worker)
        self._failures = Failures(self._schedule, budget, context.observer)
        self._fresh_plan = FreshPlan(config.feeds, budget, self._coverage)
        self._budget_watch = BudgetWatch(
            budget,
            self._schedule,
            self._coverage,
            self._fresh_plan,
            self._failures,
            context.observer,
        )
        self._checker = Checker(
            client,
            self._schedule,
            self._coverage,
            self._failures,
            context,
            self._replan,
        )
        # Checks in progress, including those that wait for the budget.
        self._in_flight = 0
        self._stuck_checks = StuckChecks(self._schedule, self._coverage)
        self._plan_changed = asyncio.Event()
        self._regrouped_at = time.monotonic()

    # --- properties ---

    @property
    def schedule(self) -> Schedule:
        """The schedule, to be read only."""
        return self._schedule

    @property
    def key_refused(self) -> bool:
        """True while the upstream refuses the API key."""
        return self._failures.key_refused

    @property
    def plan_refused(self) -> bool:
        """True while the upstream accepts the API key, but refuses the user's plan."""
        return self._failures.plan_refused

    @property
    def quota_exhausted(self) -> bool:
        """True while the requests of the month are used up.

        A standby sends none, so it would never find out that there are more.
        """
        return self._budget_watch.is_month_used_up and bool(self._coverage.symbols)

    @property
    def quota_message(self) -> str | None:
        """The vendor's message while the requests of the month are used up."""
        return self._failures.quota_message

    @property
    def outage(self) -> Outage:
        """Checks in a row that brought no answer, and whose trouble it is."""
        return self._failures.outage

    @property
    def failing_checks(self) -> FailingChecks:
        """Checks that failed since the API last answered for their symbols."""
        return self._failures.failing_checks

    @property
    def rate_limit(self) -> RateLimit:
        """The quota as the upstream last reported it."""
        return self._checker.responses.rate_limit

    def next_check_at(self, feed: str, symbol: str) -> int | None:
        """Return when a symbol is checked next (microseconds), as planned after its last check."""
        return self._checker.next_checks.at(feed, symbol)

    def why_not_ready(self) -> list[str]:
        """Return the reasons against being ready: refusals that somebody has to end."""
        reasons = []
        if self.key_refused:
            reasons.append("the upstream refuses the API key")
        if self.plan_refused:
            reasons.append("the upstream refuses the plan of the API key's user")
        if self.quota_exhausted:
            reasons.append("the requests of the month are used up")
        return reasons

    def period_seconds(self, feed: str, symbol: str) -> float | None:
        """Return the time between two refreshes of a symbol, None until it is learnt."""
        forecast = self._schedule.forecast(feed, symbol)
        return None if forecast is None else forecast.period

    def silence_reason(self, feed: str, symbol: str) -> str:
        """Return why a symbol has had no answer for long, as the reason of an event.

        Call it only when the levels of the symbol become stale.
        """
        if self.quota_exhausted:
            return REASON_QUOTA
        if self.key_refused:
            return REASON_KEY
        if self.plan_refused:
            return REASON_PLAN
        failed_for = self._failures.silence_reason(feed, symbol)
        if failed_for is not None:
            return failed_for
        is_asked = self._checker.is_asked(feed, symbol)
        if is_asked and self._fresh_plan.keeps_fresh(feed):
            return REASON_NO_ANSWER
        # The last request was answered. The next one waits for its turn, or has waited.
        self._fresh_plan.became_stale(feed)
        return REASON_BUDGET

    def plan_keeps_fresh(self, feed: str) -> bool:
        """Return False if the budget permits too few checks to keep a feed's levels fresh.

        Call it with each answer, after the budget has learned from it.
        """
        self._fresh_plan.answered()
        return self._fresh_plan.keeps_fresh(feed)

    # --- inputs ---

    def cover(self, shards: Iterable[Shard]) -> None:
        """Poll the symbols of these shards from now on, and no others."""
        now = time.monotonic()
        gained = self._coverage.set_shards(shards)
        self._share.update(gained, now, self._context.clock.now())
        self._schedule.set_budget(self._budget.spending(now).planned_per_minute, now)
        self._failures.keep_only(self._coverage.symbols)
        self._replan()
        if gained:
            self._fresh_plan.restart()
        self._stuck_checks.resume(now)

    def key_changed(self) -> None:
        """Check again at once: the upstream may accept the new API key."""
        _log.info("the API key has changed")
        self._budget.resume_with_new_key()
        self._schedule.resume_with_new_key(time.monotonic())
        self._failures.forget_quota()
        self._plan_changed.set()

    # --- loop ---

    async def run(self) -> None:
        """Poll until cancelled. Requests in flight are cancelled, too."""
        health = self._context.health
        health.register(HEALTH_LOOP_NAME, _LOOP_LIMIT_SECONDS)
        try:
            async with asyncio.TaskGroup() as checks:
                while True:
                    health.progress(HEALTH_LOOP_NAME)
                    # Waits at most a second, so that progress is reported.
                    batch = await self._wait_for_batch()
                    if batch is not None:
                        # Counted here, as the task starts only at the loop's next turn.
                        self._in_flight += 1
                        purpose = self._schedule.start_check(batch, time.monotonic())
                        checks.create_task(self._check(batch, purpose))
        finally:
            health.unregister(HEALTH_LOOP_NAME)

    async def _wait_for_batch(self) -> Batch | None:
        """Return a batch that is due, or None after at most a second.

        Update the budget and the groups first.
        """
        self._budget_watch.update()
        self._regroup_if_due()

        wait_seconds = _MAX_SLEEP_SECONDS
        planned = None
        # While probing, send one request at a time.
        is_month_used_up = self._budget_watch.is_month_used_up
        is_probing = self._failures.is_probing or is_month_used_up
        is_waiting_for_probe = is_probing and self._in_flight > 0
        if not is_waiting_for_probe:
            planned = self._schedule.next()
        if planned is not None:
            due_at, batch = planned
            wait_seconds = due_at - time.monotonic()
            if wait_seconds <= 0:
                return None if self._stuck_checks.postpone(batch) else batch

        # No await since the look at the schedule, so no change of the plan is missed.
        self._plan_changed.clear()
        try:
            async with asyncio.timeout(min(wait_seconds, _MAX_SLEEP_SECONDS)):
                await self._plan_changed.wait()
        except TimeoutError:
            return None
        return None

    def _regroup_if_due(self) -> None:
        now = time.monotonic()
        if now - self._regrouped_at <= _REGROUP_INTERVAL_SECONDS:
            return
        # Restart the interval even if no symbol moves.
        self._regrouped_at = now
        if self._coverage.regroup(self._schedule):
            self._replan()

    def _replan(self) -> None:
        self._schedule.set_batches(self._coverage.batches(), time.monotonic())
        self._plan_changed.set()

    # --- checks ---

    async def _check(self, batch: Batch, purpose: Purpose) -> None:
        """Check a batch once the budget allows a request."""
        try:
            async with self._budget.request() as permit:
                # The wait may have been long: the batch may be another worker's by now,
                # or the server may have asked for a pause.
                is_wanted = self._schedule.has_batch(batch)
                if is_wanted and not self._schedule.is_paused(time.monotonic()):
                    await self._checker.send(batch, purpose, permit)
                else:
                    self._checker.defer(batch)
        finally:
            self._in_flight -= 1
            # Only now, since a probe has to end before the next one may start.
            self._plan_changed.set()


def _new_schedule(config: Config) -> Schedule:
    settings = CheckSettings(
        target_delay_seconds=config.schedule.target_delay_seconds,
        min_interval_seconds=config.schedule.min_interval_seconds,
        max_interval_seconds=config.schedule.max_interval_seconds,
    )
    return Schedule(settings, random.random)
