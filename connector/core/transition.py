"""The status machine of one symbol: state and observation in, new state and at most one event out. Pure.

The kinds and their order are those of the documentation's table of events; the first that fits gives an event its kind.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from msgspec.structs import replace

from connector.core.diff import Difference, Rules, compare
from connector.core.model import (
    MICROS,
    Entry,
    Event,
    Kind,
    Levels,
    Observation,
    Source,
    State,
    Status,
    Value,
)

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping


class FeedRules(Value, frozen=True):
    """What a feed's configuration says of its events. `request_fingerprint` names its `exchanges` and `include`."""

    feed: str
    request_fingerprint: str = ""
    rules: Rules = Rules()
    stale_after_seconds: float = 90

    @property
    def stale_after_micros(self) -> int:
        """The age, in microseconds, past which levels are stale."""
        return round(self.stale_after_seconds * MICROS)


class Transition(Value, frozen=True):
    """What became of an observation. `state` None: nothing to write. `dropped`: why it does not count."""

    state: State | None = None
    event: Event | None = None
    dropped: str | None = None


NOTHING: Final = Transition()

RECENT_REFRESHES_KEPT: Final = 16
"""Enough to know the period and the jitter of a symbol's refreshes, and 128 bytes at most."""

ASKED: Final = "asked"
"""The reason of a snapshot that somebody asked for."""


class EventDraft(Value, frozen=True):
    """The parts of an event that depend on why it is published."""

    kind: Kind
    status: Status
    levels: Levels | None
    computed_at: int | None
    difference: Difference
    reason: str | None = None


def observe(state: State | None, seen: Observation, feed: FeedRules) -> Transition:
    """Compare what a check showed with what the last event said."""
    if seen.entry is None:
        return _absent(state, seen, feed)
    return _present(state, seen, seen.entry, feed)


def fold(
    states: Mapping[str, State], seen: Iterable[Observation], feed: FeedRules
) -> list[Transition]:
    """Observe one after another, each compared with what the one before it left. Changes nothing it is given."""
    latest: dict[str, State] = {}
    steps: list[Transition] = []
    for observation in seen:
        symbol = observation.symbol
        step = observe(latest.get(symbol, states.get(symbol)), observation, feed)
        if step.state is not None:
            latest[symbol] = step.state
        steps.append(step)
    return steps


def expire(
    state: State,
    at: tuple[int, int],
    answered_at: int | None,
    source: Source,
    feed: FeedRules,
) -> Transition:
    """What the timer decides: live levels that are too old become stale, also when nothing answers.

    The reason is `no_answer` where none came in the latter half of `stale_after_seconds`, else `old`.

    `at` is the moment by our clock and by the upstream's; `answered_at` the last answer for the symbol by the
    upstream's clock, None where there was none since the shard was opened.
    """
    observed_at, now = at
    # What was observed before was observed by our clock.
    answered = (
        state.observed_at + now - observed_at if answered_at is None else answered_at
    )
    due = stale_at(state, answered, feed)
    if due is None or now <= due:
        return NOTHING
    silent = answered_at is None or now - answered_at > feed.stale_after_micros // 2
    reason = "no_answer" if silent else "old"
    seen = Observation(
        state.symbol, Status.STALE, None, observed_at, now, source, reason
    )
    said = EventDraft(
        Kind.STALE, Status.STALE, state.said, state.computed_at, Difference(), reason
    )
    return _publish(state, seen, said, feed, _kept(state, seen))


def snapshot(
    state: State | None, at: tuple[int, int], source: Source, feed: FeedRules
) -> Transition:
    """What somebody asked for: the levels as last seen, said whole and under the status that holds.

    Nothing where there are none. `at` is the moment by our clock and by the upstream's.
    """
    if state is None or not state.status.has_levels or state.levels is None:
        return NOTHING
    seen = Observation(state.symbol, state.status, None, *at, source, ASKED)
    difference = compare(state.said, state.levels, feed.rules)
    said = EventDraft(
        Kind.SNAPSHOT, state.status, state.levels, state.computed_at, difference, ASKED
    )
    # Nothing was observed: how old the last answer is must not change by it.
    return _publish(
        state, seen, said, feed, replace(state, published=None, source=source)
    )


def stale_at(state: State, answered_at: int, feed: FeedRules) -> int | None:
    """When live levels become stale, by the upstream's clock: of an age that is unknown, the last answer counts."""
    if state.status is not Status.LIVE:
        return None
    since = answered_at if state.computed_at is None else state.computed_at
    return since + feed.stale_after_micros


def remove(
    state: State, observed_at: int, source: Source, feed: FeedRules
) -> Transition:
    """The symbol is no longer configured. Its state stays: the sequence must not start again."""
    seen = Observation(
        state.symbol, Status.REMOVED, None, observed_at, observed_at, source
    )
    return _absent(state, seen, feed)


def _absent(state: State | None, seen: Observation, feed: FeedRules) -> Transition:
    """MISSING, INVALID or REMOVED: said once, and only the status changes; the last levels are kept."""
    if state is not None and state.status is seen.status:
        return NOTHING
    known = state or _first(seen, feed)
    difference = compare(known.said, None, feed.rules)
    said = EventDraft(
        Kind(seen.status), seen.status, None, None, difference, seen.reason
    )
    return _publish(known, seen, said, feed, _kept(known, seen))


def _present(
    state: State | None, seen: Observation, entry: Entry, feed: FeedRules
) -> Transition:
    known = state or _first(seen, feed)
    floor = known.computed_at
    if (
        floor is not None
        and entry.computed_at is not None
        and entry.computed_at < floor
    ):
        return Transition(dropped="older")
    computed_at = floor if entry.computed_at is None else entry.computed_at
    old = (
        computed_at is not None and seen.age_at - computed_at > feed.stale_after_micros
    )
    difference = compare(known.said, entry.levels, feed.rules)
    kind = _kind(known, feed, old=old, changed=bool(difference))
    status = Status.STALE if old else Status.LIVE
    new = State(
        feed=known.feed,
        symbol=known.symbol,
        sequence=known.sequence,
        status=status,
        computed_at=computed_at,
        observed_at=seen.observed_at,
        request_fingerprint=feed.request_fingerprint,
        source=seen.source,
        levels=entry.levels,
        published=_still_published(known.said, entry.levels, feed)
        if kind is None
        else None,
        event_computed_at=known.event_computed_at,
        recent_computed_at=_recent(known, computed_at),
    )
    if kind is not None:
        reason = "old" if kind is Kind.STALE else None
        said = EventDraft(
            kind, status, entry.levels, entry.computed_at, difference, reason
        )
        return _publish(known, seen, said, feed, new)
    if computed_at == floor and entry.levels == known.levels:
        return NOTHING
    return Transition(new)


def _recent(known: State, computed_at: int | None) -> tuple[int, ...]:
    """Return the last refreshes, with this one if it is new."""
    recent = known.recent_computed_at
    if computed_at is None or computed_at == known.computed_at:
        return recent
    return (*recent, computed_at)[-RECENT_REFRESHES_KEPT:]


def _kind(known: State, feed: FeedRules, *, old: bool, changed: bool) -> Kind | None:
    """Why levels are worth an event, or None."""
    if known.said is None or known.request_fingerprint != feed.request_fingerprint:
        return Kind.SNAPSHOT
    if not known.status.has_levels:
        return Kind.RESTORED
    if old and known.status is Status.LIVE:
        return Kind.STALE
    if not old and known.status is Status.STALE:
        return Kind.FRESH
    return Kind.CHANGED if changed else None


def _still_published(
    said: Levels | None, seen: Levels, feed: FeedRules
) -> Levels | None:
    """What the last event said, where that differs from what is seen now in something that counts but little."""
    return said if compare(said, seen, feed.rules.exact()) else None


def _first(seen: Observation, feed: FeedRules) -> State:
    """Before anything was said of a symbol."""
    return State(
        feed=feed.feed,
        symbol=seen.symbol,
        sequence=0,
        status=seen.status,
        computed_at=None,
        observed_at=seen.observed_at,
        request_fingerprint=feed.request_fingerprint,
        source=seen.source,
    )


def _kept(known: State, seen: Observation) -> State:
    """The levels as they were, under a new status."""
    return replace(
        known, status=seen.status, observed_at=seen.observed_at, source=seen.source
    )


def _publish(
    known: State, seen: Observation, said: EventDraft, feed: FeedRules, new: State
) -> Transition:
    sequence = known.sequence + 1
    event = Event(
        event_id=f"{feed.feed}/{seen.symbol}/{sequence}",
        feed=feed.feed,
        symbol=seen.symbol,
        sequence=sequence,
        kind=said.kind,
        status=said.status,
        reason=said.reason,
        computed_at=said.computed_at,
        previous_computed_at=known.event_computed_at,
        observed_at=seen.observed_at,
        changed_levels=said.difference.levels,
        changed_sections=said.difference.sections,
        collapsed_observations=seen.collapsed,
        source=seen.source,
        before=known.said,
        after=said.levels,
    )
    return Transition(
        replace(new, sequence=sequence, event_computed_at=said.computed_at), event
    )
