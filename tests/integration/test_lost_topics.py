"""Topics that are deleted, come back otherwise, or get more partitions at run time."""

from __future__ import annotations

from typing import TYPE_CHECKING

import confluent_kafka.admin as admin_api
import pytest

from connector.config.model import Kafka
from connector.core.model import Kind
from connector.kafka import admin
from connector.kafka.clients import Clients
from connector.kafka.names import Topics
from connector.kafka.reader import Reader
from connector.kafka.topic_watch import TopicWatch
from tests.support import checker
from tests.support.processes import (
    PATIENCE_SECONDS,
    start_simulator,
    start_worker,
    variables_for,
    wait_for_log,
    wait_until,
)
from tests.support.tools import run_tool
from tests.support.topics import create_topics

if TYPE_CHECKING:
    from collections.abc import Iterator

    from connector.core.model import Event
    from connector.devkit.local_kafka import LocalKafka
    from tests.conftest import Names
    from tests.support.processes import Program, Variables

SYMBOLS = ("BTCUSDT", "ETHUSDT")
# It looks at the topics each second.
HASTY_WORKER = "tests.support.hasty_worker"


class WatchedTopics:
    """The topics of a feed on a broker, and a watch of them."""

    def __init__(self, kafka: LocalKafka, names: Names) -> None:
        settings = Kafka(
            bootstrap_servers=kafka.bootstrap_servers, topic_prefix=names.topic_prefix
        )
        topics = Topics(names.topic_prefix)
        self.changes = topics.changes("all")
        self.current = topics.current("all")
        self._kafka = kafka
        self._specs = admin.topic_specs(topics, ["all"], settings)
        clients = Clients(settings)
        admin.prepare_topics(clients, self._specs, 1)
        self.reader = Reader(clients)
        self.watch = TopicWatch(clients, self.reader, self._specs)

    def create(self, topic: str, partitions: int, **config: str) -> None:
        create_topics(
            self._kafka, admin_api.NewTopic(topic, partitions, 1, config=config)
        )

    def wait_for_faults(self, *topics: str) -> None:
        """Look until exactly these topics have a fault."""

        def has_faults() -> bool:
            self.watch.look()
            return set(self.watch.faults) == set(topics)

        wait_until(has_faults, f"faults of {topics}")


@pytest.fixture
def topics(kafka: LocalKafka, names: Names) -> Iterator[WatchedTopics]:
    watched = WatchedTopics(kafka, names)
    watched.wait_for_faults()
    yield watched
    watched.reader.close()


@pytest.fixture
def simulator() -> Iterator[Program]:
    with start_simulator("--period", "1", "--limit", "0") as program:
        yield program


@pytest.fixture
def variables(kafka: LocalKafka, names: Names, simulator: Program) -> Variables:
    return variables_for(kafka, names, simulator, SYMBOLS)


def delete(kafka: LocalKafka, *topics: str) -> None:
    client = admin_api.AdminClient({"bootstrap.servers": kafka.bootstrap_servers})
    for future in client.delete_topics(list(topics)).values():
        future.result(PATIENCE_SECONDS)


def logged(caplog: pytest.LogCaptureFixture, message: str) -> dict[str, object]:
    """Return the fields of the only record with this message."""
    (found,) = (record for record in caplog.records if record.message == message)
    return vars(found)


def test_topics_that_are_gone_are_named_until_they_are_back(
    kafka: LocalKafka, topics: WatchedTopics, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    delete(kafka, topics.changes)
    topics.wait_for_faults(topics.changes)

    assert topics.watch.faults[topics.changes] == f"topic {topics.changes} is gone"
    # Further looks find the same, and are no news.
    topics.watch.look()
    assert logged(caplog, "topics are gone")["topics"] == topics.changes

    # As brokers create it by themselves: with one partition.
    topics.create(topics.changes, 1)
    topics.wait_for_faults()
    assert logged(caplog, "a topic is usable again")["topic"] == topics.changes
    partitions = logged(
        caplog, "a topic has another number of partitions; symbols move between them"
    )
    assert partitions["partitions"] == 1
    assert partitions["partitions_before"] == 6
    drawback = str(logged(caplog, "a topic has been changed")["drawback"])
    assert "set kafka.partitions = 1 instead of 6" in drawback


def test_a_state_topic_that_comes_back_without_compaction_is_a_fault(
    kafka: LocalKafka, topics: WatchedTopics, caplog: pytest.LogCaptureFixture
) -> None:
    delete(kafka, topics.current)
    topics.wait_for_faults(topics.current)
    topics.create(topics.current, 1)

    def is_found() -> bool:
        topics.watch.look()
        return "cleanup.policy=delete" in topics.watch.faults.get(topics.current, "")

    wait_until(is_found, "the other policy")
    fault = str(logged(caplog, "a topic does not fit")["fault"])
    # The message has the command that corrects it.
    assert "--add-config cleanup.policy=compact" in fault


def test_a_broker_that_is_away_changes_no_verdict(
    topics: WatchedTopics, names: Names
) -> None:
    nowhere = Kafka(bootstrap_servers="127.0.0.1:1", topic_prefix=names.topic_prefix)
    clients = Clients(nowhere)
    reader = Reader(clients)
    watch = TopicWatch(clients, reader, topics._specs)
    watch.faults = {topics.changes: "a fault"}
    watch.look()
    assert watch.faults == {topics.changes: "a fault"}
    reader.close()


def test_sequences_continue_after_the_states_were_deleted(
    kafka: LocalKafka, names: Names, variables: Variables
) -> None:
    current = f"{names.topic_prefix}.all.current"
    client = admin_api.AdminClient({"bootstrap.servers": kafka.bootstrap_servers})

    def events_of_btc() -> list[Event]:
        events = checker.events(kafka, names.topic_prefix)
        return [event for event in events if event.symbol == "BTCUSDT"]

    def is_gone() -> bool:
        return current not in client.list_topics(timeout=PATIENCE_SECONDS).topics

    with start_worker(variables) as worker:
        wait_until(lambda: len(events_of_btc()) > 2, "events", worker)
        assert worker.terminate() == 0
    before = len(events_of_btc())
    delete(kafka, current)
    wait_until(is_gone, "the topic is gone")

    _, printed = run_tool("check", variables=variables)
    assert f"{current}: absent, but others exist: its states are lost" in printed
    with start_worker(variables) as worker:
        wait_until(lambda: len(events_of_btc()) > before + 2, "events", worker)
        assert worker.terminate() == 0

    events = events_of_btc()
    assert [event.sequence for event in events] == list(range(1, len(events) + 1))
    # What is between the two cannot be known.
    assert events[before].kind is Kind.SNAPSHOT
    code, printed = run_tool("verify", variables=variables)
    assert code == 0, printed


def test_a_worker_names_a_deleted_topic_and_publishes_again_when_it_is_back(
    kafka: LocalKafka, names: Names, variables: Variables
) -> None:
    changes = f"{names.topic_prefix}.all.changes"
    quarantine = f"{names.topic_prefix}.quarantine"
    is_faulty = f'gex_topic_fault{{topic="{changes}"}} 1.0'

    def sequences() -> list[int]:
        events = checker.events(kafka, names.topic_prefix)
        return [event.sequence for event in events if event.symbol == "BTCUSDT"]

    def has_changed() -> bool:
        events = checker.events(kafka, names.topic_prefix)
        return any(event.kind is Kind.CHANGED for event in events)

    with start_worker(variables, module=HASTY_WORKER) as worker:
        wait_until(has_changed, "an event", worker)
        last = max(sequences())
        delete(kafka, changes, quarantine)

        wait_for_log(worker, "topics are gone")
        _, printed = run_tool("check", variables=variables)
        assert f"warn  topics         {changes}: absent, but others exist" in printed
        reasons = worker.text_of_error("/health/ready")
        assert f"topic {changes} is gone" in reasons
        # Events do not need it.
        assert quarantine not in reasons
        assert worker.ask("/health/live")["ok"]
        wait_until(lambda: is_faulty in worker.text("/metrics"), "the metric", worker)

        create_topics(kafka, admin_api.NewTopic(changes, 1, 1))
        wait_until(sequences, "events in the new topic", worker)
        wait_until(worker.ready, "ready again", worker)
        # The sequence continues, because `current` has it.
        assert min(sequences()) > last
        assert worker.terminate() == 0

    # The other number of partitions does not keep a worker from starting.
    code, printed = run_tool("check", variables=variables)
    assert code == 0, printed
    assert "set kafka.partitions = 1" in printed
    with start_worker(variables) as worker:
        assert "another number of partitions than configured" in worker.log()
        assert worker.terminate() == 0
