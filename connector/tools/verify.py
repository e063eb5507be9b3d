"""`gex-connector verify`: reads both topics of each feed, and proves that they hold what they promise.

A worker may be writing. What is read ends where the topics end at the start, but for what is needed to compare the
two: an event is visible at the latest when its partition is read to where it ended after its state was seen, and a
state when its partition is read to where it ended after its event was seen, since both are one transaction. Where
`changes` begins depends on retention and is no fault. Memory holds the last event and state of each symbol.
"""

from __future__ import annotations

import sys
from collections import defaultdict
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from connector.config.secrets import printable
from connector.core.diff import Rules, compare
from connector.errors import ShardCorrupt
from connector.kafka.events import BEGINNING, END
from connector.kafka.names import partition_of

if TYPE_CHECKING:
    from collections.abc import Mapping

    from connector.core.model import Event, Levels, State
    from connector.kafka.avro import Codec
    from connector.kafka.events import Log, Record
    from connector.kafka.names import Topics

_MOST_FAULTS: Final = 20


def verify(
    log: Log, topics: Topics, codec: Codec, ignored: Mapping[str, tuple[str, ...]]
) -> int:
    """Say each fault, the first ones, and sum up. 1 where there is one, else 0. Raises KafkaUnavailable.

    `ignored`: what each feed's configuration ignores, as far as it is known.
    """
    totals = Totals()
    for feed in log.feeds:
        _Feed(
            feed,
            log,
            codec,
            Rules.of(ignored.get(feed, ("spot_price",))).exact(),
            totals,
        ).verify(topics)
    if totals.faults > _MOST_FAULTS:
        sys.stdout.write(f"... and {totals.faults - _MOST_FAULTS} more\n")
    read = f"{totals.events} events and {totals.states} states of {totals.symbols} symbols, {len(log.feeds)} feed(s)"
    sys.stdout.write(
        f"{'FAULTY' if totals.faults else 'ok'}: {read}: {totals.faults} faults\n"
    )
    return int(totals.faults > 0)


@dataclass(slots=True)
class Totals:
    """What was read of all feeds, and what was wrong with it."""

    events: int = 0
    states: int = 0
    symbols: int = 0
    faults: int = 0

    def fault(self, said: str) -> None:
        """Count it, and say it where it is one of the first."""
        self.faults += 1
        if self.faults <= _MOST_FAULTS:
            sys.stdout.write(f"{printable(said)}\n")


@dataclass(slots=True)
class _Symbol:
    """What is known of a symbol: the last state, and one that awaits its event; the last event, and what was said."""

    state: State | None = None
    expected: State | None = None
    event: Event | None = None
    first: int = 0
    said: Levels | None = None
    computed_at: int = 0


class _Feed:
    def __init__(
        self, feed: str, log: Log, codec: Codec, rules: Rules, totals: Totals
    ) -> None:
        self._feed, self._log, self._codec, self._rules, self._totals = (
            feed,
            log,
            codec,
            rules,
            totals,
        )
        self._symbols: dict[str, _Symbol] = defaultdict(_Symbol)

    def verify(self, topics: Topics) -> None:
        """States, then the events up to where they end now, then the states written meanwhile."""
        current, changes = (
            self._log.planned_checks(topics.current(self._feed)),
            self._log.planned_checks(topics.changes(self._feed)),
        )
        seen = self._log.offsets(current, END)
        for record in self._log.read(dict.fromkeys(current, BEGINNING), seen):
            self._state(record)
        for symbol in self._symbols.values():
            symbol.expected = symbol.state
        for record in self._log.read(
            dict.fromkeys(changes, BEGINNING), self._log.offsets(changes, END)
        ):
            self._event(record)
        for record in self._log.read(seen, self._log.offsets(current, END)):
            self._state(record)
        starts, topic = (
            self._log.offsets(changes, BEGINNING),
            topics.changes(self._feed),
        )
        for name, symbol in self._symbols.items():
            if fault := _apart(
                symbol, whole=starts[topic, partition_of(name, len(starts))] == 0
            ):
                self._totals.fault(f"{self._feed}/{name}: {fault}")
        self._totals.symbols += len(self._symbols)

    def _state(self, record: Record) -> None:
        self._totals.states += 1
        try:
            state = record.decoded(self._codec.decode_state)
        except ShardCorrupt as error:
            self._totals.fault(
                "a tombstone at " + record.place if not record.value else str(error)
            )
            return
        symbol = self._symbols[state.symbol]
        before, symbol.state = symbol.state, state
        faults = self._misplaced(record, state)
        if before is not None and state.sequence < before.sequence:
            faults.append(f"the sequence goes back from #{before.sequence}")
        if before is not None and (state.computed_at or 0) < (before.computed_at or 0):
            faults.append("computed_at goes back")
        if symbol.event is not None and state.sequence == symbol.event.sequence:
            faults += self._disagreement(state, symbol.event, symbol.said)
        self._say(record, state, faults)

    def _event(self, record: Record) -> None:
        self._totals.events += 1
        try:
            event = record.decoded(self._codec.decode_event)
        except ShardCorrupt as error:
            self._totals.fault(str(error))
            return
        symbol, faults = self._symbols[event.symbol], self._misplaced(record, event)
        if event.event_id != f"{self._feed}/{event.symbol}/{event.sequence}":
            faults.append("its event_id is another's")
        if (event.computed_at or symbol.computed_at) < symbol.computed_at:
            faults.append("computed_at goes back")
        last = symbol.event
        if last is None:
            symbol.first = event.sequence
        if last is not None and event.sequence != last.sequence + 1:
            what = (
                "a gap" if event.sequence > last.sequence else "doubled or out of order"
            )
            faults.append(f"{what}: it follows #{last.sequence}")
        elif (last is not None or event.sequence == 1) and compare(
            symbol.said, event.before, self._rules
        ):
            faults.append("before is not what was said last")
        if last is None or event.sequence > last.sequence:
            symbol.event, symbol.computed_at = (
                event,
                max(symbol.computed_at, event.computed_at or 0),
            )
            symbol.said = event.before if event.after is None else event.after
        if symbol.expected is not None and symbol.expected.sequence == event.sequence:
            faults += self._disagreement(symbol.expected, event, symbol.said)
            symbol.expected = None
        self._say(record, event, faults)

    def _misplaced(self, record: Record, what: Event | State) -> list[str]:
        right = {
            "its key is another": record.key == what.symbol.encode(),
            "it is in the wrong partition": record.partition
            == partition_of(what.symbol, self._log.partitions[record.topic]),
            "it is another feed's": what.feed == self._feed,
        }
        return [fault for fault, well in right.items() if not well]

    def _disagreement(
        self, state: State, event: Event, said: Levels | None
    ) -> list[str]:
        right = {
            f"the state is {state.status}, its event {event.status}": state.status
            is event.status,
            "the state does not say what its event said": not compare(
                said, state.said, self._rules
            ),
            "the state is older than its event": (state.computed_at or 0)
            >= (event.computed_at or 0),
        }
        return [fault for fault, well in right.items() if not well]

    def _say(self, record: Record, what: Event | State, faults: list[str]) -> None:
        for fault in faults:
            self._totals.fault(
                f"{what.feed}/{what.symbol} #{what.sequence}: {fault} ({record.place})"
            )


def _apart(symbol: _Symbol, *, whole: bool) -> str | None:
    """What is wrong with how it begins and ends; `whole`: retention has deleted nothing of it."""
    state, event = symbol.state, symbol.event
    if whole and symbol.first != 1:
        return f"its events begin with {f'#{symbol.first}' if event else 'none'}, though nothing was deleted"
    if event is None:
        return None
    if state is None or state.sequence < event.sequence:
        return f"its last event is #{event.sequence}, its state {'absent' if state is None else f'#{state.sequence}'}"
    if symbol.expected is not None and symbol.expected.sequence > event.sequence:
        return f"its state is #{symbol.expected.sequence}, its last event #{event.sequence}"
    return None
