"""The statistics that librdkafka really reports, from clients on its mock cluster."""

from __future__ import annotations

from confluent_kafka import Consumer, Producer

from connector.telemetry.kafka_stats import Statistics, decode

# Statistics every 10 ms keep the test short. The mock cluster would log to its output.
QUIET = {"statistics.interval.ms": 10, "log_level": 0}


def test_the_connections_of_a_group_member_are_decoded() -> None:
    # A producer with this option starts a mock cluster in its own process.
    cluster = Producer({**QUIET, "test.mock.num.brokers": 1})
    [broker] = cluster.list_topics(timeout=60).brokers.values()
    received: list[Statistics] = []

    def take(text: str) -> None:
        received.append(decode(text))

    consumer = Consumer(
        {
            **QUIET,
            "bootstrap.servers": f"{broker.host}:{broker.port}",
            "group.id": "group",
            "stats_cb": take,
        }
    )
    consumer.subscribe(["topic"])

    # A connection has round-trip times from its handshake on, before it counts as up.
    # The test's time-out ends this loop if a connection never appears.
    nodes: set[str] = set()
    brokers_up = 0
    while not {"1", "coordinator"} <= nodes or brokers_up == 0:
        consumer.poll(1)
        for statistics in received:
            nodes.update(statistics.rtt_seconds)
            brokers_up = max(brokers_up, statistics.brokers_up)
    consumer.close()

    assert nodes == {"1", "coordinator"}
    # librdkafka lists the coordinator as a broker of its own; it must not count twice.
    assert brokers_up == 1
    for statistics in received:
        # Reported in microseconds.
        for seconds in statistics.rtt_seconds.values():
            assert 0 < seconds < 60
