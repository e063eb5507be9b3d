"""The worker of the alerts' scene has the real one's parts, but for two durations."""

from __future__ import annotations

import time

from connector.app import looks, parts
from connector.core.decode import Quota
from tests.support.hasty_worker import short_months_and_days

MONTH_SECONDS = 3 * 3600


def test_months_are_short_where_a_worker_gets_them_and_real_ones_are_back() -> None:
    before = parts.Month, looks.DailyLook

    with short_months_and_days():
        month = parts.Month(None)
        now = time.monotonic()
        month.learn(Quota(100, 0, 100, None), 0, time.time(), now)
        resets_at = month.figures(now).resets_at
        assert looks.DailyLook is not before[1]

    assert resets_at is not None
    assert resets_at - time.time() < MONTH_SECONDS
    assert (parts.Month, looks.DailyLook) == before
