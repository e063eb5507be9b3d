"""`check` tells a missing right from a cluster that cannot coordinate anything."""

from __future__ import annotations

from connector.errors import AccessDenied, KafkaUnavailable
from connector.kafka.rights import _finding

OFFSETS = "__consumer_offsets"


def test_without_a_coordinator_the_remedy_is_no_right() -> None:
    error = KafkaUnavailable("group g: _WAIT_COORD: Local: Waiting for coordinator")

    finding = _finding(error, OFFSETS)

    assert finding.startswith(f"{error}; look if the cluster has the topic {OFFSETS}")


def test_a_missing_right_has_its_own_remedy() -> None:
    error = AccessDenied("group g: GROUP_AUTHORIZATION_FAILED; grant READ on the group")

    assert _finding(error, OFFSETS) == str(error)
