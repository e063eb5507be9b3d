"""Checks that a cluster offers everything a worker needs.

Nothing is written, created, joined or fenced, and every request has a time-out.
"""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any, Final

import confluent_kafka as ck
from confluent_kafka.admin import AclOperation, AdminClient

from connector.core.model import Value
from connector.errors import AccessDenied, KafkaError
from connector.kafka.admin import (
    REQUEST_TIMEOUT_SECONDS,
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
from connector.kafka.errors import new_client
from connector.kafka.held_back import HeldBackFinder
from connector.kafka.limits import group_limit, limit_faults, require_valid_settings
from connector.kafka.reader import Reader
from connector.kafka.rights import missing_right

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping

    from confluent_kafka import Node
    from confluent_kafka.admin import TopicDescription

    from connector.kafka.clients import Clients
    from connector.kafka.held_back import HeldBack
    from connector.kafka.topic_check import TopicCheck

_NEEDED_OPERATIONS: Final = (
    AclOperation.READ,
    AclOperation.WRITE,
    AclOperation.DESCRIBE_CONFIGS,
)
# A worker that dies in a transaction is fenced after a session time-out of 6 s.
_OPEN_TRANSACTION_SECONDS: Final = 10


class BrokersReport(Value, frozen=True):
    """The answers of all brokers to a question for their settings.

    `silent` names the brokers that do not answer, with the error. `limit_faults` are our
    time-outs that the others would refuse, None if we may not read their settings.
    `largest_group` is the number of members that a group may have, None if it is not known.
    """

    silent: list[str]
    limit_faults: list[str] | None
    largest_group: int | None


class PreflightReport(Value, frozen=True):
    """Existing topics compared with their specs, absent topics, and missing rights.

    `absent` has the outcome of creating each one, which is only validated. `unwritable` has
    the partitions that take no records at the moment, in words, by topic.
    """

    checks: dict[str, TopicCheck]
    absent: list[Creation]
    denied: list[str]
    unwritable: dict[str, str]


class _Described(Value, frozen=True):
    """An existing topic: its size, and the operations that are allowed on it.

    `in_sync` has the replicas of each partition that are in sync, none without a leader.
    """

    size: TopicSize
    allowed: frozenset[Any]
    in_sync: dict[int, int]


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

    def brokers(self) -> BrokersReport:
        """Ask each broker for its settings. Raises KafkaUnavailable.

        A worker needs all of them: each can lead a partition, or coordinate the group.
        """
        answers, silent = self._ask_brokers()
        faults: list[str] = []
        sizes = []
        for settings in answers:
            faults += limit_faults(self._clients, settings)
            size = group_limit(self._clients, settings)
            if size is not None:
                sizes.append(size)
        # All brokers have the same limits, most often.
        different_faults = list(dict.fromkeys(faults))
        return BrokersReport(
            silent=silent,
            limit_faults=different_faults if answers else None,
            largest_group=min(sizes, default=None),
        )

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
        unwritable = {}
        for name, check in checks.items():
            topic = described[name]
            if topic is None:
                continue
            reason = _why_unwritable(topic, check.config)
            if reason is not None:
                unwritable[name] = reason
        return PreflightReport(checks, creations, denied, unwritable)

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

    def _ask_brokers(self) -> tuple[list[dict[str, str]], list[str]]:
        """Return the settings of the brokers, and those that do not answer with the error."""
        action = "asking for the brokers"
        brokers = cluster_metadata(self._admin, self._clients, action).brokers
        # Each in a thread: a broker that does not answer costs a time-out.
        asked = []
        with ThreadPoolExecutor(len(brokers)) as threads:
            for number, broker in brokers.items():
                future = threads.submit(broker_settings, self._admin, number)
                asked.append((broker, future))
        answers = []
        silent = []
        for broker, future in asked:
            try:
                answers.append(future.result())
            except AccessDenied:
                # It does answer.
                continue
            except KafkaError as error:
                silent.append(f"{broker.host}:{broker.port}: {error}")
        return answers, silent

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
                described[name] = _described(topic)
        return described, denied


def _described(topic: TopicDescription) -> _Described:
    replicas = []
    in_sync = {}
    for partition in topic.partitions:
        replicas.append(len(partition.replicas))
        # Without a leader, the last one may still be called in sync.
        leader: Node | None = partition.leader
        in_sync[partition.id] = 0 if leader is None else len(partition.isr)
    size = TopicSize(len(replicas), min(replicas))
    return _Described(size, frozenset(topic.authorized_operations), in_sync)


def _why_unwritable(topic: _Described, config: Mapping[str, str]) -> str | None:
    """Return the reason why partitions take no records, None if all do."""
    # Brokers since Kafka 3.7 demand no more replicas than there are. The others are warned of.
    needed = min(int(config.get("min.insync.replicas", "1")), topic.size.replicas)
    without_leader = []
    too_few = []
    for number, in_sync in sorted(topic.in_sync.items()):
        if in_sync == 0:
            without_leader.append(str(number))
        elif in_sync < needed:
            too_few.append(str(number))
    reasons = []
    if without_leader:
        reasons.append(f"partitions {', '.join(without_leader)} have no leader")
    if too_few:
        reasons.append(
            f"partitions {', '.join(too_few)} have fewer replicas in sync than "
            f"min.insync.replicas={needed}"
        )
    return "; ".join(reasons) or None


def _missing_rights(topic: str, allowed: Collection[Any]) -> list[str]:
    missing = []
    for operation in _NEEDED_OPERATIONS:
        if operation not in allowed:
            missing.append(missing_right(topic, operation.name))
    return missing
