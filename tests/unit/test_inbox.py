"""Observations that wait to be committed stay in order, bounded, and accounted for."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from connector.core.model import Levels, Observation, Source, State, Status
from connector.core.transition import FeedRules, Transition, observe_all
from connector.runtime.clock import Clock
from connector.runtime.inbox import MAX_WAITING, Attempt, Inbox, Work
from tests.support.levels import SECOND, seen
from tests.support.profiles import cases
from tests.support.wall_clock import set_clock

if TYPE_CHECKING:
    import pytest

SET_SECONDS = -7200

quick = cases(150)


def shown(number: int, symbol: str = "A", collapsed: int = 0) -> Observation:
    """Return an observation that the number tells from others."""
    levels = Levels(spot_price=float(number))
    return seen(levels, symbol=symbol, collapsed=collapsed)


def state(symbol: str = "A", sequence: int = 1, observed_at: int = 1) -> State:
    return State(
        feed="all",
        symbol=symbol,
        sequence=sequence,
        status=Status.LIVE,
        computed_at=None,
        observed_at=observed_at,
        request_fingerprint="",
        source=Source("1", "group", "worker"),
    )


def levels_of(spot_price: float, computed_at: int) -> Observation:
    """Return an observation of symbol A."""
    return seen(Levels(spot_price=spot_price), computed_at, symbol="A")


def absence() -> Observation:
    return seen(None, status=Status.MISSING, symbol="A")


class CountingInbox(Inbox):
    """Also counts the observations that newer ones replaced."""

    def __init__(self) -> None:
        self.collapsed = 0
        super().__init__(self._count, Clock())

    def _count(self) -> None:
        self.collapsed += 1


def test_an_empty_inbox_is_false_and_gives_nothing() -> None:
    inbox = CountingInbox()
    assert not inbox
    assert inbox.take() == Work()
    inbox.add(shown(1))
    assert inbox


def test_observations_of_a_symbol_are_kept_in_order() -> None:
    inbox = CountingInbox()
    for number in range(4):
        inbox.add(shown(number, "AB"[number % 2]))

    taken = inbox.take().observations
    of_a = [observation for observation in taken if observation.symbol == "A"]
    of_b = [observation for observation in taken if observation.symbol == "B"]
    assert of_a == [shown(0, "A"), shown(2, "A")]
    assert of_b == [shown(1, "B"), shown(3, "B")]
    assert not inbox


def test_if_too_many_wait_the_newest_are_collapsed_and_counted() -> None:
    inbox = CountingInbox()
    for number in range(MAX_WAITING + 3):
        inbox.add(shown(number))

    oldest = [shown(number) for number in range(MAX_WAITING - 1)]
    newest = shown(MAX_WAITING + 2, collapsed=3)
    assert inbox.take().observations == (*oldest, newest)
    assert inbox.collapsed == 3


def test_an_overtaken_answer_does_not_displace_newer_levels() -> None:
    inbox = CountingInbox()
    for computed_at in range(MAX_WAITING):
        inbox.add(levels_of(1.0, computed_at))
    newest = levels_of(2.0, computed_at=100)
    inbox.add(newest)
    inbox.add(levels_of(3.0, computed_at=50))

    *_, last = inbox.take().observations
    assert last == replace(newest, collapsed=2)
    assert inbox.collapsed == 2


def test_an_absence_displaces_the_levels_before_it() -> None:
    inbox = CountingInbox()
    for computed_at in range(MAX_WAITING):
        inbox.add(levels_of(1.0, computed_at))
    missing = absence()
    inbox.add(missing)
    *_, last = inbox.take().observations
    assert last == replace(missing, collapsed=1)


def test_an_overtaken_answer_does_not_displace_an_absence() -> None:
    inbox = CountingInbox()
    for computed_at in range(MAX_WAITING - 1):
        inbox.add(levels_of(1.0, computed_at))
    missing = absence()
    inbox.add(missing)
    # Older than the levels that wait before the absence.
    inbox.add(levels_of(3.0, computed_at=2))

    *_, last = inbox.take().observations
    assert last == replace(missing, collapsed=1)


def test_a_symbol_never_crowds_out_another() -> None:
    inbox = CountingInbox()
    inbox.add(shown(0, "B"))
    for number in range(50):
        inbox.add(shown(number, "A"))
    assert shown(0, "B") in inbox.take().observations


def test_uncommitted_work_goes_before_newer_work() -> None:
    inbox = CountingInbox()
    inbox.add(shown(1))
    work = inbox.take()
    inbox.add(shown(2))
    inbox.keep(Attempt(work))

    # The restored topic is empty, so the attempt was not committed.
    assert inbox.settle({}) is None
    again = inbox.take()
    assert again.observations == (shown(1), shown(2))


def test_an_attempt_collects_events_and_the_last_state_of_each_symbol() -> None:
    transitions = [Transition(state(sequence=1)), Transition(state(sequence=2))]

    attempt = Attempt.of(Work(), transitions)

    assert attempt.states == {"A": state(sequence=2)}
    assert attempt

    # A dropped observation leaves nothing to write.
    dropped = Transition(dropped="older")
    assert not Attempt.of(Work((shown(1),)), [dropped])


def test_an_attempt_is_committed_if_every_state_of_it_is_found() -> None:
    written = state(sequence=2, observed_at=5)
    attempt = Attempt(Work(), states={"A": written})
    assert attempt.was_committed({"A": written})

    other_refresh = state(sequence=2, observed_at=4)
    assert not attempt.was_committed({"A": other_refresh})
    other_event = state(sequence=1, observed_at=5)
    assert not attempt.was_committed({"A": other_event})
    assert not attempt.was_committed({})

    # Without a state there is nothing to find.
    assert not Attempt(Work()).was_committed({})


@quick
@given(
    st.lists(st.sampled_from("AB"), max_size=60), st.lists(st.booleans(), max_size=12)
)
def test_through_any_failures_order_is_kept_and_losses_are_counted(
    symbols: list[str], commits: list[bool]
) -> None:
    inbox = CountingInbox()
    committed: list[Observation] = []
    for number, symbol in enumerate(symbols):
        inbox.add(shown(number, symbol))
        # A transaction after every five observations.
        is_fifth = number % 5 == 4
        if is_fifth and commits:
            work = inbox.take()
            if commits.pop():
                committed += work.observations
            else:
                inbox.keep(Attempt(work))
                inbox.settle({})
    committed += inbox.take().observations

    assert len(committed) + inbox.collapsed == len(symbols)
    collapsed = sum(observation.collapsed for observation in committed)
    assert collapsed == inbox.collapsed

    # In order, and the last observation is never lost.
    for symbol in "AB":
        prices = []
        for observation in committed:
            if observation.symbol == symbol and observation.entry is not None:
                prices.append(observation.entry.levels.spot_price or 0.0)
        assert prices == sorted(prices)
        if symbol in symbols:
            last_number = max(
                number for number, other in enumerate(symbols) if other == symbol
            )
            assert prices[-1] == last_number
        else:
            assert not prices


def test_refused_symbols_are_tried_alone_and_given_up_alone() -> None:
    inbox = CountingInbox()
    refused = 0
    committed = []
    for number in range(6):
        inbox.add(shown(number, "ABC"[number % 3]))
    while inbox:
        work = inbox.take()
        # The broker refuses everything with symbol B.
        if "B" in work.symbols:
            is_alone = len(work.symbols) == 1
            refused += inbox.isolate(work, alone=is_alone)
        else:
            committed.append(work.observations)

    of_a = (shown(0, "A"), shown(3, "A"))
    of_c = (shown(2, "C"), shown(5, "C"))
    assert committed == [of_a, of_c]
    assert refused == 2
    assert inbox.collapsed == 0

    # B is still tried alone, after the others.
    for symbol in "AABC":
        inbox.add(shown(7, symbol))
    assert inbox.take().symbols == {"A", "C"}
    assert inbox.take().symbols == {"B"}

    inbox.add(shown(8, "B"))
    inbox.add(shown(8, "C"))
    assert inbox.take().symbols == {"B", "C"}, "B was committed"


def test_collapsed_observations_without_an_event_are_counted_by_the_next_one() -> None:
    inbox = CountingInbox()
    for number in range(MAX_WAITING + 3):
        inbox.add(shown(number))
    # None of them was a difference: there is nothing to write, or a state only.
    inbox.committed(Attempt(inbox.take()))

    inbox.add(shown(20, "B"))
    inbox.add(shown(21))
    inbox.add(shown(22))
    work = inbox.take()
    assert work.observations == (shown(20, "B"), shown(21, collapsed=3), shown(22))

    # They still count after a transaction that failed, and once.
    inbox.keep(Attempt(work))
    inbox.settle({})
    assert inbox.take() == work
    inbox.add(shown(23))
    assert inbox.take().observations == (shown(23),)


def test_a_committed_attempt_found_by_a_restore_leaves_its_uncounted_ones() -> None:
    inbox = CountingInbox()
    inbox.add(shown(1, collapsed=2))
    attempt = Attempt(inbox.take(), states={"A": state()})
    inbox.keep(attempt)

    assert inbox.settle({"A": state()}) == attempt

    inbox.add(shown(2))
    assert inbox.take().observations == (shown(2, collapsed=2),)


def test_clearing_forgets_the_uncounted_ones() -> None:
    # The next owner's observations are not those that were collapsed here.
    inbox = CountingInbox()
    inbox.committed(Attempt(Work((shown(1, collapsed=2),))))
    inbox.clear()
    inbox.add(shown(2))
    assert inbox.take().observations == (shown(2),)


def test_an_attempt_leaves_what_its_events_do_not_count() -> None:
    feed = FeedRules("all")
    work = Work((shown(1, collapsed=2), shown(1, collapsed=1), shown(1, "B")))
    transitions = observe_all({}, work.observations, feed)

    # The first one has an event. The second one is no difference.
    assert Attempt.of(work, transitions).uncounted == {"A": 1}


def test_clearing_forgets_everything_and_returns_the_number_of_observations() -> None:
    inbox = CountingInbox()
    inbox.add(shown(1))
    inbox.keep(Attempt(inbox.take()))
    inbox.add(shown(2))
    assert inbox.clear() == 2
    assert not inbox


def corrected(observation: Observation) -> Observation:
    """Return an observation with the times that `SET_SECONDS` gives it."""
    observed_at = observation.observed_at + SET_SECONDS * SECOND
    return replace(observation, observed_at=observed_at, upstream_at=observed_at)


def are_about_equal(one: Observation, other: Observation) -> bool:
    """Return True if nothing differs but the times, by what two looks at a clock take."""
    apart = abs(one.observed_at - other.observed_at)
    are_moments_equal = one.observed_at - one.upstream_at == (
        other.observed_at - other.upstream_at
    )
    without_times = (
        replace(each, observed_at=0, upstream_at=0) for each in (one, other)
    )
    first, second = without_times
    return apart < SECOND and are_moments_equal and first == second


def test_what_waits_is_corrected_if_our_clock_is_set(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    inbox = CountingInbox()
    kept, waiting = shown(1), shown(2)
    inbox.add(kept)
    inbox.keep(Attempt(inbox.take()))
    inbox.add(waiting)

    set_clock(monkeypatch, SET_SECONDS)
    # This one came after the step.
    later = shown(3)
    inbox.add(later)
    assert inbox.settle({}) is None

    work = inbox.take()
    expected = (corrected(kept), corrected(waiting), later)
    assert all(map(are_about_equal, work.observations, expected))
    assert len(work.observations) == len(expected)
    # Nothing is corrected twice.
    inbox.keep(Attempt(work))
    inbox.settle({})
    assert inbox.take() == work


def test_what_waits_is_right_if_a_right_clock_is_set_wrong_and_right_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    clock = Clock(has_witness=True)
    inbox = Inbox(lambda: None, clock)
    observation = shown(1)
    inbox.add(observation)
    for number in range(3):
        now = Clock.now() + number
        clock.learn(now, now, now)

    with monkeypatch.context() as wrong:
        set_clock(wrong, SET_SECONDS)
        inbox.keep(Attempt(inbox.take()))
        assert inbox.settle({}) is None
        work = inbox.take()
        assert work.observations == (observation,)
        inbox.keep(Attempt(work))

    inbox.settle({})
    assert inbox.take().observations == (observation,)


def test_a_step_of_a_moment_changes_nothing_that_waits(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    inbox = CountingInbox()
    inbox.add(shown(1))
    real = time.time_ns
    monkeypatch.setattr(time, "time_ns", lambda: real() + 10**8)

    assert inbox.take().observations == (shown(1),)
