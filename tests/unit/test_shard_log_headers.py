"""The headers from which a shard's log learns about the previous owner.

They come from another worker, perhaps of another version, so they may hold anything.
"""

from __future__ import annotations

import pytest

from connector.kafka.shard_log import _fraction


# confluent-kafka hands out headers as bytes, but its type allows text as well.
@pytest.mark.parametrize(
    ("header", "expected"),
    [
        pytest.param(b"0.25", 0.25, id="bytes"),
        pytest.param("0.25", 0.25, id="text"),
        pytest.param(b"-1", 0.0, id="negative"),
        pytest.param(b"7", 1.0, id="above_one"),
    ],
)
def test_a_used_fraction_lies_between_0_and_1(
    header: str | bytes, expected: float
) -> None:
    assert _fraction(header) == expected


@pytest.mark.parametrize("header", [None, b"", b"much", b"nan", b"inf"])
def test_a_used_fraction_is_unknown_if_it_is_not_a_finite_number(
    header: bytes | None,
) -> None:
    assert _fraction(header) is None
