"""Restores the states of a feed, and finds the place from which its events follow.

An event and the state after it are one transaction. Each partition learns of the commit by
itself, however, so a reader may see one before the other. To miss no event in between:

1. Note where the committed events of `changes` end (E). Only then note where `current`
   ends (H), open transactions included.
2. Read the committed records of `current` up to H. A transaction with an event below E has
   its state below H, because it was committed after all its records were written. So every
   change below E is restored.
3. Follow `changes` from E, and skip events that are not newer than the restored state.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Final

import confluent_kafka as ck
import msgspec

from connector.client.errors import KafkaUnreachable
from connector.client.kafka import (
    Partition,
    assigned,
    is_end,
    offset_of,
    partition_of,
    place_of,
    value_of,
)
from connector.client.values import located

if TYPE_CHECKING:
    from collections.abc import Callable

    from connector.client.kafka import Feed
    from connector.client.values import ValueDecoder
    from connector.core.model import State

_WAIT_SECONDS: Final = 0.2


class Restored(msgspec.Struct, frozen=True):
    """The last state of each symbol, and the ends of `changes` (E) to follow from."""

    states: dict[str, State]
    starts: dict[Partition, int]


def restore(
    feed: Feed,
    consumer: ck.Consumer,
    decoder: ValueDecoder,
    stopped: Callable[[], bool],
    *,
    start_seconds: float,
    patience_seconds: float,
) -> Restored:
    """Restore the states with a consumer, which then goes on to follow both topics.

    Raises ClientError; KafkaUnreachable if a broker does not tell the ends of a topic within
    `start_seconds`, or if there is no progress for `patience_seconds`.
    """
    starts = feed.ends(consumer, feed.changes, start_seconds)
    uncommitted = feed.consumer("read_uncommitted")
    try:
        ends = feed.ends(uncommitted, feed.current, start_seconds)
    finally:
        uncommitted.close()

    consumer.assign(assigned(dict.fromkeys(ends, ck.OFFSET_BEGINNING)))
    last = _read(feed, consumer, ends, stopped, patience_seconds)
    states: dict[str, State] = {}
    for message in last.values():
        with located(place_of(message)):
            state = decoder.state(value_of(message))
        known = states.get(state.symbol)
        # Another program may have copied an old state to another partition.
        if known is None or state.sequence >= known.sequence:
            states[state.symbol] = state
    consumer.incremental_assign(assigned(starts))
    return Restored(states, starts)


def _read(
    feed: Feed,
    consumer: ck.Consumer,
    ends: dict[Partition, int],
    stopped: Callable[[], bool],
    patience_seconds: float,
) -> dict[tuple[Partition, bytes], ck.Message]:
    """Return the last record of each partition and key that is committed below `ends`."""
    last: dict[tuple[Partition, bytes], ck.Message] = {}
    unfinished = set(ends)
    progress_at = time.monotonic()
    while unfinished and not stopped():
        for message in feed.take(consumer, _WAIT_SECONDS):
            partition = partition_of(message)
            # The others may go on while an open transaction holds this one back.
            if partition in unfinished:
                progress_at = time.monotonic()
            if not is_end(message) and feed.is_ours(message):
                last[partition, bytes(message.key() or b"")] = message
            # The end of a partition is reported again when a commit has moved it. In a busy
            # partition it may never be reported, but later records come.
            if offset_of(message) >= ends.get(partition, 0):
                unfinished.discard(partition)
        if unfinished and time.monotonic() - progress_at > patience_seconds:
            topic, number = min(unfinished)
            raise KafkaUnreachable(
                f"reading {topic}-{number}: nothing came for {patience_seconds:g} s; if "
                "`gex-connector check` names an open transaction there, end it"
            )
    return last
