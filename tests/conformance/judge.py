"""Compares the lines of a program with the truth, and finds faults in them."""

from __future__ import annotations

import json
from collections import defaultdict
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

from connector.core.model import Event, State
from tests.conformance.story import ABORTED_HVL

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

Line = dict[str, Any]

ACTS: Final = {"LIVE": "use", "STALE": "careful"}
SHOWN_LEVELS: Final = ("hvl", "call_resistance", "put_support")
# The begin of a stack trace in Python, Java and Node, Go.
_STACK_TRACES: Final = ("Traceback (most", "\n\tat ", "\n    at ", "goroutine ")
_MAX_FAULTS: Final = 5
_ABORTED: Final = (
    "of an aborted transaction; does the program read with "
    "isolation.level=read_committed?"
)


@dataclass
class Truth:
    """The committed events and states of a feed, in the order of their commits.

    `known` has the sequence of each symbol that was committed before a program started.
    """

    events: Sequence[Event]
    states: Sequence[State]
    known: Mapping[str, int] = field(default_factory=dict)

    def last(self) -> dict[str, int]:
        """Return the last sequence of each symbol."""
        return last_sequences(self.events)


def last_sequences(records: Iterable[Event | State]) -> dict[str, int]:
    """Return the largest sequence of each symbol."""
    found: dict[str, int] = {}
    for record in records:
        found[record.symbol] = max(record.sequence, found.get(record.symbol, 0))
    return found


def expected_line(record: Event | State, last_model: str | None) -> Line:
    """Return the line for a record, if `last_model` was printed last for its symbol."""
    line: Line
    if isinstance(record, Event):
        line = {"type": "event", "kind": str(record.kind), "reason": record.reason}
        levels = record.after
    else:
        line = {"type": "state", "kind": None, "reason": None}
        levels = record.levels

    act = ACTS.get(record.status, "none")
    if act == "none":
        levels = None
    model = None if levels is None else levels.positioning
    is_other = model is not None and last_model is not None and model != last_model
    line |= {
        "symbol": record.symbol,
        "sequence": record.sequence,
        "status": str(record.status),
        "computed_at": record.computed_at,
        "act": act,
        "model": model,
        "model_changed": is_other,
    }
    for name in SHOWN_LEVELS:
        line[name] = None if levels is None else getattr(levels.all_expiry, name)
    return line


def is_complete(lines: Sequence[str], last: Mapping[str, int]) -> bool:
    """Return whether the last event of each symbol was printed, or its state."""
    printed: dict[str, int] = {}
    for text in lines:
        try:
            line = json.loads(text)
            printed[line["symbol"]] = line["sequence"]
        except (ValueError, KeyError, TypeError):
            # `faults` reports it.
            continue
    return is_restored(lines) and printed.items() >= last.items()


def is_restored(lines: Sequence[str]) -> bool:
    """Return whether the line was printed that ends the states."""
    return any('"restored"' in line for line in lines)


def faults(lines: Sequence[str], truth: Truth) -> list[str]:
    """Return what is wrong with a program's lines: nothing if all is well."""
    try:
        parsed = [json.loads(line) for line in lines]
    except ValueError:
        return ["a line of standard output is not JSON; notes belong on standard error"]
    if not all(isinstance(line, dict) and "type" in line for line in parsed):
        return ["a line of standard output is not an object with a field `type`"]

    types = [line["type"] for line in parsed]
    if "restored" not in types:
        return ["it printed no line of type `restored`"]
    end = types.index("restored")
    found = _state_faults(parsed[:end], parsed[end], truth)

    by_symbol: dict[str, list[Line]] = defaultdict(list)
    for line in parsed[:end]:
        by_symbol[line["symbol"]].append(line)
    events: dict[str, list[Line]] = defaultdict(list)
    for line in parsed[end + 1 :]:
        events[line["symbol"]].append(line)
    for symbol in truth.last() | dict.fromkeys(events, 0):
        state = by_symbol[symbol][-1] if by_symbol[symbol] else None
        found += _event_faults(symbol, state, events[symbol], truth)
    return found[:_MAX_FAULTS]


def _state_faults(states: list[Line], restored: Line, truth: Truth) -> list[str]:
    symbols = [line["symbol"] for line in states]
    found = []
    if len(set(symbols)) < len(symbols):
        found.append(f"it printed more than one state of a symbol: {sorted(symbols)}")
    if restored.get("symbols") != len(symbols):
        found.append(
            f"`restored` counts {restored.get('symbols')} symbols, but {len(symbols)} "
            "states were printed"
        )
    missing = sorted(set(truth.known) - set(symbols))
    if missing:
        found.append(f"the states of {', '.join(missing)} were not restored")

    for line in states:
        symbol = line["symbol"]
        possible = []
        for state in truth.states:
            is_old = state.sequence < truth.known.get(symbol, 0)
            if state.symbol == symbol and not is_old:
                possible.append(expected_line(state, None))
        if not possible:
            found.append(f"{symbol}: no state was committed, but {line} was printed")
        elif line not in possible:
            found.append(f"{symbol}: state: {_difference(line, possible[-1])}")
    return found


def _event_faults(
    symbol: str, state: Line | None, printed: list[Line], truth: Truth
) -> list[str]:
    restored = 0 if state is None else state["sequence"]
    model = None if state is None else state["model"]
    expected = []
    for event in sorted(truth.events, key=lambda event: event.sequence):
        if event.symbol == symbol and event.sequence > restored:
            line = expected_line(event, model)
            model = line["model"] or model
            expected.append(line)

    for line in printed:
        if line.get("hvl") == ABORTED_HVL:
            return [f"{symbol}: event {line['sequence']} is {_ABORTED}"]
    numbers = [line["sequence"] for line in printed]
    committed = [line["sequence"] for line in expected]
    if numbers != committed:
        after = f"printed the events {numbers} after the state {restored}"
        return [f"{symbol}: {after}, but {committed} were committed"]
    for line, wanted in zip(printed, expected, strict=True):
        if line != wanted:
            return [f"{symbol}: event {line['sequence']}: {_difference(line, wanted)}"]
    return []


def _difference(line: Line, wanted: Line) -> str:
    if line.get("hvl") == ABORTED_HVL:
        return f"it is {_ABORTED}"
    parts = []
    for name in sorted(wanted.keys() | line.keys()):
        if name not in line:
            parts.append(f"{name} is missing")
        elif name not in wanted:
            parts.append(f"{name} is not a field of the contract")
        elif line[name] != wanted[name]:
            parts.append(f"{name} is {line[name]!r} instead of {wanted[name]!r}")
    return ", ".join(parts)


def error_faults(status: int | None, errors: str, words: Sequence[str]) -> list[str]:
    """Return what is wrong with how a program ended that had to report an error."""
    if status is None:
        return [f"it does not end; expected an error with {', '.join(words)}"]
    if status != 1:
        return [f"its exit status is {status}, expected 1"]
    found = []
    marks = [mark for mark in _STACK_TRACES if mark in f"\n{errors}"]
    if marks:
        found.append("it printed a stack trace")
    messages = [line for line in errors.splitlines() if line.startswith("error: ")]
    if len(messages) != 1:
        found.append(f"{len(messages)} lines of standard error start with 'error: '")
    for word in words:
        if not all(word in message for message in messages):
            found.append(f"the error does not name {word!r}: {messages}")
    return found
