"""`gex-connector history`: print the events of a period, or write them to a Parquet file."""

from __future__ import annotations

import csv
import os
import signal
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import msgspec

from connector.config.secrets import printable
from connector.core.model import MICROS
from connector.errors import UsageError
from connector.kafka.event_stream import ReceivedEvent
from connector.tools.event_columns import COLUMNS, Column, Type
from connector.tools.known_symbols import warn_of_unknown_symbols
from connector.tools.past_events import ends_of, read_events
from connector.tools.period import add_period_arguments, iso, period_of
from connector.tools.reading import open_reader
from connector.tools.selection import selected_symbols
from connector.tools.text import json_line, text_line

if TYPE_CHECKING:
    import argparse
    from collections.abc import Callable, Iterator

    from connector.core.model import Event

_KILOBYTE: Final = 1_000
_MEGABYTE: Final = 1_000_000


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options of the command."""
    parser.add_argument(
        "symbols",
        nargs="*",
        metavar="SYMBOL",
        help="show these symbols only (default: all)",
    )
    parser.add_argument(
        "--symbol",
        action="append",
        default=[],
        help="show this symbol only; repeatable, as in `watch`",
    )
    add_period_arguments(parser)
    parser.add_argument("--feed", help="show this feed only")
    form = parser.add_mutually_exclusive_group()
    form.add_argument(
        "--csv",
        dest="form",
        action="store_const",
        const="csv",
        default="table",
        help="print one row per event, with the levels after it",
    )
    form.add_argument(
        "--json",
        dest="form",
        action="store_const",
        const="json",
        default="table",
        help="print one JSON object a line, with all of the event; `replay` reads it",
    )
    form.add_argument(
        "--parquet",
        type=Path,
        metavar="FILE",
        help="write the rows of --csv, typed, to a file for pandas or DuckDB",
    )
    parser.add_argument(
        "--force", action="store_true", help="replace the file if it exists"
    )


def run(options: argparse.Namespace) -> int:
    """Show the events. Raises UsageError, ConfigError and KafkaUnavailable.

    Returns:
        1 if nothing was found and a symbol is unknown, else 0.
    """
    # No half-written file is left behind by `kill`, as by Ctrl-C.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    period = period_of(options, "history")
    if options.parquet is not None:
        check_target(options.parquet, replaces=options.force)

    typed = [*options.symbols, *options.symbol]
    symbols = selected_symbols(typed)
    reader = open_reader(options.config, os.environ)
    log = reader.log(options.feed)
    events = read_events(log, reader, symbols, period, ends_of(log, reader))
    if options.parquet is not None:
        found = write_parquet(events, options.parquet)
    else:
        found = history(events, options.form)
    if found > 0:
        return 0
    whose = f"of {', '.join(typed)} " if typed else ""
    sys.stderr.write(f"{printable(f'no events {whose}in this period')}\n")
    # A quiet period is an answer, and a typing mistake is not.
    return 1 if warn_of_unknown_symbols(log, reader.topics, typed) else 0


def check_target(path: Path, *, replaces: bool) -> None:
    """Raise UsageError if a file cannot or must not be written."""
    try:
        is_folder, exists = path.is_dir(), path.exists()
    except OSError as error:
        raise UsageError(
            f"history: --parquet {printable(str(path))}: {error.strerror}"
        ) from None
    if is_folder:
        raise UsageError(
            f"history: --parquet {printable(str(path))} is a folder, expected a file"
        )
    if exists and not replaces:
        raise UsageError(
            f"history: --parquet {printable(str(path))} exists; choose another name, or "
            "replace it with --force"
        )


def write_parquet(events: Iterator[Event], path: Path) -> int:
    """Write events to a file, all or none. Return their number.

    Raises UsageError if it cannot be written, or if the extra is not installed.
    """
    try:
        from connector.tools.parquet import new_parquet_file  # noqa: PLC0415 -- an extra
    except ImportError as error:
        raise UsageError(
            f"history: --parquet needs a package that is not installed ({error}); "
            "install the extra `parquet`: pip install 'gex-levels-connector[parquet]'"
        ) from None

    with new_parquet_file(path) as file:
        for event in events:
            file.add(event)
    written = f"{file.written:,} events, {_size(path.stat().st_size)}: {path}"
    sys.stderr.write(f"{printable(written)}\n")
    return file.written


def _size(count: int) -> str:
    if count >= _MEGABYTE:
        return f"{count / _MEGABYTE:.1f} MB"
    return f"{count / _KILOBYTE:.0f} kB"


def history(events: Iterator[Event], form: str) -> int:
    """Print events as `table`, `csv` or `json`, the keys of `_FORMS`. Return their number."""
    show = _FORMS[form]()
    found = 0
    for event in events:
        show(event)
        found += 1
    return found


def _table() -> Callable[[Event], None]:
    def show(event: Event) -> None:
        observed = datetime.fromtimestamp(event.observed_at / MICROS, UTC)
        # Past events count as received when they were observed.
        received = ReceivedEvent(event, event.observed_at)
        sys.stdout.write(f"{observed:%Y-%m-%d} {text_line(received)}\n")

    return show


def _csv() -> Callable[[Event], None]:
    """Write a header, then one row per event; a value that is absent is empty."""
    writer = csv.writer(sys.stdout, lineterminator="\n")
    writer.writerow([column.name for column in COLUMNS])

    def show(event: Event) -> None:
        writer.writerow([_cell(column, event) for column in COLUMNS])

    return show


def _cell(column: Column, event: Event) -> Any:
    value = column.value(event)
    if value is None:
        return None
    match column.type:
        case Type.MOMENT:
            return iso(value)
        case Type.TEXT | Type.CATEGORY:
            # Some are texts of the API, which must neither break a line nor control the
            # terminal.
            return printable(value)
        case Type.TEXTS:
            return printable(" ".join(value))
        case Type.RANKED_ROWS | Type.ROWS:
            return msgspec.json.encode(value).decode()
        case _:
            return value


def _json() -> Callable[[Event], None]:
    def show(event: Event) -> None:
        sys.stdout.write(f"{json_line(event)}\n")

    return show


_FORMS: Final = {"table": _table, "csv": _csv, "json": _json}
