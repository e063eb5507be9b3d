"""Plan the next check of a batch. Pure."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from connector.schedule.checks import Outcome, Purpose
from connector.schedule.inspection import next_check

if TYPE_CHECKING:
    from collections.abc import Callable, Container, Mapping, Sequence

    from connector.schedule.batch_plan import BatchPlan
    from connector.schedule.batches import Batch
    from connector.schedule.budget_control import BudgetControl
    from connector.schedule.checks import CheckSettings

# Doublings of the wait after failures: up to 32 s, about one refresh, so that recovery
# is noticed soon.
_MAX_DOUBLINGS: Final = 5

# How far a plan looks ahead, in average intervals between the batch's checks. It always
# looks past the next refresh.
_HORIZON_INTERVALS: Final = 4

_MIN_HORIZON_SECONDS: Final = 1.0

# A scarce budget allows one check per batch and round. A check may wait for this many
# rounds.
_MAX_ROUNDS_BETWEEN_CHECKS: Final = 2

# A second check this much later confirms the upstream's clock: after a second, timestamps in
# whole seconds differ, and the same timestamp is that of a cache's copy.
_CONFIRM_AFTER_SECONDS: Final = 1.25


class Planner:
    """Sets the moment and the purpose of a batch's next check.

    `chance` returns a random number between 0 and 1.
    """

    def __init__(
        self,
        settings: CheckSettings,
        budget: BudgetControl,
        chance: Callable[[], float],
    ) -> None:
        self._settings = settings
        self._budget = budget
        self._chance = chance

    def plan_after(
        self, plan: BatchPlan, outcome: Outcome, sent_at: float, now: float
    ) -> None:
        """Plan the check after one with this outcome."""
        if plan.batch.refused:
            self.plan_slow_retry(plan, now, self._budget.refused_count)
        elif outcome is Outcome.DEFERRED:
            plan.set_next(now, Purpose.RETRY)
        elif outcome is Outcome.UNCONFIRMED:
            # As urgent as the first check: still nothing is known.
            plan.set_next(now + _CONFIRM_AFTER_SECONDS, Purpose.FIRST)
        elif outcome is Outcome.FAILED:
            self._back_off(plan, now)
        else:
            plan.failures = 0
            self.plan_by_forecast(plan, sent_at, now)

    def plan_new(
        self,
        plans: Sequence[BatchPlan],
        due_before: Mapping[tuple[str, str], float],
        in_flight: Container[Batch],
        now: float,
    ) -> None:
        """Plan the checks of new batches, except for those in flight.

        `due_before` is when their symbols, by feed and symbol, were due in other batches.
        """
        # Space out the first checks, so that a start is not a burst.
        first_at = now
        first_gap = min(
            self._settings.min_interval_seconds, self._budget.request_seconds
        )
        # The n-th refused symbol waits as if n were refused, so that their tries spread.
        # Halving finds them one at a time, so count those that are planned already.
        new_refused = sum(plan.batch.refused for plan in plans)
        refused_count = self._budget.refused_count - new_refused
        for plan in plans:
            if plan.batch in in_flight:
                continue
            due = _due_of(plan.batch, due_before)
            is_unknown = any(known.checked_at is None for known in plan.symbols)
            if plan.batch.refused:
                refused_count += 1
                self.plan_slow_retry(plan, now, refused_count)
            elif is_unknown:
                plan.set_next(first_at, Purpose.FIRST)
                first_at += first_gap
            elif due:
                # Forecasts for hundreds of batches at once would block the event loop.
                plan.set_next(min(due), Purpose.EXPECTED)
            else:
                self.plan_by_forecast(plan, now, now)

    def plan_slow_retry(self, plan: BatchPlan, now: float, refused_count: int) -> None:
        """Plan another try of a refused symbol, when `refused_count` are refused."""
        wait = self._budget.slow_retry_seconds(refused_count)
        plan.set_next(now + wait, Purpose.REFUSED)

    def plan_by_forecast(self, plan: BatchPlan, start: float, now: float) -> None:
        """Plan a check for the refreshes that are expected.

        The plan begins at `start`: when the last check was sent, or now.
        """
        earliest = self._earliest(plan, now)
        price = self._budget.price
        # The target is 0 and the budget is ample: check as often as the settings allow.
        if not price:
            plan.set_next(earliest, Purpose.EXPECTED)
            return

        # Find the best moment, as if there were no pace.
        latest = self._latest(plan, start, earliest)
        end = min(_horizon(plan, start), latest)
        curves = []
        for known in plan.symbols:
            curves.append(known.forecast.curve(known.checked_at or start, end))
        plan.check = next_check(curves, price, start, end)
        wanted_at = plan.check.at
        is_lost = all(known.forecast.is_lost(start) for known in plan.symbols)
        is_even_better = not plan.averages.are_plans_better
        if plan.sent_at is not None and is_even_better and not is_lost:
            # Plans that save little make the longest delays longer: check evenly.
            wanted_at = plan.sent_at + plan.averages.even_gap(price)
        wanted_at = max(wanted_at, earliest)

        # If the pace makes this check late, find the next good moment instead.
        at = wanted_at
        ready_at = self._budget.ready_at
        if wanted_at < ready_at < end:
            at = next_check(curves, price, ready_at, end).at
        plan.set_next(at, Purpose.SEARCH if is_lost else Purpose.EXPECTED)
        # Not `at`: the price learns from the wait for the pace.
        plan.wanted_at = wanted_at

    def _earliest(self, plan: BatchPlan, now: float) -> float:
        """Return the first moment that the settings allow for the next check."""
        if plan.sent_at is None:
            return now
        return max(now, plan.sent_at + self._settings.min_interval_seconds)

    def _latest(self, plan: BatchPlan, start: float, earliest: float) -> float:
        """Return the last moment for the next check, whatever the forecasts say."""
        last_at = start if plan.sent_at is None else plan.sent_at
        longest_rounds = _MAX_ROUNDS_BETWEEN_CHECKS * self._budget.round_seconds
        longest = max(self._settings.max_interval_seconds, longest_rounds)
        return max(last_at + longest, earliest + _MIN_HORIZON_SECONDS)

    def _back_off(self, plan: BatchPlan, now: float) -> None:
        """Plan a retry after an exponential wait with full jitter.

        See AWS Architecture Blog, *Exponential Backoff And Jitter*, 2015.
        """
        plan.failures += 1
        doublings = min(plan.failures, _MAX_DOUBLINGS)
        ceiling = min(self._settings.max_interval_seconds, 2.0**doublings)
        wait = max(self._settings.min_interval_seconds, self._chance() * ceiling)
        plan.set_next(now + wait, Purpose.RETRY)


def _due_of(batch: Batch, due_before: Mapping[tuple[str, str], float]) -> list[float]:
    due = []
    for symbol in batch.symbols:
        key = (batch.feed, symbol)
        if key in due_before:
            due.append(due_before[key])
    return due


def _horizon(plan: BatchPlan, start: float) -> float:
    """Return how far to look ahead: some intervals, and past the next refresh."""
    settled = min(known.forecast.settled_by(start) for known in plan.symbols)
    return max(start + _HORIZON_INTERVALS * plan.averages.interval, settled)
