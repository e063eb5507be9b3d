"""What the stages are fed with: responses of the simulator, one after another, each new, made without HTTP."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import count
from typing import TYPE_CHECKING, Final

from connector.app import rules_of
from connector.config.model import Feed
from connector.core.decode import decode_response
from connector.core.entry import decode_entry
from connector.core.model import MICROS, Event, Observation, Source, State, Status
from connector.core.transition import FeedRules, fold
from connector.devkit.simulator.service import Service
from connector.devkit.simulator.settings import (
    DEFAULT_KEY,
    DEFAULT_SYMBOLS,
    INCLUDES,
    Settings,
)

if TYPE_CHECKING:
    from collections.abc import Sequence

SYMBOLS: Final = DEFAULT_SYMBOLS
INCLUDED: Final[dict[str, tuple[str, ...]]] = {"none": (), "all": INCLUDES}
"""The two sizes of a response that everything is measured with."""

SOURCE: Final = Source(
    "0", "gex-connector", "bench-1-abcd", "0123456789abcdef0123456789abcdef"
)
_START_SECONDS: Final = 1_700_000_000


@dataclass(frozen=True, slots=True)
class Checked:
    """One response, and what every stage makes of it."""

    body: bytes
    raw: dict[str, bytes]
    seen: Sequence[Observation]
    states_before: dict[str, State]
    events: Sequence[Event]
    states: Sequence[State]
    now: int


def feed(name: str) -> Feed:
    return Feed(name="bench", symbols=SYMBOLS, include=INCLUDED[name])


def rules(name: str) -> FeedRules:
    return rules_of(feed(name))


def responses(name: str, total: int) -> list[Checked]:
    """So many responses for eight symbols; every symbol of each of them becomes an event."""
    seconds = count(_START_SECONDS)
    now_seconds = next(seconds)
    service = Service(
        Settings(every_request=True, limit_per_minute=60), lambda: now_seconds
    )
    query = {"symbols": ",".join(SYMBOLS), "include": ",".join(INCLUDED[name])}
    states: dict[str, State] = {}
    made = []
    for _ in range(total):
        now_seconds = next(seconds)
        made.append(
            _checked(
                service.answer(DEFAULT_KEY, query).body,
                states,
                now_seconds * MICROS,
                rules(name),
            )
        )
        states = {**states, **{state.symbol: state for state in made[-1].states}}
    return made


def _checked(
    body: bytes, states: dict[str, State], now: int, feed_rules: FeedRules
) -> Checked:
    answers = decode_response(body, SYMBOLS).answers
    raw = {
        symbol: answer
        for symbol, answer in answers.items()
        if isinstance(answer, bytes)
    }
    seen = [
        Observation(symbol, Status.LIVE, decode_entry(entry, now), now, now, SOURCE)
        for symbol, entry in raw.items()
    ]
    steps = fold(states, seen, feed_rules)
    events = [step.event for step in steps if step.event is not None]
    return Checked(
        body,
        raw,
        seen,
        states,
        events,
        [step.state for step in steps if step.state is not None],
        now,
    )
