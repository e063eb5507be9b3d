"""The group as a real broker describes it, by way of a process of its own."""

from __future__ import annotations

from contextlib import suppress
from typing import TYPE_CHECKING

import confluent_kafka as ck
import confluent_kafka.admin as admin_api
import pytest

from connector.config.model import Kafka
from connector.devkit.loopback_ports import free_port
from connector.errors import KafkaUnavailable
from connector.kafka.clients import Clients
from connector.kafka.members import Member, Members
from connector.kafka.names import ShardId
from tests.support.processes import wait_until
from tests.support.topics import create_topics

if TYPE_CHECKING:
    from connector.devkit.local_kafka import LocalKafka
    from tests.conftest import Names


def asking(bootstrap_servers: str, names: Names) -> Members:
    """Return a client that asks these brokers for the members of the test's group."""
    clients = Clients(Kafka(bootstrap_servers=bootstrap_servers))
    return Members(clients.admin(), names.group_id, {names.topic_prefix: "all"})


def are_settled(members: tuple[Member, ...]) -> bool:
    """Return True if both members have joined and one of them owns the shard."""
    shards = sum(len(member.shards) for member in members)
    return len(members) == 2 and shards > 0


# Brokers describe the two kinds of groups by different requests.
@pytest.mark.parametrize("protocol", ["classic", "consumer"])
def test_owner_and_standby_are_named(
    kafka: LocalKafka, names: Names, protocol: str
) -> None:
    settings = {
        "bootstrap.servers": kafka.bootstrap_servers,
        "group.id": names.group_id,
        "group.protocol": protocol,
    }
    create_topics(kafka, admin_api.NewTopic(names.topic_prefix, 1, 1))
    one = ck.Consumer({**settings, "client.id": "one"})
    other = ck.Consumer({**settings, "client.id": "other"})
    members = asking(kafka.bootstrap_servers, names)

    def described() -> tuple[Member, ...]:
        # A consumer takes part in a rebalance only while it polls.
        one.poll(0.1)
        other.poll(0.1)
        # The process that asks may also be too slow, and be killed.
        with suppress(KafkaUnavailable):
            if are_settled(members.now()):
                return members.settled()
        return ()

    try:
        one.subscribe([names.topic_prefix])
        other.subscribe([names.topic_prefix])
        found = wait_until(described, "both members")
    finally:
        one.close()
        other.close()

    assert [member.name for member in found] == ["one", "other"]
    assert {member.host for member in found} == {"127.0.0.1"}
    assert sorted(member.shards for member in found) == [(), (ShardId("all", 0),)]


def test_a_group_that_nobody_has_joined_is_empty(
    kafka: LocalKafka, names: Names
) -> None:
    members = asking(kafka.bootstrap_servers, names)

    def is_empty() -> bool:
        # On a busy machine the process that asks may be too slow, and be killed.
        with suppress(KafkaUnavailable):
            return members.now() == ()
        return False

    def is_not_settled() -> bool:
        try:
            members.settled()
        except KafkaUnavailable as error:
            return "not known in state" in str(error)
        return False

    wait_until(is_empty, "the group is empty")
    wait_until(is_not_settled, "its owners are not known")


def test_a_broker_that_does_not_answer_is_an_error_of_kafka(names: Names) -> None:
    # On a busy machine the child process is killed before its own timeout.
    expected = r"describing the group: (_TIMED_OUT|no answer within)"
    members = asking(f"127.0.0.1:{free_port()}", names)
    with pytest.raises(KafkaUnavailable, match=expected):
        members.now()
