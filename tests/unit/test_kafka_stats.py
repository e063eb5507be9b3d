"""librdkafka's statistics, decoded."""

from __future__ import annotations

import json
from typing import Any

from connector.telemetry.kafka_stats import Statistics, decode


def statistics(**brokers: dict[str, Any]) -> Statistics:
    return decode(json.dumps({"name": "group", "brokers": brokers}))


def broker(
    node: int,
    *,
    source: str = "learned",
    state: str = "UP",
    p99: int = 0,
    requests: int = 0,
) -> dict[str, Any]:
    rtt = {"p99": p99, "cnt": requests}
    return {"nodeid": node, "source": source, "state": state, "rtt": rtt}


def test_a_broker_is_up_if_the_client_is_connected_to_it() -> None:
    found = statistics(
        a=broker(1), b=broker(2, state="DOWN"), c=broker(3, state="INIT")
    )
    assert found.brokers_up == 1


def test_a_bootstrap_address_is_no_broker() -> None:
    found = statistics(a=broker(-1, source="configured", p99=5, requests=1))
    assert found.brokers_up == 0
    assert found.rtt_seconds == {}


def test_the_connection_to_the_coordinator_has_a_round_trip_but_is_no_broker() -> None:
    coordinator = broker(-1, source="logical", p99=9_000, requests=4)
    found = statistics(a=broker(1), b=coordinator)
    assert found.brokers_up == 1
    assert found.rtt_seconds == {"coordinator": 0.009}


def test_a_broker_without_traffic_has_no_round_trip() -> None:
    found = statistics(a=broker(1, p99=2_000, requests=4), b=broker(2, p99=7))
    assert found.rtt_seconds == {"1": 0.002}


def test_empty_statistics_have_no_brokers() -> None:
    assert decode("{}") == Statistics()
