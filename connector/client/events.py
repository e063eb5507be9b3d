"""Streams of events, each read by the thread that iterates it."""

from __future__ import annotations

import threading
from collections import deque
from typing import TYPE_CHECKING, Final, Self

import confluent_kafka as ck

from connector.client.errors import ClientStopped, EventsMissing, TopicReplaced
from connector.client.kafka import (
    assigned,
    is_end,
    place_of,
    sequence_of,
    value_of,
)
from connector.client.positions import positions_of
from connector.client.sequences import SequenceKeeper
from connector.client.values import located

if TYPE_CHECKING:
    from collections.abc import Mapping
    from types import TracebackType

    from connector.client.kafka import Feed
    from connector.client.store import Store
    from connector.client.values import ValueDecoder
    from connector.client.views import SymbolView
    from connector.core.model import Event

_WAIT_SECONDS: Final = 0.2


class EventStream:
    """Every event of a feed after a moment: each once, in order per symbol.

    Iterate it, or call `next_event`. It reads `changes` itself, with a consumer of its own.
    So a slow program loses no event and slows nothing else, as long as it is faster than
    retention. Use it in one thread at a time.

    When an event is delivered, the view of its symbol is not older than the event.
    """

    def __init__(
        self,
        feed: Feed,
        decoder: ValueDecoder,
        store: Store,
        *,
        after: Mapping[str, int],
        patience_seconds: float,
    ) -> None:
        """Raises ClientError."""
        self._feed = feed
        self._decoder = decoder
        self._store = store
        self._patience_seconds = patience_seconds
        self._start = store.start()
        # The stored sequences count, then those of the views.
        known = {symbol: view.sequence for symbol, view in self._start.views.items()}
        wanted = _wanted(after, known)
        self._keeper = SequenceKeeper({**known, **after})
        # What was fetched. A message stays here until it was looked at without an error.
        self._fetched: deque[ck.Message] = deque()
        self._ready: deque[Event] = deque()
        # Closing while another thread reads would crash.
        self._lock = threading.Lock()
        self._is_closed = False
        self._consumer = feed.consumer()
        try:
            self._assign(wanted)
        except BaseException:
            self._consumer.close()
            raise

    @property
    def start(self) -> Mapping[str, SymbolView]:
        """Return the views that the events follow, except for stored sequences."""
        return self._start.views

    def next_event(self, timeout: float) -> Event | None:
        """Return the next event, or None if there is none within `timeout` seconds.

        Raises ClientError; ClientStopped if the stream or the client is closed.
        """
        clock = self._store.clocks.monotonic
        deadline = clock() + timeout
        while True:
            self._store.check_generation(self._start.generation)
            if self._is_closed:
                raise ClientStopped("the stream is closed: ask for events() again")
            if self._ready:
                return self._deliver()
            left = deadline - clock()
            self._read(max(0.0, min(left, _WAIT_SECONDS)))
            if left <= 0 and not self._ready:
                return None

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> Event:
        """Wait for the next event. The stream ends when it or the client is closed."""
        event: Event | None = None
        while event is None:
            try:
                event = self.next_event(_WAIT_SECONDS)
            except ClientStopped:
                if not self._is_closed and not self._store.is_closed:
                    raise
                self.close()
                raise StopIteration from None
        return event

    def close(self) -> None:
        """Close the stream's consumer. Safe to call from any thread, and again."""
        with self._lock:
            if not self._is_closed:
                self._is_closed = True
                self._consumer.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def _assign(self, wanted: Mapping[str, range]) -> None:
        positions = dict(self._start.positions)
        if wanted:
            # The views may be ahead of the positions.
            ends = self._feed.ends(self._consumer, self._feed.changes)
            found = positions_of(
                wanted,
                self._feed,
                self._consumer,
                ends,
                lambda: self._store.is_stopped,
            )
            for partition, offset in found.items():
                positions[partition] = min(offset, positions.get(partition, offset))
        self._partitions = set(positions)
        self._consumer.assign(assigned(positions))

    def _deliver(self) -> Event:
        event = self._ready[0]
        self._store.wait_for_sequence(
            event.symbol, event.sequence, self._start.generation
        )
        return self._ready.popleft()

    def _read(self, wait_seconds: float) -> None:
        """Read what is there. After an error, the next call tries that record again."""
        with self._lock:
            if self._is_closed:
                return
            self._read_added_partitions()
            if not self._fetched:
                self._fetched.extend(self._feed.take(self._consumer, wait_seconds))
        now = self._store.clocks.monotonic()
        while self._fetched:
            message = self._fetched[0]
            if not is_end(message) and self._is_wanted(message):
                with located(place_of(message)):
                    event = self._decoder.event(value_of(message))
                self._ready.extend(self._keeper.offer(event, now))
            self._fetched.popleft()
        gap = self._keeper.gap(now, self._patience_seconds)
        if gap is not None and not self._ready:
            raise EventsMissing(
                f"event {gap.expected} of {gap.symbol} has not come within "
                f"{self._patience_seconds:g} s, although {gap.seen} has; act on the "
                "present views, then ask for events() again",
                {gap.symbol: gap.expected},
            )

    def _is_wanted(self, message: ck.Message) -> bool:
        if not self._feed.is_ours(message):
            return False
        # Decoding costs fifty times as much as a look at the headers.
        named = sequence_of(message)
        return named is None or named[1] > self._keeper.known.get(named[0], 0)

    def _read_added_partitions(self) -> None:
        added = set(self._store.partitions(self._feed.changes)) - self._partitions
        if added:
            self._partitions |= added
            beginning = dict.fromkeys(added, ck.OFFSET_BEGINNING)
            self._consumer.incremental_assign(assigned(beginning))


def _wanted(after: Mapping[str, int], known: Mapping[str, int]) -> dict[str, range]:
    """Return the sequences that each symbol is behind with. Raises TopicReplaced."""
    wanted = {}
    for symbol, sequence in after.items():
        last = known.get(symbol, 0)
        if sequence > last:
            raise TopicReplaced(
                f"the stored sequence of {symbol} is {sequence}, but its last event is "
                f"{last}: the topics were created again, or it is another feed; follow "
                "without stored sequences, and act on the present views first"
            )
        if sequence < last:
            wanted[symbol] = range(sequence + 1, last + 1)
    return wanted
