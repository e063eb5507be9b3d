"""Reads the events of a period in the order in which they were observed."""

from __future__ import annotations

from heapq import merge
from operator import attrgetter
from typing import TYPE_CHECKING, Final

from connector.kafka.events import END, Strays

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator, Mapping

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

    They come in the order of `observed_at`. That is also their order per symbol, even if
    partitions were added and the symbol has moved. No `symbols` means all of them. Skips
    strays. Raises KafkaUnavailable.
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
    for event in merge(*streams, key=attrgetter("observed_at")):
        if event.observed_at in period:
            yield event


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
