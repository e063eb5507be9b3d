"""Compares existing topics with the ones that the connector needs. Pure."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from connector.core.model import Value

if TYPE_CHECKING:
    from connector.kafka.admin import TopicSize, TopicSpec

# From this many replicas on, two of them must acknowledge a record.
SAFE_REPLICAS: Final = 3

COMPACTION: Final = {
    # With the brokers' defaults, a restore after a week of 80 symbols reads 1.6 million
    # records.
    "segment.ms": "600000",
    "max.compaction.lag.ms": "600000",
    "min.cleanable.dirty.ratio": "0.1",
}

# The largest record: an entry is at most 64 KiB, and events and states hold two.
_LARGE_RECORD_BYTES: Final = 192 * 1024

# The brokers' limits for the time of a record, the least that we need, and what a lower one
# refuses. Clocks that agree are within a minute.
_TIME_LIMITS: Final = (
    (
        "message.timestamp.before.max.ms",
        7 * 86_400_000,
        "events that waited for Kafka, and states that are written again,",
    ),
    (
        "message.timestamp.after.max.ms",
        60_000,
        "records of a clock that is a little ahead",
    ),
)


class TopicCheck(Value, frozen=True):
    """An existing topic compared with its spec.

    With a fault the topic cannot be used. A warning is a drawback and its remedy.
    """

    config: dict[str, str]
    faults: list[str]
    warnings: list[tuple[str, str]]


def check_topic(spec: TopicSpec, config: dict[str, str], size: TopicSize) -> TopicCheck:
    """Compare a topic's settings and size with its spec."""
    faults = []
    alter = (
        "kafka-configs --alter --entity-type topics "
        f"--entity-name {spec.name} --add-config"
    )
    if spec.has_shards and size.partitions != spec.partitions:
        faults.append(
            f"topic {spec.name} has {size.partitions} partitions, but "
            f"{spec.partitions_key} is {spec.partitions}; set "
            f"{spec.partitions_key} = {size.partitions}, or use another "
            "kafka.topic_prefix"
        )

    policy, needed_policy = config.get("cleanup.policy"), spec.config["cleanup.policy"]
    if policy != needed_policy:
        faults.append(
            f"topic {spec.name} has cleanup.policy={policy}, but needs "
            f"{needed_policy}; {alter} cleanup.policy={needed_policy}"
        )

    warnings = [
        *_size_warnings(spec, config, size, alter),
        *_record_warnings(config, alter),
        *_compaction_warnings(spec, config, alter),
    ]
    return TopicCheck(config, faults, warnings)


def _size_warnings(
    spec: TopicSpec, config: dict[str, str], size: TopicSize, alter: str
) -> list[tuple[str, str]]:
    warnings = []
    may_differ = spec.partitions_key is not None and not spec.has_shards
    if may_differ and size.partitions != spec.partitions:
        # Events are written by key, whatever the count. The sequence orders the events of a
        # symbol that has moved.
        remedy = (
            f"set {spec.partitions_key} = {size.partitions} instead of "
            f"{spec.partitions}; if partitions were added, some symbols have moved"
        )
        warnings.append(("another number of partitions than configured", remedy))

    in_sync = int(config.get("min.insync.replicas", "1"))
    if in_sync == 1 and size.replicas >= SAFE_REPLICAS:
        remedy = f"{alter} min.insync.replicas=2"
        warnings.append(("a record may be on one replica only", remedy))
    if in_sync > size.replicas:
        # Since 3.7, brokers demand as many replicas as there are.
        problem = (
            f"min.insync.replicas={in_sync} is more than the replicas ({size.replicas}): "
            "brokers before Kafka 3.7 refuse every record"
        )
        remedy = f"{alter} min.insync.replicas={size.replicas}"
        warnings.append((problem, remedy))
    return warnings


def _record_warnings(config: dict[str, str], alter: str) -> list[tuple[str, str]]:
    """Return the settings by which brokers may refuse or change records of ours."""
    warnings = []
    record_limit = int(config.get("max.message.bytes", _LARGE_RECORD_BYTES))
    if record_limit < _LARGE_RECORD_BYTES:
        remedy = f"{alter} max.message.bytes={_LARGE_RECORD_BYTES}"
        warnings.append(("large records would be refused", remedy))

    if config.get("message.timestamp.type") == "LogAppendTime":
        remedy = f"{alter} message.timestamp.type=CreateTime"
        warnings.append(("records have the broker's time, not their own", remedy))
        # Then brokers do not look at the times of ours.
        return warnings

    for name, least, refused in _TIME_LIMITS:
        limit = int(config.get(name, least))
        if limit < least:
            problem = f"{name}={limit}: {refused} would be refused"
            warnings.append((problem, f"{alter} {name}={least}, or more"))
    return warnings


def _compaction_warnings(
    spec: TopicSpec, config: dict[str, str], alter: str
) -> list[tuple[str, str]]:
    warnings = []
    compaction = spec.config.keys() & COMPACTION.keys()
    for name in sorted(compaction):
        if config.get(name) != spec.config[name]:
            remedy = (
                f"{alter} {name}={spec.config[name]}; if the cluster refuses that, set "
                f"{name} in [kafka.topic] to the topic's value"
            )
            warnings.append(("compaction is slower than it should be", remedy))
    return warnings
