"""Asks Kafka for a sign of life."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import confluent_kafka as ck

from connector.errors import KafkaUnavailable, UnusableFile
from connector.kafka.clients import PROBE_TIMEOUT_SECONDS
from connector.kafka.errors import kafka_error, new_client, serve_callbacks

if TYPE_CHECKING:
    from connector.kafka.clients import Clients


class Probe:
    """A client that asks for the metadata of one topic, and nothing else.

    A standby sends only heartbeats, and librdkafka does not tell their fate. A consumer,
    since the metadata requests of a producer can create the topic. Use it from one thread
    at a time.
    """

    def __init__(self, clients: Clients, topic: str) -> None:
        """The topic need not exist."""
        self._clients = clients
        self._topic = topic
        self._consumer: ck.Consumer | None = None

    def ask(self) -> None:
        """Ask, and tell the clients' `reachability`. Blocks for a few seconds at most."""
        asked_at = time.monotonic()
        if self._consumer is None:
            # Not at the start, which has no time to spare.
            try:
                self._consumer = new_client(ck.Consumer, self._clients.probe())
            except UnusableFile:
                # This says nothing about Kafka. Clients that exist go on.
                return
            except KafkaUnavailable as unavailable:
                waited_seconds = time.monotonic() - asked_at
                self._clients.reachability.silent(str(unavailable), waited_seconds)
                return
        try:
            self._consumer.list_topics(self._topic, timeout=PROBE_TIMEOUT_SECONDS)
        except ck.KafkaException as exception:
            # The reason comes by callback: the call itself knows only that it timed out.
            serve_callbacks(self._consumer)
            error = kafka_error(exception).str()
            self._clients.reachability.silent(error, time.monotonic() - asked_at)
        else:
            serve_callbacks(self._consumer)
            self._clients.reachability.reached()
