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
    admin = AdminClient({"bootstrap.servers": kafka.bootstrap_servers})
    admin.create_topics([NewTopic(topic, 1, 1)])[topic].result(PATIENCE_SECONDS)


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
        return bool(select.select([descriptor], [], [], PATIENCE_SECONDS)[0])
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
    for value, end in (("a", "commit"), ("b", "abort"), ("c", "commit")):
        producer.begin_transaction()
        producer.produce(names.topic_prefix, value)
        producer.flush(PATIENCE_SECONDS)
        getattr(producer, f"{end}_transaction")(PATIENCE_SECONDS)
    assert committed(kafka, names.topic_prefix, 2) == [b"a", b"c"]


def test_writing_to_a_topic_does_not_create_it(kafka: LocalKafka, names: Names) -> None:
    producer = Producer(
        {"bootstrap.servers": kafka.bootstrap_servers, "message.timeout.ms": 1000}
    )
    errors: list[object] = []
    producer.produce(
        names.topic_prefix, b"a", on_delivery=lambda error, _: errors.append(error)
    )
    producer.flush(PATIENCE_SECONDS)
    assert errors[0] is not None
    assert (
        names.topic_prefix not in producer.list_topics(timeout=PATIENCE_SECONDS).topics
    )


def test_records_survive_a_kill_and_a_stop(tmp_path: Path) -> None:
    with LocalKafka(tmp_path) as broker:
        create_topic(broker, "t")
        produce(broker, "t", b"a", b"b")
        address, pid = broker.bootstrap_servers, broker.pid
        broker.kill()
        assert not broker.running
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
    assert {address for address, _ in sockets | listening(registry.pid)} == {
        "127.0.0.1"
    }
    assert len(listening(registry.pid)) == 2  # the API and its management


def test_the_registry_requires_full_transitive_compatibility(
    registry: LocalRegistry,
) -> None:
    with urllib.request.urlopen(
        f"{registry.url}/config", timeout=PATIENCE_SECONDS
    ) as response:
        assert b"FULL_TRANSITIVE" in response.read()


def test_a_second_start_downloads_nothing(
    kafka: LocalKafka, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(jars, "_maven", lambda _: pytest.fail("a file was downloaded"))
    assert len(jars.fetch_set("kafka")) > 40


def test_a_port_in_use_is_refused(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(SetupError, match=f"127.0.0.1:{port} is in use"):
            LocalKafka(tmp_path, port=port).start()


def test_a_broker_that_does_not_start_shows_its_log(tmp_path: Path) -> None:
    with pytest.raises(
        KafkaUnavailable, match=r"(?s)ended with status 1.*kafka\.log.*num\.io\.threads"
    ):
        LocalKafka(tmp_path, extra={"num.io.threads": "none"}).start()


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
        assert {f"{key}={value}" for key, value in extra.items()} <= set(written)
        assert signed_in(broker, "secret").list_topics(timeout=PATIENCE_SECONDS).brokers
        with pytest.raises(KafkaException):
            signed_in(broker, "wrong").list_topics(timeout=2)


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
        line = command.stdout.readline()
        assert line.startswith("Kafka 4.3.1 on 127.0.0.1:")
        assert f"data in {tmp_path}" in line
        os.killpg(command.pid, signal.SIGINT)  # as a terminal does
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
        parent.kill()
    assert ends(int(pid))
