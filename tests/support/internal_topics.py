"""Kafka's own topics for transactions and groups, which a new broker does not have yet.

It creates them for the first transaction and the first group. On a busy machine that can take
longer than a program waits.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import confluent_kafka as ck

from tests.support.processes import PATIENCE_SECONDS, wait_until

if TYPE_CHECKING:
    from tests.support.checker import Brokers

_REQUEST_SECONDS = 10


def create_internal_topics(kafka: Brokers) -> None:
    """Let a broker create its internal topics, and wait until they are usable."""
    settings = {"bootstrap.servers": kafka.bootstrap_servers}
    producer = ck.Producer(
        {
            **settings,
            "transactional.id": "internal-topics",
            # The brokers of some tests refuse the default.
            "transaction.timeout.ms": 10_000,
        }
    )
    producer.init_transactions(PATIENCE_SECONDS)

    # The group is only asked about, so that it does not come to be.
    consumer = ck.Consumer({**settings, "group.id": "internal-topics"})

    def is_answered() -> bool:
        # The broker refuses the question until it has loaded the new topic.
        try:
            consumer.committed([ck.TopicPartition("any", 0)], _REQUEST_SECONDS)
        except ck.KafkaException:
            return False
        return True

    try:
        wait_until(is_answered, "the broker has its topic for groups")
    finally:
        consumer.close()
