"""`gex-connector quarantine`: list, show and follow the entries that could not be used."""

from __future__ import annotations

import os
import signal
import sys
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Final

import msgspec

from connector.config.secrets import printable, quote
from connector.core.model import Value
from connector.errors import UsageError
from connector.kafka.events import BEGINNING, END
from connector.tools.reading import open_reader
from connector.tools.selection import add_selection_arguments, selected_symbols

if TYPE_CHECKING:
    import argparse
    from collections.abc import Iterator

    from connector.kafka.events import Log, Record

_ACTIONS: Final = ("list", "show", "follow")

# Exit status of `show` if there is no such record.
_EXIT_NOT_FOUND: Final = 1


class Entry(Value, frozen=True):
    """A rejected entry, and its record in the quarantine topic.

    `size` counts the bytes that the API sent. `raw` has at most the first 64 KiB of them.
    """

    partition: int
    offset: int
    at: str
    feed: str
    symbol: str
    request_id: str
    reason: str
    message: str
    size: int
    raw: bytes

    @property
    def place(self) -> str:
        """The name of the record for `show`: partition and offset."""
        return f"{self.partition}:{self.offset}"

    @classmethod
    def of(cls, record: Record) -> Entry:
        """Read a record. Parts that a foreign record lacks are empty."""
        headers = record.headers
        # The headers are those that `connector.kafka.quarantine` writes.
        feed, _, origin = _text(headers.get("where")).partition("/")
        symbol, _, request_id = origin.partition("/")
        reason, _, message = _text(headers.get("why")).partition(": ")
        size = _text(headers.get("size"))
        moment = datetime.fromtimestamp(record.timestamp_ms / 1000, UTC)
        return cls(
            partition=record.partition,
            offset=record.offset,
            at=moment.isoformat(timespec="milliseconds").replace("+00:00", "Z"),
            feed=feed,
            symbol=symbol or _text(record.key),
            request_id=request_id,
            reason=reason,
            message=message,
            size=int(size) if size.isdecimal() else len(record.value),
            raw=record.value,
        )


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options of the command."""
    parser.add_argument(
        "action",
        choices=_ACTIONS,
        help="list: one line per entry; show: all of one entry; follow: new ones as they come",
    )
    parser.add_argument(
        "record",
        nargs="?",
        metavar="PARTITION:OFFSET",
        help="the entry to show, as listed; without it, the newest",
    )
    add_selection_arguments(parser)
    form = parser.add_mutually_exclusive_group()
    form.add_argument(
        "--json", action="store_true", help="print one JSON object a line"
    )
    form.add_argument(
        "--raw", action="store_true", help="show: print the bytes alone, unchanged"
    )
    parser.epilog = (
        "exit status: 0, 1 show found no such entry, 2 invalid configuration, "
        "3 Kafka is not usable"
    )


def run(options: argparse.Namespace) -> int:
    """Print entries. Raises UsageError, ConfigError and KafkaUnavailable."""
    _check_options(options)
    place = None if options.record is None else _parse_place(options.record)
    # A shell starts background jobs with SIGINT ignored, so set its handler as well.
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.default_int_handler)

    reader = open_reader(options.config, os.environ)
    # The topic can be read although the others are gone.
    log = reader.quarantine_log()
    topic = reader.topics.quarantine
    wanted = _Filter(options.feed, selected_symbols(options.symbol))

    if options.action == "follow":
        return _follow(log, topic, wanted, as_json=options.json)
    if options.action == "list":
        return _list(log, topic, wanted, as_json=options.json)
    entry = _find(log, topic, wanted, place)
    if entry is None:
        sys.stderr.write(f"no such entry in {topic}\n")
        return _EXIT_NOT_FOUND
    if options.raw:
        sys.stdout.buffer.write(entry.raw)
    else:
        _write(json_line(entry) if options.json else full_text(entry))
    return 0


def _check_options(options: argparse.Namespace) -> None:
    """Raise UsageError for options that would have no effect."""
    if options.action != "show":
        if options.record is not None:
            raise UsageError(f"quarantine {options.action}: takes no record")
        if options.raw:
            raise UsageError(f"quarantine {options.action}: --raw is for show only")
    elif options.record is not None and (options.feed or options.symbol):
        raise UsageError(
            "quarantine show: takes a record, or --feed and --symbol, not both"
        )


class _Filter(Value, frozen=True):
    feed: str | None
    symbols: frozenset[str]

    @property
    def is_open(self) -> bool:
        """True if every entry matches."""
        return self.feed is None and not self.symbols

    def matches(self, entry: Entry) -> bool:
        if self.feed is not None and entry.feed != self.feed:
            return False
        return not self.symbols or entry.symbol in self.symbols


def text_line(entry: Entry) -> str:
    """Return moment, place, feed and symbol, size, reason and message in one line."""
    name = f"{entry.feed}/{entry.symbol}"
    line = (
        f"{entry.at}  {entry.place:<8} {name:<18} {entry.size:>7} bytes  "
        f"{entry.reason}: {entry.message}"
    )
    return printable(line)


def full_text(entry: Entry) -> str:
    """Return everything about an entry: a line for each header, then the bytes."""
    parts = {
        "record": entry.place,
        "observed": entry.at,
        "feed": entry.feed,
        "symbol": entry.symbol,
        "request id": entry.request_id or "-",
        "reason": entry.reason,
        "message": entry.message,
        "size": f"{entry.size} bytes",
    }
    if len(entry.raw) < entry.size:
        parts["size"] += f", of which the first {len(entry.raw)} were kept"
    lines = [f"{name:<11} {printable(text)}" for name, text in parts.items()]
    # `backslashreplace` keeps bytes that are not UTF-8 readable.
    body = entry.raw.decode(errors="backslashreplace")
    lines += ["", *(printable(line) for line in body.splitlines())]
    return "\n".join(lines)


def json_line(entry: Entry) -> str:
    """Return an entry as a JSON object; `entry` has its bytes as text."""
    document: dict[str, Any] = msgspec.structs.asdict(entry)
    raw = document.pop("raw")
    document["entry"] = raw.decode(errors="backslashreplace")
    return msgspec.json.encode(document).decode()


def _line(entry: Entry, *, as_json: bool) -> str:
    return json_line(entry) if as_json else text_line(entry)


def _list(log: Log, topic: str, wanted: _Filter, *, as_json: bool) -> int:
    found = False
    for entry in _entries(log, topic):
        if wanted.matches(entry):
            _write(_line(entry, as_json=as_json))
            found = True
    if not found:
        kind = "entries" if wanted.is_open else "such entries"
        sys.stderr.write(f"no {kind} in {topic}\n")
    return 0


def _follow(log: Log, topic: str, wanted: _Filter, *, as_json: bool) -> int:
    starts = dict.fromkeys(log.partitions_of(topic), END)
    if not as_json:
        sys.stderr.write(f"following {topic}; Ctrl-C ends\n")
    for record in log.follow(starts, lambda: False):
        if record is None:
            continue
        entry = Entry.of(record)
        if wanted.matches(entry):
            _write(_line(entry, as_json=as_json))
    return 0


def _find(
    log: Log, topic: str, wanted: _Filter, place: tuple[int, int] | None
) -> Entry | None:
    """Return the entry at a partition and offset, or else the newest that is wanted."""
    newest = None
    for entry in _entries(log, topic):
        if place is not None:
            if (entry.partition, entry.offset) == place:
                return entry
        elif wanted.matches(entry) and (newest is None or entry.at >= newest.at):
            newest = entry
    return newest


def _entries(log: Log, topic: str) -> Iterator[Entry]:
    """Yield every entry that is in quarantine now."""
    partitions = log.partitions_of(topic)
    ends = log.offsets(partitions, END)
    for record in log.read(dict.fromkeys(partitions, BEGINNING), ends):
        yield Entry.of(record)


def _parse_place(text: str) -> tuple[int, int]:
    """Return partition and offset. Raises UsageError."""
    # The topic has one partition unless somebody else has created it.
    partition, _, offset = text.rpartition(":")
    partition = partition or "0"
    if not (partition.isdecimal() and offset.isdecimal()):
        raise UsageError(
            f"quarantine: record {quote(text)}, expected PARTITION:OFFSET, as listed"
        )
    return int(partition), int(offset)


def _text(value: bytes | str | None) -> str:
    if isinstance(value, bytes):
        return value.decode(errors="backslashreplace")
    return value or ""


def _write(text: str) -> None:
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()
