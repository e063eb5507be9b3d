"""A worker's part of the budget, and the use by previous owners."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from connector.core.model import MICROS
from connector.upstream.budget.share import (
    PreviousOwner,
    batches_for,
    share_of,
    used_by_previous_owner,
)

NOW = 1_700_000_000 * MICROS

feed_sizes = st.lists(st.integers(1, 30), min_size=1, max_size=4)


def used_after(
    seconds: float,
    used_fraction: float | None,
    writer: str = "other",
) -> float:
    """Return the use that worker "me" assumes.

    `seconds` have passed since `writer` recorded `used_fraction` in the shard's topic.
    """
    observed_at = NOW - round(seconds * MICROS)
    previous = PreviousOwner(writer, observed_at, used_fraction)
    return used_by_previous_owner(previous, NOW, "me")


# The vendor's limit is eight symbols a request.
@pytest.mark.parametrize(
    ("symbols", "batches"),
    [
        (0, 0),
        (1, 1),
        (8, 1),
        (9, 2),
        (80, 10),
    ],
)
def test_request_covers_eight_symbols(symbols: int, batches: int) -> None:
    assert batches_for(symbols) == batches


def test_feed_counts_by_its_batches() -> None:
    # Two batches and one batch: three requests check everything once.
    configured = {"large": 16, "small": 2}
    small = [("small", "A"), ("small", "B")]
    half_of_large = []
    for number in range(8):
        half_of_large.append(("large", f"S{number}"))

    # Eight symbols need as many requests as two, so both have the same share.
    assert share_of(small, configured) == pytest.approx(1 / 3)
    assert share_of(half_of_large, configured) == pytest.approx(1 / 3)
    assert share_of([], configured) == 0


# With a larger sum the key's limit would be exceeded, with a smaller one it would be
# wasted.
@given(feed_sizes, st.integers(1, 5))
def test_shares_of_all_workers_add_up_to_one(sizes: list[int], workers: int) -> None:
    configured = {}
    symbols: list[tuple[str, str]] = []
    for number, size in enumerate(sizes):
        feed = f"feed{number}"
        configured[feed] = size
        for symbol in range(size):
            symbols.append((feed, f"S{symbol}"))

    total = 0.0
    for worker in range(workers):
        # Deal the symbols out like cards.
        owned = symbols[worker::workers]
        total += share_of(owned, configured)

    assert total == pytest.approx(1)


def test_previous_owner_is_assumed_to_have_gone_on_at_its_pace() -> None:
    assert used_after(0, 0.4) == pytest.approx(0.4)
    assert used_after(30, 0.4) == pytest.approx(0.6)
    # It cannot have used more than everything.
    assert used_after(30, 0.9) == 1

    # Silence is no proof: it may have sent requests without anything to write.
    assert used_after(600, 0.4) == pytest.approx(0.8)


def test_previous_owner_that_recorded_no_use_may_have_used_everything() -> None:
    assert used_after(10, used_fraction=None) == 1


def test_nothing_was_used_after_an_hour_of_silence_or_of_an_empty_topic() -> None:
    assert used_after(7200, used_fraction=None) == 0
    assert used_by_previous_owner(None, NOW, "me") == 0


def test_clock_behind_the_previous_owners_makes_no_difference() -> None:
    # Its last record seems to come from the future.
    assert used_after(-30, 0.1) == used_after(0, 0.1)


def test_our_own_requests_are_not_counted_again() -> None:
    assert used_after(1, 0.5, writer="me") == 0
