"""An answer on its way out, and the effect of every fault on it.

`FAULTS` is the table of all faults: small functions by name, which change an entry, a
symbol of the reply, or the reply as a whole. Their keyword-only parameters are those of the
fault, typed by annotation or by their default.
"""

from __future__ import annotations

import functools
import json
import math
import zlib
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any, Final, Literal

import msgspec

from connector.devkit.simulator.levels import (
    Content,
    canonical_content,
    hashed_content,
)

if TYPE_CHECKING:
    from collections.abc import Callable

    from connector.devkit.simulator.faults import Fault
    from connector.devkit.simulator.truth import Answer

# The documented errors: status, then code and message.
ERRORS: Final = {
    "400": ("VALIDATION_ERROR", "The request is not valid."),
    "401": ("UNAUTHORIZED", "Missing or unknown API key."),
    "403": ("FORBIDDEN", "The plan of this key does not include this endpoint."),
    "404": ("NOT_FOUND", "There is no cached data for what was asked."),
    "422": ("VALIDATION_ERROR", "The request is not valid."),
    "429": ("RATE_LIMIT_EXCEEDED", "Too many requests."),
    "500": ("INTERNAL_ERROR", "Something went wrong."),
    "502": ("UPSTREAM_ERROR", "A data source did not answer."),
    "503": ("UPSTREAM_ERROR", "A data source is not available."),
    "504": ("UPSTREAM_ERROR", "A data source did not answer in time."),
}

_MEGABYTE: Final = 1024 * 1024
_GATEWAY_PAGE: Final = (
    b"<html><head><title>502 Bad Gateway</title></head>"
    b"<body><h1>502 Bad Gateway</h1></body></html>"
)
_LISTS: Final = ("served", "missing", "invalid")

Entry = dict[str, Any]
Contradiction = Literal[
    "missing_and_invalid", "served_and_missing", "served_and_invalid"
]
Stamp = Literal["absent", "null", "garbage", "future", "older"]


@dataclass(slots=True)
class Reply:
    """A response: `{success, **document, meta}` as JSON, or a replacement body.

    Attributes:
        results: The entries inside the document. Empty if the client gets none.
        replacement: A body to send instead of the document.
        sent_fraction: The part of the body after which the connection breaks.
        answer: The record for the truth log, if the request was for levels.
    """

    meta: dict[str, Any]
    headers: dict[str, str]
    document: dict[str, Any] = field(default_factory=dict)
    success: bool = True
    status: int = 200
    results: dict[str, Content | None] = field(default_factory=dict)
    replacement: bytes | None = None
    delay_seconds: float = 0.0
    sent_fraction: float = 1.0
    answer: Answer | None = None

    @property
    def body(self) -> bytes:
        """The whole body, before compression."""
        if self.replacement is not None:
            return self.replacement
        document = {"success": self.success, **self.document, "meta": self.meta}
        return msgspec.json.encode(document, enc_hook=_raw)

    def refuse(self, status: str, **details: Any) -> None:
        """Turn the reply into a documented error."""
        code, message = ERRORS[status]
        self.success = False
        self.status = int(status)
        self.results = {}
        error = {"code": code, "message": message, "details": details}
        self.document = {"error": error}
        for name in ("source", "exchanges_filtered"):
            self.meta.pop(name, None)
        if "retry_after_seconds" in details:
            self.headers["Retry-After"] = str(math.ceil(details["retry_after_seconds"]))

    def replace(
        self, body: bytes, status: int = 200, headers: dict[str, str] | None = None
    ) -> None:
        """Send another body instead of the document."""
        self.replacement = body
        self.status = status
        self.results = {}
        self.headers |= headers or {}

    def cut(self, sent_fraction: float, delay_seconds: float = 0.0) -> None:
        """Wait, send a part of the body, and break the connection."""
        self.replacement = self.body
        self.sent_fraction = sent_fraction
        self.results = {}
        self.delay_seconds += delay_seconds

    def move(self, symbol: str, *lists: str) -> None:
        """List a symbol in exactly these of the three lists.

        Only a served symbol keeps its entry.
        """
        if "served" not in lists:
            self.results[symbol] = None
        for name in _LISTS:
            listed = self.document["data"][name]
            if symbol in listed and name not in lists:
                listed.remove(symbol)
            elif symbol not in listed and name in lists:
                listed.append(symbol)


def apply_fault(reply: Reply, fault: Fault) -> None:
    """Apply a fault to the entries and symbols it targets, and to the reply."""
    name = fault.fault
    parameters = fault.parameters
    if name in ON_ENTRY:
        served = {}
        for symbol, content in reply.results.items():
            if content is not None:
                served[symbol] = content
        for symbol in fault.targets(served):
            entry = json.loads(served[symbol].raw)
            if _is_intact(entry):
                spoilt = ON_ENTRY[name](entry, **parameters)
                reply.results[symbol] = canonical_content(spoilt)

    if name in ON_SYMBOL:
        for symbol in fault.targets(reply.results):
            ON_SYMBOL[name](reply, symbol, **parameters)

    if name in ON_REPLY:
        ON_REPLY[name](reply, **parameters)


def _raw(content: Any) -> msgspec.Raw:
    return msgspec.Raw(content.raw)


def _is_intact(entry: Any) -> bool:
    """Return False if an earlier fault has replaced the entry or its levels."""
    return isinstance(entry, dict) and isinstance(entry["all_expiry"], dict)


# Faults of an entry return the spoilt entry.


def _null_levels(entry: Entry) -> Entry:
    nulls = {name: dict.fromkeys(entry[name]) for name in ("all_expiry", "odte")}
    return entry | nulls


def _unknown_field(entry: Entry) -> Entry:
    return _with_levels(entry, call_wall_4=1.5) | {"vanna": {"flip": 1.5}}


def _shifted(entry: Entry, *, seconds: float = 3600.0) -> Entry:
    try:
        computed_at = datetime.fromisoformat(entry["computed_at"])
        shifted = computed_at + timedelta(seconds=seconds)
    except (KeyError, TypeError, ValueError, OverflowError):
        # Beyond the calendar, or another fault has spoilt it already.
        return entry
    text = shifted.isoformat(timespec="microseconds").replace("+00:00", "Z")
    return entry | {"computed_at": text}


def _computed_at(
    entry: Entry, *, variant: Stamp = "absent", seconds: float = 3600.0
) -> Entry:
    match variant:
        case "absent":
            return {key: value for key, value in entry.items() if key != "computed_at"}
        case "null":
            return entry | {"computed_at": None}
        case "garbage":
            return entry | {"computed_at": "yesterday, about noon"}
        case "future":
            return _shifted(entry, seconds=seconds)
        case "older":
            return _shifted(entry, seconds=-seconds)


def _wrong_types(
    entry: Entry, *, variant: Literal["level", "section", "entry"] = "level"
) -> Any:
    match variant:
        case "level":
            return _with_levels(entry, call_resistance="n/a", put_support={})
        case "section":
            return entry | {"all_expiry": [1, 2, 3], "odte": "closed"}
        case "entry":
            return "temporarily unavailable"


def _nan(entry: Entry) -> Entry:
    return _with_levels(entry, hvl=msgspec.Raw(b"NaN"))


def _with_levels(entry: Entry, **levels: Any) -> Entry:
    return entry | {"all_expiry": entry["all_expiry"] | levels}


# Faults of a symbol.


def _duplicate_keys(
    reply: Reply, symbol: str, *, variant: Literal["entry", "results"] = "entry"
) -> None:
    content = reply.results[symbol]
    if content is None:
        return
    if variant == "results":
        name = msgspec.json.encode(symbol)
        twice = b"%b,%b:%b" % (content.raw, name, content.raw)
        reply.results[symbol] = Content(twice, content.shown)
    elif content.raw.startswith(b"{"):
        first = b'{"spot_price":1.0,"computed_at":"2001-01-01T00:00:00Z",'
        raw = first + content.raw[1:]
        reply.results[symbol] = hashed_content(raw, content.shown.computed_at)


def _missing(reply: Reply, symbol: str) -> None:
    reply.move(symbol, "missing")


def _invalid(reply: Reply, symbol: str) -> None:
    reply.move(symbol, "invalid")


def _null_not_listed(reply: Reply, symbol: str) -> None:
    reply.move(symbol)


def _absent(reply: Reply, symbol: str) -> None:
    reply.move(symbol)
    del reply.results[symbol]
    reply.document["data"]["requested"].remove(symbol)


def _both_lists(
    reply: Reply, symbol: str, *, variant: Contradiction = "missing_and_invalid"
) -> None:
    reply.move(symbol, *variant.split("_and_"))


# Faults of the reply as a whole.


def _extra_symbol(reply: Reply, *, symbol: str = "EXTRAUSDT") -> None:
    for content in reply.results.values():
        if content is not None:
            results = reply.results | {symbol: content}
            reply.document["data"]["results"] = results
            return


def _success_false(reply: Reply) -> None:
    reply.success = False


def _docs_example(reply: Reply) -> None:
    """Send the example of the vendor's documentation, which has placeholders only."""
    names = dict.fromkeys(reply.document["data"])
    data: dict[str, Any] = {name: ["string"] for name in names}
    reply.document["data"] = data | {"results": {}}
    reply.results = {}


def _flat(reply: Reply) -> None:
    reply.document.update(reply.document.pop("data", {}))


def _clock_step(reply: Reply, *, seconds: float = 3600.0) -> None:
    stepped = _shifted({"computed_at": reply.meta["timestamp"]}, seconds=seconds)
    reply.meta["timestamp"] = stepped["computed_at"]
    limit = reply.meta.get("rate_limit")
    if limit:
        limit["reset"] += int(seconds)
        reply.headers["X-RateLimit-Reset"] = str(limit["reset"])


def _refusal(status: str) -> Callable[[Reply], None]:
    def refuse(reply: Reply) -> None:
        reply.refuse(status)

    return refuse


def _rate_limited(reply: Reply, *, retry_after_seconds: float = 30.0) -> None:
    reply.refuse("429", retry_after_seconds=retry_after_seconds)


def _slow(reply: Reply, *, seconds: float = 2.0) -> None:
    reply.delay_seconds += seconds


def _html(reply: Reply, *, status: int = 502) -> None:
    reply.replace(_GATEWAY_PAGE, status, {"Content-Type": "text/html"})


def _empty(reply: Reply, *, status: int = 200) -> None:
    reply.replace(b"", status)


def _redirect(reply: Reply, *, location: str = "https://login.example/") -> None:
    reply.replace(b"", 302, {"Location": location})


def _deep(reply: Reply, *, depth: int = 100_000) -> None:
    reply.replace(b'{"data":%b%b}' % (b"[" * depth, b"]" * depth))


def _huge(reply: Reply, *, megabytes: int = 20) -> None:
    reply.replacement = reply.body + b" " * (megabytes * _MEGABYTE)


def _gzip_bomb(reply: Reply, *, megabytes: int = 256) -> None:
    reply.replace(_bomb(megabytes), headers={"Content-Encoding": "gzip"})


@functools.lru_cache(maxsize=2)
def _bomb(megabytes: int) -> bytes:
    packer = zlib.compressobj(1, zlib.DEFLATED, zlib.MAX_WBITS | 16)
    blank = b" " * _MEGABYTE
    parts = [packer.compress(blank) for _ in range(megabytes)]
    parts.append(packer.compress(b"{}"))
    parts.append(packer.flush())
    return b"".join(parts)


def _truncated(reply: Reply) -> None:
    reply.cut(0.5)


def _drop(reply: Reply) -> None:
    reply.cut(0)


def _hang(reply: Reply, *, seconds: float = 3600.0) -> None:
    reply.cut(0, seconds)


def _freeze(_: Reply) -> None:
    """Leave the reply alone: the market asks `Faults.is_frozen`."""


# Faults are applied in this order, so that those which replace the whole body come last.
ON_ENTRY: Final[dict[str, Callable[..., Any]]] = {
    "null_levels": _null_levels,
    "unknown_field": _unknown_field,
    "clock_step": _shifted,
    "computed_at": _computed_at,
    "wrong_types": _wrong_types,
    "nan": _nan,
}
ON_SYMBOL: Final[dict[str, Callable[..., None]]] = {
    "duplicate_keys": _duplicate_keys,
    "missing": _missing,
    "invalid": _invalid,
    "null_not_listed": _null_not_listed,
    "absent": _absent,
    "both_lists": _both_lists,
}
ON_REPLY: Final[dict[str, Callable[..., None]]] = {
    "extra_symbol": _extra_symbol,
    "success_false": _success_false,
    "docs_example": _docs_example,
    "flat": _flat,
    "clock_step": _clock_step,
    **{status: _refusal(status) for status in ERRORS},
    "429": _rate_limited,
    "slow": _slow,
    "html": _html,
    "empty": _empty,
    "redirect": _redirect,
    "deep": _deep,
    "huge": _huge,
    "gzip_bomb": _gzip_bomb,
    "truncated": _truncated,
    "drop": _drop,
    "hang": _hang,
    "freeze": _freeze,
}
FAULTS: Final[dict[str, Callable[..., Any]]] = {**ON_ENTRY, **ON_SYMBOL, **ON_REPLY}
