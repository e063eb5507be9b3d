"""Which part of the budget is a worker's, and what of it those before may have spent."""

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


def previous(
    worker: str, seconds_ago: float, used_fraction: float | None
) -> PreviousOwner:
    observed_at = NOW - round(seconds_ago * MICROS)
    return PreviousOwner(worker, observed_at, used_fraction)


@pytest.mark.parametrize(
    ("symbols", "batches"), [(0, 0), (1, 1), (8, 1), (9, 2), (80, 10)]
)
def test_a_request_is_for_eight_symbols(symbols: int, batches: int) -> None:
    assert batches_for(symbols) == batches


def test_a_feed_counts_by_its_batches() -> None:
    configured = {"large": 16, "small": 2}
    assert share_of([("small", "A"), ("small", "B")], configured) == pytest.approx(
        1 / 3
    )
    assert share_of(
        [("large", f"S{number}") for number in range(8)], configured
    ) == pytest.approx(1 / 3)
    assert share_of([], configured) == 0


@given(st.lists(st.integers(1, 30), min_size=1, max_size=4), st.integers(1, 5))
def test_the_shares_of_all_workers_add_up_to_one(
    sizes: list[int], workers: int
) -> None:
    configured = {f"feed{number}": size for number, size in enumerate(sizes)}
    symbols = [
        (feed, f"S{number}")
        for feed, size in configured.items()
        for number in range(size)
    ]
    shares = [
        share_of(symbols[worker::workers], configured) for worker in range(workers)
    ]
    assert sum(shares) == pytest.approx(1)


def test_what_the_last_writer_said_counts_and_the_same_pace_since() -> None:
    assert used_by_previous_owner(previous("a", 0, 0.4), NOW, "me") == pytest.approx(
        0.4
    )
    assert used_by_previous_owner(previous("a", 30, 0.4), NOW, "me") == pytest.approx(
        0.6
    )
    assert used_by_previous_owner(previous("a", 600, 0.4), NOW, "me") == pytest.approx(
        0.8
    ), "it may have asked in vain"
    assert used_by_previous_owner(previous("a", 30, 0.9), NOW, "me") == 1


def test_who_did_not_say_may_have_used_all() -> None:
    assert used_by_previous_owner(previous("a", 10, None), NOW, "me") == 1


def test_long_silence_and_an_empty_topic_mean_that_nothing_was_spent() -> None:
    assert used_by_previous_owner(None, NOW, "me") == 0
    assert used_by_previous_owner(previous("a", 7200, None), NOW, "me") == 0


def test_a_clock_that_is_behind_the_writers_makes_no_difference() -> None:
    behind = used_by_previous_owner(previous("a", -30, 0.1), NOW, "me")
    equal = used_by_previous_owner(previous("a", 0, 0.1), NOW, "me")
    assert behind == equal


def test_what_we_asked_ourselves_is_not_counted_again() -> None:
    assert used_by_previous_owner(previous("me", 1, 0.5), NOW, "me") == 0
