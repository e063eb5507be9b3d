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
from connector.core.model import (
    LevelChange,
    Levels,
    Ranked,
    RankedRow,
    Row,
    State,
    Status,
)
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

# The first observation of a symbol has nothing before it, an absence has nothing after it.
levels_or_none = any_levels | st.none()


def apply(
    before: Levels | None, difference: Difference, after: Levels | None
) -> Levels:
    """Return `before` with the changed numbers, and the changed lists of `after`."""
    result = before or Levels()
    for change in difference.levels:
        assert number(result, change.path) == change.before
        result = at(change.path, change.after, result)

    # An event names a changed list; a consumer finds the rows in `after`.
    source = after or Levels()
    for path in difference.lists:
        new_rows = rows(source, path)
        result = at(path, new_rows, result)
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
    return at(path, (row_with_strike(path, 1.0),))


def row_with_strike(path: str, strike: float) -> RankedRow | Row:
    """Return a row of the type that a list holds."""
    if path == "zones":
        return Row(strike, str(strike))
    return RankedRow(strike=strike)


def with_hvl(value: float) -> Levels:
    """Return levels whose only value is that of `odte.hvl`."""
    return at("odte.hvl", value)


def compare_values(
    path: str, before: object, after: object, rules: Rules = ALL
) -> Difference:
    """Compare two entries that have a value at one path only."""
    return compare(at(path, before), at(path, after), rules)


def through_avro(levels: Levels) -> Levels:
    """Return the levels as restored from the topic."""
    state = State(
        feed="f",
        symbol="S",
        sequence=1,
        status=Status.LIVE,
        computed_at=None,
        observed_at=0,
        request_fingerprint="",
        source=ME,
        levels=levels,
    )
    encoded_state = CODEC.encode_state("t", state)
    restored = CODEC.decode_state(encoded_state).levels
    assert restored is not None
    return restored


@quick
@given(levels_or_none, levels_or_none, ignored)
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

    # The naive comparison: value by value, from the vendor's documentation.
    old = what_counts(before, ignore)
    new = what_counts(after, ignore)
    differing = set()
    for path, value in old.items():
        if value != new[path]:
            differing.add(path)
    assert paths_of(difference) == differing
    # Sets hide a path that is named twice.
    named = len(difference.levels) + len(difference.lists)
    assert named == len(differing)
    assert bool(difference) == bool(differing)


@quick
@given(any_levels, ignored)
def test_equal_entries_do_not_differ(levels: Levels, ignore: frozenset[str]) -> None:
    # After a restart, the last entry comes from the topic and the next one from the API.
    copy = through_avro(levels)

    assert copy is not levels
    assert not compare(levels, copy, Rules.of(ignore))


@quick
@given(any_levels, any_levels)
def test_the_difference_does_not_depend_on_the_direction(
    one: Levels, other: Levels
) -> None:
    # Without thresholds only: a relative limit refers to the number before.
    forward = compare(one, other, ALL)
    backward = compare(other, one, ALL)

    assert forward.lists == backward.lists
    reversed_levels = []
    for change in backward.levels:
        reversed_levels.append(
            LevelChange(change.path, before=change.after, after=change.before)
        )
    assert list(forward.levels) == reversed_levels


@quick
@given(any_levels, any_levels)
def test_undocumented_fields_never_count(levels: Levels, other: Levels) -> None:
    # The vendor may add a field that changes with every answer.
    for extra in (None, '{"x":1}', other.extra):
        with_extra = changed(levels, {"extra": extra})
        assert not compare(levels, with_extra, ALL)


# Entries with few keys, known and unknown, so that most of them occur in every example.
row_keys = st.sampled_from(["strike", "a", "b"])
row = st.dictionaries(row_keys, st.integers(0, 3))
all_expiry_keys = st.sampled_from([*FIELDS["all_expiry"], "new"])
all_expiry = st.dictionaries(all_expiry_keys, st.integers(0, 9))
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
        # The order of a list counts, that of its rows' keys does not.
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
    difference = compare_values(path, 1.0, 2.0)

    change = LevelChange(path, before=1.0, after=2.0)
    assert difference.levels == (change,)


@pytest.mark.parametrize("path", LISTS)
def test_every_list_counts_by_itself(path: str) -> None:
    one_row = row_with_strike(path, 1.0)
    other_row = row_with_strike(path, 2.0)

    difference = compare_values(path, (one_row,), (other_row,))

    assert difference.levels == ()
    assert difference.lists == (path,)


class TestThresholds:
    # Limits that no pair of ordinary numbers exceeds.
    huge = st.none() | st.just(1e300)
    huge_thresholds = st.builds(Threshold, huge, huge)

    @quick
    @given(st.sampled_from(NUMBERS), finite, huge_thresholds)
    def test_null_against_a_number_always_counts(
        self, path: str, value: float, threshold: Threshold
    ) -> None:
        # A level that appears or disappears is news, however small the number is.
        rules = Rules.of(thresholds={path: threshold})
        null = at(path, None)
        with_number = at(path, value)

        appeared = compare(null, with_number, rules)
        disappeared = compare(with_number, null, rules)
        first_entry = compare(None, with_number, rules)
        no_entry = compare(with_number, None, rules)

        for difference in (appeared, disappeared, first_entry, no_entry):
            assert paths_of(difference) == {path}

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
            difference = compare_values(path, before, after, rules)
            assert bool(difference) == counts

    absolute_limits = st.floats(0, 1e6)
    relative_limits = st.floats(0, 2)

    @quick
    @given(finite, finite, absolute_limits, relative_limits)
    def test_hold_for_all_numbers(
        self, before: float, after: float, absolute: float, relative: float
    ) -> None:
        def counts(path: str, threshold: Threshold) -> bool:
            rules = Rules.of(thresholds={path: threshold})
            difference = compare(with_hvl(before), with_hvl(after), rules)
            return bool(difference)

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
            difference = compare_values(path, 0.0, distance, rules)
            return bool(difference)

        # The limits of the path, of its section, and none.
        assert counts("odte.hvl", 5.0)
        assert not counts("odte.put_support", 5.0)
        assert counts("all_expiry.hvl", 0.5)


@pytest.mark.parametrize("path", PATHS)
def test_paths_ignored_by_themselves_or_by_their_section_never_count(path: str) -> None:
    section, _, _ = path.partition(".")
    levels = with_value(path)
    zero = Threshold(absolute=0)
    for ignore in ({path}, {section}):
        # A threshold does not make an ignored path count.
        for thresholds in ({}, {path: zero}):
            rules = Rules.of(ignore, thresholds)
            assert not compare(Levels(), levels, rules)
            assert not compare(levels, None, rules.exact())

    # Other sections still count.
    rules = Rules.of({section})
    for other in PATHS:
        other_section, _, _ = other.partition(".")
        if other_section != section:
            assert compare(Levels(), with_value(other), rules)


@quick
@given(any_levels, st.sampled_from([None, "flow", "std"]))
def test_the_model_is_no_level(levels: Levels, model: str | None) -> None:
    # A change of the model is an event of its own, which the transition makes.
    other = changed(
        levels, {"positioning": model, "positioning_fallback_reason": "any"}
    )

    assert not compare(levels, other, ALL)


# Rows of ranked lists, by strike and exposure.
ONE_A = RankedRow(1, 1.0, 3.5, 3.5, '{"a":1}')
ONE_C = RankedRow(2, 1.0, 0.5, 0.5)
ONE_NEGATIVE = RankedRow(1, 1.0, -3.5, 3.5)
ONE_ZERO = RankedRow(1, 1.0, 0.0, 0.0)
ONE_MINUS_ZERO = RankedRow(1, 1.0, -0.0, 0.0)
ONE_WITHOUT_GEX = RankedRow(1, 1.0)
TWO_B = RankedRow(2, 2.0, -2.5, 2.5)
TWO_D = RankedRow(1, 2.0, -9.5, 9.5)
NULL_A = RankedRow(gex=3.5)
NULL_B = RankedRow(gex=0.5)


# The exposure of a row moves with every computation, so only its strike and its sign count. A
# strike that cannot be read could hide a change, so then the complete rows are compared.
SAME_LISTS = {
    "same_strikes": ([ONE_A, TWO_B], [ONE_C, TWO_D]),
    "same_rows": ([ONE_A, NULL_B], [ONE_A, NULL_B]),
    "both_empty": ([], []),
    "both_null": (None, None),
    "zeros_of_both_signs": ([ONE_ZERO], [ONE_MINUS_ZERO]),
    "no_exposures": ([ONE_WITHOUT_GEX], [ONE_WITHOUT_GEX]),
}
OTHER_LISTS = {
    # The order is the ranking.
    "other_order": ([ONE_A, TWO_B], [TWO_B, ONE_A]),
    "row_removed": ([ONE_A, TWO_B], [ONE_A]),
    "null_among_strikes": ([ONE_A, NULL_B], [ONE_C, NULL_B]),
    "strike_becomes_null": ([ONE_A], [NULL_A]),
    "other_row_without_strike": ([NULL_A], [NULL_B]),
    # An empty list is an answer, null is none.
    "empty_becomes_null": ([], None),
    "null_becomes_empty": (None, []),
    "null_becomes_a_list": (None, [ONE_A]),
    # The same strike may turn from a resistance into an accelerator.
    "other_sign": ([TWO_B, ONE_A], [TWO_B, ONE_NEGATIVE]),
    # Two steps through zero must not hide a change of the sign.
    "positive_becomes_zero": ([ONE_A], [ONE_ZERO]),
    "zero_becomes_negative": ([ONE_ZERO], [ONE_NEGATIVE]),
    "exposure_disappears": ([ONE_A], [ONE_WITHOUT_GEX]),
}

Rows = list[RankedRow] | None


def compare_ranked(path: str, before: Rows, after: Rows) -> Difference:
    """Compare two entries that have one ranked list only."""
    # Decoded lists are tuples.
    old = None if before is None else tuple(before)
    new = None if after is None else tuple(after)
    return compare_values(path, old, new)


@pytest.mark.parametrize(("before", "after"), SAME_LISTS.values(), ids=SAME_LISTS)
def test_ranked_lists_with_the_same_strikes_do_not_differ(
    before: Rows, after: Rows
) -> None:
    for name in Ranked.__struct_fields__:
        difference = compare_ranked(f"ranked.{name}", before, after)
        assert difference.lists == ()


@pytest.mark.parametrize(("before", "after"), OTHER_LISTS.values(), ids=OTHER_LISTS)
def test_ranked_lists_differ_by_a_strike_a_sign_or_a_row_without_a_strike(
    before: Rows, after: Rows
) -> None:
    for name in Ranked.__struct_fields__:
        path = f"ranked.{name}"
        difference = compare_ranked(path, before, after)
        assert difference.lists == (path,)


def test_zones_are_compared_by_complete_rows() -> None:
    one = Row(1.0, "a")
    other = Row(1.0, "c")

    difference = compare_values("zones", (one,), (other,))

    assert difference.lists == ("zones",)


# No single step exceeds a threshold of 1.
small_steps = st.floats(-1, 1)


@quick
@given(st.lists(small_steps, min_size=1, max_size=40))
def test_drift_below_the_threshold_adds_up_until_it_is_published(
    steps: list[float],
) -> None:
    threshold = Threshold(absolute=1)
    rules = Rules.of(thresholds={"odte.hvl": threshold})
    feed = FeedRules("f", rules=rules)
    value = published = 1000.0
    first = observe(None, seen(with_hvl(value)), feed)
    state = first.state
    for count, step in enumerate(steps, 1):
        value += step
        observation = seen(with_hvl(value), NOW + count * SECOND)
        transition = observe(state, observation, feed)

        # The distance from the published value decides, not that from the last one seen.
        event = transition.event
        exceeds = abs(value - published) > 1
        assert (event is not None) == exceeds
        if event is not None:
            change = LevelChange("odte.hvl", before=published, after=value)
            assert event.changed_levels == (change,)
            published = value

        # The state keeps both values.
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


# The smallest and the largest finite numbers greater than zero.
SMALLEST = 5e-324
LARGEST = math.nextafter(math.inf, 0)


@cases(500)
@given(finite, finite)
@example(-0.0, SMALLEST)
@example(LARGEST, MAX_EXACT_INTEGER + 1.0)
def test_every_finite_number_survives_json_and_avro_to_the_bit(
    one: float, other: float
) -> None:
    # A scalar, a field of a section, and a strike take different ways through the decoder.
    entry = {
        "spot_price": one,
        "odte": {"hvl": other},
        "zones": [{"strike": one}],
        "ranked": {"odte_top_10": [{"strike": one, "gex": other}]},
    }
    levels = decode_entry(encoded(entry), NOW).levels
    restored = through_avro(levels)

    assert restored == levels
    for copy in (levels, restored):
        assert bits(copy.spot_price) == bits(one)
        assert bits(copy.odte.hvl) == bits(other)
        assert copy.zones is not None
        (zone,) = copy.zones
        assert bits(zone.strike) == bits(one)
        assert copy.ranked.odte_top_10 is not None
        (ranked_row,) = copy.ranked.odte_top_10
        assert bits(ranked_row.strike) == bits(one)
        assert bits(ranked_row.gex) == bits(other)
        # A zone is published as its JSON.
        published = json.loads(zone.json)
        assert bits(published["strike"]) == bits(one)


@quick
@given(st.integers(-MAX_EXACT_INTEGER, MAX_EXACT_INTEGER))
def test_an_integer_becomes_the_same_number(value: int) -> None:
    levels = decode_entry(encoded({"spot_price": value}), NOW).levels

    # JSON does not tell 64250 from 64250.0, and Avro's schema says double.
    spot_price = levels.spot_price
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
    assert not compare_values("max_pain.value", value, value)
