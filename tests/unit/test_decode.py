"""Responses are split into symbols, and a bad entry never affects the others."""

from __future__ import annotations

import json
import time
import tracemalloc
from contextlib import suppress
from typing import Any

import pytest

from connector.core.decode import (
    RateLimit,
    Refusal,
    Response,
    ResponseMeta,
    decode_response,
)
from connector.core.entry import decode_entry
from connector.core.model import Status
from connector.errors import BadResponse, EntryError
from tests.support.levels import NOW, SECOND, body, document, encoded

SYMBOLS = ("AAA", "BBB", "CCC")
GOOD = encoded({"spot_price": 1.5})
# Deeper than any recursion limit, of Python or of a C library.
DEEP = 100_000
DEEP_LIST = b"[" * DEEP + b"]" * DEEP
DEEP_OBJECT = b'{"a":' * DEEP + b"1" + b"}" * DEEP
# Short enough for an entry, which may have 64 KiB.
DEEP_BUT_SHORT_LIST = b"[" * 20_000 + b"]" * 20_000

BAD_ENTRIES = {
    # Python's JSON module accepts these numbers, but they are not JSON.
    "nan": b'{"spot_price":NaN}',
    "infinity": b'{"spot_price":-Infinity}',
    "number_too_large": b'{"spot_price":1e999}',
    "integer_too_large": b'{"spot_price":1' + b"0" * 5000 + b"}",
    # Texts that cannot be encoded again.
    "lone_surrogate": b'{"label":"\\ud800"}',
    "invalid_utf8": b'{"label":"\xff\xfe"}',
    "invalid_utf8_name": b'{"\xff":1}',
    "bad_escape": b'{"label":"\\x"}',
    "control_character": b'{"label":"\n"}',
    # Attacks on the stack.
    "deep_lists": b'{"x":' + DEEP_LIST + b"}",
    "deep_objects": DEEP_OBJECT,
    "deep_but_short": b'{"x":' + DEEP_BUT_SHORT_LIST + b"}",
    # Valid JSON with a meaning that is unclear or wrong.
    "duplicate_keys": b'{"spot_price":1,"spot_price":2}',
    "text_for_a_number": b'{"spot_price":"1"}',
    "bool_for_a_number": b'{"spot_price":true}',
    "text_for_a_section": b'{"all_expiry":"none"}',
    "object_for_a_list": b'{"zones":{}}',
    "a_list": b"[1,2]",
    "a_number": b"17",
    "a_text": b'"n/a"',
    "false": b"false",
    "over_64_kib": b'{"note":"' + b"x" * 65_536 + b'"}',
    "computed_at_garbage": b'{"spot_price":1,"computed_at":"yesterday"}',
    "computed_at_empty": b'{"spot_price":1,"computed_at":""}',
    "computed_at_number": b'{"spot_price":1,"computed_at":1800000000}',
    "computed_at_future": b'{"spot_price":1,"computed_at":"2099-01-01T00:00:00Z"}',
}

# Auxiliary figures that a server could not compute, and worse.
BAD_METAS = {
    "nan": b'{"spot_price":NaN,"freshness_seconds":Infinity}',
    "nan_alone": b"NaN",
    "nested": b'{"version":"2.10","extra":{"a":[1,{"b":-Infinity}]}}',
    "integer_too_large": b'{"freshness_seconds":1' + b"0" * 5000 + b"}",
    "invalid_utf8": b'{"request_id":"\xff"}',
    "bad_escape": b'{"request_id":"\\x"}',
    "deep": DEEP_LIST,
}

NO_RESPONSES = {
    # Answers of proxies and of servers that are not this API.
    "empty": b"",
    "blank": b" \n",
    "html": b"<html><body>502 Bad Gateway</body></html>",
    "text": b"upstream connect error",
    "number": b"5",
    "text_value": b'"ok"',
    "null": b"null",
    "true": b"true",
    "list": b"[]",
    "list_of_entries": b'[{"results":{}}]',
    "empty_object": b"{}",
    "something_else": b'{"status":"ok","version":"2"}',
    # Without results, all symbols would seem to be missing.
    "success_alone": b'{"success":true}',
    "empty_data": b'{"success":true,"data":{}}',
    "null_data": b'{"success":true,"data":null}',
    "data_of_another_type": b'{"success":true,"data":[1]}',
    "results_list": b'{"success":true,"data":{"results":[]}}',
    "results_text": b'{"success":true,"data":{"results":"none"}}',
    "results_number": b'{"success":true,"data":{"results":0}}',
    # A fault outside the entries cannot be cut out.
    "binary": bytes(range(256)),
    "invalid_utf8_outside": b'{"success":true,"\xff":1',
    "deep_outside": b"[" * DEEP,
    "trailing_garbage": b'{"data":{"results":{}}} {}',
}


def decode(results: bytes, **lists: Any) -> Response:
    """Decode a response to a request for `SYMBOLS`, with `results` as raw JSON."""
    data = b'"results":' + results
    for name, value in lists.items():
        data += b',"%b":%b' % (name.encode(), encoded(value))
    raw = b'{"success":true,"data":{%b}}' % data
    return decode_response(raw, SYMBOLS)


def decode_meta(meta: Any) -> ResponseMeta:
    """Decode the `meta` of a response without results."""
    raw = encoded({"data": {"results": {}}, "meta": meta})
    return decode_response(raw, []).meta


def decode_refusal(error: Any, **fields: Any) -> Refusal:
    """Decode a response of `success: false` to a request for AAA."""
    raw = encoded({"success": False, "error": error, **fields})

    response = decode_response(raw, ["AAA"])

    assert response.answers == {}
    assert response.refusal is not None
    return response.refusal


# --- the envelope ---


# The vendor may leave `data` out, so the decoder accepts both forms.
@pytest.mark.parametrize("wrapped", [True, False])
def test_the_data_fields_are_read_with_and_without_data_around_them(
    wrapped: bool,
) -> None:
    fields: dict[str, Any] = {
        "results": {"AAA": document(), "BBB": None},
        "missing": ["BBB"],
        "invalid": ["CCC"],
    }
    envelope: dict[str, Any] = {"success": True}
    if wrapped:
        envelope["data"] = fields
    else:
        envelope.update(fields)

    response = decode_response(encoded(envelope), SYMBOLS)

    entry = response.answers["AAA"]
    assert isinstance(entry, bytes)
    assert json.loads(entry) == document()
    assert response.answers["BBB"] is Status.MISSING
    assert response.answers["CCC"] is Status.INVALID
    assert response.inconsistencies == ()


@pytest.mark.parametrize("flat", [True, False])
def test_the_example_of_the_documentation_is_an_empty_result(flat: bool) -> None:
    fields: dict[str, Any] = {
        "results": {},
        "requested": ["string"],
        "served": ["string"],
        "missing": ["string"],
        "invalid": ["string"],
    }
    envelope = {"success": True, "data": fields}
    if flat:
        # The example has no `success`: it must not count as a refusal.
        envelope = fields

    response = decode_response(encoded(envelope), SYMBOLS)

    assert response.answers == dict.fromkeys(SYMBOLS, Status.MISSING)
    assert response.refusal is None


@pytest.mark.parametrize(
    "success",
    [{}, {"success": None}, {"success": True}],
    ids=["absent", "null", "true"],
)
def test_absent_or_null_success_means_true(success: dict[str, Any]) -> None:
    data: dict[str, Any] = {"results": {"AAA": {}}}
    raw = encoded({**success, "data": data})

    response = decode_response(raw, ["AAA"])

    assert response.answers == {"AAA": b"{}"}


def test_answers_keep_the_order_of_the_request() -> None:
    raw = body({"CCC": {}, "AAA": {}, "BBB": {}})

    response = decode_response(raw, SYMBOLS)

    assert tuple(response.answers) == SYMBOLS


# --- contradictions ---


@pytest.mark.parametrize(
    ("results", "lists", "answer", "inconsistencies"),
    [
        # As documented: a symbol is in exactly one place.
        ({"AAA": {}}, [], b"{}", []),
        ({"AAA": None}, ["missing"], Status.MISSING, []),
        ({}, ["missing"], Status.MISSING, []),
        ({"AAA": None}, ["invalid"], Status.INVALID, []),
        ({}, ["invalid"], Status.INVALID, []),
        # In none of them.
        ({"AAA": None}, [], Status.MISSING, ["not_listed"]),
        ({}, [], Status.MISSING, ["not_listed"]),
        # In several.
        ({"AAA": {}}, ["invalid"], Status.INVALID, ["both_lists"]),
        ({"AAA": {}}, ["missing"], b"{}", ["both_lists"]),
        ({}, ["missing", "invalid"], Status.INVALID, ["both_lists"]),
        ({"AAA": {}}, ["missing", "invalid"], Status.INVALID, ["both_lists"]),
    ],
    ids=str,
)
def test_invalid_overrides_an_entry_and_an_entry_overrides_missing(
    results: dict[str, Any],
    lists: list[str],
    answer: bytes | Status,
    inconsistencies: list[str],
) -> None:
    listed = {}
    for name in lists:
        listed[name] = ["AAA"]
    raw = body(results, **listed)

    response = decode_response(raw, ["AAA"])

    assert response.answers == {"AAA": answer}
    assert list(response.inconsistencies) == inconsistencies


def test_null_may_have_whitespace_around_it() -> None:
    # Entries stay raw bytes, so null is recognized by its bytes.
    response = decode(b'{"AAA": \n null \t, "BBB" : {} , "CCC":null}')

    assert response.answers == {
        "AAA": Status.MISSING,
        "BBB": b"{}",
        "CCC": Status.MISSING,
    }


def test_unrequested_symbols_are_ignored_and_counted() -> None:
    # ZZZ is not counted: the lists may name any symbol.
    results: dict[str, Any] = {"AAA": {}, "XXX": {}, "YYY": None}
    raw = body(results, missing=["ZZZ"])

    response = decode_response(raw, ["AAA"])

    assert response.answers == {"AAA": b"{}"}
    assert response.inconsistencies == ("unrequested", "unrequested")


# The parser drops the first of two entries. Counting colons shows it, so the cases have
# entries with and without colons, and whitespace around them.
@pytest.mark.parametrize(
    "first",
    [b'"AAA":{"a":1}', b'"AAA":{}', b'"AAA" :{}', b'"AAA":null'],
)
@pytest.mark.parametrize(
    "second",
    [b'"AAA":{"b":2}', b'"AAA" :{"b":2}', b'"AAA"\n:\n{"b":2}'],
)
def test_a_repeated_symbol_is_counted_and_its_last_entry_wins(
    first: bytes, second: bytes
) -> None:
    results = b'{%b,"BBB":{},%b,"CCC":{}}' % (first, second)

    response = decode(results)

    assert response.inconsistencies == ("duplicate_keys",)
    assert response.answers == {
        "AAA": b'{"b":2}',
        "BBB": b"{}",
        "CCC": b"{}",
    }


@pytest.mark.parametrize(
    "wrong",
    [
        None,
        {},
        "AAA",
        7,
        # A list whose items are no symbols.
        [None, 3, ["AAA"], {"AAA": 1}],
    ],
    ids=str,
)
def test_lists_of_the_wrong_type_count_as_empty(wrong: Any) -> None:
    results: dict[str, Any] = {"AAA": {}, "BBB": None}
    raw = body(results, missing=wrong, invalid=wrong)

    response = decode_response(raw, ["AAA", "BBB"])

    assert response.answers == {"AAA": b"{}", "BBB": Status.MISSING}


# --- bodies that are not a response ---


@pytest.mark.parametrize("raw", NO_RESPONSES.values(), ids=NO_RESPONSES)
def test_a_body_that_is_not_a_response_is_rejected(raw: bytes) -> None:
    with pytest.raises(BadResponse):
        decode_response(raw, SYMBOLS)


@pytest.mark.parametrize("bad_meta", BAD_METAS.values(), ids=BAD_METAS)
@pytest.mark.parametrize("meta_is_first", [True, False])
@pytest.mark.parametrize("entry", [GOOD, BAD_ENTRIES["nan"]], ids=["good", "bad"])
def test_a_bad_meta_counts_as_absent_and_the_entries_are_kept(
    bad_meta: bytes, meta_is_first: bool, entry: bytes
) -> None:
    data = b'"data":{"results":{"AAA":%b,"BBB":%b},"missing":["CCC"]}' % (GOOD, entry)
    meta = b'"meta":' + bad_meta
    members = [b'"success":true', data, meta]
    if meta_is_first:
        members.reverse()

    response = decode_response(b"{%b}" % b" ,".join(members), SYMBOLS)

    assert response.answers == {"AAA": GOOD, "BBB": entry, "CCC": Status.MISSING}
    assert response.meta == ResponseMeta()
    assert response.inconsistencies == ()


def test_a_bad_value_outside_of_entries_and_meta_is_not_cut_out() -> None:
    with pytest.raises(BadResponse):
        decode_response(b'{"success":NaN,"data":{"results":{"AAA":{}}}}', SYMBOLS)


def test_a_truncated_body_with_a_bad_meta_is_rejected() -> None:
    whole = b'{"meta":{"a":NaN},"data":{"results":{"AAA":%b}}}' % GOOD
    assert decode_response(whole, ["AAA"]).answers == {"AAA": GOOD}

    for length in range(len(whole)):
        truncated = whole[:length]
        with pytest.raises(BadResponse):
            decode_response(truncated, ["AAA"])


def test_a_truncated_body_is_rejected() -> None:
    # Brackets and quotes in a text must not pass for the end of the entry.
    tricky = {"zones": [{"x": '}]\\"{'}]}
    results = {"AAA": document(), "BBB": tricky}
    whole = body(results, missing=["CCC"])

    for length in range(len(whole)):
        truncated = whole[:length]
        with pytest.raises(BadResponse):
            decode_response(truncated, SYMBOLS)


# --- refusals ---


def test_a_refusal_takes_precedence_over_results() -> None:
    error = {
        "code": "VALIDATION_ERROR",
        "message": "no",
        "details": {"errors": ["symbols"]},
    }

    # `decode_refusal` checks that there are no answers.
    refusal = decode_refusal(error, data={"results": {"AAA": {}}})

    assert refusal.code == "VALIDATION_ERROR"
    assert refusal.message == "no"
    assert refusal.details == {"errors": ["symbols"]}


@pytest.mark.parametrize(
    "error",
    [
        None,
        "no",
        [],
        {},
        # An object with the right fields, but none of the right type.
        {"code": 3, "message": None, "details": []},
    ],
    ids=str,
)
def test_a_refusal_without_a_usable_error_is_still_a_refusal(error: Any) -> None:
    refusal = decode_refusal(error)

    assert refusal.code == "UNKNOWN"
    assert refusal.details == {}


# --- meta ---


def test_meta_is_read_as_documented() -> None:
    meta = decode_meta(
        {
            "version": "2",
            "timestamp": "2027-01-15T08:00:00.25Z",
            "request_id": "abc",
            "exchanges_filtered": ["okx", "bybit"],
            "rate_limit": {"limit": 60, "remaining": 7, "reset": 1_800_000_060},
            "unknown": {"x": 1},
        }
    )

    assert meta.server_at == NOW + SECOND // 4
    assert meta.request_id == "abc"
    assert meta.exchanges == ("okx", "bybit")
    assert meta.rate_limit == RateLimit(60, 7, 1_800_000_060)


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (["OKX", " bybit"], ["bybit", "okx"]),
        ("okx,bybit", ["bybit", "okx"]),
        # No filter was applied.
        (None, []),
        ([], []),
        # Unreadable, so nothing is known about the filter.
        (7, None),
        ([{"name": "okx"}], None),
        (True, None),
    ],
    ids=repr,
)
def test_the_applied_venue_filter_is_told_from_an_unknown_one(
    value: Any, expected: list[str] | None
) -> None:
    venues = decode_meta({"exchanges_filtered": value}).venue_filter
    # A set in the name of a case would differ in each process, which pytest-xdist refuses.
    assert (None if venues is None else sorted(venues)) == expected


def test_a_meta_without_the_venue_filter_says_nothing_about_it() -> None:
    assert decode_meta({"version": "2.0"}).venue_filter is None


def test_a_long_venue_filter_is_cut_but_stays_another_one() -> None:
    names = [f"venue{number}" for number in range(1000)]

    meta = decode_meta({"exchanges_filtered": ["x" * 1000, *names]})

    assert len(meta.exchanges) == 16
    assert meta.venue_filter is not None
    # One more than a configuration can ask for: equal to no filter of a feed.
    assert len(meta.venue_filter) == 17
    assert max(map(len, meta.venue_filter)) == 41


def short_id(value: Any) -> str:
    """Return the start of a value: 10**400 would be a name of 401 digits."""
    return str(value)[:9]


# 10**400 fits no float, and 1e300 no integer that a double holds exactly.
@pytest.mark.parametrize(
    "wrong",
    [
        None,
        5,
        "x",
        [1],
        {"a": None},
        1e300,
        10**400,
        "nan",
        "inf",
        True,
    ],
    ids=short_id,
)
def test_meta_of_the_wrong_type_does_not_affect_the_answers(wrong: Any) -> None:
    names = ("timestamp", "request_id", "exchanges_filtered", "rate_limit")
    figures = ("limit", "remaining", "reset")
    wrong_fields = dict.fromkeys(names, wrong)
    wrong_limits = {"rate_limit": dict.fromkeys(figures, wrong)}
    wrong_reset = {"rate_limit": {"reset": wrong}}
    data: dict[str, Any] = {"results": {"AAA": {}}}

    for meta in (wrong, wrong_fields, wrong_limits, wrong_reset):
        raw = encoded({"data": data, "meta": meta})
        response = decode_response(raw, ["AAA"])
        assert response.answers == {"AAA": b"{}"}


@pytest.mark.parametrize(
    "reset",
    ["nan", "inf", "-inf", "NaN", "Infinity"],
)
def test_a_reset_that_is_not_finite_is_ignored(reset: str) -> None:
    # Numbers may come as texts, and Python reads these texts as numbers, too.
    limits = {"limit": 60, "remaining": 3, "reset": reset}

    meta = decode_meta({"rate_limit": limits})

    assert meta.rate_limit.reset_at_seconds is None


# --- bad entries ---


def raw_response(entries: list[bytes], *, flat: bool) -> bytes:
    """Return a response with these raw entries of `SYMBOLS`, with `data` or flat."""
    members = []
    for symbol, entry in zip(SYMBOLS, entries, strict=True):
        members.append(b'"%b": %b' % (symbol.encode(), entry))
    data = b'"results":{%b},"missing":[]' % b",".join(members)
    if not flat:
        data = b'"data":{%b}' % data
    return b'{"success":true,%b,"meta":{"version":"2"}}' % data


@pytest.mark.parametrize(
    "position",
    [0, 1, 2],
    ids=["first", "in the middle", "last"],
)
@pytest.mark.parametrize(
    "flat",
    [False, True],
    ids=["wrapped", "flat"],
)
@pytest.mark.parametrize("bad", BAD_ENTRIES.values(), ids=BAD_ENTRIES)
def test_one_bad_entry_does_not_affect_the_others(
    bad: bytes, flat: bool, position: int
) -> None:
    entries = [GOOD] * 3
    entries[position] = bad

    response = decode_response(raw_response(entries, flat=flat), SYMBOLS)

    answers = list(response.answers.values())
    assert answers == entries
    for answer in answers:
        assert isinstance(answer, bytes)
        if answer == GOOD:
            assert decode_entry(answer, NOW).levels.spot_price == 1.5
        else:
            with pytest.raises(EntryError):
                decode_entry(answer, NOW)


def test_several_bad_entries_do_not_affect_the_rest() -> None:
    nan = b'{"x":NaN}'
    good = b'{"spot_price":1.5}'
    surrogate = b'{"y":"\\ud800"}'

    response = decode(b'{"AAA":%b,"BBB":%b,"CCC":%b}' % (nan, good, surrogate))

    assert response.answers == {"AAA": nan, "BBB": good, "CCC": surrogate}


def test_brackets_and_quotes_in_texts_do_not_mislead_the_search() -> None:
    # The bad entry in the middle makes the decoder search for the entries by brackets.
    tricky = b'{"a":"}]{[\\",:\\\\","results":{"AAA":0}}'
    bad = b'{"x":NaN}'
    results = b'{"AAA":%b,"BBB":%b,"CCC":%b}' % (tricky, bad, tricky)

    response = decode(results, missing=["}"])

    assert response.answers == {"AAA": tricky, "BBB": bad, "CCC": tricky}


def test_a_field_called_results_elsewhere_is_ignored() -> None:
    # It comes first, and has the same shape as the real one.
    meta = b'{"extra":{"results":{"AAA":1}}}'
    data = b'{"results":{"AAA":{"x":NaN},"BBB":{}}}'
    envelope = b'{"meta":%b,"success":true,"data":%b}' % (meta, data)

    response = decode_response(envelope, ["AAA", "BBB"])

    assert response.answers == {"AAA": b'{"x":NaN}', "BBB": b"{}"}


@pytest.mark.parametrize(
    ("name", "is_similar"), [("BTCUSDT-PERP", True), ("BTCUSDT" + 80 * "x", False)]
)
def test_a_name_longer_than_any_symbol_is_not_another_spelling(
    name: str, is_similar: bool
) -> None:
    body = b'{"results":{"%b":{"spot_price":1}}}' % name.encode()

    response = decode_response(body, ("BTCUSDT",))

    # Comparing very long names would take long, too.
    assert ("BTCUSDT" in response.other_spellings) == is_similar


# --- bombs ---

# Large enough for quadratic time to be noticed, small enough for many cases.
SIZE = 2**16


def repeated(unit: bytes) -> bytes:
    """Return a list of `unit`, separated by commas, with `%d` replaced by a counter."""

    def item(index: int) -> bytes:
        return unit.replace(b"%d", b"%d" % index)

    longest = item(1_000_000)
    # Leave room for the envelope around the list.
    count = (SIZE - 100) // (len(longest) + 1)
    items = map(item, range(count))
    return b",".join(items)


def with_results(results: bytes) -> bytes:
    return b'{"data":{"results":%b}}' % results


def with_meta(meta: bytes) -> bytes:
    return b'{"data":{"results":{}},"meta":%b}' % meta


def with_missing(items: bytes) -> bytes:
    return b'{"data":{"results":{},"missing":[%b]}}' % items


def with_errors(items: bytes) -> bytes:
    return b'{"success":false,"error":{"details":{"errors":[%b]}}}' % items


def after_a_bad_entry(items: bytes) -> bytes:
    """Return a body that has to be searched by its brackets."""
    return with_results(b'{"AAA":NaN,"BBB":[%b]}' % items)


BOMBS = {
    # Valid JSON with very many parts.
    "many_symbols": with_results(b"{%b}" % repeated(b'"%d":0')),
    "one_symbol_many_times": with_results(b"{%b}" % repeated(b'"A":0')),
    "a_long_list": with_missing(repeated(b"%d")),
    "a_list_of_lists": with_missing(repeated(b"[]")),
    "much_meta": with_meta(b"{%b}" % repeated(b'"%d":{}')),
    "lists_in_meta": with_meta(b"[%b]" % repeated(b"[]")),
    "details": with_errors(repeated(b"[]")),
    # Bodies for the search by brackets.
    "a_bad_entry_and_brackets": after_a_bad_entry(repeated(b"[]")),
    "many_bad_entries": with_results(b"{%b}" % repeated(b'"%d":NaN')),
    "a_bad_entry_and_quotes": after_a_bad_entry(repeated(b'"\\""')),
    # No JSON: the search must not begin again at each bracket or quote.
    "brackets": b"[" * SIZE,
    "quotes": b'"' * (SIZE - 1),
    "quotes_that_are_never_closed": b'"\\' * (SIZE // 2),
    "results_that_are_never_closed": (
        b'{"data":{"results":{"AAA":"' + b'\\"' * (SIZE // 2 - 50)
    ),
    "backslashes": b'{"data":{"results":"' + b"\\" * (SIZE - 50),
    # Single values of the whole size. Python converts long numbers in quadratic time.
    "a_long_text": with_results(b'{"AAA":"%b"}' % (b"x" * SIZE)),
    "a_long_number": with_results(b'{"AAA":%b}' % (b"1" * SIZE)),
    "a_long_number_outside": with_meta(b'{"rate_limit":{"limit":%b}}' % (b"1" * SIZE)),
}


def decode_or_reject(body: bytes) -> None:
    """Decode a body. Either outcome is fine, as long as it takes little time and memory."""
    with suppress(BadResponse):
        decode_response(body, SYMBOLS)


@pytest.mark.parametrize("bomb", BOMBS.values(), ids=BOMBS)
def test_time_and_memory_are_bounded_by_the_length_of_the_body(bomb: bytes) -> None:
    # It takes a tenth of this time. A quadratic algorithm takes more, and an hour for
    # 1 MiB.
    started_at = time.process_time()
    decode_or_reject(bomb)
    assert time.process_time() - started_at < 3

    # Traced apart: tracing takes time.
    tracemalloc.start()
    decode_or_reject(bomb)
    _, peak_bytes = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak_bytes < 60 * len(bomb)
