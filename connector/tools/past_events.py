"""Reads the events of a period in the order in which they were observed."""

from __future__ import annotations

from heapq import merge
from operator import attrgetter
from typing import TYPE_CHECKING, Final

from connector.kafka.events import END, Strays

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator

    from connector.core.model import Event
    from connector.kafka.events import Log, Record
    from connector.kafka.names import Partition
    from connector.tools.period import Period
    from connector.tools.reading import ReaderContext

# Records of one partition that wait in memory for the other partitions. An event takes one
# to five kilobytes.
_CHUNK_RECORDS: Final = 2_000


def read_events(
    log: Log, reader: ReaderContext, symbols: Collection[str], period: Period
) -> Iterator[Event]:
    """Yield the committed events of a log's feeds that were observed in a period.

    They come in the order of `observed_at`. That is also their order per symbol, even if
    partitions were added and the symbol has moved. No `symbols` means all of them. Skips
    strays. Raises KafkaUnavailable.
    """
    partitions = log.partitions_of(*[reader.topics.changes(feed) for feed in log.feeds])
    # Record timestamps are `observed_at` in milliseconds, so Kafka finds both ends.
    starts = log.offsets(partitions, period.since // 1000)
    stops = log.offsets(partitions, period.until // 1000 + 1)
    ends = log.offsets(partitions, END)

    keys = {symbol.encode() for symbol in symbols}
    strays = Strays()
    streams = []
    for partition in partitions:
        start, stop = starts[partition], stops[partition]
        # A negative offset means that no record is as young.
        if start < 0:
            continue
        if stop < 0:
            stop = ends[partition]
        records = _read_in_chunks(log, partition, start, stop)
        streams.append(_decoded(records, keys, reader, strays))
    for event in merge(*streams, key=attrgetter("observed_at")):
        if event.observed_at in period:
            yield event


def _read_in_chunks(
    log: Log, partition: Partition, start: int, stop: int
) -> Iterator[Record]:
    """Yield the records of one partition. In between, the log may read others."""
    for at in range(start, stop, _CHUNK_RECORDS):
        end = min(at + _CHUNK_RECORDS, stop)
        yield from list(log.read({partition: at}, {partition: end}))


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
