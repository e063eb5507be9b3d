"""librdkafka's statistics, decoded. STATISTICS.md of librdkafka describes the fields."""

from __future__ import annotations

import json
from typing import Any

from connector.telemetry.kafka_stats import Statistics, decode

# The node id of connections that do not belong to a known broker.
NO_NODE = -1


def statistics(**brokers: dict[str, Any]) -> Statistics:
    """Return the decoded statistics of a client with these brokers, by name."""
    document = {"name": "group", "brokers": brokers}
    return decode(json.dumps(document))


def broker(
    node: int,
    *,
    source: str = "learned",
    state: str = "UP",
    p99: int = 0,
    requests: int = 0,
) -> dict[str, Any]:
    """Return a broker's part of the statistics. `p99` is in microseconds."""
    round_trip = {"p99": p99, "cnt": requests}
    return {
        "nodeid": node,
        "source": source,
        "state": state,
        "rtt": round_trip,
    }


def test_a_broker_is_up_if_the_client_is_connected_to_it() -> None:
    connected = broker(1)
    lost = broker(2, state="DOWN")
    # A client opens a connection only when it needs the broker.
    never_needed = broker(3, state="INIT")

    found = statistics(a=connected, b=lost, c=never_needed)

    assert found.brokers_up == 1


def test_a_bootstrap_address_is_no_broker() -> None:
    # It is one of the brokers under another name, which would count twice.
    bootstrap = broker(NO_NODE, source="configured", p99=5, requests=1)

    found = statistics(a=bootstrap)

    assert found.brokers_up == 0
    assert found.rtt_seconds == {}


def test_the_connection_to_the_coordinator_has_a_round_trip_but_is_no_broker() -> None:
    # The group has a second connection to the broker that coordinates it.
    coordinator = broker(NO_NODE, source="logical", p99=9_000, requests=4)

    found = statistics(a=broker(1), b=coordinator)

    assert found.brokers_up == 1
    assert found.rtt_seconds == {"coordinator": 0.009}


def test_a_broker_without_traffic_has_no_round_trip() -> None:
    busy = broker(1, p99=2_000, requests=4)
    # Without requests in the window the percentile means nothing.
    idle = broker(2, p99=7)

    found = statistics(a=busy, b=idle)

    assert found.rtt_seconds == {"1": 0.002}


def test_empty_statistics_have_no_brokers() -> None:
    assert decode("{}") == Statistics()
