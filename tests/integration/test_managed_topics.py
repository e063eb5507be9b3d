"""Clusters that refuse some settings of topics, as managed ones do."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import confluent_kafka.admin as admin_api
import pytest

from connector.kafka.admin import LEFT_OUT
from tests.support.log_messages import SHARD_OPEN
from tests.support.managed import ManagedKafka
from tests.support.processes import (
    PATIENCE_SECONDS,
    start_simulator,
    start_worker,
    variables_for,
    wait_for_log,
)
from tests.support.tools import run_tool

if TYPE_CHECKING:
    from collections.abc import Iterator

    from connector.devkit.local_kafka import LocalKafka
    from tests.conftest import Names
    from tests.support.processes import Program

# Confluent Cloud lets nobody set the first, and its smallest clusters not the second.
REFUSED = ("min.cleanable.dirty.ratio", "segment.ms")
NOT_SET = dict.fromkeys(REFUSED, "")
ABOUT_COMPACTION = {"cleanup.policy", "max.compaction.lag.ms", *REFUSED}
SLOW_COMPACTION = "compaction is slower than it should be"


@pytest.fixture(scope="module", params=[False, True], ids=["policy", "unknown"])
def managed(
    tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest
) -> Iterator[LocalKafka]:
    folder = tmp_path_factory.mktemp("managed")
    with ManagedKafka(folder, REFUSED, unknown=request.param) as broker:
        yield broker


@pytest.fixture(scope="module")
def simulator() -> Iterator[Program]:
    with start_simulator("--limit", "0") as program:
        yield program


@pytest.fixture
def variables(managed: LocalKafka, names: Names, simulator: Program) -> dict[str, str]:
    return variables_for(managed, names, simulator, ["BTCUSDT"])


def configured(settings: dict[str, object]) -> dict[str, str]:
    """Return the variable that sets `[kafka.topic]`."""
    return {"GEX_KAFKA__TOPIC": json.dumps(settings)}


def settings_of(kafka: LocalKafka, topic: str) -> dict[str, str]:
    """Return the settings of a topic about compaction that differ from the broker's."""
    client = admin_api.AdminClient({"bootstrap.servers": kafka.bootstrap_servers})
    resource = admin_api.ConfigResource(admin_api.ResourceType.TOPIC, topic)
    entries = client.describe_configs([resource])[resource].result(PATIENCE_SECONDS)
    return {
        name: entry.value
        for name, entry in entries.items()
        if name in ABOUT_COMPACTION and not entry.is_default
    }


def logged(worker: Program, message: str) -> list[dict[str, str]]:
    """Return the log lines with a message."""
    lines = [json.loads(line) for line in worker.lines()]
    return [line for line in lines if line["message"] == message]


def test_optional_settings_that_are_refused_are_left_out_with_a_warning(
    managed: LocalKafka, names: Names, variables: dict[str, str]
) -> None:
    current = f"{names.topic_prefix}.all.current"

    code, printed = run_tool("check", variables=variables)
    assert code == 0, printed
    warned = [line for line in printed.splitlines() if line.startswith("warn  topics")]
    assert len(warned) == 1, printed
    for expected in (current, "segment.ms=600000, min.cleanable.dirty.ratio=0.1"):
        assert expected in warned[0]

    with start_worker(variables) as worker:
        wait_for_log(worker, SHARD_OPEN)
        assert worker.terminate() == 0
        left_out = logged(worker, LEFT_OUT)

    assert {line["topic"] for line in left_out} == {current}
    assert {line["setting"] for line in left_out} == {
        "min.cleanable.dirty.ratio=0.1",
        "segment.ms=600000",
    }
    # The cluster takes the third, which bounds a restore by itself.
    created = settings_of(managed, current)
    assert created == {"cleanup.policy": "compact", "max.compaction.lag.ms": "600000"}


def test_configured_settings_replace_ours_and_nothing_is_warned_of(
    managed: LocalKafka, names: Names, variables: dict[str, str]
) -> None:
    chosen = configured({**NOT_SET, "max.compaction.lag.ms": 300_000})
    settings = {**variables, **chosen}

    code, printed = run_tool("check", variables=settings)
    assert code == 0, printed
    assert "warn  topics" not in printed

    # The second worker finds the topics of the first.
    for _ in range(2):
        with start_worker(settings) as worker:
            wait_for_log(worker, SHARD_OPEN)
            assert worker.terminate() == 0
            assert logged(worker, LEFT_OUT) == []
            assert logged(worker, SLOW_COMPACTION) == []

    created = settings_of(managed, f"{names.topic_prefix}.all.current")
    assert created == {"cleanup.policy": "compact", "max.compaction.lag.ms": "300000"}


def test_a_configured_setting_that_is_refused_ends_the_start_with_the_command(
    variables: dict[str, str], names: Names
) -> None:
    settings = {**variables, **configured({"segment.ms": 3_600_000})}
    command = (
        "create it by hand: kafka-topics --bootstrap-server "
        f"{variables['GEX_KAFKA__BOOTSTRAP_SERVERS']} --create --topic "
        f"{names.topic_prefix}.all.current --partitions 1 --config "
    )

    code, printed = run_tool("check", variables=settings)
    assert code == 3, printed
    assert command in printed

    with start_worker(settings, wait_ready=False) as worker:
        assert worker.wait() == 3, worker.log()
        log = worker.log()
    last_line = log.splitlines()[-1]
    for expected in ("not started", command, "[kafka.topic]"):
        assert expected in last_line
    # Waiting would not help.
    assert "is not usable yet" not in log
