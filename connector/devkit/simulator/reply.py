"""An answer on its way out."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final, TypedDict

import msgspec

if TYPE_CHECKING:
    from connector.devkit.simulator.levels import Content
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

_LISTS: Final = ("served", "missing", "invalid")

# Fields of `meta` that describe data, which an error has none of.
_META_OF_DATA: Final = (
    "source",
    "exchanges_filtered",
    "extra",
    "symbol",
    "spot_price",
    "computed_at",
    "freshness_seconds",
)


class Refusal(TypedDict, total=False):
    """The arguments of `Reply.refuse`."""

    status: str
    message: str
    details: dict[str, Any]


@dataclass(slots=True)
class Reply:
    """A response: `{success, **document, meta}` as JSON, or a replacement body.

    Attributes:
        results: The entries inside the document. Empty if the client gets none.
        replacement: A body to send instead of the document.
        is_raw: Send the replacement as it is. Otherwise gzip it if the client accepts it.
        sent_fraction: The part of the body after which the connection breaks.
        has_details: Give every error `details`, even if they are empty.
        turn: Number of the request. Two nodes behind one name answer in turn.
        answer: The record for the truth log, if the request was for levels.
    """

    meta: dict[str, Any]
    headers: dict[str, str]
    document: dict[str, Any] = field(default_factory=dict)
    success: bool = True
    status: int = 200
    results: dict[str, Content | None] = field(default_factory=dict)
    replacement: bytes | None = None
    is_raw: bool = True
    delay_seconds: float = 0.0
    sent_fraction: float = 1.0
    has_details: bool = False
    turn: int = 0
    answer: Answer | None = None

    @property
    def body(self) -> bytes:
        """The whole body, before compression."""
        if self.replacement is not None:
            return self.replacement
        document = {"success": self.success, **self.document, "meta": self.meta}
        return msgspec.json.encode(document, enc_hook=_raw)

    @property
    def data(self) -> dict[str, Any]:
        """The data fields, whether they are inside `data` or at the top level."""
        data: dict[str, Any] = self.document.get("data", self.document)
        return data

    def refuse(
        self, status: str, message: str = "", details: dict[str, Any] | None = None
    ) -> None:
        """Turn the reply into a documented error."""
        code, usual_message = ERRORS[status]
        self.success = False
        self.status = int(status)
        self.results = {}
        error: dict[str, Any] = {"code": code, "message": message or usual_message}
        if details or self.has_details:
            error["details"] = details or {}
        self.document = {"error": error}
        for name in _META_OF_DATA:
            self.meta.pop(name, None)
        if details and "retry_after_seconds" in details:
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
            listed = self.data[name]
            if symbol in listed and name not in lists:
                listed.remove(symbol)
            elif symbol not in listed and name in lists:
                listed.append(symbol)


def _raw(content: Any) -> msgspec.Raw:
    return msgspec.Raw(content.raw)
