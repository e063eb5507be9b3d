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

If partitions were added to `changes`, some symbols have moved: their events are in several
partitions, which are read in any order. So the events of a symbol are checked in runs, one
after the other within a partition, and the runs are joined in the end.
"""

from __future__ import annotations

import os
from collections import defaultdict
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final, TypeVar

from connector.config.secrets import quote
from connector.core.diff import DEFAULT_IGNORE, Rules, compare
from connector.errors import ShardCorrupt
from connector.kafka.events import BEGINNING, END
from connector.kafka.names import partition_of
from connector.kafka.orphans import orphaned_feed
from connector.tools.moved_symbols import MovedSymbols
from connector.tools.reading import ignored_paths, open_reader
from connector.tools.verify_report import Totals

if TYPE_CHECKING:
    import argparse
    from collections.abc import Callable, Mapping

    from connector.core.model import Event, Levels, State
    from connector.kafka.avro import Codec
    from connector.kafka.events import Log, Record
    from connector.kafka.names import Topics

_T = TypeVar("_T")

_MISPLACED: Final = "the record is in the wrong partition"
_WRONG_BEFORE: Final = "`before` differs from the levels published last"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options of the command."""
    parser.add_argument("--feed", help="verify this feed only")
    parser.add_argument(
        "--json", action="store_true", help="print one JSON object at the end"
    )
    parser.epilog = (
        "exit status: 0 no faults, 1 faults found, 2 invalid configuration, "
        "3 Kafka is not usable"
    )


def run(options: argparse.Namespace) -> int:
    """Verify the topics. Raises ConfigError and KafkaUnavailable."""
    reader = open_reader(options.config, os.environ)
    ignored = ignored_paths(options.config, os.environ)
    log = reader.log(options.feed)
    totals = Totals(as_json=options.json)
    return verify(log, reader.topics, reader.codec, ignored, totals)


def verify(
    log: Log,
    topics: Topics,
    codec: Codec,
    ignored: Mapping[str, tuple[str, ...]],
    totals: Totals,
) -> int:
    """Print the faults found and a summary. Return 1 if there are faults, else 0.

    `ignored` has the `ignore` list of each feed, if it is known. Raises KafkaUnavailable.
    """
    for feed in log.feeds:
        # Without thresholds: those decide what is published, and the records must agree exactly.
        # A feed that this configuration does not have probably had the default.
        rules = Rules.of(ignored.get(feed, DEFAULT_IGNORE)).exact()
        verifier = _FeedVerifier(feed, log, codec, rules, totals)
        verifier.verify(topics)
        # Without feeds, this configuration says nothing about them.
        if ignored and feed not in ignored:
            verifier.check_orphaned()

    totals.print_summary(log.feeds)
    return 1 if totals.faults else 0


@dataclass(slots=True)
class _Run:
    """Events of a symbol that follow each other in one partition.

    `published` has the levels of the last event that had some. `place` is that of the first
    record.
    """

    partition: int
    place: str
    first: Event
    last: Event
    published: Levels | None
    computed_at: int

    @classmethod
    def of(cls, event: Event, record: Record) -> _Run:
        return cls(
            record.partition,
            record.place,
            first=event,
            last=event,
            published=_published(event),
            computed_at=event.computed_at or 0,
        )

    def add(self, event: Event) -> None:
        self.last = event
        self.published = _published(event)
        self.computed_at = max(self.computed_at, event.computed_at or 0)


@dataclass(slots=True)
class _Symbol:
    """The last records of a symbol, and the values that the next ones must continue.

    `awaited` is the state of step 1 until its event is read. `runs` has the events of step 2,
    and `open_runs` the last run of each partition. `event`, `first_sequence` and `published`
    are set when the runs are joined.
    """

    state: State | None = None
    awaited: State | None = None
    runs: list[_Run] = field(default_factory=list)
    open_runs: dict[int, _Run] = field(default_factory=dict)
    event: Event | None = None
    first_sequence: int = 0
    published: Levels | None = None


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
        self._moved = MovedSymbols()

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
        for name, symbol in self._symbols.items():
            self._join(name, symbol)
        self._judge_moved(changes_topic, len(changes))

        # Step 3: the states that were written meanwhile, among them those of all events.
        second_end = log.offsets(current, END)
        for record in log.read(first_end, second_end):
            self._take_state(record)

        # A partition that begins at offset 0 has lost nothing to retention.
        starts = log.offsets(changes, BEGINNING)
        for name, symbol in self._symbols.items():
            # Its first events may be where they belonged before partitions were added.
            homes = {partition_of(name, count + 1) for count in range(len(starts))}
            is_whole = all(starts[changes_topic, home] == 0 for home in homes)
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
        if not self._is_home(record, state):
            faults.append(_MISPLACED)
        faults += _state_regressions(symbol.state, state)
        symbol.state = state

        # In step 1 no event has been read, so `_take_event` compares the two.
        event = symbol.event
        if event is not None and event.sequence == state.sequence:
            faults += self._disagreements(state, event, symbol.published)
        self._report(record.place, state, faults)

    def _take_event(self, record: Record) -> None:
        event = self._decoded(record, self._codec.decode_event)
        if event is None:
            return
        self._totals.events += 1

        symbol = self._symbols[event.symbol]
        faults = self._misplaced(record, event)
        if not self._is_home(record, event):
            # Judged in the end: partitions may have been added since.
            name = f"{event.feed}/{event.symbol} #{event.sequence}"
            fault = f"{name}: {_MISPLACED} ({record.place})"
            self._moved.add(event.symbol, record.partition, fault)
        event_id = f"{self._feed}/{event.symbol}/{event.sequence}"
        if event.event_id != event_id:
            faults.append(f"event_id is {quote(event.event_id)}, expected {event_id}")

        run, order_faults = self._extend_run(symbol, event, record)
        faults += order_faults
        awaited = symbol.awaited
        if awaited is not None and awaited.sequence == event.sequence:
            faults += self._disagreements(awaited, event, run.published)
            symbol.awaited = None
        self._report(record.place, event, faults)

    def _extend_run(
        self, symbol: _Symbol, event: Event, record: Record
    ) -> tuple[_Run, list[str]]:
        """Add an event to its run, or begin another. Return the run and the faults."""
        run = symbol.open_runs.get(record.partition)
        if run is not None and event.sequence <= run.last.sequence:
            return run, [_wrong_order(run.last, event)]
        if run is not None and event.sequence == run.last.sequence + 1:
            faults = self._successor_faults(run, event)
            run.add(event)
            return run, faults

        # The first one here, or after a gap that events of another partition may fill.
        run = _Run.of(event, record)
        symbol.runs.append(run)
        symbol.open_runs[record.partition] = run
        return run, []

    def _join(self, name: str, symbol: _Symbol) -> None:
        """Check that the runs of a symbol follow each other, and find its last event."""
        last: _Run | None = None
        runs = sorted(symbol.runs, key=lambda run: run.first.sequence)
        self._moved.set_path(name, [run.partition for run in runs])
        for run in runs:
            first = run.first
            faults = []
            if last is not None and first.sequence == last.last.sequence + 1:
                faults = self._successor_faults(last, first)
            elif last is not None:
                faults.append(_wrong_order(last.last, first))
                if (first.computed_at or 0) < last.computed_at:
                    faults.append("computed_at goes back")
            # If retention has deleted the predecessor, `before` has nothing to agree with.
            elif first.sequence == 1 and compare(None, first.before, self._rules):
                faults.append(_WRONG_BEFORE)
            self._report(run.place, first, faults)
            if last is None or run.last.sequence > last.last.sequence:
                last = run

        if last is not None:
            symbol.first_sequence = min(run.first.sequence for run in symbol.runs)
            symbol.event = last.last
            symbol.published = last.published
        symbol.runs.clear()
        symbol.open_runs.clear()

    def _judge_moved(self, topic: str, partitions: int) -> None:
        """Tell symbols that moved when partitions were added from misplaced records."""
        judgement = self._moved.judge(partitions)
        for fault in judgement.faults:
            self._totals.add_fault(fault)
        if judgement.moved:
            counts = " and ".join(map(str, judgement.earlier))
            self._totals.add_note(
                f"topic {topic} has {partitions} partitions and seems to have had {counts} "
                f"before; symbols that have moved: {', '.join(judgement.moved)}"
            )

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
        """Return faults of the record's key and topic."""
        faults = []
        if record.key != value.symbol.encode():
            faults.append("the record key is not the symbol")
        if value.feed != self._feed:
            faults.append(f"the record is in the topic of feed {self._feed}")
        return faults

    def _is_home(self, record: Record, value: Event | State) -> bool:
        partitions = self._log.partitions[record.topic]
        return record.partition == partition_of(value.symbol, partitions)

    def _successor_faults(self, run: _Run, event: Event) -> list[str]:
        """Return the promises that an event breaks towards its predecessor."""
        faults = []
        if event.computed_at is not None and event.computed_at < run.computed_at:
            faults.append("computed_at goes back")
        if compare(run.published, event.before, self._rules):
            faults.append(_WRONG_BEFORE)
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

    def _report(self, place: str, value: Event | State, faults: list[str]) -> None:
        name = f"{value.feed}/{value.symbol} #{value.sequence}"
        for fault in faults:
            self._totals.add_fault(f"{name}: {fault} ({place})")


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


def _published(event: Event) -> Levels | None:
    # Events without levels, such as MISSING, carry the levels they end in `before`.
    return event.before if event.after is None else event.after


def _wrong_order(last: Event, event: Event) -> str:
    is_gap = event.sequence > last.sequence
    problem = "gap in the sequence" if is_gap else "duplicate or out of order"
    return f"{problem}: it follows #{last.sequence}"


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
        return (
            f"{first}, although retention has deleted nothing: was the topic deleted and "
            "created again?"
        )

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
