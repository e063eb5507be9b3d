"""The upstream's JSON, decoded: the envelope first, each symbol's entry apart, so that one cannot spoil another. Pure.

What the API says of itself is in the vendor's documentation; what it does besides is taken as it comes: unknown
fields are kept, auxiliary ones of the wrong type are left out, and only a body that is no response is refused.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Annotated, Any, Final

import msgspec

from connector.core.entry import moment_or_none
from connector.core.model import Status, Value
from connector.errors import BadResponse

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator, Mapping

_MAX_SCAN_BYTES: Final = 1024 * 1024
_MAX_NAMES: Final = 16
_MAX_NAME: Final = 40


_FIGURE: Final = msgspec.Meta(ge=-(2**53), le=2**53)


class RateLimit(Value, frozen=True):
    """The server's figures: requests a minute, those left, and when they are all back (Unix seconds)."""

    limit: Annotated[int, _FIGURE] | None = None
    remaining: Annotated[int, _FIGURE] | None = None
    reset_at_seconds: Annotated[float, _FIGURE] | None = None


class Meta(Value, frozen=True):
    """What a response says of itself; each part as far as it is there. `server_at` in microseconds."""

    server_at: int | None = None
    request_id: str | None = None
    exchanges: tuple[str, ...] = ()
    rate_limit: RateLimit = RateLimit()


class Refusal(Value, frozen=True):
    """The `error` of a response with `success: false`."""

    code: str
    message: str
    details: dict[str, Any]


class Response(Value, frozen=True):
    """One response: per symbol asked for its raw entry, or why there is none.

    `inconsistencies` names each way in which the answer contradicts itself or the request, once per symbol.
    """

    answers: Mapping[str, bytes | Status]
    meta: Meta
    refusal: Refusal | None = None
    inconsistencies: tuple[str, ...] = ()


class _Data(msgspec.Struct):
    results: msgspec.Raw = msgspec.Raw(b"")
    missing: Any = None
    invalid: Any = None


class _Envelope(_Data):
    success: Any = None
    data: _Data | None = None
    error: Any = None
    meta: Any = None


_envelope: Final = msgspec.json.Decoder(_Envelope)
_results: Final = msgspec.json.Decoder(dict[str, msgspec.Raw] | None)


def decode_response(body: bytes, symbols: Collection[str]) -> Response:
    """Decode a body that answers a request for `symbols`. Accepts the five data fields with or without `data`.

    Raises:
        BadResponse: where it is no response of this API at all.
    """
    envelope, entries, duplicates = _split(body)
    meta = _meta(envelope.meta)
    if envelope.success is False:
        return Response({}, meta, refusal=_refusal(envelope.error))
    data = envelope.data or envelope
    results = bytes(data.results)
    if not results and data.missing is None and data.invalid is None:
        raise BadResponse(
            "the body is JSON, but has neither `results` nor `missing` nor `invalid`"
        )
    if results and not results.startswith((b"{", b"null")):
        raise BadResponse("the body is JSON, but its `results` are no object")
    missing, invalid = (
        frozenset(map(str, _list(names))) for names in (data.missing, data.invalid)
    )
    answers: dict[str, bytes | Status] = {}
    odd = ["duplicate_keys"] * duplicates + ["unrequested"] * len(
        entries.keys() - set(symbols)
    )
    for symbol in symbols:
        entry = entries.get(symbol, b"null")
        listed = (symbol in missing) + (symbol in invalid)
        if listed + (entry != b"null") > 1:
            odd.append("both_lists")
        elif listed == 0 and entry == b"null":
            odd.append("not_listed")
        answers[symbol] = (
            Status.INVALID
            if symbol in invalid
            else Status.MISSING
            if entry == b"null"
            else entry
        )
    return Response(answers, meta, inconsistencies=tuple(odd))


def _split(body: bytes) -> tuple[_Envelope, dict[str, bytes], int]:
    """The envelope, each symbol's raw entry, and how many keys of `results` stand there twice (the last counts)."""
    try:
        envelope = _envelope.decode(body)
        raw = bytes((envelope.data or envelope).results)
        entries = {
            symbol: bytes(entry)
            for symbol, entry in (_results.decode(raw or b"null") or {}).items()
        }
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        return _salvage(body, str(error))
    # A key that stands twice leaves a colon over; so does one in a symbol's name, and then it is counted closely.
    if raw.count(b":") == len(entries) + sum(
        entry.count(b":") for entry in entries.values()
    ):
        return envelope, entries, 0
    pairs = list(_pairs(body))
    return envelope, entries, len(pairs) - len({key for key, _, _ in pairs})


def _salvage(body: bytes, fault: str) -> tuple[_Envelope, dict[str, bytes], int]:
    """Where one entry is not even JSON: cut all of them out by their brackets, and decode the rest without them."""
    pairs = list(_pairs(body))
    rest = bytearray(body)
    for _, start, end in reversed(pairs):
        rest[start:end] = b"null"
    try:
        envelope = _envelope.decode(rest)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        raise BadResponse(
            f"the body ({len(body)} bytes) is no JSON response: {fault[:200]}"
        ) from None
    entries = {key: body[start:end].strip() for key, start, end in pairs}
    return envelope, entries, len(pairs) - len(entries)


# A text without an end is one up to the end: else every quote after it would be searched from again.
_TOKEN: Final = re.compile(rb'"(?:[^"\\]|\\.?)*+"?|[{}\[\],:]', re.DOTALL)


def _pairs(body: bytes) -> Iterator[tuple[str, int, int]]:
    """Key, start and end of each value in `results`, found by brackets alone: what is between need not be JSON."""
    if len(body) > _MAX_SCAN_BYTES:
        return
    tokens = _TOKEN.finditer(body)
    if not _enter_results(tokens):
        return
    depth, start, key = 0, 0, b""
    for token in tokens:
        text = token.group()
        if depth == 0 and text in b",}]":
            if start:
                yield key[1:-1].decode(errors="replace"), start, token.start()
            start = 0
            if text != b",":
                return
        elif depth == 0 and text == b":":
            start = token.end()
        elif depth == 0 and not start:
            key = text
        depth += (text in b"{[") - (text in b"}]")


def _enter_results(tokens: Iterator[re.Match[bytes]]) -> bool:
    """Move on to just behind the bracket that opens `results`, at the top or one level below."""
    depth, last = 0, [b"", b""]
    for token in tokens:
        text = token.group()
        if text == b"{" and depth <= 2 and last == [b'"results"', b":"]:  # noqa: PLR2004 -- top level, or in `data`
            return True
        depth += (text in b"{[") - (text in b"}]")
        last = [last[1], text]
    return False


def _meta(value: Any) -> Meta:
    fields = value if isinstance(value, dict) else {}
    exchanges = _list(fields.get("exchanges_filtered"))[
        :_MAX_NAMES
    ]  # they go into every record
    return Meta(
        server_at=moment_or_none(fields.get("timestamp")),
        request_id=_text(fields.get("request_id")),
        exchanges=tuple(
            name[:_MAX_NAME] for name in exchanges if isinstance(name, str)
        ),
        rate_limit=_rate_limit(fields.get("rate_limit")),
    )


def _refusal(error: Any) -> Refusal:
    fields = error if isinstance(error, dict) else {}
    details = fields.get("details")
    return Refusal(
        code=_text(fields.get("code")) or "UNKNOWN",
        message=_text(fields.get("message")) or "",
        details=details if isinstance(details, dict) else {},
    )


def _rate_limit(value: Any) -> RateLimit:
    fields = value if isinstance(value, dict) else {}
    try:
        return msgspec.convert(
            {"reset_at_seconds": fields.get("reset"), **fields}, RateLimit, strict=False
        )
    except msgspec.ValidationError:
        return RateLimit()


def _text(value: Any) -> str | None:
    return value[:200] if isinstance(value, str) else None


def _list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else []
