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
    RankedRow,
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
RANKED_PATHS: Final = ("ranked.all_expiry_top_10", "ranked.odte_top_10")
LISTS: Final = (*RANKED_PATHS, "zones")

ME: Final = Source("1.2.3", "group", "worker")


def _top_10() -> list[dict[str, float]]:
    rows: list[dict[str, float]] = []
    for position in range(10):
        exposure = 10_000.5 - position
        row = {
            "rank": position + 1,
            "strike": 60_000 + 500 * position,
            # The exposures of a list have both signs.
            "gex": -exposure if position % 2 else exposure,
            "abs_gex": exposure,
        }
        rows.append(row)
    return rows


def document(**changes: Any) -> dict[str, Any]:
    """Return a full entry with every include, as the API would serve it at `NOW`."""
    entry: dict[str, Any] = {
        "spot_price": 64_250.5,
        "computed_at": "2027-01-15T08:00:00Z",
        "positioning": "flow",
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


def rows(levels: Levels, path: str) -> tuple[RankedRow | Row, ...] | None:
    """Return the value at a path of `LISTS`."""
    if path == "zones":
        return levels.zones
    return ranked_rows(levels, path)


def ranked_rows(levels: Levels, path: str) -> tuple[RankedRow, ...] | None:
    """Return the value at a path such as `ranked.odte_top_10`."""
    _, _, field = path.partition(".")
    value: tuple[RankedRow, ...] | None = getattr(levels.ranked, field)
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

    Numbers, zones, and of ranked rows the ordered strikes with the signs of their exposures
    (the complete rows if one has no strike).
    """
    levels = levels or Levels()
    counted: dict[str, Any] = {}
    for path in NUMBERS:
        counted[path] = number(levels, path)
    counted["zones"] = levels.zones
    for path in RANKED_PATHS:
        counted[path] = strikes_and_signs(ranked_rows(levels, path))

    # Remove the ignored paths and sections.
    for path in NUMBERS + LISTS:
        section, _, _ = path.partition(".")
        if path in ignore or section in ignore:
            del counted[path]
    return counted


def strikes_and_signs(ranked: tuple[RankedRow, ...] | None) -> Any:
    """Return the part of a ranked list that a consumer may compare.

    The size of an exposure moves with every computation. Its strike and its sign are news.
    """
    if ranked is None:
        return None
    compared = []
    for row in ranked:
        if row.strike is None:
            return ranked
        sign = None
        if row.gex is not None:
            sign = (row.gex > 0) - (row.gex < 0)
        compared.append((row.strike, sign))
    return compared


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


# Both signs, zero, and no exposure at all.
_exposures = st.sampled_from([None, -2.5, -1.0, 0.0, -0.0, 1.0, 2.5])
_ranks = st.integers(1, 10)
_sizes = st.sampled_from([1.0, 2.5])
_row_extras = st.sampled_from(['{"a":1}', '"text"'])
_ranked_rows = st.builds(
    RankedRow,
    rank=st.none() | _ranks,
    strike=strikes,
    gex=_exposures,
    abs_gex=st.none() | _sizes,
    extra=st.none() | _row_extras,
)
_ranked_tuples = st.lists(_ranked_rows, max_size=3).map(tuple)
ranked_lists = st.none() | _ranked_tuples


def _zone(strike: float | None, end: int) -> Row:
    fields = {"end": end, "strike": strike}
    return Row(strike, encoded(fields).decode())


_ends = st.integers(0, 2)
_zones = st.builds(_zone, strikes, _ends)
_zone_tuples = st.lists(_zones, max_size=3).map(tuple)
zone_lists = st.none() | _zone_tuples

_models = st.sampled_from(["flow", "std"])
_reasons = st.sampled_from(["flow_tape_empty"])
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
        positioning=st.none() | _models,
        positioning_fallback_reason=st.none() | _reasons,
        all_expiry=_section(AllExpiry, values),
        odte=_section(Odte, values),
        max_pain=_section(MaxPain, values),
        expected_move=_section(ExpectedMove, values),
        ranked=st.builds(Ranked, ranked_lists, ranked_lists),
        zones=zone_lists,
        extra=st.none() | _extras,
    )


any_levels = levels_of(prices)
