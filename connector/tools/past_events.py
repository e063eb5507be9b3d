"""Reads the events of a period in the order in which they were observed."""

from __future__ import annotations

from collections import defaultdict, deque
from heapq import heappop, heappush, merge
from operator import attrgetter
from typing import TYPE_CHECKING, Final

from connector.core.model import MICROS
from connector.kafka.events import END, Strays

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Iterator, Mapping

    from connector.core.model import Event
    from connector.kafka.events import Log, Record
    from connector.kafka.names import Partition
    from connector.tools.period import Period
    from connector.tools.reading import ReaderContext

# Records of one partition that wait in memory for the other partitions. An event takes one
# to five kilobytes.
_CHUNK_RECORDS: Final = 2_000

# A record may follow one that is younger by so much: the clocks of workers differ, and
# observations wait while Kafka is away.
_MAX_DISORDER_MS: Final = 3_600_000

# A worker whose clock is 300 s from the brokers' leaves its group, and two clocks may be wrong in
# opposite directions. The events of this time wait in memory.
_MAX_CLOCK_DIFFERENCE: Final = 2 * 300 * MICROS

# The events of each feed and symbol that wait, by sequence. The second number is unique.
_Waiting = dict[tuple[str, str], list[tuple[int, int, "Event"]]]


def ends_of(log: Log, reader: ReaderContext) -> dict[Partition, int]:
    """Return where the `changes` of a log's feeds end now. Raises KafkaUnavailable."""
    partitions = log.partitions_of(*[reader.topics.changes(feed) for feed in log.feeds])
    return log.offsets(partitions, END)


def read_events(
    log: Log,
    reader: ReaderContext,
    symbols: Collection[str],
    period: Period,
    ends: Mapping[Partition, int],
) -> Iterator[Event]:
    """Yield the committed events below `ends` that were observed in a period.

    They come in the order of `observed_at`, those of a symbol in the order of `sequence`.
    No `symbols` means all of them. Skips strays. Raises KafkaUnavailable.
    """
    # Record timestamps are `observed_at` in milliseconds, so Kafka finds the start. It cannot
    # find the end: the marks of commits count, too, and have the time of the commit.
    starts = log.offsets(ends, period.since // 1000)
    last_ms = period.until // 1000 + _MAX_DISORDER_MS

    keys = {symbol.encode() for symbol in symbols}
    strays = Strays()
    streams = []
    for partition in ends:
        # A negative offset means that no record is as young.
        if starts[partition] < 0:
            continue
        offsets = range(starts[partition], ends[partition])
        records = _read_in_chunks(log, partition, offsets, last_ms)
        streams.append(_decoded(records, keys, reader, strays))
    merged = merge(*streams, key=attrgetter("observed_at"))
    yield from in_sequence(event for event in merged if event.observed_at in period)


def in_sequence(events: Iterable[Event]) -> Iterator[Event]:
    """Yield events in the same order, except that a symbol's sequences never go back.

    After partitions were added, a symbol's next events are in another partition. If their
    worker's clock is behind that of the worker before, they seem older than the last events
    in the former partition. A symbol then has its turns at the same places, but at each of
    them the smallest of its sequences that wait is yielded.
    """
    turns: deque[Event] = deque()
    waiting: _Waiting = defaultdict(list)
    for number, event in enumerate(events):
        turns.append(event)
        heappush(waiting[event.feed, event.symbol], (event.sequence, number, event))
        while turns[0].observed_at < event.observed_at - _MAX_CLOCK_DIFFERENCE:
            yield _next_of(turns.popleft(), waiting)
    for turn in turns:
        yield _next_of(turn, waiting)


def _next_of(turn: Event, waiting: _Waiting) -> Event:
    _, _, event = heappop(waiting[turn.feed, turn.symbol])
    return event


def _read_in_chunks(
    log: Log, partition: Partition, offsets: range, last_ms: int
) -> Iterator[Record]:
    """Yield the records of one partition, up to one that is younger than `last_ms`.

    In between, the log may read other partitions.
    """
    for at in offsets[::_CHUNK_RECORDS]:
        end = min(at + _CHUNK_RECORDS, offsets.stop)
        for record in list(log.read({partition: at}, {partition: end})):
            if record.timestamp_ms > last_ms:
                return
            yield record


def _decoded(
    records: Iterator[Record],
    keys: Collection[bytes],
    reader: ReaderContext,
    strays: Strays,
) -> Iterator[Event]:
    for record in records:
        # Other symbols share the partition; do not decode their events.
        if keys and record.key not in keys:
            continue
        event = strays.decoded(record, reader.codec.decode_event)
        if event is not None:
            yield event
