"""The topics: made where they are absent, and refused where they do not fit."""

from __future__ import annotations

import logging
from concurrent.futures import TimeoutError as FutureTimeoutError
from typing import TYPE_CHECKING, Final, TypeVar

import confluent_kafka as ck
from confluent_kafka.admin import (
    AdminClient,
    ConfigResource,
    NewTopic,
    ResourceType,
)

from connector.core.model import Value
from connector.errors import KafkaUnavailable, SetupError
from connector.kafka.errors import kafka_error, new_client, translate

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from concurrent.futures import Future

    from connector.config.model import Kafka
    from connector.kafka.clients import Clients
    from connector.kafka.names import Topics

_log = logging.getLogger(__name__)
_T = TypeVar("_T")

_TIMEOUT_SECONDS: Final = 10
_FIRST_ANSWER_SECONDS: Final = 3
_REPLICATED: Final = 3
_LARGE_BYTES: Final = 192 * 1024
"""What a record can be: an entry is at most 64 KiB, and an event and a state have two of them."""

_DAY_MS: Final = 86_400_000
_COMPACTION: Final = {
    "cleanup.policy": "compact",
    # With the brokers' defaults a week of 80 symbols is 1.6 million records to restore from.
    "segment.ms": "600000",
    "max.compaction.lag.ms": "600000",
    "min.cleanable.dirty.ratio": "0.1",
}


class TopicSpec(Value, frozen=True):
    """A topic as it must be. `partitions_key` is the configuration key to change where the count differs."""

    name: str
    partitions: int
    partitions_key: str | None
    config: dict[str, str]


class TopicCheck(Value, frozen=True):
    """How a topic fits: its configuration, what makes it useless, and what makes it worse than it could be.

    A warning is what is wrong and its remedy.
    """

    config: dict[str, str]
    faults: list[str]
    warnings: list[tuple[str, str]]


def specs(topics: Topics, feeds: Iterable[str], kafka: Kafka) -> list[TopicSpec]:
    """Every topic that the configuration needs."""
    retention = {
        "cleanup.policy": "delete",
        "retention.ms": str(kafka.retention_days * _DAY_MS),
    }
    wanted = [TopicSpec(topics.quarantine, 1, None, retention)]
    for feed in feeds:
        wanted.append(
            TopicSpec(
                topics.changes(feed), kafka.partitions, "kafka.partitions", retention
            )
        )
        wanted.append(
            TopicSpec(topics.current(feed), kafka.shards, "kafka.shards", _COMPACTION)
        )
    return wanted


def prepare(clients: Clients, wanted: list[TopicSpec], replication_factor: int) -> None:
    """Create what is absent, and check what is there.

    Raises:
        SetupError: a topic that does not fit; the message lists all of them.
        KafkaUnavailable: the broker does not answer or refuses us.
    """
    admin = new_client(AdminClient, clients.admin())
    try:
        present = admin.list_topics(timeout=_FIRST_ANSWER_SECONDS).topics
    except ck.KafkaException as exception:
        admin.poll(0)  # hands out why, such as a wrong password
        raise translate(
            kafka_error(exception), "listing topics", clients.last_error
        ) from None
    _create(
        admin, [spec for spec in wanted if spec.name not in present], replication_factor
    )
    partitions = {
        spec.name: present[spec.name].partitions
        for spec in wanted
        if spec.name in present
    }
    sizes = {
        name: (len(those), len(those[0].replicas)) for name, those in partitions.items()
    }
    fits = inspect(admin, [spec for spec in wanted if spec.name in sizes], sizes)
    for name, fit in fits.items():
        for what, remedy in fit.warnings:
            _log.warning(what, extra={"topic": name, "remedy": remedy})
    if faults := [fault for fit in fits.values() for fault in fit.faults]:
        raise SetupError("\n".join(faults))


def inspect(
    admin: AdminClient, there: list[TopicSpec], sizes: Mapping[str, tuple[int, int]]
) -> dict[str, TopicCheck]:
    """How topics that are there fit, by name; `sizes` are their partitions and replicas. Raises KafkaUnavailable."""
    if not there:
        return {}
    resources = [ConfigResource(ResourceType.TOPIC, spec.name) for spec in there]
    described = admin.describe_configs(resources, request_timeout=_TIMEOUT_SECONDS)
    found: dict[str, dict[str, str]] = {}
    for resource, future in described.items():
        try:
            entries = waited(future, f"describing topic {resource.name}")
        except ck.KafkaException as exception:
            raise translate(
                kafka_error(exception), f"describing topic {resource.name}"
            ) from None
        found[resource.name] = {name: entry.value for name, entry in entries.items()}
    return {
        spec.name: _fit(spec, found[spec.name], *sizes[spec.name]) for spec in there
    }


def _create(
    admin: AdminClient, absent: list[TopicSpec], replication_factor: int
) -> None:
    if not absent:
        return
    safe = (
        {"min.insync.replicas": "2"} if replication_factor >= _REPLICATED else {}
    )  # -1: the broker's own default
    new = [
        NewTopic(
            spec.name,
            spec.partitions,
            replication_factor,
            config={**spec.config, **safe},
        )
        for spec in absent
    ]
    for name, future in admin.create_topics(
        new, operation_timeout=_TIMEOUT_SECONDS
    ).items():
        try:
            waited(future, f"creating topic {name}")
        except ck.KafkaException as exception:
            error = kafka_error(exception)
            if (
                error.code() != ck.KafkaError.TOPIC_ALREADY_EXISTS
            ):  # another worker was faster
                raise translate(error, f"creating topic {name}") from None
        else:
            _log.info("topic created", extra={"topic": name})


def _partition_faults(spec: TopicSpec, found: int) -> list[str]:
    if found == spec.partitions or spec.partitions_key is None:
        return []
    remedy = f"set {spec.partitions_key} = {found}, or start anew with another kafka.topic_prefix"
    return [
        f"topic {spec.name} has {found} partitions, configured are {spec.partitions}; {remedy}"
    ]


def _fit(
    spec: TopicSpec, found: dict[str, str], partitions: int, replicas: int
) -> TopicCheck:
    alter = f"kafka-configs --alter --entity-type topics --entity-name {spec.name} --add-config"
    policy, in_sync = (
        found.get("cleanup.policy"),
        int(found.get("min.insync.replicas", "1")),
    )
    wanted_policy, faults, warnings = (
        spec.config["cleanup.policy"],
        _partition_faults(spec, partitions),
        [],
    )
    if policy != wanted_policy:
        wanted = f"needed is {wanted_policy}; {alter} cleanup.policy={wanted_policy}"
        faults.append(f"topic {spec.name} has cleanup.policy={policy}, {wanted}")
    if in_sync > replicas:
        wanted = f"at most its {replicas} replicas can be in sync; {alter} min.insync.replicas={replicas}"
        faults.append(f"topic {spec.name} has min.insync.replicas={in_sync}, {wanted}")
    if in_sync == 1 and replicas >= _REPLICATED:
        warnings.append(
            ("a record may be in one replica only", f"{alter} min.insync.replicas=2")
        )
    if int(found.get("max.message.bytes", _LARGE_BYTES)) < _LARGE_BYTES:
        warnings.append(
            (
                "a large record would be refused",
                f"{alter} max.message.bytes={_LARGE_BYTES}",
            )
        )
    warnings += [
        (
            "compaction is slower than it should be",
            f"{alter} {name}={spec.config[name]}",
        )
        for name in sorted(spec.config.keys() & _COMPACTION.keys() - {"cleanup.policy"})
        if found.get(name) != spec.config[name]
    ]
    return TopicCheck(found, faults, warnings)


def waited(future: Future[_T], doing: str, seconds: float = 2 * _TIMEOUT_SECONDS) -> _T:
    """What it brings. Raises `KafkaException`, and KafkaUnavailable where it brings nothing in time."""
    try:
        return future.result(timeout=seconds)
    except FutureTimeoutError:
        raise KafkaUnavailable(f"{doing}: no answer within {seconds:g} s") from None
