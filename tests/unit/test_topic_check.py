"""Existing topics, compared with the ones that a worker needs."""

from __future__ import annotations

import pytest

from connector.config.model import Kafka
from connector.kafka.admin import TopicSize, TopicSpec, topic_specs
from connector.kafka.names import Topics
from connector.kafka.topic_check import TopicCheck, check_topic

_, CHANGES, CURRENT = topic_specs(Topics("levels"), ["all"], Kafka())


def checked(spec: TopicSpec = CHANGES, **settings: str) -> TopicCheck:
    """Check a topic that differs in some settings. `_` in a setting means a dot."""
    different = {name.replace("_", "."): value for name, value in settings.items()}
    size = TopicSize(spec.partitions, replicas=1)
    return check_topic(spec, {**spec.config, **different}, size)


def only_warning(found: TopicCheck) -> tuple[str, str]:
    assert not found.faults
    (warning,) = found.warnings
    return warning


@pytest.mark.parametrize("spec", [CHANGES, CURRENT])
def test_a_topic_as_we_create_it_has_no_fault_and_no_drawback(spec: TopicSpec) -> None:
    # Kafka's defaults.
    found = checked(
        spec,
        message_timestamp_before_max_ms="9223372036854775807",
        message_timestamp_after_max_ms="3600000",
    )

    assert not found.faults
    assert not found.warnings


def test_records_with_the_times_of_the_broker_are_a_drawback() -> None:
    drawback, remedy = only_warning(checked(message_timestamp_type="LogAppendTime"))

    assert drawback == "records have the broker's time, not their own"
    assert remedy.endswith("--add-config message.timestamp.type=CreateTime")


def test_more_in_sync_replicas_than_there_are_end_no_worker() -> None:
    # Kafka 4.3.1 takes the records.
    drawback, remedy = only_warning(checked(min_insync_replicas="2"))

    assert "more than the replicas (1): brokers before Kafka 3.7 refuse" in drawback
    assert remedy.endswith("--add-config min.insync.replicas=1")


@pytest.mark.parametrize(
    ("setting", "value", "refused"),
    [
        ("message_timestamp_before_max_ms", "3600000", "states that are written again"),
        ("message_timestamp_after_max_ms", "1000", "a clock that is a little ahead"),
    ],
)
def test_a_narrow_limit_for_the_time_of_records_is_a_drawback(
    setting: str, value: str, refused: str
) -> None:
    drawback, remedy = only_warning(checked(CURRENT, **{setting: value}))

    assert refused in drawback
    assert f"--add-config {setting.replace('_', '.')}=" in remedy
