"""Kafka's own topics for transactions and groups, which a new broker does not have yet.

It creates them for the first transaction and the first group. On a busy machine that can take
longer than a program waits.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import confluent_kafka as ck

from tests.support.processes import PATIENCE_SECONDS

if TYPE_CHECKING:
    from tests.support.checker import Brokers


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
    try:
        consumer.committed([ck.TopicPartition("any", 0)], PATIENCE_SECONDS)
    finally:
        consumer.close()
