"""The figures that librdkafka really gives, from a client on its own mock cluster."""

from __future__ import annotations

import json

from confluent_kafka import Producer

from connector.runtime.kafka_stats import KafkaStats, Totals


def test_real_statistics_are_understood() -> None:
    stats = KafkaStats()
    told: list[Totals] = []
    seen: set[str] = set()

    def take(text: str) -> None:
        totals = stats.update(text)
        assert totals is not None
        told.append(totals)
        seen.update(f"{b['nodeid']}" for b in json.loads(text)["brokers"].values() if b["rtt"]["cnt"])

    client = {"test.mock.num.brokers": 1, "statistics.interval.ms": 10, "linger.ms": 200_000, "log_level": 0}
    producer = Producer({**client, "stats_cb": take})
    producer.produce("topic", b"value")
    while not any(totals.queue_messages == 1 for totals in told):
        producer.poll(1)
    assert max(totals.queue_bytes for totals in told) == len(b"value")
    assert producer.flush(30) == 0
    while not (told[-1].brokers_up and told[-1].queue_messages == 0 and any(totals.rtt_seconds for totals in told)):
        producer.poll(1)
    assert {node for totals in told for node in totals.rtt_seconds} == {"1"} == seen - {"-1"}
    assert all(0 < seconds < 60 for totals in told for seconds in totals.rtt_seconds.values())
