"""The records of the run's feed, decoded."""

from __future__ import annotations

from collections import defaultdict
from typing import TYPE_CHECKING

from tests.support import checker

if TYPE_CHECKING:
    from connector.core.model import Event, State
    from connector.kafka.avro import Codec
    from connector.kafka.names import Topics
    from tests.chaos.evidence import States


class FeedRecords:
    """Reads the topics of a feed, by clients that no fault of the network touches."""

    def __init__(
        self, brokers: checker.Brokers, names: Topics, feed: str, codec: Codec
    ) -> None:
        self._brokers = brokers
        self._names = names
        self._feed = feed
        self._codec = codec

    def events(self) -> list[Event]:
        """Return every committed event, partition by partition."""
        found = []
        for record in checker.records(self._brokers, self._names.changes(self._feed)):
            found.append(self._codec.decode_event(record.value))
        return found

    def states(self) -> States:
        """Return the offset and the state of every committed record, by partition."""
        found: dict[int, list[tuple[int, State]]] = defaultdict(list)
        for record in checker.records(self._brokers, self._names.current(self._feed)):
            state = self._codec.decode_state(record.value)
            found[record.partition].append((record.offset, state))
        return found

    def quarantined(self) -> list[checker.Record]:
        """Return every quarantined entry."""
        return checker.records(self._brokers, self._names.quarantine)
