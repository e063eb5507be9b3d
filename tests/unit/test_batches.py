"""The batches of a feed: the symbols that share a request."""

from __future__ import annotations

from math import ceil
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from connector.schedule.batches import MAX_SYMBOLS, Batches
from tests.support.profiles import cases

if TYPE_CHECKING:
    from collections.abc import Collection

quick = cases(200)

# The period of each symbol and a moment at which it is refreshed, in seconds.
Rhythms = dict[str, tuple[float, float]]


def packed(batches: Batches) -> list[tuple[str, ...]]:
    return [batch.symbols for batch in batches.all()]


def requested(batches: Batches) -> list[str]:
    """Return the symbols of all batches, in order."""
    symbols: list[str] = []
    for batch in batches.all():
        symbols.extend(batch.symbols)
    return sorted(symbols)


def refused_alone(batches: Batches) -> list[tuple[str, ...]]:
    return [batch.symbols for batch in batches.all() if batch.refused]


def owning(*symbols: str) -> Batches:
    batches = Batches("f")
    batches.own(symbols)
    return batches


def names(count: int) -> list[str]:
    return [f"S{number:02d}" for number in range(count)]


any_symbols = st.sets(st.sampled_from(names(20)))
some_symbols = st.sets(st.sampled_from(names(20)), min_size=1)


def request_all(batches: Batches, culprits: Collection[str]) -> list[tuple[str, ...]]:
    """Request every batch once. The upstream refuses a request with a culprit."""
    asked = packed(batches)
    for symbols in asked:
        if set(symbols) & set(culprits):
            batches.refused(symbols)
        else:
            batches.answered(symbols)
    return asked


# --- packing ---


@pytest.mark.parametrize(
    ("count", "sizes"),
    [
        (0, []),
        (1, [1]),
        (8, [8]),
        (9, [8, 1]),
        (80, [8] * 10),
    ],
)
def test_symbols_are_packed_into_as_few_requests_as_possible(
    count: int, sizes: list[int]
) -> None:
    batches = owning(*names(count))
    assert MAX_SYMBOLS == 8
    assert [len(symbols) for symbols in packed(batches)] == sizes


def test_the_packing_depends_only_on_the_symbols() -> None:
    symbols = names(20)
    ordered = owning(*symbols)
    reverse = owning(*reversed(symbols))
    assert packed(ordered) == packed(reverse)


# --- refused symbols ---


def test_a_refused_batch_is_halved_until_the_culprit_is_alone() -> None:
    batches = owning(*names(8))
    asked = [request_all(batches, ["S05"]) for _ in range(4)]
    assert asked[0] == [tuple(names(8))]
    assert asked[1] == [("S00", "S01", "S02", "S03"), ("S04", "S05", "S06", "S07")]
    assert ("S05",) in asked[3]
    assert refused_alone(batches) == [("S05",)]


def test_healthy_symbols_are_packed_together_again() -> None:
    batches = owning(*names(8))
    for _ in range(4):
        request_all(batches, ["S05"])
    healthy = names(8)
    healthy.remove("S05")
    assert packed(batches) == [tuple(healthy), ("S05",)]


def test_a_culprit_that_is_answered_is_packed_with_the_others_again() -> None:
    batches = owning(*names(4))
    for _ in range(4):
        request_all(batches, ["S01"])
    request_all(batches, [])
    assert packed(batches) == [tuple(names(4))]
    assert not any(batch.refused for batch in batches.all())


def test_a_single_refused_symbol_is_a_culprit_at_once() -> None:
    batches = owning("A")
    batches.refused(("A",))
    batches.refused(("A",))
    (only,) = batches.all()
    assert only.symbols == ("A",)
    assert only.refused


@quick
@given(some_symbols, any_symbols)
def test_every_culprit_is_found_and_no_symbol_is_lost_on_the_way(
    owned: set[str], culprits: set[str]
) -> None:
    batches = owning(*owned)
    # Three halvings part eight symbols. More rounds change nothing.
    for _ in range(6):
        asked: list[str] = []
        for symbols in request_all(batches, culprits):
            assert 0 < len(symbols) <= 8
            asked.extend(symbols)
        assert sorted(asked) == sorted(owned)

    found = refused_alone(batches)
    expected = [(culprit,) for culprit in sorted(culprits & owned)]
    assert sorted(found) == expected

    # The others are packed into as few batches as possible.
    healthy_batches = len(batches.all()) - len(found)
    assert healthy_batches == ceil(len(owned - culprits) / 8)


@quick
@given(st.data())
def test_each_owned_symbol_is_in_exactly_one_batch_whatever_happens(
    data: st.DataObject,
) -> None:
    batches = Batches("f")
    owned: set[str] = set()
    in_flight: list[tuple[str, ...]] = []
    for _ in range(data.draw(st.integers(1, 15))):
        if not in_flight or data.draw(st.booleans()):
            owned = data.draw(st.sets(st.sampled_from(names(12))))
            batches.own(owned)
        else:
            # A request may end after its symbols have moved to other batches.
            ended = data.draw(st.sampled_from(in_flight))
            endings = st.sampled_from([batches.answered, batches.refused])
            end = data.draw(endings)
            end(ended)
        in_flight += packed(batches)

        assert requested(batches) == sorted(owned)
        for batch in batches.all():
            most = 1 if batch.refused else 8
            assert 0 < len(batch.symbols) <= most


def test_a_symbol_given_up_during_its_request_is_not_requested_again() -> None:
    for end in ("answered", "refused"):
        batches = owning("A", "B", "C")
        batches.own(["A", "C"])
        getattr(batches, end)(("A", "B", "C"))
        assert requested(batches) == ["A", "C"]


# --- regrouping ---


def rhythms(**refreshed_at: float) -> Rhythms:
    """Return the rhythms of groups with a period of 30 s. Each letter is a symbol.

    The refreshes of a group lie 10 ms apart.
    """
    made = {}
    for group, at in refreshed_at.items():
        for place, symbol in enumerate(group):
            made[symbol] = (30.0, at + place / 100)
    return made


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
    assert batches.regroup(rhythms(AF=5, BE=15, CD=25))
    assert together(batches) == sets("AF", "BE", "CD")


@pytest.mark.parametrize("apart", [0.0, 1e-6, 0.01])
def test_symbols_of_one_event_share_a_request_however_closely_they_agree(
    apart: float,
) -> None:
    symbols = names(16)
    first_event = symbols[::2]
    second_event = symbols[1::2]
    batches = owning(*symbols)
    # The events are half a period apart.
    known = {}
    for event_at, event in ((0.0, first_event), (15.0, second_event)):
        for symbol in event:
            known[symbol] = (30.0, event_at + symbols.index(symbol) * apart)
    assert batches.regroup(known)
    assert together(batches) == {frozenset(first_event), frozenset(second_event)}


def test_a_phase_counts_within_its_period() -> None:
    batches = in_pairs(*"ABCD")
    known = {
        "A": (30.0, 3_000.1),
        "B": (30.0, 5.0),
        "C": (30.0, 29.9),
        "D": (30.0, 65.3),
    }
    assert batches.regroup(known)
    assert together(batches) == sets("AC", "BD")


def test_symbols_with_different_periods_do_not_share_a_request() -> None:
    batches = in_pairs(*"ABCD")
    known = {
        "A": (30.0, 5.0),
        "B": (60.0, 5.0),
        "C": (30.0, 5.01),
        "D": (60.0, 5.01),
    }
    assert batches.regroup(known)
    assert together(batches) == sets("AC", "BD")


def test_nearly_equal_periods_count_as_the_same() -> None:
    batches = in_pairs(*"ABCD")
    known = {
        "A": (30.0, 5.0),
        "B": (30.5, 20.0),
        "C": (30.4, 5.1),
        "D": (29.8, 20.1),
    }
    assert batches.regroup(known)
    assert together(batches) == sets("AC", "BD")


def test_a_symbol_without_a_rhythm_does_not_separate_those_that_have_one() -> None:
    batches = in_pairs(*"ABCDEF")
    assert batches.regroup(rhythms(AF=5, BE=20))
    assert together(batches) == sets("AF", "BE", "CD")
    assert packed(batches)[-1] == ("C", "D")


@pytest.mark.parametrize("known", [{}, {"A": (30.0, 5.0)}])
def test_without_known_rhythms_nothing_changes(known: Rhythms) -> None:
    batches = in_pairs(*"ABCD")
    assert not batches.regroup(known)
    assert packed(batches) == [("A", "B"), ("C", "D")]


def test_a_second_regrouping_changes_nothing() -> None:
    batches = in_pairs(*"ABCDEF")
    known = rhythms(AF=5, BE=15, CD=25)
    assert batches.regroup(known)
    before = packed(batches)
    assert not batches.regroup(known)
    assert packed(batches) == before


def test_without_a_clear_gain_nothing_changes() -> None:
    """A to D are refreshed at 5, 8.2, 8 and 11.2 s: B and C fit either neighbour."""
    batches = in_pairs(*"ABCD")
    known = {
        "A": (30.0, 5.0),
        "B": (30.0, 8.2),
        "C": (30.0, 8.0),
        "D": (30.0, 11.2),
    }
    assert not batches.regroup(known)
    assert packed(batches) == [("A", "B"), ("C", "D")]


@quick
@given(
    st.lists(st.floats(0, 29), min_size=6, max_size=6),
    st.lists(st.floats(-0.02, 0.02), min_size=6, max_size=6),
)
def test_a_little_noise_does_not_bring_the_old_packing_back(
    phases: list[float], noise: list[float]
) -> None:
    symbols = "ABCDEF"
    batches = in_pairs(*symbols)
    exact = {}
    noisy = {}
    for symbol, at, moved in zip(symbols, phases, noise, strict=True):
        exact[symbol] = (30.0, at)
        noisy[symbol] = (30.0, at + moved + 0.5)
    batches.regroup(exact)
    batches.regroup(noisy)
    settled = packed(batches)

    assert not batches.regroup(noisy)
    assert packed(batches) == settled
    assert requested(batches) == list(symbols)


def test_a_single_batch_is_not_regrouped() -> None:
    batches = owning(*names(8))
    known = {}
    for place, name in enumerate(names(8)):
        known[name] = (30.0, float(-place))
    assert not batches.regroup(known)
    assert packed(batches) == [tuple(names(8))]


def test_suspects_and_refused_symbols_keep_their_batches() -> None:
    batches = in_pairs(*"ABCDEFGH")
    batches.refused(("A", "B"))
    batches.refused(("A",))
    batches.refused(("C", "D"))
    before = packed(batches)
    assert before[2:] == [("B",), ("C",), ("D",), ("A",)]
    assert batches.regroup(rhythms(EH=5, FGABCD=20))
    assert packed(batches)[2:] == before[2:]
    assert together(batches) == sets("EH", "FG", "A", "B", "C", "D")
    assert refused_alone(batches) == [("A",)]


def test_new_and_returning_symbols_are_packed_in_the_same_order() -> None:
    batches = in_pairs(*"ABCD")
    assert batches.regroup(rhythms(AD=5, BC=20))
    batches.refused(("D",))
    batches.answered(("D",))
    assert together(batches) == sets("AD", "BC")
    batches.own("ABCDE")
    assert together(batches) == sets("AD", "BC", "E")


any_rhythm = st.tuples(st.floats(0.5, 600), st.floats(-1e4, 1e6))


@quick
@given(some_symbols, st.dictionaries(st.sampled_from(names(20)), any_rhythm))
def test_regrouping_keeps_every_symbol_and_the_number_of_batches(
    owned: set[str], known: Rhythms
) -> None:
    batches = owning(*owned)
    count = len(packed(batches))
    is_changed = batches.regroup(known)
    assert requested(batches) == sorted(owned)
    assert len(packed(batches)) == count

    # A second regrouping changes nothing.
    if is_changed:
        assert not batches.regroup(known)
