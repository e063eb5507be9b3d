"""Refused changes are tried alone, and again after a while."""

from __future__ import annotations

from typing import TYPE_CHECKING

from msgspec.structs import replace

from connector.core.transition import Transition
from connector.runtime.isolation import RETRY_SECONDS, Isolation
from tests.support.log_statements import changed

if TYPE_CHECKING:
    from connector.core.model import State

NOW = 1000.0
LATER = NOW + RETRY_SECONDS


def change(symbol: str, sequence: int = 2) -> Transition:
    (state,) = changed(None, 1).states
    return Transition(replace(state, symbol=symbol, sequence=sequence))


def state_of(transition: Transition) -> State:
    assert transition.state is not None
    return transition.state


def test_isolated_changes_come_one_by_one_and_the_others_together() -> None:
    first, second, other = change("A"), change("B"), change("C")
    changes = [first, second, other]
    isolation = Isolation()
    isolation.isolate([state_of(first), state_of(second)], NOW)

    assert isolation.others(changes) == [other]
    assert isolation.next_alone(changes, NOW) == first
    isolation.committed([state_of(first)])
    assert isolation.next_alone(changes, NOW) == second
    isolation.give_up(state_of(second), NOW)
    assert isolation.next_alone(changes, NOW) is None
    assert not isolation.is_any_due(NOW)


def test_a_change_that_was_given_up_is_tried_again_after_a_while() -> None:
    refused = change("A")
    isolation = Isolation()
    isolation.give_up(state_of(refused), NOW)

    assert not isolation.is_any_due(LATER - 1)
    assert isolation.next_alone([refused], LATER - 1) is None
    assert isolation.others([refused]) == []
    assert isolation.is_any_due(LATER)
    assert isolation.next_alone([refused], LATER) == refused


def test_a_later_change_of_a_symbol_is_not_isolated() -> None:
    isolation = Isolation()
    isolation.give_up(state_of(change("A", 2)), NOW)

    later = change("A", 3)
    assert isolation.others([later]) == [later]


def test_a_change_that_a_later_one_has_replaced_is_forgotten() -> None:
    refused = change("A", 2)
    isolation = Isolation()
    isolation.give_up(state_of(refused), NOW)

    # The levels have become fresh meanwhile, without an event at first.
    isolation.committed([state_of(change("A", 1))])
    assert isolation.others([refused]) == []
    isolation.committed([state_of(change("A", 2))])
    assert isolation.others([refused]) == [refused]
    assert not isolation.is_any_due(LATER)


def test_two_refused_changes_of_a_symbol_are_both_left_alone() -> None:
    lost, removed = change("A", 2), change("A", 3)
    isolation = Isolation()
    isolation.give_up(state_of(lost), NOW)
    isolation.give_up(state_of(removed), NOW)

    assert isolation.others([lost, removed]) == []
    isolation.committed([state_of(removed)])
    assert isolation.others([lost, removed]) == [lost, removed]
