"""Topics and partitions that a test makes, and may use at once.

Kafka confirms a new partition, and its metadata name the leader, a moment before the leader
itself knows. Until then it answers with NOT_LEADER_FOR_PARTITION.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import confluent_kafka as ck
import confluent_kafka.admin as admin_api

from tests.support.processes import PATIENCE_SECONDS, wait_until

if TYPE_CHECKING:
    from collections.abc import Mapping

    from tests.support.checker import Brokers

_REQUEST_SECONDS = 10
_LATEST = admin_api.OffsetSpec.latest()  # type: ignore[no-untyped-call]  # the client's


def create_topics(kafka: Brokers, *topics: admin_api.NewTopic) -> None:
    """Create topics, and wait until every partition of them is usable."""
    admin = _admin(kafka)
    for future in admin.create_topics(list(topics)).values():
        future.result(PATIENCE_SECONDS)
    counts = {}
    for topic in topics:
        # An assignment of replicas tells the number of partitions by itself.
        counts[topic.topic] = len(topic.replica_assignment or ()) or (
            topic.num_partitions
        )
    _wait_until_usable(admin, counts)


def add_partitions(kafka: Brokers, topic: str, total: int) -> None:
    """Let a topic have `total` partitions, and wait until all of them are usable."""
    admin = _admin(kafka)
    added = admin.create_partitions([admin_api.NewPartitions(topic, total)])
    added[topic].result(PATIENCE_SECONDS)
    _wait_until_usable(admin, {topic: total})


def _admin(kafka: Brokers) -> admin_api.AdminClient:
    servers = {"bootstrap.servers": kafka.bootstrap_servers}
    # librdkafka notes every change of the number of partitions.
    return admin_api.AdminClient({**servers, "log_level": 4})


def _wait_until_usable(admin: admin_api.AdminClient, counts: Mapping[str, int]) -> None:
    def are_usable() -> bool:
        return all(_is_usable(admin, topic, count) for topic, count in counts.items())

    wait_until(are_usable, f"every partition of {', '.join(counts)} is usable")


def _is_usable(admin: admin_api.AdminClient, topic: str, count: int) -> bool:
    """Return True if a topic has `count` partitions, and the leader of each answers."""
    try:
        # Otherwise librdkafka goes on with the metadata that it has.
        metadata = admin.list_topics(topic, timeout=_REQUEST_SECONDS)
        if len(metadata.topics[topic].partitions) < count:
            return False
        wanted = {}
        for number in range(count):
            wanted[ck.TopicPartition(topic, number)] = _LATEST
        ends = admin.list_offsets(wanted, request_timeout=_REQUEST_SECONDS)
        for end in ends.values():
            end.result(2 * _REQUEST_SECONDS)
    except ck.KafkaException:
        return False
    return True
