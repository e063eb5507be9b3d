"""What `check` says about the month."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from msgspec.structs import replace

from connector.config.load import load
from connector.tools.check_month import check_month
from connector.tools.report import Report
from connector.upstream.budget import Budget, MonthFigures, Spending

if TYPE_CHECKING:
    from connector.config.model import Config

# 2026-12-01T00:00:00Z
DECEMBER = 1_796_083_200.0


def config(**variables: str) -> Config:
    return load(
        None, {"GEX_UPSTREAM__API_KEY": "demo-key", "GEX_SYMBOLS": "BTC"} | variables
    )


def spending(planned: float, month: MonthFigures) -> Spending:
    """Return the figures of a budget with this plan."""
    return Spending(
        limit_per_minute=60,
        planned_per_minute=planned,
        sent_last_minute=1,
        available_per_minute=60,
        other_clients_per_minute=0,
        wait_seconds=0.0,
        used_fraction=0.0,
        paused_until=0.0,
        month=month,
    )


def month(limit: int, remaining: int) -> MonthFigures:
    return MonthFigures(
        limit=limit,
        used=limit - remaining,
        remaining=remaining,
        resets_at=DECEMBER,
        is_used_up=remaining == 0,
    )


@pytest.mark.parametrize(
    ("planned", "figures", "expected"),
    [
        (
            0.23,
            month(10_000, 9_999),
            (
                "warning 9,999 of 10,000 requests are left until 2026-12-01 00:00 UTC; the "
                "target delay would use them up in 10 hours, so workers plan 0.23 a minute: "
                "every symbol about every 261 s, a mean delay of 130 s; levels become STALE "
                "(budget) and stay so: get a larger plan, configure fewer symbols, or set "
                "stale_after_seconds above 291"
            ),
        ),
        (
            0.2,
            month(10_000, 1_000),
            (
                "warning 1,000 of 10,000 requests are left until 2026-12-01 00:00 UTC; the "
                "target delay would use them up in 62 minutes, so workers plan 0.2 a minute: "
                "every symbol about every 300 s, a mean delay of 150 s; levels become STALE "
                "(budget) and stay so: get a larger plan, configure fewer symbols, or set "
                "stale_after_seconds above 330"
            ),
        ),
        (
            5.7,
            month(250_000, 249_000),
            (
                "ok 249,000 of 250,000 requests are left until 2026-12-01 00:00 UTC; the "
                "target delay would use them up in 11 days, so workers plan 5.7 a minute: "
                "every symbol about every 11 s, a mean delay of about 1.1 s"
            ),
        ),
        (
            1.2,
            month(250_000, 50_000),
            (
                "warning 50,000 of 250,000 requests are left until 2026-12-01 00:00 UTC; the "
                "target delay would use them up in 2 days, so workers plan 1.2 a minute: "
                "every symbol about every 50 s, a mean delay of 25 s"
            ),
        ),
        (
            23.0,
            month(1_000_000, 999_999),
            (
                "ok 999,999 of 1,000,000 requests are left until 2026-12-01 00:00 UTC; they "
                "last, with a mean delay of 0.4 s"
            ),
        ),
        (
            0.2,
            month(10_000, 0),
            (
                "failure 0 of 10,000 requests are left until 2026-12-01 00:00 UTC: wait for "
                "the next month, or get a larger plan"
            ),
        ),
        (54.0, MonthFigures(), "ok the upstream reports no cap of the month"),
    ],
    ids=[
        "starter",
        "rest of starter",
        "standard",
        "rest of standard",
        "pro",
        "used up",
        "enterprise",
    ],
)
def test_check_says_how_long_the_month_lasts_and_which_delay_it_affords(
    capsys: pytest.CaptureFixture[str],
    planned: float,
    figures: MonthFigures,
    expected: str,
) -> None:
    report = Report()

    check_month(config(), spending(planned, figures), 1, 16.0, report)

    printed = capsys.readouterr().out
    assert expected.split(" ", 1)[1] in printed
    assert (report.exit_code != 0) is expected.startswith("failure")


def test_longer_stale_after_seconds_end_the_warning_of_levels_that_become_stale(
    capsys: pytest.CaptureFixture[str],
) -> None:
    feed = replace(config().feeds[0], stale_after_seconds=600.0)
    patient = replace(config(), feeds=(feed,))

    check_month(patient, spending(0.23, month(10_000, 9_999)), 1, 16.0, Report())

    assert "STALE" not in capsys.readouterr().out


def test_a_target_of_0_needs_no_forecast_of_its_end(
    capsys: pytest.CaptureFixture[str],
) -> None:
    fastest = config(GEX_SCHEDULE__TARGET_DELAY_SECONDS="0")

    check_month(fastest, spending(5.7, month(250_000, 9_999)), 1, 0.0, Report())

    assert "every symbol about every 11 s" in capsys.readouterr().out


def test_a_fresh_budget_has_no_month() -> None:
    figures = Budget(60).spending(0.0).month

    assert figures.limit is None
