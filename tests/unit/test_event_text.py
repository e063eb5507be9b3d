"""Events and states as lines of text, with the model behind their levels."""

from __future__ import annotations

import io
from typing import Any, Final

import pytest
from msgspec.structs import replace

from connector.core.model import Levels, State, Status
from connector.core.transition import FeedRules, observe
from connector.kafka.avro import Codec, SingleObject
from connector.kafka.event_stream import ReceivedEvent
from connector.kafka.events import Record
from connector.kafka.names import Topics
from connector.tools.reading import EventFilter
from connector.tools.table import Table
from connector.tools.text import describe, shortened, text_line
from tests.support.levels import NOW, SECOND, at, seen

FEED: Final = FeedRules("all")
FLOW: Final = replace(at("all_expiry.hvl", 100.0), positioning="flow")
STD: Final = replace(
    at("all_expiry.hvl", 200.0),
    positioning="std",
    positioning_fallback_reason="flow_tape_empty",
)


def described(before: Levels | None, after: Levels) -> str:
    """Return the text of the event that `after` causes."""
    state = None
    if before is not None:
        state = observe(None, seen(before), FEED).state
    event = observe(state, seen(after, NOW + SECOND), FEED).event
    assert event is not None
    return describe(event)


def test_another_model_is_shown_with_the_reason_and_the_new_levels() -> None:
    text = described(FLOW, STD)

    # No difference is shown: the levels of two models cannot be compared.
    assert "hvl 200" in text
    assert "→" not in text
    assert "model std, fallback: flow_tape_empty" in text
    assert text.endswith("(positioning)")


class Output(io.TextIOWrapper):
    """A standard output with an encoding, on a terminal or not."""

    def __init__(self, encoding: str, *, is_terminal: bool = False) -> None:
        super().__init__(io.BytesIO(), encoding)
        self._is_terminal = is_terminal

    def isatty(self) -> bool:
        return self._is_terminal


@pytest.mark.parametrize(
    ("encoding", "arrow"),
    [("utf-8", "→"), ("ascii", "->"), ("iso-8859-1", "->"), ("cp1252", "->")],
)
def test_an_arrow_is_one_that_the_terminal_can_show(
    encoding: str, arrow: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.stdout", Output(encoding))

    text = described(at("all_expiry.hvl", 100.0), at("all_expiry.hvl", 200.0))

    assert text == f"hvl 100 {arrow} 200"


@pytest.mark.parametrize(
    ("no_color", "is_coloured"), [(None, True), ("", True), ("1", False)]
)
def test_no_color_turns_colours_off(
    no_color: str | None, is_coloured: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.stdout", Output("utf-8", is_terminal=True))
    monkeypatch.delenv("NO_COLOR", raising=False)
    if no_color is not None:
        monkeypatch.setenv("NO_COLOR", no_color)
    state = observe(None, seen(FLOW), FEED)
    assert state.event is not None

    line = text_line(ReceivedEvent(state.event, NOW))
    row = table_rows(state.state)[1]

    assert ("\x1b" in line) is is_coloured
    assert ("\x1b" in row) is is_coloured


def test_a_change_that_stays_stale_is_shown_with_its_reason() -> None:
    first = observe(None, seen(at("all_expiry.hvl", 100.0)), FEED).state
    assert first is not None
    stale = replace(first, status=Status.STALE)
    change = seen(at("all_expiry.hvl", 200.0), NOW + SECOND, plan_keeps_fresh=False)

    event = observe(stale, change, FEED).event

    assert event is not None
    assert describe(event) == "hvl 100 → 200  (budget)"


@pytest.mark.parametrize(
    ("room", "shown"),
    [
        (34, "hvl 100 → 200  put_support 90 → 95"),
        (33, "hvl 100 → 200  ..."),
        (18, "hvl 100 → 200  ..."),
        # A part of a price would look like another price.
        (17, "..."),
        (0, "..."),
    ],
)
def test_changes_that_do_not_fit_are_left_out_whole(room: int, shown: str) -> None:
    assert shortened("hvl 100 → 200  put_support 90 → 95", room) == shown


def test_the_model_of_a_snapshot_is_shown_if_it_is_known() -> None:
    assert described(None, FLOW).endswith("model flow")
    assert "model" not in described(None, at("all_expiry.hvl", 100.0))


def test_a_model_cannot_control_the_terminal() -> None:
    evil = replace(FLOW, positioning="\x1b[2J", positioning_fallback_reason="\r\n")

    text = described(None, evil)

    assert text.isprintable()


class StubLog:
    """As much of a log as the lines of a table need."""

    feeds = ("all",)


class StubReader:
    topics = Topics("gex")
    codec = Codec(SingleObject())


@pytest.mark.parametrize(
    ("levels", "status", "model"),
    [
        (FLOW, Status.LIVE, "flow "),
        # A fallback is marked.
        (STD, Status.STALE, "std! "),
        (Levels(), Status.LIVE, "- "),
        # The state of an absent symbol keeps its last levels, but they are not valid now.
        (FLOW, Status.MISSING, "- "),
    ],
)
def test_the_table_has_a_column_for_the_model(
    levels: Levels, status: Status, model: str
) -> None:
    state = observe(None, seen(levels), FEED).state
    assert state is not None

    header, row = table_rows(replace(state, status=status))

    column = header.index("MODEL")
    assert row[column:].startswith(model)


# A dead connector writes no status: the table must not call its last LIVE green.
@pytest.mark.parametrize(
    ("period", "age", "colour", "has_note"),
    [
        (30, 1, "green", False),
        (30, 60, "green", False),
        (30, 61, "yellow", False),
        (30, 172, "red", True),
        # Demo and tests refresh more often, small plans less.
        (3, 7, "yellow", False),
        (3, 13, "red", True),
        (300, 172, "green", False),
        # One refresh has no rhythm yet, so 30 s are assumed.
        (None, 60, "green", False),
        (None, 61, "yellow", False),
        (None, 121, "red", True),
    ],
)
def test_the_table_colours_a_live_status_by_the_age_of_its_levels(
    period: int | None,
    age: int,
    colour: str,
    has_note: bool,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("sys.stdout", Output("utf-8", is_terminal=True))
    monkeypatch.delenv("NO_COLOR", raising=False)
    state = state_of_age(age, period)

    _, row, *notes = table_rows(state)

    code = {"green": 32, "yellow": 33, "red": 31}[colour]
    assert f"\x1b[{code}m  LIVE" in row
    assert (f"\x1b[{code}m  {age:>5} s" in row) is (colour != "green")
    assert bool(notes) is has_note


def test_one_missed_refresh_does_not_double_the_usual_period() -> None:
    state = state_of_age(172, period=30)
    refreshes = state.recent_computed_at
    missed = replace(state, recent_computed_at=refreshes[:3] + refreshes[4:])

    note = table_rows(missed)[-1]

    assert note.startswith("1 LIVE symbol: no refresh for 4 of the usual periods")


def test_a_stale_symbol_is_not_called_silent() -> None:
    stale = replace(state_of_age(500, period=30), status=Status.STALE)

    assert len(table_rows(stale)) == 2


def state_of_age(age: int, period: int | None) -> State:
    """Return a live state whose last refresh was `age` seconds ago."""
    state = observe(None, seen(FLOW), FEED).state
    assert state is not None
    computed_at = NOW - age * SECOND
    refreshes = [computed_at]
    if period is not None:
        refreshes = [computed_at - n * period * SECOND for n in range(8, -1, -1)]
    return replace(state, computed_at=computed_at, recent_computed_at=tuple(refreshes))


@pytest.mark.parametrize("width", [20, 45, 60, 75, 90, 120])
def test_a_narrow_table_leaves_out_cells_instead_of_cutting_them(width: int) -> None:
    state = observe(None, seen(FLOW), FEED).state
    whole = table_rows(state)

    header, row = table_rows(state, width)

    assert len(header) <= width
    assert len(row) <= width
    assert whole[0].startswith(header)
    assert set(row.split()) <= {*whole[1].split(), "..."}


def table_rows(state: State | None, width: int = 200) -> list[str]:
    """Return the lines of a table with one symbol."""
    assert state is not None
    # Any: stubs are no `Log` and no `ReaderContext`.
    log: Any = StubLog()
    reader: Any = StubReader()
    table = Table(log, reader, EventFilter())
    table.take(record_of(state))
    return table.lines(NOW, height=10, width=width)


def record_of(state: State) -> Record:
    topic = StubReader.topics.current("all")
    value = StubReader.codec.encode_state(topic, state)
    return Record(topic, 0, 0, state.symbol.encode(), value)
