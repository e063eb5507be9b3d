"""The client's pure parts: order of events, views, callbacks and the clock of silence."""

from __future__ import annotations

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from connector.client.errors import ClientStopped, SettingsError, UnknownSymbol
from connector.client.listeners import Change, Listeners
from connector.client.restore import Restored
from connector.client.sequences import Gap, SequenceKeeper
from connector.client.staleness import StalenessClock
from connector.client.store import Clocks, Store
from connector.client.views import Views
from connector.core.model import Event, Levels, Status
from tests.support.profiles import cases
from tests.support.written_feed import (
    MICROS,
    PERIOD_SECONDS,
    SYMBOL,
    an_event,
    levels_of,
    state_of,
)

OTHER = "ETHUSDT"


class Time:
    """A clock that tests move. Both clocks of the client show it."""

    def __init__(self) -> None:
        self.seconds = 1_000.0

    def __call__(self) -> float:
        return self.seconds


@cases(200)
@given(st.permutations(range(3, 12)), st.lists(st.integers(1, 11), max_size=5))
def test_events_in_any_order_are_delivered_once_in_order(
    order: list[int], repeats: list[int]
) -> None:
    keeper = SequenceKeeper({SYMBOL: 2})
    delivered: list[int] = []
    for sequence in [*repeats, *order, *repeats]:
        for event in keeper.offer(an_event(sequence), 0):
            delivered.append(event.sequence)
    assert delivered == list(range(3, 12))
    assert not keeper.has_early
    assert keeper.gap(1_000, 0) is None


def test_a_new_symbol_begins_with_its_first_event() -> None:
    keeper = SequenceKeeper({})
    assert keeper.offer(an_event(2), 0) == []
    assert len(keeper.offer(an_event(1), 0)) == 2


def test_a_gap_is_reported_after_the_patience() -> None:
    keeper = SequenceKeeper({SYMBOL: 2})
    keeper.offer(an_event(4), now=10)
    keeper.offer(an_event(5), now=15)
    assert keeper.gap(now=20, patience_seconds=10) is None
    assert keeper.gap(now=20.1, patience_seconds=10) == Gap(SYMBOL, expected=3, seen=5)


def test_the_patience_begins_again_with_progress() -> None:
    keeper = SequenceKeeper({SYMBOL: 2})
    keeper.offer(an_event(5), now=10)
    keeper.offer(an_event(3), now=19)
    assert keeper.gap(now=25, patience_seconds=10) is None
    assert keeper.gap(now=30, patience_seconds=10) == Gap(SYMBOL, expected=4, seen=5)


def test_a_state_ahead_of_its_event_waits_for_it() -> None:
    views = Views([state_of(an_event(1))])
    state = state_of(an_event(2), msgspec.structs.replace(levels_of(2), spot_price=7.0))
    assert views.take_state(state, now=0) == []
    assert views.keeper.is_waiting(SYMBOL)
    assert views.all[SYMBOL].sequence == 1

    changes = views.take_event(an_event(2), now=0)
    # The event, then the state's own values.
    assert [change.after.levels.spot_price for change in changes] == [100.0, 7.0]
    assert not views.keeper.is_waiting(SYMBOL)


def test_a_new_symbol_may_begin_with_a_state_and_a_later_event() -> None:
    views = Views([])
    assert views.take_state(state_of(an_event(2)), 0) == []
    assert views.take_event(an_event(2), 0) == []
    views.take_event(an_event(1), 0)
    assert views.all[SYMBOL].sequence == 2


def test_an_older_state_changes_nothing() -> None:
    views = Views([])
    views.take_event(an_event(1), 0)
    views.take_event(an_event(2), 0)
    assert views.take_state(state_of(an_event(1)), 0) == []
    assert views.all[SYMBOL].levels == levels_of(2)


@pytest.mark.parametrize("status", [Status.MISSING, Status.INVALID, Status.REMOVED])
def test_a_restored_absence_has_no_levels(status: Status) -> None:
    # The state keeps the last levels.
    state = state_of(an_event(3, status=status), levels_of(2))
    view = Views([state]).all[SYMBOL]
    assert view.levels == Levels()
    assert view.model is None


def test_the_age_is_measured_from_the_computation() -> None:
    time = Time()
    state = msgspec.structs.replace(state_of(an_event(1)), computed_at=990 * MICROS)
    view = Views([state], time).all[SYMBOL]
    assert view.age == 10
    time.seconds += 5
    assert view.age == 15
    # The API's clock may be ahead of ours.
    time.seconds = 980
    assert view.age == 0


def test_a_view_gives_values_by_path() -> None:
    view = Views([state_of(an_event(4))]).all[SYMBOL]
    assert view.at("all_expiry.hvl") == 4
    assert view.at("spot_price") == 100
    assert view.at("status") is Status.LIVE
    assert view.at("model") == "flow"
    assert view.at("max_pain.strike") is None


@pytest.mark.parametrize("path", ["hvl", "all_expiry.hlv", "all_expiry.hvl.x", ""])
def test_an_unknown_path_is_an_error(path: str) -> None:
    with pytest.raises(SettingsError, match="there is no path"):
        Listeners().add(SYMBOL, path, lambda _: None)


def test_callbacks_are_called_for_their_symbol_and_path() -> None:
    changes: list[Change] = []
    listeners = Listeners()
    listeners.add(SYMBOL, "all_expiry.hvl", changes.append)
    views = Views([])
    events = [an_event(1), an_event(1, OTHER), an_event(2, levels=levels_of(1))]
    for event in [*events, an_event(3)]:
        for change in views.take_event(event, 0):
            listeners.notify(change)
    assert [(change.before, change.after) for change in changes] == [(None, 1), (1, 3)]
    assert changes[1].view == views.all[SYMBOL]


def test_an_error_of_a_callback_is_not_taken_for_one_of_the_client() -> None:
    unknown = UnknownSymbol("the feed has no symbol 'ETHUSDT'")

    def look_up(_: object) -> None:
        raise unknown

    listeners = Listeners()
    listeners.add(SYMBOL, "status", look_up)
    listeners.add_trouble(look_up)
    [change] = Views([]).take_event(an_event(1), 0)

    with pytest.raises(
        ClientStopped, match="a callback raised UnknownSymbol"
    ) as caught:
        listeners.notify(change)
    assert caught.value.__cause__ is unknown
    with pytest.raises(ClientStopped, match="make another LiveLevels"):
        listeners.tick("nothing arrives")


@pytest.mark.parametrize(
    ("refreshes", "limit"),
    [
        # Twice the usual period, and the time of a takeover.
        ((0, 30, 60), 70),
        ((0, 5, 10), 20),
        # A long outage in between does not count.
        ((0, 30, 3_600, 3_630, 3_660), 70),
        # Too few to tell: the API's usual period.
        ((0,), 70),
        ((), 70),
    ],
)
def test_the_silence_of_a_symbol_is_measured_by_its_refreshes(
    refreshes: tuple[int, ...], limit: float
) -> None:
    time = Time()
    clock = StalenessClock(time, time)
    moments = tuple(moment * MICROS for moment in refreshes)
    state = state_of(an_event(1))
    clock.note(msgspec.structs.replace(state, recent_computed_at=moments))

    time.seconds += limit
    assert clock.overdue(SYMBOL) is None
    assert clock.feed_overdue() is None
    time.seconds += 1
    expected = f"for {limit + 1} s (expected within {limit} s)"
    assert clock.overdue(SYMBOL) == f"no refresh {expected}"
    assert clock.feed_overdue() == f"no record {expected}"


def test_the_silence_began_when_a_state_was_observed_not_when_it_is_read() -> None:
    time = Time()
    clock = StalenessClock(time, time)
    time.seconds = 3 * PERIOD_SECONDS
    state = msgspec.structs.replace(state_of(an_event(1)), observed_at=0)
    clock.note(state)
    assert clock.silent_for == 3 * PERIOD_SECONDS
    assert clock.overdue(SYMBOL) is not None

    # The next state of a backlog.
    clock.note(msgspec.structs.replace(state, observed_at=30 * MICROS))
    assert clock.silent_for == 3 * PERIOD_SECONDS - 30
    assert clock.overdue(SYMBOL) is not None


def test_any_record_ends_the_silence_of_the_feed_but_not_of_each_symbol() -> None:
    time = Time()
    clock = StalenessClock(time, time)
    clock.note(state_of(an_event(1)))
    clock.note(state_of(an_event(1, OTHER)))
    time.seconds += 3 * PERIOD_SECONDS
    clock.note(state_of(an_event(1, OTHER)))
    assert clock.silent_for == 0
    assert clock.feed_overdue() is None
    assert clock.overdue(OTHER) is None
    assert clock.overdue(SYMBOL) is not None


def test_a_feed_without_live_symbols_may_be_silent() -> None:
    time = Time()
    clock = StalenessClock(time, time)
    clock.note(state_of(an_event(1, status=Status.REMOVED)))
    time.seconds += 10_000
    assert clock.feed_overdue() is None


def store_of(time: Time, *events: Event) -> Store:
    store = Store(Clocks(time, time))
    states = {event.symbol: state_of(event) for event in events}
    for symbol, state in states.items():
        observed_at = int(time.seconds * MICROS)
        states[symbol] = msgspec.structs.replace(state, observed_at=observed_at)
    store.restore(Restored(states, {}))
    return store


def test_freshness_names_its_reason() -> None:
    time = Time()
    store = store_of(time, an_event(1), an_event(1, OTHER, status=Status.STALE))
    assert store.why_not_fresh(SYMBOL) is None
    assert store.why_not_fresh(OTHER) == "the status is STALE"

    with store.writing() as content:
        content.views.take_event(an_event(3), time())
    # It may come in a moment.
    assert store.why_not_fresh(SYMBOL) is None
    time.seconds += 3
    expected = "event 2 has not come, but a later record has"
    assert store.why_not_fresh(SYMBOL) == expected

    store.trouble = "Kafka does not answer"
    assert store.why_not_fresh(SYMBOL) == "Kafka does not answer"


def test_silence_ends_freshness() -> None:
    time = Time()
    store = store_of(time, an_event(1))
    limit = 2 * PERIOD_SECONDS + 10
    time.seconds += limit + 1
    expected = f"no refresh for {limit + 1} s (expected within {limit} s)"
    assert store.why_not_fresh(SYMBOL) == expected


def test_an_unknown_symbol_is_a_key_error_with_a_readable_message() -> None:
    store = store_of(Time(), an_event(1))
    with pytest.raises(UnknownSymbol) as error:
        store.view("BTC")
    assert str(error.value).startswith("the feed has no symbol 'BTC'; it has BTCUSDT")
    assert isinstance(error.value, KeyError)
