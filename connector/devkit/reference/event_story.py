"""One symbol through every kind of event, as the core decides it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from msgspec.structs import replace

from connector.core.diff import Rules
from connector.core.model import (
    MICROS,
    AllExpiry,
    Entry,
    Kind,
    Levels,
    MaxPain,
    Moment,
    Observation,
    Odte,
    Source,
    State,
    Status,
)
from connector.core.transition import FeedRules, Transition, expire, observe, remove

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

# 2026-11-02T14:30:00Z, in microseconds.
_START: Final = 1_793_629_800 * MICROS
_DELAY: Final = 400_000
_SOURCE: Final = Source("0.1.0", "gex-connector", "worker-1", "req_7f3a")
# A timer and a change of the configuration cause events without a request.
_WITHOUT_REQUEST: Final = replace(_SOURCE, request_id=None)
# As with the default `ignore` of a feed.
_FEED: Final = FeedRules("majors", rules=Rules.of(ignore=["spot_price"]))

_FIRST: Final = Levels(
    spot_price=67213.5,
    positioning="flow",
    all_expiry=AllExpiry(hvl=66500.0, call_resistance=70000.0, put_support=65000.0),
    odte=Odte(hvl=66800.0, call_resistance=68000.0, put_support=66000.0),
    max_pain=MaxPain(strike=67000.0, value=1250000.0),
)
_MOVED: Final = replace(
    _FIRST,
    spot_price=67480.0,
    all_expiry=replace(_FIRST.all_expiry, hvl=66620.0),
    odte=replace(_FIRST.odte, call_resistance=68500.0),
)
_FALLBACK: Final = replace(
    _MOVED,
    positioning="std",
    positioning_fallback_reason="flow_tape_empty",
    all_expiry=AllExpiry(
        hvl=65900.0,
        call_resistance=72000.0,
        call_wall_2=75000.0,
        call_wall_3=70000.0,
        put_support=60000.0,
        put_wall_2=62000.0,
        put_wall_3=65000.0,
    ),
)


@dataclass(frozen=True, slots=True)
class Step:
    """A part of the story: its heading, when it happens, and the event that it causes.

    `kind` is that of the event, None if there is none.
    """

    title: str
    text: str
    at_seconds: int
    cause: Callable[[State | None, int], Transition]
    kind: Kind | None


def _levels(levels: Levels) -> Callable[[State | None, int], Transition]:
    def cause(state: State | None, at: int) -> Transition:
        entry = Entry(levels, at - _DELAY)
        return observe(state, _observation(Status.LIVE, entry, at), _FEED)

    return cause


def _absence(status: Status) -> Callable[[State | None, int], Transition]:
    def cause(state: State | None, at: int) -> Transition:
        return observe(state, _observation(status, None, at), _FEED)

    return cause


def _observation(status: Status, entry: Entry | None, at: int) -> Observation:
    return Observation("BTCUSDT", status, entry, at, at, _SOURCE)


def _known(state: State | None) -> State:
    if state is None:
        raise ValueError("the story starts with an observation")
    return state


def _silence(state: State | None, at: int) -> Transition:
    return expire(_known(state), Moment(at, at), None, _WITHOUT_REQUEST, _FEED)


def _removal(state: State | None, at: int) -> Transition:
    return remove(_known(state), at, _WITHOUT_REQUEST, _FEED)


STORY: Final = (
    Step(
        "SNAPSHOT: first levels",
        "The connector sees the symbol for the first time. There is nothing to compare with, so `before` is null.",
        0,
        _levels(_FIRST),
        Kind.SNAPSHOT,
    ),
    Step(
        "No event: only spot has moved",
        "The next refresh has another `spot_price` and the same levels. By default `spot_price` is in the feed's `ignore`, so there"
        " is no event. The state in `current` has the new price and the new `computed_at`."
        " [What makes an event](../explanation/what-makes-an-event.md) says how to change this.",
        30,
        _levels(replace(_FIRST, spot_price=67390.0)),
        None,
    ),
    Step(
        "CHANGED: levels have moved",
        "Two levels differ from those published last. The spot price in `after` is the newest one, although it is ignored.",
        60,
        _levels(_MOVED),
        Kind.CHANGED,
    ),
    Step(
        "STALE: the levels are too old",
        "No answer has come for longer than `stale_after_seconds` (90). `after` repeats the last levels: they are old, not gone."
        " `reason` says why: `no_answer` and `old` (the API answers with old levels), or why nobody asked: `quota`, `budget`,"
        " `key`, `plan`; `venues` if answers are for other venues.",
        152,
        _silence,
        Kind.STALE,
    ),
    Step(
        "FRESH: young levels again",
        "The API answers again. `changed_levels` is empty if nothing has moved meanwhile.",
        180,
        _levels(_MOVED),
        Kind.FRESH,
    ),
    Step(
        "MISSING: the API has no levels",
        "The API lists the symbol as missing, because its cache is cold. There are no levels to act on, so `after` is null.",
        210,
        _absence(Status.MISSING),
        Kind.MISSING,
    ),
    Step(
        "RESTORED: levels again after an absence",
        "`before` are the last levels before the absence.",
        240,
        _levels(_MOVED),
        Kind.RESTORED,
    ),
    Step(
        "SNAPSHOT: another model",
        "The API has fallen back from `flow` to `std`. The levels of two models are not comparable, so this is never a `CHANGED`."
        " `reason` is `positioning`. A snapshot that was requested has the reason `asked`, and one after a change of `include`,"
        " `exchanges` or `positioning` has none.",
        270,
        _levels(_FALLBACK),
        Kind.SNAPSHOT,
    ),
    Step(
        "INVALID: the API does not know the symbol",
        "The API has taken the symbol from its list, or it was never there.",
        300,
        _absence(Status.INVALID),
        Kind.INVALID,
    ),
    Step(
        "REMOVED: no longer configured",
        "The symbol was taken out of the feed. Its state stays in `current`, so that `sequence` goes on if it comes back.",
        330,
        _removal,
        Kind.REMOVED,
    ),
)


def play() -> Iterator[tuple[Step, Transition]]:
    """Yield each step with what the core makes of it."""
    state: State | None = None
    for step in STORY:
        transition = step.cause(state, _START + step.at_seconds * MICROS)
        state = transition.state or state
        yield step, transition
