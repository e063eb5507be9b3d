"""A response is split into symbols; whatever one entry is, the others are answered."""

from __future__ import annotations

import json
import time
import tracemalloc
from typing import Any

import pytest

from connector.core.decode import RateLimit, Response, decode_response
from connector.core.entry import decode_entry
from connector.core.model import Status
from connector.errors import BadResponse, EntryError
from tests.support.levels import NOW, SECOND, body, document, encoded

SYMBOLS = ("AAA", "BBB", "CCC")
GOOD = encoded({"spot_price": 1.5})
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


def answers(results: bytes, **lists: Any) -> Response:
    """Decode what answers a request for `SYMBOLS`."""
    fields = b"".join(
        b',"%b":%b' % (name.encode(), encoded(value)) for name, value in lists.items()
    )
    return decode_response(
        b'{"success":true,"data":{"results":%b%b}}' % (results, fields), SYMBOLS
    )


@pytest.mark.parametrize("wrapped", [True, False])
def test_the_data_fields_are_accepted_with_and_without_data_around_them(
    wrapped: bool,
) -> None:
    fields = {
        "results": {"AAA": document(), "BBB": None},
        "missing": ["BBB"],
        "invalid": ["CCC"],
    }
    response = decode_response(
        encoded(
            {"success": True, "data": fields}
            if wrapped
            else {"success": True, **fields}
        ),
        SYMBOLS,
    )
    assert json.loads(response.answers["AAA"]) == document()
    assert (response.answers["BBB"], response.answers["CCC"]) == (
        Status.MISSING,
        Status.INVALID,
    )
    assert response.inconsistencies == ()


@pytest.mark.parametrize("flat", [True, False])
def test_the_documentations_example_is_an_empty_result(flat: bool) -> None:
    fields = {
        "results": {},
        **{name: ["string"] for name in ("requested", "served", "missing", "invalid")},
    }
    response = decode_response(
        encoded(fields if flat else {"success": True, "data": fields}), SYMBOLS
    )
    assert response.answers == dict.fromkeys(SYMBOLS, Status.MISSING)
    assert response.refusal is None


def test_success_absent_or_null_is_true() -> None:
    for envelope in ({}, {"success": None}, {"success": True}):
        response = decode_response(
            encoded({**envelope, "data": {"results": {"AAA": {}}}}), ["AAA"]
        )
        assert response.answers == {"AAA": b"{}"}


def test_what_is_answered_keeps_the_order_of_the_request() -> None:
    response = decode_response(body({"CCC": {}, "AAA": {}, "BBB": {}}), SYMBOLS)
    assert tuple(response.answers) == SYMBOLS


@pytest.mark.parametrize(
    ("results", "lists", "answer", "inconsistencies"),
    [
        pytest.param({"AAA": {}}, {}, b"{}", [], id="an entry"),
        pytest.param(
            {"AAA": None},
            {"missing": ["AAA"]},
            Status.MISSING,
            [],
            id="null and missing",
        ),
        pytest.param(
            {}, {"missing": ["AAA"]}, Status.MISSING, [], id="absent and missing"
        ),
        pytest.param(
            {"AAA": None},
            {"invalid": ["AAA"]},
            Status.INVALID,
            [],
            id="null and invalid",
        ),
        pytest.param(
            {}, {"invalid": ["AAA"]}, Status.INVALID, [], id="absent and invalid"
        ),
        pytest.param(
            {"AAA": None}, {}, Status.MISSING, ["not_listed"], id="null in no list"
        ),
        pytest.param({}, {}, Status.MISSING, ["not_listed"], id="nowhere"),
        pytest.param(
            {"AAA": {}},
            {"invalid": ["AAA"]},
            Status.INVALID,
            ["both_lists"],
            id="entry but invalid",
        ),
        pytest.param(
            {"AAA": {}},
            {"missing": ["AAA"]},
            b"{}",
            ["both_lists"],
            id="entry but missing",
        ),
        pytest.param(
            {},
            {"missing": ["AAA"], "invalid": ["AAA"]},
            Status.INVALID,
            ["both_lists"],
            id="both lists",
        ),
        pytest.param(
            {"AAA": {}},
            {"missing": ["AAA"], "invalid": ["AAA"]},
            Status.INVALID,
            ["both_lists"],
            id="everywhere",
        ),
    ],
)
def test_an_answer_is_invalid_then_an_entry_then_missing(
    results: dict[str, Any],
    lists: dict[str, Any],
    answer: bytes | Status,
    inconsistencies: list[str],
) -> None:
    response = decode_response(body(results, **lists), ["AAA"])
    assert response.answers == {"AAA": answer}
    assert list(response.inconsistencies) == inconsistencies


def test_null_is_null_with_blanks_around_it() -> None:
    assert answers(b'{"AAA": \n null \t, "BBB" : {} , "CCC":null}').answers == {
        "AAA": Status.MISSING,
        "BBB": b"{}",
        "CCC": Status.MISSING,
    }


def test_symbols_nobody_asked_for_are_ignored_and_counted() -> None:
    response = decode_response(
        body({"AAA": {}, "XXX": {}, "YYY": None}, missing=["ZZZ"]), ["AAA"]
    )
    assert response.answers == {"AAA": b"{}"}
    assert response.inconsistencies == ("unrequested", "unrequested")


@pytest.mark.parametrize(
    "first", [b'"AAA":{"a":1}', b'"AAA":{}', b'"AAA" :{}', b'"AAA":null']
)
@pytest.mark.parametrize(
    "second", [b'"AAA":{"b":2}', b'"AAA" :{"b":2}', b'"AAA"\n:\n{"b":2}']
)
def test_a_symbol_that_stands_twice_is_counted_and_the_others_are_answered(
    first: bytes, second: bytes
) -> None:
    response = answers(b'{%b,"BBB":{},%b,"CCC":{}}' % (first, second))
    assert response.inconsistencies == ("duplicate_keys",)
    assert response.answers == {"AAA": b'{"b":2}', "BBB": b"{}", "CCC": b"{}"}


@pytest.mark.parametrize(
    "wrong", [None, {}, "AAA", 7, [None, 3, ["AAA"], {"AAA": 1}]], ids=str
)
def test_lists_of_the_wrong_type_list_nothing(wrong: Any) -> None:
    response = decode_response(
        body({"AAA": {}, "BBB": None}, missing=wrong, invalid=wrong), ["AAA", "BBB"]
    )
    assert response.answers == {"AAA": b"{}", "BBB": Status.MISSING}


@pytest.mark.parametrize("raw", NO_RESPONSES.values(), ids=NO_RESPONSES)
def test_a_body_that_is_no_response_is_refused(raw: bytes) -> None:
    with pytest.raises(BadResponse):
        decode_response(raw, SYMBOLS)


def test_a_body_cut_off_anywhere_is_refused() -> None:
    whole = body(
        {"AAA": document(), "BBB": {"zones": [{"x": '}]\\"{'}]}}, missing=["CCC"]
    )
    for length in range(len(whole)):
        with pytest.raises(BadResponse):
            decode_response(whole[:length], SYMBOLS)


def test_a_refusal_is_read_before_anything_else() -> None:
    error = {
        "code": "VALIDATION_ERROR",
        "message": "no",
        "details": {"errors": ["symbols"]},
    }
    response = decode_response(
        encoded({"success": False, "error": error, "data": {"results": {"AAA": {}}}}),
        ["AAA"],
    )
    assert response.answers == {}
    assert response.refusal is not None
    assert (response.refusal.code, response.refusal.message) == (
        "VALIDATION_ERROR",
        "no",
    )
    assert response.refusal.details == {"errors": ["symbols"]}


@pytest.mark.parametrize(
    "error", [None, "no", [], {}, {"code": 3, "message": None, "details": []}], ids=str
)
def test_a_refusal_without_a_usable_error_is_still_one(error: Any) -> None:
    refusal = decode_response(
        encoded({"success": False, "error": error}), ["AAA"]
    ).refusal
    assert refusal is not None
    assert (refusal.code, refusal.details) == ("UNKNOWN", {})


def test_meta_is_taken_as_documented() -> None:
    meta = {
        "version": "2",
        "timestamp": "2027-01-15T08:00:00.25Z",
        "request_id": "abc",
        "exchanges_filtered": ["okx", "bybit"],
        "rate_limit": {"limit": 60, "remaining": 7, "reset": 1_800_000_060},
        "unknown": {"x": 1},
    }
    read = decode_response(encoded({"data": {"results": {}}, "meta": meta}), []).meta
    assert (read.server_at, read.request_id, read.exchanges) == (
        NOW + SECOND // 4,
        "abc",
        ("okx", "bybit"),
    )
    assert read.rate_limit == RateLimit(60, 7, 1_800_000_060)


@pytest.mark.parametrize(
    "wrong",
    [None, 5, "x", [1], {"a": None}, 1e300, 10**400, "nan", "inf", True],
    ids=lambda v: str(v)[:9],
)
def test_meta_of_the_wrong_type_never_spoils_the_response(wrong: Any) -> None:
    names = ("timestamp", "request_id", "exchanges_filtered", "rate_limit")
    limits = {"rate_limit": dict.fromkeys(("limit", "remaining", "reset"), wrong)}
    for meta in (
        wrong,
        dict.fromkeys(names, wrong),
        limits,
        {"rate_limit": {"reset": wrong}},
    ):
        response = decode_response(
            encoded({"data": {"results": {"AAA": {}}}, "meta": meta}), ["AAA"]
        )
        assert response.answers == {"AAA": b"{}"}


@pytest.mark.parametrize("reset", ["nan", "inf", "-inf", "NaN", "Infinity"])
def test_a_reset_that_is_no_moment_is_none(reset: str) -> None:
    meta = {"rate_limit": {"limit": 60, "remaining": 3, "reset": reset}}
    assert (
        decode_response(
            encoded({"data": {"results": {}}, "meta": meta}), []
        ).meta.rate_limit.reset_at_seconds
        is None
    )


@pytest.mark.parametrize("position", [0, 1, 2], ids=["first", "in the middle", "last"])
@pytest.mark.parametrize("flat", [False, True], ids=["wrapped", "flat"])
@pytest.mark.parametrize("bad", BAD_ENTRIES.values(), ids=BAD_ENTRIES)
def test_one_bad_entry_never_takes_the_others_with_it(
    bad: bytes, flat: bool, position: int
) -> None:
    raw = [GOOD] * 3
    raw[position] = bad
    results = b",".join(
        b'"%b": %b' % (symbol.encode(), one)
        for symbol, one in zip(SYMBOLS, raw, strict=True)
    )
    envelope = (
        b'{"success":true,%b"results":{%b},"missing":[]%b,"meta":{"version":"2"}}'
    )
    whole = envelope % ((b"", results, b"") if flat else (b'"data":{', results, b"}"))
    response = decode_response(whole, SYMBOLS)
    assert response.meta is not None
    assert list(response.answers.values()) == raw
    for answer, expected in zip(response.answers.values(), raw, strict=True):
        assert isinstance(answer, bytes)
        if expected is GOOD:
            assert decode_entry(answer, NOW).levels.spot_price == 1.5
        else:
            with pytest.raises(EntryError):
                decode_entry(answer, NOW)


def test_several_bad_entries_leave_the_rest() -> None:
    response = answers(
        b'{"AAA":{"x":NaN},"BBB":{"spot_price":1.5},"CCC":{"y":"\\ud800"}}'
    )
    assert response.answers["BBB"] == GOOD.replace(b" ", b"")
    assert (response.answers["AAA"], response.answers["CCC"]) == (
        b'{"x":NaN}',
        b'{"y":"\\ud800"}',
    )


def test_brackets_and_quotes_inside_texts_do_not_mislead_the_search_for_a_bad_entry() -> (
    None
):
    tricky = b'{"a":"}]{[\\",:\\\\","results":{"AAA":0}}'
    response = answers(
        b'{"AAA":%b,"BBB":{"x":NaN},"CCC":%b}' % (tricky, tricky), missing=["}"]
    )
    assert response.answers == {"AAA": tricky, "BBB": b'{"x":NaN}', "CCC": tricky}


def test_a_field_called_results_elsewhere_is_not_the_results() -> None:
    envelope = b'{"meta":{"extra":{"results":{"AAA":1}}},"success":true,"data":{"results":{"AAA":{"x":NaN},"BBB":{}}}}'
    response = decode_response(envelope, ["AAA", "BBB"])
    assert response.answers == {"AAA": b'{"x":NaN}', "BBB": b"{}"}


SIZE = 2**16


def several(unit: bytes, size: int = SIZE - 100) -> bytes:
    """One piece again and again, with commas between, `%d` in it counted."""
    count = size // (len(unit % 1_000_000 if b"%d" in unit else unit) + 1)
    return b",".join(
        unit % number if b"%d" in unit else unit for number in range(count)
    )


BOMBS = {
    "many_symbols": b'{"data":{"results":{%b}}}' % several(b'"%d":0'),
    "one_symbol_many_times": b'{"data":{"results":{%b}}}' % several(b'"A":0'),
    "a_long_list": b'{"data":{"results":{},"missing":[%b]}}' % several(b"%d"),
    "a_list_of_lists": b'{"data":{"results":{},"missing":[%b]}}' % several(b"[]"),
    "much_meta": b'{"data":{"results":{}},"meta":{%b}}' % several(b'"%d":{}'),
    "lists_in_meta": b'{"data":{"results":{}},"meta":[%b]}' % several(b"[]"),
    "details": b'{"success":false,"error":{"details":{"errors":[%b]}}}'
    % several(b"[]"),
    "a_bad_entry_and_brackets": b'{"data":{"results":{"AAA":NaN,"BBB":[%b]}}}'
    % several(b"[]"),
    "a_bad_entry_and_quotes": b'{"data":{"results":{"AAA":NaN,"BBB":[%b]}}}'
    % several(b'"\\""'),
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
def test_what_a_body_costs_is_bounded_by_its_length(bomb: bytes) -> None:
    started = time.process_time()
    is_taken(bomb)
    assert (
        time.process_time() - started < 3
    )  # a tenth of it; what is quadratic takes more, and an hour at 1 MiB
    tracemalloc.start()
    is_taken(bomb)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 60 * len(bomb)


def is_taken(body: bytes) -> bool:
    try:
        decode_response(body, SYMBOLS)
    except BadResponse:
        return False
    return True
