"""The table of kinds and the table of questions, row by row."""

from __future__ import annotations

from typing import Any, Final

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
    RECENT_REFRESHES_KEPT,
    FeedRules,
    Transition,
    expire,
    observe,
    observe_all,
    remove,
)
from tests.support.levels import ME, NOW, NUMBERS, SECOND, at, number, seen

FEED: Final = FeedRules("majors", "fp", Rules.of(ignore=("spot_price",)))
OTHER: Final = replace(FEED, request_fingerprint="other")
ONE: Final = at("odte.hvl", 100.0, at("spot_price", 1.0))
TWO: Final = at("odte.hvl", 200.0, at("spot_price", 2.0))
TOLERANT: Final = replace(
    FEED, rules=Rules.of(("spot_price",), {"odte.hvl": Threshold(absolute=10)})
)


class History:
    """What happens to one symbol, one step after another."""

    def __init__(self, feed: FeedRules = FEED) -> None:
        self.feed = feed
        self.state: State | None = None
        self.events: list[Event] = []

    def see(
        self, levels: Levels, computed_at: int | None = NOW, **others: Any
    ) -> Transition:
        return self._take(
            observe(self.state, seen(levels, computed_at, **others), self.feed)
        )

    def lack(self, status: Status, **others: Any) -> Transition:
        return self._take(
            observe(self.state, seen(None, None, status=status, **others), self.feed)
        )

    def tick(self, seconds: float, answered_seconds: float | None = None) -> Transition:
        """The timer, and the last answer, so many seconds after `NOW`."""
        now = NOW + round(seconds * SECOND)
        answered_at = (
            None if answered_seconds is None else NOW + round(answered_seconds * SECOND)
        )
        return self._take(
            expire(self.known, Moment(now + 7, now), answered_at, ME, self.feed)
        )

    def remove(self) -> Transition:
        return self._take(remove(self.known, NOW, ME, self.feed))

    @property
    def known(self) -> State:
        assert self.state is not None
        return self.state

    @property
    def kinds(self) -> list[Kind]:
        return [event.kind for event in self.events]

    def _take(self, step: Transition) -> Transition:
        self.state = step.state or self.state
        if step.event is not None:
            self.events.append(step.event)
        return step


def said(step: Transition) -> tuple[Kind, Status, Levels | None, Levels | None]:
    """Kind, status, before and after."""
    assert step.event is not None
    assert step.state is not None
    assert step.state.status is step.event.status
    return step.event.kind, step.event.status, step.event.before, step.event.after


def test_the_first_sight_of_levels_is_a_snapshot_with_sequence_1() -> None:
    step = History().see(ONE)
    assert said(step) == (Kind.SNAPSHOT, Status.LIVE, None, ONE)
    assert step.event is not None
    assert (step.event.sequence, step.event.event_id) == (1, "majors/BTCUSDT/1")
    assert (step.event.computed_at, step.event.previous_computed_at) == (NOW, None)
    assert {change.path for change in step.event.changed_levels} == {"odte.hvl"}


@pytest.mark.parametrize("status", [Status.MISSING, Status.INVALID])
def test_the_first_sight_of_nothing_is_an_event_too(status: Status) -> None:
    history = History()
    step = history.lack(status)
    assert said(step) == (Kind(status), status, None, None)
    assert step.event is not None
    assert (step.event.sequence, step.event.computed_at, step.event.changed_levels) == (
        1,
        None,
        (),
    )
    assert said(history.see(ONE)) == (Kind.SNAPSHOT, Status.LIVE, None, ONE)


@pytest.mark.parametrize("status", [Status.MISSING, Status.INVALID])
def test_absence_is_said_once_and_keeps_the_last_levels_in_the_state(
    status: Status,
) -> None:
    history = History()
    history.see(ONE)
    step = history.lack(status, reason="refused")
    assert said(step) == (Kind(status), status, ONE, None)
    assert step.event is not None
    assert step.event.changed_levels == (LevelChange("odte.hvl", 100.0, None),)
    assert (
        step.event.reason,
        step.event.computed_at,
        step.event.previous_computed_at,
    ) == ("refused", None, NOW)
    assert (history.known.levels, history.known.computed_at) == (ONE, NOW)
    assert history.lack(status) == NO_TRANSITION


def test_missing_then_invalid_then_missing_are_three_events() -> None:
    history = History()
    history.see(ONE)
    for status in (Status.MISSING, Status.INVALID, Status.MISSING):
        assert said(history.lack(status)) == (Kind(status), status, ONE, None)
    assert [event.sequence for event in history.events] == [1, 2, 3, 4]


@pytest.mark.parametrize("status", [Status.MISSING, Status.INVALID])
def test_levels_after_an_absence_are_restored_changed_or_not(status: Status) -> None:
    for levels in (ONE, TWO):
        history = History()
        history.see(ONE)
        history.lack(status)
        step = history.see(levels)
        assert said(step) == (Kind.RESTORED, Status.LIVE, ONE, levels)
        assert step.event is not None
        assert len(step.event.changed_levels) == (levels is TWO)
        assert history.see(levels) == NO_TRANSITION


def test_removed_is_said_once_and_never_starts_again_from_1() -> None:
    history = History()
    history.see(ONE)
    assert said(history.remove()) == (Kind.REMOVED, Status.REMOVED, ONE, None)
    assert history.remove() == NO_TRANSITION
    assert said(history.see(TWO)) == (Kind.RESTORED, Status.LIVE, ONE, TWO)
    assert [event.sequence for event in history.events] == [1, 2, 3]


@pytest.mark.parametrize("status", [Status.MISSING, Status.INVALID])
def test_a_removed_symbol_that_is_absent_when_configured_again_is_an_event(
    status: Status,
) -> None:
    history = History()
    history.see(ONE)
    history.remove()
    assert said(history.lack(status)) == (Kind(status), status, ONE, None)


@pytest.mark.parametrize("status", [Status.MISSING, Status.INVALID, Status.REMOVED])
def test_an_absent_symbol_can_be_removed_and_a_removed_one_was_never_seen(
    status: Status,
) -> None:
    history = History()
    history.lack(Status.MISSING if status is Status.REMOVED else status)
    assert said(history.remove()) == (Kind.REMOVED, Status.REMOVED, None, None)
    assert said(history.see(ONE))[0] is Kind.SNAPSHOT


def test_another_request_is_a_snapshot_even_of_the_same_levels() -> None:
    history = History()
    history.see(ONE)
    history.feed = OTHER
    assert said(history.see(ONE)) == (Kind.SNAPSHOT, Status.LIVE, ONE, ONE)
    assert history.known.request_fingerprint == "other"
    assert history.see(ONE) == NO_TRANSITION


@pytest.mark.parametrize("status", [Status.MISSING, Status.INVALID, Status.REMOVED])
def test_another_request_is_a_snapshot_before_it_is_restored(status: Status) -> None:
    history = History()
    history.see(ONE)
    if status is Status.REMOVED:
        history.remove()
    else:
        history.lack(status)
    history.feed = OTHER
    assert said(history.see(TWO)) == (Kind.SNAPSHOT, Status.LIVE, ONE, TWO)


def test_another_request_is_a_snapshot_before_it_is_stale_or_fresh() -> None:
    history = History()
    history.see(ONE)
    history.feed = OTHER
    assert said(history.see(ONE, NOW, upstream_at=NOW + 91 * SECOND)) == (
        Kind.SNAPSHOT,
        Status.STALE,
        ONE,
        ONE,
    )
    history.feed = FEED
    assert said(history.see(ONE, NOW + 60 * SECOND)) == (
        Kind.SNAPSHOT,
        Status.LIVE,
        ONE,
        ONE,
    )


def test_a_request_is_another_only_when_levels_come_of_it() -> None:
    history = History()
    history.see(ONE)
    history.feed = OTHER
    history.lack(Status.MISSING)
    history.feed = FEED
    assert said(history.see(ONE))[0] is Kind.RESTORED


def test_levels_seen_first_when_they_are_old_are_a_stale_snapshot() -> None:
    history = History()
    assert said(history.see(ONE, upstream_at=NOW + 91 * SECOND)) == (
        Kind.SNAPSHOT,
        Status.STALE,
        None,
        ONE,
    )
    assert history.tick(200) == NO_TRANSITION
    assert said(history.see(ONE, NOW + 100 * SECOND)) == (
        Kind.FRESH,
        Status.LIVE,
        ONE,
        ONE,
    )


def test_levels_restored_when_they_are_old_are_stale() -> None:
    history = History()
    history.see(ONE)
    history.lack(Status.MISSING)
    assert said(history.see(TWO, upstream_at=NOW + 91 * SECOND)) == (
        Kind.RESTORED,
        Status.STALE,
        ONE,
        TWO,
    )
    assert history.see(TWO, upstream_at=NOW + 92 * SECOND) == NO_TRANSITION


def test_levels_are_stale_when_older_than_the_limit_and_not_before() -> None:
    history = History()
    history.see(ONE)
    assert history.see(ONE, upstream_at=NOW + 90 * SECOND) == NO_TRANSITION
    step = history.see(ONE, upstream_at=NOW + 90 * SECOND + 1)
    assert said(step) == (Kind.STALE, Status.STALE, ONE, ONE)
    assert step.event is not None
    assert (step.event.reason, step.event.changed_levels, step.event.computed_at) == (
        "old",
        (),
        NOW,
    )
    assert history.see(ONE, upstream_at=NOW + 99 * SECOND) == NO_TRANSITION


def test_levels_that_turn_stale_and_change_at_once_say_both() -> None:
    history = History()
    history.see(ONE)
    step = history.see(TWO, NOW + 1, upstream_at=NOW + 91 * SECOND)
    assert said(step) == (Kind.STALE, Status.STALE, ONE, TWO)
    assert step.event is not None
    assert step.event.changed_levels == (LevelChange("odte.hvl", 100.0, 200.0),)


def test_levels_that_change_while_stale_are_changed_and_stay_stale() -> None:
    history = History()
    history.see(ONE)
    history.tick(91)
    assert said(history.see(TWO, NOW + 1, upstream_at=NOW + 99 * SECOND)) == (
        Kind.CHANGED,
        Status.STALE,
        ONE,
        TWO,
    )


def test_stale_levels_are_fresh_again_changed_or_not() -> None:
    for levels in (ONE, TWO):
        history = History()
        history.see(ONE)
        history.tick(91, 91)
        assert said(history.see(levels, NOW + 80 * SECOND)) == (
            Kind.FRESH,
            Status.LIVE,
            ONE,
            levels,
        )


@pytest.mark.parametrize(
    ("answered_seconds", "reason"),
    [
        (None, "no_answer"),
        (0, "no_answer"),
        (45.999, "no_answer"),
        (46, "old"),
        (91, "old"),
    ],
)
def test_the_timer_says_whether_the_levels_are_old_or_nothing_answers(
    answered_seconds: float | None, reason: str
) -> None:
    history = History()
    history.see(ONE)
    step = history.tick(91, answered_seconds)
    assert said(step) == (Kind.STALE, Status.STALE, ONE, ONE)
    assert step.event is not None
    assert (
        step.event.reason,
        step.event.changed_levels,
        step.event.changed_sections,
    ) == (reason, (), ())
    assert (step.event.computed_at, step.event.previous_computed_at) == (NOW, NOW)
    assert step.event.observed_at == NOW + 91 * SECOND + 7
    assert history.tick(92, answered_seconds) == NO_TRANSITION


def test_the_timer_waits_until_the_limit_is_over() -> None:
    history = History(replace(FEED, stale_after_seconds=10.5))
    history.see(ONE)
    assert history.tick(10.5, None) == NO_TRANSITION
    assert history.tick(10.500001, None).event is not None


@pytest.mark.parametrize("status", [Status.MISSING, Status.INVALID, Status.REMOVED])
def test_the_timer_says_nothing_of_what_is_absent(status: Status) -> None:
    history = History()
    history.see(ONE)
    if status is Status.REMOVED:
        history.remove()
    else:
        history.lack(status)
    assert history.tick(1000) == NO_TRANSITION


def test_the_timer_says_what_the_last_event_said_not_what_was_seen_since() -> None:
    history = History(TOLERANT)
    history.see(ONE)
    history.see(at("odte.hvl", 105.0), NOW + SECOND)
    assert said(history.tick(100)) == (Kind.STALE, Status.STALE, ONE, ONE)


def test_levels_of_unknown_age_are_stale_when_nothing_answered_for_so_long() -> None:
    history = History()
    history.see(ONE, None)
    assert history.tick(300, answered_seconds=210) == NO_TRANSITION
    step = history.tick(300.000001, answered_seconds=210)
    assert said(step) == (Kind.STALE, Status.STALE, ONE, ONE)
    assert step.event is not None
    assert (step.event.reason, step.event.computed_at) == ("no_answer", None)
    assert said(history.see(ONE, None))[0] is Kind.FRESH


def test_levels_of_unknown_age_seen_by_an_owner_before_are_as_old_as_that_whatever_our_clock_says() -> (
    None
):
    state = observe(
        None, seen(ONE, None, observed_at=NOW, upstream_at=NOW + 50 * SECOND), FEED
    ).state
    assert state is not None
    for seconds, stale in ((90, False), (91, True)):
        ours = NOW + seconds * SECOND
        assert (
            expire(state, Moment(ours, ours + 50 * SECOND), None, ME, FEED).event
            is not None
        ) == stale


def test_a_difference_that_counts_is_changed() -> None:
    history = History()
    history.see(ONE)
    step = history.see(TWO, NOW + SECOND)
    assert said(step) == (Kind.CHANGED, Status.LIVE, ONE, TWO)
    assert step.event is not None
    assert step.event.changed_levels == (LevelChange("odte.hvl", 100.0, 200.0),)
    assert (step.event.computed_at, step.event.previous_computed_at) == (
        NOW + SECOND,
        NOW,
    )


def test_a_change_of_a_list_is_named_among_the_sections() -> None:
    history = History()
    history.see(ONE)
    step = history.see(at("zones", (Row(None, "{}"),), ONE), NOW + SECOND)
    assert step.event is not None
    assert (step.event.changed_levels, step.event.changed_sections) == ((), ("zones",))


@pytest.mark.parametrize("path", [path for path in NUMBERS if path != "spot_price"])
def test_a_section_that_is_no_longer_there_is_all_its_levels_null(path: str) -> None:
    history = History()
    history.see(at(path, 5.0))
    step = history.see(Levels(), NOW + SECOND)
    assert step.event is not None
    assert step.event.changed_levels == (LevelChange(path, 5.0, None),)
    assert step.event.after is not None
    assert number(step.event.after, path) is None


def test_what_is_ignored_updates_the_state_and_makes_no_event() -> None:
    history = History()
    history.see(ONE)
    newer = at("spot_price", 9.0, ONE)
    step = history.see(newer, NOW + SECOND)
    assert step.event is None
    assert (history.known.levels, history.known.published) == (newer, None)
    assert (history.known.sequence, history.known.computed_at) == (1, NOW + SECOND)
    event = history.see(TWO, NOW + 2 * SECOND).event
    assert event is not None
    assert event.before in {ONE, newer}


def test_what_nobody_documented_updates_the_state_and_makes_no_event() -> None:
    history = History()
    history.see(ONE)
    step = history.see(replace(ONE, extra='{"x":1}'), NOW)
    assert step.event is None
    assert history.known.levels == replace(ONE, extra='{"x":1}')


def test_a_refresh_that_brings_the_same_levels_is_written_once_without_an_event() -> (
    None
):
    history = History()
    history.see(ONE)
    step = history.see(ONE, NOW + 30 * SECOND)
    assert (step.event, step.dropped) == (None, None)
    assert step.state == replace(
        history.known,
        computed_at=NOW + 30 * SECOND,
        observed_at=NOW + 30 * SECOND,
        event_computed_at=NOW,
        recent_computed_at=(NOW, NOW + 30 * SECOND),
    )
    assert (
        history.see(ONE, NOW + 30 * SECOND, upstream_at=NOW + 45 * SECOND)
        == NO_TRANSITION
    )


def test_the_state_has_the_last_refreshes_in_ascending_order() -> None:
    history = History()
    refreshes = []
    for count in range(RECENT_REFRESHES_KEPT + 3):
        refreshes.append(NOW + count * SECOND)
        history.see(ONE if count % 2 else TWO, refreshes[-1])
        expected = tuple(refreshes[-RECENT_REFRESHES_KEPT:])
        assert history.known.recent_computed_at == expected


def test_an_answer_that_is_no_new_refresh_adds_none() -> None:
    history = History()
    history.see(ONE)
    history.see(TWO)
    history.see(ONE, None)
    history.see(TWO, NOW - SECOND)
    history.lack(Status.MISSING)
    history.see(ONE)
    history.tick(200)
    history.remove()
    assert history.known.recent_computed_at == (NOW,)


def test_a_symbol_without_dates_has_no_refreshes() -> None:
    history = History()
    history.see(ONE, None)
    history.see(TWO, None)
    assert history.known.recent_computed_at == ()


def test_slow_drift_is_compared_with_what_was_published() -> None:
    history = History(TOLERANT)
    history.see(at("odte.hvl", 100.0))
    for count, value in enumerate((104.0, 108.0, 110.0)):
        assert history.see(at("odte.hvl", value), NOW + count * SECOND).event is None
        assert (history.known.levels, history.known.published) == (
            at("odte.hvl", value),
            at("odte.hvl", 100.0),
        )
    event = history.see(at("odte.hvl", 111.0), NOW + 5 * SECOND).event
    assert event is not None
    assert event.changed_levels == (LevelChange("odte.hvl", 100.0, 111.0),)
    assert history.known.published is None


def test_drift_that_comes_back_leaves_nothing_published_apart() -> None:
    history = History(TOLERANT)
    history.see(at("odte.hvl", 100.0))
    history.see(at("odte.hvl", 105.0), NOW + SECOND)
    history.see(at("odte.hvl", 100.0), NOW + 2 * SECOND)
    assert (history.known.levels, history.known.published) == (
        at("odte.hvl", 100.0),
        None,
    )


def test_drift_before_an_absence_is_told_after_it() -> None:
    history = History(TOLERANT)
    history.see(at("odte.hvl", 100.0))
    history.see(at("odte.hvl", 105.0), NOW + SECOND)
    assert said(history.lack(Status.MISSING))[2] == at("odte.hvl", 100.0)
    assert (history.known.levels, history.known.published) == (
        at("odte.hvl", 105.0),
        at("odte.hvl", 100.0),
    )
    event = history.see(at("odte.hvl", 105.0), NOW + SECOND).event
    assert event is not None
    assert (event.kind, event.before, event.after) == (
        Kind.RESTORED,
        at("odte.hvl", 100.0),
        at("odte.hvl", 105.0),
    )


def test_the_same_computed_at_with_other_content_is_a_change() -> None:
    history = History()
    history.see(ONE)
    assert said(history.see(TWO)) == (Kind.CHANGED, Status.LIVE, ONE, TWO)


def test_an_older_computed_at_is_dropped_whatever_the_status() -> None:
    for lapse in (None, Status.MISSING, Status.INVALID, Status.STALE, Status.REMOVED):
        history = History()
        history.see(ONE)
        if lapse is Status.STALE:
            history.tick(100)
        elif lapse is Status.REMOVED:
            history.remove()
        elif lapse is not None:
            history.lack(lapse)
        history.feed = OTHER
        before = history.state
        assert history.see(TWO, NOW - 1) == Transition(dropped="older")
        assert history.state == before


def test_entries_without_a_date_are_compared_by_content_and_the_floor_stays() -> None:
    history = History()
    history.see(ONE)
    assert history.see(ONE, None) == NO_TRANSITION
    step = history.see(TWO, None)
    assert said(step) == (Kind.CHANGED, Status.LIVE, ONE, TWO)
    assert step.event is not None
    assert (step.event.computed_at, step.event.previous_computed_at) == (None, NOW)
    assert history.known.computed_at == NOW
    assert history.see(ONE, NOW - 1).dropped == "older"
    dated = history.see(ONE, NOW + 1).event
    assert dated is not None
    assert (dated.computed_at, dated.previous_computed_at) == (NOW + 1, None)


def test_an_entry_that_never_had_a_date_is_live_at_any_age() -> None:
    history = History()
    assert said(history.see(ONE, None, upstream_at=NOW))[1] is Status.LIVE
    assert history.see(ONE, None, upstream_at=NOW + 10_000 * SECOND) == NO_TRANSITION


def test_how_many_observations_collapsed_stands_in_the_event() -> None:
    event = History().see(ONE, collapsed=3).event
    assert event is not None
    assert event.collapsed_observations == 3


def test_each_observation_of_a_transaction_is_compared_with_the_one_before_it() -> None:
    states: dict[str, State] = {}
    first = observe_all(states, [seen(ONE)], FEED)
    assert states == {}
    states = {"BTCUSDT": first[0].state} if first[0].state is not None else {}
    before = dict(states)
    absent = Observation("BTCUSDT", Status.MISSING, None, NOW, NOW, ME)
    steps = observe_all(
        states,
        [
            seen(TWO, NOW + 1),
            seen(TWO, NOW + 1),
            seen(ONE, symbol="ETHUSDT"),
            absent,
            seen(ONE, NOW),
            seen(ONE, NOW + 2),
        ],
        FEED,
    )
    assert [step.event and step.event.kind for step in steps] == [
        Kind.CHANGED,
        None,
        Kind.SNAPSHOT,
        Kind.MISSING,
        None,
        Kind.RESTORED,
    ]
    assert steps[1] == NO_TRANSITION
    assert steps[4].dropped == "older"
    assert [step.event.sequence for step in steps if step.event is not None] == [
        2,
        1,
        3,
        4,
    ]
    assert states == before


def test_two_feeds_share_nothing_of_a_symbol() -> None:
    ids = {observe(None, seen(ONE), FeedRules(name)).event for name in ("a", "b")}
    assert {event.event_id for event in ids if event is not None} == {
        "a/BTCUSDT/1",
        "b/BTCUSDT/1",
    }
