"""Checks that a cluster offers everything a worker needs.

Nothing is written, created, joined or fenced, and every request has a time-out.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any, Final

import confluent_kafka as ck
from confluent_kafka.admin import AclOperation, AdminClient

from connector.core.model import Value
from connector.errors import AccessDenied, KafkaError, KafkaUnavailable
from connector.kafka.admin import (
    REQUEST_TIMEOUT_SECONDS,
    TopicCheck,
    TopicSize,
    TopicSpec,
    broker_settings,
    check_topics,
    cluster_metadata,
    newest_record,
    offsets_of,
    wait_unless,
)
from connector.kafka.creation import Creation, TopicCreator
from connector.kafka.errors import kafka_error, new_client, translate, translating
from connector.kafka.held_back import HeldBackFinder
from connector.kafka.limits import limit_faults, require_valid_settings
from connector.kafka.reader import Reader

if TYPE_CHECKING:
    from collections.abc import Callable, Collection

    from connector.kafka.clients import Clients
    from connector.kafka.held_back import HeldBack

_NEEDED_OPERATIONS: Final = (
    AclOperation.READ,
    AclOperation.WRITE,
    AclOperation.DESCRIBE_CONFIGS,
)
_LARGEST_INT32: Final = 2**31 - 1
_MISSING_PARTITION: Final = _LARGEST_INT32
# Longer than any `transaction.max.timeout.ms`.
_REFUSED_TIMEOUT_MS: Final = _LARGEST_INT32

# A worker that dies in a transaction is fenced after a session time-out of 6 s.
_OPEN_TRANSACTION_SECONDS: Final = 10

_POLL_SECONDS: Final = 0.1
_COMMIT_SECONDS: Final = 2 * REQUEST_TIMEOUT_SECONDS


class PreflightReport(Value, frozen=True):
    """Existing topics compared with their specs, absent topics, and missing rights.

    `absent` has the outcome of creating each one, which is only validated.
    """

    checks: dict[str, TopicCheck]
    absent: list[Creation]
    denied: list[str]


class _Described(Value, frozen=True):
    """An existing topic: its size, and the operations that are allowed on it."""

    size: TopicSize
    allowed: frozenset[Any]


class Preflight:
    """A look at a cluster. Raises ConfigError if librdkafka refuses a setting."""

    def __init__(self, clients: Clients) -> None:
        require_valid_settings(clients)
        self._clients = clients
        self._admin = new_client(AdminClient, clients.admin())

    def cluster(self) -> str:
        """Return a description of the cluster. Raises KafkaUnavailable."""
        metadata = cluster_metadata(
            self._admin, self._clients, "asking for the cluster"
        )
        brokers = len(metadata.brokers)
        plural = "" if brokers == 1 else "s"
        return f"cluster {metadata.cluster_id}, {brokers} broker{plural}"

    def limit_faults(self) -> list[str]:
        """Return our time-outs that the brokers would refuse. Raises KafkaError."""
        action = "asking for a broker"
        brokers = cluster_metadata(self._admin, self._clients, action).brokers
        settings = broker_settings(self._admin, min(brokers))
        return limit_faults(self._clients, settings)

    def topics(
        self, specs: list[TopicSpec], replication_factor: int
    ) -> PreflightReport:
        """Check existing topics, and validate the creation of missing ones.

        Raises KafkaError.
        """
        described, denied = self._describe(specs)
        absent = []
        sizes = {}
        # A topic that we may not describe is in neither: its denial is reported.
        for spec in specs:
            if spec.name not in described:
                continue
            name, topic = spec.name, described[spec.name]
            if topic is None:
                absent.append(spec)
                continue
            denied += _missing_rights(name, topic.allowed)
            if AclOperation.DESCRIBE_CONFIGS in topic.allowed:
                sizes[name] = topic.size

        creator = TopicCreator(
            self._admin, self._clients.servers, replication_factor, validate_only=True
        )
        creations = creator.create(absent) if absent else []
        checks = check_topics(self._admin, specs, sizes)
        return PreflightReport(checks, creations, denied)

    def held_back(self, topics: Collection[str]) -> list[HeldBack]:
        """Return the partitions in which an open transaction hides records.

        Waits for transactions that are about to end. Raises KafkaUnavailable.
        """
        metadata = cluster_metadata(self._admin, self._clients, "listing topics")
        partitions = []
        for topic in sorted(topics):
            # It may have been deleted a moment ago.
            found_topic = metadata.topics.get(topic)
            if found_topic is not None:
                numbers = sorted(found_topic.partitions)
                partitions += [(topic, number) for number in numbers]
        reader = Reader(self._clients)
        finder = HeldBackFinder(reader, _OPEN_TRANSACTION_SECONDS)
        # On a busy cluster, some transaction has always begun a moment ago.
        deadline = time.monotonic() + 2 * _OPEN_TRANSACTION_SECONDS
        try:
            found = finder.look(partitions)
            while finder.suspects and not found and time.monotonic() < deadline:
                time.sleep(1)
                found = finder.look(partitions)
        finally:
            reader.close()
        return found

    def latest(self, topics: Collection[str]) -> tuple[str, float] | None:
        """Return the topic with the latest record, and its time in seconds since the epoch.

        The end of a transaction counts as a record, with the brokers' time. Return None if
        there are no records. Raises KafkaError.
        """
        action = "asking for the latest records"
        metadata = cluster_metadata(self._admin, self._clients, action)
        partitions = []
        for topic in topics:
            found_topic = metadata.topics.get(topic)
            if found_topic is not None:
                partitions += [(topic, number) for number in found_topic.partitions]
        if not partitions:
            return None
        newest = offsets_of(
            partitions, newest_record(), action, self._admin, self._clients
        )
        latest: tuple[str, float] | None = None
        for (topic, _), found in newest.items():
            at = found.timestamp / 1000
            if found.offset >= 0 and (latest is None or at > latest[1]):
                latest = topic, at
        return latest

    def denied(self, unused_name: str, group_id: str) -> list[str]:
        """Return the missing rights on transactional ids and on the group.

        `unused_name` is a name below our prefix that no topic and no shard has.
        """
        trials: list[Callable[[], None]] = [
            lambda: self._try_transactions(unused_name),
            lambda: self._try_group(group_id, unused_name),
        ]
        missing = []
        for trial in trials:
            try:
                trial()
            except KafkaError as error:
                missing.append(str(error))
        return missing

    def _describe(
        self, specs: list[TopicSpec]
    ) -> tuple[dict[str, _Described | None], list[str]]:
        """Return each topic by name, None for a missing one, and what was denied."""
        names = ck.TopicCollection([spec.name for spec in specs])
        futures = self._admin.describe_topics(
            names,
            include_authorized_operations=True,
            request_timeout=REQUEST_TIMEOUT_SECONDS,
        )
        described: dict[str, _Described | None] = {}
        denied = []
        for name, future in futures.items():
            try:
                topic = wait_unless(
                    ck.KafkaError.UNKNOWN_TOPIC_OR_PART,
                    future,
                    f"describing topic {name}",
                    self._clients,
                )
            except AccessDenied as error:
                denied.append(str(error))
                continue
            described[name] = None
            if topic is not None:
                partitions = topic.partitions
                size = TopicSize(len(partitions), len(partitions[0].replicas))
                allowed = frozenset(topic.authorized_operations)
                described[name] = _Described(size, allowed)
        return described, denied

    def _try_transactions(self, transactional_id: str) -> None:
        """Check the right to write in transactions, with an id that no shard has.

        Brokers refuse the transaction time-out, but only to a client that has the
        right, and before they store the id. So nothing is left to clean up.
        """
        settings = {
            **self._clients.producer(transactional_id),
            "transaction.timeout.ms": _REFUSED_TIMEOUT_MS,
        }
        producer = new_client(ck.Producer, settings)
        refused = ck.KafkaError.INVALID_TRANSACTION_TIMEOUT
        with translating(f"transactional id {transactional_id}"):
            try:
                producer.init_transactions(REQUEST_TIMEOUT_SECONDS)
            except ck.KafkaException as exception:
                if kafka_error(exception).code() != refused:
                    raise

    def _try_group(self, group_id: str, topic: str) -> None:
        """Check the right to join the group, by a commit to a missing partition.

        Brokers check the right first and the partition next. They never look at the
        group's members. A consumer commits, because `alter_consumer_group_offsets` can
        abort the process (see `connector.kafka.describe_group`).
        """
        results: list[ck.KafkaError | None] = []
        settings = {
            **self._clients.reader("read_committed"),
            "group.id": group_id,
            # A commit waits this long for a coordinator and for its answer, and closing
            # the consumer waits for the commit.
            "session.timeout.ms": REQUEST_TIMEOUT_SECONDS * 1000,
            "socket.timeout.ms": REQUEST_TIMEOUT_SECONDS * 1000,
            "on_commit": lambda error, _: results.append(error),
        }
        consumer = new_client(ck.Consumer, settings)
        missing = ck.TopicPartition(topic, _MISSING_PARTITION, 0)
        action = f"group {group_id}"
        deadline = time.monotonic() + _COMMIT_SECONDS
        with translating(action, self._clients):
            consumer.commit(offsets=[missing], asynchronous=True)
            while not results:
                if time.monotonic() > deadline:
                    raise KafkaUnavailable(
                        f"{action}: no answer within {_COMMIT_SECONDS} s"
                    )
                message = consumer.poll(_POLL_SECONDS)
                # Nothing is assigned, so that a message can only be an error: we may
                # not look for the coordinator.
                if message is not None:
                    results.append(message.error())
            consumer.close()

        error = results[0]
        if error is not None and error.code() != ck.KafkaError.UNKNOWN_TOPIC_OR_PART:
            raise translate(error, action, self._clients.last_error)


def _missing_rights(topic: str, allowed: Collection[Any]) -> list[str]:
    missing = [
        operation.name for operation in _NEEDED_OPERATIONS if operation not in allowed
    ]
    return [
        f"topic {topic}: {name} is missing (docs/reference/rights.md)"
        for name in missing
    ]
