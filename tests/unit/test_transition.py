"""The table of kinds, row by row, and the rules for the state between two events."""

from __future__ import annotations

from typing import Any, Final, NamedTuple

import pytest
from msgspec.structs import replace

from connector.core.diff import Rules, Threshold
from connector.core.model import (
    Event,
    Kind,
    LevelChange,
    Levels,
    Moment,
    Observation,
    Row,
    State,
    Status,
)
from connector.core.transition import (
    NO_TRANSITION,
    REASON_BUDGET,
    REASON_QUOTA,
    RECENT_REFRESHES_KEPT,
    FeedRules,
    Transition,
    expire,
    observe,
    observe_all,
    remove,
    state_after,
)
from tests.support.levels import ME, NOW, NUMBERS, SECOND, at, number, seen

FEED: Final = FeedRules("majors", "fp", Rules.of(ignore=("spot_price",)))
OTHER_REQUEST: Final = replace(FEED, request_fingerprint="other")
TEN_OF_HVL: Final = {"odte.hvl": Threshold(absolute=10)}
TOLERANT: Final = replace(FEED, rules=Rules.of(("spot_price",), TEN_OF_HVL))

# Levels that differ in a field that counts, and in the spot price, which the feed ignores.
ONE: Final = at("odte.hvl", 100.0, at("spot_price", 1.0))
TWO: Final = at("odte.hvl", 200.0, at("spot_price", 2.0))

# A moment at which levels computed at `NOW` are stale.
OLD: Final = NOW + 91 * SECOND

ABSENT: Final = [Status.MISSING, Status.INVALID]
WITHOUT_LEVELS: Final = [*ABSENT, Status.REMOVED]


class Outcome(NamedTuple):
    """The parts of an event that consumers act on."""

    kind: Kind
    status: Status
    before: Levels | None
    after: Levels | None


class History:
    """The states and events of a symbol, through everything that happens to it."""

    def __init__(self, feed: FeedRules = FEED) -> None:
        self.feed = feed
        self.state: State | None = None
        self.events: list[Event] = []

    def observe(
        self, levels: Levels, computed_at: int | None = NOW, **others: Any
    ) -> Transition:
        observation = seen(levels, computed_at, **others)
        return self._apply(observe(self.state, observation, self.feed))

    def lapse(self, status: Status, **others: Any) -> Transition:
        """Observe an absence, or remove the symbol."""
        if status is Status.REMOVED:
            return self._apply(remove(self.known, NOW, ME, self.feed))
        observation = seen(None, None, status=status, **others)
        return self._apply(observe(self.state, observation, self.feed))

    def tick(self, seconds: float, answered_seconds: float | None = None) -> Transition:
        """Run the timer; both times are in seconds after `NOW` on the upstream's clock."""
        upstream_at = NOW + round(seconds * SECOND)
        # Our clock differs a little, so that a mix-up of the two clocks is noticed.
        now = Moment(upstream_at + 7, upstream_at)
        answered_at = None
        if answered_seconds is not None:
            answered_at = NOW + round(answered_seconds * SECOND)
        return self._apply(expire(self.known, now, answered_at, ME, self.feed))

    @property
    def known(self) -> State:
        """The state, which must be there."""
        assert self.state is not None
        return self.state

    @property
    def sequences(self) -> list[int]:
        return [event.sequence for event in self.events]

    def _apply(self, transition: Transition) -> Transition:
        self.state = transition.state or self.state
        if transition.event is not None:
            self.events.append(transition.event)
        return transition


def event_of(transition: Transition) -> Event:
    assert transition.event is not None
    return transition.event


def outcome(transition: Transition) -> Outcome:
    """Return the parts of the event, which must agree with the state."""
    event = event_of(transition)
    assert transition.state is not None
    assert transition.state.status is event.status
    return Outcome(event.kind, event.status, event.before, event.after)


def observed_once(feed: FeedRules = FEED) -> History:
    """Return a symbol whose levels `ONE`, computed at `NOW`, were published."""
    history = History(feed)
    history.observe(ONE)
    return history


# Snapshots.


def test_the_first_levels_are_a_snapshot_with_sequence_1() -> None:
    transition = History().observe(ONE)

    assert outcome(transition) == (Kind.SNAPSHOT, Status.LIVE, None, ONE)
    event = event_of(transition)
    assert event.sequence == 1
    assert event.event_id == "majors/BTCUSDT/1"
    assert event.computed_at == NOW
    assert event.previous_computed_at is None
    assert {change.path for change in event.changed_levels} == {"odte.hvl"}


def test_another_request_is_a_snapshot_even_of_the_same_levels() -> None:
    history = observed_once()
    history.feed = OTHER_REQUEST

    assert outcome(history.observe(ONE)) == (Kind.SNAPSHOT, Status.LIVE, ONE, ONE)
    assert history.known.request_fingerprint == "other"
    assert history.observe(ONE) == NO_TRANSITION


@pytest.mark.parametrize("status", WITHOUT_LEVELS)
def test_another_request_is_a_snapshot_rather_than_restored(status: Status) -> None:
    history = observed_once()
    history.lapse(status)
    history.feed = OTHER_REQUEST

    assert outcome(history.observe(TWO)) == (Kind.SNAPSHOT, Status.LIVE, ONE, TWO)


def test_another_request_is_a_snapshot_rather_than_stale_or_fresh() -> None:
    history = observed_once()
    history.feed = OTHER_REQUEST
    stale = history.observe(ONE, NOW, upstream_at=OLD)
    assert outcome(stale) == (Kind.SNAPSHOT, Status.STALE, ONE, ONE)

    history.feed = FEED
    live = history.observe(ONE, NOW + 60 * SECOND)
    assert outcome(live) == (Kind.SNAPSHOT, Status.LIVE, ONE, ONE)


def test_a_request_without_an_answer_does_not_count_as_another() -> None:
    history = observed_once()
    history.feed = OTHER_REQUEST
    history.lapse(Status.MISSING)
    history.feed = FEED

    assert outcome(history.observe(ONE)).kind is Kind.RESTORED


def test_first_levels_that_are_old_are_a_stale_snapshot() -> None:
    history = History()

    first = history.observe(ONE, upstream_at=OLD)
    assert outcome(first) == (Kind.SNAPSHOT, Status.STALE, None, ONE)
    assert history.tick(200) == NO_TRANSITION
    fresh = history.observe(ONE, NOW + 100 * SECOND)
    assert outcome(fresh) == (Kind.FRESH, Status.LIVE, ONE, ONE)


# Another model.

FLOW: Final = replace(ONE, positioning="flow")
STD: Final = replace(
    ONE, positioning="std", positioning_fallback_reason="flow_tape_empty"
)
STD_TWO: Final = replace(TWO, positioning="std")


def observed_flow(feed: FeedRules = FEED) -> History:
    """Return a symbol whose levels `FLOW`, computed at `NOW`, were published."""
    history = History(feed)
    history.observe(FLOW)
    return history


@pytest.mark.parametrize("levels", [STD, STD_TWO], ids=["same", "changed"])
def test_another_model_is_a_snapshot_even_of_the_same_numbers(levels: Levels) -> None:
    history = observed_flow()

    fallback = history.observe(levels, NOW + SECOND)

    assert outcome(fallback) == (Kind.SNAPSHOT, Status.LIVE, FLOW, levels)
    event = event_of(fallback)
    assert event.reason == "positioning"
    # The numbers that differ are named for every kind.
    assert len(event.changed_levels) == (levels is STD_TWO)
    assert history.known.positioning == "std"
    assert history.observe(levels, NOW + SECOND) == NO_TRANSITION

    recovery = history.observe(FLOW, NOW + 2 * SECOND)
    assert outcome(recovery) == (Kind.SNAPSHOT, Status.LIVE, levels, FLOW)
    assert event_of(recovery).reason == "positioning"
    assert history.sequences == [1, 2, 3]


def test_another_model_under_the_same_date_is_a_snapshot() -> None:
    transition = observed_flow().observe(STD)

    assert outcome(transition) == (Kind.SNAPSHOT, Status.LIVE, FLOW, STD)


@pytest.mark.parametrize("status", WITHOUT_LEVELS)
def test_another_model_is_a_snapshot_rather_than_restored(status: Status) -> None:
    history = observed_flow()
    history.lapse(status)

    transition = history.observe(STD)

    assert outcome(transition) == (Kind.SNAPSHOT, Status.LIVE, FLOW, STD)
    assert event_of(transition).reason == "positioning"


def test_another_model_is_a_snapshot_rather_than_stale_or_fresh() -> None:
    history = observed_flow()

    stale = history.observe(STD, NOW, upstream_at=OLD)
    assert outcome(stale) == (Kind.SNAPSHOT, Status.STALE, FLOW, STD)
    assert event_of(stale).reason == "positioning"

    live = history.observe(FLOW, NOW + 60 * SECOND)
    assert outcome(live) == (Kind.SNAPSHOT, Status.LIVE, STD, FLOW)
    assert event_of(live).reason == "positioning"


def test_levels_that_become_stale_under_the_same_model_are_stale() -> None:
    history = observed_flow()

    assert event_of(history.observe(FLOW, upstream_at=OLD)).reason == "old"


def test_another_request_that_changes_the_model_has_its_reason() -> None:
    history = observed_flow()
    history.feed = OTHER_REQUEST

    event = event_of(history.observe(STD, NOW + SECOND))

    assert (event.kind, event.reason) == (Kind.SNAPSHOT, "positioning")


@pytest.mark.parametrize(("before", "after"), [(ONE, FLOW), (FLOW, ONE)])
def test_a_model_that_is_named_for_the_first_time_or_no_more_is_no_event(
    before: Levels, after: Levels
) -> None:
    history = History()
    history.observe(before)

    # An older server does not name its model, which does not mean that it has another one.
    assert history.observe(after, NOW + SECOND).event is None
    assert history.known.levels == after
    assert history.known.positioning == "flow"


@pytest.mark.parametrize("between", [ONE, TWO], ids=["same", "changed"])
def test_answers_without_a_model_do_not_hide_a_change_of_it(between: Levels) -> None:
    history = observed_flow()
    history.observe(between, NOW + SECOND)

    transition = history.observe(STD_TWO, NOW + 2 * SECOND)

    assert outcome(transition).kind is Kind.SNAPSHOT
    assert event_of(transition).reason == "positioning"


def test_another_request_forgets_the_model_that_was_named_before() -> None:
    history = observed_flow()
    history.feed = OTHER_REQUEST
    history.observe(ONE, NOW + SECOND)

    # The answer to the other request named none, so nobody knows that it changes now.
    assert history.observe(STD, NOW + 2 * SECOND).event is None


def test_another_reason_for_the_same_model_updates_the_state_without_an_event() -> None:
    history = History()
    history.observe(STD)
    other = replace(STD, positioning_fallback_reason="flow_qty_all_zero")

    assert history.observe(other, NOW + SECOND).event is None
    assert history.known.levels == other


def test_drift_under_one_model_does_not_go_on_under_another() -> None:
    history = observed_flow(TOLERANT)
    drifted = at("odte.hvl", 105.0, FLOW)
    assert history.observe(drifted, NOW + SECOND).event is None

    other = at("odte.hvl", 108.0, STD)
    transition = history.observe(other, NOW + 2 * SECOND)

    # Consumers hold the levels before the drift. The next drift starts at the new ones.
    assert outcome(transition) == (Kind.SNAPSHOT, Status.LIVE, FLOW, other)
    assert history.known.published is None
    further = at("odte.hvl", 117.0, STD)
    assert history.observe(further, NOW + 3 * SECOND).event is None


# Absence and restoration.


@pytest.mark.parametrize("status", ABSENT)
def test_a_first_absence_is_an_event(status: Status) -> None:
    history = History()

    transition = history.lapse(status)

    assert outcome(transition) == (Kind(status), status, None, None)
    event = event_of(transition)
    assert event.sequence == 1
    assert event.computed_at is None
    assert event.changed_levels == ()
    assert outcome(history.observe(ONE)) == (Kind.SNAPSHOT, Status.LIVE, None, ONE)


@pytest.mark.parametrize("status", ABSENT)
def test_an_absence_is_published_once_and_the_state_keeps_the_levels(
    status: Status,
) -> None:
    history = observed_once()

    transition = history.lapse(status, reason="refused")

    assert outcome(transition) == (Kind(status), status, ONE, None)
    event = event_of(transition)
    assert event.changed_levels == (LevelChange("odte.hvl", 100.0, None),)
    assert event.reason == "refused"
    assert event.computed_at is None
    assert event.previous_computed_at == NOW
    assert history.known.levels == ONE
    assert history.known.computed_at == NOW
    assert history.lapse(status) == NO_TRANSITION


def test_missing_invalid_and_missing_again_are_three_events() -> None:
    history = observed_once()

    for status in (Status.MISSING, Status.INVALID, Status.MISSING):
        transition = history.lapse(status)
        assert outcome(transition) == (Kind(status), status, ONE, None)
    assert history.sequences == [1, 2, 3, 4]


@pytest.mark.parametrize("levels", [ONE, TWO], ids=["same", "changed"])
@pytest.mark.parametrize("status", ABSENT)
def test_levels_after_an_absence_are_restored(status: Status, levels: Levels) -> None:
    history = observed_once()
    history.lapse(status)

    transition = history.observe(levels)

    assert outcome(transition) == (Kind.RESTORED, Status.LIVE, ONE, levels)
    assert len(event_of(transition).changed_levels) == (levels is TWO)
    assert history.observe(levels) == NO_TRANSITION


def test_restored_levels_that_are_old_are_stale() -> None:
    history = observed_once()
    history.lapse(Status.MISSING)

    restored = history.observe(TWO, upstream_at=OLD)
    assert outcome(restored) == (Kind.RESTORED, Status.STALE, ONE, TWO)
    assert history.observe(TWO, upstream_at=OLD + SECOND) == NO_TRANSITION


# Removal.


def test_a_removal_is_published_once_and_the_sequence_continues() -> None:
    history = observed_once()

    removed = history.lapse(Status.REMOVED)
    assert outcome(removed) == (Kind.REMOVED, Status.REMOVED, ONE, None)
    assert history.lapse(Status.REMOVED) == NO_TRANSITION
    assert outcome(history.observe(TWO)) == (Kind.RESTORED, Status.LIVE, ONE, TWO)
    assert history.sequences == [1, 2, 3]


@pytest.mark.parametrize("status", ABSENT)
def test_a_removed_symbol_that_comes_back_absent_is_an_event(status: Status) -> None:
    history = observed_once()
    history.lapse(Status.REMOVED)

    assert outcome(history.lapse(status)) == (Kind(status), status, ONE, None)


@pytest.mark.parametrize("status", ABSENT)
def test_a_symbol_that_never_had_levels_can_be_removed(status: Status) -> None:
    history = History()
    history.lapse(status)

    removed = history.lapse(Status.REMOVED)
    assert outcome(removed) == (Kind.REMOVED, Status.REMOVED, None, None)
    assert outcome(history.observe(ONE)).kind is Kind.SNAPSHOT


# Continuing from the last event.


@pytest.mark.parametrize("status", [None, *WITHOUT_LEVELS])
def test_a_symbol_whose_state_is_lost_continues_from_its_last_event(
    status: Status | None,
) -> None:
    history = observed_once()
    if status is not None:
        history.lapse(status)
    known = history.known

    history.state = state_after(history.events[-1], NOW)

    assert history.known.sequence == known.sequence
    assert history.known.status is known.status
    assert history.known.last_published == known.last_published
    assert history.known.event_computed_at == known.event_computed_at
    # Nobody knows which request the old levels answered, so nothing is compared with them.
    following = history.observe(TWO)
    assert outcome(following) == (Kind.SNAPSHOT, Status.LIVE, ONE, TWO)
    assert event_of(following).sequence == known.sequence + 1
    assert history.observe(TWO) == NO_TRANSITION


def test_computed_at_does_not_go_back_behind_the_last_event() -> None:
    history = observed_once()

    history.state = state_after(history.events[-1], NOW)

    assert history.observe(TWO, NOW - 1).dropped == "older"


# Stale and fresh.


def test_levels_are_stale_when_older_than_the_limit() -> None:
    history = observed_once()
    limit = NOW + 90 * SECOND
    assert history.observe(ONE, upstream_at=limit) == NO_TRANSITION

    transition = history.observe(ONE, upstream_at=limit + 1)

    assert outcome(transition) == (Kind.STALE, Status.STALE, ONE, ONE)
    event = event_of(transition)
    assert event.reason == "old"
    assert event.changed_levels == ()
    assert event.computed_at == NOW
    assert history.observe(ONE, upstream_at=limit + 9 * SECOND) == NO_TRANSITION


def test_levels_that_become_stale_and_change_at_once_are_one_event() -> None:
    history = observed_once()

    transition = history.observe(TWO, NOW + 1, upstream_at=OLD)

    assert outcome(transition) == (Kind.STALE, Status.STALE, ONE, TWO)
    assert event_of(transition).changed_levels == (
        LevelChange("odte.hvl", 100.0, 200.0),
    )


def test_levels_that_change_while_stale_stay_stale() -> None:
    history = observed_once()
    history.tick(91)

    transition = history.observe(TWO, NOW + 1, upstream_at=OLD + 8 * SECOND)

    assert outcome(transition) == (Kind.CHANGED, Status.STALE, ONE, TWO)


@pytest.mark.parametrize("levels", [ONE, TWO], ids=["same", "changed"])
def test_stale_levels_become_fresh(levels: Levels) -> None:
    history = observed_once()
    history.tick(91, 91)

    transition = history.observe(levels, NOW + 80 * SECOND)

    assert outcome(transition) == (Kind.FRESH, Status.LIVE, ONE, levels)


@pytest.mark.parametrize(
    ("answered_seconds", "reason"),
    [
        (None, "no_answer"),
        (0, "no_answer"),
        # Half of the limit of 90 seconds before the timer runs at 91.
        (45.999, "no_answer"),
        (46, "old"),
        (91, "old"),
    ],
)
def test_the_timer_tells_old_levels_from_a_silent_upstream(
    answered_seconds: float | None, reason: str
) -> None:
    history = observed_once()

    transition = history.tick(91, answered_seconds)

    assert outcome(transition) == (Kind.STALE, Status.STALE, ONE, ONE)
    event = event_of(transition)
    assert event.reason == reason
    assert event.changed_levels == ()
    assert event.changed_sections == ()
    assert event.computed_at == NOW
    assert event.previous_computed_at == NOW
    # By our clock, which is 7 µs ahead.
    assert event.observed_at == OLD + 7
    assert history.tick(92, answered_seconds) == NO_TRANSITION


@pytest.mark.parametrize(
    ("answered_seconds", "reason"), [(None, "quota"), (45.999, "quota"), (46, "old")]
)
def test_the_timer_names_the_reason_of_a_silence_of_our_own(
    answered_seconds: float | None, reason: str
) -> None:
    history = observed_once()
    now = Moment(NOW + 91 * SECOND, NOW + 91 * SECOND)
    answered_at = None
    if answered_seconds is not None:
        answered_at = NOW + round(answered_seconds * SECOND)

    transition = expire(history.known, now, answered_at, ME, FEED, lambda: REASON_QUOTA)

    assert event_of(transition).reason == reason


def test_stale_levels_keep_the_reason_they_became_stale_for() -> None:
    """The month may be used up later. Nothing that a consumer acts on has changed."""
    history = observed_once()
    now = Moment(NOW + 91 * SECOND, NOW + 91 * SECOND)
    stale = expire(history.known, now, None, ME, FEED, lambda: REASON_BUDGET)
    assert event_of(stale).reason == REASON_BUDGET

    later = Moment(NOW + 3600 * SECOND, NOW + 3600 * SECOND)
    assert stale.state is not None
    again = expire(stale.state, later, None, ME, FEED, lambda: REASON_QUOTA)

    assert again == NO_TRANSITION


def test_the_timer_waits_until_the_limit_is_exceeded() -> None:
    history = observed_once(replace(FEED, stale_after_seconds=10.5))

    assert history.tick(10.5) == NO_TRANSITION
    # A microsecond later.
    assert history.tick(10.500001).event is not None


@pytest.mark.parametrize("status", WITHOUT_LEVELS)
def test_the_timer_ignores_symbols_without_levels(status: Status) -> None:
    history = observed_once()
    history.lapse(status)

    assert history.tick(1000) == NO_TRANSITION


def test_the_timer_publishes_the_last_published_levels_not_the_latest() -> None:
    history = observed_once(TOLERANT)
    history.observe(at("odte.hvl", 105.0), NOW + SECOND)

    assert outcome(history.tick(100)) == (Kind.STALE, Status.STALE, ONE, ONE)


def test_levels_of_unknown_age_are_stale_if_no_answer_came_within_the_limit() -> None:
    history = History()
    history.observe(ONE, None)
    assert history.tick(300, answered_seconds=210) == NO_TRANSITION

    transition = history.tick(300.000001, answered_seconds=210)

    assert outcome(transition) == (Kind.STALE, Status.STALE, ONE, ONE)
    event = event_of(transition)
    assert event.reason == "no_answer"
    assert event.computed_at is None
    assert outcome(history.observe(ONE, None)).kind is Kind.FRESH


@pytest.mark.parametrize(("seconds", "is_stale"), [(90, False), (91, True)])
def test_levels_of_unknown_age_count_from_a_previous_owners_answer_on_our_clock(
    seconds: int, is_stale: bool
) -> None:
    # The upstream's clock is ahead, which must not make the levels look older.
    ahead = 50 * SECOND
    first = seen(ONE, None, observed_at=NOW, upstream_at=NOW + ahead)
    state = observe(None, first, FEED).state
    assert state is not None

    local_at = NOW + seconds * SECOND
    now = Moment(local_at, local_at + ahead)
    transition = expire(state, now, None, ME, FEED)

    assert (transition.event is not None) == is_stale


def test_levels_that_never_had_a_date_are_live_at_any_age() -> None:
    history = History()
    first = history.observe(ONE, None, upstream_at=NOW)

    assert outcome(first).status is Status.LIVE
    assert history.observe(ONE, None, upstream_at=NOW + 9_999 * SECOND) == NO_TRANSITION


# A plan with too few checks to keep levels fresh.


@pytest.mark.parametrize("has_changed", [False, True])
def test_stale_levels_stay_stale_while_the_plan_cannot_keep_them_fresh(
    *, has_changed: bool
) -> None:
    history = observed_once()
    history.tick(91)
    levels = TWO if has_changed else ONE

    transition = history.observe(levels, NOW + 150 * SECOND, plan_keeps_fresh=False)

    # The levels are young, but they will be stale before the next check.
    assert history.known.status is Status.STALE
    assert history.known.computed_at == NOW + 150 * SECOND
    if has_changed:
        assert outcome(transition) == (Kind.CHANGED, Status.STALE, ONE, TWO)
        assert event_of(transition).reason == "budget"
    else:
        assert transition.event is None


@pytest.mark.parametrize("levels", [ONE, TWO], ids=["same", "changed"])
def test_the_same_levels_are_fresh_as_soon_as_the_plan_keeps_them_fresh(
    levels: Levels,
) -> None:
    history = observed_once()
    history.tick(91)
    refreshed_at = NOW + 150 * SECOND
    history.observe(levels, refreshed_at, plan_keeps_fresh=False)

    transition = history.observe(levels, refreshed_at)

    assert outcome(transition) == (Kind.FRESH, Status.LIVE, levels, levels)


def test_levels_that_arrive_old_name_no_budget() -> None:
    history = observed_once()
    history.tick(91)

    transition = history.observe(
        TWO, NOW + SECOND, upstream_at=OLD + 8 * SECOND, plan_keeps_fresh=False
    )

    # More checks would not help: the upstream has stopped computing.
    assert outcome(transition) == (Kind.CHANGED, Status.STALE, ONE, TWO)
    assert event_of(transition).reason is None


def test_a_slow_plan_makes_no_live_levels_stale() -> None:
    history = History()

    first = history.observe(ONE, plan_keeps_fresh=False)
    change = history.observe(TWO, NOW + SECOND, plan_keeps_fresh=False)

    assert outcome(first) == (Kind.SNAPSHOT, Status.LIVE, None, ONE)
    assert outcome(change) == (Kind.CHANGED, Status.LIVE, ONE, TWO)
    assert event_of(change).reason is None


@pytest.mark.parametrize("status", WITHOUT_LEVELS)
def test_levels_that_come_back_are_live_and_stale_once_under_a_slow_plan(
    status: Status,
) -> None:
    history = observed_once()
    history.tick(91)
    history.lapse(status)
    back_at = NOW + 150 * SECOND

    restored = history.observe(TWO, back_at, plan_keeps_fresh=False)
    assert outcome(restored) == (Kind.RESTORED, Status.LIVE, ONE, TWO)
    assert outcome(history.tick(241)).kind is Kind.STALE

    again = history.observe(TWO, NOW + 300 * SECOND, plan_keeps_fresh=False)
    assert again.event is None


@pytest.mark.parametrize("other", ["request", "model"])
def test_a_snapshot_of_other_levels_stays_stale_under_a_slow_plan(other: str) -> None:
    history = observed_flow()
    history.tick(91)
    if other == "request":
        history.feed = OTHER_REQUEST
    levels = FLOW if other == "request" else STD

    snapshot = history.observe(levels, NOW + 150 * SECOND, plan_keeps_fresh=False)

    assert outcome(snapshot) == (Kind.SNAPSHOT, Status.STALE, FLOW, levels)
    reason = None if other == "request" else "positioning"
    assert event_of(snapshot).reason == reason


# Changes.


def test_a_difference_that_counts_is_a_change() -> None:
    history = observed_once()

    transition = history.observe(TWO, NOW + SECOND)

    assert outcome(transition) == (Kind.CHANGED, Status.LIVE, ONE, TWO)
    event = event_of(transition)
    assert event.changed_levels == (LevelChange("odte.hvl", 100.0, 200.0),)
    assert event.computed_at == NOW + SECOND
    assert event.previous_computed_at == NOW


def test_other_levels_with_the_same_computed_at_are_a_change() -> None:
    history = observed_once()

    assert outcome(history.observe(TWO)) == (Kind.CHANGED, Status.LIVE, ONE, TWO)


def test_a_changed_list_is_named_among_the_sections() -> None:
    history = observed_once()
    zones = (Row(None, "{}"),)

    changed = at("zones", zones, ONE)
    event = event_of(history.observe(changed, NOW + SECOND))

    assert event.changed_levels == ()
    assert event.changed_sections == ("zones",)


@pytest.mark.parametrize("path", [path for path in NUMBERS if path != "spot_price"])
def test_a_section_that_disappears_has_all_its_levels_null(path: str) -> None:
    history = History()
    history.observe(at(path, 5.0))

    event = event_of(history.observe(Levels(), NOW + SECOND))

    assert event.changed_levels == (LevelChange(path, 5.0, None),)
    assert event.after is not None
    assert number(event.after, path) is None


def test_an_ignored_difference_updates_the_state_without_an_event() -> None:
    history = observed_once()
    newer = at("spot_price", 9.0, ONE)

    assert history.observe(newer, NOW + SECOND).event is None
    state = history.known
    assert state.levels == newer
    assert state.published is None
    assert state.sequence == 1
    assert state.computed_at == NOW + SECOND
    event = event_of(history.observe(TWO, NOW + 2 * SECOND))
    assert event.before in {ONE, newer}


def test_an_undocumented_field_updates_the_state_without_an_event() -> None:
    history = observed_once()
    extended = replace(ONE, extra='{"x":1}')

    assert history.observe(extended, NOW).event is None
    assert history.known.levels == extended


def test_a_refresh_with_the_same_levels_is_written_once_without_an_event() -> None:
    history = observed_once()
    refreshed_at = NOW + 30 * SECOND

    transition = history.observe(ONE, refreshed_at)

    assert transition.event is None
    assert transition.dropped is None
    assert transition.state == replace(
        history.known,
        computed_at=refreshed_at,
        observed_at=refreshed_at,
        event_computed_at=NOW,
        recent_computed_at=(NOW, refreshed_at),
    )
    later = refreshed_at + 15 * SECOND
    assert history.observe(ONE, refreshed_at, upstream_at=later) == NO_TRANSITION


def test_the_event_counts_the_collapsed_observations() -> None:
    event = event_of(History().observe(ONE, collapsed=3))

    assert event.collapsed_observations == 3


def test_an_event_counts_the_collapsed_observations_of_those_without_an_event() -> None:
    observations = [
        seen(ONE, NOW),
        # The levels came and went: no difference is left.
        seen(ONE, NOW + 1, collapsed=3),
        seen(ONE, NOW + 2, symbol="ETHUSDT"),
        seen(TWO, NOW + 2, collapsed=1),
        seen(ONE, NOW + 3),
    ]

    transitions = observe_all({}, observations, FEED)

    counts = []
    for transition in transitions:
        if transition.event is not None:
            counts.append(transition.event.collapsed_observations)
    assert counts == [0, 0, 4, 0]


# Recent refreshes.


def test_the_state_has_the_latest_refreshes_in_ascending_order() -> None:
    history = History()
    refreshes = []
    for count in range(RECENT_REFRESHES_KEPT + 3):
        refreshes.append(NOW + count * SECOND)
        history.observe(ONE if count % 2 else TWO, refreshes[-1])

        expected = tuple(refreshes[-RECENT_REFRESHES_KEPT:])
        assert history.known.recent_computed_at == expected


def test_an_answer_that_is_not_a_new_refresh_adds_none() -> None:
    history = observed_once()
    history.observe(TWO)
    history.observe(ONE, None)
    history.observe(TWO, NOW - SECOND)
    history.lapse(Status.MISSING)
    history.observe(ONE)
    history.tick(200)
    history.lapse(Status.REMOVED)

    assert history.known.recent_computed_at == (NOW,)


def test_a_symbol_without_dates_has_no_refreshes() -> None:
    history = History()
    history.observe(ONE, None)
    history.observe(TWO, None)

    assert history.known.recent_computed_at == ()


# Drift within the thresholds.


def test_slow_drift_is_compared_with_the_last_published_levels() -> None:
    history = History(TOLERANT)
    start = at("odte.hvl", 100.0)
    history.observe(start)

    for count, value in enumerate((104.0, 108.0, 110.0)):
        drifted = at("odte.hvl", value)
        assert history.observe(drifted, NOW + count * SECOND).event is None
        assert history.known.levels == drifted
        assert history.known.published == start

    # Now the sum of the moves exceeds the threshold of 10.
    beyond = at("odte.hvl", 111.0)
    event = event_of(history.observe(beyond, NOW + 5 * SECOND))
    assert event.changed_levels == (LevelChange("odte.hvl", 100.0, 111.0),)
    assert history.known.published is None


def test_drift_that_comes_back_needs_no_separate_published_levels() -> None:
    history = History(TOLERANT)
    start = at("odte.hvl", 100.0)
    history.observe(start)
    history.observe(at("odte.hvl", 105.0), NOW + SECOND)
    history.observe(start, NOW + 2 * SECOND)

    assert history.known.levels == start
    assert history.known.published is None


def test_drift_before_an_absence_is_published_after_it() -> None:
    history = History(TOLERANT)
    start = at("odte.hvl", 100.0)
    drifted = at("odte.hvl", 105.0)
    history.observe(start)
    history.observe(drifted, NOW + SECOND)

    assert outcome(history.lapse(Status.MISSING)).before == start
    assert history.known.levels == drifted
    assert history.known.published == start
    restored = history.observe(drifted, NOW + SECOND)
    assert outcome(restored) == (Kind.RESTORED, Status.LIVE, start, drifted)


# Dates.


@pytest.mark.parametrize("lapse", [None, Status.STALE, *WITHOUT_LEVELS])
def test_an_older_computed_at_is_dropped_whatever_the_status(
    lapse: Status | None,
) -> None:
    history = observed_once()
    if lapse is Status.STALE:
        history.tick(100)
    elif lapse is not None:
        history.lapse(lapse)
    # Another request would be a snapshot, but an older entry is not even that.
    history.feed = OTHER_REQUEST
    before = history.state

    assert history.observe(TWO, NOW - 1) == Transition(dropped="older")
    assert history.state == before


def test_levels_without_a_date_are_compared_and_do_not_move_computed_at() -> None:
    history = observed_once()
    assert history.observe(ONE, None) == NO_TRANSITION

    # An entry without a date is news if its levels are.
    undated = history.observe(TWO, None)
    assert outcome(undated) == (Kind.CHANGED, Status.LIVE, ONE, TWO)
    event = event_of(undated)
    assert event.computed_at is None
    assert event.previous_computed_at == NOW
    assert history.known.computed_at == NOW

    assert history.observe(ONE, NOW - 1).dropped == "older"
    dated = event_of(history.observe(ONE, NOW + 1))
    assert dated.computed_at == NOW + 1
    assert dated.previous_computed_at is None


# Several observations, several feeds.


def test_each_observation_is_compared_with_the_state_the_one_before_it_left() -> None:
    state = observed_once().known
    states = {"BTCUSDT": state}
    observations = [
        seen(TWO, NOW + 1),
        seen(TWO, NOW + 1),
        seen(ONE, symbol="ETHUSDT"),
        Observation("BTCUSDT", Status.MISSING, None, NOW, NOW, ME),
        seen(ONE, NOW),
        seen(ONE, NOW + 2),
    ]

    transitions = observe_all(states, observations, FEED)

    events = [transition.event for transition in transitions]
    assert [event and event.kind for event in events] == [
        Kind.CHANGED,
        None,
        Kind.SNAPSHOT,
        Kind.MISSING,
        None,
        Kind.RESTORED,
    ]
    assert transitions[1] == NO_TRANSITION
    assert transitions[4].dropped == "older"
    assert [event.sequence for event in events if event] == [2, 1, 3, 4]
    # The caller keeps the old states until the transaction is committed.
    assert states == {"BTCUSDT": state}


def test_feeds_number_the_events_of_a_symbol_independently() -> None:
    for name in ("a", "b"):
        event = event_of(observe(None, seen(ONE), FeedRules(name)))
        assert event.event_id == f"{name}/BTCUSDT/1"
