"""Which symbols share a request."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from connector.core.batches import MAX_SYMBOLS, Batches

if TYPE_CHECKING:
    from collections.abc import Collection

quick = settings(deadline=None, derandomize=True, max_examples=200)


def packed(batches: Batches) -> list[tuple[str, ...]]:
    return [batch.symbols for batch in batches.all()]


def owning(*symbols: str) -> Batches:
    batches = Batches("f")
    batches.own(symbols)
    return batches


def names(count: int) -> list[str]:
    return [f"S{number:02d}" for number in range(count)]


def ask_all(batches: Batches, culprits: Collection[str]) -> list[tuple[str, ...]]:
    """One round: ask for every batch, as an upstream would answer that refuses any request with a culprit."""
    asked = packed(batches)
    for symbols in asked:
        if set(symbols) & set(culprits):
            batches.refused(symbols)
        else:
            batches.answered(symbols)
    return asked


@pytest.mark.parametrize(("count", "sizes"), [(0, []), (1, [1]), (8, [8]), (9, [8, 1]), (80, [8] * 10)])
def test_symbols_are_packed_into_as_few_requests_as_possible(count: int, sizes: list[int]) -> None:
    assert MAX_SYMBOLS == 8
    assert [len(symbols) for symbols in packed(owning(*names(count)))] == sizes


def test_the_packing_depends_on_the_symbols_alone() -> None:
    assert packed(owning(*names(20))) == packed(owning(*reversed(names(20))))


def test_what_was_refused_is_halved_until_the_culprit_stands_alone() -> None:
    batches = owning(*names(8))
    asked = [ask_all(batches, ["S05"]) for _ in range(4)]
    assert asked[0] == [tuple(names(8))]
    assert asked[1] == [("S00", "S01", "S02", "S03"), ("S04", "S05", "S06", "S07")]
    assert ("S05",) in asked[3]
    assert [batch.symbols for batch in batches.all() if batch.refused] == [("S05",)]


def test_the_healthy_are_packed_together_again() -> None:
    batches = owning(*names(8))
    for _ in range(4):
        ask_all(batches, ["S05"])
    assert packed(batches) == [tuple(name for name in names(8) if name != "S05"), ("S05",)]


def test_a_culprit_that_is_answered_is_packed_with_the_others_again() -> None:
    batches = owning(*names(4))
    for _ in range(4):
        ask_all(batches, ["S01"])
    ask_all(batches, [])
    assert packed(batches) == [tuple(names(4))]
    assert not any(batch.refused for batch in batches.all())


def test_a_symbol_alone_that_is_refused_is_a_culprit_at_once() -> None:
    batches = owning("A")
    batches.refused(("A",))
    batches.refused(("A",))
    assert [(batch.symbols, batch.refused) for batch in batches.all()] == [(("A",), True)]


@quick
@given(st.sets(st.sampled_from(names(20)), min_size=1), st.sets(st.sampled_from(names(20))))
def test_every_culprit_is_found_and_nobody_is_lost_on_the_way(owned: set[str], culprits: set[str]) -> None:
    batches = owning(*owned)
    for _ in range(6):
        asked = ask_all(batches, culprits)
        assert sorted(symbol for symbols in asked for symbol in symbols) == sorted(owned)
        assert all(0 < len(symbols) <= 8 for symbols in asked)
    alone = {batch.symbols for batch in batches.all() if batch.refused}
    assert alone == {(culprit,) for culprit in culprits & owned}
    healthy = [len(batch.symbols) for batch in batches.all() if not batch.refused]
    assert len(healthy) == -(-len(owned - culprits) // 8)


@quick
@given(st.data())
def test_whatever_happens_exactly_the_owned_symbols_are_asked_for_once(data: st.DataObject) -> None:
    batches, owned, in_flight = Batches("f"), set[str](), list[tuple[str, ...]]()
    for _ in range(data.draw(st.integers(1, 15))):
        if not in_flight or data.draw(st.booleans()):
            owned = data.draw(st.sets(st.sampled_from(names(12))))
            batches.own(owned)
        else:
            ended = data.draw(st.sampled_from(in_flight))
            data.draw(st.sampled_from([batches.answered, batches.refused]))(ended)
        in_flight += packed(batches)
        asked = [symbol for symbols in packed(batches) for symbol in symbols]
        assert sorted(asked) == sorted(owned)
        assert all(0 < len(symbols) <= 8 for symbols in packed(batches))
        assert all(len(batch.symbols) == 1 for batch in batches.all() if batch.refused)


def test_a_symbol_given_away_while_it_was_asked_for_is_not_asked_for_again() -> None:
    for end in ("answered", "refused"):
        batches = owning("A", "B", "C")
        batches.own(["A", "C"])
        getattr(batches, end)(("A", "B", "C"))
        assert sorted(symbol for symbols in packed(batches) for symbol in symbols) == ["A", "C"]
