"""What reading the topics takes, from the configuration."""

from __future__ import annotations

from typing import TYPE_CHECKING

from connector.config.load import load_feeds, load_kafka
from connector.core.model import Value
from connector.kafka.avro import Codec
from connector.kafka.clients import Clients
from connector.kafka.events import Events, Log
from connector.kafka.framing import framing_of
from connector.kafka.names import Topics
from connector.logs import configure

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path


class ReaderContext(Value, frozen=True):
    """Clients, the names of the topics, and how their values are decoded."""

    clients: Clients
    topics: Topics
    codec: Codec

    def log(self, feed: str | None) -> Log:
        """The topics of all feeds or of one. Raises KafkaUnavailable."""
        return Log(self.clients, self.topics, feed)

    def events(self, feed: str | None, *, from_beginning: bool) -> Events:
        """The events of all feeds or of one. Raises KafkaUnavailable."""
        return Events(
            self.clients,
            self.topics,
            self.codec,
            from_beginning=from_beginning,
            feed=feed,
        )


def opened(path: Path | None, environ: Mapping[str, str]) -> ReaderContext:
    """To read with; logs to standard error. Raises ConfigError, SetupError."""
    kafka, registry = load_kafka(path, environ)
    configure(
        "WARNING", secrets=lambda: (*kafka.client.secrets(), *registry.client.secrets())
    )
    return ReaderContext(
        Clients(kafka), Topics(kafka.topic_prefix), Codec(framing_of(registry))
    )


def ignored(
    path: Path | None, environ: Mapping[str, str]
) -> dict[str, tuple[str, ...]]:
    """What each configured feed ignores; nothing where feeds are not configured here. Raises ConfigError."""
    return {feed.name: feed.ignore for feed in load_feeds(path, environ)}
