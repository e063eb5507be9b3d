"""Two budgets of requests: the calendar minute, and the month.

Moments are microseconds since the Unix epoch. A limit of 0 means no limit.
"""

from __future__ import annotations

import math
from collections import Counter
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Final, Literal

import msgspec

from connector.devkit.simulator.levels import MICROS, micros
from connector.devkit.simulator.plans import plan_of

if TYPE_CHECKING:
    from connector.devkit.simulator.settings import Settings

Budget = Literal["both", "minute", "month"]

_MINUTE_SECONDS: Final = 60
_MINUTE_MICROS: Final = _MINUTE_SECONDS * MICROS
_MONTHS_A_YEAR: Final = 12

# Limit and remaining requests of a plan without a cap, by the setting.
_UNCAPPED: Final = {"text": "unlimited", "negative": "-1", "zero": "0"}


class Month(msgspec.Struct, frozen=True):
    """A period of the quota: its name as `YYYYMM`, and the moment at which it ends."""

    name: str
    ends_at: int


class Months:
    """Successive months: those of the calendar, or shorter ones from a moment on."""

    def __init__(self, seconds: float, origin: int) -> None:
        self._length = micros(seconds)
        self._origin = origin

    def at(self, now: int) -> Month:
        """Return the month that a moment belongs to."""
        if not self._length:
            month = _month_number(now)
            return Month(_month_name(month), _month_start(month + 1))
        # A client sees short months pass as if they were calendar months.
        passed = (now - self._origin) // self._length
        name = _month_name(_month_number(self._origin) + passed)
        return Month(name, self._origin + (passed + 1) * self._length)


class Quota:
    """The requests that users have spent, and the figures that answers carry."""

    def __init__(self, settings: Settings, now: int) -> None:
        self.settings = settings
        self._months = Months(settings.month_seconds, now)
        self._minutes: Counter[tuple[str, int]] = Counter()
        self._by_month: Counter[tuple[str, str, int]] = Counter()

    def change(self, settings: Settings, now: int) -> None:
        """Apply new settings. Another length of the month starts a month now."""
        if settings.month_seconds != self.settings.month_seconds:
            self._months = Months(settings.month_seconds, now)
        self.settings = settings

    def spend(self, key: str, requests: int, now: int, budget: Budget = "both") -> None:
        """Count requests, even over the limit, as another program's would be."""
        if budget != "month":
            self._minutes[self._minute(key, now)] += requests
        if budget != "minute":
            self._by_month[self._month(key, now)] += requests

    def refund_month(self, key: str, now: int) -> None:
        """Take a request back whose answer does not count against the month."""
        self._by_month[self._month(key, now)] -= 1

    def used(self, key: str, now: int) -> tuple[int, int]:
        """Return the requests spent in this minute and in this month."""
        minute = self._minutes[self._minute(key, now)]
        month = self._by_month[self._month(key, now)]
        return minute, month

    def is_minute_used_up(self, key: str, now: int) -> bool:
        """Return True if no request is left in this minute."""
        limit = plan_of(self.settings).per_minute
        return bool(limit) and self.used(key, now)[0] >= limit

    def is_month_used_up(self, key: str, now: int) -> bool:
        """Return True if no request is left in this month."""
        cap = plan_of(self.settings).per_month
        return bool(cap) and self.used(key, now)[1] >= cap

    def month(self, now: int) -> Month:
        """Return the month at this moment."""
        return self._months.at(now)

    def rate_limit(self, key: str, now: int) -> dict[str, int]:
        """Return `limit`, `remaining` and `reset` of the minute. Empty without a limit."""
        limit = plan_of(self.settings).per_minute
        if not limit:
            return {}
        minute = now // _MINUTE_MICROS
        used, _ = self.used(key, now)
        return {
            "limit": limit,
            "remaining": max(0, limit - used),
            "reset": (minute + 1) * _MINUTE_SECONDS,
        }

    def month_headers(self, key: str, now: int) -> dict[str, str]:
        """Return `X-Quota-*`. Contract 2.0 had no month."""
        if self.settings.is_old:
            return {}
        used = self.used(key, now)[1]
        cap = plan_of(self.settings).per_month
        if cap:
            limit, remaining = str(cap), str(max(0, cap - used))
        elif self.settings.uncapped_quota == "absent":
            return {}
        else:
            limit = remaining = _UNCAPPED[self.settings.uncapped_quota]
        return {
            "X-Quota-Limit": limit,
            "X-Quota-Used": str(used),
            "X-Quota-Remaining": remaining,
            "X-Quota-Period": self.month(now).name,
        }

    def statistics(self, now: int) -> dict[str, Any]:
        """Return the figures of the first key's user."""
        key = self.settings.keys[0] if self.settings.keys else ""
        minute, month = self.used(key, now)
        plan = plan_of(self.settings)
        return {
            "minute_limit": plan.per_minute,
            "minute_used": minute,
            "month_limit": plan.per_month,
            "month_used": month,
            "month_period": self.month(now).name,
            "month_seconds_left": seconds_until(self.month(now).ends_at, now),
        }

    def _minute(self, key: str, now: int) -> tuple[str, int]:
        user = self.settings.user_of(key)
        # Contract 2.0 said that each key has a minute of its own.
        is_per_key = self.settings.is_old or self.settings.minute_per == "key"
        return (key if is_per_key else user), now // _MINUTE_MICROS

    def _month(self, key: str, now: int) -> tuple[str, str, int]:
        # The end tells months of the same name apart, after a change of their length.
        month = self.month(now)
        return self.settings.user_of(key), month.name, month.ends_at


def seconds_left(now: int) -> int:
    """Return the seconds until the next minute, at least 1."""
    return _MINUTE_SECONDS - now // MICROS % _MINUTE_SECONDS


def seconds_until(end: int, now: int) -> int:
    """Return the whole seconds until a moment, at least 1."""
    return max(1, math.ceil((end - now) / MICROS))


def _month_number(at: int) -> int:
    """Return the months since year 0."""
    moment = datetime.fromtimestamp(at / MICROS, UTC)
    return moment.year * _MONTHS_A_YEAR + moment.month - 1


def _month_name(number: int) -> str:
    year, month = divmod(number, _MONTHS_A_YEAR)
    return f"{year:04}{month + 1:02}"


def _month_start(number: int) -> int:
    year, month = divmod(number, _MONTHS_A_YEAR)
    start = datetime(year, month + 1, 1, tzinfo=UTC)
    return round(start.timestamp()) * MICROS
