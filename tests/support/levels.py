"""Entries of the API, and Hypothesis strategies that draw levels.

Written from the vendor's documentation, not from our decoder, so that a misreading in one
of them shows.
"""

from __future__ import annotations

import json
from typing import Any, Final

from hypothesis import strategies as st

from connector.core.model import (
    AllExpiry,
    Entry,
    ExpectedMove,
    Levels,
    MaxPain,
    Observation,
    Odte,
    Ranked,
    Row,
    Source,
    Status,
)

SECOND: Final = 1_000_000
# 2027-01-15T08:00:00Z.
NOW: Final = 1_800_000_000 * SECOND

FIELDS: Final = {
    "all_expiry": (
        "hvl",
        "call_resistance",
        "call_wall_2",
        "call_wall_3",
        "put_support",
        "put_wall_2",
        "put_wall_3",
    ),
    "odte": ("hvl", "call_resistance", "put_support"),
    "max_pain": ("strike", "value"),
    "expected_move": ("upper_1sd", "lower_1sd", "upper_2sd", "lower_2sd"),
}


def _paths_of_numbers() -> tuple[str, ...]:
    paths = ["spot_price"]
    for section, fields in FIELDS.items():
        for field in fields:
            paths.append(f"{section}.{field}")
    return tuple(paths)


NUMBERS: Final = _paths_of_numbers()
RANKED: Final = ("all_expiry_top_10", "odte_top_10")
LISTS: Final = ("ranked.all_expiry_top_10", "ranked.odte_top_10", "zones")

Rows = tuple[Row, ...]
ME: Final = Source("1.2.3", "group", "worker")


def _top_10() -> list[dict[str, float]]:
    rows = []
    for rank in range(10):
        rows.append({"strike": 60_000 + 500 * rank, "gex": 1.5})
    return rows


def document(**changes: Any) -> dict[str, Any]:
    """Return a full entry with every include, as the API would serve it at `NOW`."""
    entry: dict[str, Any] = {
        "spot_price": 64_250.5,
        "computed_at": "2027-01-15T08:00:00Z",
    }
    for section, fields in FIELDS.items():
        # Every field of a section has a value of its own, so that a mix-up shows.
        values = {}
        for position, field in enumerate(fields):
            values[field] = 60_000.0 + 500 * position
        entry[section] = values
    entry["ranked"] = {}
    for name in RANKED:
        entry["ranked"][name] = _top_10()
    entry["zones"] = [{"from": 61_000, "to": 62_000.5}]
    return entry | changes


def encoded(value: Any) -> bytes:
    return json.dumps(value).encode()


def body(results: dict[str, Any], **fields: Any) -> bytes:
    """Return a response of the API, with `data` around its fields."""
    data = {"results": results, **fields}
    meta = {"version": "2"}
    return encoded({"success": True, "data": data, "meta": meta})


def number(levels: Levels, path: str) -> float | None:
    """Return the value at a path of `NUMBERS`."""
    section, _, field = path.rpartition(".")
    # `spot_price` is in no section.
    parent: Any = levels
    if section:
        parent = getattr(levels, section)
    value: float | None = getattr(parent, field)
    return value


def rows(levels: Levels, path: str) -> Rows | None:
    """Return the value at a path of `LISTS`."""
    if path == "zones":
        return levels.zones
    _, _, field = path.partition(".")
    value: Rows | None = getattr(levels.ranked, field)
    return value


def at(path: str, value: Any, base: Levels | None = None) -> Levels:
    """Return `base` with another value at one path of `NUMBERS` or `LISTS`."""
    section, _, field = path.rpartition(".")
    levels = base or Levels()
    if section:
        value = changed(getattr(levels, section), {field: value})
        field = section
    result: Levels = changed(levels, {field: value})
    return result


def changed(struct: Any, values: dict[str, Any]) -> Any:
    """Return a copy of a struct with other values in some of its fields."""
    fields = {}
    for name in struct.__struct_fields__:
        fields[name] = values.get(name, getattr(struct, name))
    return type(struct)(**fields)


def what_counts(
    levels: Levels | None, ignore: frozenset[str] = frozenset()
) -> dict[str, Any]:
    """Return everything that a consumer may compare, by path; absent values as null.

    Numbers, zones, and of ranked rows the ordered strikes (the rows if one has no strike).
    """
    levels = levels or Levels()
    counted: dict[str, Any] = {}
    for path in NUMBERS:
        counted[path] = number(levels, path)
    for path in LISTS:
        value = rows(levels, path)
        counted[path] = value
        # The exposure of a ranked row moves with every computation; its strike is news.
        if path != "zones" and value is not None:
            strikes = [row.strike for row in value]
            if None not in strikes:
                counted[path] = strikes

    # Remove the ignored paths and sections.
    for path in NUMBERS + LISTS:
        section, _, _ = path.partition(".")
        if path in ignore or section in ignore:
            del counted[path]
    return counted


def seen(
    levels: Levels | None,
    computed_at: int | None = NOW,
    upstream_at: int | None = None,
    **others: Any,
) -> Observation:
    """Return an observation of these levels, made when they were computed by default.

    Pass `status` to say why there are no levels.
    """
    moment = NOW
    if computed_at is not None:
        moment = computed_at
    if upstream_at is not None:
        moment = upstream_at

    entry = None
    if levels is not None:
        entry = Entry(levels, computed_at)
    fields: dict[str, Any] = {
        "symbol": "BTCUSDT",
        "status": Status.LIVE,
        "observed_at": moment,
        "source": ME,
    }
    return Observation(entry=entry, upstream_at=moment, **(fields | others))


# A few numbers come often, so that two entries agree in some of them.
_likely_prices = st.sampled_from([0.0, -0.0, 100.0, 100.5, 60_000.0])
_finite = st.floats(allow_nan=False, allow_infinity=False)
prices = st.none() | _likely_prices | _finite
_strikes = st.sampled_from([100.0, 200.0, 300.0])
strikes = st.none() | _strikes


def _row(strike: float | None, gex: int) -> Row:
    fields = {"gex": gex, "strike": strike}
    return Row(strike, encoded(fields).decode())


_exposures = st.integers(0, 2)
_rows = st.builds(_row, strikes, _exposures)
_row_tuples = st.lists(_rows, max_size=3).map(tuple)
row_lists = st.none() | _row_tuples

_extras = st.sampled_from(['{"a":1}', '{"b":[2]}'])

Numbers = st.SearchStrategy[float | None]


def _section(kind: type[Any], values: Numbers) -> st.SearchStrategy[Any]:
    """Draw a section: an empty one, or one whose every field is drawn from `values`."""
    fields = dict.fromkeys(kind.__struct_fields__, values)
    full = st.builds(kind, **fields)
    return st.just(kind()) | full


def levels_of(values: Numbers) -> st.SearchStrategy[Levels]:
    """Draw levels whose numbers are drawn from `values`."""
    return st.builds(
        Levels,
        spot_price=values,
        all_expiry=_section(AllExpiry, values),
        odte=_section(Odte, values),
        max_pain=_section(MaxPain, values),
        expected_move=_section(ExpectedMove, values),
        ranked=st.builds(Ranked, row_lists, row_lists),
        zones=row_lists,
        extra=st.none() | _extras,
    )


any_levels = levels_of(prices)
