"""Which part of the budget is a worker's, and what of it those before may have spent."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from connector.core.model import MICROS, Levels, Source, State, Status
from connector.kafka.shard_log import Restored, Writer
from connector.upstream.budget.share import batches_for, share_of, spent_before

NOW = 1_700_000_000 * MICROS


def restored(worker: str, seconds_ago: float, spent: float | None) -> Restored:
    state = State(
        feed="f",
        symbol="A",
        sequence=1,
        status=Status.LIVE,
        computed_at=1,
        observed_at=NOW - round(seconds_ago * MICROS),
        request_fingerprint="",
        source=Source("1", "g", worker),
        event_computed_at=1,
        levels=Levels(),
        published=None,
    )
    return Restored({"A": state}, 1, 0.1, spent, Writer(worker, "g", 0))


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
    assert spent_before(restored("a", 0, 0.4), NOW, "me") == pytest.approx(0.4)
    assert spent_before(restored("a", 30, 0.4), NOW, "me") == pytest.approx(0.6)
    assert spent_before(restored("a", 600, 0.4), NOW, "me") == pytest.approx(0.8), (
        "it may have asked in vain"
    )
    assert spent_before(restored("a", 30, 0.9), NOW, "me") == 1


def test_who_did_not_say_may_have_used_all() -> None:
    assert spent_before(restored("a", 10, None), NOW, "me") == 1


def test_long_silence_and_an_empty_topic_mean_that_nothing_was_spent() -> None:
    assert spent_before(restored("a", 7200, None), NOW, "me") == 0
    assert spent_before(Restored({}, 0, 0.1), NOW, "me") == 0
    assert spent_before(None, NOW, "me") == 0


def test_a_clock_that_is_behind_the_writers_makes_no_difference() -> None:
    assert spent_before(restored("a", -30, 0.1), NOW, "me") == spent_before(
        restored("a", 0, 0.1), NOW, "me"
    )


def test_what_we_asked_ourselves_is_not_counted_again() -> None:
    assert spent_before(restored("me", 1, 0.5), NOW, "me") == 0
