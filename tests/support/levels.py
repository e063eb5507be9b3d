"""Entries as the upstream's documentation has them, and values to draw: written from it, not from our decoder."""

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
NOW: Final = 1_800_000_000 * SECOND
"""2027-01-15T08:00:00Z."""

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
NUMBERS: Final = (
    "spot_price",
    *(f"{section}.{field}" for section, fields in FIELDS.items() for field in fields),
)
RANKED: Final = ("all_expiry_top_10", "odte_top_10")
LISTS: Final = (*(f"ranked.{name}" for name in RANKED), "zones")

ME: Final = Source("1.2.3", "group", "worker")


def document(**changes: Any) -> dict[str, Any]:
    """A full entry with every include, as the upstream would say it at `NOW`."""
    return {
        "spot_price": 64_250.5,
        "computed_at": "2027-01-15T08:00:00Z",
        **{
            section: {
                field: 60_000.0 + 500 * position
                for position, field in enumerate(fields)
            }
            for section, fields in FIELDS.items()
        },
        "ranked": {
            name: [{"strike": 60_000 + 500 * row, "gex": 1.5} for row in range(10)]
            for name in RANKED
        },
        "zones": [{"from": 61_000, "to": 62_000.5}],
        **changes,
    }


def encoded(value: Any) -> bytes:
    return json.dumps(value).encode()


def body(results: dict[str, Any], **fields: Any) -> bytes:
    """A response with `data` around its fields."""
    return encoded(
        {
            "success": True,
            "data": {"results": results, **fields},
            "meta": {"version": "2"},
        }
    )


def number(levels: Levels, path: str) -> float | None:
    """The value at a path of `NUMBERS`."""
    section, _, field = path.rpartition(".")
    value: float | None = getattr(
        getattr(levels, section) if section else levels, field
    )
    return value


def rows(levels: Levels, path: str) -> tuple[Row, ...] | None:
    """The value at a path of `LISTS`."""
    value: tuple[Row, ...] | None = (
        levels.zones if path == "zones" else getattr(levels.ranked, path.split(".")[1])
    )
    return value


def at(path: str, value: Any, base: Levels | None = None) -> Levels:
    """`base` with one other value at a path of `NUMBERS` or `LISTS`."""
    section, _, field = path.rpartition(".")
    levels = Levels() if base is None else base
    if section:
        field, value = section, changed(getattr(levels, section), {field: value})
    result: Levels = changed(levels, {field: value})
    return result


def changed(struct: Any, values: dict[str, Any]) -> Any:
    """A value with other fields."""
    return type(struct)(
        **{
            name: values.get(name, getattr(struct, name))
            for name in struct.__struct_fields__
        }
    )


def what_counts(
    levels: Levels | None, ignore: frozenset[str] = frozenset()
) -> dict[str, Any]:
    """Everything that a consumer may compare: numbers, ordered strikes (or whole rows), zones; absent as null."""
    levels = levels or Levels()
    counted: dict[str, Any] = {path: number(levels, path) for path in NUMBERS}
    for path in LISTS:
        value = rows(levels, path)
        by_strike = (
            path != "zones"
            and value is not None
            and all(row.strike is not None for row in value)
        )
        counted[path] = [row.strike for row in value or ()] if by_strike else value
    return {
        path: value
        for path, value in counted.items()
        if not {path, path.split(".")[0]} & ignore
    }


def seen(
    levels: Levels | None,
    computed_at: int | None = NOW,
    age_at: int | None = None,
    **others: Any,
) -> Observation:
    """A check that showed these levels, by default when they were computed; `status` says why there are none."""
    moment = (
        age_at if age_at is not None else NOW if computed_at is None else computed_at
    )
    given: dict[str, Any] = {
        "symbol": "BTCUSDT",
        "status": Status.LIVE,
        "observed_at": moment,
        "source": ME,
        **others,
    }
    return Observation(
        entry=None if levels is None else Entry(levels, computed_at),
        age_at=moment,
        **given,
    )


prices = (
    st.none()
    | st.sampled_from([0.0, -0.0, 100.0, 100.5, 60_000.0])
    | st.floats(allow_nan=False, allow_infinity=False)
)
strikes = st.none() | st.sampled_from([100.0, 200.0, 300.0])
row_lists = st.none() | st.lists(
    st.builds(
        lambda strike, gex: Row(
            strike, encoded({"gex": gex, "strike": strike}).decode()
        ),
        strikes,
        st.integers(0, 2),
    ),
    max_size=3,
).map(tuple)


def _section(
    kind: type[Any], values: st.SearchStrategy[float | None]
) -> st.SearchStrategy[Any]:
    return st.just(kind()) | st.builds(
        kind, **dict.fromkeys(kind.__struct_fields__, values)
    )


def levels_of(values: st.SearchStrategy[float | None]) -> st.SearchStrategy[Levels]:
    return st.builds(
        Levels,
        spot_price=values,
        all_expiry=_section(AllExpiry, values),
        odte=_section(Odte, values),
        max_pain=_section(MaxPain, values),
        expected_move=_section(ExpectedMove, values),
        ranked=st.builds(Ranked, row_lists, row_lists),
        zones=row_lists,
        extra=st.none() | st.sampled_from(['{"a":1}', '{"b":[2]}']),
    )


any_levels = levels_of(prices)
