"""`gex-connector watch`: print events as they come."""

from __future__ import annotations

import os
import signal
import sys
from typing import TYPE_CHECKING

from connector.config.secrets import printable
from connector.core.model import Kind, Status
from connector.errors import UsageError
from connector.tools.known_symbols import warn_of_unknown_symbols
from connector.tools.reading import EventFilter, open_reader
from connector.tools.selection import add_selection_arguments, selected_symbols
from connector.tools.silence import SilenceNotice
from connector.tools.table import Table
from connector.tools.text import json_line, text_line

if TYPE_CHECKING:
    import argparse

    from connector.kafka.event_stream import Events
    from connector.tools.reading import ReaderContext


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options of the command."""
    parser.add_argument(
        "--from-beginning",
        action="store_true",
        help="start with the events that are already in the topics",
    )
    add_selection_arguments(parser)
    parser.add_argument(
        "--kind",
        action="append",
        type=str.upper,
        default=[],
        choices=list(Kind),
        help="show this kind of event only; repeatable",
    )
    parser.add_argument(
        "--status",
        action="append",
        type=str.upper,
        default=[],
        choices=list(Status),
        help="show this status only; repeatable",
    )
    form = parser.add_mutually_exclusive_group()
    form.add_argument(
        "--json", action="store_true", help="print one JSON object a line"
    )
    form.add_argument(
        "--table",
        action="store_true",
        help="keep one row per symbol up to date; needs a terminal",
    )


def run(options: argparse.Namespace) -> int:
    """Show events until Ctrl-C or SIGTERM. Raises UsageError, ConfigError and KafkaUnavailable."""
    # Lines in place of the table would surprise the program that reads them.
    if options.table and not sys.stdout.isatty():
        raise UsageError("watch: --table needs a terminal; leave it out, or use --json")

    # A shell starts background jobs with SIGINT ignored, so set its handler as well.
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.default_int_handler)

    reader = open_reader(options.config, os.environ)
    wanted = EventFilter(
        symbols=selected_symbols(options.symbol),
        kinds=frozenset(options.kind),
        statuses=frozenset(options.status),
    )
    if options.table:
        log = reader.log(options.feed)
        warn_of_unknown_symbols(log, reader.topics, options.symbol)
        return Table(log, reader, wanted).show()

    silence = SilenceNotice()
    events = reader.events(
        options.feed,
        from_beginning=options.from_beginning,
        states=silence,
    )
    # Programs that read JSON know what they asked for.
    if not options.json:
        sys.stderr.write(f"{_following(events, reader, options)}\n")
    warn_of_unknown_symbols(events.log, reader.topics, options.symbol)
    return watch(events, wanted, silence, as_json=options.json)


def watch(
    events: Events, wanted: EventFilter, silence: SilenceNotice, *, as_json: bool
) -> int:
    """Print every matching event until Ctrl-C, and say when no connector writes any."""
    for received in events.until(lambda: False):
        silence.look()
        if received is None:
            continue
        event = received.event
        if wanted.matches(event.symbol, event.kind, event.status):
            text = json_line(event) if as_json else text_line(received)
            sys.stdout.write(f"{text}\n")
            sys.stdout.flush()
    return 0


def _following(
    events: Events, reader: ReaderContext, options: argparse.Namespace
) -> str:
    """Return which topics are followed, from where on, and which events are hidden."""
    topics = ", ".join(events.topics)
    start = "new events only (--from-beginning: all)"
    if options.from_beginning:
        start = "from the beginning"
    parts = [f"watching {topics} on {reader.clients.servers}", start]
    for name in ("symbol", "kind", "status"):
        values = getattr(options, name)
        if values:
            parts.append(f"{name} {' or '.join(values)}")
    return printable("; ".join([*parts, "Ctrl-C ends"]))
