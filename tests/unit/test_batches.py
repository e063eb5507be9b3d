"""Which symbols share a request."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from connector.schedule.batches import MAX_SYMBOLS, Batches

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


@pytest.mark.parametrize(
    ("count", "sizes"), [(0, []), (1, [1]), (8, [8]), (9, [8, 1]), (80, [8] * 10)]
)
def test_symbols_are_packed_into_as_few_requests_as_possible(
    count: int, sizes: list[int]
) -> None:
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
    assert packed(batches) == [
        tuple(name for name in names(8) if name != "S05"),
        ("S05",),
    ]


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
    assert [(batch.symbols, batch.refused) for batch in batches.all()] == [
        (("A",), True)
    ]


@quick
@given(
    st.sets(st.sampled_from(names(20)), min_size=1), st.sets(st.sampled_from(names(20)))
)
def test_every_culprit_is_found_and_nobody_is_lost_on_the_way(
    owned: set[str], culprits: set[str]
) -> None:
    batches = owning(*owned)
    for _ in range(6):
        asked = ask_all(batches, culprits)
        assert sorted(symbol for symbols in asked for symbol in symbols) == sorted(
            owned
        )
        assert all(0 < len(symbols) <= 8 for symbols in asked)
    alone = {batch.symbols for batch in batches.all() if batch.refused}
    assert alone == {(culprit,) for culprit in culprits & owned}
    healthy = [len(batch.symbols) for batch in batches.all() if not batch.refused]
    assert len(healthy) == -(-len(owned - culprits) // 8)


@quick
@given(st.data())
def test_whatever_happens_exactly_the_owned_symbols_are_asked_for_once(
    data: st.DataObject,
) -> None:
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
        assert sorted(symbol for symbols in packed(batches) for symbol in symbols) == [
            "A",
            "C",
        ]


def rhythms(*groups: tuple[float, float, str]) -> dict[str, tuple[float, float]]:
    """Period and phase of symbols, each a letter; those of a group lie 10 ms apart."""
    return {
        name: (period, at + place / 100)
        for period, at, group in groups
        for place, name in enumerate(group)
    }


def in_pairs(*symbols: str) -> Batches:
    batches = Batches("f", size=2)
    batches.own(symbols)
    return batches


def together(batches: Batches) -> set[frozenset[str]]:
    return {frozenset(symbols) for symbols in packed(batches)}


def sets(*groups: str) -> set[frozenset[str]]:
    return {frozenset(group) for group in groups}


def test_symbols_that_are_refreshed_together_share_a_request() -> None:
    batches = in_pairs(*"ABCDEF")
    assert batches.regroup(rhythms((30, 5, "AF"), (30, 15, "BE"), (30, 25, "CD")))
    assert together(batches) == sets("AF", "BE", "CD")


@pytest.mark.parametrize("apart", [0.0, 1e-6, 0.01])
def test_those_of_one_event_share_a_request_however_exactly_they_agree(
    apart: float,
) -> None:
    batches, symbols = owning(*names(16)), names(16)
    phases = {
        symbol: (30.0, 15.0 * (place % 2) + place * apart)
        for place, symbol in enumerate(symbols)
    }
    assert batches.regroup(phases)
    assert together(batches) == {frozenset(symbols[::2]), frozenset(symbols[1::2])}


def test_a_phase_counts_within_its_period() -> None:
    batches = in_pairs(*"ABCD")
    assert batches.regroup(
        {"A": (30.0, 3_000.1), "B": (30.0, 5.0), "C": (30.0, 29.9), "D": (30.0, 65.3)}
    )
    assert together(batches) == sets("AC", "BD")


def test_symbols_of_another_period_have_a_request_of_their_own() -> None:
    batches = in_pairs(*"ABCD")
    assert batches.regroup(rhythms((30, 5, "AC"), (60, 5, "BD")))
    assert together(batches) == sets("AC", "BD")


def test_periods_that_are_nearly_the_same_are_one() -> None:
    batches = in_pairs(*"ABCD")
    assert batches.regroup(
        {"A": (30.0, 5.0), "B": (30.5, 20.0), "C": (30.4, 5.1), "D": (29.8, 20.1)}
    )
    assert together(batches) == sets("AC", "BD")


def test_a_symbol_without_a_rhythm_does_not_part_those_that_have_one() -> None:
    batches = in_pairs(*"ABCDEF")
    assert batches.regroup(rhythms((30, 5, "AF"), (30, 20, "BE")))
    assert together(batches) == sets("AF", "BE", "CD")
    assert packed(batches)[-1] == ("C", "D")


@pytest.mark.parametrize("known", [{}, {"A": (30.0, 5.0)}])
def test_where_no_rhythm_is_known_nothing_changes(
    known: dict[str, tuple[float, float]],
) -> None:
    batches = in_pairs(*"ABCD")
    assert not batches.regroup(known)
    assert packed(batches) == [("A", "B"), ("C", "D")]


def test_packing_again_changes_nothing() -> None:
    batches = in_pairs(*"ABCDEF")
    known = rhythms((30, 5, "AF"), (30, 15, "BE"), (30, 25, "CD"))
    assert batches.regroup(known)
    before = packed(batches)
    assert not batches.regroup(known)
    assert packed(batches) == before


def test_without_a_clear_gain_nothing_changes() -> None:
    """The second and the third are nearly as far from each other's neighbour as from their own."""
    batches = in_pairs(*"ABCD")
    assert not batches.regroup(
        {"A": (30.0, 5.0), "C": (30.0, 8.0), "B": (30.0, 8.2), "D": (30.0, 11.2)}
    )
    assert packed(batches) == [("A", "B"), ("C", "D")]


@quick
@given(
    st.lists(st.floats(0, 29), min_size=6, max_size=6),
    st.lists(st.floats(-0.02, 0.02), min_size=6, max_size=6),
)
def test_a_little_noise_does_not_bring_the_old_packing_back(
    phases: list[float], noise: list[float]
) -> None:
    batches, symbols = in_pairs(*"ABCDEF"), "ABCDEF"
    batches.regroup(
        {symbol: (30.0, at) for symbol, at in zip(symbols, phases, strict=True)}
    )
    noisy = {
        symbol: (30.0, at + moved + 0.5)
        for symbol, at, moved in zip(symbols, phases, noise, strict=True)
    }
    batches.regroup(noisy)
    settled = packed(batches)
    assert not batches.regroup(noisy)
    assert packed(batches) == settled
    assert sorted(symbol for group in settled for symbol in group) == list(symbols)


def test_one_request_needs_no_order() -> None:
    batches = owning(*names(8))
    assert not batches.regroup(
        {name: (30.0, float(-place)) for place, name in enumerate(names(8))}
    )
    assert packed(batches) == [tuple(names(8))]


def test_suspects_and_the_refused_stay_where_they_are() -> None:
    batches = in_pairs(*"ABCDEFGH")
    batches.refused(("A", "B"))
    batches.refused(("A",))
    batches.refused(("C", "D"))
    before = packed(batches)
    assert before[2:] == [("B",), ("C",), ("D",), ("A",)]
    assert batches.regroup(rhythms((30, 5, "EH"), (30, 20, "FGABCD")))
    assert packed(batches)[2:] == before[2:]
    assert together(batches) == sets("EH", "FG", "A", "B", "C", "D")
    assert [batch.symbols for batch in batches.all() if batch.refused] == [("A",)]


def test_who_comes_later_or_back_is_packed_by_the_same_order() -> None:
    batches = in_pairs(*"ABCD")
    assert batches.regroup(rhythms((30, 5, "AD"), (30, 20, "BC")))
    batches.refused(("D",))
    batches.answered(("D",))
    assert together(batches) == sets("AD", "BC")
    batches.own("ABCDE")
    assert together(batches) == sets("AD", "BC", "E")


@quick
@given(
    st.dictionaries(
        st.sampled_from(names(20)), st.tuples(st.floats(0.5, 600), st.floats(-1e4, 1e6))
    ),
    st.data(),
)
def test_whatever_the_rhythms_are_everyone_is_asked_for_once(
    known: dict[str, tuple[float, float]], data: st.DataObject
) -> None:
    batches = owning(*data.draw(st.sets(st.sampled_from(names(20)), min_size=1)))
    owned = sorted(symbol for symbols in packed(batches) for symbol in symbols)
    count = len(packed(batches))
    changed = batches.regroup(known)
    assert sorted(symbol for symbols in packed(batches) for symbol in symbols) == owned
    assert len(packed(batches)) == count
    assert not (changed and batches.regroup(known))
