"""Events survive a file: complete in JSON lines, and column by column in Parquet and CSV."""

from __future__ import annotations

import csv
import io
import tempfile
from contextlib import redirect_stdout
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import pyarrow.parquet as pq
from hypothesis import given
from hypothesis import strategies as st

from connector.config.secrets import printable
from connector.core.model import MICROS, Event
from connector.tools.event_columns import COLUMNS, Type
from connector.tools.history import history
from connector.tools.parquet import new_parquet_file
from connector.tools.replay.event_file import read_event_file
from connector.tools.replay.pace import Pace
from tests.support.profiles import cases
from tests.unit.test_avro import events

if TYPE_CHECKING:
    from collections.abc import Sequence

some_events = st.lists(events, max_size=5)
EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)


@cases(50)
@given(some_events)
def test_a_file_of_json_lines_holds_all_of_its_events(written: Sequence[Event]) -> None:
    printed = io.StringIO()
    with redirect_stdout(printed):
        history(iter(written), "json")
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "events.jsonl"
        path.write_text(printed.getvalue(), "utf-8")

        assert list(read_event_file(path)) == written


@cases(100)
@given(some_events, st.floats(0.01, 1e6))
def test_moved_moments_keep_their_order(written: Sequence[Event], speed: float) -> None:
    pace = Pace(first_at=0, starts_at=1_800_000_000 * MICROS, speed=speed)

    moved = [pace.moved_event(event) for event in written]

    by_moment = sorted(written, key=lambda event: event.observed_at)
    by_moved = sorted(moved, key=lambda event: event.observed_at)
    assert [event.observed_at for event in by_moved] == [
        pace.due_at(event.observed_at) for event in by_moment
    ]
    for event, old in zip(moved, written, strict=True):
        if event.computed_at is not None and old.computed_at is not None:
            is_later = old.computed_at >= old.observed_at
            assert not is_later or event.computed_at >= event.observed_at
        assert event.after == old.after


@cases(30)
@given(some_events)
def test_a_parquet_file_has_the_values_of_every_column(
    written: Sequence[Event],
) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "events.parquet"
        with new_parquet_file(path) as file:
            for event in written:
                file.add(event)
        rows = pq.read_table(path).to_pylist()

    assert len(rows) == len(written)
    for row, event in zip(rows, written, strict=True):
        for column in COLUMNS:
            assert plain(row[column.name], column.type) == column.value(event)


def plain(value: Any, column_type: Type) -> Any:
    """Return a value read from Parquet as the column has it: moments are integers."""
    if column_type is Type.MOMENT and value is not None:
        since = value - EPOCH
        return (since.days * 86_400 + since.seconds) * MICROS + since.microseconds
    return value


@cases(30)
@given(some_events)
def test_csv_has_a_cell_for_every_column(written: Sequence[Event]) -> None:
    printed = io.StringIO(newline="")
    with redirect_stdout(printed):
        history(iter(written), "csv")
    printed.seek(0)

    rows = list(csv.DictReader(printed))

    assert len(rows) == len(written)
    for row, event in zip(rows, written, strict=True):
        assert list(row) == [column.name for column in COLUMNS]
        assert row["symbol"] == printable(event.symbol)
        for column in COLUMNS:
            if column.type is Type.NUMBER and column.value(event) is not None:
                assert float(row[column.name]) == column.value(event)
