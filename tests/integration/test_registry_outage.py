"""A registry that is away, or something else that answers in its place."""

from __future__ import annotations

from contextlib import suppress
from typing import TYPE_CHECKING

import pytest
from msgspec.structs import replace

from connector.config.model import Kafka
from connector.errors import AccessDenied, KafkaUnavailable, ShardCorrupt
from connector.kafka import admin
from connector.kafka.avro import EVENT, STATE, schema
from connector.kafka.clients import Clients
from connector.kafka.names import Topics
from connector.kafka.orphans import OrphanTopics
from connector.kafka.reader import Reader
from connector.kafka.registry import Registry
from connector.kafka.shard_log import Transaction
from tests.support.log_messages import NOT_USABLE_YET, SHARD_OPEN
from tests.support.log_statements import changed
from tests.support.processes import (
    start_simulator,
    start_worker,
    variables_for,
    wait_for_log,
    wait_until,
)
from tests.support.registry_front import STRANGE, Answer, RegistryFront
from tests.support.tools import run_tool

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from connector.devkit.local_kafka import LocalKafka
    from tests.conftest import Names
    from tests.support.processes import Variables
    from tests.support.registry import LocalRegistry

JSON = "application/json"
DENIED = Answer(403, b'{"error_code":40301,"message":"denied"}', JSON)
READ_ONLY = Answer(422, b'{"error_code":42205,"message":"read-only mode"}', JSON)
NOT_SET = Answer(404, b'{"error_code":40408,"message":"not set"}', JSON)
UNAUTHORIZED = Answer(401, b"<html>Who are you?</html>")
SHORT_START = {"GEX_KAFKA__START_TIMEOUT_SECONDS": "2"}
# The first answers of a registry that is not there yet.
NOT_ONE = "does not answer as one"


@pytest.fixture
def front(registry: LocalRegistry) -> Iterator[RegistryFront]:
    with RegistryFront(registry).running() as running:
        yield running


@pytest.fixture
def framing(front: RegistryFront) -> Iterator[Registry]:
    client = Registry(front.url, {})
    yield client
    client.close()


@pytest.fixture
def variables(
    kafka: LocalKafka, front: RegistryFront, names: Names
) -> Iterator[Variables]:
    with start_simulator("--limit", "0") as simulator:
        settings = variables_for(kafka, names, simulator, ["BTCUSDT"])
        yield settings | {"GEX_SCHEMA_REGISTRY__URL": front.url}


# --- the answers ---


def calls(framing: Registry, topic: str) -> list[Callable[[], object]]:
    """Return every call that needs the registry."""
    return [
        lambda: framing.prepare(topic, EVENT),
        lambda: framing.has_schema(topic, EVENT),
        lambda: framing.has_subject(topic),
        framing.compatibility,
        lambda: framing.written_with(b"\x00\x7f\x00\x00\x01"),
    ]


@pytest.mark.parametrize("name", STRANGE)
def test_an_answer_of_another_form_is_an_outage(
    front: RegistryFront, framing: Registry, names: Names, name: str
) -> None:
    front.answer = STRANGE[name]

    for call in calls(framing, names.topic_prefix):
        with pytest.raises(KafkaUnavailable, match="the schema registry"):
            call()


@pytest.mark.parametrize("name", STRANGE)
def test_after_such_an_answer_the_registry_is_asked_again(
    front: RegistryFront, framing: Registry, names: Names, name: str
) -> None:
    front.answer = STRANGE[name]
    for call in calls(framing, names.topic_prefix):
        with pytest.raises(KafkaUnavailable):
            call()

    front.answer = None
    framing.prepare(names.topic_prefix, EVENT)

    assert framing.has_schema(names.topic_prefix, EVENT)
    assert framing.compatibility() == "FULL_TRANSITIVE"


@pytest.mark.parametrize("answer", [DENIED, UNAUTHORIZED])
def test_a_refusal_is_retried_as_a_missing_right_is(
    front: RegistryFront, framing: Registry, names: Names, answer: Answer
) -> None:
    front.answer = answer

    with pytest.raises(AccessDenied, match="refuses us"):
        framing.prepare(names.topic_prefix, EVENT)


def test_only_the_registry_can_say_that_a_schema_does_not_exist(
    front: RegistryFront, framing: Registry
) -> None:
    unknown = b"\x00\x7f\x00\x00\x01"
    with pytest.raises(ShardCorrupt, match="does not know schema 2130706433"):
        framing.written_with(unknown)

    # A gateway without a backend must not end the worker.
    front.answer = STRANGE["a page that says not found"]
    with pytest.raises(KafkaUnavailable, match=NOT_ONE):
        framing.written_with(unknown)


# --- nothing is asked twice ---


def test_a_prepared_topic_is_read_without_the_registry(
    front: RegistryFront, framing: Registry, names: Names
) -> None:
    framing.prepare(names.topic_prefix, STATE)
    front.answer = STRANGE["bad gateway"]

    value = framing.prefix(names.topic_prefix, STATE) + b"datum"
    written, start = framing.written_with(value)

    assert written == schema(STATE)
    assert value[start:] == b"datum"


def test_the_schemas_of_other_versions_are_read_without_the_registry(
    front: RegistryFront, framing: Registry, names: Names
) -> None:
    # Another version of the connector, whose schema has a field more.
    other = schema(STATE)
    other["fields"].append({"name": "added", "type": ["null", "int"], "default": None})
    subject = f"{names.topic_prefix}-value"
    other_id = framing._client.register(subject, other)

    framing.prepare(names.topic_prefix, STATE)
    front.answer = STRANGE["bad gateway"]
    written, _ = framing.written_with(b"\x00" + other_id.to_bytes(4, "big"))

    assert "added" in [field["name"] for field in written["fields"]]


def test_a_registry_that_shows_no_other_versions_can_be_used(
    front: RegistryFront, framing: Registry, names: Names
) -> None:
    front.answers = {"GET /subjects": DENIED}

    framing.prepare(names.topic_prefix, STATE)

    assert framing.prefix(names.topic_prefix, STATE)[0] == 0


def test_a_feed_that_is_not_configured_can_be_written_with_a_registry(
    kafka: LocalKafka, framing: Registry, names: Names
) -> None:
    topics = Topics(names.topic_prefix)
    settings = Kafka(
        bootstrap_servers=kafka.bootstrap_servers, topic_prefix=names.topic_prefix
    )
    clients = Clients(settings)
    admin.prepare_topics(clients, admin.topic_specs(topics, ["old"], settings), 1)
    reader = Reader(clients)
    orphans = OrphanTopics(
        ["all"],
        names.group_id,
        topics=topics,
        clients=clients,
        reader=reader,
        framing=framing,
    )
    (state,) = changed(None, 1).states
    log = orphans.log("old", 1, 0)

    def is_open() -> bool:
        # Right after a topic was created, it may not be usable.
        with suppress(KafkaUnavailable):
            log.open()
            return True
        return False

    wait_until(is_open, "the shard is open")
    log.publish(Transaction(states=(replace(state, feed="old"),)))

    (orphan,) = orphans.find()
    assert (orphan.name, orphan.symbols, orphan.partitions) == (
        "old",
        ("BTCUSDT",),
        [0],
    )
    log.abort()
    reader.close()


# --- the worker ---


@pytest.mark.parametrize("name", ["silent", "a page", "bad gateway"])
def test_a_standby_takes_over_without_the_registry(
    front: RegistryFront, variables: Variables, name: str
) -> None:
    with start_worker(variables) as worker:
        wait_for_log(worker, SHARD_OPEN)
        with start_worker(variables) as standby:
            front.silent = name == "silent"
            front.answer = STRANGE.get(name)
            front.requests.clear()
            worker.kill()

            wait_for_log(standby, SHARD_OPEN)
            assert front.requests == []
            assert standby.terminate() == 0


def test_a_worker_waits_at_its_start_for_a_registry_that_answers_as_one(
    front: RegistryFront, variables: Variables
) -> None:
    front.answer = STRANGE["a page"]
    with start_worker(variables, wait_ready=False) as worker:
        wait_for_log(worker, NOT_USABLE_YET)
        wait_for_log(worker, NOT_ONE)
        front.answer = None
        wait_for_log(worker, SHARD_OPEN)
        assert worker.terminate() == 0


@pytest.mark.parametrize("name", ["a page", "null"])
def test_a_strange_registry_is_3_after_the_start_timeout(
    front: RegistryFront, variables: Variables, name: str
) -> None:
    front.answer = STRANGE[name]

    with start_worker({**variables, **SHORT_START}, wait_ready=False) as worker:
        assert worker.wait() == 3, worker.log()
        log = worker.log()

    assert NOT_ONE in log
    assert "check schema_registry.url" in log
    assert "Traceback" not in log


# --- check ---


# The other answers differ only in the client, which is tested with all of them above.
@pytest.mark.parametrize(
    "name",
    ["a page", "another service's not found", "a redirect to a login", "wrong types"],
)
def test_check_reports_a_strange_registry(
    front: RegistryFront, variables: Variables, name: str
) -> None:
    front.answer = STRANGE[name]

    code, printed = run_tool("check", variables=variables)

    assert code == 3, printed
    (line,) = [line for line in printed.splitlines() if line.startswith("FAIL")]
    assert "registry" in line
    assert "check schema_registry.url" in line


@pytest.mark.parametrize("answer", [DENIED, NOT_SET])
def test_check_passes_if_only_the_compatibility_is_not_told(
    front: RegistryFront, variables: Variables, answer: Answer
) -> None:
    front.answers = {"GET /config": answer}

    code, printed = run_tool("check", variables=variables)

    assert code == 0, printed
    assert "compatibility unknown (the registry does not tell us)" in printed


@pytest.mark.parametrize(
    ("answer", "remedy"),
    [(DENIED, "our rights in the registry"), (READ_ONLY, "to READWRITE")],
    ids=["no right to write", "a registry that can only be read"],
)
def test_check_fails_as_a_worker_does_if_no_schema_can_be_registered(
    front: RegistryFront,
    names: Names,
    variables: Variables,
    answer: Answer,
    remedy: str,
) -> None:
    changes = f"{names.topic_prefix}.all.changes-value"
    front.answers = {f"POST /subjects/{changes}/versions": answer}

    code, printed = run_tool("check", variables=variables)

    assert code == 3, printed
    (line,) = [line for line in printed.splitlines() if line.startswith("FAIL")]
    assert line.startswith(f"FAIL  registry       {changes}: ")
    assert remedy in line
    with start_worker({**variables, **SHORT_START}, wait_ready=False) as worker:
        assert worker.wait() == 3, worker.log()
        assert remedy in worker.log()


def test_check_passes_without_the_rights_that_no_worker_needs(
    front: RegistryFront, framing: Registry, names: Names, variables: Variables
) -> None:
    front.answers = dict.fromkeys(("GET", "POST /compatibility"), DENIED)

    code, printed = run_tool("check", variables=variables)

    assert code == 0, printed
    changes = f"{names.topic_prefix}.all.changes"
    assert f"{changes}-value will be registered" in printed
    # Trying to register has left nothing behind.
    front.answers = {}
    assert not framing.has_subject(changes)


def test_check_fails_if_the_registry_refuses_us(
    front: RegistryFront, variables: Variables
) -> None:
    front.answer = UNAUTHORIZED

    code, printed = run_tool("check", variables=variables)

    assert code == 3, printed
    assert "the schema registry refuses us (401)" in printed
