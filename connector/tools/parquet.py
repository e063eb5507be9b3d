"""Writes events to a Parquet file. Needs the extra `parquet`."""

from __future__ import annotations

import secrets
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Any, Final

import pyarrow as pa
import pyarrow.parquet as pq

from connector import __version__
from connector.config.secrets import printable
from connector.errors import UsageError
from connector.tools.event_columns import COLUMNS, Type

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from connector.core.model import Event

# Events take much more memory than the columns that they become.
_EVENTS_PER_BATCH: Final = 1_000

# The columns of a row group are in memory until it is written: up to 100 MB.
_EVENTS_PER_ROW_GROUP: Final = 50_000

# Changes only if a column is removed, renamed or has another type.
_LAYOUT_VERSION: Final = "1"

_RANKED_ROW: Final = pa.struct(
    [
        ("rank", pa.int32()),
        ("strike", pa.float64()),
        ("gex", pa.float64()),
        ("abs_gex", pa.float64()),
        ("extra", pa.string()),
    ]
)
_ROW: Final = pa.struct([("strike", pa.float64()), ("json", pa.string())])
_TYPES: Final = {
    Type.MOMENT: pa.timestamp("us", tz="UTC"),
    Type.NUMBER: pa.float64(),
    Type.INTEGER: pa.int64(),
    Type.CATEGORY: pa.dictionary(pa.int32(), pa.string()),
    Type.TEXT: pa.string(),
    Type.TEXTS: pa.list_(pa.string()),
    Type.RANKED_ROWS: pa.list_(_RANKED_ROW),
    Type.ROWS: pa.list_(_ROW),
}


_SCHEMA: Final = pa.schema(
    [pa.field(column.name, _TYPES[column.type]) for column in COLUMNS],
    {
        "gex_levels_connector.version": __version__,
        "gex_levels_connector.layout": _LAYOUT_VERSION,
    },
)


class ParquetEvents:
    """An open file that events are added to. `written` counts them."""

    def __init__(self, writer: pq.ParquetWriter) -> None:
        self._writer = writer
        self._events: list[Event] = []
        self._batches: list[pa.RecordBatch] = []
        self.written = 0

    def add(self, event: Event) -> None:
        """Add an event, and write a row group if there are enough for one."""
        self._events.append(event)
        self.written += 1
        if len(self._events) == _EVENTS_PER_BATCH:
            self._add_batch()
        if self.written % _EVENTS_PER_ROW_GROUP == 0:
            self.write_row_group()

    def write_row_group(self) -> None:
        """Write the events that wait for a row group."""
        self._add_batch()
        if self._batches:
            table = pa.Table.from_batches(self._batches, _SCHEMA)
            # Each batch has numbered the texts of a column by itself.
            self._writer.write_table(table.unify_dictionaries(), _EVENTS_PER_ROW_GROUP)
            self._batches.clear()

    def _add_batch(self) -> None:
        if not self._events:
            return
        arrays: list[Any] = []
        for column in COLUMNS:
            values = [column.value(event) for event in self._events]
            arrays.append(pa.array(values, _TYPES[column.type]))
        self._batches.append(pa.RecordBatch.from_arrays(arrays, schema=_SCHEMA))
        self._events.clear()


@contextmanager
def new_parquet_file(path: Path) -> Iterator[ParquetEvents]:
    """Open a file for events. It appears under its name once it is complete.

    After any error nothing is left of it. Raises UsageError if it cannot be written.
    """
    # In the same folder, so that renaming it does not copy it.
    unfinished = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    try:
        with (
            unfinished.open("xb") as file,
            pq.ParquetWriter(file, _SCHEMA, compression="zstd") as writer,
        ):
            events = ParquetEvents(writer)
            yield events
            events.write_row_group()
        unfinished.replace(path)
    except OSError as error:
        raise UsageError(
            f"cannot write {printable(str(path))}: {error.strerror or error}; choose a folder "
            "that exists, may be written to and has space left"
        ) from None
    finally:
        with suppress(FileNotFoundError):
            unfinished.unlink()
