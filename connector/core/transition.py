"""Decide which event an observation of one symbol causes, and the state that follows.

State and observation in, new state and at most one event out. The kinds and their order are
those of the table of events in the documentation: the first kind that fits names the event.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from msgspec.structs import replace

from connector.core.diff import NO_DIFFERENCE, Difference, Rules, compare
from connector.core.model import (
    MICROS,
    Entry,
    Event,
    Kind,
    Levels,
    Moment,
    Observation,
    Source,
    State,
    Status,
    Value,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

# The reason of a snapshot that somebody requested.
REASON_ASKED: Final = "asked"

# The reason of levels that are stale although the upstream answers.
REASON_OLD: Final = "old"

# The reason of levels that are stale because the upstream does not answer.
REASON_NO_ANSWER: Final = "no_answer"

# The reasons of levels that are stale because nobody asked: the month is used up, the
# budget does not permit to ask so often, or the key or the plan is refused.
REASON_QUOTA: Final = "quota"
REASON_BUDGET: Final = "budget"
REASON_KEY: Final = "key"
REASON_PLAN: Final = "plan"

# The reason of levels that are stale because answers are for other venues than asked for.
REASON_VENUES: Final = "venues"

# The reason of a snapshot because another model is behind the levels.
REASON_POSITIONING: Final = "positioning"

# The reason to drop an observation that was computed before the last known one.
DROPPED_OLDER: Final = "older"


class FeedRules(Value, frozen=True):
    """The parts of a feed's configuration that shape its events.

    `request_fingerprint` stands for its `exchanges`, `include` and `positioning`: levels of
    different requests are not comparable.
    """

    name: str
    request_fingerprint: str = ""
    rules: Rules = Rules()
    stale_after_seconds: float = 90

    @property
    def stale_after_micros(self) -> int:
        """The age, in microseconds, above which levels are stale."""
        return round(self.stale_after_seconds * MICROS)


class Transition(Value, frozen=True):
    """The new state of a symbol and its event.

    `state` is None if there is nothing to write. `dropped` is the reason an observation was
    dropped.
    """

    state: State | None = None
    event: Event | None = None
    dropped: str | None = None


NO_TRANSITION: Final = Transition()

# No request has this fingerprint.
UNKNOWN_REQUEST: Final = "unknown"

# Enough to know the period and the jitter of a symbol's refreshes, in at most 128 bytes.
RECENT_REFRESHES_KEPT: Final = 16


class EventDraft(Value, frozen=True):
    """The parts of an event that do not follow from the state before it."""

    kind: Kind
    status: Status
    levels: Levels | None
    computed_at: int | None
    difference: Difference
    observed_at: int
    source: Source
    reason: str | None = None
    collapsed: int = 0


def observe(
    state: State | None, observation: Observation, feed: FeedRules
) -> Transition:
    """Return the transition from this state that an observation causes."""
    if observation.entry is None:
        return _observe_absence(state, observation, feed)
    return _observe_levels(state, observation, observation.entry, feed)


def observe_all(
    states: Mapping[str, State], observations: Iterable[Observation], feed: FeedRules
) -> list[Transition]:
    """Observe in order; each observation meets the state that the one before it left.

    `states` is not modified. An event also counts the collapsed observations of those before
    it that caused no event.
    """
    latest: dict[str, State] = {}
    uncounted: dict[str, int] = {}
    transitions: list[Transition] = []
    for observation in observations:
        symbol = observation.symbol
        state = latest.get(symbol, states.get(symbol))
        counting = observation.with_collapsed(uncounted.pop(symbol, 0))
        transition = observe(state, counting, feed)
        if transition.state is not None:
            latest[symbol] = transition.state
        if transition.event is None and counting.collapsed:
            uncounted[symbol] = counting.collapsed
        transitions.append(transition)
    return transitions


def expire(
    state: State,
    now: Moment,
    answered_at: int | None,
    source: Source,
    feed: FeedRules,
    silence_reason: Callable[[], str] = lambda: REASON_NO_ANSWER,
) -> Transition:
    """Make live levels stale when they are too old. Needs no answer from the upstream.

    `answered_at` is the last answer for the symbol on the upstream's clock, None if there
    was none since the shard was opened. The reason is that of the silence if no answer came
    within the last half of `stale_after_seconds`, otherwise `old`.
    """
    known_answer_at = answered_at
    if known_answer_at is None:
        # The state holds the last answer it recorded, on our clock. Convert it to the
        # upstream's.
        known_answer_at = state.observed_at + now.upstream_at - now.local_at
    due_at = stale_at(state, known_answer_at, feed)
    if due_at is None or now.upstream_at <= due_at:
        return NO_TRANSITION

    # A symbol is checked several times within the limit. Half of it without an answer means
    # that nobody answers or asks, not levels that the upstream has stopped refreshing.
    half_limit = feed.stale_after_micros // 2
    is_silent = answered_at is None or now.upstream_at - answered_at > half_limit
    reason = silence_reason() if is_silent else REASON_OLD
    draft = EventDraft(
        kind=Kind.STALE,
        status=Status.STALE,
        levels=state.last_published,
        computed_at=state.computed_at,
        # The timer publishes again the levels that consumers hold already.
        difference=NO_DIFFERENCE,
        observed_at=now.local_at,
        source=source,
        reason=reason,
    )
    return _with_event(state, draft, _with_status(state, draft))


def snapshot(
    state: State | None, now: Moment, source: Source, feed: FeedRules
) -> Transition:
    """Publish the latest levels in full on request. The status stays the same.

    There is no event if the symbol has no levels.
    """
    if state is None or not state.status.has_levels or state.levels is None:
        return NO_TRANSITION

    draft = EventDraft(
        kind=Kind.SNAPSHOT,
        status=state.status,
        levels=state.levels,
        computed_at=state.computed_at,
        difference=compare(state.last_published, state.levels, feed.rules),
        observed_at=now.local_at,
        source=source,
        reason=REASON_ASKED,
    )
    # The state keeps its `observed_at`: a snapshot is not an answer, and must not make the
    # levels look fresher. Consumers now hold `levels`, so `published` is not needed.
    new_state = replace(state, published=None, source=source)
    return _with_event(state, draft, new_state)


def stale_at(state: State, answered_at: int, feed: FeedRules) -> int | None:
    """Return the moment when live levels become stale, on the upstream's clock.

    Return None if the levels are not live. If the upstream never sent a `computed_at`,
    the age of the levels counts from the last answer.
    """
    if state.status is not Status.LIVE:
        return None
    since = answered_at if state.computed_at is None else state.computed_at
    return since + feed.stale_after_micros


def remove(
    state: State, observed_at: int, source: Source, feed: FeedRules
) -> Transition:
    """Publish that a symbol is no longer configured.

    Its state stays in `current`, so that its sequence continues if it is configured again.
    """
    if state.status is Status.REMOVED:
        return NO_TRANSITION

    draft = EventDraft(
        kind=Kind.REMOVED,
        status=Status.REMOVED,
        levels=None,
        computed_at=None,
        difference=compare(state.last_published, None, feed.rules),
        observed_at=observed_at,
        source=source,
    )
    return _with_event(state, draft, _with_status(state, draft))


def state_after(event: Event, computed_at: int | None) -> State:
    """Return the state of a symbol after its last event, if nothing else is left of it.

    `computed_at` is the newest that its events had. The request behind the levels is not
    known. So the next levels are a SNAPSHOT: they may not be comparable.
    """
    # Events without levels, such as MISSING, carry the levels they end in `before`.
    levels = event.before if event.after is None else event.after
    return State(
        feed=event.feed,
        symbol=event.symbol,
        sequence=event.sequence,
        status=event.status,
        computed_at=computed_at,
        observed_at=event.observed_at,
        request_fingerprint=UNKNOWN_REQUEST,
        source=event.source,
        event_computed_at=event.computed_at,
        positioning=None if levels is None else levels.positioning,
        levels=levels,
    )


def _observe_absence(
    state: State | None, observation: Observation, feed: FeedRules
) -> Transition:
    """Return the transition to MISSING or INVALID, once. The state keeps the last levels."""
    if state is not None and state.status is observation.status:
        return NO_TRANSITION

    known = state or _initial_state(observation, feed)
    draft = EventDraft(
        kind=Kind(observation.status),
        status=observation.status,
        levels=None,
        computed_at=None,
        difference=compare(known.last_published, None, feed.rules),
        observed_at=observation.observed_at,
        source=observation.source,
        reason=observation.reason,
        collapsed=observation.collapsed,
    )
    return _with_event(known, draft, _with_status(known, draft))


def _observe_levels(
    state: State | None, observation: Observation, entry: Entry, feed: FeedRules
) -> Transition:
    known = state or _initial_state(observation, feed)
    # A newer answer may have overtaken this one. `computed_at` must never go back.
    is_outdated = _is_older(entry.computed_at, known.computed_at)
    if is_outdated:
        return Transition(dropped=DROPPED_OLDER)

    # Without a `computed_at` in the entry, the age counts from the last known one.
    computed_at = entry.computed_at
    if computed_at is None:
        computed_at = known.computed_at
    # Without any `computed_at`, levels have no age. Only the timer can make them stale.
    is_old = (
        computed_at is not None
        and observation.upstream_at - computed_at > feed.stale_after_micros
    )
    # Otherwise every check would make the levels fresh, and they would be stale before the
    # next one.
    is_soon_old = known.status is Status.STALE and not observation.plan_keeps_fresh
    status = Status.STALE if is_old or is_soon_old else Status.LIVE
    difference = compare(known.last_published, entry.levels, feed.rules)
    is_other_model = _is_other_model(known.positioning, entry.levels.positioning)
    kind = _kind(known, feed, status, difference, is_other_model=is_other_model)

    new_state = State(
        feed=known.feed,
        symbol=known.symbol,
        sequence=known.sequence,
        status=status,
        computed_at=computed_at,
        observed_at=observation.observed_at,
        request_fingerprint=feed.request_fingerprint,
        source=observation.source,
        levels=entry.levels,
        event_computed_at=known.event_computed_at,
        recent_computed_at=_recent(known, computed_at),
        positioning=_last_named_model(known, entry.levels.positioning, feed),
    )
    if kind is not None:
        draft = EventDraft(
            kind=kind,
            status=status,
            levels=entry.levels,
            computed_at=entry.computed_at,
            difference=difference,
            observed_at=observation.observed_at,
            source=observation.source,
            reason=_reason(
                kind,
                is_other_model=is_other_model,
                is_due_to_budget=is_soon_old and not is_old,
            ),
            collapsed=observation.collapsed,
        )
        return _with_event(known, draft, new_state)

    # Writing the state again would only cost the broker space.
    is_same_refresh = computed_at == known.computed_at
    if is_same_refresh and entry.levels == known.levels:
        return NO_TRANSITION
    published = _published_if_different(known.last_published, entry.levels, feed)
    return Transition(replace(new_state, published=published))


def _recent(known: State, computed_at: int | None) -> tuple[int, ...]:
    """Return the latest refreshes, including this one if it is new."""
    recent = known.recent_computed_at
    if computed_at is None or computed_at == known.computed_at:
        return recent
    return (*recent, computed_at)[-RECENT_REFRESHES_KEPT:]


def _is_older(computed_at: int | None, known: int | None) -> bool:
    return computed_at is not None and known is not None and computed_at < known


def _is_other_model(known: str | None, latest: str | None) -> bool:
    """Return True if both models are known, and differ.

    An older server does not name its model. Behind a proxy that uses old and new servers in
    turn, its answers must not look like changes of the model.
    """
    return known is not None and latest is not None and latest != known


def _last_named_model(known: State, latest: str | None, feed: FeedRules) -> str | None:
    """Return the model to compare the next answer with."""
    if latest is not None:
        return latest
    # Another request may be answered with another model, which nobody has named yet.
    is_same_request = known.request_fingerprint == feed.request_fingerprint
    return known.positioning if is_same_request else None


def _reason(kind: Kind, *, is_other_model: bool, is_due_to_budget: bool) -> str | None:
    """Return the reason for a kind. `is_due_to_budget` says why young levels stay stale."""
    if is_other_model:
        return REASON_POSITIONING
    if kind is Kind.CHANGED and is_due_to_budget:
        return REASON_BUDGET
    return REASON_OLD if kind is Kind.STALE else None


def _kind(
    known: State,
    feed: FeedRules,
    status: Status,
    difference: Difference,
    *,
    is_other_model: bool,
) -> Kind | None:
    """Return the kind of event that levels cause, or None if they cause none.

    The order is that of the table of events: the first kind that fits.
    """
    if known.last_published is None:
        return Kind.SNAPSHOT
    # Levels of another request or model are not comparable, so no kind may claim a change.
    is_other_request = known.request_fingerprint != feed.request_fingerprint
    if is_other_request or is_other_model:
        return Kind.SNAPSHOT
    if not known.status.has_levels:
        return Kind.RESTORED
    if status is Status.STALE and known.status is Status.LIVE:
        return Kind.STALE
    if status is Status.LIVE and known.status is Status.STALE:
        return Kind.FRESH
    return Kind.CHANGED if difference else None


def _published_if_different(
    last_published: Levels | None, latest: Levels, feed: FeedRules
) -> Levels | None:
    """Return the published levels if the latest ones differ, even within the thresholds.

    The next observation is compared with them, so that slow drift adds up.
    """
    if compare(last_published, latest, feed.rules.exact()):
        return last_published
    return None


def _initial_state(observation: Observation, feed: FeedRules) -> State:
    """Return the state of a symbol before its first event."""
    return State(
        feed=feed.name,
        symbol=observation.symbol,
        sequence=0,
        status=observation.status,
        computed_at=None,
        observed_at=observation.observed_at,
        request_fingerprint=feed.request_fingerprint,
        source=observation.source,
    )


def _with_status(known: State, draft: EventDraft) -> State:
    """Return the known levels under the status of the event."""
    # Absent symbols keep their levels: the event that restores them needs a `before`.
    return replace(
        known,
        status=draft.status,
        observed_at=draft.observed_at,
        source=draft.source,
    )


def _with_event(known: State, draft: EventDraft, new_state: State) -> Transition:
    """Complete the event, and number it and its state with the next sequence."""
    # The id is composed, not random: a retry after an aborted transaction has the same one.
    sequence = known.sequence + 1
    event = Event(
        event_id=f"{known.feed}/{known.symbol}/{sequence}",
        feed=known.feed,
        symbol=known.symbol,
        sequence=sequence,
        kind=draft.kind,
        status=draft.status,
        reason=draft.reason,
        computed_at=draft.computed_at,
        previous_computed_at=known.event_computed_at,
        observed_at=draft.observed_at,
        changed_levels=draft.difference.levels,
        changed_sections=draft.difference.lists,
        collapsed_observations=draft.collapsed,
        source=draft.source,
        before=known.last_published,
        after=draft.levels,
    )
    state = replace(new_state, sequence=sequence, event_computed_at=draft.computed_at)
    return Transition(state, event)
