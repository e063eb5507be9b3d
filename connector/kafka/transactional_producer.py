"""Producers of transactions, which connect before they look for their coordinator."""

from __future__ import annotations

from contextlib import suppress
from typing import TYPE_CHECKING, Final

import confluent_kafka as ck

from connector.kafka.errors import new_client

if TYPE_CHECKING:
    from connector.kafka.clients import Settings

# A broker that answers at all nearly always takes less.
_CONNECT_SECONDS: Final = 1


def transactional_producer(settings: Settings, topic: str | None) -> ck.Producer:
    """Return a producer for `init_transactions`, connected unless no broker answers.

    It asks for `topic`, which brokers may create if it does not exist. With None it asks for
    all topics, which costs megabytes on a large cluster. Raises as `new_client` does.
    """
    producer = new_client(ck.Producer, settings)
    # Any request connects. Without a connection librdkafka looks for the coordinator, fails,
    # and looks again after half a second.
    with suppress(ck.KafkaException):
        if topic is None:
            producer.list_topics(timeout=_CONNECT_SECONDS)
        else:
            producer.list_topics(topic, timeout=_CONNECT_SECONDS)
    return producer
