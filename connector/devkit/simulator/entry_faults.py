"""Faults of an entry, which return the spoilt entry.

The keyword-only parameters are those of the fault, typed by annotation or by their default.
"""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any, Final, Literal

import msgspec

if TYPE_CHECKING:
    from collections.abc import Callable

Entry = dict[str, Any]
Stamp = Literal["absent", "null", "garbage", "future", "older"]
Emptiness = Literal["no_fields", "null_fields", "null_leaves"]


def null_levels(entry: Entry) -> Entry:
    """Make every level of `all_expiry` and `odte` null."""
    changed = dict(entry)
    for section in ("all_expiry", "odte"):
        changed[section] = dict.fromkeys(entry[section])
    return changed


def empty_entry(entry: Entry, *, variant: Emptiness = "no_fields") -> Entry:
    """Send `{}`, an entry whose fields are all null, or one with null numbers only."""
    match variant:
        case "no_fields":
            return {}
        case "null_fields":
            return dict.fromkeys(entry)
        case "null_leaves":
            nulls: Entry = _with_null_leaves(entry)
            return nulls


def _with_null_leaves(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _with_null_leaves(item) for name, item in value.items()}
    return None


def unknown_field(entry: Entry) -> Entry:
    """Add fields that the documentation does not have."""
    return _with_levels(entry, call_wall_4=1.5) | {"vanna": {"flip": 1.5}}


def shifted(entry: Entry, *, seconds: float = 3600.0) -> Entry:
    """Shift the server's clock: `computed_at`, `meta.timestamp` and the reset."""
    try:
        computed_at = datetime.fromisoformat(entry["computed_at"])
        later = computed_at + timedelta(seconds=seconds)
    except (KeyError, TypeError, ValueError, OverflowError):
        # Beyond the calendar, or another fault has spoilt it already.
        return entry
    text = later.isoformat(timespec="microseconds").replace("+00:00", "Z")
    return entry | {"computed_at": text}


def computed_at(
    entry: Entry, *, variant: Stamp = "absent", seconds: float = 3600.0
) -> Entry:
    """Spoil `computed_at`."""
    match variant:
        case "absent":
            return {key: value for key, value in entry.items() if key != "computed_at"}
        case "null":
            return entry | {"computed_at": None}
        case "garbage":
            return entry | {"computed_at": "yesterday, about noon"}
        case "future":
            return shifted(entry, seconds=seconds)
        case "older":
            return shifted(entry, seconds=-seconds)


def wrong_types(
    entry: Entry, *, variant: Literal["level", "section", "entry"] = "level"
) -> Any:
    """Send texts and lists in place of levels, of sections or of the whole entry."""
    match variant:
        case "level":
            return _with_levels(entry, call_resistance="n/a", put_support={})
        case "section":
            return entry | {"all_expiry": [1, 2, 3], "odte": "closed"}
        case "entry":
            return "temporarily unavailable"


def nan(entry: Entry) -> Entry:
    """Send `NaN`, which is not JSON, as the gamma flip."""
    return _with_levels(entry, hvl=msgspec.Raw(b"NaN"))


def _with_levels(entry: Entry, **levels: Any) -> Entry:
    return entry | {"all_expiry": entry["all_expiry"] | levels}


ON_ENTRY: Final[dict[str, Callable[..., Any]]] = {
    "null_levels": null_levels,
    "unknown_field": unknown_field,
    "clock_step": shifted,
    "computed_at": computed_at,
    "wrong_types": wrong_types,
    "nan": nan,
    "empty_entry": empty_entry,
}
