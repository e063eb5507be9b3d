"""The judge of the conformance suite finds every way to print wrong lines."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest

from connector.core.model import Kind, Status
from tests.conformance import judge
from tests.conformance.story import Symbol, levels

if TYPE_CHECKING:
    from collections.abc import Callable

Lines = list[dict[str, Any]]


def played() -> judge.Truth:
    """Return four events of a symbol, two of them before the program started."""
    btc = Symbol("BTCUSDT")
    moments = [
        btc.changed(60_000),
        btc.then(Kind.STALE, Status.STALE, reason="old"),
        btc.then(Kind.SNAPSHOT, Status.LIVE, levels(59_000, "std")),
        btc.then(Kind.MISSING, Status.MISSING),
    ]
    events = [moment.events[0] for moment in moments]
    states = [moment.states[0] for moment in moments]
    return judge.Truth(events, states, {"BTCUSDT": 2})


def right_lines() -> Lines:
    truth = played()
    return [
        judge.expected_line(truth.states[1], None),
        {"type": "restored", "symbols": 1},
        judge.expected_line(truth.events[2], "flow"),
        judge.expected_line(truth.events[3], "std"),
    ]


def faults(lines: Lines) -> list[str]:
    return judge.faults([json.dumps(line) for line in lines], played())


def test_right_lines_have_no_fault() -> None:
    assert faults(right_lines()) == []


def test_a_newer_state_stands_for_the_events_before_it() -> None:
    truth = played()
    state = judge.expected_line(truth.states[3], None)
    assert faults([state, {"type": "restored", "symbols": 1}]) == []


def forget_an_event(lines: Lines) -> None:
    del lines[2]


def repeat_an_event(lines: Lines) -> None:
    lines.append(lines[-1])


def swap_events(lines: Lines) -> None:
    lines[2:] = reversed(lines[2:])


def forget_the_state(lines: Lines) -> None:
    del lines[0]


def restore_an_old_state(lines: Lines) -> None:
    lines[0] = judge.expected_line(played().states[0], None)


def use_levels_of_a_missing_symbol(lines: Lines) -> None:
    lines[3]["hvl"] = 59_000.0


def use_stale_levels_without_care(lines: Lines) -> None:
    lines[0]["act"] = "use"


def overlook_another_model(lines: Lines) -> None:
    lines[2]["model_changed"] = False


def forget_a_field(lines: Lines) -> None:
    del lines[2]["computed_at"]


def round_a_level(lines: Lines) -> None:
    lines[2]["call_resistance"] = 60_000


def count_wrongly(lines: Lines) -> None:
    lines[1]["symbols"] = 2


def never_restore(lines: Lines) -> None:
    del lines[1]


@pytest.mark.parametrize(
    "spoil",
    [
        forget_an_event,
        repeat_an_event,
        swap_events,
        forget_the_state,
        restore_an_old_state,
        use_levels_of_a_missing_symbol,
        use_stale_levels_without_care,
        overlook_another_model,
        forget_a_field,
        round_a_level,
        count_wrongly,
        never_restore,
    ],
)
def test_wrong_lines_are_refused(spoil: Callable[[Lines], None]) -> None:
    lines = right_lines()
    spoil(lines)
    assert faults(lines) != []


def test_lines_that_are_not_json_are_refused() -> None:
    assert "not JSON" in judge.faults(["hello"], played())[0]


@pytest.mark.parametrize(
    ("status", "errors", "fault"),
    [
        (None, "", "it does not end"),
        (0, "error: no topic a.changes", "exit status is 0"),
        (2, "error: no topic a.changes", "exit status is 2"),
        (-6, "error: no topic a.changes", "exit status is -6"),
        (1, "no topic a.changes", "0 lines of standard error start with 'error: '"),
        (1, "error: something failed", "does not name 'a.changes'"),
        (1, "error: a.changes\nTraceback (most recent call last):", "a stack trace"),
        (1, "error: a.changes\n\tat org.Main(Main.java:3)", "a stack trace"),
    ],
)
def test_errors_must_be_one_clear_line(
    status: int | None, errors: str, fault: str
) -> None:
    assert fault in " ".join(judge.error_faults(status, errors, ["a.changes"]))


def test_a_clear_error_has_no_fault() -> None:
    assert judge.error_faults(1, "note\nerror: no topic a.changes", ["a.changes"]) == []
