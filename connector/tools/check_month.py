"""The month's part of `gex-connector check`: how long it lasts, and which delay it affords."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING, Final

from connector.schedule.freshness import longest_fresh_interval

if TYPE_CHECKING:
    from connector.config.model import Config
    from connector.tools.report import Report
    from connector.upstream.budget import Spending

_LEAST_OF_A_UNIT: Final = 2

# The upstream refreshes a symbol about this often.
_REFRESH_SECONDS: Final = 30


def check_month(
    config: Config,
    spending: Spending,
    batches: int,
    needed_per_minute: float,
    report: Report,
) -> None:
    """Report what is left of the month, and if it keeps the levels fresh.

    `batches` requests cover every symbol once, and `needed_per_minute` meet the target
    delay.
    """
    month = spending.month
    if month.limit is None or month.remaining is None or month.resets_at is None:
        report.ok("month", "the upstream reports no cap of the month")
        return

    ends_at = datetime.fromtimestamp(month.resets_at, UTC)
    left = (
        f"{month.remaining:,} of {month.limit:,} requests are left until "
        f"{ends_at:%Y-%m-%d %H:%M} UTC"
    )
    if month.is_used_up:
        report.fail("month", f"{left}: wait for the next month, or get a larger plan")
        return

    per_minute = spending.planned_per_minute
    if needed_per_minute and per_minute >= needed_per_minute:
        target = config.schedule.target_delay_seconds
        report.ok("month", f"{left}; they last, with a mean delay of {target:g} s")
        return

    lasting_minutes = month.remaining / max(needed_per_minute, 1e-9)
    interval = 60 * batches / per_minute
    finding = left
    if needed_per_minute:
        finding += (
            f"; the target delay would use them up in {_duration(lasting_minutes)}, so workers "
            f"plan {per_minute:.2g} a minute"
        )
    finding += f": every symbol about every {interval:.0f} s"
    stale = stale_between_checks(config, interval)
    if stale:
        report.warn(
            "month", f"{finding}, a mean delay of {interval / 2:.0f} s; {stale}"
        )
    elif interval > _REFRESH_SECONDS:
        report.warn("month", f"{finding}, a mean delay of {interval / 2:.0f} s")
    else:
        # Twice the requests halve the delay.
        delay = config.schedule.target_delay_seconds * needed_per_minute / per_minute
        report.ok("month", f"{finding}, a mean delay of about {delay:.1f} s")


def stale_between_checks(config: Config, interval_seconds: float) -> str:
    """Return the finding, with its remedies, if such an interval cannot keep levels fresh."""
    stale_after = min(feed.stale_after_seconds for feed in config.feeds)
    if interval_seconds <= longest_fresh_interval(stale_after):
        return ""
    oldest = interval_seconds + _REFRESH_SECONDS
    return (
        "levels become STALE (budget) and stay so: get a larger plan, configure fewer "
        f"symbols, or set stale_after_seconds above {oldest:.0f}"
    )


def _duration(minutes: float) -> str:
    """Return a duration in a unit that it has at least two of."""
    hours = minutes / 60
    days = hours / 24
    if days >= _LEAST_OF_A_UNIT:
        return f"{days:.0f} days"
    if hours >= _LEAST_OF_A_UNIT:
        return f"{hours:.0f} hours"
    return f"{minutes:.0f} minutes"
