"""The schedule as the API shows it, with the reason for each check in words."""

from __future__ import annotations

import time
from dataclasses import dataclass
from math import floor
from typing import TYPE_CHECKING, Final

from connector.core.model import MICROS
from connector.schedule.checks import Purpose
from connector.web import answers

if TYPE_CHECKING:
    from collections.abc import Callable

    from connector.runtime.clock import Clock
    from connector.schedule.forecast import Forecast
    from connector.schedule.scheduler import PlannedCheck, Schedule

_REASONS: Final = {
    Purpose.FIRST: "the current state is not known yet",
    Purpose.SEARCH: "no rhythm is known, or the next refresh is long overdue",
    Purpose.RETRY: "the previous check failed",
    Purpose.REFUSED: "the upstream refuses this symbol; it is retried rarely",
}


@dataclass(frozen=True, slots=True)
class _Now:
    """A moment by two clocks: `monotonic` in seconds, `wall` in microseconds."""

    monotonic: float
    wall: int

    def to_wall(self, monotonic: float | None) -> int | None:
        """Convert another moment of the monotonic clock, which the schedule uses."""
        if monotonic is None:
            return None
        return self.wall + round((monotonic - self.monotonic) * MICROS)


def schedule_answer(
    schedule: Schedule,
    clock: Clock,
    *,
    target_delay_seconds: float,
    budget_wait_seconds: float,
    publishes: Callable[[str, str], bool],
) -> answers.ScheduleAnswer:
    """Return the next check of every batch, and the reason for its moment.

    `publishes` tells if events of a feed's symbol can be published now.
    """
    now = _Now(time.monotonic(), clock.now())
    batches = []
    for planned in schedule.planned_checks():
        reason = _reason(planned, schedule, now.monotonic, publishes)
        batches.append(_batch(planned, schedule, now, reason))

    held_until, key_refused_until = schedule.paused_until
    return answers.ScheduleAnswer(
        at=now.wall,
        price_seconds=schedule.price,
        target_delay_seconds=target_delay_seconds,
        budget_per_minute=schedule.budget_per_minute,
        budget_wait_seconds=budget_wait_seconds,
        visibility_lag_seconds=schedule.lag_seconds,
        held_until=_future(held_until, now),
        key_refused_until=_future(key_refused_until, now),
        quota_exhausted_until=_future(schedule.month_paused_until, now),
        batches=batches,
    )


def _future(monotonic: float, now: _Now) -> int | None:
    return now.to_wall(monotonic) if monotonic > now.monotonic else None


def _batch(
    planned: PlannedCheck, schedule: Schedule, now: _Now, reason: str
) -> answers.Batch:
    feed = planned.batch.feed
    expected_refreshes = expected_delay = None
    if planned.check is not None:
        expected_refreshes = planned.check.expected
        expected_delay = planned.check.delay
    symbols = [
        _rhythm(symbol, schedule.forecast(feed, symbol), now)
        for symbol in planned.batch.symbols
    ]
    return answers.Batch(
        feed=feed,
        next_check_at=now.to_wall(schedule.next_check_at(planned.batch)),
        purpose=planned.purpose,
        why=reason,
        failures=planned.failures,
        expected_refreshes=expected_refreshes,
        expected_delay_seconds=expected_delay,
        symbols=symbols,
    )


def _rhythm(symbol: str, forecast: Forecast | None, now: _Now) -> answers.Rhythm:
    if forecast is None or forecast.period is None or forecast.phase is None:
        return answers.Rhythm(
            symbol=symbol, period_seconds=None, spread_seconds=None, expected_at=None
        )

    # The latest refresh that is due by now, but at least the first after the phase.
    elapsed_periods = floor((now.monotonic - forecast.phase) / forecast.period)
    expected = forecast.phase + forecast.period * max(elapsed_periods, 1)
    return answers.Rhythm(
        symbol=symbol,
        period_seconds=forecast.period,
        spread_seconds=forecast.jitter,
        expected_at=now.to_wall(expected),
    )


def _reason(
    planned: PlannedCheck,
    schedule: Schedule,
    now: float,
    publishes: Callable[[str, str], bool],
) -> str:
    """Return why the batch is checked at its moment. Reasons to hold it come first."""
    if planned.at is None:
        return "a request is in progress"

    due_at = max(planned.at, now)
    held_until, key_refused_until = schedule.paused_until
    if due_at < key_refused_until:
        return (
            "the upstream refuses the API key, or the plan of its user; "
            "a request tries again then, or when the key changes"
        )
    if due_at < schedule.month_paused_until:
        return (
            "the requests of the month are used up; "
            "one is tried then, or when the key changes"
        )
    if due_at < held_until:
        return "the upstream asked not to be called before then"
    feed = planned.batch.feed
    can_publish = any(publishes(feed, symbol) for symbol in planned.batch.symbols)
    if not can_publish:
        return "Kafka accepts no events; checked rarely, to keep the metrics current"
    return _plan_reason(planned, schedule.price)


def _plan_reason(planned: PlannedCheck, price_seconds: float) -> str:
    """Return why the schedule chose the moment, if nothing holds the batch."""
    if planned.purpose is not Purpose.EXPECTED:
        reason = _REASONS[planned.purpose]
        return f"{reason} ({planned.failures} in a row)" if planned.failures else reason
    if planned.check is None:
        return "its symbols were regrouped; the planned moment was kept"
    return (
        f"{planned.check.expected:.2f} refreshes are expected by then, with a delay of "
        f"{planned.check.delay:.2f} s in total: the cheapest plan "
        f"when a check must save {price_seconds:.2f} s of delay"
    )
