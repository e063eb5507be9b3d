"""Tries what a worker will need of the cluster. Nothing is written, created, joined or fenced, and nothing hangs."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any, Final

import confluent_kafka as ck
from confluent_kafka.admin import AclOperation, AdminClient, NewTopic

from connector.core.model import Value
from connector.errors import AccessDenied, KafkaError, KafkaUnavailable
from connector.kafka.errors import kafka_error, new_client, translate
from connector.kafka.topics import TopicCheck, TopicSpec, inspect, waited

if TYPE_CHECKING:
    from collections.abc import Callable
    from concurrent.futures import Future

    from connector.kafka.clients import Clients

_TIMEOUT_SECONDS: Final = 10
_TURN_SECONDS: Final = 0.1
_NEEDED: Final = (AclOperation.READ, AclOperation.WRITE, AclOperation.DESCRIBE_CONFIGS)
_NO_PARTITION: Final = 2**31 - 1
_TOO_LONG_MS: Final = 2**31 - 1


class PreflightReport(Value, frozen=True):
    """The topics: how those fit that are there, which are not, and every right that is missing."""

    fits: dict[str, TopicCheck]
    absent: list[str]
    denied: list[str]


class Preflight:
    """One look at a cluster. Raises ConfigError where librdkafka refuses a setting."""

    def __init__(self, clients: Clients) -> None:
        self._clients = clients
        self._admin = new_client(AdminClient, clients.admin())

    def cluster(self) -> str:
        """Which cluster answers, and how large it is. Raises KafkaUnavailable."""
        try:
            found = self._admin.list_topics(timeout=_TIMEOUT_SECONDS)
        except ck.KafkaException as exception:
            self._admin.poll(0)  # hands out why, such as a wrong password
            raise translate(
                kafka_error(exception),
                "asking for the cluster",
                self._clients.last_error,
            ) from None
        return f"cluster {found.cluster_id}, {len(found.brokers)} broker{'s' * (len(found.brokers) != 1)}"

    def topics(
        self, wanted: list[TopicSpec], replication_factor: int
    ) -> PreflightReport:
        """What there is of them, and what we may. Creating the absent ones is only validated. Raises KafkaError."""
        names = ck.TopicCollection([spec.name for spec in wanted])
        described = self._admin.describe_topics(
            names, include_authorized_operations=True, request_timeout=_TIMEOUT_SECONDS
        )
        sizes, absent, denied, readable = (
            dict[str, tuple[int, int]](),
            [],
            [],
            set[str](),
        )
        for name, future in described.items():
            try:
                topic = self._result(
                    future,
                    f"describing topic {name}",
                    ck.KafkaError.UNKNOWN_TOPIC_OR_PART,
                )
            except AccessDenied as error:
                denied.append(str(error))
                continue
            if topic is None:
                absent.append(name)
                continue
            sizes[name] = len(topic.partitions), len(topic.partitions[0].replicas)
            missing = [
                operation.name
                for operation in _NEEDED
                if operation not in topic.authorized_operations
            ]
            denied += [
                f"topic {name}: {operation} is missing (README, Rights)"
                for operation in missing
            ]
            if AclOperation.DESCRIBE_CONFIGS in topic.authorized_operations:
                readable.add(name)
        denied += self._not_created(
            [spec for spec in wanted if spec.name in absent], replication_factor
        )
        return PreflightReport(
            inspect(
                self._admin, [spec for spec in wanted if spec.name in readable], sizes
            ),
            absent,
            denied,
        )

    def _not_created(
        self, absent: list[TopicSpec], replication_factor: int
    ) -> list[str]:
        new = [
            NewTopic(spec.name, spec.partitions, replication_factor, config=spec.config)
            for spec in absent
        ]
        denied = []
        created = (
            self._admin.create_topics(
                new, validate_only=True, request_timeout=_TIMEOUT_SECONDS
            )
            if new
            else {}
        )
        for name, future in created.items():
            try:
                self._result(
                    future, f"creating topic {name}", ck.KafkaError.TOPIC_ALREADY_EXISTS
                )
            except AccessDenied as error:
                denied.append(str(error))
        return denied

    def denied(self, spare: str, group_id: str) -> list[str]:
        """Which of the other rights are missing; `spare` is a name below our prefix that no topic or shard has."""
        trials: tuple[Callable[[], None], ...] = (
            lambda: self._transactions(spare),
            lambda: self._group(group_id, spare),
        )
        missing = []
        for tried in trials:
            try:
                tried()
            except KafkaError as error:
                missing.append(str(error))
        return missing

    def _transactions(self, transactional_id: str) -> None:
        """Whether we may write in transactions, tried with an id that no shard has.

        The time-out asked for is longer than brokers allow, which they say only to who has the right, before they
        look for the id: so there is nothing to clean up either.
        """
        settings = {
            **self._clients.producer(transactional_id),
            "transaction.timeout.ms": _TOO_LONG_MS,
        }
        try:
            new_client(ck.Producer, settings).init_transactions(_TIMEOUT_SECONDS)
        except ck.KafkaException as exception:
            if (
                kafka_error(exception).code()
                != ck.KafkaError.INVALID_TRANSACTION_TIMEOUT
            ):
                raise translate(
                    kafka_error(exception), f"transactional id {transactional_id}"
                ) from None

    def _group(self, group_id: str, topic: str) -> None:
        """Try to commit to a partition that no topic has. Raises KafkaError if we may not join the group.

        The broker checks the right to the group first, then the partition, and the group itself never. The commit is
        a consumer's: `alter_consumer_group_offsets` can abort the process, as `connector.kafka.describe_group` says.
        """
        answers: list[ck.KafkaError | None] = []
        settings = {
            **self._clients.reader("read_committed"),
            "group.id": group_id,
            # How long a commit waits for a coordinator, and for its answer. The consumer's end waits for the commit.
            "session.timeout.ms": _TIMEOUT_SECONDS * 1000,
            "socket.timeout.ms": _TIMEOUT_SECONDS * 1000,
            "on_commit": lambda error, _: answers.append(error),
        }
        consumer = new_client(ck.Consumer, settings)
        consumer.commit(
            offsets=[ck.TopicPartition(topic, _NO_PARTITION, 0)], asynchronous=True
        )
        deadline = time.monotonic() + 2 * _TIMEOUT_SECONDS
        while not answers:
            if time.monotonic() > deadline:
                raise KafkaUnavailable(
                    f"group {group_id}: no answer within {2 * _TIMEOUT_SECONDS} s"
                )
            message = consumer.poll(_TURN_SECONDS)
            # Without a partition it can only be an error: the coordinator is denied to us.
            if message is not None:
                answers.append(message.error())
        consumer.close()
        error = answers[0]
        if error is not None and error.code() != ck.KafkaError.UNKNOWN_TOPIC_OR_PART:
            raise translate(error, f"group {group_id}", self._clients.last_error)

    def _result(self, future: Future[Any], doing: str, expected: int) -> Any:
        """What it brought, None for an error that was to be expected. Raises KafkaError."""
        try:
            return waited(future, doing)
        except ck.KafkaException as exception:
            if kafka_error(exception).code() == expected:
                return None
            raise translate(
                kafka_error(exception), doing, self._clients.last_error
            ) from None
