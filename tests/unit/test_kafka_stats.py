"""librdkafka's figures, added up."""

from __future__ import annotations

import json
from typing import Any

import pytest

from connector.runtime.kafka_stats import FORGET_MICROS, KafkaStats


def client(name: str, ts: int = 0, **figures: Any) -> str:
    return json.dumps({"name": name, "type": "producer", "ts": ts, **figures})


def broker(node: int, state: str = "UP", p99: int = 0, requests: int = 0) -> dict[str, Any]:
    return {"nodeid": node, "state": state, "rtt": {"p99": p99, "cnt": requests}}


def test_queues_of_all_clients_are_added_and_a_client_counts_once() -> None:
    stats = KafkaStats()
    stats.update(client("producer-1", msg_cnt=9, msg_size=900))
    stats.update(client("producer-1", msg_cnt=2, msg_size=200))
    totals = stats.update(client("producer-2", msg_cnt=3, msg_size=300))
    assert totals is not None
    assert (totals.queue_messages, totals.queue_bytes) == (5, 500)


def test_a_broker_is_up_when_any_client_is_connected_to_it() -> None:
    stats = KafkaStats()
    stats.update(client("a", brokers={"x:1/1": broker(1), "x:2/2": broker(2, "DOWN")}))
    totals = stats.update(client("b", brokers={"x:1/1": broker(1), "x:2/2": broker(2, "INIT")}))
    assert totals is not None
    assert totals.brokers_up == 1


def test_bootstrap_addresses_are_no_brokers() -> None:
    totals = KafkaStats().update(client("a", brokers={"x:1/bootstrap": broker(-1, p99=5, requests=1)}))
    assert totals is not None
    assert (totals.brokers_up, totals.rtt_seconds) == (0, {})


def test_the_slowest_producer_gives_a_brokers_round_trip() -> None:
    stats = KafkaStats()
    stats.update(client("a", brokers={"x:1/1": broker(1, p99=2_000, requests=4)}))
    stats.update(client("b", type="consumer", brokers={"x:1/1": broker(1, p99=500_000, requests=4)}))
    totals = stats.update(
        client("c", brokers={"x:1/1": broker(1, p99=9_000, requests=1), "x:2/2": broker(2, requests=0)})
    )
    assert totals is not None
    assert totals.rtt_seconds == {"1": 0.009}


def test_a_client_that_has_been_closed_is_forgotten() -> None:
    stats = KafkaStats()
    stats.update(client("old", ts=1, msg_cnt=7))
    totals = stats.update(client("new", ts=1 + FORGET_MICROS))
    assert totals is not None
    assert totals.queue_messages == 7
    totals = stats.update(client("new", ts=2 + FORGET_MICROS))
    assert totals is not None
    assert totals.queue_messages == 0


@pytest.mark.parametrize(
    "text",
    [
        "",
        "{",
        "[]",
        "null",
        '{"name": "a"}',
        '{"name": "a", "type": "producer", "ts": "x"}',
        b"\xff",
        '{"name": "a", "type": "producer", "ts": 1, "brokers": [1]}',
        '{"name": "a", "type": "producer", "ts": 1, "brokers": {"b": {"rtt": null}}}',
    ],
)
def test_what_cannot_be_read_changes_nothing(text: str | bytes) -> None:
    stats = KafkaStats()
    stats.update(client("a", msg_cnt=4))
    assert stats.update(text) is None
    totals = stats.update(client("b"))
    assert totals is not None
    assert totals.queue_messages == 4
