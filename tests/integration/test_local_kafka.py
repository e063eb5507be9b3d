"""The local broker and registry that the demo and the other tests rely on."""

from __future__ import annotations

import os
import select
import signal
import socket
import subprocess
import sys
import urllib.request
from typing import TYPE_CHECKING

import pytest
from confluent_kafka import (
    OFFSET_BEGINNING,
    Consumer,
    KafkaException,
    Producer,
    TopicPartition,
)
from confluent_kafka.admin import AdminClient
from confluent_kafka.cimpl import NewTopic

from connector.devkit import jars
from connector.devkit.local_kafka import LocalKafka
from connector.errors import KafkaUnavailable, SetupError
from tests.support.listening import listening
from tests.support.topics import create_topics

if TYPE_CHECKING:
    from pathlib import Path

    from tests.conftest import Names
    from tests.support.registry import LocalRegistry

PATIENCE_SECONDS = 60.0

RUN = "import sys; from connector.devkit.local_kafka import run_kafka; sys.exit(run_kafka(0, None))"
# The thread that starts the broker ends at once. The broker must live on, as long as the process.
START_AND_WAIT = """
import pathlib, sys, threading
from connector.devkit.local_kafka import LocalKafka
kafka = LocalKafka(pathlib.Path(sys.argv[1]))
thread = threading.Thread(target=kafka.start)
thread.start()
thread.join()
print(kafka.pid, kafka.running, flush=True)
sys.stdin.read()
"""


def create_topic(kafka: LocalKafka, topic: str) -> None:
    create_topics(kafka, NewTopic(topic, 1, 1))


def produce(kafka: LocalKafka, topic: str, *values: bytes) -> None:
    """Produce every value, and wait until each is acknowledged."""
    failures: list[object] = []

    def on_delivery(error: object, _: object) -> None:
        if error:
            failures.append(error)

    producer = Producer({"bootstrap.servers": kafka.bootstrap_servers, "acks": "all"})
    for value in values:
        producer.produce(topic, value, on_delivery=on_delivery)
    assert producer.flush(PATIENCE_SECONDS) == 0
    assert not failures


def committed(kafka: LocalKafka, topic: str, count: int) -> list[bytes | None]:
    """Return the first `count` committed values of partition 0."""
    settings = {
        "bootstrap.servers": kafka.bootstrap_servers,
        "group.id": "unused",
        "isolation.level": "read_committed",
    }
    consumer = Consumer(settings)
    consumer.assign([TopicPartition(topic, 0, OFFSET_BEGINNING)])
    messages = consumer.consume(count, PATIENCE_SECONDS)
    consumer.close()
    assert not [message.error() for message in messages if message.error()]
    return [message.value() for message in messages]


def send_transaction(
    producer: Producer, topic: str, value: str, *, commit: bool
) -> None:
    """Produce a value in a transaction of its own, and commit or abort it."""
    producer.begin_transaction()
    producer.produce(topic, value)
    # An aborted record must have reached the broker, or there is nothing to hide.
    producer.flush(PATIENCE_SECONDS)
    if commit:
        producer.commit_transaction(PATIENCE_SECONDS)
    else:
        producer.abort_transaction(PATIENCE_SECONDS)


def signed_in(kafka: LocalKafka, password: str) -> AdminClient:
    return AdminClient(
        {
            "bootstrap.servers": kafka.bootstrap_servers,
            "security.protocol": "SASL_PLAINTEXT",
            "sasl.mechanism": "PLAIN",
            "sasl.username": "gex",
            "sasl.password": password,
        }
    )


def ends(pid: int) -> bool:
    """Return True if a process has ended, or ends within our patience."""
    try:
        descriptor = os.pidfd_open(pid)
    except ProcessLookupError:
        return True
    try:
        # The descriptor of a process becomes readable at its end.
        readable, _, _ = select.select([descriptor], [], [], PATIENCE_SECONDS)
        return readable != []
    finally:
        os.close(descriptor)


def test_committed_records_are_read_and_aborted_ones_are_not(
    kafka: LocalKafka, names: Names
) -> None:
    create_topic(kafka, names.topic_prefix)
    settings = {
        "bootstrap.servers": kafka.bootstrap_servers,
        "transactional.id": names.transactional_id,
    }
    producer = Producer(settings)
    producer.init_transactions(PATIENCE_SECONDS)
    send_transaction(producer, names.topic_prefix, "a", commit=True)
    send_transaction(producer, names.topic_prefix, "b", commit=False)
    send_transaction(producer, names.topic_prefix, "c", commit=True)
    assert committed(kafka, names.topic_prefix, 2) == [b"a", b"c"]


def test_writing_to_a_topic_does_not_create_it(kafka: LocalKafka, names: Names) -> None:
    # A topic with default settings would have the wrong partitions and retention.
    settings = {"bootstrap.servers": kafka.bootstrap_servers}
    producer = Producer({**settings, "message.timeout.ms": 1000})
    errors: list[object] = []

    def on_delivery(error: object, _: object) -> None:
        errors.append(error)

    producer.produce(names.topic_prefix, b"a", on_delivery=on_delivery)
    producer.flush(PATIENCE_SECONDS)

    assert errors[0] is not None
    topics = producer.list_topics(timeout=PATIENCE_SECONDS).topics
    assert names.topic_prefix not in topics


def test_records_survive_a_kill_and_a_stop(tmp_path: Path) -> None:
    with LocalKafka(tmp_path) as broker:
        create_topic(broker, "t")
        produce(broker, "t", b"a", b"b")
        address = broker.bootstrap_servers
        pid = broker.pid

        broker.kill()
        assert not broker.running

        # Clients keep the address, so it must stay the same.
        broker.start()
        assert broker.bootstrap_servers == address
        assert broker.pid != pid
        produce(broker, "t", b"c")

    assert not broker.running
    with LocalKafka(tmp_path) as another:
        assert committed(another, "t", 3) == [b"a", b"b", b"c"]


def test_starting_a_running_broker_does_nothing(kafka: LocalKafka) -> None:
    pid = kafka.pid
    kafka.start()
    assert kafka.pid == pid


def test_broker_and_registry_listen_on_loopback_only(
    kafka: LocalKafka, registry: LocalRegistry
) -> None:
    sockets = listening(kafka.pid)
    assert ("127.0.0.1", kafka.port) in sockets
    # The registry listens for its API and its management.
    sockets_of_registry = listening(registry.pid)
    assert len(sockets_of_registry) == 2
    addresses = {address for address, _ in sockets | sockets_of_registry}
    assert addresses == {"127.0.0.1"}


def test_the_registry_requires_full_transitive_compatibility(
    registry: LocalRegistry,
) -> None:
    url = f"{registry.url}/config"
    with urllib.request.urlopen(url, timeout=PATIENCE_SECONDS) as response:
        assert b"FULL_TRANSITIVE" in response.read()


def test_a_second_start_downloads_nothing(
    kafka: LocalKafka, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(_: object) -> None:
        pytest.fail("a file was downloaded")

    # The running broker has filled the cache.
    monkeypatch.setattr(jars, "_maven", refuse)
    assert len(jars.fetch_set("kafka")) > 40


def test_a_port_in_use_is_refused(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        _, port = taken.getsockname()
        with pytest.raises(SetupError, match=f"127.0.0.1:{port} is in use"):
            LocalKafka(tmp_path, port=port).start()


def test_a_broker_that_does_not_start_shows_its_log(tmp_path: Path) -> None:
    # Kafka itself refuses the value; its reason is in its log only.
    broker = LocalKafka(tmp_path, extra={"num.io.threads": "none"})
    expected = r"(?s)ended with status 1.*kafka\.log.*num\.io\.threads"
    with pytest.raises(KafkaUnavailable, match=expected):
        broker.start()


def test_a_broker_that_is_never_ready_is_killed(tmp_path: Path) -> None:
    broker = LocalKafka(tmp_path)
    with pytest.raises(KafkaUnavailable, match="did not end in time"):
        broker.start(timeout_seconds=0)
    assert not broker.running


def test_clients_must_sign_in_if_extra_settings_require_it(
    tmp_path: Path, names: Names
) -> None:
    extra = {
        "listener.security.protocol.map": "CLIENT:SASL_PLAINTEXT,CONTROLLER:PLAINTEXT",
        "sasl.enabled.mechanisms": "PLAIN",
        "sasl.mechanism.inter.broker.protocol": "PLAIN",
        "listener.name.client.plain.sasl.jaas.config": (
            "org.apache.kafka.common.security.plain.PlainLoginModule required "
            'username="broker" password="b" user_broker="b" user_gex="secret";'
        ),
    }
    with LocalKafka(tmp_path, extra=extra) as broker:
        written = (tmp_path / "server.properties").read_text().splitlines()
        for key, value in extra.items():
            assert f"{key}={value}" in written

        friend = signed_in(broker, "secret")
        assert friend.list_topics(timeout=PATIENCE_SECONDS).brokers
        stranger = signed_in(broker, "wrong")
        # A client that is refused tries again until the timeout, so that is short.
        with pytest.raises(KafkaException):
            stranger.list_topics(timeout=2)


def test_the_command_runs_until_it_is_interrupted_and_leaves_no_files(
    tmp_path: Path,
) -> None:
    environment = os.environ | {"TMPDIR": str(tmp_path)}
    with subprocess.Popen(
        [sys.executable, "-c", RUN],
        env=environment,
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,
    ) as command:
        assert command.stdout is not None
        # The command prints a line when the broker is ready.
        line = command.stdout.readline()
        assert line.startswith("Kafka 4.3.1 on 127.0.0.1:")
        assert f"data in {tmp_path}" in line

        # A terminal sends Ctrl-C to the whole group: the broker gets it too.
        os.killpg(command.pid, signal.SIGINT)
        assert command.wait(PATIENCE_SECONDS) == 0
    assert list(tmp_path.iterdir()) == []


def test_a_broker_dies_with_the_process_that_started_it(tmp_path: Path) -> None:
    program = [sys.executable, "-c", START_AND_WAIT, str(tmp_path)]
    with subprocess.Popen(
        program, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as parent:
        assert parent.stdout is not None
        pid, running = parent.stdout.readline().split()
        assert running == "True"
        # A killed parent cannot stop anything: the kernel must do it.
        parent.kill()
    assert ends(int(pid))
