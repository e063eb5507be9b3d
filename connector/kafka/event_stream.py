"""The events of the feeds as they come, and the states if somebody wants them."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Final, Protocol

from connector.core.model import Event, State, Value
from connector.errors import KafkaUnavailable
from connector.kafka.events import BEGINNING, END, Log, Strays

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from connector.errors import KafkaError
    from connector.kafka.avro import Codec
    from connector.kafka.clients import Clients
    from connector.kafka.events import Record
    from connector.kafka.names import Partition, Topics

# A partition of `current` has a few symbols, and each refresh takes two offsets or three.
_LAST_STATE_OFFSETS: Final = 1000


class ReceivedEvent(Value, frozen=True):
    """An event, and the moment that this program received it."""

    event: Event
    received_at: int


class StateObserver(Protocol):
    """Hears of the states of the feeds whose events are read."""

    def note(self, state: State) -> None:
        """Note one of the last states, or one that was written just now."""

    def give_up(self, feed: str, error: KafkaError) -> None:
        """Note that no more states of a feed can be read. Its events still are."""


class Events:
    """The events of one feed, or of every feed. `log` has their topics."""

    def __init__(
        self,
        clients: Clients,
        topics: Topics,
        codec: Codec,
        *,
        from_beginning: bool,
        feed: str | None = None,
        states: StateObserver | None = None,
    ) -> None:
        """`states` hears of the last states, and of each one that is written.

        Raises KafkaUnavailable if the cluster does not answer or has no topic of events.
        """
        self._codec = codec
        self._names = topics
        self._states = states
        self._strays = Strays()
        self.log = Log(clients, topics, feed)
        self.topics = [topics.changes(name) for name in self.log.feeds]
        start = BEGINNING if from_beginning else END
        partitions = self.log.partitions_of(*self.topics)
        self._starts = dict.fromkeys(partitions, start)

    def until(self, stopped: Callable[[], bool]) -> Iterator[ReceivedEvent | None]:
        """Yield every event until `stopped()`, in order per symbol.

        If partitions were added to the topic, the events of a symbol that has moved are in
        two of them. Those that were there at the start are not in order then.

        Yields None if nothing came for 0.2 s, and after each state. Skips strays. Raises
        KafkaUnavailable.
        """
        starts = self._starts | self._starts_of_states()
        for record in self.log.follow(starts, stopped, self._may_lose):
            if record is None:
                yield None
                continue
            if not self._names.is_changes(record.topic):
                self._take_state(record)
                yield None
                continue
            event = self._strays.decoded(record, self._codec.decode_event)
            if event is not None:
                yield ReceivedEvent(event, time.time_ns() // 1000)

    def _starts_of_states(self) -> dict[Partition, int]:
        """Return where to read the last states: not from the beginning, which may be far."""
        starts: dict[Partition, int] = {}
        if self._states is None:
            return starts
        for feed in self.log.feeds:
            try:
                partitions = self.log.partitions_of(self._names.current(feed))
                bounds = self.log.bounds(partitions)
            except KafkaUnavailable as error:
                self._states.give_up(feed, error)
                continue
            for partition, (begin, end) in bounds.items():
                starts[partition] = max(begin, end - _LAST_STATE_OFFSETS)
        return starts

    def _may_lose(self, topic: str, error: KafkaError) -> bool:
        """Return True if the events can be read without a topic: that of the states."""
        for feed in self.log.feeds:
            if self._states is not None and topic == self._names.current(feed):
                self._states.give_up(feed, error)
                return True
        return False

    def _take_state(self, record: Record) -> None:
        state = self._strays.decoded(record, self._codec.decode_state)
        if state is not None and self._states is not None:
            self._states.note(state)

    def close(self) -> None:
        """Close the consumer."""
        self.log.close()
