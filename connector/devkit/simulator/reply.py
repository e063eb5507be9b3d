"""An answer on its way out, and what every fault does to it: one table, from names to small functions."""

from __future__ import annotations

import functools
import json
import math
import zlib
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any, Final, Literal

import msgspec

from connector.devkit.simulator.levels import Content, content_of, sealed

if TYPE_CHECKING:
    from collections.abc import Callable

    from connector.devkit.simulator.faults import Fault
    from connector.devkit.simulator.service import Answer

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
MEGABYTE: Final = 1024 * 1024
HTML: Final = b"<html><head><title>502 Bad Gateway</title></head><body><h1>502 Bad Gateway</h1></body></html>"

Contradiction = Literal[
    "missing_and_invalid", "served_and_missing", "served_and_invalid"
]
Stamp = Literal["absent", "null", "garbage", "future", "older"]


@dataclass(slots=True)
class Reply:
    """What is to be sent: `{success, **document, meta}` as JSON or, where a fault gave it, `instead`.

    `results` is the dict inside the document; it is empty where the client does not get to see one. The connection
    breaks after `sent`, a part of the body. `answer` is what to log of it, where it is about levels.
    """

    meta: dict[str, Any]
    headers: dict[str, str]
    document: dict[str, Any] = field(default_factory=dict)
    success: bool = True
    status: int = 200
    results: dict[str, Content | None] = field(default_factory=dict)
    instead: bytes | None = None
    delay_seconds: float = 0.0
    sent: float = 1.0
    answer: Answer | None = None

    @property
    def body(self) -> bytes:
        """All of it, before compression."""
        if self.instead is not None:
            return self.instead
        document = {"success": self.success, **self.document, "meta": self.meta}
        return msgspec.json.encode(
            document, enc_hook=lambda content: msgspec.Raw(content.raw)
        )

    def refuse(self, status: str, **details: Any) -> None:
        """Turn it into an error of the documented catalogue."""
        code, message = ERRORS[status]
        self.success, self.status, self.results = False, int(status), {}
        self.document = {
            "error": {"code": code, "message": message, "details": details}
        }
        for name in ("source", "exchanges_filtered"):
            self.meta.pop(name, None)
        if "retry_after_seconds" in details:
            self.headers["Retry-After"] = str(math.ceil(details["retry_after_seconds"]))

    def replace(self, body: bytes, status: int = 200, **headers: str) -> None:
        """Let something else come in its place."""
        self.instead, self.status, self.results = body, status, {}
        self.headers |= headers

    def cut(self, sent: float, delay_seconds: float = 0.0) -> None:
        """Break the connection after a part of the body, and a while."""
        self.instead, self.sent, self.results = self.body, sent, {}
        self.delay_seconds += delay_seconds

    def move(self, symbol: str, *lists: str) -> None:
        """Have a symbol in these of the three lists, and without an entry where `served` is none of them."""
        if "served" not in lists:
            self.results[symbol] = None
        for name in ("served", "missing", "invalid"):
            listed = self.document["data"][name]
            if symbol in listed and name not in lists:
                listed.remove(symbol)
            elif symbol not in listed and name in lists:
                listed.append(symbol)


def spoil(reply: Reply, fault: Fault) -> None:
    """Do to a reply what a fault says."""
    name, parameters = fault.fault, fault.parameters
    if name in ON_ENTRY:
        served = {
            symbol: content for symbol, content in reply.results.items() if content
        }
        for symbol in fault.targets(served):
            entry = json.loads(served[symbol].raw)
            if isinstance(entry, dict) and isinstance(
                entry["all_expiry"], dict
            ):  # else spoilt already
                reply.results[symbol] = content_of(ON_ENTRY[name](entry, **parameters))
    if name in ON_SYMBOL:
        for symbol in fault.targets(reply.results):
            ON_SYMBOL[name](reply, symbol, **parameters)
    if name in ON_REPLY:
        ON_REPLY[name](reply, **parameters)


def _with_walls(entry: dict[str, Any], **walls: Any) -> dict[str, Any]:
    return entry | {"all_expiry": entry["all_expiry"] | walls}


def _shifted(entry: dict[str, Any], *, seconds: float = 3600.0) -> dict[str, Any]:
    try:
        at = datetime.fromisoformat(entry["computed_at"]) + timedelta(seconds=seconds)
    except (KeyError, TypeError, ValueError, OverflowError):
        return entry  # beyond the calendar, or another fault has spoilt it already
    return entry | {
        "computed_at": at.isoformat(timespec="microseconds").replace("+00:00", "Z")
    }


def _computed_at(
    entry: dict[str, Any], *, variant: Stamp = "absent", seconds: float = 3600.0
) -> dict[str, Any]:
    if variant == "absent":
        return {key: value for key, value in entry.items() if key != "computed_at"}
    if variant in {"null", "garbage"}:
        return entry | {
            "computed_at": None if variant == "null" else "yesterday, about noon"
        }
    return _shifted(entry, seconds=seconds if variant == "future" else -seconds)


def _wrong_types(
    entry: dict[str, Any], *, variant: Literal["level", "section", "entry"] = "level"
) -> Any:
    if variant == "level":
        return _with_walls(entry, call_resistance="n/a", put_support={})
    return (
        entry | {"all_expiry": [1, 2, 3], "odte": "closed"}
        if variant == "section"
        else "temporarily unavailable"
    )


def _absent(reply: Reply, symbol: str) -> None:
    reply.move(symbol)
    del reply.results[symbol]
    reply.document["data"]["requested"].remove(symbol)


def _both_lists(
    reply: Reply, symbol: str, *, variant: Contradiction = "missing_and_invalid"
) -> None:
    reply.move(symbol, *variant.split("_and_"))


def _duplicate_keys(
    reply: Reply, symbol: str, *, variant: Literal["entry", "results"] = "entry"
) -> None:
    content = reply.results[symbol]
    if content and variant == "results":
        twice = b"%b,%b:%b" % (content.raw, msgspec.json.encode(symbol), content.raw)
        reply.results[symbol] = Content(twice, content.shown)
    elif content and content.raw.startswith(b"{"):
        raw = (
            b'{"spot_price":1.0,"computed_at":"2001-01-01T00:00:00Z",' + content.raw[1:]
        )
        reply.results[symbol] = sealed(raw, content.shown.computed_at)


def _extra_symbol(reply: Reply, *, symbol: str = "EXTRAUSDT") -> None:
    if first := next(filter(None, reply.results.values()), None):
        reply.document["data"]["results"] = reply.results | {symbol: first}


def _docs_example(reply: Reply) -> None:
    reply.document["data"] = {name: ["string"] for name in reply.document["data"]} | {
        "results": {}
    }
    reply.results = {}


def _clock_step(reply: Reply, *, seconds: float = 3600.0) -> None:
    reply.meta["timestamp"] = _shifted(
        {"computed_at": reply.meta["timestamp"]}, seconds=seconds
    )["computed_at"]
    if limit := reply.meta.get("rate_limit"):
        limit["reset"] += int(seconds)
        reply.headers["X-RateLimit-Reset"] = str(limit["reset"])


def _refusal(status: str) -> Callable[[Reply], None]:
    return lambda reply: reply.refuse(status)


def _slow(reply: Reply, *, seconds: float = 2.0) -> None:
    reply.delay_seconds += seconds


def _huge(reply: Reply, *, megabytes: int = 20) -> None:
    reply.instead = reply.body + b" " * (megabytes * MEGABYTE)


@functools.lru_cache(maxsize=2)
def _bomb(megabytes: int) -> bytes:
    packer = zlib.compressobj(1, zlib.DEFLATED, zlib.MAX_WBITS | 16)
    blank = b" " * MEGABYTE
    return (
        b"".join([packer.compress(blank) for _ in range(megabytes)])
        + packer.compress(b"{}")
        + packer.flush()
    )


# What a fault does to each entry it strikes, to each symbol, to the reply as a whole, from top to bottom.
# Keyword-only parameters are the fault's own, each of its annotation's type or else its default's.
ON_ENTRY: Final[dict[str, Callable[..., Any]]] = {
    "null_levels": lambda entry: (
        entry | {name: dict.fromkeys(entry[name]) for name in ("all_expiry", "odte")}
    ),
    "unknown_field": lambda entry: (
        _with_walls(entry, call_wall_4=1.5) | {"vanna": {"flip": 1.5}}
    ),
    "clock_step": _shifted,
    "computed_at": _computed_at,
    "wrong_types": _wrong_types,
    "nan": lambda entry: _with_walls(entry, hvl=msgspec.Raw(b"NaN")),
}
ON_SYMBOL: Final[dict[str, Callable[..., None]]] = {
    "duplicate_keys": _duplicate_keys,
    "missing": lambda reply, symbol: reply.move(symbol, "missing"),
    "invalid": lambda reply, symbol: reply.move(symbol, "invalid"),
    "null_not_listed": lambda reply, symbol: reply.move(symbol),
    "absent": _absent,
    "both_lists": _both_lists,
}
ON_REPLY: Final[dict[str, Callable[..., None]]] = {
    "extra_symbol": _extra_symbol,
    "success_false": lambda reply: setattr(reply, "success", False),
    "docs_example": _docs_example,
    "flat": lambda reply: reply.document.update(reply.document.pop("data", {})),
    "clock_step": _clock_step,
    **{status: _refusal(status) for status in ERRORS},
    "429": lambda reply, *, retry_after_seconds=30.0: reply.refuse(
        "429", retry_after_seconds=retry_after_seconds
    ),
    "slow": _slow,
    "html": lambda reply, *, status=502: reply.replace(
        HTML, status, **{"Content-Type": "text/html"}
    ),
    "empty": lambda reply, *, status=200: reply.replace(b"", status),
    "redirect": lambda reply, *, location="https://login.example/": reply.replace(
        b"", 302, Location=location
    ),
    "deep": lambda reply, *, depth=100_000: reply.replace(
        b'{"data":%b%b}' % (b"[" * depth, b"]" * depth)
    ),
    "huge": _huge,
    "gzip_bomb": lambda reply, *, megabytes=256: reply.replace(
        _bomb(megabytes), **{"Content-Encoding": "gzip"}
    ),
    "truncated": lambda reply: reply.cut(0.5),
    "drop": lambda reply: reply.cut(0),
    "hang": lambda reply, *, seconds=3600.0: reply.cut(0, seconds),
    "freeze": lambda _: None,  # stops the market, not a reply
}
FAULTS: Final[dict[str, Callable[..., Any]]] = {**ON_ENTRY, **ON_SYMBOL, **ON_REPLY}
