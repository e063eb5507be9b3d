"""The figures that librdkafka really gives, from clients on its own mock cluster."""

from __future__ import annotations

from confluent_kafka import Consumer, Producer

from connector.telemetry.kafka_stats import Statistics, decode

QUIET = {"statistics.interval.ms": 10, "log_level": 0}


def test_a_group_members_connections_are_understood() -> None:
    cluster = Producer({**QUIET, "test.mock.num.brokers": 1})
    [broker] = cluster.list_topics(timeout=10).brokers.values()
    told: list[Statistics] = []
    address = {"bootstrap.servers": f"{broker.host}:{broker.port}", "group.id": "group"}
    consumer = Consumer(
        {**QUIET, **address, "stats_cb": lambda text: told.append(decode(text))}
    )
    consumer.subscribe(["topic"])
    while not {"1", "coordinator"} <= (
        shown := {node for statistics in told for node in statistics.rtt_seconds}
    ):
        consumer.poll(1)
    assert shown == {"1", "coordinator"}
    assert max(statistics.brokers_up for statistics in told) == 1
    assert all(
        0 < seconds < 60
        for statistics in told
        for seconds in statistics.rtt_seconds.values()
    )
    consumer.close()
