"""Find the differences between two entries of a symbol that count as changes."""

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
    RankedRow,
    Value,
)

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping

_NUMERIC_SECTIONS: Final = {
    "all_expiry": AllExpiry,
    "odte": Odte,
    "max_pain": MaxPain,
    "expected_move": ExpectedMove,
}

# Every path of `Levels` that holds one number.
NUMBER_PATHS: Final = (
    "spot_price",
    *(
        f"{section}.{field}"
        for section, struct in _NUMERIC_SECTIONS.items()
        for field in struct.__struct_fields__
    ),
)

# Every path of `Levels` that holds a list of rows.
LIST_PATHS: Final = (
    *(f"ranked.{field}" for field in Ranked.__struct_fields__),
    "zones",
)

# The paths whose changes do not count unless the configuration says otherwise: the price
# changes with every refresh.
DEFAULT_IGNORE: Final = ("spot_price",)


class Threshold(Value, frozen=True, forbid_unknown_fields=True):
    """The distance a number must move to count as changed.

    The move counts if it exceeds `absolute`, or `relative` times the absolute value before it.
    If neither is set, any difference counts.
    """

    absolute: float | None = None
    relative: float | None = None

    def exceeded(self, before: float | None, after: float | None) -> bool:
        """Return True if two different values differ by enough.

        A change between null and a number always counts, as does any change from 0 if
        `relative` is set.
        """
        if before is None or after is None or self == _ANY_DIFFERENCE:
            return True

        distance = abs(after - before)
        if self.absolute is not None and distance > self.absolute:
            return True
        if self.relative is None:
            return False
        return before == 0 or distance > self.relative * abs(before)


_ANY_DIFFERENCE: Final = Threshold()


class Rules(Value, frozen=True):
    """The differences that count.

    `thresholds` has one item for each path of `NUMBER_PATHS`, None if the path is ignored.
    `lists` are the paths of `LIST_PATHS` that are not ignored.
    """

    thresholds: tuple[Threshold | None, ...] = (_ANY_DIFFERENCE,) * len(NUMBER_PATHS)
    lists: tuple[str, ...] = LIST_PATHS

    @classmethod
    def of(
        cls,
        ignore: Collection[str] = (),
        thresholds: Mapping[str, Threshold] | None = None,
    ) -> Rules:
        """Build rules from paths (`odte.hvl`) or whole sections (`odte`, `ranked`).

        The threshold of a path takes precedence over the threshold of its section.
        """
        configured = thresholds or {}

        def is_ignored(path: str) -> bool:
            return path in ignore or _section(path) in ignore

        def threshold(path: str) -> Threshold | None:
            if is_ignored(path):
                return None
            by_section = configured.get(_section(path), _ANY_DIFFERENCE)
            return configured.get(path, by_section)

        thresholds_of_paths = tuple(threshold(path) for path in NUMBER_PATHS)
        lists = tuple(path for path in LIST_PATHS if not is_ignored(path))
        return cls(thresholds_of_paths, lists)

    def exact(self) -> Rules:
        """Return the same rules without thresholds: every move of a counted number counts."""
        thresholds: list[Threshold | None] = []
        for threshold in self.thresholds:
            # Ignored paths stay ignored.
            exact = None if threshold is None else _ANY_DIFFERENCE
            thresholds.append(exact)
        return Rules(tuple(thresholds), self.lists)


class Difference(Value, frozen=True):
    """The changes that count: numbers with before and after, and the paths of changed lists.

    False in a condition if nothing changed.
    """

    levels: tuple[LevelChange, ...] = ()
    lists: tuple[str, ...] = ()

    def __bool__(self) -> bool:
        return bool(self.levels or self.lists)


NO_DIFFERENCE: Final = Difference()


def compare(before: Levels | None, after: Levels | None, rules: Rules) -> Difference:
    """Return the changes from `before` to `after` that count. None equals all-null levels."""
    if before is after:
        # Cheap and common: the last published levels are usually the latest ones.
        return NO_DIFFERENCE

    old_levels = before or Levels()
    new_levels = after or Levels()
    levels = _changed_numbers(old_levels, new_levels, rules)
    lists = _changed_lists(old_levels, new_levels, rules)
    if not levels and not lists:
        return NO_DIFFERENCE
    return Difference(tuple(levels), tuple(lists))


def _changed_numbers(before: Levels, after: Levels, rules: Rules) -> list[LevelChange]:
    changes = []
    old_numbers = _numbers(before)
    new_numbers = _numbers(after)
    numbers = zip(NUMBER_PATHS, old_numbers, new_numbers, rules.thresholds, strict=True)
    for path, old, new, threshold in numbers:
        if old == new or threshold is None:
            continue
        if threshold.exceeded(old, new):
            changes.append(LevelChange(path, old, new))
    return changes


def _changed_lists(before: Levels, after: Levels, rules: Rules) -> list[str]:
    changed = []
    for path in rules.lists:
        if path == "zones":
            differs = before.zones != after.zones
        else:
            differs = _ranked_differ(_ranked(before, path), _ranked(after, path))
        if differs:
            changed.append(path)
    return changed


def _numbers(levels: Levels) -> tuple[float | None, ...]:
    """Return the values of `NUMBER_PATHS` in its order."""
    astuple = msgspec.structs.astuple
    return (
        levels.spot_price,
        *astuple(levels.all_expiry),
        *astuple(levels.odte),
        *astuple(levels.max_pain),
        *astuple(levels.expected_move),
    )


def _ranked(levels: Levels, path: str) -> tuple[RankedRow, ...] | None:
    _, _, field = path.partition(".")
    rows: tuple[RankedRow, ...] | None = getattr(levels.ranked, field)
    return rows


def _ranked_differ(
    before: tuple[RankedRow, ...] | None, after: tuple[RankedRow, ...] | None
) -> bool:
    """Compare two ranked lists by the order of their strikes and the signs of their exposures.

    Lists with a row that has no strike are compared by complete rows.
    """
    if before == after:
        return False
    if before is None or after is None:
        return True

    old_strikes = [row.strike for row in before]
    new_strikes = [row.strike for row in after]
    if None in old_strikes or None in new_strikes:
        return True
    if old_strikes != new_strikes:
        return True
    old_signs = [_sign(row) for row in before]
    new_signs = [_sign(row) for row in after]
    return old_signs != new_signs


def _sign(row: RankedRow) -> int | None:
    """Return 1, 0 or -1 for the sign of the exposure, None if the row has none.

    Zero is a sign of its own. Otherwise an exposure that passes through zero would change
    its sign unnoticed, since each of the two steps would not count.
    """
    if row.gex is None:
        return None
    if row.gex == 0:
        return 0
    return 1 if row.gex > 0 else -1


def _section(path: str) -> str:
    section, _, _ = path.partition(".")
    return section
