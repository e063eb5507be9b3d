"""Moments as people type them."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from connector.core.model import MICROS
from connector.errors import UsageError
from connector.tools.period import parse_moment

DAY = 86_400 * MICROS


def moment_of(text: str) -> int:
    return parse_moment(text, "history: --since")


def test_a_day_by_name_begins_at_midnight_in_utc() -> None:
    before = datetime.now(UTC).date()
    today, yesterday = moment_of("today"), moment_of("yesterday")
    after = datetime.now(UTC).date()

    # The test may run at midnight.
    assert datetime.fromtimestamp(today / MICROS, UTC).date() in {before, after}
    assert datetime.fromtimestamp(yesterday / MICROS, UTC).date() in {
        before - timedelta(days=1),
        after - timedelta(days=1),
    }
    assert today % DAY == 0
    assert yesterday % DAY == 0


def test_a_moment_without_a_zone_is_utc() -> None:
    assert moment_of("2026-11-25") == moment_of("2026-11-25T00:00:00Z")


@pytest.mark.parametrize("text", ["tomorrow", "last week", "", "2h ago"])
def test_other_words_are_refused_with_what_was_expected(text: str) -> None:
    expected = "expected 2h, 3d, yesterday, today or 2026-01-31T12:00Z"
    with pytest.raises(UsageError, match=expected):
        moment_of(text)
