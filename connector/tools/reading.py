"""Clients and decoders for the commands that read the topics."""

from __future__ import annotations

from typing import TYPE_CHECKING

from connector.config.load import load_feeds, load_kafka
from connector.core.model import Value
from connector.kafka.avro import Codec
from connector.kafka.clients import Clients
from connector.kafka.event_stream import Events
from connector.kafka.events import Log
from connector.kafka.framing import framing_of
from connector.kafka.names import Topics
from connector.logs import configure

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from connector.kafka.event_stream import StateObserver


class ReaderContext(Value, frozen=True):
    """Kafka clients, topic names, and the decoder of their values."""

    clients: Clients
    topics: Topics
    codec: Codec

    def log(self, feed: str | None) -> Log:
        """Return the topics of one feed, or of all. Raises KafkaUnavailable."""
        return Log(self.clients, self.topics, feed)

    def quarantine_log(self) -> Log:
        """Return the topics below the prefix, which may be none of a feed.

        Raises KafkaUnavailable.
        """
        return Log(self.clients, self.topics, needs_feed=False)

    def events(
        self,
        feed: str | None,
        *,
        from_beginning: bool,
        states: StateObserver | None = None,
    ) -> Events:
        """Return the events of one feed, or of all. Raises KafkaUnavailable."""
        return Events(
            self.clients,
            self.topics,
            self.codec,
            from_beginning=from_beginning,
            feed=feed,
            states=states,
        )


def open_reader(path: Path | None, environ: Mapping[str, str]) -> ReaderContext:
    """Build a reader from the configuration, and log to standard error.

    Raises ConfigError, and SetupError if the registry client is not installed.
    """
    kafka, registry = load_kafka(path, environ)

    def secrets() -> tuple[str, ...]:
        return (*kafka.secrets(), *registry.secrets())

    # Only warnings: the output of the command is the point, and goes to the same terminal.
    configure("WARNING", secrets=secrets)
    codec = Codec(framing_of(registry))
    return ReaderContext(Clients(kafka), Topics(kafka.topic_prefix), codec)


def ignored_paths(
    path: Path | None, environ: Mapping[str, str]
) -> dict[str, tuple[str, ...]]:
    """Return the `ignore` list of each configured feed. Raises ConfigError.

    The result is empty if this configuration has no feeds.
    """
    return {feed.name: feed.ignore for feed in load_feeds(path, environ)}


class EventFilter(Value, frozen=True):
    """The events to show. An empty set lets every value pass."""

    symbols: frozenset[str] = frozenset()
    kinds: frozenset[str] = frozenset()
    statuses: frozenset[str] = frozenset()

    def matches(self, symbol: str, kind: str | None, status: str) -> bool:
        """Return True if such an event is to be shown."""
        if self.symbols and symbol not in self.symbols:
            return False
        if self.kinds and kind not in self.kinds:
            return False
        return not self.statuses or status in self.statuses
