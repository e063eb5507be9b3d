"""What waits to be committed: in order, bounded, and never lost but where it says so."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from connector.core.model import Levels, Observation
from connector.kafka.shard_log import Quarantined
from connector.runtime.inbox import MAX_WAITING, Attempt, Inbox, Work
from tests.support.levels import seen

quick = settings(deadline=None, derandomize=True, max_examples=150)


def shown(number: int, symbol: str = "A", collapsed: int = 0) -> Observation:
    return seen(Levels(spot_price=float(number)), symbol=symbol, collapsed=collapsed)


def bad(symbol: str, number: int) -> Quarantined:
    return Quarantined(symbol, b"", "malformed", str(number), number, None)


class Counted(Inbox):
    """An inbox, and how many observations it gave up."""

    def __init__(self) -> None:
        self.dropped = 0
        super().__init__(self._count)

    def _count(self) -> None:
        self.dropped += 1


def test_an_empty_inbox_is_false_and_gives_nothing() -> None:
    inbox = Counted()
    assert not inbox
    assert inbox.take() == inbox.take()
    inbox.quarantine(bad("A", 1))
    assert inbox


def test_observations_of_a_symbol_are_kept_in_order() -> None:
    inbox = Counted()
    for number in range(4):
        inbox.add(shown(number, "AB"[number % 2]))
    seen_ = inbox.take().seen
    assert [o for o in seen_ if o.symbol == "A"] == [shown(0, "A"), shown(2, "A")]
    assert [o for o in seen_ if o.symbol == "B"] == [shown(1, "B"), shown(3, "B")]
    assert not inbox


def test_the_newest_overtakes_and_counts_where_too_many_wait() -> None:
    inbox = Counted()
    for number in range(MAX_WAITING + 3):
        inbox.add(shown(number))
    waiting = inbox.take().seen
    assert waiting == (
        *map(shown, range(MAX_WAITING - 1)),
        shown(MAX_WAITING + 2, collapsed=3),
    )
    assert inbox.dropped == 3


def test_one_symbol_never_crowds_out_another() -> None:
    inbox = Counted()
    inbox.add(shown(0, "B"))
    for number in range(50):
        inbox.add(shown(number, "A"))
    assert [o for o in inbox.take().seen if o.symbol == "B"] == [shown(0, "B")]


def test_what_was_not_committed_goes_before_what_came_meanwhile() -> None:
    inbox = Counted()
    inbox.add(shown(1))
    inbox.quarantine(bad("A", 1))
    inbox.quarantine(bad("B", 1))
    work = inbox.take()
    inbox.add(shown(2))
    inbox.quarantine(bad("A", 2))
    inbox.keep(Attempt(work, (), {}))
    assert inbox.settle({}) is None
    again = inbox.take()
    assert again.seen == (shown(1), shown(2))
    assert set(again.quarantined) == {bad("A", 2), bad("B", 1)}


@quick
@given(
    st.lists(st.sampled_from("AB"), max_size=60), st.lists(st.booleans(), max_size=12)
)
def test_through_any_failures_order_is_kept_and_what_is_given_up_is_counted(
    symbols: str, commits: list[bool]
) -> None:
    inbox, committed = Counted(), list[Observation]()
    for number, symbol in enumerate(symbols):
        inbox.add(shown(number, symbol))
        if number % 5 == 4 and commits:
            work = inbox.take()
            if commits.pop():
                committed += work.seen
            else:
                inbox.keep(Attempt(work, (), {}))
                inbox.settle({})
    committed += inbox.take().seen
    assert len(committed) + inbox.dropped == len(symbols)
    assert sum(observation.collapsed for observation in committed) == inbox.dropped
    for symbol in "AB":
        values = [
            o.entry.levels.spot_price
            for o in committed
            if o.symbol == symbol and o.entry is not None
        ]
        assert values == sorted(values, key=lambda value: value or 0.0)
        newest = [number for number, other in enumerate(symbols) if other == symbol]
        assert (values[-1:] or [None]) == ([float(newest[-1])] if newest else [None])


def test_what_the_broker_refuses_is_tried_symbol_by_symbol_and_given_up_alone() -> None:
    inbox, refused, committed = Counted(), 0, []
    for number in range(6):
        inbox.add(shown(number, "ABC"[number % 3]))
    inbox.quarantine(bad("A", 1))
    while inbox:
        work = inbox.take()
        if "B" in work.symbols:
            refused += inbox.refuse(work, alone=len(work.symbols) == 1)
        else:
            committed.append(work)
    assert committed == [
        Work((shown(0, "A"), shown(3, "A")), (bad("A", 1),)),
        Work((shown(2, "C"), shown(5, "C"))),
    ]
    assert (refused, inbox.dropped) == (2, 0)
    for symbol in "AABC":
        inbox.add(shown(7, symbol))
    assert [sorted(inbox.take().symbols) for _ in range(2)] == [["A", "C"], ["B"]]
    inbox.add(shown(8, "B"))
    inbox.add(shown(8, "C"))
    assert inbox.take().symbols == {"B", "C"}  # B went through


def test_clearing_forgets_everything() -> None:
    inbox = Counted()
    inbox.add(shown(1))
    inbox.quarantine(bad("A", 1))
    assert inbox.clear() == 1
    assert not inbox
