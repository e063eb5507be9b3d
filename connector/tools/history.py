"""`gex-connector history`: print the events of one symbol in a period."""

from __future__ import annotations

import csv
import os
import re
import sys
from datetime import UTC, datetime, timedelta
from heapq import merge
from operator import attrgetter
from typing import TYPE_CHECKING, Final

from connector.config.secrets import quote
from connector.config.values import symbols_typed
from connector.core.diff import NUMBER_PATHS
from connector.core.model import MICROS
from connector.errors import UsageError
from connector.kafka.events import END, ReceivedEvent, Strays
from connector.kafka.names import partition_of
from connector.tools.known_symbols import warn_of_unknown_symbols
from connector.tools.reading import open_reader
from connector.tools.text import json_line, text_line

if TYPE_CHECKING:
    import argparse
    from collections.abc import Callable, Collection, Iterator

    from connector.core.model import Event
    from connector.kafka.avro import Codec
    from connector.kafka.events import Log
    from connector.kafka.names import Partition, Topics

_UNITS: Final = {
    "s": "seconds",
    "m": "minutes",
    "h": "hours",
    "d": "days",
    "w": "weeks",
}
# The columns before the levels; the levels follow in the order of `NUMBER_PATHS`. The model
# comes with them: whoever charts the levels has to tell those of two models apart.
_MOMENT_COLUMNS: Final = ("observed_at", "computed_at")
_EVENT_COLUMNS: Final = ("feed", "symbol", "sequence", "kind", "status", "reason")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options of the command."""
    parser.add_argument("symbol")
    parser.add_argument(
        "--since",
        default="1d",
        help="start of the period: 2h or 3d (ago), or ISO 8601 (default: %(default)s)",
    )
    parser.add_argument("--until", help="end of the period (default: now)")
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
        help="print one JSON object a line",
    )


def run(options: argparse.Namespace) -> int:
    """Print the events of a symbol. Raises UsageError, ConfigError and KafkaUnavailable."""
    since = parse_moment(options.since, "--since")
    until = None
    if options.until is not None:
        until = parse_moment(options.until, "--until")
    check_period(since, until)

    reader = open_reader(options.config, os.environ)
    log = reader.log(options.feed)
    period = since, until
    symbols = symbols_typed(options.symbol)
    events = read_events(log, reader.topics, reader.codec, symbols, period)
    if history(events, options.form) == 0:
        sys.stderr.write("no events of this symbol in this period\n")
        warn_of_unknown_symbols(log, reader.topics, [options.symbol])
    return 0


def parse_moment(text: str, option: str) -> int:
    """Return microseconds since the epoch for `2h` (ago) or an ISO 8601 moment.

    Units are s, m, h, d and w. A moment without a zone is UTC. Raises UsageError.
    """
    try:
        return round(_parse(text.strip()).timestamp() * MICROS)
    except (ValueError, OverflowError):
        raise UsageError(
            f"history: {option} {quote(text)}, expected 2h, 3d or 2026-01-31T12:00Z"
        ) from None


def check_period(since: int, until: int | None) -> None:
    """Raise UsageError if the period ends before it begins."""
    if until is not None and since > until:
        raise UsageError("history: expected --since to be before --until")


def history(events: Iterator[Event], form: str) -> int:
    """Print events as `table`, `csv` or `json`, the keys of `_FORMS`. Return their number."""
    show = _FORMS[form]()
    found = 0
    for event in events:
        show(event)
        found += 1
    return found


def read_events(
    log: Log,
    topics: Topics,
    codec: Codec,
    symbols: Collection[str],
    period: tuple[int, int | None],
) -> Iterator[Event]:
    """Yield the events of some symbols observed in a period, feed by feed, up to now.

    All partitions are read: if some were added to the topic, the symbols may have moved.
    `period` is in microseconds since the epoch, without an end if that is None. Skips
    strays. Raises KafkaUnavailable.
    """
    since, until = period
    strays = Strays()
    for feed in log.feeds:
        topic = topics.changes(feed)
        partitions = log.partitions_of(topic)
        # Record timestamps are `observed_at` in milliseconds, so Kafka finds the start.
        end = log.offsets(partitions, END)
        start = log.offsets(partitions, since // 1000)
        for partition in partitions:
            # A negative offset means that no record is as young as `since`.
            if start[partition] < 0:
                start[partition] = end[partition]

        # Most often the other partitions have no event of the symbols.
        count = len(partitions)
        homes = {(topic, partition_of(symbol, count)) for symbol in symbols}
        others = set(partitions) - homes
        moved_from = _only(start, others)
        moved = list(_read_symbols(log, codec, strays, symbols, moved_from, end))
        moved.sort(key=attrgetter("observed_at"))
        stayed_in = _only(start, homes)
        stayed = _read_symbols(log, codec, strays, symbols, stayed_in, end)
        for event in merge(moved, stayed, key=attrgetter("observed_at")):
            is_before = event.observed_at < since
            is_after = until is not None and event.observed_at > until
            if not is_before and not is_after:
                yield event


def _only(
    offsets: dict[Partition, int], partitions: Collection[Partition]
) -> dict[Partition, int]:
    return {partition: offsets[partition] for partition in partitions}


def _read_symbols(
    log: Log,
    codec: Codec,
    strays: Strays,
    symbols: Collection[str],
    start: dict[Partition, int],
    end: dict[Partition, int],
) -> Iterator[Event]:
    keys = {symbol.encode() for symbol in symbols}
    for record in log.read(start, end):
        # Other symbols share the partition; do not decode their events.
        if record.key not in keys:
            continue
        event = strays.decoded(record, codec.decode_event)
        if event is not None:
            yield event


def _parse(text: str) -> datetime:
    duration = re.fullmatch(r"(\d{1,6})([smhdw])", text)
    if duration is not None:
        amount, unit = duration.groups()
        ago = timedelta(**{_UNITS[unit]: int(amount)})
        return datetime.now(UTC) - ago

    moment = datetime.fromisoformat(text)
    return moment if moment.tzinfo else moment.replace(tzinfo=UTC)


def _table() -> Callable[[Event], None]:
    def show(event: Event) -> None:
        day = f"{_datetime(event.observed_at):%Y-%m-%d}"
        # Past events count as received when they were observed.
        received = ReceivedEvent(event, event.observed_at)
        sys.stdout.write(f"{day} {text_line(received)}\n")

    return show


def _csv() -> Callable[[Event], None]:
    """Write a header, then one row per event; a level that is absent is empty."""
    writer = csv.writer(sys.stdout, lineterminator="\n")
    writer.writerow((*_MOMENT_COLUMNS, *_EVENT_COLUMNS, "positioning", *NUMBER_PATHS))

    def show(event: Event) -> None:
        moments = [_iso(getattr(event, name)) for name in _MOMENT_COLUMNS]
        fields = [getattr(event, name) for name in _EVENT_COLUMNS]
        model = None
        levels: list[float | None] = [None] * len(NUMBER_PATHS)
        if event.after is not None:
            model = event.after.positioning
            levels = [attrgetter(path)(event.after) for path in NUMBER_PATHS]
        writer.writerow((*moments, *fields, model, *levels))

    return show


def _json() -> Callable[[Event], None]:
    def show(event: Event) -> None:
        sys.stdout.write(f"{json_line(event)}\n")

    return show


_FORMS: Final = {"table": _table, "csv": _csv, "json": _json}


def _datetime(at: int) -> datetime:
    return datetime.fromtimestamp(at / MICROS, UTC)


def _iso(at: int | None) -> str | None:
    if at is None:
        return None
    return _datetime(at).isoformat(timespec="microseconds")
