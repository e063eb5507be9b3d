"""The order of past events if the clocks of two workers differ."""

from __future__ import annotations

from msgspec.structs import replace

from connector.core.model import MICROS, Event
from connector.tools.past_events import in_sequence
from tests.support.simulated_day import simulated_day


def an_hour() -> list[Event]:
    return list(simulated_day(seconds=3_600))


def test_a_symbol_that_moved_to_a_worker_with_a_slow_clock_stays_in_sequence() -> None:
    events = an_hour()
    moving = events[0].symbol
    # Read from two partitions, in the order of the moments that two clocks gave.
    observed = []
    for event in events:
        late = event.symbol == moving and event.sequence > 5
        behind = 90 * MICROS if late else 0
        observed.append(replace(event, observed_at=event.observed_at - behind))
    observed.sort(key=lambda event: event.observed_at)
    assert not is_in_sequence(observed)

    yielded = list(in_sequence(observed))

    assert is_in_sequence(yielded)
    assert {event.event_id for event in yielded} == {event.event_id for event in events}
    others = [event for event in observed if event.symbol != moving]
    assert [event for event in yielded if event.symbol != moving] == others


def test_events_that_are_in_sequence_keep_their_order() -> None:
    events = an_hour()
    assert list(in_sequence(events)) == events


def is_in_sequence(events: list[Event]) -> bool:
    last: dict[str, int] = {}
    for event in events:
        if event.sequence <= last.get(event.symbol, 0):
            return False
        last[event.symbol] = event.sequence
    return True
