"""Decode one symbol's entry from JSON to `Levels`, and keep every undocumented field."""

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
    RankedRow,
    Row,
)
from connector.core.positioning import (
    NO_MODELS,
    UNNAMED,
    Positioning,
    ResponseModels,
    name_or_none,
)
from connector.errors import EntryError

# Larger entries go to quarantine: an event holds two of them, and a broker accepts 1 MiB.
MAX_ENTRY_BYTES: Final = 64 * 1024

# A `computed_at` further ahead of the upstream's clock is implausible. The minute allows for
# the error of our estimate of that clock.
MAX_AHEAD_SECONDS: Final = 60

# The largest value of Avro's int.
_MAX_RANK: Final = 2**31 - 1

# The most of a bad `computed_at` that an error message shows.
_MAX_SHOWN_CHARACTERS: Final = 40


class _Ranked(msgspec.Struct):
    all_expiry_top_10: list[Any] | None = None
    odte_top_10: list[Any] | None = None


class _Entry(msgspec.Struct):
    all_expiry: AllExpiry | None = None
    odte: Odte | None = None
    spot_price: float | None = None
    computed_at: str | None = None
    # Any type: an unexpected one must not cost the levels.
    positioning: Any = None
    positioning_fallback_reason: Any = None
    ranked: _Ranked | None = None
    max_pain: MaxPain | None = None
    expected_move: ExpectedMove | None = None
    zones: list[Any] | None = None
    gamma_flip_zones: list[Any] | None = None


_DOCUMENTED_FIELDS: Final = frozenset(_Entry.__struct_fields__)
_DOCUMENTED_IN_SECTIONS: Final = {
    "all_expiry": frozenset(AllExpiry.__struct_fields__),
    "odte": frozenset(Odte.__struct_fields__),
    "max_pain": frozenset(MaxPain.__struct_fields__),
    "expected_move": frozenset(ExpectedMove.__struct_fields__),
    "ranked": frozenset(_Ranked.__struct_fields__),
}


# A number under the name of a level: enough to know that an entry is not empty.
_LEVEL_NAMES: Final = frozenset(
    (
        "spot_price",
        *AllExpiry.__struct_fields__,
        *Odte.__struct_fields__,
        *MaxPain.__struct_fields__,
        *ExpectedMove.__struct_fields__,
    )
)
_ANY_LEVEL_NAME: Final = "|".join(_LEVEL_NAMES).encode()
_LEVEL: Final = re.compile(rb'"(?:%b)"\s*:\s*-?\d' % _ANY_LEVEL_NAME)


def is_empty_entry(raw: bytes) -> bool:
    """Return True if an entry has no level at all: every number is null, and no list has rows.

    Other fields do not count: without a level they are of no use to a consumer. An entry that
    cannot be decoded is not empty.
    """
    # Nearly every entry has a number near its start, which makes this check cheap.
    if len(raw) > MAX_ENTRY_BYTES or _LEVEL.search(raw):
        return False
    try:
        fields = msgspec.json.decode(raw)
        levels = _levels(msgspec.convert(fields, _Entry), fields, UNNAMED)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError, OverflowError):
        return False

    sections = (levels.all_expiry, levels.odte, levels.max_pain, levels.expected_move)
    for section in sections:
        if section != type(section)():
            return False
    ranked = levels.ranked
    has_rows = ranked.all_expiry_top_10 or ranked.odte_top_10 or levels.zones
    return levels.spot_price is None and not has_rows


def decode_entry(
    raw: bytes, now: int, *, symbol: str = "", models: ResponseModels = NO_MODELS
) -> Entry:
    """Decode one symbol's entry.

    `now` is the upstream's clock; a `computed_at` far ahead of it is rejected. `models` are
    those that the metadata of the response names, for entries that do not name theirs.

    Raises:
        EntryError: The entry cannot be used. Its reason is `too_large`, `malformed`,
            `duplicate_keys`, `wrong_type`, `computed_at_unparsable` or `computed_at_future`.
    """
    if len(raw) > MAX_ENTRY_BYTES:
        raise EntryError(
            "too_large",
            f"the entry has {len(raw)} bytes, expected at most {MAX_ENTRY_BYTES}",
        )
    try:
        fields = msgspec.json.decode(raw)
        canonical = msgspec.json.encode(fields)
        entry = msgspec.convert(fields, _Entry)
        positioning = models.complete(symbol, _named_positioning(entry))
        levels = _levels(entry, fields, positioning)
    except msgspec.ValidationError as error:
        raise EntryError("wrong_type", str(error)[:200]) from None
    except (
        msgspec.DecodeError,
        UnicodeDecodeError,
        RecursionError,
        OverflowError,
    ) as error:
        raise EntryError("malformed", str(error)[:200]) from None

    _check_for_duplicate_keys(raw, canonical)
    computed_at = None
    if entry.computed_at is not None:
        computed_at = _computed_at(entry.computed_at, now)
    return Entry(levels, computed_at)


def _check_for_duplicate_keys(raw: bytes, canonical: bytes) -> None:
    """Raise EntryError if the decoder dropped a repeated key.

    `canonical` is the decoded entry encoded again, without the keys that were dropped.
    """
    # Without escapes, a dropped key takes its colon along. This check is cheap and nearly
    # always sufficient.
    has_escapes = b"\\" in raw
    if not has_escapes and raw.count(b":") == canonical.count(b":"):
        return
    dropped = _count_keys(raw) - _count_keys(canonical)
    if dropped > 0:
        raise EntryError(
            "duplicate_keys", f"{dropped} keys are repeated within an object"
        )


def _named_positioning(entry: _Entry) -> Positioning:
    return Positioning(
        name_or_none(entry.positioning),
        name_or_none(entry.positioning_fallback_reason),
    )


def _levels(entry: _Entry, fields: dict[str, Any], positioning: Positioning) -> Levels:
    ranked = entry.ranked or _Ranked()
    top_10 = Ranked(
        _ranked_rows(ranked.all_expiry_top_10), _ranked_rows(ranked.odte_top_10)
    )
    # The vendor documents `gamma_flip_zones`, but the include is called `zones`: accept both.
    zones = entry.gamma_flip_zones if entry.zones is None else entry.zones
    return Levels(
        spot_price=entry.spot_price,
        positioning=positioning.model,
        positioning_fallback_reason=positioning.fallback_reason,
        all_expiry=entry.all_expiry or AllExpiry(),
        odte=entry.odte or Odte(),
        max_pain=entry.max_pain or MaxPain(),
        expected_move=entry.expected_move or ExpectedMove(),
        ranked=top_10,
        zones=_rows(zones),
        extra=_extra(entry, fields),
    )


def _ranked_rows(rows: list[Any] | None) -> tuple[RankedRow, ...] | None:
    if rows is None:
        return None
    # A list is faster here than a generator, and there are up to twenty rows per symbol.
    return tuple([_ranked_row(row) for row in rows])


def _ranked_row(row: Any) -> RankedRow:
    """Return a row with every readable field typed, and anything else as JSON."""
    if not isinstance(row, dict):
        return RankedRow(strike=_strike(row), extra=canonical_json(row))

    rest = dict(row)
    rank = _taken_rank(rest)
    strike = _taken_number(rest, "strike")
    gex = _taken_number(rest, "gex")
    abs_gex = _taken_number(rest, "abs_gex")
    extra = canonical_json(rest) if rest else None
    return RankedRow(rank, strike, gex, abs_gex, extra)


def _taken_rank(rest: dict[str, Any]) -> int | None:
    """Take the rank out of a row if it is null or a number that Avro's int can hold."""
    rank: Any = rest.get("rank")
    if rank is None:
        rest.pop("rank", None)
        return None
    # A bool is an int to Python, but not a rank.
    is_int = isinstance(rank, int) and not isinstance(rank, bool)
    if not is_int or abs(rank) > _MAX_RANK:
        return None
    del rest["rank"]
    return int(rank)


def _taken_number(rest: dict[str, Any], name: str) -> float | None:
    """Take a number out of a row. A value that is neither a number nor null stays there."""
    value = rest.get(name)
    number = _number(value)
    if value is None or number is not None:
        rest.pop(name, None)
    return number


def _rows(rows: list[Any] | None) -> tuple[Row, ...] | None:
    if rows is None:
        return None
    return tuple([Row(_strike(row), canonical_json(row)) for row in rows])


def _strike(row: Any) -> float | None:
    """Return the strike of a row: its `strike` field, or the row itself if it is a number."""
    return _number(row.get("strike") if isinstance(row, dict) else row)


def _number(value: Any) -> float | None:
    # A bool is an int to Python, but not a number of the API.
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    return float(value)


def _extra(entry: _Entry, fields: dict[str, Any]) -> str | None:
    """Return every undocumented field as JSON, nested as in the entry."""
    extra = {name: fields[name] for name in fields.keys() - _DOCUMENTED_FIELDS}
    for name, documented in _DOCUMENTED_IN_SECTIONS.items():
        section = fields.get(name)
        if not section:
            continue
        undocumented = section.keys() - documented
        if undocumented:
            extra[name] = {field: section[field] for field in undocumented}

    # A name of another type than text is not understood, but not lost either.
    for name in ("positioning", "positioning_fallback_reason"):
        value = fields.get(name)
        if value is not None and not isinstance(value, str):
            extra[name] = value

    # `zones` was used, so the other name of the list counts as undocumented.
    if entry.zones is not None and entry.gamma_flip_zones is not None:
        extra["gamma_flip_zones"] = entry.gamma_flip_zones
    return canonical_json(extra) if extra else None


_encode_sorted: Final = msgspec.json.Encoder(order="sorted").encode


def canonical_json(value: Any) -> str:
    """Encode a value as JSON with sorted keys and without whitespace."""
    return _encode_sorted(value).decode()


# The possessive quantifiers (`++`, `*+`) rule out backtracking on hostile input.
_STRING: Final = re.compile(rb'"(?:[^"\\]++|\\.)*+"', re.DOTALL)


def _count_keys(valid_json: bytes) -> int:
    """Count the keys of all objects: outside of strings, each colon belongs to a key."""
    return _STRING.sub(b"", valid_json).count(b":")


def _computed_at(text: str, now: int) -> int:
    shown = repr(text[:_MAX_SHOWN_CHARACTERS])
    moment = moment_or_none(text)
    if moment is None:
        raise EntryError(
            "computed_at_unparsable",
            f"computed_at is {shown}, expected ISO 8601 in UTC",
        )
    if moment > now + MAX_AHEAD_SECONDS * MICROS:
        ahead_seconds = (moment - now) / MICROS
        raise EntryError(
            "computed_at_future",
            f"computed_at is {shown}, {ahead_seconds:.0f} s ahead of the upstream's"
            f" clock, expected at most {MAX_AHEAD_SECONDS} s",
        )
    return moment


def moment_or_none(text: Any) -> int | None:
    """Parse an ISO 8601 text to microseconds since the epoch. Return None if it is not one.

    A text without an offset is UTC, as the vendor documents.
    """
    try:
        moment = datetime.fromisoformat(text)
        if moment.tzinfo is None:
            moment = moment.replace(tzinfo=UTC)
        return round(moment.timestamp() * MICROS)
    except (ValueError, TypeError, OverflowError):
        return None
