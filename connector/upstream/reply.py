"""Decode HTTP replies: compression, refusals, and the figures in headers.

Everything in a reply is untrusted. It may be of any size, and it may repeat the API key,
which is removed from every text that leaves this module.
"""

from __future__ import annotations

import time
import zlib
from email.utils import parsedate_to_datetime
from typing import TYPE_CHECKING, Any, Final

import msgspec

from connector.config.secrets import MASK
from connector.core.decode import RateLimit, Refusal, Response, decode_response
from connector.core.model import MICROS, Value
from connector.errors import (
    BadResponse,
    KeyRefused,
    NothingFound,
    RateLimited,
    RequestRefused,
    UpstreamError,
    UpstreamUnavailable,
)

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from connector.core.decode import ResponseMeta

# A server that asks for more is probably mistaken: try again after an hour.
_MAX_RETRY_AFTER_SECONDS: Final = 3600

# For a 429 without Retry-After: a fraction of a minute, in which the server counts.
_PAUSE_AFTER_429_SECONDS: Final = 5.0

# Enough for Unix seconds. Python refuses to convert thousands of digits.
_MAX_DIGITS: Final = 12

# Texts from outside are cut before they reach logs, errors and events.
_MAX_MESSAGE_CHARACTERS: Final = 500
_MAX_DETAILS_CHARACTERS: Final = 200
_MAX_REQUEST_ID_CHARACTERS: Final = 200
_MAX_ENCODING_CHARACTERS: Final = 20

# A cut text may end within the key. A part this long is worth hiding.
_REVEALING_CHARACTERS: Final = 8

# zlib's code for "expect a gzip header".
_GZIP: Final = 16 + zlib.MAX_WBITS

_OK: Final = 200
_SERVER_ERRORS: Final = range(500, 600)

_ERRORS_BY_CODE: Final[dict[str, type[UpstreamError]]] = {
    "UNAUTHORIZED": KeyRefused,
    "FORBIDDEN": KeyRefused,
    "NOT_FOUND": NothingFound,
    "VALIDATION_ERROR": RequestRefused,
    "RATE_LIMIT_EXCEEDED": RateLimited,
    "UPSTREAM_ERROR": UpstreamUnavailable,
    "INTERNAL_ERROR": UpstreamUnavailable,
}
_ERRORS_BY_STATUS: Final[dict[int, type[UpstreamError]]] = {
    401: KeyRefused,
    403: KeyRefused,
    429: RateLimited,
}


class Reply(Value, frozen=True):
    """An HTTP response as read, without the API key.

    If the body cannot be read, it is empty and `fault` says why.
    """

    status: int
    headers: dict[str, str]
    body: bytes
    fault: str | None = None


def clean_headers(headers: Mapping[str, str], key: str) -> dict[str, str]:
    """Return the headers by lower-case name, without the API key.

    A server may repeat the key, and its words end up in logs, errors and events.
    """
    cleaned = {}
    for name, value in headers.items():
        cleaned[name.lower()] = value.replace(key, MASK)
    return cleaned


def clean_body(body: bytes, key: str) -> bytes:
    """Return the decompressed body without the API key."""
    return body.replace(key.encode(), MASK.encode())


def clean_text(text: str, key: str) -> str:
    """Return a text from outside, bounded and without the API key.

    If the text was cut within the key, hide all of it.
    """
    text = text.replace(key, MASK)
    for start in range(len(key) - _REVEALING_CHARACTERS + 1):
        if key[start : start + _REVEALING_CHARACTERS] in text:
            return MASK
    return text[:_MAX_MESSAGE_CHARACTERS]


def decompress(body: bytes, encoding: str, limit: int) -> bytes:
    """Undo the Content-Encoding, without ever holding more than `limit` bytes.

    Raises:
        BadResponse: if the encoding is not supported, or the body is damaged or larger.
    """
    encoding = encoding.lower()
    if encoding in {"identity", ""}:
        return body
    if encoding not in {"gzip", "x-gzip"}:
        shown = encoding[:_MAX_ENCODING_CHARACTERS]
        raise BadResponse(f"unsupported Content-Encoding {shown!r} (requested gzip)")

    # One byte more than allowed is enough to know, however well the rest is packed.
    try:
        decompressed = zlib.decompressobj(_GZIP).decompress(body, limit + 1)
    except zlib.error as error:
        raise BadResponse(f"cannot decompress the body: {error}") from None
    if len(decompressed) > limit:
        raise BadResponse(too_large(limit))
    return decompressed


def too_large(limit: int) -> str:
    """Return the fault of a body above the limit."""
    return f"body is larger than {limit} bytes (upstream.max_response_bytes)"


def decode_levels(
    reply: Reply, symbols: Sequence[str], key: str
) -> Response | UpstreamError:
    """Decode the reply to a request for levels.

    Returns the error instead of raising it: the budget learns from it first.
    """
    status, headers = reply.status, reply.headers
    by_status = _error_of_status(status)
    request_id = headers.get("x-request-id", "")[:_MAX_REQUEST_ID_CHARACTERS] or None
    fault = reply.fault
    if fault is None:
        try:
            response = decode_response(reply.body, symbols)
        except BadResponse as error:
            fault = str(error)
    if fault is not None:
        # An error page of a proxy says nothing about our symbols: go by its status.
        return by_status(
            f"HTTP {status}: {clean_text(fault, key)}",
            status=status,
            request_id=request_id,
            retry_after_seconds=_retry_after_seconds(headers, {}),
        )
    refusal = response.refusal
    if status == _OK and refusal is None:
        return response
    if refusal is None:
        refusal = Refusal("UNKNOWN", "", {})
    kind = _ERRORS_BY_CODE.get(refusal.code, by_status)
    details = _shown_details(refusal)
    message = f"HTTP {status}: {refusal.code}: {refusal.message} {details}".rstrip()
    return kind(
        clean_text(message, key),
        status=status,
        request_id=request_id or response.meta.request_id,
        retry_after_seconds=_retry_after_seconds(headers, refusal.details),
    )


def decode_symbols(reply: Reply, key: str) -> frozenset[str] | UpstreamError:
    """Decode the reply of the endpoint `/symbols`: every text in it, field names too.

    The shape of that list is documented nowhere. A list cannot be decoded as levels, so
    anything but a `BadResponse` with status 200 is an error of its own.
    """
    as_levels = decode_levels(reply, (), key)
    if isinstance(as_levels, Response):
        return BadResponse("/symbols returned levels instead of a list of symbols")
    if reply.status != _OK or not isinstance(as_levels, BadResponse):
        return as_levels
    try:
        document = msgspec.json.decode(reply.body)
        return frozenset(_texts(document))
    except (msgspec.DecodeError, RecursionError) as error:
        return BadResponse(clean_text(f"/symbols returned no list: {error}", key))


def rate_limit(headers: Mapping[str, str], meta: ResponseMeta | None) -> RateLimit:
    """Return the server's figures, each from its header or else from the body."""
    in_body = RateLimit() if meta is None else meta.rate_limit
    limit = _whole_number(headers.get("x-ratelimit-limit"))
    if limit is None:
        limit = in_body.limit
    remaining = _whole_number(headers.get("x-ratelimit-remaining"))
    if remaining is None:
        remaining = in_body.remaining
    reset_at: float | None = _whole_number(headers.get("x-ratelimit-reset"))
    if reset_at is None:
        reset_at = in_body.reset_at_seconds
    return RateLimit(limit, remaining, reset_at)


def server_time(headers: Mapping[str, str], meta: ResponseMeta | None) -> float | None:
    """Return the server's clock (Unix seconds) from the body or the Date header."""
    if meta is not None and meta.server_at:
        return meta.server_at / MICROS
    return _http_date(headers.get("date", ""))


def pause_seconds(error: UpstreamError) -> float:
    """Return how long an error keeps back all requests.

    A refused key waits for another key, and a refused request says nothing about others.
    """
    if isinstance(error, KeyRefused | RequestRefused):
        return 0.0
    if error.retry_after_seconds:
        return error.retry_after_seconds
    return _PAUSE_AFTER_429_SECONDS if isinstance(error, RateLimited) else 0.0


def _error_of_status(status: int) -> type[UpstreamError]:
    if status in _SERVER_ERRORS:
        return UpstreamUnavailable
    return _ERRORS_BY_STATUS.get(status, BadResponse)


def _shown_details(refusal: Refusal) -> str:
    errors = refusal.details.get("errors")
    return str(errors)[:_MAX_DETAILS_CHARACTERS] if errors else ""


def _retry_after_seconds(
    headers: Mapping[str, str], details: dict[str, Any]
) -> float | None:
    """Return the seconds to wait, from the header or else from the refusal's details.

    The header holds seconds or a date (RFC 9110, section 10.2.3).
    """
    text = headers.get("retry-after", "")
    seconds: float | None = _whole_number(text)
    if seconds is None:
        until = _http_date(text)
        if until is not None:
            # The server's clock counts: ours may be wrong by more than the wait.
            server_at = _http_date(headers.get("date", ""))
            seconds = until - (time.time() if server_at is None else server_at)
    if seconds is None:
        in_body = details.get("retry_after_seconds")
        if isinstance(in_body, int | float):
            seconds = in_body
    if seconds is None:
        return None
    return float(min(max(seconds, 0), _MAX_RETRY_AFTER_SECONDS))


def _whole_number(text: str | None) -> int | None:
    # `int` alone accepts signs, underscores and digits of other scripts.
    if text and text.isascii() and text.isdigit() and len(text) <= _MAX_DIGITS:
        return int(text)
    return None


def _http_date(text: str) -> float | None:
    try:
        return parsedate_to_datetime(text).timestamp()
    except (ValueError, TypeError, OverflowError):
        return None


def _texts(document: object) -> Iterator[str]:
    if isinstance(document, str):
        yield document
    elif isinstance(document, list):
        for item in document:
            yield from _texts(item)
    elif isinstance(document, dict):
        for name, value in document.items():
            yield from _texts(name)
            yield from _texts(value)
