"""One symbol's entry: JSON to `Levels`, with every field nobody documented kept. Pure."""

from __future__ import annotations

import re
from datetime import UTC, datetime
from typing import Any, Final

import msgspec

from connector.core.model import (
    MICROS,
    AllExpiry,
    Entry,
    ExpectedMove,
    Levels,
    MaxPain,
    Odte,
    Ranked,
    Row,
)
from connector.errors import EntryError

MAX_ENTRY_BYTES: Final = 64 * 1024
"""A longer entry goes to quarantine: an event holds two, and a broker takes 1 MiB."""

MAX_AHEAD_SECONDS: Final = 60
"""A `computed_at` further ahead of the upstream's clock is bogus."""


class _Ranked(msgspec.Struct):
    all_expiry_top_10: list[Any] | None = None
    odte_top_10: list[Any] | None = None


class _Entry(msgspec.Struct):
    all_expiry: AllExpiry | None = None
    odte: Odte | None = None
    spot_price: float | None = None
    computed_at: str | None = None
    ranked: _Ranked | None = None
    max_pain: MaxPain | None = None
    expected_move: ExpectedMove | None = None
    zones: list[Any] | None = None
    gamma_flip_zones: list[Any] | None = None


_KNOWN: Final = {
    "all_expiry": frozenset(AllExpiry.__struct_fields__),
    "odte": frozenset(Odte.__struct_fields__),
    "max_pain": frozenset(MaxPain.__struct_fields__),
    "expected_move": frozenset(ExpectedMove.__struct_fields__),
    "ranked": frozenset(_Ranked.__struct_fields__),
}
_FIELDS: Final = frozenset(_Entry.__struct_fields__)


def decode_entry(raw: bytes, now: int) -> Entry:
    """Decode one symbol's entry; `now` is the upstream's clock, against which a `computed_at` is plausible.

    Raises:
        EntryError: `too_large`, `malformed`, `duplicate_keys`, `wrong_type`, `computed_at_unparsable` or
            `computed_at_future`.
    """
    if len(raw) > MAX_ENTRY_BYTES:
        raise EntryError(
            "too_large", f"{len(raw)} bytes, at most {MAX_ENTRY_BYTES} are taken"
        )
    try:
        fields = msgspec.json.decode(raw)
        canonical = msgspec.json.encode(fields)
        typed = msgspec.convert(fields, _Entry)
        levels = _levels(typed, fields)
    except msgspec.ValidationError as error:
        raise EntryError("wrong_type", str(error)[:200]) from None
    except (
        msgspec.DecodeError,
        UnicodeDecodeError,
        RecursionError,
        OverflowError,
    ) as error:
        raise EntryError("malformed", str(error)[:200]) from None
    # Where nothing is escaped a key cannot be lost without its colon.
    same = b"\\" not in raw and raw.count(b":") == canonical.count(b":")
    if not same and (lost := _count_keys(raw) - _count_keys(canonical)) > 0:
        raise EntryError(
            "duplicate_keys",
            f"{lost} of its keys stand there before in the same object",
        )
    computed_at = (
        None if typed.computed_at is None else _computed_at(typed.computed_at, now)
    )
    return Entry(levels, computed_at)


def _levels(typed: _Entry, fields: dict[str, Any]) -> Levels:
    ranked = typed.ranked or _Ranked()
    zones = typed.gamma_flip_zones if typed.zones is None else typed.zones
    return Levels(
        spot_price=typed.spot_price,
        all_expiry=typed.all_expiry or AllExpiry(),
        odte=typed.odte or Odte(),
        max_pain=typed.max_pain or MaxPain(),
        expected_move=typed.expected_move or ExpectedMove(),
        ranked=Ranked(_rows(ranked.all_expiry_top_10), _rows(ranked.odte_top_10)),
        zones=_rows(zones),
        extra=_extra(typed, fields),
    )


def _rows(rows: list[Any] | None) -> tuple[Row, ...] | None:
    return (
        None
        if rows is None
        else tuple([Row(_strike(row), canonical_json(row)) for row in rows])
    )


def _strike(row: Any) -> float | None:
    """The strike of a row that is a number or has one under that name."""
    strike = row.get("strike") if isinstance(row, dict) else row
    return (
        float(strike)
        if isinstance(strike, int | float) and not isinstance(strike, bool)
        else None
    )


def _extra(typed: _Entry, fields: dict[str, Any]) -> str | None:
    """Every field nobody documented, in the entry's own shape."""
    extra = {name: fields[name] for name in fields.keys() - _FIELDS}
    for name, known in _KNOWN.items():
        section = fields.get(name)
        if section and (unknown := section.keys() - known):
            extra[name] = {field: section[field] for field in unknown}
    if typed.zones is not None and typed.gamma_flip_zones is not None:
        extra["gamma_flip_zones"] = typed.gamma_flip_zones
    return canonical_json(extra) if extra else None


_sorted: Final = msgspec.json.Encoder(order="sorted")


def canonical_json(value: Any) -> str:
    """JSON with sorted keys and no blanks."""
    return _sorted.encode(value).decode()


_STRING: Final = re.compile(rb'"(?:[^"\\]++|\\.)*+"', re.DOTALL)


def _count_keys(valid: bytes) -> int:
    """How many keys stand in valid JSON: each has a colon, and outside of texts there are no others."""
    return _STRING.sub(b"", valid).count(b":")


def _computed_at(text: str, now: int) -> int:
    moment = moment_or_none(text)
    if moment is None:
        raise EntryError(
            "computed_at_unparsable",
            f"computed_at = {text[:40]!r}, expected ISO 8601 in UTC",
        )
    if moment > now + MAX_AHEAD_SECONDS * MICROS:
        ahead = (moment - now) / MICROS
        raise EntryError(
            "computed_at_future",
            f"computed_at = {text[:40]!r} is {ahead:.0f} s ahead of the clock",
        )
    return moment


def moment_or_none(text: Any) -> int | None:
    """Microseconds since the epoch of an ISO 8601 text; one without an offset is UTC, as the vendor documents."""
    try:
        moment = datetime.fromisoformat(text)
        return round(
            (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp()
            * MICROS
        )
    except (ValueError, TypeError, OverflowError):
        return None
