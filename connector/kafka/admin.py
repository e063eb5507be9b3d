"""Administration of the cluster: metadata, and topics that are created and checked."""

from __future__ import annotations

import logging
from concurrent.futures import TimeoutError as FutureTimeoutError
from typing import TYPE_CHECKING, Final, TypeVar

import confluent_kafka as ck
from confluent_kafka.admin import (
    AdminClient,
    ConfigResource,
    OffsetSpec,
    ResourceType,
)

from connector.core.model import Value
from connector.errors import KafkaError, KafkaUnavailable, SetupError
from connector.kafka.creation import TopicCreator, combined
from connector.kafka.errors import (
    kafka_error,
    new_client,
    serve_callbacks,
    translating,
)
from connector.kafka.limits import limit_faults
from connector.kafka.topic_check import COMPACTION, SAFE_REPLICAS, check_topic

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from concurrent.futures import Future

    from confluent_kafka.admin import (
        ClusterMetadata,
        ListOffsetsResultInfo,
        TopicMetadata,
    )

    from connector.config.model import Kafka
    from connector.config.secrets import Setting
    from connector.kafka.clients import Clients
    from connector.kafka.names import Partition, Topics
    from connector.kafka.topic_check import TopicCheck

_log = logging.getLogger(__name__)
_T = TypeVar("_T")

REQUEST_TIMEOUT_SECONDS: Final = 10
# Longer than the request: a future that never completes has been seen.
_FUTURE_TIMEOUT_SECONDS: Final = 2 * REQUEST_TIMEOUT_SECONDS

# Short, because the start tries again, and reports each attempt.
_FIRST_ANSWER_SECONDS: Final = 3

_DAY_MS: Final = 86_400_000

LEFT_OUT: Final = "the cluster refuses a setting; the topic is created without it"


class TopicSpec(Value, frozen=True):
    """A topic as the connector needs it.

    `partitions_key` is the configuration key of the partition count, None if any count
    will do. `optional` names the settings of `config` that the topic can do without.
    `has_shards` says that the partitions are shards, so that another count would separate
    symbols from their states.
    """

    name: str
    partitions: int
    partitions_key: str | None
    config: dict[str, str]
    optional: frozenset[str] = frozenset()
    has_shards: bool = False


class TopicSize(Value, frozen=True):
    """The partitions of an existing topic, and the replicas of each."""

    partitions: int
    replicas: int


def topic_specs(topics: Topics, feeds: Iterable[str], kafka: Kafka) -> list[TopicSpec]:
    """Return every topic that the configuration needs."""
    retention = {
        "cleanup.policy": "delete",
        "retention.ms": str(kafka.retention_days * _DAY_MS),
    }
    compaction = {"cleanup.policy": "compact"}
    safety = {}
    # A replication factor of -1 leaves this setting to the broker, too.
    if kafka.replication_factor >= SAFE_REPLICAS:
        safety["min.insync.replicas"] = "2"

    # The configured settings replace ours.
    configured = {name: _text(value) for name, value in kafka.topic.items()}
    kept, optional_kept = _settings(retention, safety, configured)
    compacted, optional_compacted = _settings(
        compaction, COMPACTION | safety, configured
    )
    specs = [TopicSpec(topics.quarantine, 1, None, kept, optional_kept)]
    for feed in feeds:
        specs.append(
            TopicSpec(
                topics.changes(feed),
                kafka.partitions,
                "kafka.partitions",
                kept,
                optional_kept,
            )
        )
        specs.append(
            TopicSpec(
                topics.current(feed),
                kafka.shards,
                "kafka.shards",
                compacted,
                optional_compacted,
                has_shards=True,
            )
        )
    return specs


def prepare_topics(
    clients: Clients, specs: list[TopicSpec], replication_factor: int
) -> None:
    """Check the brokers' limits and existing topics, then create missing topics.

    Raises:
        SetupError: limits or topics do not fit; the message lists every fault.
        KafkaUnavailable: the broker does not answer, or refuses the request.
    """
    admin = new_client(AdminClient, clients.admin())
    metadata = cluster_metadata(admin, clients, "listing topics", _FIRST_ANSWER_SECONDS)
    faults = _known_limit_faults(admin, clients, min(metadata.brokers))

    sizes = {}
    for spec in specs:
        topic = metadata.topics.get(spec.name)
        size = None if topic is None else size_of(topic)
        if size is not None:
            sizes[spec.name] = size
    checks = check_topics(admin, specs, sizes)

    # Report every fault at once.
    for name, check in checks.items():
        faults += check.faults
        for drawback, remedy in check.warnings:
            _log.warning(drawback, extra={"topic": name, "remedy": remedy})
    if faults:
        raise SetupError("\n".join(faults))

    missing = [spec for spec in specs if spec.name not in sizes]
    _create(admin, clients, missing, replication_factor)


def size_of(topic: TopicMetadata) -> TopicSize | None:
    """Return the size of a topic, None if there is no such topic."""
    replicas = [len(partition.replicas) for partition in topic.partitions.values()]
    return TopicSize(len(replicas), min(replicas)) if replicas else None


def broker_settings(admin: AdminClient, broker_id: int) -> dict[str, str]:
    """Return the settings of a broker.

    Raises KafkaError, and AccessDenied without the right to read them.
    """
    resource = ConfigResource(ResourceType.BROKER, str(broker_id))
    described = admin.describe_configs(
        [resource], request_timeout=REQUEST_TIMEOUT_SECONDS
    )
    entries = wait_for(described[resource], f"describing broker {broker_id}")
    return {name: entry.value for name, entry in entries.items()}


def check_topics(
    admin: AdminClient, specs: list[TopicSpec], sizes: Mapping[str, TopicSize]
) -> dict[str, TopicCheck]:
    """Compare each topic that has a size with its spec. Raises KafkaUnavailable."""
    existing = [spec for spec in specs if spec.name in sizes]
    if not existing:
        return {}
    resources = [ConfigResource(ResourceType.TOPIC, spec.name) for spec in existing]
    described = admin.describe_configs(
        resources, request_timeout=REQUEST_TIMEOUT_SECONDS
    )
    configs: dict[str, dict[str, str]] = {}
    for resource, future in described.items():
        entries = wait_for(future, f"describing topic {resource.name}")
        configs[resource.name] = {name: entry.value for name, entry in entries.items()}

    checks = {}
    for spec in existing:
        name = spec.name
        checks[name] = check_topic(spec, configs[name], sizes[name])
    return checks


def cluster_metadata(
    client: AdminClient | ck.Consumer,
    clients: Clients,
    action: str,
    timeout_seconds: float = REQUEST_TIMEOUT_SECONDS,
) -> ClusterMetadata:
    """Return the brokers and topics of the cluster. Raises KafkaUnavailable.

    On a large cluster this costs megabytes: do not call it again and again.
    """
    with translating(action, clients):
        try:
            metadata = client.list_topics(timeout=timeout_seconds)
        except ck.KafkaException:
            # The error callback hears the reason, such as a wrong password.
            serve_callbacks(client)
            raise
    clients.reachability.reached()
    if not metadata.brokers:
        # While the cluster starts.
        raise KafkaUnavailable(f"{action}: the cluster has no broker yet")
    return metadata


def offsets_of(
    partitions: Iterable[Partition],
    spec: OffsetSpec,
    action: str,
    admin: AdminClient,
    clients: Clients,
) -> dict[Partition, ListOffsetsResultInfo]:
    """Return the offset that `spec` asks for, of each partition, with its record's time.

    Raises KafkaError, whose message begins with `action`.
    """
    request = {ck.TopicPartition(*partition): spec for partition in partitions}
    with translating(action, clients):
        futures = admin.list_offsets(request, request_timeout=REQUEST_TIMEOUT_SECONDS)
    found = {}
    for asked, future in futures.items():
        found[asked.topic, asked.partition] = wait_for(future, action, clients)
    return found


def newest_record() -> OffsetSpec:
    """Return the question for the record with the latest time.

    The offset is -1 if there are no records. The end of a transaction counts as a record.
    """
    newest: OffsetSpec = OffsetSpec.max_timestamp()  # type: ignore[no-untyped-call] # the library has no type
    return newest


def end_of_partition() -> OffsetSpec:
    """Return the question for the offset of the next record, committed or not."""
    end: OffsetSpec = OffsetSpec.latest()  # type: ignore[no-untyped-call] # as above
    return end


def wait_for(future: Future[_T], action: str, clients: Clients | None = None) -> _T:
    """Return the result of a request. Raises KafkaError."""
    with translating(action, clients):
        return _result(future, action)


def wait_unless(
    expected_code: int, future: Future[_T], action: str, clients: Clients | None = None
) -> _T | None:
    """Return the result of a request, or None if it fails with `expected_code`.

    Raises KafkaError for any other error.
    """
    with translating(action, clients):
        try:
            return _result(future, action)
        except ck.KafkaException as exception:
            if kafka_error(exception).code() == expected_code:
                return None
            raise


def _result(future: Future[_T], action: str) -> _T:
    seconds = _FUTURE_TIMEOUT_SECONDS
    try:
        return future.result(timeout=seconds)
    except FutureTimeoutError:
        raise KafkaUnavailable(f"{action}: no answer within {seconds:g} s") from None


def _known_limit_faults(
    admin: AdminClient, clients: Clients, broker_id: int
) -> list[str]:
    """Return our time-outs that the brokers would refuse, as far as can be known."""
    try:
        settings = broker_settings(admin, broker_id)
    except KafkaError as error:
        # Workers need no right to read them. The brokers' refusal names the limit, too.
        _log.debug("cannot read the brokers' limits", extra={"error": str(error)})
        return []
    return limit_faults(clients, settings)


def _create(
    admin: AdminClient,
    clients: Clients,
    specs: list[TopicSpec],
    replication_factor: int,
) -> None:
    if not specs:
        return
    creator = TopicCreator(admin, clients.servers, replication_factor)
    failures = []
    for creation in creator.create(specs):
        name = creation.spec.name
        if creation.error is not None:
            failures.append(creation.error)
            continue
        if not creation.existed:
            _log.info("topic created", extra={"topic": name})
        for setting, value in creation.left_out.items():
            fields = {"topic": name, "setting": f"{setting}={value}"}
            _log.warning(LEFT_OUT, extra=fields)
    if failures:
        raise combined(failures)


def _settings(
    needed: Mapping[str, str],
    optional: Mapping[str, str],
    configured: Mapping[str, str],
) -> tuple[dict[str, str], frozenset[str]]:
    """Return a topic's settings, and the names of those that it can do without."""
    # An empty text leaves a setting to the brokers.
    config = {
        name: value
        for name, value in {**needed, **optional, **configured}.items()
        if value
    }
    # Whoever configures a setting wants to hear that the cluster refuses it.
    return config, frozenset(optional.keys() - configured.keys())


def _text(value: Setting) -> str:
    """Return a configured value as Kafka writes it."""
    return str(value).lower() if isinstance(value, bool) else str(value)
