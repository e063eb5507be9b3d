"""Finds out which rights are missing, and changes nothing.

Brokers look at the rights of a client first, and refuse what is asked of them next.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Final

import confluent_kafka as ck

from connector.errors import AccessDenied, KafkaError, KafkaUnavailable
from connector.kafka.admin import REQUEST_TIMEOUT_SECONDS
from connector.kafka.errors import kafka_error, new_client, translate, translating
from connector.kafka.transactional_producer import transactional_producer

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator

    from connector.kafka.clients import Clients

_LARGEST_INT32: Final = 2**31 - 1
_MISSING_PARTITION: Final = _LARGEST_INT32
# Longer than any `transaction.max.timeout.ms`.
_REFUSED_TIMEOUT_MS: Final = _LARGEST_INT32

_TOPIC_DENIED: Final = ck.KafkaError.TOPIC_AUTHORIZATION_FAILED
_NO_PARTITION: Final = ck.KafkaError.UNKNOWN_TOPIC_OR_PART

# The error of a commit, and its partitions with theirs.
_Outcome = tuple[ck.KafkaError | None, list[ck.TopicPartition]]

_POLL_SECONDS: Final = 0.1
# A new cluster creates `__transaction_state` first.
_FIRST_TRANSACTION_SECONDS: Final = 3 * REQUEST_TIMEOUT_SECONDS
_COMMIT_SECONDS: Final = 2 * REQUEST_TIMEOUT_SECONDS


def missing_rights(
    clients: Clients, unused_id: str, group_id: str, topics: Collection[str]
) -> list[str]:
    """Return the missing rights on transactional ids, on the group, and to read `topics`.

    `unused_id` is a transactional id below our prefix that no shard has. The topics need
    not exist.
    """
    missing = []
    try:
        _try_transactions(clients, unused_id)
    except KafkaError as error:
        missing.append(_finding(error, "__transaction_state"))
    try:
        for topic in _unreadable(clients, group_id, topics):
            missing.append(missing_right(topic, "READ"))
    except KafkaError as error:
        missing.append(_finding(error, "__consumer_offsets"))
    return missing


def _finding(error: KafkaError, internal_topic: str) -> str:
    """Return an error, with the remedy if no coordinator answers."""
    if isinstance(error, AccessDenied):
        return str(error)
    return (
        f"{error}; look if the cluster has the topic {internal_topic}, and each of its "
        "partitions a leader: the cluster may have too few brokers to create it"
    )


def missing_right(topic: str, operation: str) -> str:
    """Return the finding that we have no right to an operation on a topic."""
    return f"topic {topic}: {operation} is missing (docs/reference/rights.md)"


def _try_transactions(clients: Clients, transactional_id: str) -> None:
    """Check the right to write in transactions, with an id that no shard has.

    Brokers refuse the transaction time-out, but only to a client that has the right, and
    before they store the id. So nothing is left to clean up.
    """
    settings = {
        **clients.producer(transactional_id),
        "transaction.timeout.ms": _REFUSED_TIMEOUT_MS,
    }
    # A topic that does not exist might be created.
    producer = transactional_producer(settings, None)
    refused = ck.KafkaError.INVALID_TRANSACTION_TIMEOUT
    with translating(f"transactional id {transactional_id}"):
        try:
            producer.init_transactions(_FIRST_TRANSACTION_SECONDS)
        except ck.KafkaException as exception:
            if kafka_error(exception).code() != refused:
                raise


def _unreadable(
    clients: Clients, group_id: str, topics: Collection[str]
) -> Iterator[str]:
    """Yield the topics that we may not read. Raises KafkaError if we may not join the group.

    It commits to partitions that do not exist. Brokers check the rights on the group and on
    each topic first, and the partitions next. They never look at the group's members.
    """
    action = f"group {group_id}"
    with translating(action, clients):
        error, partitions = _commit_to_missing_partitions(clients, group_id, topics)
    is_topic_denied = False
    for partition in partitions:
        denial = partition.error
        if denial is not None and denial.code() == _TOPIC_DENIED:
            is_topic_denied = True
            yield partition.topic
    is_expected = error is None or error.code() == _NO_PARTITION
    if error is not None and not is_expected and not is_topic_denied:
        raise translate(error, action, clients.last_error)


def _commit_to_missing_partitions(
    clients: Clients, group_id: str, topics: Collection[str]
) -> _Outcome:
    """Return the error of a commit, and the partitions with theirs.

    A consumer commits, because `alter_consumer_group_offsets` can abort the process (see
    `connector.kafka.describe_group`).
    """
    outcomes: list[_Outcome] = []
    settings = {
        **clients.reader("read_committed"),
        "group.id": group_id,
        # A commit waits this long for a coordinator and for its answer, and closing the
        # consumer waits for the commit.
        "session.timeout.ms": REQUEST_TIMEOUT_SECONDS * 1000,
        "socket.timeout.ms": REQUEST_TIMEOUT_SECONDS * 1000,
        "on_commit": lambda error, found: outcomes.append((error, found)),
    }
    consumer = new_client(ck.Consumer, settings)
    try:
        missing = [ck.TopicPartition(topic, _MISSING_PARTITION, 0) for topic in topics]
        deadline = time.monotonic() + _COMMIT_SECONDS
        consumer.commit(offsets=missing, asynchronous=True)
        while not outcomes:
            if time.monotonic() > deadline:
                raise KafkaUnavailable(
                    f"group {group_id}: no answer within {_COMMIT_SECONDS} s"
                )
            message = consumer.poll(_POLL_SECONDS)
            # Nothing is assigned, so that a message can only be an error: we may not look for
            # the coordinator.
            if message is not None:
                outcomes.append((message.error(), []))
    finally:
        consumer.close()
    return outcomes[0]
