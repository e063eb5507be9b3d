"""`gex-connector watch --table`: a row for each symbol, redrawn where it stands."""

from __future__ import annotations

import shutil
import sys
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from connector.config.secrets import printable
from connector.core.model import MICROS, Levels, State
from connector.kafka.events import BEGINNING, END
from connector.tools.watch import price, what

if TYPE_CHECKING:
    from connector.core.model import Event
    from connector.kafka.events import Log, Record
    from connector.tools.reading import ReaderContext
    from connector.tools.watch import EventFilter

_DRAW_SECONDS: Final = 0.5
_HOME, _TO_LINE_END, _TO_SCREEN_END, _CLEAR = "\x1b[H", "\x1b[K", "\x1b[J", "\x1b[2J"
_COLOURS: Final = {"LIVE": 32, "STALE": 33, "MISSING": 33, "INVALID": 31, "REMOVED": 31}
_HEAD: Final = (
    "SYMBOL",
    "STATUS",
    "SPOT",
    "FLIP",
    "RESISTANCE",
    "SUPPORT",
    "AGE",
    "EVENT",
    "LAST CHANGE",
)
_FORMAT: Final = "{:<14}  {:<8}  {:>11}  {:>11}  {:>11}  {:>11}  {:>7}  {:>8}  {}"


@dataclass(slots=True)
class _Row:
    state: State | None = None
    event: Event | None = None


class Table:
    """Follows `current` from its beginning, which is what holds now, and `changes` from its end."""

    def __init__(self, log: Log, opened: ReaderContext, wanted: EventFilter) -> None:
        self._log, self._codec, self._topics, self._wanted = (
            log,
            opened.codec,
            opened.topics,
            wanted,
        )
        self._rows: dict[tuple[str, str], _Row] = {}

    def show(self) -> int:
        """Draw until Ctrl-C. Raises KafkaUnavailable, ShardCorrupt."""
        starts = dict.fromkeys(
            self._log.planned_checks(*map(self._topics.current, self._log.feeds)),
            BEGINNING,
        )
        starts |= dict.fromkeys(
            self._log.planned_checks(*map(self._topics.changes, self._log.feeds)), END
        )
        drawn_at = 0.0
        sys.stdout.write(_CLEAR)
        for record in self._log.follow(starts, lambda: False):
            if record is not None:
                self.take(record)
            if time.monotonic() - drawn_at >= _DRAW_SECONDS:
                size = shutil.get_terminal_size()
                lines = self.lines(time.time_ns() // 1000, size.lines - 1, size.columns)
                sys.stdout.write(
                    _HOME
                    + "".join(f"{line}{_TO_LINE_END}\n" for line in lines)
                    + _TO_SCREEN_END
                )
                sys.stdout.flush()
                drawn_at = time.monotonic()
        return 0

    def take(self, record: Record) -> None:
        """Keep the last state and the last event of a symbol."""
        if self._topics.is_changes(record.topic):
            event = record.decoded(self._codec.decode_event)
            self._rows.setdefault((event.feed, event.symbol), _Row()).event = event
        else:
            state = record.decoded(self._codec.decode_state)
            self._rows.setdefault((state.feed, state.symbol), _Row()).state = state

    def lines(self, now: int, height: int, width: int) -> list[str]:
        """The head and as many rows as there is room for, coloured; `now` in microseconds."""
        rows = [
            _cells(
                f"{feed}/{symbol}" if len(self._log.feeds) > 1 else symbol,
                row.state,
                row.event,
                now,
            )
            for (feed, symbol), row in sorted(self._rows.items())
            if row.state
            and self._wanted.has(
                symbol, row.event.kind if row.event else None, row.state.status
            )
        ]
        room = max(height - 2, 1)
        more = (
            [
                f"and {len(rows) - room} more: filter by --feed, --symbol, --kind, --status"
            ]
            if len(rows) > room
            else []
        )
        return [_line(_HEAD, width), *(_line(row, width) for row in rows[:room]), *more]


def _cells(name: str, state: State, event: Event | None, now: int) -> tuple[str, ...]:
    levels = (state.levels if state.status.has_levels else None) or Levels()
    every = levels.all_expiry
    age = (
        "-"
        if state.computed_at is None
        else f"{(now - state.computed_at) / MICROS:.0f} s"
    )
    shown = map(
        price, (levels.spot_price, every.hvl, every.call_resistance, every.put_support)
    )
    said = "" if event is None else f"{event.kind}  {what(event)}"
    return name, state.status, *shown, age, f"#{state.sequence}", said


def _line(cells: tuple[str, ...], width: int) -> str:
    """Cut to the width, the status in its colour."""
    text, colour = printable(_FORMAT.format(*cells))[:width], _COLOURS.get(cells[1])
    return (
        text
        if colour is None
        else text.replace(cells[1], f"\x1b[{colour}m{cells[1]}\x1b[0m", 1)
    )
