"""`gex-connector verify`: prove that both topics of each feed keep their promises.

A worker may be writing meanwhile, so the order of reading matters:

1. Read `current` up to its present end.
2. Read `changes` up to the end it has then. An event and its state are one transaction,
   so every state seen in step 1 has its event by now.
3. Read the rest of `current`, up to the end it has then. For the same reason every event
   seen in step 2 has its state by now.

Events that retention has deleted are not missed. Records of other programs are named and
counted, but are no faults: the promises are about the connector's own. Memory holds the last
event and state of each symbol.
"""

from __future__ import annotations

import os
import sys
from collections import defaultdict
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, TypeVar

from connector.config.secrets import printable, quote
from connector.core.diff import Rules, compare
from connector.errors import ShardCorrupt
from connector.kafka.events import BEGINNING, END
from connector.kafka.names import partition_of
from connector.kafka.orphans import orphaned_feed
from connector.tools.reading import ignored_paths, open_reader

if TYPE_CHECKING:
    import argparse
    from collections.abc import Callable, Mapping

    from connector.core.model import Event, Levels, State
    from connector.kafka.avro import Codec
    from connector.kafka.events import Log, Record
    from connector.kafka.names import Topics

_T = TypeVar("_T")

# A systematic fault shows in the first few; the rest are counted only.
_MAX_PRINTED_FAULTS: Final = 20

# The default of `feeds.ignore`, for feeds that this configuration does not have.
_DEFAULT_IGNORED: Final = ("spot_price",)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options of the command."""
    parser.add_argument("--feed", help="verify this feed only")
    parser.epilog = (
        "exit status: 0 no faults, 1 faults found, 2 invalid configuration, "
        "3 Kafka is not usable"
    )


def run(options: argparse.Namespace) -> int:
    """Verify the topics. Raises ConfigError and KafkaUnavailable."""
    reader = open_reader(options.config, os.environ)
    ignored = ignored_paths(options.config, os.environ)
    return verify(reader.log(options.feed), reader.topics, reader.codec, ignored)


def verify(
    log: Log, topics: Topics, codec: Codec, ignored: Mapping[str, tuple[str, ...]]
) -> int:
    """Print the faults found and a summary. Return 1 if there are faults, else 0.

    `ignored` has the `ignore` list of each feed, if it is known. Raises KafkaUnavailable.
    """
    totals = Totals()
    for feed in log.feeds:
        # Without thresholds: those decide what is published, and the records must agree exactly.
        rules = Rules.of(ignored.get(feed, _DEFAULT_IGNORED)).exact()
        verifier = _FeedVerifier(feed, log, codec, rules, totals)
        verifier.verify(topics)
        # Without feeds, this configuration says nothing about them.
        if ignored and feed not in ignored:
            verifier.check_orphaned()

    totals.print_summary(len(log.feeds))
    return 1 if totals.faults else 0


@dataclass(slots=True)
class Totals:
    """Counts of the records read and the faults found in all feeds."""

    events: int = 0
    states: int = 0
    symbols: int = 0
    faults: int = 0
    strays: int = 0

    def add_fault(self, fault: str) -> None:
        """Count a fault, and print it if it is among the first."""
        self.faults += 1
        if self.faults <= _MAX_PRINTED_FAULTS:
            sys.stdout.write(f"{printable(fault)}\n")

    def add_stray(self, stray: str) -> None:
        """Count a record of another program, and print it if it is among the first."""
        self.strays += 1
        if self.strays <= _MAX_PRINTED_FAULTS:
            sys.stdout.write(f"stray record: {printable(stray)}\n")

    def print_summary(self, feeds: int) -> None:
        """Print the verdict and the counts on the last line."""
        hidden = self.faults - _MAX_PRINTED_FAULTS
        if hidden > 0:
            sys.stdout.write(f"... and {hidden} more\n")
        hidden = self.strays - _MAX_PRINTED_FAULTS
        if hidden > 0:
            sys.stdout.write(f"... and {hidden} more stray records\n")

        verdict = "FAULTY" if self.faults else "ok"
        records = f"{self.events} events and {self.states} states"
        strays = ""
        if self.strays:
            strays = f", {self.strays} stray records (operations, Stray records)"
        sys.stdout.write(
            f"{verdict}: {records} of {self.symbols} symbols in {feeds} feed(s); "
            f"{self.faults} faults{strays}\n"
        )


@dataclass(slots=True)
class _Symbol:
    """The last records of a symbol, and the values that the next ones must continue.

    `awaited` is the state of step 1 until its event is read; `published` has the levels of
    the last event that had some.
    """

    state: State | None = None
    awaited: State | None = None
    event: Event | None = None
    first_sequence: int = 0
    published: Levels | None = None
    computed_at: int = 0


class _FeedVerifier:
    def __init__(
        self, feed: str, log: Log, codec: Codec, rules: Rules, totals: Totals
    ) -> None:
        self._feed = feed
        self._log = log
        self._codec = codec
        self._rules = rules
        self._totals = totals
        self._symbols: dict[str, _Symbol] = defaultdict(_Symbol)

    def verify(self, topics: Topics) -> None:
        """Read both topics in the three steps of the module's description."""
        log = self._log
        changes_topic = topics.changes(self._feed)
        current = log.partitions_of(topics.current(self._feed))
        changes = log.partitions_of(changes_topic)

        # Step 1: the states.
        first_end = log.offsets(current, END)
        for record in log.read(dict.fromkeys(current, BEGINNING), first_end):
            self._take_state(record)
        for symbol in self._symbols.values():
            symbol.awaited = symbol.state

        # Step 2: the events, among them the event of every state seen so far.
        changes_end = log.offsets(changes, END)
        for record in log.read(dict.fromkeys(changes, BEGINNING), changes_end):
            self._take_event(record)

        # Step 3: the states that were written meanwhile, among them those of all events.
        second_end = log.offsets(current, END)
        for record in log.read(first_end, second_end):
            self._take_state(record)

        # A partition that begins at offset 0 has lost nothing to retention.
        starts = log.offsets(changes, BEGINNING)
        for name, symbol in self._symbols.items():
            partition = partition_of(name, len(starts))
            is_whole = starts[changes_topic, partition] == 0
            fault = _incomplete(symbol, is_whole=is_whole)
            if fault is not None:
                self._totals.add_fault(f"{self._feed}/{name}: {fault}")
        self._totals.symbols += len(self._symbols)

    def check_orphaned(self) -> None:
        """Report the symbols left of a feed that is not configured any more."""
        states = []
        for symbol in self._symbols.values():
            if symbol.state is not None:
                states.append(symbol.state)
        orphan = orphaned_feed(self._feed, 0, states)
        # Another configuration may have the feed, and its workers write to it.
        if orphan is not None and orphan.is_idle:
            self._totals.add_fault(f"{orphan.description} (operations, Feeds)")

    def _take_state(self, record: Record) -> None:
        # The connector never deletes a state: a removed symbol keeps its sequence.
        if not record.value:
            self._totals.add_stray(f"{record.place}: a tombstone under {record.key!r}")
            return
        state = self._decoded(record, self._codec.decode_state)
        if state is None:
            return
        self._totals.states += 1

        symbol = self._symbols[state.symbol]
        faults = self._misplaced(record, state)
        faults += _state_regressions(symbol.state, state)
        symbol.state = state

        # In step 1 no event has been read, so `_take_event` compares the two.
        event = symbol.event
        if event is not None and event.sequence == state.sequence:
            faults += self._disagreements(state, event, symbol.published)
        self._report(record, state, faults)

    def _take_event(self, record: Record) -> None:
        event = self._decoded(record, self._codec.decode_event)
        if event is None:
            return
        self._totals.events += 1

        symbol = self._symbols[event.symbol]
        faults = self._misplaced(record, event)
        faults += self._event_faults(symbol, event)
        _advance(symbol, event)

        awaited = symbol.awaited
        if awaited is not None and awaited.sequence == event.sequence:
            faults += self._disagreements(awaited, event, symbol.published)
            symbol.awaited = None
        self._report(record, event, faults)

    def _decoded(self, record: Record, decode: Callable[[bytes], _T]) -> _T | None:
        """Return the decoded value, or None after reporting that there is none."""
        try:
            return record.decoded(decode)
        except ShardCorrupt as error:
            if record.is_ours:
                self._totals.add_fault(str(error))
            else:
                self._totals.add_stray(str(error))
            return None

    def _misplaced(self, record: Record, value: Event | State) -> list[str]:
        """Return faults of the record's key, partition and topic."""
        faults = []
        if record.key != value.symbol.encode():
            faults.append("the record key is not the symbol")
        partitions = self._log.partitions[record.topic]
        if record.partition != partition_of(value.symbol, partitions):
            faults.append("the record is in the wrong partition")
        if value.feed != self._feed:
            faults.append(f"the record is in the topic of feed {self._feed}")
        return faults

    def _event_faults(self, symbol: _Symbol, event: Event) -> list[str]:
        """Return the promises that an event breaks towards its predecessor."""
        faults = []
        event_id = f"{self._feed}/{event.symbol}/{event.sequence}"
        if event.event_id != event_id:
            faults.append(f"event_id is {quote(event.event_id)}, expected {event_id}")
        computed_at = event.computed_at
        if computed_at is not None and computed_at < symbol.computed_at:
            faults.append("computed_at goes back")

        last = symbol.event
        if last is not None and event.sequence != last.sequence + 1:
            is_gap = event.sequence > last.sequence
            problem = "gap in the sequence" if is_gap else "duplicate or out of order"
            faults.append(f"{problem}: it follows #{last.sequence}")
            return faults

        # If retention has deleted the predecessor, `before` has nothing to agree with.
        has_predecessor = last is not None or event.sequence == 1
        if has_predecessor and compare(symbol.published, event.before, self._rules):
            faults.append("`before` differs from the levels published last")
        return faults

    def _disagreements(
        self, state: State, event: Event, published: Levels | None
    ) -> list[str]:
        """Return the faults of a state and the event of the same sequence."""
        faults = []
        if state.status is not event.status:
            faults.append(
                f"the state has status {state.status}, its event {event.status}"
            )
        if compare(published, state.last_published, self._rules):
            faults.append("the state differs from the levels its event published")
        if (state.computed_at or 0) < (event.computed_at or 0):
            faults.append("the state is older than its event")
        return faults

    def _report(self, record: Record, value: Event | State, faults: list[str]) -> None:
        name = f"{value.feed}/{value.symbol} #{value.sequence}"
        for fault in faults:
            self._totals.add_fault(f"{name}: {fault} ({record.place})")


def _state_regressions(last: State | None, state: State) -> list[str]:
    if last is None:
        return []
    faults = []
    if state.sequence < last.sequence:
        faults.append(f"the sequence goes back from #{last.sequence}")
    computed_before = last.computed_at or 0
    if (state.computed_at or 0) < computed_before:
        faults.append("computed_at goes back")
    return faults


def _advance(symbol: _Symbol, event: Event) -> None:
    """Make an event the symbol's last, unless it is a duplicate or out of order."""
    last = symbol.event
    if last is None:
        symbol.first_sequence = event.sequence
    elif event.sequence <= last.sequence:
        return

    symbol.event = event
    symbol.computed_at = max(symbol.computed_at, event.computed_at or 0)
    # Events without levels, such as MISSING, carry the levels they end in `before`.
    symbol.published = event.before if event.after is None else event.after


def _incomplete(symbol: _Symbol, *, is_whole: bool) -> str | None:
    """Return the fault of a symbol's first or last records.

    `is_whole` means that retention has deleted none of its events.
    """
    state = symbol.state
    event = symbol.event
    if is_whole and symbol.first_sequence != 1:
        first = "it has no events"
        if event is not None:
            first = f"its first event is #{symbol.first_sequence}"
        return f"{first}, although retention has deleted nothing"

    if event is None:
        return None
    if state is None:
        return f"its last event is #{event.sequence}, but it has no state"
    if state.sequence < event.sequence:
        return (
            f"its last event is #{event.sequence}, but its state is #{state.sequence}"
        )

    # A later state, read in step 3, may well be ahead of the events read in step 2.
    awaited = symbol.awaited
    if awaited is not None and awaited.sequence > event.sequence:
        return (
            f"its state is #{awaited.sequence}, but its last event is #{event.sequence}"
        )
    return None
