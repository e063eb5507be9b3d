"""The columns of events in CSV and Parquet files: wide and flat, one row per event.

The layout is part of the public interface (docs/how-to/history.md). New columns go to the end.
"""

from __future__ import annotations

from enum import Enum
from operator import attrgetter
from typing import TYPE_CHECKING, Any, Final

import msgspec

from connector.core.diff import LIST_PATHS, NUMBER_PATHS
from connector.core.model import Event, Value

if TYPE_CHECKING:
    from collections.abc import Callable


class Type(Enum):
    """The type of a column. Any column may be null."""

    MOMENT = "moment"  # microseconds since the epoch, UTC
    NUMBER = "number"
    INTEGER = "integer"
    CATEGORY = "category"  # a text that repeats from row to row
    TEXT = "text"
    TEXTS = "texts"
    RANKED_ROWS = "ranked rows"
    ROWS = "rows"


class Column(Value, frozen=True):
    """A column: its name, its type, and the value that an event has in it.

    Values are integers, floats, texts, or lists of texts or of dictionaries.
    """

    name: str
    type: Type
    value: Callable[[Event], Any]


def _of_event(name: str, column_type: Type) -> Column:
    return Column(name, column_type, attrgetter(name))


def _of_levels(path: str, column_type: Type) -> Column:
    """Return a column of the levels from the event on; null if it has none."""
    read = attrgetter(path)

    def value(event: Event) -> Any:
        if event.after is None:
            return None
        found = read(event.after)
        is_list = column_type in {Type.RANKED_ROWS, Type.ROWS}
        if is_list and found is not None:
            return [msgspec.to_builtins(row) for row in found]
        return found

    return Column(path.replace(".", "_"), column_type, value)


def _changed_levels(event: Event) -> list[str]:
    return [change.path for change in event.changed_levels]


def _changed_sections(event: Event) -> list[str]:
    return list(event.changed_sections)


def _of_list(path: str) -> Column:
    is_ranked = path.startswith("ranked.")
    return _of_levels(path, Type.RANKED_ROWS if is_ranked else Type.ROWS)


COLUMNS: Final = (
    _of_event("observed_at", Type.MOMENT),
    _of_event("computed_at", Type.MOMENT),
    _of_event("feed", Type.CATEGORY),
    _of_event("symbol", Type.CATEGORY),
    _of_event("sequence", Type.INTEGER),
    _of_event("kind", Type.CATEGORY),
    _of_event("status", Type.CATEGORY),
    _of_event("reason", Type.CATEGORY),
    # Whoever charts the levels has to tell those of two models apart.
    _of_levels("positioning", Type.CATEGORY),
    *[_of_levels(path, Type.NUMBER) for path in NUMBER_PATHS],
    _of_levels("positioning_fallback_reason", Type.CATEGORY),
    Column("changed_levels", Type.TEXTS, _changed_levels),
    Column("changed_sections", Type.TEXTS, _changed_sections),
    *[_of_list(path) for path in LIST_PATHS],
    _of_levels("extra", Type.TEXT),
    _of_event("previous_computed_at", Type.MOMENT),
    _of_event("collapsed_observations", Type.INTEGER),
    Column("request_id", Type.TEXT, attrgetter("source.request_id")),
    Column("worker", Type.CATEGORY, attrgetter("source.worker")),
)
