"""The headers from which a shard's log learns about the previous owner."""

from __future__ import annotations

import pytest

from connector.kafka.shard_log import _fraction


@pytest.mark.parametrize(
    ("header", "expected"),
    [
        (b"0.25", 0.25),
        ("0.25", 0.25),
        (b"-1", 0.0),
        (b"7", 1.0),
        (None, None),
        (b"", None),
        (b"much", None),
        (b"nan", None),
        (b"inf", None),
    ],
)
def test_a_used_fraction_is_clamped_and_unknown_if_it_is_no_number(
    header: str | bytes | None, expected: float | None
) -> None:
    assert _fraction(header) == expected
