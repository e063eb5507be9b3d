"""What differs between two entries, for every pair of them."""

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
quick = cases(150)
finite = st.floats(allow_nan=False, allow_infinity=False)
ignored = st.frozensets(st.sampled_from([*PATHS, *FIELDS, "ranked"]), max_size=4)


def apply(
    before: Levels | None, difference: Difference, after: Levels | None
) -> Levels:
    """`before` with every number of the difference, and every list that it names taken from `after`."""
    result = before or Levels()
    for change in difference.levels:
        assert number(result, change.path) == change.before
        result = at(change.path, change.after, result)
    for path in difference.lists:
        result = at(path, rows(after or Levels(), path), result)
    return result


def paths(difference: Difference) -> set[str]:
    return {change.path for change in difference.levels} | set(difference.lists)


@quick
@given(any_levels | st.none(), any_levels | st.none(), ignored)
def test_the_difference_applied_to_before_gives_after_in_everything_that_counts(
    before: Levels | None, after: Levels | None, ignore: frozenset[str]
) -> None:
    difference = compare(before, after, Rules.of(ignore))
    assert what_counts(apply(before, difference, after), ignore) == what_counts(
        after, ignore
    )


@quick
@given(any_levels, any_levels, ignored)
def test_exactly_what_differs_and_counts_is_named_once(
    before: Levels, after: Levels, ignore: frozenset[str]
) -> None:
    difference = compare(before, after, Rules.of(ignore))
    was, now = what_counts(before, ignore), what_counts(after, ignore)
    differing = {path for path in was if was[path] != now[path]}
    assert paths(difference) == differing
    assert len(difference.levels) + len(difference.lists) == len(differing)
    assert bool(difference) == bool(differing)


@quick
@given(any_levels, ignored)
def test_equal_entries_do_not_differ(levels: Levels, ignore: frozenset[str]) -> None:
    state = State("f", "S", 1, Status.LIVE, None, 0, "", ME, levels=levels)
    copy = CODEC.decode_state(CODEC.encode_state("t", state)).levels
    assert copy is not levels
    assert not compare(levels, copy, Rules.of(ignore))


@quick
@given(any_levels, any_levels)
def test_what_differs_does_not_depend_on_the_direction(
    one: Levels, other: Levels
) -> None:
    there, back = compare(one, other, ALL), compare(other, one, ALL)
    assert there.lists == back.lists
    assert [(c.path, c.before, c.after) for c in there.levels] == [
        (c.path, c.after, c.before) for c in back.levels
    ]


@quick
@given(any_levels, any_levels)
def test_what_nobody_documented_never_counts(levels: Levels, other: Levels) -> None:
    for extra in (None, '{"x":1}', other.extra):
        changed = Levels(
            **{
                **{f: getattr(levels, f) for f in levels.__struct_fields__},
                "extra": extra,
            }
        )
        assert not compare(levels, changed, ALL)


@quick
@given(st.data())
def test_the_order_of_keys_never_matters(data: st.DataObject) -> None:
    row = st.dictionaries(st.sampled_from(["strike", "a", "b"]), st.integers(0, 3))
    entry = data.draw(
        st.fixed_dictionaries(
            {
                "all_expiry": st.dictionaries(
                    st.sampled_from([*FIELDS["all_expiry"], "new"]), st.integers(0, 9)
                ),
                "ranked": st.fixed_dictionaries(
                    {"odte_top_10": st.lists(row, max_size=2)}
                ),
                "zones": st.lists(row, max_size=2),
                "unknown": row,
            }
        )
    )

    def shuffled(value: Any) -> Any:
        if isinstance(value, dict):
            return {
                key: shuffled(value[key])
                for key in data.draw(st.permutations(sorted(value)))
            }
        return [shuffled(item) for item in value] if isinstance(value, list) else value

    one, other = (
        decode_entry(encoded(form), NOW).levels for form in (entry, shuffled(entry))
    )
    assert one == other
    assert not compare(one, other, ALL)


@pytest.mark.parametrize("path", NUMBERS)
def test_every_number_counts_by_itself(path: str) -> None:
    assert compare(at(path, 1.0), at(path, 2.0), ALL).levels == (
        LevelChange(path, 1.0, 2.0),
    )


@pytest.mark.parametrize("path", LISTS)
def test_every_list_counts_by_itself(path: str) -> None:
    before, after = at(path, (Row(1.0, "1"),)), at(path, (Row(2.0, "2"),))
    assert compare(before, after, ALL) == Difference((), (path,))


@quick
@given(
    st.sampled_from(NUMBERS),
    finite,
    st.builds(Threshold, st.none() | st.just(1e300), st.none() | st.just(1e300)),
)
def test_null_against_a_number_always_counts(
    path: str, value: float, threshold: Threshold
) -> None:
    rules = Rules.of(thresholds={path: threshold})
    assert paths(compare(at(path, None), at(path, value), rules)) == {path}
    assert paths(compare(at(path, value), at(path, None), rules)) == {path}
    assert paths(compare(None, at(path, value), rules)) == {path}
    assert paths(compare(at(path, value), None, rules)) == {path}


@pytest.mark.parametrize(
    ("before", "after", "threshold", "counts"),
    [
        (100.0, 105.0, Threshold(absolute=5), False),
        (100.0, 105.25, Threshold(absolute=5), True),
        (100.0, 95.0, Threshold(absolute=5), False),
        (100.0, 94.75, Threshold(absolute=5), True),
        (100.0, 125.0, Threshold(relative=0.25), False),
        (100.0, 125.5, Threshold(relative=0.25), True),
        (-100.0, -125.0, Threshold(relative=0.25), False),
        (-100.0, -125.5, Threshold(relative=0.25), True),
        (100.0, 74.5, Threshold(relative=0.25), True),
        (0.0, 1e-300, Threshold(relative=0.25), True),
        (-0.0, -1e-300, Threshold(relative=0.25), True),
        (0.0, 5.0, Threshold(absolute=5), False),
        (0.0, 1e-300, Threshold(absolute=5), False),
        (0.0, 1e-300, Threshold(absolute=5, relative=0.25), True),
        (100.0, 104.0, Threshold(absolute=5, relative=0.03), True),
        (100.0, 104.0, Threshold(absolute=3, relative=0.05), True),
        (100.0, 104.0, Threshold(absolute=5, relative=0.05), False),
        (100.0, 100.0 + 2**-40, Threshold(), True),
        (100.0, 100.0 + 2**-40, Threshold(absolute=0), True),
        (100.0, 100.0 + 2**-40, Threshold(relative=0), True),
        (1e308, -1e308, Threshold(absolute=1e308), True),
        (0.0, -0.0, Threshold(), False),
    ],
)
def test_exceeding_either_threshold_counts(
    before: float, after: float, threshold: Threshold, counts: bool
) -> None:
    for path in NUMBERS:
        difference = compare(
            at(path, before), at(path, after), Rules.of(thresholds={path: threshold})
        )
        assert bool(difference) == counts


@quick
@given(finite, finite, st.floats(0, 1e6), st.floats(0, 2))
def test_a_threshold_is_held_for_all_numbers(
    before: float, after: float, absolute: float, relative: float
) -> None:
    levels = at("odte.hvl", before), at("odte.hvl", after)
    far = before != after and abs(after - before) > absolute
    assert (
        bool(
            compare(
                *levels, Rules.of(thresholds={"odte.hvl": Threshold(absolute=absolute)})
            )
        )
        == far
    )
    wide = before != after and (
        before == 0 or abs(after - before) > relative * abs(before)
    )
    assert (
        bool(
            compare(
                *levels, Rules.of(thresholds={"odte": Threshold(relative=relative)})
            )
        )
        == wide
    )
    both = Threshold(absolute=absolute, relative=relative)
    assert bool(compare(*levels, Rules.of(thresholds={"odte.hvl": both}))) == (
        far or wide
    )


def test_a_paths_threshold_wins_over_its_sections_and_leaves_the_others() -> None:
    rules = Rules.of(
        thresholds={"odte": Threshold(absolute=10), "odte.hvl": Threshold(absolute=1)}
    )
    assert compare(at("odte.hvl", 0.0), at("odte.hvl", 5.0), rules)
    assert not compare(at("odte.put_support", 0.0), at("odte.put_support", 5.0), rules)
    assert compare(at("all_expiry.hvl", 0.0), at("all_expiry.hvl", 0.5), rules)


@pytest.mark.parametrize("path", PATHS)
def test_what_is_ignored_by_path_or_section_never_counts(path: str) -> None:
    one: Any = 1.0 if path in NUMBERS else (Row(1.0, "1"),)
    section = path.split(".", maxsplit=1)[0]
    for ignore in ({path}, {section}):
        for rules in (
            Rules.of(ignore),
            Rules.of(ignore, {path: Threshold(absolute=0)}),
        ):
            assert not compare(Levels(), at(path, one), rules)
            assert not compare(at(path, one), None, rules.exact())
    for other in PATHS:
        if other.split(".")[0] != section:
            assert compare(
                Levels(),
                at(other, 1.0 if other in NUMBERS else (Row(1.0, "1"),)),
                Rules.of({section}),
            )


@pytest.mark.parametrize(
    ("before", "after", "differs"),
    [
        ([(1.0, "a"), (2.0, "b")], [(1.0, "c"), (2.0, "d")], False),
        ([(1.0, "a"), (2.0, "b")], [(2.0, "b"), (1.0, "a")], True),
        ([(1.0, "a"), (2.0, "b")], [(1.0, "a")], True),
        ([(1.0, "a"), (None, "b")], [(1.0, "a"), (None, "b")], False),
        ([(1.0, "a"), (None, "b")], [(1.0, "x"), (None, "b")], True),
        ([(1.0, "a")], [(None, "a")], True),
        ([(None, "a")], [(None, "b")], True),
        ([], [], False),
        ([], None, True),
        (None, [], True),
        (None, [(1.0, "a")], True),
        (None, None, False),
    ],
)
def test_ranked_is_compared_by_ordered_strikes_where_every_row_has_one_else_whole(
    before: list[Any] | None, after: list[Any] | None, differs: bool
) -> None:
    was, now = (
        None if given is None else tuple(Row(*row) for row in given)
        for given in (before, after)
    )
    for name in Ranked.__struct_fields__:
        path = f"ranked.{name}"
        assert compare(at(path, was), at(path, now), ALL).lists == (
            (path,) if differs else ()
        )


def test_zones_are_compared_whole() -> None:
    assert compare(
        at("zones", (Row(1.0, "a"),)), at("zones", (Row(1.0, "b"),)), ALL
    ).lists == ("zones",)


@quick
@given(st.lists(st.floats(-1, 1), min_size=1, max_size=40))
def test_drift_below_the_threshold_adds_up_until_it_is_published(
    steps: list[float],
) -> None:
    feed = FeedRules(
        "f", rules=Rules.of(thresholds={"odte.hvl": Threshold(absolute=1)})
    )
    value, said, state = (
        1000.0,
        1000.0,
        observe(None, seen(at("odte.hvl", 1000.0)), feed).state,
    )
    for count, step in enumerate(steps, 1):
        value += step
        moved = observe(state, seen(at("odte.hvl", value), NOW + count * SECOND), feed)
        assert (moved.event is not None) == (abs(value - said) > 1)
        if moved.event is not None:
            assert moved.event.changed_levels == (LevelChange("odte.hvl", said, value),)
            said = value
        state = moved.state or state
        assert state is not None
        assert state.last_published is not None
        assert state.last_published.odte.hvl == said
        assert state.levels is not None
        assert state.levels.odte.hvl == value


def bits(value: float) -> bytes:
    return struct.pack(">d", value)


@cases(500)
@given(finite, finite)
@example(-0.0, 5e-324)
@example(math.nextafter(math.inf, 0), 2.0**53 + 1)
def test_every_finite_number_survives_json_and_avro_to_the_bit(
    one: float, other: float
) -> None:
    raw = json.dumps(
        {"spot_price": one, "odte": {"hvl": other}, "zones": [{"strike": one}]}
    ).encode()
    levels = decode_entry(raw, NOW).levels
    state = State("f", "S", 1, Status.LIVE, None, 0, "", ME, levels=levels)
    read = CODEC.decode_state(CODEC.encode_state("t", state)).levels
    assert read == levels
    for found in (levels, read):
        assert found.spot_price is not None
        assert found.odte.hvl is not None
        assert found.zones is not None
        assert found.zones[0].strike is not None
        assert (bits(found.spot_price), bits(found.odte.hvl)) == (
            bits(one),
            bits(other),
        )
        assert bits(found.zones[0].strike) == bits(one)
        assert bits(json.loads(found.zones[0].json)["strike"]) == bits(one)


@quick
@given(st.integers(-(2**53), 2**53))
def test_an_integer_is_the_same_number(value: int) -> None:
    read = decode_entry(encoded({"spot_price": value}), NOW).levels.spot_price
    assert isinstance(read, float)
    assert read == value


@pytest.mark.parametrize(
    "value", [2**53 + 1, -(2**53) - 1, 2**63, 2**64 - 1, 2**64, 10**30]
)
def test_a_larger_integer_is_the_nearest_float(value: int) -> None:
    assert decode_entry(encoded({"spot_price": value}), NOW).levels.spot_price == float(
        value
    )


@quick
@given(prices)
def test_a_number_never_differs_from_itself(value: float | None) -> None:
    assert not compare(at("max_pain.value", value), at("max_pain.value", value), ALL)
