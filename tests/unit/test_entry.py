"""Entries of every documented shape become levels; undocumented fields are kept."""

from __future__ import annotations

import json
import time
from typing import TYPE_CHECKING, Any

import pytest

from connector.core.entry import decode_entry
from connector.core.model import AllExpiry, Levels, RankedRow, Row
from connector.core.positioning import ResponseModels
from connector.errors import EntryError
from tests.support.levels import (
    FIELDS,
    LISTS,
    NOW,
    NUMBERS,
    RANKED,
    RANKED_PATHS,
    SECOND,
    document,
    encoded,
    number,
    rows,
)

if TYPE_CHECKING:
    from collections.abc import Iterator


def levels(entry: Any) -> Levels:
    """Return the levels decoded from an entry."""
    return decode_entry(encoded(entry), NOW).levels


def computed_at(text: Any) -> int | None:
    """Return the moment decoded from an entry's `computed_at`."""
    raw = encoded({"computed_at": text})
    return decode_entry(raw, NOW).computed_at


def rejection(raw: bytes, now: int = NOW) -> str:
    """Return the reason that an entry is rejected for."""
    with pytest.raises(EntryError) as caught:
        decode_entry(raw, now)
    return caught.value.reason


# --- documented fields ---


def test_every_documented_field_is_read() -> None:
    entry = decode_entry(encoded(document()), NOW)

    assert entry.computed_at == NOW
    assert entry.levels.spot_price == 64_250.5
    # Each field of a section has a value of its own, so that a mix-up shows.
    for section, fields in FIELDS.items():
        for position, field in enumerate(fields):
            value = number(entry.levels, f"{section}.{field}")
            assert value == 60_000.0 + 500 * position
    assert entry.levels.positioning == "flow"
    assert entry.levels.positioning_fallback_reason is None
    for path in RANKED_PATHS:
        ranked = rows(entry.levels, path)
        assert ranked is not None
        assert len(ranked) == 10
        assert ranked[0] == RankedRow(1, 60_000.0, 10_000.5, 10_000.5)
        assert ranked[1] == RankedRow(2, 60_500.0, -9_999.5, 9_999.5)
        assert ranked[9] == RankedRow(10, 64_500.0, -9_991.5, 9_991.5)
    zone = Row(None, '{"from":61000,"to":62000.5}')
    assert entry.levels.zones == (zone,)
    assert entry.levels.extra is None


# The API writes "no levels" in any of these ways. A change from one to another must not
# look like a change of the levels.
@pytest.mark.parametrize(
    "name",
    [*FIELDS, "ranked", "zones", "spot_price"],
)
def test_an_absent_a_null_and_an_all_null_section_are_the_same(name: str) -> None:
    absent = document()
    del absent[name]
    forms = [absent, document(**{name: None})]
    is_section = name not in {"zones", "spot_price"}
    if is_section:
        all_null = dict.fromkeys(FIELDS.get(name, RANKED))
        forms.append(document(**{name: all_null}))

    decoded = list(map(levels, forms))

    assert len(set(decoded)) == 1
    for path in NUMBERS:
        if path.split(".")[0] == name:
            assert number(decoded[0], path) is None
    for path in LISTS:
        if path.split(".")[0] == name:
            assert rows(decoded[0], path) is None


def test_an_empty_entry_has_no_levels() -> None:
    entry = decode_entry(b"{}", NOW)

    assert entry.levels == Levels()
    assert entry.computed_at is None


def test_absent_numbers_of_a_section_are_null() -> None:
    read = levels({"all_expiry": {"hvl": 5}})

    assert read.all_expiry == AllExpiry(hvl=5.0)


# --- zones ---


# The include is called `zones`, the documented field `gamma_flip_zones`.
@pytest.mark.parametrize("name", ["zones", "gamma_flip_zones"])
def test_zones_are_read_under_either_name(name: str) -> None:
    read = levels({name: [{"b": 1, "a": 2}]})

    # The keys of a row are sorted.
    row = Row(None, '{"a":2,"b":1}')
    assert read.zones == (row,)
    assert read.extra is None


def test_null_zones_give_way_to_the_other_name() -> None:
    under_the_other_name = levels({"zones": None, "gamma_flip_zones": [1]})
    under_the_usual_name = levels({"zones": [1], "gamma_flip_zones": None})

    zones = (Row(1.0, "1"),)
    assert under_the_other_name.zones == zones
    assert under_the_usual_name.zones == zones


def test_zones_under_both_names_are_both_kept() -> None:
    read = levels({"zones": [1], "gamma_flip_zones": [2]})

    assert read.zones == (Row(1.0, "1"),)
    # Nobody knows which of them is right, so none is dropped.
    assert read.extra == '{"gamma_flip_zones":[2]}'


# --- rows ---


@pytest.mark.parametrize(
    ("row", "strike"),
    [
        ({"strike": 5, "x": 1}, 5.0),
        ({"strike": 5.5}, 5.5),
        (7, 7.0),
        (7.25, 7.25),
        # A strike must be a JSON number.
        ({"strike": None}, None),
        ({"strike": "5"}, None),
        ({"strike": True}, None),
        ({}, None),
        ([5, 6], None),
        ("5", None),
        (None, None),
        (True, None),
    ],
    ids=str,
)
def test_a_row_of_any_shape_is_kept_with_its_strike_if_readable(
    row: Any, strike: float | None
) -> None:
    # A row that the vendor changes must not cost the rest of the entry.
    read = levels({"ranked": {"odte_top_10": [row]}, "zones": [row]})

    assert read.zones is not None
    (zone,) = read.zones
    assert zone.strike == strike
    assert json.loads(zone.json) == row
    assert read.ranked.all_expiry_top_10 is None
    assert read.ranked.odte_top_10 is not None
    (first,) = read.ranked.odte_top_10
    assert first.strike == strike


@pytest.mark.parametrize(
    ("row", "expected"),
    [
        ({"rank": 2, "strike": 5, "gex": -3, "abs_gex": 3}, (2, 5.0, -3.0, 3.0, None)),
        # An absent field equals null.
        ({"strike": 5, "gex": None}, (None, 5.0, None, None, None)),
        # The vendor adds fields over time.
        ({"strike": 5, "b": [1], "a": 2}, (None, 5.0, None, None, '{"a":2,"b":[1]}')),
        # A value of another type is kept where it does no harm.
        ({"strike": "5", "gex": 1}, (None, None, 1.0, None, '{"strike":"5"}')),
        ({"strike": 5, "gex": "1"}, (None, 5.0, None, None, '{"gex":"1"}')),
        ({"strike": 5, "abs_gex": True}, (None, 5.0, None, None, '{"abs_gex":true}')),
        ({"strike": 5, "rank": 1.5}, (None, 5.0, None, None, '{"rank":1.5}')),
        ({"strike": 5, "rank": True}, (None, 5.0, None, None, '{"rank":true}')),
        # More than Avro's int can hold.
        ({"rank": 2**31}, (None, None, None, None, '{"rank":2147483648}')),
        ({"rank": 2**31 - 1}, (2**31 - 1, None, None, None, None)),
        ({}, (None, None, None, None, None)),
        # Rows that are not objects.
        (7, (None, 7.0, None, None, "7")),
        ([5, 6], (None, None, None, None, "[5,6]")),
        ("5", (None, None, None, None, '"5"')),
        (None, (None, None, None, None, "null")),
    ],
    ids=str,
)
def test_a_ranked_row_has_typed_fields_and_keeps_the_rest(
    row: Any, expected: tuple[Any, ...]
) -> None:
    ranked = levels({"ranked": {"all_expiry_top_10": [row]}}).ranked

    assert ranked.all_expiry_top_10 == (RankedRow(*expected),)


# --- positioning ---


def test_the_model_and_the_reason_of_a_fallback_are_read() -> None:
    read = levels(
        {"positioning": "std", "positioning_fallback_reason": "flow_tape_empty"}
    )

    assert read.positioning == "std"
    assert read.positioning_fallback_reason == "flow_tape_empty"
    assert read.extra is None


@pytest.mark.parametrize("value", [None, ""])
def test_a_null_or_empty_model_is_unknown(value: Any) -> None:
    read = levels({"positioning": value, "spot_price": 1})

    assert read == Levels(spot_price=1.0)


@pytest.mark.parametrize("value", [5, True, ["flow"], {"BTCUSDT": "flow"}])
def test_a_model_of_another_type_costs_no_levels_and_is_kept(value: Any) -> None:
    read = levels({"positioning": value, "spot_price": 1})

    assert read.spot_price == 1.0
    assert read.positioning is None
    assert read.extra is not None
    assert json.loads(read.extra) == {"positioning": value}


def test_a_long_model_is_cut() -> None:
    # Models go into every record and into labels of metrics.
    read = levels({"positioning": "x" * 1_000})

    assert read.positioning == "x" * 64


def test_an_entry_without_a_model_takes_that_of_the_response() -> None:
    models = ResponseModels.of({"positioning": "std"})

    entry = decode_entry(b"{}", NOW, symbol="BTCUSDT", models=models)

    assert entry.levels.positioning == "std"


def test_an_empty_list_differs_from_an_absent_one() -> None:
    read = levels({"zones": [], "ranked": {"odte_top_10": []}})

    # An absent list would be None.
    assert read.zones == ()


# --- undocumented fields ---


def test_unknown_fields_are_kept_at_every_depth() -> None:
    unknown = {
        "nested": {"a": [1, {"b": None}]},
        # A line separator and a character beyond 16 bits, which encoders may escape.
        "text": "ä\u2028\U0001f600",
        "flag": True,
        # No 64 bits are enough for it.
        "huge": 10**30,
    }
    entry = document(**unknown)
    expected: dict[str, Any] = dict(unknown)
    for section in (*FIELDS, "ranked"):
        entry[section] = {**entry[section], "more": {"of": section}}
        expected[section] = {"more": {"of": section}}

    extra = levels(entry).extra

    assert extra is not None
    assert json.loads(extra) == expected
    # A field of the upstream's own called `extra` is not lost among them.
    assert levels({**entry, "extra": 1}).extra != extra


def test_extra_has_sorted_keys_and_no_whitespace() -> None:
    # Otherwise another order of the same fields would look like a change.
    spaced = decode_entry(b'{"z": {"b":1, "a" :2}, "y":3}', NOW)
    canonical = decode_entry(b'{"y":3,"z":{"a":2,"b":1}}', NOW)

    assert spaced == canonical
    assert spaced.levels.extra == '{"y":3,"z":{"a":2,"b":1}}'


# --- computed_at ---


@pytest.mark.parametrize(
    ("text", "micros"),
    [
        ("2027-01-15T08:00:00Z", NOW),
        # The vendor documents UTC, so a text without an offset is UTC.
        ("2027-01-15T08:00:00", NOW),
        ("2027-01-15T08:00:00+00:00", NOW),
        ("2027-01-15T09:30:00+01:30", NOW),
        ("2027-01-15T08:00:00.123456Z", NOW + 123_456),
        ("2027-01-15T08:00:00.1Z", NOW + 100_000),
        ("2027-01-15T07:59:59.999999Z", NOW - 1),
        # A minute ahead is the most that is plausible.
        ("2027-01-15T08:01:00Z", NOW + 60 * SECOND),
        ("1970-01-01T00:00:00.000001Z", 1),
    ],
)
def test_computed_at_is_utc_to_the_microsecond(text: str, micros: int) -> None:
    assert computed_at(text) == micros


@pytest.fixture
def tokyo(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Set the local time zone to Tokyo's."""
    with monkeypatch.context() as patch:
        patch.setenv("TZ", "JST-9")
        time.tzset()
        yield
    # The C library keeps the zone until it is told to read TZ again.
    time.tzset()


def test_computed_at_is_utc_whatever_the_local_time_zone(tokyo: None) -> None:
    assert computed_at("2027-01-15T08:00:00") == NOW


@pytest.mark.parametrize(
    "entry",
    [{}, {"computed_at": None}],
    ids=["absent", "null"],
)
def test_computed_at_may_be_absent(entry: dict[str, Any]) -> None:
    decoded = decode_entry(encoded(entry), NOW)

    assert decoded.computed_at is None


@pytest.mark.parametrize(
    "text",
    [
        "",
        "yesterday",
        # Unix seconds, but as a text.
        "1800000000",
        "2027-13-01T00:00:00Z",
        "2027-01-15T08:00:00Z!",
        # An Arabic zero, which Python counts as a digit.
        "\u0660",
    ],
)
def test_an_unparsable_computed_at_is_rejected(text: str) -> None:
    raw = encoded({"computed_at": text})

    assert rejection(raw) == "computed_at_unparsable"


def test_a_computed_at_more_than_a_minute_ahead_is_rejected() -> None:
    raw = encoded({"computed_at": "2027-01-15T08:00:00Z"})
    minute_before = NOW - 60 * SECOND

    assert decode_entry(raw, minute_before).computed_at == NOW
    assert rejection(raw, minute_before - 1) == "computed_at_future"


@pytest.mark.parametrize(
    "value",
    [1_800_000_000, 1.5, True, {}, []],
    ids=str,
)
def test_a_computed_at_that_is_not_a_text_is_rejected(value: Any) -> None:
    raw = encoded({"computed_at": value})

    assert rejection(raw) == "wrong_type"


# --- rejected entries ---


@pytest.mark.parametrize(
    "path", [*NUMBERS, *FIELDS, *LISTS, "ranked", "gamma_flip_zones"]
)
@pytest.mark.parametrize(
    "value",
    ["5", True, "", "null"],
    ids=repr,
)
def test_a_value_of_the_wrong_type_is_rejected_in_any_field(
    path: str, value: Any
) -> None:
    section, _, field = path.rpartition(".")
    entry = {field: value}
    if section:
        entry = {section: entry}

    assert rejection(encoded(entry)) == "wrong_type"


# A parser keeps the last of two equal keys. Counting colons shows it cheaply, so these
# cases have colons, quotes and escapes that mislead a careless count.
@pytest.mark.parametrize(
    "raw",
    [
        b'{"a":1,"a":2}',
        b'{"a":1,"a" :2}',
        b'{"a" :1,"a":2}',
        b'{"a" :1,"a"\n:2}',
        b'{"a":1,"\\u0061":2}',
        b'{"odte":{"hvl":1,"hvl":1}}',
        b'{"x":[{"y":{"k":null,"k":null}}]}',
        b'{"zones":[{"k":"\\":","k":2}]}',
        b'{"note":"\\u0022:","a":1,"a":1}',
        b'{"\\u0022:":1,"a":1,"a":1}',
        b'{"spot_price":1,"spot_price" :1}',
    ],
)
def test_a_repeated_key_in_an_object_is_rejected(raw: bytes) -> None:
    assert rejection(raw) == "duplicate_keys"


@pytest.mark.parametrize(
    "raw",
    [
        b'{"a" : 1 , "b":{"a":1}}',
        b'{"n":"\\":\\":"}',
        b'{"n":"\\u0022:"}',
        b'{"x":[{"a":1},{"a":1}]}',
        b'{"":{"":1}}',
    ],
)
def test_keys_that_only_look_repeated_are_kept(raw: bytes) -> None:
    extra = decode_entry(raw, NOW).levels.extra

    assert extra is not None
    assert json.loads(extra) == json.loads(raw)


def test_an_entry_of_64_kib_is_accepted_and_a_longer_one_rejected() -> None:
    around_the_text = len(b'{"note":""}')
    longest = b'{"note":"%b"}' % (b"x" * (65_536 - around_the_text))
    assert len(longest) == 65_536

    assert decode_entry(longest, NOW).levels.extra is not None
    # The limit is on the raw bytes: whitespace counts, too.
    longer = longest.replace(b"{", b"{ ")
    assert rejection(longer) == "too_large"


# The limits of Python and of C libraries lie somewhere between these depths. Right below
# one, a decoded entry may fail later, when it is encoded.
@pytest.mark.parametrize(
    ("opening", "closing"),
    [(b"[", b"]"), (b'{"a" :', b"}")],
    ids=["lists", "objects with a blank"],
)
def test_nesting_of_any_depth_is_accepted_or_rejected(
    opening: bytes, closing: bytes
) -> None:
    for depth in (*range(900, 1100), 5_000, 9_000):
        nested = opening * depth + b"1" + closing * depth
        raw = b'{"x" :' + nested + b"}"
        try:
            is_kept = decode_entry(raw, NOW).levels.extra is not None
            is_rejected = False
        except EntryError as error:
            is_kept = False
            is_rejected = error.reason == "malformed"
        assert is_kept or is_rejected


def test_one_repeated_key_among_many_is_found_quickly() -> None:
    keys = [b'"%04d":1' % name for name in range(7_000)]
    raw = b"{%b}" % b",".join([*keys, b'"6999":2'])
    assert len(raw) <= 65_536

    # A comparison of each key with all others would take much longer.
    started_at = time.process_time()
    assert rejection(raw) == "duplicate_keys"
    assert time.process_time() - started_at < 0.5


@pytest.mark.parametrize(
    "raw",
    [
        b"",
        b"{",
        b"nope",
        b"{}{}",
        # A byte order mark.
        b"\xef\xbb\xbf{}",
        b"\xff",
    ],
)
def test_invalid_json_is_rejected(raw: bytes) -> None:
    assert rejection(raw) == "malformed"


def test_an_error_shows_little_of_the_entry() -> None:
    # It goes into a log line, and into a header of the quarantined record.
    long_moment = {"computed_at": "x" * 9_000}
    long_name = {"x" * 9_000: 1, "odte": "y" * 9_000}

    for entry in (long_moment, long_name):
        with pytest.raises(EntryError) as caught:
            decode_entry(encoded(entry), NOW)
        assert len(str(caught.value)) < 300
