"""The data of an answer before it is written, and what the faults of `DATA` do to it."""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any, Final

import msgspec

from connector.simulator.faults import ONE_ENTRY
from connector.simulator.levels import Content, content_of
from connector.simulator.market import micros

if TYPE_CHECKING:
    from collections.abc import Callable

    from connector.simulator.faults import Fault

RAW_EDITS: Final = frozenset({"nan", "duplicate_keys"})  # last, since what they leave is no JSON to edit again


@dataclass(slots=True)
class Draft:
    """The data of an answer before it is written. `twice` are keys repeated in `results`, `step` is in microseconds."""

    entries: dict[str, Content | None] = field(default_factory=dict)
    requested: list[str] = field(default_factory=list)
    missing: list[str] = field(default_factory=list)
    invalid: list[str] = field(default_factory=list)
    extra: dict[str, Content] = field(default_factory=dict)
    twice: list[tuple[str, Content]] = field(default_factory=list)
    step: int = 0
    success: bool = True
    flat: bool = False
    placeholders: bool = False

    def data(self) -> dict[str, Any]:
        """The five fields, inside `data` or, where `flat`, without it."""
        pairs = [*self.entries.items(), *self.extra.items(), *self.twice]
        results = b",".join(
            [b"%b:%b" % (msgspec.json.encode(name), one.raw if one else b"null") for name, one in pairs]
        )
        served = [symbol for symbol, one in self.entries.items() if one]
        fields: dict[str, Any] = {
            "results": msgspec.Raw(b"{%b}" % results),
            "requested": self.requested,
            "served": served,
            "missing": self.missing,
            "invalid": self.invalid,
        }
        if self.placeholders:
            fields = {name: {} if name == "results" else ["string"] for name in fields}
        return fields if self.flat else {"data": fields}


def spoil(draft: Draft, faults: list[Fault]) -> None:
    """Do to the draft what the faults of `DATA` among these say."""
    for fault in sorted(faults, key=lambda one: one.name in RAW_EDITS):
        targets = [one for one in draft.entries if fault.symbols is None or one in fault.symbols]
        if fault.symbols is None and fault.name in ONE_ENTRY:
            targets = [one for one in targets if draft.entries[one]][:1]
        if fault.name in ENVELOPE_EDITS:
            ENVELOPE_EDITS[fault.name](draft, fault.parameters)
        for symbol in targets:
            content = draft.entries[symbol]
            if fault.name in LIST_EDITS:
                LIST_EDITS[fault.name](draft, symbol, fault.parameters)
            elif content and fault.name in ENTRY_EDITS and content.raw.startswith(b"{"):
                entry = msgspec.json.decode(content.raw)
                draft.entries[symbol] = content_of(ENTRY_EDITS[fault.name](entry, fault.parameters))
            elif content and fault.name == "nan":
                raw = re.sub(rb'"hvl":[^,}]+', b'"hvl":NaN', content.raw, count=1)
                draft.entries[symbol] = _raw_content(raw, content.computed_at)
            elif content and fault.name == "duplicate_keys":
                _repeat(draft, symbol, content, fault.parameters["variant"])


def _repeat(draft: Draft, symbol: str, content: Content, variant: str) -> None:
    if variant == "results":
        draft.twice.append((symbol, content))
    elif content.raw.startswith(b"{"):
        raw = b'{"spot_price":1.0,"computed_at":"2001-01-01T00:00:00Z",' + content.raw[1:]
        draft.entries[symbol] = _raw_content(raw, content.computed_at)


def _raw_content(raw: bytes, computed_at: str | None) -> Content:
    return Content(raw, hashlib.sha256(raw).hexdigest(), computed_at)


def _shifted(entry: dict[str, Any], seconds: float) -> dict[str, Any]:
    try:
        at = datetime.fromisoformat(entry["computed_at"]) + timedelta(seconds=seconds)
    except (KeyError, TypeError, ValueError, OverflowError):
        return entry  # beyond the calendar, or another fault has spoiled it already
    return entry | {"computed_at": at.isoformat(timespec="microseconds").replace("+00:00", "Z")}


def _computed_at(entry: dict[str, Any], parameters: dict[str, Any]) -> dict[str, Any]:
    variant = parameters["variant"]
    if variant == "absent":
        return {key: value for key, value in entry.items() if key != "computed_at"}
    if variant in {"null", "garbage"}:
        return entry | {"computed_at": None if variant == "null" else "yesterday, about noon"}
    return _shifted(entry, parameters["seconds"] * (1 if variant == "future" else -1))


def _wrong_types(entry: dict[str, Any], parameters: dict[str, Any]) -> Any:
    spoilt: dict[str, Any] = {
        "level": entry | {"all_expiry": entry["all_expiry"] | {"call_resistance": "n/a", "put_support": {}}},
        "section": entry | {"all_expiry": [1, 2, 3], "odte": "closed"},
        "entry": "temporarily unavailable",
    }
    return spoilt[parameters["variant"]]


def _null_levels(entry: dict[str, Any], _: dict[str, Any]) -> dict[str, Any]:
    return entry | {name: dict.fromkeys(entry[name]) for name in ("all_expiry", "odte")}


def _unknown_field(entry: dict[str, Any], _: dict[str, Any]) -> dict[str, Any]:
    return entry | {"vanna": {"flip": 1.5}, "all_expiry": entry["all_expiry"] | {"call_wall_4": 1.5}}


def _without_entry(*lists: str) -> Callable[[Draft, str, dict[str, Any]], None]:
    def edit(draft: Draft, symbol: str, _: dict[str, Any]) -> None:
        draft.entries[symbol] = None
        draft.missing = [one for one in draft.missing if one != symbol] + [symbol] * ("missing" in lists)
        draft.invalid = [one for one in draft.invalid if one != symbol] + [symbol] * ("invalid" in lists)

    return edit


def _absent(draft: Draft, symbol: str, _: dict[str, Any]) -> None:
    _without_entry()(draft, symbol, {})
    del draft.entries[symbol]
    draft.requested.remove(symbol)


def _both_lists(draft: Draft, symbol: str, parameters: dict[str, Any]) -> None:
    variant = parameters["variant"]
    if variant == "missing_and_invalid":
        _without_entry("missing", "invalid")(draft, symbol, {})
    else:
        (draft.missing if variant == "served_and_missing" else draft.invalid).append(symbol)


def _extra_symbol(draft: Draft, parameters: dict[str, Any]) -> None:
    first = next((one for one in draft.entries.values() if one), None)
    if first:
        draft.extra[parameters["symbol"]] = first


def _clock_step(draft: Draft, parameters: dict[str, Any]) -> None:
    draft.step += micros(parameters["seconds"])
    for symbol, content in draft.entries.items():
        if content and content.raw.startswith(b"{"):
            draft.entries[symbol] = content_of(_shifted(msgspec.json.decode(content.raw), parameters["seconds"]))


ENTRY_EDITS: Final[dict[str, Callable[[dict[str, Any], dict[str, Any]], Any]]] = {
    "wrong_types": _wrong_types,
    "null_levels": _null_levels,
    "unknown_field": _unknown_field,
    "computed_at": _computed_at,
}
LIST_EDITS: Final[dict[str, Callable[[Draft, str, dict[str, Any]], None]]] = {
    "missing": _without_entry("missing"),
    "invalid": _without_entry("invalid"),
    "null_not_listed": _without_entry(),
    "absent": _absent,
    "both_lists": _both_lists,
}
ENVELOPE_EDITS: Final[dict[str, Callable[[Draft, dict[str, Any]], None]]] = {
    "extra_symbol": _extra_symbol,
    "clock_step": _clock_step,
    "success_false": lambda draft, _: setattr(draft, "success", False),
    "flat": lambda draft, _: setattr(draft, "flat", True),
    "docs_example": lambda draft, _: setattr(draft, "placeholders", True),
}
