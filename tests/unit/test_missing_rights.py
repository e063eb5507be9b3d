"""`check` tells a missing right from a cluster that cannot coordinate anything."""

from __future__ import annotations

from unittest.mock import Mock

import pytest

from connector.config.model import Kafka
from connector.errors import AccessDenied, KafkaUnavailable
from connector.kafka import rights
from connector.kafka.clients import Clients
from connector.kafka.rights import _finding

OFFSETS = "__consumer_offsets"


def test_without_a_coordinator_the_remedy_is_no_right() -> None:
    error = KafkaUnavailable("group g: _WAIT_COORD: Local: Waiting for coordinator")

    finding = _finding(error, OFFSETS)

    assert finding.startswith(f"{error}; look if the cluster has the topic {OFFSETS}")


def test_a_missing_right_has_its_own_remedy() -> None:
    error = AccessDenied("group g: GROUP_AUTHORIZATION_FAILED; grant READ on the group")

    assert _finding(error, OFFSETS) == str(error)


def test_a_consumer_is_closed_though_nobody_answers(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    consumer = Mock()
    consumer.poll.return_value = None
    monkeypatch.setattr(rights, "new_client", lambda *_: consumer)
    monkeypatch.setattr(rights, "_COMMIT_SECONDS", -1)
    clients = Clients(Kafka(bootstrap_servers="127.0.0.1:1"))

    with pytest.raises(KafkaUnavailable, match="group g: no answer"):
        rights._commit_to_missing_partitions(clients, "g", ["topic"])

    consumer.close.assert_called_once_with()
