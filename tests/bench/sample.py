"""Input for the stages: responses of the simulator, each with new levels, made without HTTP."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from connector.app.rules import rules_of
from connector.config.model import Feed
from connector.core.decode import decode_response
from connector.core.entry import decode_entry
from connector.core.model import MICROS, Event, Observation, Source, State, Status
from connector.core.transition import FeedRules, observe_all
from connector.devkit.simulator.service import Service
from connector.devkit.simulator.settings import (
    DEFAULT_KEY,
    EIGHT_SYMBOLS,
    INCLUDES,
    Settings,
)

if TYPE_CHECKING:
    from collections.abc import Sequence

SYMBOLS: Final = EIGHT_SYMBOLS

# The two sizes of a response that everything is measured with.
INCLUDED: Final[dict[str, tuple[str, ...]]] = {"none": (), "all": INCLUDES}

# As long as in production, since it is part of every record.
SOURCE: Final = Source(
    version="0",
    group="gex-connector",
    worker="bench-1-abcd",
    request_id="0123456789abcdef0123456789abcdef",
)
_START_SECONDS: Final = 1_700_000_000


@dataclass(frozen=True, slots=True)
class Checked:
    """A response, and the result of every stage for it."""

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
    """Return `total` responses for eight symbols; each makes an event of every symbol."""
    now_seconds = _START_SECONDS

    def clock() -> int:
        return now_seconds

    settings = Settings(symbols=EIGHT_SYMBOLS, every_request=True, limit_per_minute=60)
    service = Service(settings, clock)
    query = {
        "symbols": ",".join(SYMBOLS),
        "include": ",".join(INCLUDED[name]),
    }
    feed_rules = rules(name)

    states: dict[str, State] = {}
    made = []
    for _ in range(total):
        # One request a second stays within the simulator's limit.
        now_seconds += 1
        body = service.answer(DEFAULT_KEY, query).body
        checked = _checked(body, states, now_seconds * MICROS, feed_rules)
        made.append(checked)
        # A new dictionary, since `checked` keeps the states from before.
        states = dict(states)
        for state in checked.states:
            states[state.symbol] = state
    return made


def _checked(
    body: bytes, states: dict[str, State], now: int, feed_rules: FeedRules
) -> Checked:
    # Decode as the poller does.
    raw = {}
    seen = []
    response = decode_response(body, SYMBOLS)
    for symbol, answer in response.answers.items():
        # A symbol without levels has no bytes.
        if isinstance(answer, bytes):
            raw[symbol] = answer
            entry = decode_entry(answer, now)
            observation = Observation(symbol, Status.LIVE, entry, now, now, SOURCE)
            seen.append(observation)

    # Observe as the shard does.
    events = []
    new_states = []
    for transition in observe_all(states, seen, feed_rules):
        if transition.event is not None:
            events.append(transition.event)
        if transition.state is not None:
            new_states.append(transition.state)
    return Checked(body, raw, seen, states, events, new_states, now)
