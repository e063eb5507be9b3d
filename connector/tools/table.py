"""`gex-connector watch --table`: keep a row per symbol up to date on a terminal."""

from __future__ import annotations

import shutil
import sys
import time
from dataclasses import dataclass
from enum import Enum, auto
from typing import TYPE_CHECKING, Final

from connector.config.secrets import printable
from connector.core.model import MICROS, Levels, State, Status
from connector.kafka.events import BEGINNING, END, Strays
from connector.tools.text import describe, format_price, shortened, wants_colour

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
# Format of each column, as in the format strings of Python.
_COLUMNS: Final = ("<14", "<8", "<6", ">11", ">11", ">11", ">11", ">7", ">8", "")
_GAP: Final = "  "
_STATUS_COLUMN: Final = 1
_AGE_COLUMN: Final = 7
_CHANGE_COLUMN: Final = 9

# Levels are late after two usual refreshes, as on the status page. After four they would long
# be STALE if a connector was running with the defaults: 90 s, with a refresh every 30 s.
_LATE_PERIODS: Final = 2
_SILENT_PERIODS: Final = 4
# Used until a state holds two refreshes: the API computes levels about every 30 s.
_ASSUMED_PERIOD_SECONDS: Final = 30.0


class _Age(Enum):
    """The age of levels, compared with the usual time between two refreshes."""

    USUAL = auto()
    LATE = auto()
    SILENT = auto()


_AGE_COLOURS: Final = {_Age.LATE: _YELLOW, _Age.SILENT: _RED}


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
        silent = 0
        for (feed, symbol), row in sorted(self._rows.items()):
            # An event can be read before the first state of its symbol.
            if row.state is None:
                continue
            kind = None if row.event is None else row.event.kind
            if self._wanted.matches(symbol, kind, row.state.status):
                name = f"{feed}/{symbol}" if several_feeds else symbol
                age = _age(row.state, now)
                if age is _Age.SILENT:
                    silent += 1
                cells = _cells(name, row.state, row.event, now)
                rows.append((cells, _cell_colours(row.state.status, age)))

        # The header takes a line, and each of the two notes below the rows another.
        room = max(height - 3, 1)
        lines = [_line(_HEADER, {}, width)]
        for cells, colours in rows[:room]:
            lines.append(_line(cells, colours, width))
        if silent:
            lines.append(_silence(silent)[:width])
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


def _age(state: State, now: int) -> _Age:
    """Compare the age of levels with the rhythm of the refreshes in the state.

    The status alone does not tell that no connector runs any more: nobody writes it then.
    """
    if state.status is not Status.LIVE or state.computed_at is None:
        return _Age.USUAL

    age = now - state.computed_at
    period = (state.usual_period_seconds or _ASSUMED_PERIOD_SECONDS) * MICROS
    if age > _SILENT_PERIODS * period:
        return _Age.SILENT
    return _Age.LATE if age > _LATE_PERIODS * period else _Age.USUAL


def _silence(symbols: int) -> str:
    noun = "symbol" if symbols == 1 else "symbols"
    return (
        f"{symbols} LIVE {noun}: no refresh for {_SILENT_PERIODS} of the usual periods. "
        "Is a connector running?"
    )


def _cell_colours(status: Status, age: _Age) -> dict[int, int]:
    """Return the colour of each coloured cell, by column."""
    colours = {_STATUS_COLUMN: _COLOURS[status]}
    if age in _AGE_COLOURS:
        # Green would vouch for levels that nobody has confirmed for a while.
        colours = dict.fromkeys((_STATUS_COLUMN, _AGE_COLUMN), _AGE_COLOURS[age])
    elif status is Status.STALE:
        colours[_AGE_COLUMN] = _YELLOW
    return colours


def _line(cells: tuple[str, ...], colours: dict[int, int], width: int) -> str:
    """Return the cells that fit into the width of the terminal, coloured."""
    coloured = wants_colour()
    parts = []
    room = width
    for column, (cell, form) in enumerate(zip(cells, _COLUMNS, strict=True)):
        gap = _GAP if column else ""
        text = printable(f"{gap}{cell:{form}}")
        if column == _CHANGE_COLUMN:
            text = gap + shortened(text.removeprefix(gap), room - len(gap))
        # Measured before colouring: control sequences take no room on the screen.
        if len(text) > room:
            # Part of a price would look like another price.
            break
        room -= len(text)
        colour = colours.get(column)
        if coloured and colour is not None:
            text = f"\x1b[{colour}m{text}\x1b[0m"
        parts.append(text)
    return "".join(parts)
