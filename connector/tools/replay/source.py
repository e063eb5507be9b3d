"""The events of a replay: those of a file, or those of a period in Kafka."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

from connector.tools.past_events import ends_of, read_events
from connector.tools.replay.event_file import read_event_file
from connector.tools.replay.target import Sizes

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator, Mapping
    from pathlib import Path

    from connector.config.model import Kafka
    from connector.core.model import Event
    from connector.kafka.events import Log
    from connector.tools.period import Period
    from connector.tools.reading import ReaderContext


class Source(Protocol):
    """The events of a replay. They are read twice: to look through them, and to publish."""

    def events(self) -> Iterator[Event]:
        """Yield the events in the order of time.

        Raises UsageError and KafkaUnavailable.
        """

    def sizes(self, feeds: Collection[str]) -> Mapping[str, Sizes]:
        """Return the number of partitions that each feed's topics are to have.

        Raises KafkaUnavailable.
        """


class FileSource:
    """The events of a file. No `symbols` means all of them.

    A file does not say how many partitions its topics had, so the configuration does.
    """

    def __init__(
        self,
        path: Path,
        kafka: Kafka,
        *,
        feed: str | None,
        symbols: Collection[str],
        period: Period | None,
    ) -> None:
        self._path = path
        self._size = Sizes(kafka.partitions, kafka.shards)
        self._feed = feed
        self._symbols = symbols
        self._period = period

    def events(self) -> Iterator[Event]:
        """Yield the events that were asked for. Raises UsageError."""
        for event in read_event_file(self._path):
            if self._is_wanted(event):
                yield event

    def sizes(self, feeds: Collection[str]) -> Mapping[str, Sizes]:
        """Return the configured numbers for each feed."""
        return dict.fromkeys(feeds, self._size)

    def _is_wanted(self, event: Event) -> bool:
        if self._feed is not None and event.feed != self._feed:
            return False
        if self._symbols and event.symbol not in self._symbols:
            return False
        return self._period is None or event.observed_at in self._period


class KafkaSource:
    """The events of a period in the topics of a connector."""

    def __init__(
        self,
        log: Log,
        reader: ReaderContext,
        *,
        symbols: Collection[str],
        period: Period,
    ) -> None:
        """Note where the topics end. Raises KafkaUnavailable."""
        self._log = log
        self._reader = reader
        self._symbols = symbols
        self._period = period
        # The connector goes on between the two readings.
        self._ends = ends_of(log, reader)

    def events(self) -> Iterator[Event]:
        """Yield the events. Raises KafkaUnavailable."""
        return read_events(
            self._log, self._reader, self._symbols, self._period, self._ends
        )

    def sizes(self, feeds: Collection[str]) -> Mapping[str, Sizes]:
        """Return the numbers that the connector's topics have. Raises KafkaUnavailable."""
        topics = self._reader.topics
        sizes = {}
        for feed in feeds:
            partitions = len(self._log.partitions_of(topics.changes(feed)))
            shards = len(self._log.partitions_of(topics.current(feed)))
            sizes[feed] = Sizes(partitions, shards)
        return sizes
