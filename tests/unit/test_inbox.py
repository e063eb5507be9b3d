"""Observations that wait to be committed stay in order, bounded, and accounted for."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec.structs import replace

from connector.core.model import Levels, Observation, Source, State, Status
from connector.core.transition import Transition
from connector.kafka.shard_log import Quarantined
from connector.runtime.inbox import MAX_WAITING, Attempt, Inbox, Work
from tests.support.levels import seen

quick = settings(deadline=None, derandomize=True, max_examples=150)


def shown(number: int, symbol: str = "A", collapsed: int = 0) -> Observation:
    levels = Levels(spot_price=float(number))
    return seen(levels, symbol=symbol, collapsed=collapsed)


def bad(symbol: str, number: int) -> Quarantined:
    return Quarantined(symbol, b"", "malformed", str(number), number, None)


def state(symbol: str = "A", sequence: int = 1, observed_at: int = 1) -> State:
    source = Source("1", "group", "worker")
    return State(
        "all", symbol, sequence, Status.LIVE, None, observed_at, "", source=source
    )


class CountingInbox(Inbox):
    """Also counts the observations that newer ones replaced."""

    def __init__(self) -> None:
        self.collapsed = 0
        super().__init__(self._count)

    def _count(self) -> None:
        self.collapsed += 1


def test_an_empty_inbox_is_false_and_gives_nothing() -> None:
    inbox = CountingInbox()
    assert not inbox
    assert inbox.take() == Work()
    inbox.quarantine(bad("A", 1))
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
        inbox.add(seen(Levels(spot_price=1.0), computed_at, symbol="A"))
    newest = seen(Levels(spot_price=2.0), 100, symbol="A")
    inbox.add(newest)
    inbox.add(seen(Levels(spot_price=3.0), 50, symbol="A"))
    *_, last = inbox.take().observations
    assert last == replace(newest, collapsed=2)
    assert inbox.collapsed == 2


def test_an_absence_displaces_the_levels_before_it() -> None:
    inbox = CountingInbox()
    for computed_at in range(MAX_WAITING):
        inbox.add(seen(Levels(spot_price=1.0), computed_at, symbol="A"))
    missing = seen(None, status=Status.MISSING, symbol="A")
    inbox.add(missing)
    *_, last = inbox.take().observations
    assert last == replace(missing, collapsed=1)


def test_an_overtaken_answer_does_not_displace_an_absence() -> None:
    inbox = CountingInbox()
    for computed_at in range(MAX_WAITING - 1):
        inbox.add(seen(Levels(spot_price=1.0), computed_at, symbol="A"))
    missing = seen(None, status=Status.MISSING, symbol="A")
    inbox.add(missing)
    inbox.add(seen(Levels(spot_price=3.0), 2, symbol="A"))
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
    inbox.quarantine(bad("A", 1))
    inbox.quarantine(bad("B", 1))
    work = inbox.take()
    inbox.add(shown(2))
    inbox.quarantine(bad("A", 2))
    inbox.keep(Attempt(work))
    assert inbox.settle({}) is None
    again = inbox.take()
    assert again.observations == (shown(1), shown(2))
    assert set(again.quarantined) == {bad("A", 2), bad("B", 1)}


def test_an_attempt_collects_events_and_the_last_state_of_each_symbol() -> None:
    transitions = [Transition(state(sequence=1)), Transition(state(sequence=2))]
    attempt = Attempt.of(Work(), transitions)
    assert attempt.states == {"A": state(sequence=2)}
    assert attempt
    assert not Attempt.of(Work((shown(1),)), [Transition(dropped="older")])


def test_an_attempt_is_committed_if_every_state_of_it_is_found() -> None:
    attempt = Attempt(Work(), (), {"A": state(sequence=2, observed_at=5)})
    assert attempt.was_committed({"A": state(sequence=2, observed_at=5)})
    assert not attempt.was_committed({"A": state(sequence=2, observed_at=4)})
    assert not attempt.was_committed({"A": state(sequence=1, observed_at=5)})
    assert not attempt.was_committed({})
    assert not Attempt(Work((), (bad("A", 1),))).was_committed({})


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
        if number % 5 == 4 and commits:
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
    for symbol in "AB":
        prices = []
        for observation in committed:
            if observation.symbol == symbol and observation.entry is not None:
                prices.append(observation.entry.levels.spot_price or 0.0)
        numbers = [number for number, other in enumerate(symbols) if other == symbol]
        assert prices == sorted(prices)
        assert prices[-1:] == [float(number) for number in numbers[-1:]]


def test_refused_symbols_are_tried_alone_and_given_up_alone() -> None:
    inbox = CountingInbox()
    refused = 0
    committed = []
    for number in range(6):
        inbox.add(shown(number, "ABC"[number % 3]))
    inbox.quarantine(bad("A", 1))
    while inbox:
        work = inbox.take()
        if "B" in work.symbols:
            refused += inbox.isolate(work, alone=len(work.symbols) == 1)
        else:
            committed.append(work)
    assert committed == [
        Work((shown(0, "A"), shown(3, "A")), (bad("A", 1),)),
        Work((shown(2, "C"), shown(5, "C"))),
    ]
    assert (refused, inbox.collapsed) == (2, 0)
    for symbol in "AABC":
        inbox.add(shown(7, symbol))
    assert [sorted(inbox.take().symbols) for _ in range(2)] == [["A", "C"], ["B"]]
    inbox.add(shown(8, "B"))
    inbox.add(shown(8, "C"))
    assert inbox.take().symbols == {"B", "C"}, "B was committed"


def test_clearing_forgets_everything_and_returns_the_number_of_observations() -> None:
    inbox = CountingInbox()
    inbox.add(shown(1))
    inbox.keep(Attempt(inbox.take()))
    inbox.add(shown(2))
    inbox.quarantine(bad("A", 1))
    assert inbox.clear() == 2
    assert not inbox
