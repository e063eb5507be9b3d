"""librdkafka's figures, as they are read."""

from __future__ import annotations

import json
from typing import Any

from connector.telemetry.kafka_stats import Statistics, decode


def told(**brokers: dict[str, Any]) -> Statistics:
    return decode(json.dumps({"name": "group", "brokers": brokers}))


def broker(
    node: int,
    source: str = "learned",
    state: str = "UP",
    p99: int = 0,
    requests: int = 0,
) -> dict[str, Any]:
    return {
        "nodeid": node,
        "source": source,
        "state": state,
        "rtt": {"p99": p99, "cnt": requests},
    }


def test_a_broker_is_up_when_it_is_connected_to() -> None:
    assert (
        told(
            a=broker(1), b=broker(2, state="DOWN"), c=broker(3, state="INIT")
        ).brokers_up
        == 1
    )


def test_bootstrap_addresses_are_no_brokers() -> None:
    statistics = told(a=broker(-1, "configured", p99=5, requests=1))
    assert (statistics.brokers_up, statistics.rtt_seconds) == (0, {})


def test_the_groups_own_connection_has_a_round_trip_and_is_no_further_broker() -> None:
    statistics = told(a=broker(1), b=broker(-1, "logical", p99=9_000, requests=4))
    assert (statistics.brokers_up, statistics.rtt_seconds) == (
        1,
        {"coordinator": 0.009},
    )


def test_a_broker_without_traffic_has_no_round_trip() -> None:
    assert told(a=broker(1, p99=2_000, requests=4), b=broker(2, p99=7)).rtt_seconds == {
        "1": 0.002
    }


def test_what_is_not_there_is_nothing() -> None:
    assert decode("{}") == Statistics()
