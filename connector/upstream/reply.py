"""Decode HTTP replies into levels, other documents, or errors.

Everything in a reply is untrusted. It may repeat the API key, which is removed from every
text that leaves this module.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import msgspec
from msgspec.structs import replace

from connector.core.decode import Refusal, Response, decode_response
from connector.core.model import Value
from connector.errors import (
    BadResponse,
    Intercepted,
    KeyRefused,
    NothingFound,
    NotRouted,
    PlanRefused,
    QuotaExhausted,
    RateLimited,
    RequestRefused,
    UpstreamError,
    UpstreamUnavailable,
)
from connector.upstream.headers import quota, retry_after_seconds
from connector.upstream.redaction import clean_text

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from connector.core.decode import ResponseMeta

# Pause after a 429 without Retry-After. Short, as the server counts by the minute.
_PAUSE_AFTER_429_SECONDS: Final = 5.0

# Texts from outside are cut before they reach logs, errors and events.
_MAX_DETAILS_CHARACTERS: Final = 200
_MAX_REQUEST_ID_CHARACTERS: Final = 200
_MAX_REASON_CHARACTERS: Final = 200
_MAX_SHOWN_ERRORS: Final = 3

# A page's title is near its beginning; the rest is not searched.
_MAX_TITLE_SEARCH_BYTES: Final = 16 * 1024

_OK: Final = 200
_CLIENT_ERRORS: Final = range(400, 500)
_SERVER_ERRORS: Final = range(500, 600)

# Errors by the code in the API's envelope, or else by the status.
_ERRORS_BY_CODE: Final[dict[str, type[UpstreamError]]] = {
    "UNAUTHORIZED": KeyRefused,
    "FORBIDDEN": PlanRefused,
    "NOT_FOUND": NothingFound,
    "VALIDATION_ERROR": RequestRefused,
    "RATE_LIMIT_EXCEEDED": RateLimited,
    "UPSTREAM_ERROR": UpstreamUnavailable,
    "INTERNAL_ERROR": UpstreamUnavailable,
}
_ERRORS_BY_STATUS: Final[dict[int, type[UpstreamError]]] = {
    400: RequestRefused,
    401: KeyRefused,
    403: PlanRefused,
    404: NothingFound,
    422: RequestRefused,
    429: RateLimited,
}
# Without the API's envelope, only these say something about the key and the limit.
_ERRORS_WITHOUT_ENVELOPE: Final[dict[int, type[UpstreamError]]] = {
    401: KeyRefused,
    429: RateLimited,
}
# Statuses with which a web framework refuses a request, as `{"detail": ...}`, before the
# API's own code sees it. A 422 is a validation of the parameters.
_FRAMEWORK_REFUSALS: Final[dict[int, type[UpstreamError]]] = {
    400: NotRouted,
    404: NotRouted,
    405: NotRouted,
    422: RequestRefused,
}
# Members of a problem document (RFC 9457), which gateways send: it has a `detail` as well.
_PROBLEM_MEMBERS: Final = frozenset({"type", "title", "status"})

_WITHOUT_PAUSE: Final = (
    KeyRefused,
    PlanRefused,
    RequestRefused,
    Intercepted,
    QuotaExhausted,
)

# Members of a JSON body that hold a text for people, the most telling first.
_REASON_MEMBERS: Final = ("detail", "message", "msg", "error", "title", "reason")


class Reply(Value, frozen=True):
    """An HTTP response as read, without the API key.

    If the body cannot be read, it is empty and `fault` says why.
    """

    status: int
    headers: dict[str, str]
    body: bytes
    fault: str | None = None


def decode_levels(
    reply: Reply, symbols: Sequence[str], key: str
) -> Response | UpstreamError:
    """Decode the reply to a request for levels.

    Returns the error instead of raising it: the budget learns from it first.
    """
    if reply.fault is not None:
        return _error_without_envelope(reply, reply.fault, key)
    try:
        response = decode_response(reply.body, symbols)
    except BadResponse as error:
        return _error_without_envelope(reply, str(error), key)

    if response.refusal is not None:
        return _error_with_envelope(reply, response.refusal, response.meta, key)
    if reply.status != _OK:
        # The status counts, and nobody gave a reason.
        return _error_without_envelope(reply, "the body holds levels", key)
    return _without_key(response, key)


def _error_with_envelope(
    reply: Reply, refusal: Refusal, meta: ResponseMeta, key: str
) -> UpstreamError:
    """Return the error that the API's envelope names."""
    kind = _ERRORS_BY_CODE.get(refusal.code) or _error_of_status(reply.status)
    shown = _shown_details(refusal)
    reason = f"{refusal.code}: {refusal.message} {shown}".rstrip()
    request_id = _request_id_of(reply) or _request_id_in(meta, key)
    error = _new_error(reply, kind, reason, request_id, key, refusal.details)
    error.is_from_api = True
    return error


def _error_without_envelope(reply: Reply, fault: str, key: str) -> UpstreamError:
    """Return the error of a reply whose body is not the API's, or damaged."""
    kind, reason = _kind_without_envelope(reply, fault)
    return _new_error(reply, kind, reason, _request_id_of(reply), key, {})


def _new_error(
    reply: Reply,
    kind: type[UpstreamError],
    reason: str,
    request_id: str | None,
    key: str,
    details: Mapping[str, Any],
) -> UpstreamError:
    """Return an error with the facts in the headers, and without the key."""
    if kind is RateLimited and _is_month_used_up(reply.headers):
        kind = QuotaExhausted
    return kind(
        clean_text(f"HTTP {reply.status}: {reason}", key),
        status=reply.status,
        request_id=request_id,
        retry_after_seconds=retry_after_seconds(reply.headers, details),
    )


def _request_id_of(reply: Reply) -> str | None:
    """Return the request id in the headers, or None."""
    request_id = reply.headers.get("x-request-id", "")
    return request_id[:_MAX_REQUEST_ID_CHARACTERS] or None


def _request_id_in(meta: ResponseMeta, key: str) -> str | None:
    """Return the request id in a body, without the key: JSON escapes can hide it there."""
    if meta.request_id is None:
        return None
    return clean_text(meta.request_id, key)


def _without_key(response: Response, key: str) -> Response:
    meta = response.meta
    cleaned = _request_id_in(meta, key)
    if cleaned == meta.request_id:
        return response
    return replace(response, meta=replace(meta, request_id=cleaned))


def _kind_without_envelope(reply: Reply, fault: str) -> tuple[type[UpstreamError], str]:
    """Return the kind of error of a body that is not the API's, and the reason it shows."""
    status = reply.status
    document = _json_or_none(reply.body)
    reason = _reason_in(document) or _title(reply.body) or fault
    framework_refusal = _FRAMEWORK_REFUSALS.get(status)
    if framework_refusal is not None and _is_of_framework(document):
        return framework_refusal, reason
    if status in _SERVER_ERRORS:
        return UpstreamUnavailable, reason
    known = _ERRORS_WITHOUT_ENVELOPE.get(status)
    if known is not None:
        return known, reason
    if status in _CLIENT_ERRORS:
        return Intercepted, f"{reason} (not an answer of the API: a firewall or proxy?)"
    return BadResponse, reason


def _is_of_framework(document: object) -> bool:
    if not isinstance(document, dict) or "detail" not in document:
        return False
    return _PROBLEM_MEMBERS.isdisjoint(document)


def _json_or_none(body: bytes) -> object:
    try:
        return msgspec.json.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return None


def _reason_in(document: object) -> str:
    """Return the text for people in a JSON body of any shape, or an empty text."""
    if isinstance(document, str):
        return document[:_MAX_REASON_CHARACTERS]
    if not isinstance(document, dict):
        return ""
    for member in _REASON_MEMBERS:
        value = document.get(member)
        if isinstance(value, dict):
            return _reason_in(value)
        if isinstance(value, list):
            # A body has room for many errors, and the first ones are enough.
            value = value[:_MAX_SHOWN_ERRORS]
        if value:
            return str(value)[:_MAX_REASON_CHARACTERS]
    return ""


def _title(body: bytes) -> str:
    """Return the title of an HTML page in one line, or an empty text."""
    # No regular expression: a hostile page can make one take a second.
    page = body[:_MAX_TITLE_SEARCH_BYTES]
    lowered = page.lower()
    tag_at = lowered.find(b"<title")
    starts_at = lowered.find(b">", tag_at) + 1
    ends_at = lowered.find(b"</title", starts_at)
    if tag_at < 0 or starts_at == 0 or ends_at < 0:
        return ""
    words = page[starts_at:ends_at].decode(errors="replace").split()
    return " ".join(words)[:_MAX_REASON_CHARACTERS]


def _is_month_used_up(headers: Mapping[str, str]) -> bool:
    """Return True if the monthly quota is used up. A 429 then lasts longer than a minute."""
    return quota(headers).remaining == 0


def decode_symbols(reply: Reply, key: str) -> frozenset[str] | UpstreamError:
    """Decode the reply of the endpoint `/symbols`: every text in it, field names too.

    The shape of that list is documented nowhere.
    """
    document = decode_report("/symbols", reply, key)
    if isinstance(document, UpstreamError):
        return document
    try:
        return frozenset(_texts(document))
    except RecursionError:
        return BadResponse("/symbols returned a list that is nested too deeply")


def decode_report(path: str, reply: Reply, key: str) -> object:
    """Decode the reply of an endpoint that does not return levels, or return an UpstreamError.

    Try to decode the reply as levels first: another document fails with `BadResponse` and
    status 200, and any other error is returned.
    """
    as_levels = decode_levels(reply, (), key)
    if isinstance(as_levels, Response):
        return BadResponse(f"{path} returned levels")
    if reply.status != _OK or not isinstance(as_levels, BadResponse):
        return as_levels
    try:
        return msgspec.json.decode(reply.body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        return BadResponse(clean_text(f"{path} returned no JSON: {error}", key))


def pause_seconds(error: UpstreamError) -> float:
    """Return how long all requests have to wait after an error.

    A refused key or plan needs a new key, not a wait. A refused request says nothing about
    others. The Retry-After of a firewall or proxy is not the API's. The budget knows when
    the month ends.
    """
    if isinstance(error, _WITHOUT_PAUSE):
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
