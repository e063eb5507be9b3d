"""`gex-connector` in a world where months last hours and days last seconds.

For tests of facts that the connector learns from a month's pace, or on its daily look. Only
these durations differ from the real program.
"""

from __future__ import annotations

import time
from functools import partial
from typing import Final
from unittest.mock import patch

from connector import app, cli
from connector.runtime import daily_look
from connector.upstream.budget import Month
from connector.upstream.budget.month import Period

# A pace is visible after 1/1500 of the month: 7 s.
_MONTH_SECONDS: Final = 3 * 3600.0
# The server's clock may be behind ours.
_BEGUN_BEFORE_SECONDS: Final = 60.0
_DAY_SECONDS: Final = 5.0


def main() -> None:
    """Run the command line with a month that has just begun."""
    starts_at = time.time() - _BEGUN_BEFORE_SECONDS
    month = Period(starts_at, starts_at + _MONTH_SECONDS)
    days = patch.multiple(
        daily_look,
        _FIRST_LOOK_SECONDS=_DAY_SECONDS,
        _DAY_SECONDS=_DAY_SECONDS,
        _RETRY_SECONDS=_DAY_SECONDS,
        _SPREAD_SECONDS=1.0,
    )
    months = patch.object(app, "Month", partial(Month, period_of=lambda *_: month))
    with days, months:
        cli.main()


if __name__ == "__main__":
    main()
