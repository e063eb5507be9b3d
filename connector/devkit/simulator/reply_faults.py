"""Faults of the reply as a whole."""

from __future__ import annotations

import functools
import gzip
import json
import zlib
from typing import TYPE_CHECKING, Any, Final, Literal

import msgspec

from connector.devkit.simulator.entry_faults import shifted
from connector.devkit.simulator.reply import (
    ERRORS,
    Reply,
)

if TYPE_CHECKING:
    from collections.abc import Callable

Encoding = Literal["gzip_over_plain", "two_members", "gzip_identity", "utf-8"]

_MEGABYTE: Final = 1024 * 1024
_GATEWAY_PAGE: Final = (
    b"<html><head><title>502 Bad Gateway</title></head>"
    b"<body><h1>502 Bad Gateway</h1></body></html>"
)
_HTML: Final = {"Content-Type": "text/html"}

# The longest month, which the vendor's pages name as a wait.
_MONTH_SECONDS: Final = 2_678_400.0


def extra_symbol(reply: Reply, *, symbol: str = "EXTRAUSDT") -> None:
    """Add a symbol to `results` that nobody asked for."""
    for content in reply.results.values():
        if content is not None:
            reply.data["results"] = reply.results | {symbol: content}
            return


def success_false(reply: Reply) -> None:
    """Send data with `success: false`."""
    reply.success = False


def docs_example(reply: Reply) -> None:
    """Send the example of the vendor's documentation, which has placeholders only."""
    names = dict.fromkeys(reply.data)
    data: dict[str, Any] = {name: ["string"] for name in names}
    reply.document["data"] = data | {"results": {}}
    reply.results = {}


def flat(reply: Reply) -> None:
    """Send the data fields at the top level."""
    reply.document.update(reply.document.pop("data", {}))


def clock_step(reply: Reply, *, seconds: float = 3600.0) -> None:
    """Shift the server's clock: `computed_at`, `meta.timestamp` and the reset."""
    meta_clock(reply, seconds=seconds)
    limit = reply.meta.get("rate_limit")
    if limit:
        limit["reset"] += int(seconds)
        reply.headers["X-RateLimit-Reset"] = str(limit["reset"])


def meta_clock(reply: Reply, *, seconds: float = -3600.0) -> None:
    """Shift only `meta.timestamp`."""
    stepped = shifted({"computed_at": reply.meta["timestamp"]}, seconds=seconds)
    reply.meta["timestamp"] = stepped["computed_at"]


def nan_meta(reply: Reply) -> None:
    """Send `NaN` and `Infinity`, which are not JSON, in `meta`."""
    reply.meta["spot_price"] = msgspec.Raw(b"NaN")
    reply.meta["freshness_seconds"] = msgspec.Raw(b"Infinity")


def sparse_meta(reply: Reply, *, variant: Literal["absent", "null"] = "absent") -> None:
    """Leave out the optional fields of `meta`, or make them null."""
    required = {}
    for name in ("version", "timestamp"):
        required[name] = reply.meta[name]
    if variant == "absent":
        reply.meta = required
    else:
        reply.meta = dict.fromkeys(reply.meta) | required


def rate_limit_fallback(reply: Reply, *, limit: int = 10) -> None:
    """Let a stricter counter stand in: a lower limit, and `X-RateLimit-Fallback: true`."""
    figures = reply.meta.get("rate_limit")
    if not figures:
        return
    spent = figures["limit"] - figures["remaining"]
    figures["limit"] = min(limit, figures["limit"])
    figures["remaining"] = max(0, figures["limit"] - spent)
    reply.headers["X-RateLimit-Limit"] = str(figures["limit"])
    reply.headers["X-RateLimit-Remaining"] = str(figures["remaining"])
    reply.headers["X-RateLimit-Fallback"] = "true"
    if spent > limit:
        rate_limited(reply)


def refusal(status: str) -> Callable[[Reply], None]:
    """Return the fault that refuses a request with a documented error."""

    def refuse(reply: Reply) -> None:
        reply.refuse(status)

    refuse.__doc__ = f"Answer with {status} `{ERRORS[status][0]}`."
    return refuse


def rate_limited(
    reply: Reply, *, retry_after_seconds: float = 30.0, header: str = ""
) -> None:
    """Answer with 429 of the minute. `header` is another text for `Retry-After`."""
    details = {"retry_after_seconds": retry_after_seconds}
    message = f"Rate limit exceeded. Try again in {retry_after_seconds:g} seconds."
    reply.refuse("429", message, details)
    if header:
        reply.headers["Retry-After"] = header


def month_used_up(
    reply: Reply, *, retry_after_seconds: float = _MONTH_SECONDS, cap: int = 250_000
) -> None:
    """Answer with 429 of the month, with `X-Quota-Remaining: 0`."""
    details = {"retry_after_seconds": retry_after_seconds}
    reply.refuse("429", f"The monthly cap of {cap} is used up", details)
    reply.headers |= {
        "X-Quota-Limit": str(cap),
        "X-Quota-Used": str(cap),
        "X-Quota-Remaining": "0",
    }


def slow(reply: Reply, *, seconds: float = 2.0) -> None:
    """Answer late."""
    reply.delay_seconds += seconds


def html(reply: Reply, *, status: int = 502) -> None:
    """Answer with a gateway's HTML page."""
    reply.replace(_GATEWAY_PAGE, status, _HTML)


def firewall(
    reply: Reply,
    *,
    status: int = 403,
    variant: Literal["html", "json"] = "html",
    message: str = "Access denied",
) -> None:
    """Answer as a firewall does: HTML, or JSON that is not the API's.

    The answer has no header of the API.
    """
    reply.headers = {}
    if variant == "html":
        page = (
            f"<html><head><title>{message}</title></head>"
            f"<body><h1>{message}</h1></body></html>"
        )
        reply.replace(page.encode(), status, _HTML)
    else:
        body = json.dumps({"code": 0, "msg": message})
        reply.replace(body.encode(), status)


def framework_error(reply: Reply, *, status: int = 422, message: str = "") -> None:
    """Answer with a framework's own error: `{"detail": ...}`."""
    detail: Any = message or {404: "Not Found", 405: "Method Not Allowed"}.get(status)
    if status == 422:  # noqa: PLR2004 -- the status of a validation error
        text = message or "value is not a valid symbol"
        kind = "value_error"
        detail = [{"loc": ["query", "symbols"], "msg": text, "type": kind}]
    body = json.dumps({"detail": detail or "Error"})
    reply.replace(body.encode(), status)


def empty(reply: Reply, *, status: int = 200) -> None:
    """Answer with an empty body."""
    reply.replace(b"", status)


def redirect(reply: Reply, *, location: str = "https://login.example/") -> None:
    """Redirect to another address."""
    reply.replace(b"", 302, {"Location": location})


def deep(reply: Reply, *, depth: int = 100_000) -> None:
    """Nest the body too deeply to be decoded."""
    reply.replace(b'{"data":%b%b}' % (b"[" * depth, b"]" * depth))


def huge(reply: Reply, *, megabytes: int = 20) -> None:
    """Append blanks to the body."""
    reply.replacement = reply.body + b" " * (megabytes * _MEGABYTE)


def gzip_bomb(reply: Reply, *, megabytes: int = 256) -> None:
    """Send a small body that unpacks to a large one."""
    reply.replace(_bomb(megabytes), headers={"Content-Encoding": "gzip"})


@functools.lru_cache(maxsize=2)
def _bomb(megabytes: int) -> bytes:
    packer = zlib.compressobj(1, zlib.DEFLATED, zlib.MAX_WBITS | 16)
    blank = b" " * _MEGABYTE
    parts = [packer.compress(blank) for _ in range(megabytes)]
    parts.append(packer.compress(b"{}"))
    parts.append(packer.flush())
    return b"".join(parts)


def content_encoding(reply: Reply, *, variant: Encoding = "gzip_over_plain") -> None:
    """Send the right body under a `Content-Encoding` that is wrong or unusual.

    `two_members` is valid gzip in two parts.
    """
    body = reply.body
    header = "gzip"
    match variant:
        case "gzip_over_plain":
            pass
        case "two_members":
            half = len(body) // 2
            body = _gzipped(body[:half]) + _gzipped(body[half:])
        case "gzip_identity":
            body = _gzipped(body)
            header = "gzip, identity"
        case "utf-8":
            header = "utf-8"
    reply.replacement = body
    reply.headers["Content-Encoding"] = header


def _gzipped(body: bytes) -> bytes:
    return gzip.compress(body, compresslevel=1, mtime=0)


def truncated(reply: Reply) -> None:
    """Close the connection after half of the body."""
    reply.cut(0.5)


def drop(reply: Reply) -> None:
    """Close the connection without an answer."""
    reply.cut(0)


def hang(reply: Reply, *, seconds: float = 3600.0) -> None:
    """Wait, then close the connection without an answer."""
    reply.cut(0, seconds)


# Faults are applied in this order, so that those which replace the whole body come last.
ON_REPLY: Final[dict[str, Callable[..., None]]] = {
    "extra_symbol": extra_symbol,
    "success_false": success_false,
    "docs_example": docs_example,
    "flat": flat,
    "clock_step": clock_step,
    "meta_clock": meta_clock,
    "nan_meta": nan_meta,
    "sparse_meta": sparse_meta,
    "rate_limit_fallback": rate_limit_fallback,
    **{status: refusal(status) for status in ERRORS},
    "429": rate_limited,
    "429_month": month_used_up,
    "slow": slow,
    "html": html,
    "firewall": firewall,
    "framework_error": framework_error,
    "empty": empty,
    "redirect": redirect,
    "deep": deep,
    "content_encoding": content_encoding,
    "huge": huge,
    "gzip_bomb": gzip_bomb,
    "truncated": truncated,
    "drop": drop,
    "hang": hang,
}
