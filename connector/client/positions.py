"""Finds the events that follow stored sequences, from the end of `changes` backwards."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Final

from connector.client.errors import EventsMissing, KafkaUnreachable
from connector.client.kafka import (
    assigned,
    is_end,
    offset_of,
    partition_of,
    sequence_of,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    import confluent_kafka as ck

    from connector.client.kafka import Feed, Partition

# Offsets of each partition that are read first, and how much further back it goes then.
_FIRST_OFFSETS: Final = 1000
_GROWTH: Final = 4
_WAIT_SECONDS: Final = 0.2
_STALLED_SECONDS: Final = 90


def positions_of(
    wanted: Mapping[str, range],
    feed: Feed,
    consumer: ck.Consumer,
    ends: Mapping[Partition, int],
    stopped: Callable[[], bool],
) -> dict[Partition, int]:
    """Return offsets from which the `wanted` sequences of each symbol can be read.

    It looks for all of them, not only for the first: if partitions were added, the others
    may be further back in another partition. Only the headers of records are looked at.
    Nothing is read from `ends` on.

    Raises EventsMissing if a first sequence is not in the topic any more, and ClientError.
    """
    lows = {partition: feed.low(consumer, partition) for partition in ends}
    missing = {symbol: set(sequences) for symbol, sequences in wanted.items()}
    starts = dict(ends)
    length = _FIRST_OFFSETS
    while missing and starts != lows and not stopped():
        before = starts
        starts = {}
        for partition, end in ends.items():
            starts[partition] = max(lows[partition], end - length)
        between = starts, before
        for symbol, sequence in _found(missing, feed, consumer, between, stopped):
            missing[symbol].discard(sequence)
            if not missing[symbol]:
                del missing[symbol]
        length *= _GROWTH

    deleted = {}
    for symbol, sequences in missing.items():
        # A later one may be behind `ends`.
        if wanted[symbol].start in sequences:
            deleted[symbol] = wanted[symbol].start
    if deleted and not stopped():
        raise _deleted(deleted, feed)
    return starts


def _found(
    wanted: Mapping[str, set[int]],
    feed: Feed,
    consumer: ck.Consumer,
    between: tuple[Mapping[Partition, int], Mapping[Partition, int]],
    stopped: Callable[[], bool],
) -> set[tuple[str, int]]:
    """Return the wanted symbols and sequences that are between two positions."""
    starts, ends = between
    unfinished = {place for place in ends if starts[place] < ends[place]}
    consumer.assign(assigned({place: starts[place] for place in unfinished}))
    found = set()
    progress_at = time.monotonic()
    while unfinished and not stopped():
        for message in feed.take(consumer, _WAIT_SECONDS):
            partition = partition_of(message)
            # The others may go on while an open transaction holds this one back.
            if partition in unfinished:
                progress_at = time.monotonic()
            if not is_end(message):
                named = sequence_of(message)
                if named is not None and named[1] in wanted.get(named[0], ()):
                    found.add(named)
            after = offset_of(message) + (0 if is_end(message) else 1)
            if after >= ends.get(partition, 0):
                unfinished.discard(partition)
        if unfinished and time.monotonic() - progress_at > _STALLED_SECONDS:
            topic, number = min(unfinished)
            raise KafkaUnreachable(
                f"looking for stored sequences in {topic}-{number}: nothing came for "
                f"{_STALLED_SECONDS} s; if `gex-connector check` names an open transaction "
                "there, end it"
            )
    return found


def _deleted(missing: Mapping[str, int], feed: Feed) -> EventsMissing:
    shown = []
    for symbol, sequence in sorted(missing.items()):
        shown.append(f"{symbol} {sequence}")
    return EventsMissing(
        f"{feed.changes} does not have these events any more: {', '.join(shown)}; "
        "retention has deleted them, or the topic was created again; act on the present "
        "views, then follow without these stored sequences",
        dict(missing),
    )
