"""Keeps the schedule in line with the request budget, of the minute and of the month."""

from __future__ import annotations

import logging
import time
from typing import TYPE_CHECKING, Final

from connector.logs import Bounded
from connector.runtime.ports import BudgetReport
from connector.upstream.budget import MonthFigures

if TYPE_CHECKING:
    from connector.runtime.coverage import Coverage
    from connector.runtime.failures import Failures
    from connector.runtime.fresh_plan import FreshPlan
    from connector.runtime.ports import RequestObserver
    from connector.schedule.scheduler import Schedule
    from connector.upstream.budget import Budget

_log = logging.getLogger(__name__)

# A warning that lasts as long as the plan is repeated this often.
_LOG_INTERVAL_SECONDS: Final = 3600


class BudgetWatch:
    """Passes the budget on to schedule and observer, and reacts if it is too small."""

    def __init__(
        self,
        budget: Budget,
        schedule: Schedule,
        coverage: Coverage,
        fresh_plan: FreshPlan,
        failures: Failures,
        observer: RequestObserver,
    ) -> None:
        self.is_month_used_up = False
        """True while the requests of the month are used up, and all checks are held."""
        self._budget = budget
        self._schedule = schedule
        self._coverage = coverage
        self._fresh_plan = fresh_plan
        self._failures = failures
        self._observer = observer
        self._bounded = Bounded(_LOG_INTERVAL_SECONDS, time.monotonic)
        self._reported: BudgetReport | None = None

    def update(self) -> None:
        """Look at the budget. Call at least once a second."""
        now = time.monotonic()
        spending = self._budget.spending(now)
        self._schedule.set_budget(spending.planned_per_minute, now)
        month = spending.month
        if not self._coverage.symbols:
            # A standby gets no answers, so its figures would never change again.
            month = MonthFigures()
        report = BudgetReport(
            limit_per_minute=spending.limit_per_minute,
            other_clients_per_minute=spending.other_clients_per_minute,
            price_seconds=self._schedule.price,
            month=month,
        )
        if report != self._reported:
            self._reported = report
            self._observer.budget_changed(report)
        self._follow_month(spending.month, now)
        self._fresh_plan.update(spending.planned_per_minute, now)
        if not self.is_month_used_up:
            self._warn_of_old_levels(spending.planned_per_minute)

    def _follow_month(self, month: MonthFigures, now: float) -> None:
        """Hold all checks while the requests of the month are used up."""
        if month.is_used_up:
            self._schedule.pause_for_month(now + month.next_request_in)
        elif self.is_month_used_up:
            self._schedule.pause_for_month(now)
        if month.is_used_up == self.is_month_used_up:
            return

        self.is_month_used_up = month.is_used_up
        fields = {"limit": month.limit, "used": month.used, "period": month.period}
        if month.is_used_up:
            wait = {"next_request_in_seconds": round(month.next_request_in)}
            _log.error("the month's requests are used up", extra={**fields, **wait})
        else:
            self._failures.forget_quota()
            _log.info("the month has requests again", extra=fields)

    def _warn_of_old_levels(self, planned_per_minute: float) -> None:
        """Warn if levels become stale between two checks, because the budget is small."""
        plan = self._fresh_plan
        if plan.keeps_all_fresh:
            return
        if self._bounded.admit("old levels") is None:
            return
        fields = {
            "requests_per_minute": round(planned_per_minute, 2),
            "requests_for_all_symbols": plan.requests_for_all,
            "seconds_between_checks": round(plan.interval_seconds),
            "stale_after_seconds": plan.least_stale_after_seconds,
        }
        _log.warning("the budget cannot keep all levels fresh", extra=fields)
