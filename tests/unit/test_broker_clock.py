"""The end of a transaction is told from other records by its offset and time."""

from __future__ import annotations

import pytest

from connector.kafka.broker_clock import _is_end, _Newest

NOON_MS = 1_795_780_800_000
BEFORE = 5
OURS = 6


@pytest.mark.parametrize(
    ("newest", "is_end"),
    [
        (_Newest(7, NOON_MS), True),
        (_Newest(OURS, NOON_MS), False),
        (_Newest(BEFORE, NOON_MS), False),
        # Our record, whose offset is not known because its delivery was not confirmed.
        (_Newest(7, 1), False),
        # The records were deleted meanwhile.
        (_Newest(-1, -1), False),
    ],
)
def test_only_a_later_record_with_a_time_of_the_brokers_is_the_end(
    newest: _Newest, is_end: bool
) -> None:
    assert _is_end(newest, {BEFORE, OURS}) is is_end
