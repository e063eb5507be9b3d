"""Decode the upstream's JSON: the envelope first, then each symbol's entry by itself.

Entries stay raw bytes here, so that one bad entry cannot spoil the others; `entry` decodes
them. The decoder is lenient beyond the vendor's documentation: unknown fields are kept,
auxiliary fields of the wrong type are ignored, and only a body that is not a response at all
is rejected.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Annotated, Any, Final, NamedTuple

import msgspec

from connector.core import spelling
from connector.core.entry import moment_or_none
from connector.core.model import Status, Value
from connector.core.positioning import NO_MODELS, ResponseModels
from connector.errors import BadResponse

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Iterator, Mapping

# Larger bodies are not searched for a bad value: the search is in Python, and blocks.
_MAX_SCAN_BYTES: Final = 1024 * 1024

# Exchanges go into every record, so a server must not be able to inflate them. A longer
# filter cannot be the one that was asked for: the configuration has the same limits.
_MAX_EXCHANGES: Final = 16
_MAX_EXCHANGE_CHARACTERS: Final = 40

# Longer texts of the server are cut, since they go into records, logs and errors.
_MAX_TEXT_CHARACTERS: Final = 200

# Bounds the search for a symbol under another name. A response has 8 symbols.
_MAX_NAMES_COMPARED: Final = 100
_MAX_NAME_CHARACTERS: Final = 80

# `results` is at the top level of the response, or inside `data`.
_MAX_RESULTS_DEPTH: Final = 2

_NULL: Final = b"null"

# Larger integers lose digits in JSON parsers and in metrics, which store doubles.
_EXACT_IN_A_DOUBLE: Final = msgspec.Meta(ge=-(2**53), le=2**53)


class RateLimit(Value, frozen=True):
    """The server's limit: requests per minute, those left, and the reset in Unix seconds."""

    limit: Annotated[int, _EXACT_IN_A_DOUBLE] | None = None
    remaining: Annotated[int, _EXACT_IN_A_DOUBLE] | None = None
    reset_at_seconds: Annotated[float, _EXACT_IN_A_DOUBLE] | None = None


class Quota(Value, frozen=True):
    """The server's count of a month: all requests of the user, over all keys.

    `period` names the month as `YYYYMM`. A plan without a cap has no limit.
    """

    limit: int | None = None
    used: int | None = None
    remaining: int | None = None
    period: str | None = None


class ResponseMeta(Value, frozen=True):
    """The metadata of a response; every part is optional. `server_at` is in microseconds.

    `venue_filter` holds the venues that the levels were computed for, in lower case. It is
    empty if no filter was applied, and None if the response does not say.
    """

    server_at: int | None = None
    request_id: str | None = None
    exchanges: tuple[str, ...] = ()
    venue_filter: frozenset[str] | None = None
    rate_limit: RateLimit = RateLimit()
    models: ResponseModels = NO_MODELS


class Refusal(Value, frozen=True):
    """The `error` of a response with `success: false`."""

    code: str
    message: str
    details: dict[str, Any]


class Response(Value, frozen=True):
    """A decoded response.

    `answers` maps each requested symbol to its raw entry, or to the status that says why it has
    none. `inconsistencies` names each contradiction within the response or with the request, one
    item per symbol.

    `other_spellings` maps the symbols that have neither to the name of an entry that is probably
    theirs: they are not missing, but it would be a guess to publish that entry.
    """

    answers: Mapping[str, bytes | Status]
    meta: ResponseMeta
    refusal: Refusal | None = None
    inconsistencies: tuple[str, ...] = ()
    other_spellings: Mapping[str, str] = {}


class _Data(msgspec.Struct):
    results: msgspec.Raw = msgspec.Raw(b"")
    missing: Any = None
    invalid: Any = None


class _Envelope(_Data):
    success: Any = None
    data: _Data | None = None
    error: Any = None
    meta: Any = None


class _Parts(NamedTuple):
    """A body taken apart. `duplicates` counts repeated keys in `results`; the last one wins."""

    envelope: _Envelope
    entries: dict[str, bytes]
    duplicates: int


class _Span(NamedTuple):
    """The value of an object's member in a body: `body[start:end]`."""

    name: str
    start: int
    end: int


_decode_envelope: Final = msgspec.json.Decoder(_Envelope).decode
_decode_results: Final = msgspec.json.Decoder(dict[str, msgspec.Raw] | None).decode

# Everything that msgspec raises for a body that is not JSON of the expected type.
_DECODE_ERRORS: Final = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)


def decode_response(body: bytes, symbols: Collection[str]) -> Response:
    """Decode the body that answers a request for `symbols`.

    Accepts the data fields both at the top level and inside `data`.

    Raises:
        BadResponse: The body is not a response of this API.
    """
    envelope, entries, duplicates = _take_apart(body)
    meta = _meta(envelope.meta)
    # Absent or null `success` means true: the documented example has none.
    if envelope.success is False:
        return Response({}, meta, refusal=_refusal(envelope.error))

    data = envelope.data or envelope
    _check_results(data)
    missing = _names(data.missing)
    invalid = _names(data.invalid)

    # Contradictions do not reject the answer, but somebody should look at them.
    requested, others = _split_entries(entries, symbols)
    inconsistencies = ["duplicate_keys"] * duplicates
    inconsistencies += ["unrequested"] * len(others)
    answers: dict[str, bytes | Status] = {}
    other_spellings = {}
    for symbol in symbols:
        entry = requested.get(symbol, _NULL)
        is_missing = symbol.casefold() in missing
        is_invalid = symbol.casefold() in invalid
        has_entry = entry != _NULL
        if not has_entry:
            is_listed = is_missing or is_invalid
            name = _similar_name(symbol, others, is_listed=is_listed)
            if name is not None:
                other_spellings[symbol] = name
                continue

        # Exactly one of the three should say where the symbol belongs.
        places = [is_missing, is_invalid, has_entry].count(True)
        if places > 1:
            inconsistencies.append("both_lists")
        elif places == 0:
            inconsistencies.append("not_listed")

        if is_invalid:
            answers[symbol] = Status.INVALID
        elif has_entry:
            answers[symbol] = entry
        else:
            answers[symbol] = Status.MISSING
    return Response(
        answers,
        meta,
        inconsistencies=tuple(inconsistencies),
        other_spellings=other_spellings,
    )


def _split_entries(
    entries: Mapping[str, bytes], symbols: Collection[str]
) -> tuple[dict[str, bytes], dict[str, bytes]]:
    """Return the entries of the requested symbols, and all others by their own names.

    Servers write symbols in another case, too.
    """
    requested = {}
    others = dict(entries)
    for symbol in symbols:
        if symbol in others:
            requested[symbol] = others.pop(symbol)
    if not others:
        # Nearly always.
        return requested, others

    for symbol in symbols:
        if requested.get(symbol, _NULL) == _NULL:
            name = spelling.in_another_case(symbol, _names_with_entries(others))
            if name is not None:
                requested[symbol] = others.pop(name)
    return requested, others


def _similar_name(
    symbol: str, others: Mapping[str, bytes], *, is_listed: bool
) -> str | None:
    """Return the name under which the entry of a symbol without one probably is."""
    # A list that has the symbol says more than a name that is only similar.
    names = _names_with_entries(others)
    return spelling.in_other_words(symbol, names, similar=not is_listed)


def _names_with_entries(entries: Mapping[str, bytes]) -> list[str]:
    """Return the first names that have an entry other than null."""
    names: list[str] = []
    for name, entry in entries.items():
        if len(names) == _MAX_NAMES_COMPARED:
            break
        # No symbol is longer, and long names take long to compare.
        if entry != _NULL and len(name) <= _MAX_NAME_CHARACTERS:
            names.append(name)
    return names


def _check_results(data: _Data) -> None:
    """Raise BadResponse unless the data fields are those of a response."""
    results = bytes(data.results)
    if not results and data.missing is None and data.invalid is None:
        raise BadResponse(
            "the body is JSON, but has none of `results`, `missing` and `invalid`"
        )
    if results and not results.startswith((b"{", _NULL)):
        raise BadResponse("the body is JSON, but its `results` is not an object")


def _take_apart(body: bytes) -> _Parts:
    """Split a body into its envelope and the raw entry of each symbol."""
    entries = {}
    try:
        envelope = _decode_envelope(body)
        data = envelope.data or envelope
        raw = bytes(data.results)
        results = _decode_results(raw or _NULL) or {}
        for symbol, entry in results.items():
            entries[symbol] = bytes(entry)
    except _DECODE_ERRORS as error:
        return _take_apart_by_brackets(body, str(error))

    # A repeated key leaves a colon that belongs to no entry. So does a colon in a symbol's
    # name, so the slow count decides.
    colons_in_entries = sum(entry.count(b":") for entry in entries.values())
    if raw.count(b":") == len(entries) + colons_in_entries:
        return _Parts(envelope, entries, 0)
    spans = list(_find_entries(body))
    symbols = {span.name for span in spans}
    return _Parts(envelope, entries, len(spans) - len(symbols))


def _take_apart_by_brackets(body: bytes, reason: str) -> _Parts:
    """Split a body in which a value is not valid JSON, such as a NaN.

    Cut out all entries by their brackets, then decode the rest with null in their places.
    """
    spans = list(_find_entries(body))
    rest = _with_nulls(body, spans)
    try:
        envelope = _decode_envelope(_without_bad_meta(rest))
    except _DECODE_ERRORS:
        raise BadResponse(
            f"the body ({len(body)} bytes) is not a JSON response: {reason[:200]}"
        ) from None

    entries = {}
    for span in spans:
        entry = body[span.start : span.end]
        entries[span.name] = entry.strip()
    return _Parts(envelope, entries, len(spans) - len(entries))


def _with_nulls(body: bytes, spans: Iterable[_Span]) -> bytes:
    """Replace spans of a body, given in ascending order, with null."""
    # Replacing in place would move the rest of the body once for each span.
    pieces = []
    kept_from = 0
    for span in spans:
        pieces += [body[kept_from : span.start], _NULL]
        kept_from = span.end
    pieces.append(body[kept_from:])
    return b"".join(pieces)


def _without_bad_meta(body: bytes) -> bytes:
    """Replace `meta` with null if it is not valid JSON.

    It is auxiliary. Servers write NaN there for figures that they could not compute.
    """
    if len(body) > _MAX_SCAN_BYTES:
        return body
    tokens = _TOKEN.finditer(body)
    first = next(tokens, None)
    if first is None or first.group() != b"{":
        return body

    bad = []
    for span in _members(tokens):
        if span.name == "meta" and not _is_json(body[span.start : span.end]):
            bad.append(span)
    return _with_nulls(body, bad)


def _is_json(raw: bytes) -> bool:
    try:
        msgspec.json.decode(raw)
    except _DECODE_ERRORS:
        return False
    return True


# A string without a closing quote extends to the end of the body. Otherwise the search would
# start again at each of its quotes, which takes quadratic time.
_TOKEN: Final = re.compile(rb'"(?:[^"\\]|\\.?)*+"?|[{}\[\],:]', re.DOTALL)
_DEPTH_CHANGES: Final = {b"{": 1, b"[": 1, b"}": -1, b"]": -1}


def _find_entries(body: bytes) -> Iterator[_Span]:
    """Yield each value in `results`, found by its brackets alone: it need not be valid JSON."""
    if len(body) > _MAX_SCAN_BYTES:
        return
    tokens = _TOKEN.finditer(body)
    if _enter_results(tokens):
        yield from _members(tokens)


def _members(tokens: Iterator[re.Match[bytes]]) -> Iterator[_Span]:
    """Yield the members of an object, from just behind the bracket that opens it."""
    depth = 0
    key = b""
    start = None
    for token in tokens:
        text = token.group()
        # At depth 0 are the keys and separators of the object itself; the rest is skipped.
        if depth == 0:
            if text in b",}]":
                if start is not None:
                    name = key[1:-1].decode(errors="replace")
                    yield _Span(name, start, token.start())
                start = None
                if text != b",":
                    return
            elif text == b":":
                start = token.end()
            elif start is None:
                key = text
        depth += _DEPTH_CHANGES.get(text, 0)


def _enter_results(tokens: Iterator[re.Match[bytes]]) -> bool:
    """Advance to just behind the bracket that opens `results`.

    Return False if there is none.
    """
    depth = 0
    before_last = b""
    last = b""
    for token in tokens:
        text = token.group()
        opens_results = text == b"{" and last == b":" and before_last == b'"results"'
        if opens_results and depth <= _MAX_RESULTS_DEPTH:
            return True
        depth += _DEPTH_CHANGES.get(text, 0)
        before_last = last
        last = text
    return False


def _meta(value: Any) -> ResponseMeta:
    fields = value if isinstance(value, dict) else {}
    venues = _venues(fields)
    names = (venues or ())[:_MAX_EXCHANGES]
    return ResponseMeta(
        server_at=moment_or_none(fields.get("timestamp")),
        request_id=_text_or_none(fields.get("request_id")),
        exchanges=tuple(name[:_MAX_EXCHANGE_CHARACTERS] for name in names),
        venue_filter=_venue_filter(venues),
        rate_limit=_rate_limit(fields.get("rate_limit")),
        models=ResponseModels.of(fields.get("extra")),
    )


def _venues(meta: dict[str, Any]) -> list[str] | None:
    """Return the venues in `exchanges_filtered`, or None if it is absent or unreadable."""
    # Absent is unknown, but null says that there was no filter.
    value = meta.get("exchanges_filtered", False)
    if value is None:
        return []
    # Requests join the names with commas, and a server may repeat them as they came.
    if isinstance(value, str):
        value = value.split(",")
    if not isinstance(value, list):
        return None
    names = [name for name in value if isinstance(name, str)]
    # Objects, say, would need a reading of their own; without one the filter is unknown.
    return names if names or not value else None


def _venue_filter(venues: list[str] | None) -> frozenset[str] | None:
    if venues is None:
        return None
    names = set()
    for venue in venues[: _MAX_EXCHANGES + 1]:
        name = venue.strip().lower()
        if name:
            names.add(name[: _MAX_EXCHANGE_CHARACTERS + 1])
    return frozenset(names)


def _refusal(error: Any) -> Refusal:
    fields = error if isinstance(error, dict) else {}
    details = fields.get("details")
    return Refusal(
        code=_text_or_none(fields.get("code")) or "UNKNOWN",
        message=_text_or_none(fields.get("message")) or "",
        details=details if isinstance(details, dict) else {},
    )


def _rate_limit(value: Any) -> RateLimit:
    fields = value if isinstance(value, dict) else {}
    renamed = {"reset_at_seconds": fields.get("reset"), **fields}
    try:
        # Not strict: numbers that arrive as strings are accepted.
        return msgspec.convert(renamed, RateLimit, strict=False)
    except msgspec.ValidationError:
        return RateLimit()


def _names(value: Any) -> frozenset[str]:
    """Return the names of a list in lower case."""
    return frozenset(str(name).casefold() for name in _list_or_empty(value))


def _text_or_none(value: Any) -> str | None:
    return value[:_MAX_TEXT_CHARACTERS] if isinstance(value, str) else None


def _list_or_empty(value: Any) -> list[Any]:
    return value if isinstance(value, list) else []
