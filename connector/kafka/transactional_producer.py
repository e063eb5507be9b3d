"""Producers of transactions, which connect before they look for their coordinator."""

from __future__ import annotations

import time
from contextlib import suppress
from typing import TYPE_CHECKING, Final

import confluent_kafka as ck

from connector.kafka.errors import new_client

if TYPE_CHECKING:
    from connector.kafka.clients import Settings

# A broker that answers at all nearly always takes less.
_CONNECT_SECONDS: Final = 1
_PAUSE_SECONDS: Final = 0.01
# librdkafka's id of a broker of which it knows only the address.
_BOOTSTRAP_ID: Final = -1


def transactional_producer(settings: Settings, topic: str | None) -> ck.Producer:
    """Return a producer for `init_transactions`, connected unless no broker answers.

    It asks for `topic`, which brokers may create if it does not exist. With None it asks for
    all topics, which costs megabytes on a large cluster. Raises as `new_client` does.
    """
    producer = new_client(ck.Producer, settings)
    with suppress(ck.KafkaException):
        _connect(producer, topic)
    return producer


def _connect(producer: ck.Producer, topic: str | None) -> None:
    """Wait until a broker has answered over a connection that stays, or a second.

    Without one librdkafka looks for the coordinator, fails, and looks again after half a
    second. The first answer may come over a bootstrap connection, which librdkafka closes
    as soon as it knows the brokers. Raises KafkaException.
    """
    deadline = time.monotonic() + _CONNECT_SECONDS
    while time.monotonic() < deadline:
        if topic is None:
            answer = producer.list_topics(timeout=_CONNECT_SECONDS)
        else:
            answer = producer.list_topics(topic, timeout=_CONNECT_SECONDS)
        if answer.orig_broker_id != _BOOTSTRAP_ID:
            return
        time.sleep(_PAUSE_SECONDS)
