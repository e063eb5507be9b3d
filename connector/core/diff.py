"""What differs between two entries of a symbol, and whether it counts. Pure."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import msgspec

from connector.core.model import (
    AllExpiry,
    ExpectedMove,
    LevelChange,
    Levels,
    MaxPain,
    Odte,
    Ranked,
    Row,
    Value,
)

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping

_NUMERIC: Final = {
    "all_expiry": AllExpiry,
    "odte": Odte,
    "max_pain": MaxPain,
    "expected_move": ExpectedMove,
}

NUMBERS: Final = (
    "spot_price",
    *(
        f"{section}.{field}"
        for section, struct in _NUMERIC.items()
        for field in struct.__struct_fields__
    ),
)
"""Every path of `Levels` that is one number."""

SECTIONS: Final = (*(f"ranked.{field}" for field in Ranked.__struct_fields__), "zones")
"""Every path of `Levels` that is a list of rows."""


class Threshold(Value, frozen=True, forbid_unknown_fields=True):
    """How far a number must move to count: by more than `absolute`, or by more than `relative` times |before|.

    Exceeding either counts; with neither, any difference does. `relative` of a `before` of 0: any difference.
    """

    absolute: float | None = None
    relative: float | None = None

    def exceeded(self, before: float | None, after: float | None) -> bool:
        """Whether two different values differ by enough. Null against a number always does."""
        if before is None or after is None or self == _ANY:
            return True
        distance = abs(after - before)
        if self.absolute is not None and distance > self.absolute:
            return True
        return self.relative is not None and (
            before == 0 or distance > self.relative * abs(before)
        )


_ANY: Final = Threshold()


class Rules(Value, frozen=True):
    """What counts: per number of `NUMBERS` a threshold, None where it is ignored; and the sections that count."""

    thresholds: tuple[Threshold | None, ...] = (_ANY,) * len(NUMBERS)
    sections: tuple[str, ...] = SECTIONS

    @classmethod
    def of(
        cls,
        ignore: Collection[str] = (),
        thresholds: Mapping[str, Threshold] | None = None,
    ) -> Rules:
        """Rules from paths (`odte.hvl`) or sections (`odte`, `ranked`); a path's threshold wins over its section's."""

        def threshold(path: str) -> Threshold | None:
            section = path.partition(".")[0]
            if path in ignore or section in ignore:
                return None
            given = thresholds or {}
            return given.get(path) or given.get(section) or _ANY

        counted = tuple(
            path
            for path in SECTIONS
            if not {path, path.partition(".")[0]} & set(ignore)
        )
        return cls(
            thresholds=tuple(threshold(path) for path in NUMBERS), sections=counted
        )

    def exact(self) -> Rules:
        """The same without thresholds: whatever is not ignored counts, however small."""
        return Rules(
            tuple(None if limit is None else _ANY for limit in self.thresholds),
            self.sections,
        )


class Difference(Value, frozen=True):
    """What counts as different: numbers with before and after, and the names of lists. Falsy where nothing does."""

    levels: tuple[LevelChange, ...] = ()
    sections: tuple[str, ...] = ()

    def __bool__(self) -> bool:
        return bool(self.levels or self.sections)


NOTHING: Final = Difference()


def compare(before: Levels | None, after: Levels | None, rules: Rules) -> Difference:
    """What of `after` differs from `before`. No levels at all are the same as levels that are all null."""
    if before is after:
        return NOTHING
    was, now = before or Levels(), after or Levels()
    levels = tuple(
        LevelChange(path, old, new)
        for path, old, new, threshold in zip(
            NUMBERS, _numbers(was), _numbers(now), rules.thresholds, strict=True
        )
        if old != new and threshold is not None and threshold.exceeded(old, new)
    )
    sections = tuple(
        path
        for path in rules.sections
        if _rows_differ(path, _rows(was, path), _rows(now, path))
    )
    return Difference(levels, sections) if levels or sections else NOTHING


def _numbers(levels: Levels) -> tuple[float | None, ...]:
    """The values of `NUMBERS`, in its order."""
    astuple = msgspec.structs.astuple
    return (
        levels.spot_price,
        *astuple(levels.all_expiry),
        *astuple(levels.odte),
        *astuple(levels.max_pain),
        *astuple(levels.expected_move),
    )


def _rows(levels: Levels, path: str) -> tuple[Row, ...] | None:
    if path == "zones":
        return levels.zones
    rows: tuple[Row, ...] | None = getattr(levels.ranked, path.partition(".")[2])
    return rows


def _rows_differ(
    path: str, before: tuple[Row, ...] | None, after: tuple[Row, ...] | None
) -> bool:
    """`ranked` is compared by its ordered strikes where every row has one; everything else whole."""
    if before == after:
        return False
    if before is None or after is None or path == "zones":
        return True
    if any(row.strike is None for row in (*before, *after)):
        return True
    return [row.strike for row in before] != [row.strike for row in after]
