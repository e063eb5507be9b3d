"""Run a worker whose months are short, in step with those of a simulator.

`python -m tests.bench.short_month run ...` is `gex-connector run ...` with other months.
Answers name the month but do not tell its end, so a worker goes by the calendar. Here it
goes by SHORT_MONTH: the start of the first month in Unix seconds, and the length in seconds.
"""

from __future__ import annotations

import os
from datetime import UTC, datetime
from functools import partial
from typing import Final

from connector.app import parts
from connector.cli import main
from connector.upstream.budget import Month
from connector.upstream.budget.month import Period

VARIABLE: Final = "SHORT_MONTH"
_MONTHS_A_YEAR: Final = 12


class ShortMonths:
    """Months of equal length; each has the name of the calendar month in its turn."""

    def __init__(self, starts_at: float, seconds: float) -> None:
        self._starts_at = starts_at
        self._seconds = seconds
        first = datetime.fromtimestamp(starts_at, UTC)
        self._first_number = _number(first.year, first.month)

    def period_of(self, name: str | None, at: float) -> Period:
        """Return the month named `YYYYMM`, or the month of a moment without a name."""
        if name is None:
            passed = (at - self._starts_at) // self._seconds
        else:
            passed = _number(int(name[:4]), int(name[4:])) - self._first_number
        starts_at = self._starts_at + passed * self._seconds
        return Period(starts_at, starts_at + self._seconds)


def variables(starts_at: float, seconds: float) -> dict[str, str]:
    """Return the environment of a worker with short months."""
    return {VARIABLE: f"{starts_at} {seconds}"}


def _number(year: int, month: int) -> int:
    return year * _MONTHS_A_YEAR + month


if __name__ == "__main__":
    start, length = os.environ[VARIABLE].split()
    months = ShortMonths(float(start), float(length))
    # Fail if the worker gets its month elsewhere by now: an assignment would go unnoticed.
    assert parts.Month is Month
    vars(parts)["Month"] = partial(Month, period_of=months.period_of)
    main()
