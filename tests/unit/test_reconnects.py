"""Clients that reach no broker connect again after a pause."""

from __future__ import annotations

import socket
import time

import confluent_kafka as ck

from connector.config.model import Kafka
from connector.kafka.clients import Clients

CONNECTIONS = 20
# librdkafka's default pauses for 50 ms. With a shorter `reconnect.backoff.ms` it pauses for
# half of that, but for 11 ms at least.
LEAST_PAUSE_SECONDS = 0.04
PATIENCE_SECONDS = 30


def test_a_consumer_does_not_connect_without_a_pause() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.settimeout(PATIENCE_SECONDS)
        port = listener.getsockname()[1]
        clients = Clients(Kafka(bootstrap_servers=f"127.0.0.1:{port}"))
        consumer = ck.Consumer(clients.probe())
        listener.accept()[0].close()
        began_at = time.monotonic()
        for _ in range(CONNECTIONS):
            # Like a proxy whose brokers are away.
            listener.accept()[0].close()
        seconds = time.monotonic() - began_at
        consumer.close()

    # A busy machine makes the pauses longer, and nothing makes them shorter.
    assert seconds > LEAST_PAUSE_SECONDS * CONNECTIONS
