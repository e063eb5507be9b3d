"""The topics that a configuration needs, with their settings."""

from __future__ import annotations

import pytest

from connector.config.model import Kafka
from connector.config.secrets import ClientSettings, Setting
from connector.kafka.admin import TopicSpec, topic_specs
from connector.kafka.names import Topics

OURS = {"segment.ms", "max.compaction.lag.ms", "min.cleanable.dirty.ratio"}


def specs(replication_factor: int = -1, **configured: Setting) -> dict[str, TopicSpec]:
    """Return the specs by the last part of their names. `_` in a setting means a dot."""
    settings = {name.replace("_", "."): value for name, value in configured.items()}
    kafka = Kafka(replication_factor=replication_factor, topic=ClientSettings(settings))
    found = topic_specs(Topics("levels"), ["all"], kafka)
    return {spec.name.rpartition(".")[2]: spec for spec in found}


def test_current_can_do_without_the_settings_that_only_make_it_smaller() -> None:
    current = specs()["current"]

    assert current.config["cleanup.policy"] == "compact"
    assert current.optional == OURS


def test_no_topic_can_do_without_its_policy_and_retention() -> None:
    for spec in specs().values():
        assert not {"cleanup.policy", "retention.ms"} & spec.optional


@pytest.mark.parametrize("name", ["changes", "current", "quarantine"])
def test_three_replicas_are_worth_two_in_sync_unless_the_cluster_refuses(
    name: str,
) -> None:
    assert "min.insync.replicas" not in specs()[name].config

    spec = specs(replication_factor=3)[name]

    assert spec.config["min.insync.replicas"] == "2"
    assert "min.insync.replicas" in spec.optional


def test_a_configured_setting_is_one_that_a_topic_cannot_do_without() -> None:
    for spec in specs(segment_ms=3_600_000, compression_type="zstd").values():
        assert spec.config["segment.ms"] == "3600000"
        assert spec.config["compression.type"] == "zstd"
        assert not {"segment.ms", "compression.type"} & spec.optional


def test_an_empty_text_leaves_a_setting_to_the_brokers() -> None:
    current = specs(segment_ms="")["current"]

    assert current.config.keys() & OURS == OURS - {"segment.ms"}
    assert current.optional == OURS - {"segment.ms"}


def test_a_boolean_is_written_as_kafka_reads_it() -> None:
    spec = specs(preallocate=True)["changes"]
    assert spec.config["preallocate"] == "true"
