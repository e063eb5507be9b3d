"""`gex-connector watch --table`: keep a row per symbol up to date on a terminal."""

from __future__ import annotations

import shutil
import sys
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from connector.config.secrets import printable
from connector.core.model import MICROS, Levels, State
from connector.kafka.events import BEGINNING, END, Strays
from connector.tools.text import describe, format_price, wants_colour

if TYPE_CHECKING:
    from connector.core.model import Event
    from connector.kafka.events import Log, Record
    from connector.tools.reading import EventFilter, ReaderContext

# Often enough to look live, and rare enough for a slow terminal.
_DRAW_INTERVAL_SECONDS: Final = 0.5

# ANSI control sequences.
_CURSOR_HOME: Final = "\x1b[H"
_ERASE_LINE_END: Final = "\x1b[K"
_ERASE_SCREEN_END: Final = "\x1b[J"
_ERASE_SCREEN: Final = "\x1b[2J"
_RED: Final = 31
_GREEN: Final = 32
_YELLOW: Final = 33
_COLOURS: Final = {
    "LIVE": _GREEN,
    "STALE": _YELLOW,
    "MISSING": _YELLOW,
    "INVALID": _RED,
    "REMOVED": _RED,
}

_HEADER: Final = (
    "SYMBOL",
    "STATUS",
    "MODEL",
    "SPOT",
    "FLIP",
    "RESISTANCE",
    "SUPPORT",
    "AGE",
    "EVENT",
    "LAST CHANGE",
)
_ROW_FORMAT: Final = (
    "{:<14}  {:<8}  {:<6}  {:>11}  {:>11}  {:>11}  {:>11}  {:>7}  {:>8}  {}"
)
_STATUS_COLUMN: Final = 1


@dataclass(slots=True)
class _Row:
    state: State | None = None
    event: Event | None = None


class Table:
    """The last state and event of each symbol.

    `current` is read from its beginning, since compaction keeps the last state of every
    symbol there, and `changes` from its end.
    """

    def __init__(self, log: Log, reader: ReaderContext, wanted: EventFilter) -> None:
        self._log = log
        self._topics = reader.topics
        self._codec = reader.codec
        self._wanted = wanted
        self._strays = Strays()
        self._rows: dict[tuple[str, str], _Row] = {}

    def show(self) -> int:
        """Draw until Ctrl-C. Skips strays. Raises KafkaUnavailable."""
        # States from the beginning and events from the end, in one stream of records.
        current = map(self._topics.current, self._log.feeds)
        changes = map(self._topics.changes, self._log.feeds)
        starts = dict.fromkeys(self._log.partitions_of(*current), BEGINNING)
        starts |= dict.fromkeys(self._log.partitions_of(*changes), END)

        sys.stdout.write(_ERASE_SCREEN)
        drawn_at = 0.0
        for record in self._log.follow(starts, lambda: False):
            if record is not None:
                self.take(record)
            if time.monotonic() - drawn_at >= _DRAW_INTERVAL_SECONDS:
                self._draw()
                drawn_at = time.monotonic()
        return 0

    def take(self, record: Record) -> None:
        """Keep a record's state or event as the symbol's last."""
        if self._topics.is_changes(record.topic):
            event = self._strays.decoded(record, self._codec.decode_event)
            if event is not None:
                self._row(event.feed, event.symbol).event = event
        else:
            state = self._strays.decoded(record, self._codec.decode_state)
            if state is not None:
                self._row(state.feed, state.symbol).state = state

    def lines(self, now: int, height: int, width: int) -> list[str]:
        """Return the header and the rows that fit, coloured. `now` is in microseconds."""
        several_feeds = len(self._log.feeds) > 1
        rows = []
        for (feed, symbol), row in sorted(self._rows.items()):
            # An event can be read before the first state of its symbol.
            if row.state is None:
                continue
            kind = None if row.event is None else row.event.kind
            if self._wanted.matches(symbol, kind, row.state.status):
                name = f"{feed}/{symbol}" if several_feeds else symbol
                rows.append(_cells(name, row.state, row.event, now))

        # The header takes a line, and the note about hidden rows another.
        room = max(height - 2, 1)
        lines = [_line(_HEADER, width)]
        lines += [_line(row, width) for row in rows[:room]]
        hidden = len(rows) - room
        if hidden > 0:
            options = "--feed, --symbol, --kind, --status"
            lines.append(f"and {hidden} more: filter by {options}")
        return lines

    def _row(self, feed: str, symbol: str) -> _Row:
        return self._rows.setdefault((feed, symbol), _Row())

    def _draw(self) -> None:
        size = shutil.get_terminal_size()
        now = time.time_ns() // 1000
        lines = self.lines(now, size.lines - 1, size.columns)

        # Overwrite in place: erasing the screen first would flicker.
        page = "".join(f"{line}{_ERASE_LINE_END}\n" for line in lines)
        sys.stdout.write(_CURSOR_HOME + page + _ERASE_SCREEN_END)
        sys.stdout.flush()


def _cells(name: str, state: State, event: Event | None, now: int) -> tuple[str, ...]:
    # Absent symbols keep their last levels in the state, but they are not valid now.
    levels = Levels()
    if state.status.has_levels and state.levels is not None:
        levels = state.levels

    age = "-"
    if state.computed_at is not None:
        age = f"{(now - state.computed_at) / MICROS:.0f} s"

    last_change = ""
    if event is not None:
        last_change = f"{event.kind}  {describe(event)}"

    return (
        name,
        state.status,
        _model(levels),
        format_price(levels.spot_price),
        format_price(levels.all_expiry.hvl),
        format_price(levels.all_expiry.call_resistance),
        format_price(levels.all_expiry.put_support),
        age,
        f"#{state.sequence}",
        last_change,
    )


def _model(levels: Levels) -> str:
    """Return the model behind the levels; an exclamation mark shows a fallback to it."""
    mark = "" if levels.positioning_fallback_reason is None else "!"
    return f"{levels.positioning or '-'}{mark}"


def _line(cells: tuple[str, ...], width: int) -> str:
    """Return a row cut to the width of the terminal, its status coloured."""
    # Cut before colouring: control sequences take no room on the screen.
    text = printable(_ROW_FORMAT.format(*cells))[:width]
    status = cells[_STATUS_COLUMN]
    colour = _COLOURS.get(status)
    if colour is None or not wants_colour():
        return text
    return text.replace(status, f"\x1b[{colour}m{status}\x1b[0m", 1)
