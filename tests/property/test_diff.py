"""The difference between two entries, for every pair of entries."""

from __future__ import annotations

import json
import math
import struct
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from connector.core.diff import Difference, Rules, Threshold, compare
from connector.core.entry import decode_entry
from connector.core.model import LevelChange, Levels, Ranked, Row, State, Status
from connector.core.transition import FeedRules, observe
from connector.kafka.avro import Codec, SingleObject
from tests.support.levels import (
    FIELDS,
    LISTS,
    ME,
    NOW,
    NUMBERS,
    SECOND,
    any_levels,
    at,
    changed,
    encoded,
    number,
    prices,
    rows,
    seen,
    what_counts,
)
from tests.support.profiles import cases

PATHS = [*NUMBERS, *LISTS]
ALL = Rules()
CODEC = Codec(SingleObject())

# The bounds of the integers that a float holds exactly.
MAX_EXACT_INTEGER = 2**53

# The smallest change of 100 that matters here; a threshold of zero must notice it.
ABOVE_100 = 100.0 + 2**-40

quick = cases(150)
finite = st.floats(allow_nan=False, allow_infinity=False)

# Both single paths and whole sections can be ignored.
ignorable = st.sampled_from([*PATHS, *FIELDS, "ranked"])
ignored = st.frozensets(ignorable, max_size=4)


small_steps = st.lists(st.floats(-1, 1), min_size=1, max_size=40)


def apply(
    before: Levels | None, difference: Difference, after: Levels | None
) -> Levels:
    """Return `before` with the changed numbers, and the changed lists of `after`."""
    result = before or Levels()
    for change in difference.levels:
        assert number(result, change.path) == change.before
        result = at(change.path, change.after, result)
    for path in difference.lists:
        result = at(path, rows(after or Levels(), path), result)
    return result


def paths_of(difference: Difference) -> set[str]:
    """Return every path that the difference names."""
    paths = set(difference.lists)
    for change in difference.levels:
        paths.add(change.path)
    return paths


def with_value(path: str) -> Levels:
    """Return levels with a value at one path only."""
    if path in NUMBERS:
        return at(path, 1.0)
    return at(path, (Row(1.0, "1"),))


def through_avro(levels: Levels) -> Levels:
    """Return the levels as restored from the topic."""
    state = State("f", "S", 1, Status.LIVE, None, 0, "", ME, levels=levels)
    restored = CODEC.decode_state(CODEC.encode_state("t", state)).levels
    assert restored is not None
    return restored


@quick
@given(any_levels | st.none(), any_levels | st.none(), ignored)
def test_the_difference_applied_to_before_gives_after_in_everything_that_counts(
    before: Levels | None, after: Levels | None, ignore: frozenset[str]
) -> None:
    difference = compare(before, after, Rules.of(ignore))

    applied = apply(before, difference, after)
    assert what_counts(applied, ignore) == what_counts(after, ignore)


@quick
@given(any_levels, any_levels, ignored)
def test_every_path_that_differs_and_counts_is_named_once(
    before: Levels, after: Levels, ignore: frozenset[str]
) -> None:
    difference = compare(before, after, Rules.of(ignore))

    old = what_counts(before, ignore)
    new = what_counts(after, ignore)
    differing = set()
    for path, value in old.items():
        if value != new[path]:
            differing.add(path)
    assert paths_of(difference) == differing
    assert len(difference.levels) + len(difference.lists) == len(differing)
    assert bool(difference) == bool(differing)


@quick
@given(any_levels, ignored)
def test_equal_entries_do_not_differ(levels: Levels, ignore: frozenset[str]) -> None:
    copy = through_avro(levels)

    assert copy is not levels
    assert not compare(levels, copy, Rules.of(ignore))


@quick
@given(any_levels, any_levels)
def test_the_difference_does_not_depend_on_the_direction(
    one: Levels, other: Levels
) -> None:
    forward = compare(one, other, ALL)
    backward = compare(other, one, ALL)

    assert forward.lists == backward.lists
    reversed_levels = []
    for change in backward.levels:
        reversed_change = LevelChange(change.path, change.after, change.before)
        reversed_levels.append(reversed_change)
    assert list(forward.levels) == reversed_levels


@quick
@given(any_levels, any_levels)
def test_undocumented_fields_never_count(levels: Levels, other: Levels) -> None:
    for extra in (None, '{"x":1}', other.extra):
        with_extra = changed(levels, {"extra": extra})
        assert not compare(levels, with_extra, ALL)


# Entries with few keys, known and unknown, so that most of them occur in every example.
row = st.dictionaries(st.sampled_from(["strike", "a", "b"]), st.integers(0, 3))
all_expiry = st.dictionaries(
    st.sampled_from([*FIELDS["all_expiry"], "new"]), st.integers(0, 9)
)
row_lists = st.lists(row, max_size=2)
ranked = st.fixed_dictionaries({"odte_top_10": row_lists})
entries = st.fixed_dictionaries(
    {
        "all_expiry": all_expiry,
        "ranked": ranked,
        "zones": row_lists,
        "unknown": row,
    }
)


@quick
@given(st.data(), entries)
def test_the_order_of_keys_never_matters(
    data: st.DataObject, entry: dict[str, Any]
) -> None:
    def shuffled(value: Any) -> Any:
        """Copy the value with the keys of every object in another order."""
        if isinstance(value, list):
            return list(map(shuffled, value))
        if not isinstance(value, dict):
            return value
        copy = {}
        for key in data.draw(st.permutations(sorted(value))):
            copy[key] = shuffled(value[key])
        return copy

    one = decode_entry(encoded(entry), NOW).levels
    other = decode_entry(encoded(shuffled(entry)), NOW).levels

    assert one == other
    assert not compare(one, other, ALL)


@pytest.mark.parametrize("path", NUMBERS)
def test_every_number_counts_by_itself(path: str) -> None:
    difference = compare(at(path, 1.0), at(path, 2.0), ALL)

    assert difference.levels == (LevelChange(path, 1.0, 2.0),)


@pytest.mark.parametrize("path", LISTS)
def test_every_list_counts_by_itself(path: str) -> None:
    before = at(path, (Row(1.0, "1"),))
    after = at(path, (Row(2.0, "2"),))

    assert compare(before, after, ALL) == Difference((), (path,))


class TestThresholds:
    # Limits that no pair of ordinary numbers exceeds.
    huge = st.none() | st.just(1e300)

    @quick
    @given(st.sampled_from(NUMBERS), finite, st.builds(Threshold, huge, huge))
    def test_null_against_a_number_always_counts(
        self, path: str, value: float, threshold: Threshold
    ) -> None:
        rules = Rules.of(thresholds={path: threshold})
        null = at(path, None)
        with_number = at(path, value)

        assert paths_of(compare(null, with_number, rules)) == {path}
        assert paths_of(compare(with_number, null, rules)) == {path}
        assert paths_of(compare(None, with_number, rules)) == {path}
        assert paths_of(compare(with_number, None, rules)) == {path}

    @pytest.mark.parametrize(
        ("before", "after", "threshold", "counts"),
        [
            # A distance equal to the absolute limit does not count, in either direction.
            (100.0, 105.0, Threshold(absolute=5), False),
            (100.0, 105.25, Threshold(absolute=5), True),
            (100.0, 95.0, Threshold(absolute=5), False),
            (100.0, 94.75, Threshold(absolute=5), True),
            # The relative limit is a part of the size of the number before.
            (100.0, 125.0, Threshold(relative=0.25), False),
            (100.0, 125.5, Threshold(relative=0.25), True),
            (-100.0, -125.0, Threshold(relative=0.25), False),
            (-100.0, -125.5, Threshold(relative=0.25), True),
            (100.0, 74.5, Threshold(relative=0.25), True),
            # Every change from zero is infinitely large in relative terms.
            (0.0, 1e-300, Threshold(relative=0.25), True),
            (-0.0, -1e-300, Threshold(relative=0.25), True),
            (0.0, 5.0, Threshold(absolute=5), False),
            (0.0, 1e-300, Threshold(absolute=5), False),
            (0.0, 1e-300, Threshold(absolute=5, relative=0.25), True),
            # With two limits, either is enough.
            (100.0, 104.0, Threshold(absolute=5, relative=0.03), True),
            (100.0, 104.0, Threshold(absolute=3, relative=0.05), True),
            (100.0, 104.0, Threshold(absolute=5, relative=0.05), False),
            # Without a limit, or with one of zero, every change counts.
            (100.0, ABOVE_100, Threshold(), True),
            (100.0, ABOVE_100, Threshold(absolute=0), True),
            (100.0, ABOVE_100, Threshold(relative=0), True),
            # The distance overflows to infinity.
            (1e308, -1e308, Threshold(absolute=1e308), True),
            # Both zeros are the same number.
            (0.0, -0.0, Threshold(), False),
        ],
    )
    def test_exceeding_either_limit_counts(
        self, before: float, after: float, threshold: Threshold, counts: bool
    ) -> None:
        for path in NUMBERS:
            rules = Rules.of(thresholds={path: threshold})
            difference = compare(at(path, before), at(path, after), rules)
            assert bool(difference) == counts

    @quick
    @given(finite, finite, st.floats(0, 1e6), st.floats(0, 2))
    def test_hold_for_all_numbers(
        self, before: float, after: float, absolute: float, relative: float
    ) -> None:
        def counts(path: str, threshold: Threshold) -> bool:
            rules = Rules.of(thresholds={path: threshold})
            old = at("odte.hvl", before)
            new = at("odte.hvl", after)
            return bool(compare(old, new, rules))

        distance = abs(after - before)
        differs = before != after
        exceeds_absolute = differs and distance > absolute
        exceeds_relative = differs and (
            before == 0 or distance > relative * abs(before)
        )
        both = Threshold(absolute=absolute, relative=relative)

        assert counts("odte.hvl", Threshold(absolute=absolute)) == exceeds_absolute
        assert counts("odte", Threshold(relative=relative)) == exceeds_relative
        assert counts("odte.hvl", both) == (exceeds_absolute or exceeds_relative)

    def test_of_a_path_take_precedence_over_those_of_its_section(self) -> None:
        rules = Rules.of(
            thresholds={
                "odte": Threshold(absolute=10),
                "odte.hvl": Threshold(absolute=1),
            }
        )

        def counts(path: str, distance: float) -> bool:
            before = at(path, 0.0)
            after = at(path, distance)
            return bool(compare(before, after, rules))

        assert counts("odte.hvl", 5.0)
        assert not counts("odte.put_support", 5.0)
        assert counts("all_expiry.hvl", 0.5)


@pytest.mark.parametrize("path", PATHS)
def test_paths_ignored_by_themselves_or_by_their_section_never_count(path: str) -> None:
    section, _, _ = path.partition(".")
    levels = with_value(path)
    for ignore in ({path}, {section}):
        # A threshold does not make an ignored path count.
        for thresholds in ({}, {path: Threshold(absolute=0)}):
            rules = Rules.of(ignore, thresholds)
            assert not compare(Levels(), levels, rules)
            assert not compare(levels, None, rules.exact())

    for other in PATHS:
        if other.partition(".")[0] != section:
            assert compare(Levels(), with_value(other), Rules.of({section}))


# Rows of ranked lists: the strike, if it can be read, and the JSON of the whole row.
ONE_A = Row(1.0, "a")
ONE_C = Row(1.0, "c")
TWO_B = Row(2.0, "b")
TWO_D = Row(2.0, "d")
NULL_A = Row(None, "a")
NULL_B = Row(None, "b")


@pytest.mark.parametrize(
    ("before", "after", "differs"),
    [
        pytest.param((ONE_A, TWO_B), (ONE_C, TWO_D), False, id="same_strikes"),
        pytest.param((ONE_A, TWO_B), (TWO_B, ONE_A), True, id="other_order"),
        pytest.param((ONE_A, TWO_B), (ONE_A,), True, id="row_removed"),
        pytest.param((ONE_A, NULL_B), (ONE_A, NULL_B), False, id="same_rows"),
        pytest.param((ONE_A, NULL_B), (ONE_C, NULL_B), True, id="null_among_strikes"),
        pytest.param((ONE_A,), (NULL_A,), True, id="strike_becomes_null"),
        pytest.param((NULL_A,), (NULL_B,), True, id="other_row_without_strike"),
        pytest.param((), (), False, id="both_empty"),
        pytest.param((), None, True, id="empty_becomes_null"),
        pytest.param(None, (), True, id="null_becomes_empty"),
        pytest.param(None, (ONE_A,), True, id="null_becomes_a_list"),
        pytest.param(None, None, False, id="both_null"),
    ],
)
def test_ranked_lists_are_compared_by_their_strikes_if_every_row_has_one(
    before: tuple[Row, ...] | None, after: tuple[Row, ...] | None, differs: bool
) -> None:
    for name in Ranked.__struct_fields__:
        path = f"ranked.{name}"
        difference = compare(at(path, before), at(path, after), ALL)
        if differs:
            assert difference.lists == (path,)
        else:
            assert difference.lists == ()


def test_zones_are_compared_by_complete_rows() -> None:
    before = at("zones", (Row(1.0, "a"),))
    after = at("zones", (Row(1.0, "b"),))

    assert compare(before, after, ALL).lists == ("zones",)


@quick
@given(small_steps)
def test_drift_below_the_threshold_adds_up_until_it_is_published(
    steps: list[float],
) -> None:
    # No single step exceeds the threshold.
    rules = Rules.of(thresholds={"odte.hvl": Threshold(absolute=1)})
    feed = FeedRules("f", rules=rules)
    value = published = 1000.0
    state = observe(None, seen(at("odte.hvl", value)), feed).state
    for count, step in enumerate(steps, 1):
        value += step
        observation = seen(at("odte.hvl", value), NOW + count * SECOND)
        transition = observe(state, observation, feed)

        event = transition.event
        assert (event is not None) == (abs(value - published) > 1)
        if event is not None:
            change = LevelChange("odte.hvl", published, value)
            assert event.changed_levels == (change,)
            published = value

        state = transition.state or state
        assert state is not None
        assert state.last_published is not None
        assert state.last_published.odte.hvl == published
        assert state.levels is not None
        assert state.levels.odte.hvl == value


def bits(value: float | None) -> bytes:
    """Return the bytes of a number, which tell 0.0 from -0.0."""
    assert value is not None
    return struct.pack(">d", value)


@cases(500)
@given(finite, finite)
@example(-0.0, 5e-324)
@example(math.nextafter(math.inf, 0), 2.0**53 + 1)
def test_every_finite_number_survives_json_and_avro_to_the_bit(
    one: float, other: float
) -> None:
    entry = {"spot_price": one, "odte": {"hvl": other}, "zones": [{"strike": one}]}
    levels = decode_entry(json.dumps(entry).encode(), NOW).levels
    restored = through_avro(levels)

    assert restored == levels
    for copy in (levels, restored):
        assert bits(copy.spot_price) == bits(one)
        assert bits(copy.odte.hvl) == bits(other)
        assert copy.zones is not None
        (zone,) = copy.zones
        assert bits(zone.strike) == bits(one)
        assert bits(json.loads(zone.json)["strike"]) == bits(one)


@quick
@given(st.integers(-MAX_EXACT_INTEGER, MAX_EXACT_INTEGER))
def test_an_integer_becomes_the_same_number(value: int) -> None:
    spot_price = decode_entry(encoded({"spot_price": value}), NOW).levels.spot_price

    assert isinstance(spot_price, float)
    assert spot_price == value


@pytest.mark.parametrize(
    "value",
    [
        MAX_EXACT_INTEGER + 1,
        -MAX_EXACT_INTEGER - 1,
        # Decoders that store 64 bits fail at these.
        2**63,
        2**64 - 1,
        2**64,
        10**30,
    ],
)
def test_a_larger_integer_becomes_the_nearest_float(value: int) -> None:
    levels = decode_entry(encoded({"spot_price": value}), NOW).levels

    assert levels.spot_price == float(value)


@quick
@given(prices)
def test_a_number_never_differs_from_itself(value: float | None) -> None:
    before = at("max_pain.value", value)
    after = at("max_pain.value", value)

    assert not compare(before, after, ALL)
