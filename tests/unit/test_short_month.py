"""The short months of `tests.bench.short_month` are those of the simulator."""

from __future__ import annotations

import pytest

from connector.core.model import MICROS
from connector.devkit.simulator.quota import Months
from tests.bench.short_month import ShortMonths

# In October 2026: the third month that passes is in the next year.
STARTS_AT = 1_792_000_000
SECONDS = 1200


@pytest.mark.parametrize("passed_seconds", [0, 1199, 1200, 3700])
def test_a_workers_short_month_is_the_simulators(passed_seconds: int) -> None:
    at = STARTS_AT + passed_seconds
    simulated = Months(SECONDS, STARTS_AT * MICROS).at(at * MICROS)
    months = ShortMonths(STARTS_AT, SECONDS)

    by_name = months.period_of(simulated.name, at)
    by_moment = months.period_of(None, at)

    assert by_name == by_moment
    assert by_name.starts_at <= at < by_name.ends_at
    assert by_name.ends_at == simulated.ends_at / MICROS
