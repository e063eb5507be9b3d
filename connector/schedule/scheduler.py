"""Decide when to check each batch of symbols. Pure.

A check is worth its request when it saves enough delay, and "enough" is one price for all
batches (budget_control.py). For each batch, the forecasts of its symbols say when refreshes
are likely (forecast.py), and the planner finds the best moment at that price (planner.py).

Moments are seconds of a monotonic clock. The caller passes them in, and the source of
random numbers as well.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from connector.core.model import Value
from connector.schedule.averages import Averages
from connector.schedule.batch_plan import BatchPlan
from connector.schedule.budget_control import BudgetControl
from connector.schedule.checks import CheckSettings, Outcome, Purpose
from connector.schedule.due_queue import DueQueue
from connector.schedule.pauses import Pauses
from connector.schedule.planner import Planner
from connector.schedule.symbols import ComputedTimes, Refresh, Symbols

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from connector.schedule.batches import Batch
    from connector.schedule.forecast import Forecast
    from connector.schedule.inspection import Check


class PlannedCheck(Value, frozen=True):
    """The next check of a batch, for display.

    `at` is when it is due, unless a pause delays it. It is None while a request is in
    flight. `check` is what the plan expects, None if there was no plan. `failures` counts
    the checks that failed in a row.
    """

    batch: Batch
    at: float | None
    purpose: Purpose
    check: Check | None
    failures: int


# Longer than other classes, since it is all that callers use of this package. The decisions
# are made by the parts.
class Schedule:
    """Decides which batch to check next, and when.

    The price of a check is the lowest that keeps to the budget, or higher if the target
    delay is met all the same. `fixed_price` overrides it for measurements.
    """

    def __init__(
        self,
        settings: CheckSettings,
        chance: Callable[[], float],
        fixed_price: float | None = None,
    ) -> None:
        self._symbols = Symbols()
        self._budget = BudgetControl(settings.target_delay_seconds, fixed_price)
        self._planner = Planner(settings, self._budget, chance)
        self._pauses = Pauses()
        self._plans: dict[Batch, BatchPlan] = {}
        self._queue = DueQueue()
        # Also batches that were removed while their request was in flight.
        self._in_flight: set[Batch] = set()

    # --- inputs ---

    def set_batches(self, batches: Sequence[Batch], now: float) -> None:
        """Set the batches to check.

        A batch that was there before keeps its plan. A symbol keeps its forecast even if it
        moves to another batch.
        """
        if self._plans.keys() == set(batches):
            return
        plans_before = self._plans
        due_before = self._due_by_symbol()
        self._symbols.set_batches(batches, now)
        self._budget.set_batches(batches, now)

        self._plans = {}
        new_plans = []
        for batch in batches:
            plan = plans_before.get(batch)
            if plan is None:
                plan = self._new_plan(batch, len(batches))
                new_plans.append(plan)
            self._plans[batch] = plan
        # A batch that was removed and added again during its request is planned when that ends.
        self._planner.plan_new(new_plans, due_before, self._in_flight, now)

        # A new queue, since the old one still holds the batches that were removed.
        self._queue = DueQueue()
        for plan in self._plans.values():
            self._queue.add(plan)

    def set_budget(self, budget_per_minute: float, now: float) -> None:
        """Plan with this budget from now on. Replan if the price moves much."""
        price_moved = self._budget.set_budget(budget_per_minute, now)
        if not price_moved:
            return
        for plan in self._plans.values():
            if plan.follows_forecast:
                self._planner.plan_by_forecast(plan, now, now)
                self._queue.add(plan)

    def seed_history(
        self,
        feed: str,
        symbol: str,
        computed_at: Sequence[int],
        upstream_minus_monotonic_seconds: float,
    ) -> None:
        """Learn a symbol's rhythm from refreshes that others found, oldest first."""
        self._symbols.seed_history(
            feed, symbol, computed_at, upstream_minus_monotonic_seconds
        )

    def reschedule(self, batch: Batch, at: float) -> None:
        """Move the batch's next check to this moment, unless its request is in flight."""
        plan = self._plans.get(batch)
        if plan is not None and plan.at is not None:
            self._move(plan, at)

    def pause(self, until: float) -> None:
        """Check no batch before this moment, at the server's request."""
        self._pauses.extend_by_server(until)

    def pause_for_key(self, until: float) -> None:
        """Check no batch before this moment, unless the refused key changes."""
        self._pauses.for_key_until = until

    def pause_for_month(self, until: float) -> None:
        """Check no batch before this moment, since the month's requests are used up.

        A moment in the past ends the pause.
        """
        self._pauses.for_month_until = until

    def resume_with_new_key(self, now: float) -> None:
        """End all pauses, which were for the previous key, and make every batch due."""
        self._pauses = Pauses()
        for plan in self._plans.values():
            if plan.at is not None:
                self._move(plan, min(plan.at, now))

    # --- checks ---

    def next(self) -> tuple[float, Batch] | None:
        """Return the moment of the next check and its batch, None if none is planned."""
        upcoming = self._queue.next(self._pauses.until, self._budget.ready_at)
        if upcoming is None:
            return None
        at, plan = upcoming
        return at, plan.batch

    def start_check(self, batch: Batch, now: float) -> Purpose:
        """Note that the batch's request is in flight, and return its purpose.

        The batch is not checked again until `finish_check`.
        """
        self._in_flight.add(batch)
        self._budget.start_request(now)
        plan = self._plans[batch]
        plan.start(self._pauses.until)
        return plan.purpose

    def finish_check(
        self,
        batch: Batch,
        outcome: Outcome,
        sent_at: float,
        now: float,
        times: ComputedTimes | None = None,
    ) -> list[Refresh]:
        """Plan the batch's next check, now that its request has ended.

        Returns the refreshes that the answer showed, except the first of a symbol.
        """
        self._in_flight.discard(batch)
        plan = self._plans.get(batch)
        if plan is None:
            # Meanwhile its symbols have moved to other batches, or to another worker.
            if outcome is not Outcome.ANSWERED:
                return []
            return self._symbols.learn(batch, sent_at, now, times)

        check = plan.record_sent(sent_at, self.price)
        self._budget.record_check(sent_at, check, plan.averages.wanted_checks)
        found: list[Refresh] = []
        if outcome is Outcome.ANSWERED:
            found = self._symbols.learn(batch, sent_at, now, times)
        self._planner.plan_after(plan, outcome, sent_at, now)
        self._queue.add(plan)
        return found

    # --- state ---

    @property
    def price(self) -> float:
        """The price of a check, in symbol-seconds of delay."""
        return self._budget.price

    @property
    def budget_per_minute(self) -> float:
        """Requests a minute that may be planned."""
        return self._budget.budget_per_minute

    @property
    def lag_seconds(self) -> float:
        """The estimated time until a computed refresh is visible.

        It includes the error of the upstream's clock as we estimate it.
        """
        return self._symbols.lag_seconds

    @property
    def paused_until(self) -> tuple[float, float]:
        """The ends of the two pauses: by the server's request, and for a refused key."""
        return self._pauses.by_server_until, self._pauses.for_key_until

    @property
    def month_paused_until(self) -> float:
        """The end of the pause for a month whose requests are used up."""
        return self._pauses.for_month_until

    def is_paused(self, now: float) -> bool:
        """Return True while no batch may be checked."""
        return now < self._pauses.until

    def has_batch(self, batch: Batch) -> bool:
        """Return True if this is one of the batches to check."""
        return batch in self._plans

    def planned_checks(self) -> list[PlannedCheck]:
        """Return the next check of every batch, for display."""
        checks = []
        for plan in self._plans.values():
            check = PlannedCheck(
                plan.batch, plan.at, plan.purpose, plan.check, plan.failures
            )
            checks.append(check)
        return checks

    def next_check_at(self, batch: Batch) -> float | None:
        """Return when the batch is checked next, None while its request is in flight."""
        plan = self._plans.get(batch)
        if plan is None or plan.at is None:
            return None
        at = max(plan.at, self._pauses.until)
        if plan.waits_for_pace:
            at = max(at, self._budget.ready_at)
        return at

    def last_sent_at(self, batch: Batch) -> float | None:
        """Return when the batch's last request was sent, None before the first."""
        plan = self._plans.get(batch)
        return None if plan is None else plan.sent_at

    def forecast(self, feed: str, symbol: str) -> Forecast | None:
        """Return the forecast of a symbol's refreshes, None for an unknown symbol."""
        return self._symbols.forecast(feed, symbol)

    # --- plans ---

    def _new_plan(self, batch: Batch, batch_count: int) -> BatchPlan:
        interval = batch_count * self._budget.request_seconds
        return BatchPlan(batch, self._symbols.of(batch), Averages(interval))

    def _due_by_symbol(self) -> dict[tuple[str, str], float]:
        """Return when each symbol is due, except those with a request in flight."""
        due = {}
        for plan in self._plans.values():
            if plan.at is None:
                continue
            for symbol in plan.batch.symbols:
                due[plan.batch.feed, symbol] = plan.at
        return due

    def _move(self, plan: BatchPlan, at: float) -> None:
        plan.set_next(at, plan.purpose)
        self._queue.add(plan)
