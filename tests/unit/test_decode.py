"""Responses are split into symbols, and a bad entry never affects the others."""

from __future__ import annotations

import json
import time
import tracemalloc
from contextlib import suppress
from typing import Any

import pytest

from connector.core.decode import RateLimit, Response, decode_response
from connector.core.entry import decode_entry
from connector.core.model import Status
from connector.errors import BadResponse, EntryError
from tests.support.levels import NOW, SECOND, body, document, encoded

SYMBOLS = ("AAA", "BBB", "CCC")
GOOD = encoded({"spot_price": 1.5})
# Deeper than any recursion limit, of Python or of a C library.
DEEP = 100_000

BAD_ENTRIES = {
    "nan": b'{"spot_price":NaN}',
    "infinity": b'{"spot_price":-Infinity}',
    "number_too_large": b'{"spot_price":1e999}',
    "integer_too_large": b'{"spot_price":1' + b"0" * 5000 + b"}",
    "lone_surrogate": b'{"label":"\\ud800"}',
    "invalid_utf8": b'{"label":"\xff\xfe"}',
    "invalid_utf8_name": b'{"\xff":1}',
    "bad_escape": b'{"label":"\\x"}',
    "control_character": b'{"label":"\n"}',
    "deep_lists": b'{"x":' + b"[" * DEEP + b"]" * DEEP + b"}",
    "deep_objects": b'{"a":' * DEEP + b"1" + b"}" * DEEP,
    "deep_but_short": b'{"x":' + b"[" * 20_000 + b"]" * 20_000 + b"}",
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
    "computed_at_garbage": b'{"computed_at":"yesterday"}',
    "computed_at_empty": b'{"computed_at":""}',
    "computed_at_number": b'{"computed_at":1800000000}',
    "computed_at_future": b'{"computed_at":"2099-01-01T00:00:00Z"}',
}

NO_RESPONSES = {
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
    "success_alone": b'{"success":true}',
    "empty_data": b'{"success":true,"data":{}}',
    "null_data": b'{"success":true,"data":null}',
    "data_of_another_type": b'{"success":true,"data":[1]}',
    "results_list": b'{"success":true,"data":{"results":[]}}',
    "results_text": b'{"success":true,"data":{"results":"none"}}',
    "results_number": b'{"success":true,"data":{"results":0}}',
    "binary": bytes(range(256)),
    "invalid_utf8_outside": b'{"success":true,"\xff":1',
    "deep_outside": b"[" * DEEP,
    "deep_meta": b'{"data":{"results":{}},"meta":' + b"[" * DEEP + b"]" * DEEP + b"}",
    "trailing_garbage": b'{"data":{"results":{}}} {}',
}


def decode(results: bytes, **lists: Any) -> Response:
    """Decode a response to a request for `SYMBOLS`, with `results` as raw JSON."""
    data = b'"results":' + results
    for name, value in lists.items():
        data += b',"%b":%b' % (name.encode(), encoded(value))
    return decode_response(b'{"success":true,"data":{%b}}' % data, SYMBOLS)


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

    assert json.loads(response.answers["AAA"]) == document()
    assert response.answers["BBB"] is Status.MISSING
    assert response.answers["CCC"] is Status.INVALID
    assert response.inconsistencies == ()


@pytest.mark.parametrize("flat", [True, False])
def test_the_example_of_the_documentation_is_an_empty_result(flat: bool) -> None:
    fields = {
        "results": {},
        "requested": ["string"],
        "served": ["string"],
        "missing": ["string"],
        "invalid": ["string"],
    }
    envelope = fields if flat else {"success": True, "data": fields}

    response = decode_response(encoded(envelope), SYMBOLS)

    assert response.answers == dict.fromkeys(SYMBOLS, Status.MISSING)
    assert response.refusal is None


def test_absent_or_null_success_means_true() -> None:
    data: dict[str, Any] = {"data": {"results": {"AAA": {}}}}
    for success in ({}, {"success": None}, {"success": True}):
        response = decode_response(encoded({**success, **data}), ["AAA"])
        assert response.answers == {"AAA": b"{}"}


def test_answers_keep_the_order_of_the_request() -> None:
    response = decode_response(body({"CCC": {}, "AAA": {}, "BBB": {}}), SYMBOLS)
    assert tuple(response.answers) == SYMBOLS


@pytest.mark.parametrize(
    ("results", "lists", "answer", "inconsistencies"),
    [
        ({"AAA": {}}, [], b"{}", []),
        ({"AAA": None}, ["missing"], Status.MISSING, []),
        ({}, ["missing"], Status.MISSING, []),
        ({"AAA": None}, ["invalid"], Status.INVALID, []),
        ({}, ["invalid"], Status.INVALID, []),
        ({"AAA": None}, [], Status.MISSING, ["not_listed"]),
        ({}, [], Status.MISSING, ["not_listed"]),
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
    response = decode(b'{"AAA": \n null \t, "BBB" : {} , "CCC":null}')
    assert response.answers == {
        "AAA": Status.MISSING,
        "BBB": b"{}",
        "CCC": Status.MISSING,
    }


def test_unrequested_symbols_are_ignored_and_counted() -> None:
    raw = body({"AAA": {}, "XXX": {}, "YYY": None}, missing=["ZZZ"])
    response = decode_response(raw, ["AAA"])
    assert response.answers == {"AAA": b"{}"}
    assert response.inconsistencies == ("unrequested", "unrequested")


@pytest.mark.parametrize(
    "first", [b'"AAA":{"a":1}', b'"AAA":{}', b'"AAA" :{}', b'"AAA":null']
)
@pytest.mark.parametrize(
    "second", [b'"AAA":{"b":2}', b'"AAA" :{"b":2}', b'"AAA"\n:\n{"b":2}']
)
def test_a_repeated_symbol_is_counted_and_its_last_entry_wins(
    first: bytes, second: bytes
) -> None:
    response = decode(b'{%b,"BBB":{},%b,"CCC":{}}' % (first, second))
    assert response.inconsistencies == ("duplicate_keys",)
    assert response.answers == {"AAA": b'{"b":2}', "BBB": b"{}", "CCC": b"{}"}


@pytest.mark.parametrize(
    "wrong", [None, {}, "AAA", 7, [None, 3, ["AAA"], {"AAA": 1}]], ids=str
)
def test_lists_of_the_wrong_type_count_as_empty(wrong: Any) -> None:
    raw = body({"AAA": {}, "BBB": None}, missing=wrong, invalid=wrong)
    response = decode_response(raw, ["AAA", "BBB"])
    assert response.answers == {"AAA": b"{}", "BBB": Status.MISSING}


@pytest.mark.parametrize("raw", NO_RESPONSES.values(), ids=NO_RESPONSES)
def test_a_body_that_is_not_a_response_is_rejected(raw: bytes) -> None:
    with pytest.raises(BadResponse):
        decode_response(raw, SYMBOLS)


def test_a_truncated_body_is_rejected() -> None:
    # Brackets and quotes in a text must not pass for the end of the entry.
    tricky = {"zones": [{"x": '}]\\"{'}]}
    whole = body({"AAA": document(), "BBB": tricky}, missing=["CCC"])
    for length in range(len(whole)):
        with pytest.raises(BadResponse):
            decode_response(whole[:length], SYMBOLS)


def test_a_refusal_takes_precedence_over_results() -> None:
    error = {
        "code": "VALIDATION_ERROR",
        "message": "no",
        "details": {"errors": ["symbols"]},
    }
    data: dict[str, Any] = {"results": {"AAA": {}}}

    response = decode_response(
        encoded({"success": False, "error": error, "data": data}), ["AAA"]
    )

    assert response.answers == {}
    refusal = response.refusal
    assert refusal is not None
    assert (refusal.code, refusal.message) == ("VALIDATION_ERROR", "no")
    assert refusal.details == {"errors": ["symbols"]}


@pytest.mark.parametrize(
    "error", [None, "no", [], {}, {"code": 3, "message": None, "details": []}], ids=str
)
def test_a_refusal_without_a_usable_error_is_still_a_refusal(error: Any) -> None:
    response = decode_response(encoded({"success": False, "error": error}), ["AAA"])

    refusal = response.refusal
    assert refusal is not None
    assert (refusal.code, refusal.details) == ("UNKNOWN", {})


def test_meta_is_read_as_documented() -> None:
    meta = {
        "version": "2",
        "timestamp": "2027-01-15T08:00:00.25Z",
        "request_id": "abc",
        "exchanges_filtered": ["okx", "bybit"],
        "rate_limit": {"limit": 60, "remaining": 7, "reset": 1_800_000_060},
        "unknown": {"x": 1},
    }
    read = decode_response(encoded({"data": {"results": {}}, "meta": meta}), []).meta

    assert read.server_at == NOW + SECOND // 4
    assert read.request_id == "abc"
    assert read.exchanges == ("okx", "bybit")
    assert read.rate_limit == RateLimit(60, 7, 1_800_000_060)


def short_id(value: Any) -> str:
    """Return the start of a value: 10**400 would be a name of 401 digits."""
    return str(value)[:9]


@pytest.mark.parametrize(
    "wrong",
    [None, 5, "x", [1], {"a": None}, 1e300, 10**400, "nan", "inf", True],
    ids=short_id,
)
def test_meta_of_the_wrong_type_does_not_affect_the_answers(wrong: Any) -> None:
    names = ("timestamp", "request_id", "exchanges_filtered", "rate_limit")
    wrong_fields = dict.fromkeys(names, wrong)
    wrong_figures = dict.fromkeys(("limit", "remaining", "reset"), wrong)
    wrong_limits = {"rate_limit": wrong_figures}
    wrong_reset = {"rate_limit": {"reset": wrong}}
    data: dict[str, Any] = {"results": {"AAA": {}}}

    for meta in (wrong, wrong_fields, wrong_limits, wrong_reset):
        response = decode_response(encoded({"data": data, "meta": meta}), ["AAA"])
        assert response.answers == {"AAA": b"{}"}


@pytest.mark.parametrize("reset", ["nan", "inf", "-inf", "NaN", "Infinity"])
def test_a_reset_that_is_not_finite_is_ignored(reset: str) -> None:
    meta = {"rate_limit": {"limit": 60, "remaining": 3, "reset": reset}}

    response = decode_response(encoded({"data": {"results": {}}, "meta": meta}), [])

    assert response.meta.rate_limit.reset_at_seconds is None


@pytest.mark.parametrize("position", [0, 1, 2], ids=["first", "in the middle", "last"])
@pytest.mark.parametrize("flat", [False, True], ids=["wrapped", "flat"])
@pytest.mark.parametrize("bad", BAD_ENTRIES.values(), ids=BAD_ENTRIES)
def test_one_bad_entry_does_not_affect_the_others(
    bad: bytes, flat: bool, position: int
) -> None:
    entries = [GOOD] * 3
    entries[position] = bad
    pairs = []
    for symbol, entry in zip(SYMBOLS, entries, strict=True):
        pairs.append(b'"%b": %b' % (symbol.encode(), entry))
    data = b'"results":{%b},"missing":[]' % b",".join(pairs)
    if not flat:
        data = b'"data":{%b}' % data

    response = decode_response(
        b'{"success":true,%b,"meta":{"version":"2"}}' % data, SYMBOLS
    )

    assert list(response.answers.values()) == entries
    for answer, entry in zip(response.answers.values(), entries, strict=True):
        assert isinstance(answer, bytes)
        if entry is GOOD:
            assert decode_entry(answer, NOW).levels.spot_price == 1.5
        else:
            with pytest.raises(EntryError):
                decode_entry(answer, NOW)


def test_several_bad_entries_do_not_affect_the_rest() -> None:
    response = decode(
        b'{"AAA":{"x":NaN},"BBB":{"spot_price":1.5},"CCC":{"y":"\\ud800"}}'
    )
    assert response.answers == {
        "AAA": b'{"x":NaN}',
        "BBB": GOOD.replace(b" ", b""),
        "CCC": b'{"y":"\\ud800"}',
    }


def test_brackets_and_quotes_in_texts_do_not_mislead_the_search() -> None:
    tricky = b'{"a":"}]{[\\",:\\\\","results":{"AAA":0}}'
    response = decode(
        b'{"AAA":%b,"BBB":{"x":NaN},"CCC":%b}' % (tricky, tricky), missing=["}"]
    )
    assert response.answers == {"AAA": tricky, "BBB": b'{"x":NaN}', "CCC": tricky}


def test_a_field_called_results_elsewhere_is_ignored() -> None:
    meta = b'{"extra":{"results":{"AAA":1}}}'
    data = b'{"results":{"AAA":{"x":NaN},"BBB":{}}}'
    envelope = b'{"meta":%b,"success":true,"data":%b}' % (meta, data)

    response = decode_response(envelope, ["AAA", "BBB"])

    assert response.answers == {"AAA": b'{"x":NaN}', "BBB": b"{}"}


# Large enough for quadratic time to be noticed, small enough for many cases.
SIZE = 2**16


def repeated(unit: bytes) -> bytes:
    """Return a list of `unit`, separated by commas, with `%d` replaced by a counter."""

    def item(index: int) -> bytes:
        return unit.replace(b"%d", b"%d" % index)

    longest = item(1_000_000)
    # Leave room for the envelope around the list.
    count = (SIZE - 100) // (len(longest) + 1)
    return b",".join(map(item, range(count)))


BOMBS = {
    "many_symbols": b'{"data":{"results":{%b}}}' % repeated(b'"%d":0'),
    "one_symbol_many_times": b'{"data":{"results":{%b}}}' % repeated(b'"A":0'),
    "a_long_list": b'{"data":{"results":{},"missing":[%b]}}' % repeated(b"%d"),
    "a_list_of_lists": b'{"data":{"results":{},"missing":[%b]}}' % repeated(b"[]"),
    "much_meta": b'{"data":{"results":{}},"meta":{%b}}' % repeated(b'"%d":{}'),
    "lists_in_meta": b'{"data":{"results":{}},"meta":[%b]}' % repeated(b"[]"),
    "details": b'{"success":false,"error":{"details":{"errors":[%b]}}}'
    % repeated(b"[]"),
    "a_bad_entry_and_brackets": b'{"data":{"results":{"AAA":NaN,"BBB":[%b]}}}'
    % repeated(b"[]"),
    "a_bad_entry_and_quotes": b'{"data":{"results":{"AAA":NaN,"BBB":[%b]}}}'
    % repeated(b'"\\""'),
    "brackets": b"[" * SIZE,
    "quotes": b'"' * (SIZE - 1),
    "quotes_that_are_never_closed": b'"\\' * (SIZE // 2),
    "results_that_are_never_closed": b'{"data":{"results":{"AAA":"'
    + b'\\"' * (SIZE // 2 - 50),
    "backslashes": b'{"data":{"results":"' + b"\\" * (SIZE - 50),
    "a_long_text": b'{"data":{"results":{"AAA":"%b"}}}' % (b"x" * SIZE),
    "a_long_number": b'{"data":{"results":{"AAA":%b}}}' % (b"1" * SIZE),
    "a_long_number_outside": b'{"data":{"results":{}},"meta":{"rate_limit":{"limit":%b}}}'
    % (b"1" * SIZE),
}


@pytest.mark.parametrize("bomb", BOMBS.values(), ids=BOMBS)
def test_time_and_memory_are_bounded_by_the_length_of_the_body(bomb: bytes) -> None:
    # It takes a tenth of this time. A quadratic algorithm takes more, and an hour for 1 MiB.
    started_at = time.process_time()
    decode_or_reject(bomb)
    assert time.process_time() - started_at < 3

    tracemalloc.start()
    decode_or_reject(bomb)
    _, peak_bytes = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak_bytes < 60 * len(bomb)


def decode_or_reject(body: bytes) -> None:
    """Decode a body. Either outcome is fine, as long as it takes little time and memory."""
    with suppress(BadResponse):
        decode_response(body, SYMBOLS)
