"""Topics and registries with the schemas of another version or program."""

from __future__ import annotations

import io
import json
import sys
import urllib.request
from typing import TYPE_CHECKING, Any

import confluent_kafka as ck
import confluent_kafka.admin as admin_api
import fastavro
import pytest

from tests.support.processes import (
    PATIENCE_SECONDS,
    start,
    start_simulator,
    start_worker,
    variables_for,
)
from tests.support.topics import create_topics

if TYPE_CHECKING:
    from collections.abc import Iterator

    from connector.devkit.local_kafka import LocalKafka
    from tests.conftest import Names
    from tests.support.registry import LocalRegistry

# The name and the meaning of our schemas, but with types that nothing can reconcile.
OTHER_EVENT = {
    "type": "record",
    "name": "LevelsEvent",
    "namespace": "gex.levels",
    "fields": [{"name": "event_id", "type": "boolean"}],
}
OTHER_STATE = {
    "type": "record",
    "name": "LevelsState",
    "namespace": "gex.levels",
    "fields": [{"name": "feed", "type": "boolean"}],
}
REMEDY = "use another kafka.topic_prefix"


@pytest.fixture
def variables(
    kafka: LocalKafka, registry: LocalRegistry, names: Names
) -> Iterator[dict[str, str]]:
    with start_simulator("--limit", "0") as simulator:
        settings = variables_for(kafka, names, simulator, ["BTCUSDT"])
        yield settings | {"GEX_SCHEMA_REGISTRY__URL": registry.url}


def ask_registry(registry: LocalRegistry, method: str, path: str, body: object) -> Any:
    request = urllib.request.Request(
        registry.url + path,
        json.dumps(body).encode(),
        {"Content-Type": "application/json"},
        method=method,
    )
    with urllib.request.urlopen(request, timeout=PATIENCE_SECONDS) as response:
        return json.load(response)


def register(registry: LocalRegistry, subject: str, schema: object) -> int:
    body = {"schema": json.dumps(schema)}
    answer = ask_registry(registry, "POST", f"/subjects/{subject}/versions", body)
    return int(answer["id"])


def end_of(command: str, variables: dict[str, str]) -> tuple[int, str]:
    """Return the exit status and the output of a command that ends by itself."""
    if command == "run":
        with start_worker(variables, wait_ready=False) as worker:
            return worker.wait(), worker.log()
    arguments = [sys.executable, "-m", "connector", command]
    with start(arguments, variables) as program:
        return program.wait(), program.log()


@pytest.mark.parametrize("command", ["check", "run"])
def test_an_incompatible_schema_in_the_registry_is_3_with_a_remedy(
    registry: LocalRegistry, variables: dict[str, str], names: Names, command: str
) -> None:
    subject = f"{names.topic_prefix}.all.changes-value"
    register(registry, subject, OTHER_EVENT)

    code, output = end_of(command, variables)

    assert code == 3
    assert f"{subject}: our schema is incompatible" in output
    assert REMEDY in output
    # These would not help.
    assert "check schema_registry.url" not in output


def test_states_of_an_incompatible_schema_are_4_with_a_remedy(
    kafka: LocalKafka, registry: LocalRegistry, variables: dict[str, str], names: Names
) -> None:
    topic = f"{names.topic_prefix}.all.current"
    subject = f"{topic}-value"
    schema_id = register(registry, subject, OTHER_STATE)
    # Then the registry takes any schema, and only the records show the difference.
    ask_registry(registry, "PUT", f"/config/{subject}", {"compatibility": "NONE"})
    compacted = {"cleanup.policy": "compact"}
    create_topics(kafka, admin_api.NewTopic(topic, 1, 1, config=compacted))
    producer = ck.Producer({"bootstrap.servers": kafka.bootstrap_servers})
    value = b"\x00" + schema_id.to_bytes(4, "big") + encoded_other_state()
    # Only a connector names its worker. Other programs' records are skipped.
    producer.produce(topic, value, b"BTCUSDT", headers={"worker": "newer"})
    assert producer.flush(PATIENCE_SECONDS) == 0

    # This is all that `check` can see: the registry does not compare.
    _, output = end_of("check", variables)
    assert f"{subject} will get a new version" in output
    assert f"{names.topic_prefix}.all.changes-value will be registered" in output

    code, output = end_of("run", variables)

    assert code == 4
    assert f"{topic}-0, offset 0, key BTCUSDT" in output
    assert REMEDY in output
    # Short enough to be read: the reason of a mismatch is a whole schema.
    (line,) = [line for line in output.splitlines() if REMEDY in line]
    assert len(line) < 1_000


def encoded_other_state() -> bytes:
    buffer = io.BytesIO()
    fastavro.schemaless_writer(buffer, OTHER_STATE, {"feed": True})
    return buffer.getvalue()
