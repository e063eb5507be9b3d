"""Real Apache Kafka on loopback, without Docker or an installed Java: for the demo, and for every test of a broker."""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Self

from connector.devkit import jars
from connector.devkit.java import (
    LOOPBACK,
    STOP_TIMEOUT_SECONDS,
    JavaProcess,
    free_port,
    is_free,
)
from connector.errors import SetupError

if TYPE_CHECKING:
    from collections.abc import Mapping

VERSION = "4.3.1"
START_TIMEOUT_SECONDS = 60.0

_CLUSTER_ID = "gexLocalKafkaAAAAAAAAAA"
# Said after the broker is unfenced: from here on it serves produce and metadata.
_READY = "Kafka Server started"
_JVM = (
    "-Xmx256m",
    "-Dorg.slf4j.simpleLogger.showDateTime=true",
    "-Dorg.slf4j.simpleLogger.dateTimeFormat=HH:mm:ss.SSS",
)
# One broker holds every replica, and what Kafka's defaults wait for in production is not waited for:
# https://kafka.apache.org/documentation/#brokerconfigs
_SETTINGS = {
    "node.id": "1",
    "process.roles": "broker,controller",
    "controller.listener.names": "CONTROLLER",
    "inter.broker.listener.name": "CLIENT",
    "listener.security.protocol.map": "CLIENT:PLAINTEXT,CONTROLLER:PLAINTEXT",
    "auto.create.topics.enable": "false",
    "broker.heartbeat.interval.ms": "500",
    "broker.session.timeout.ms": "2500",  # a broker killed by SIGKILL is back in 4 s, not 14
    "group.consumer.heartbeat.interval.ms": "500",  # KIP-848
    "group.consumer.min.heartbeat.interval.ms": "100",
    "group.initial.rebalance.delay.ms": "0",
    "log.cleaner.backoff.ms": "1000",
    "offsets.topic.num.partitions": "1",
    "offsets.topic.replication.factor": "1",
    "transaction.abort.timed.out.transaction.cleanup.interval.ms": "1000",
    "transaction.state.log.min.isr": "1",
    "transaction.state.log.num.partitions": "1",
    "transaction.state.log.replication.factor": "1",
}


class LocalKafka:
    """One broker with its own controller (KRaft), listening on 127.0.0.1 only.

    `data_dir` keeps everything of it: `server.properties`, `kafka.log` and the records, which the next `start` finds
    again. `port` 0 takes a free one, the same for every start. `extra` is written to `server.properties` as it is and
    wins over what stands there; the clients' listener is called CLIENT. To be used by one thread at a time.
    """

    def __init__(
        self, data_dir: Path, *, port: int = 0, extra: Mapping[str, str] | None = None
    ) -> None:
        self.data_dir = data_dir.absolute()
        self.port = port or free_port()
        self._controller_port = free_port()
        self._extra = dict(extra or {})
        self._process: JavaProcess | None = None

    @property
    def bootstrap_servers(self) -> str:
        """The address for clients."""
        return f"{LOOPBACK}:{self.port}"

    @property
    def pid(self) -> int:
        """Process id of the broker started last."""
        return self._started().pid

    @property
    def running(self) -> bool:
        """True from `start` until the broker has ended, whoever ended it."""
        return self._process is not None and self._process.wait(0) is None

    def start(self, timeout_seconds: float = START_TIMEOUT_SECONDS) -> None:
        """Start the broker and return once it serves; nothing where it runs.

        `timeout_seconds` bounds each of formatting (once) and starting, not the fetching of the jars.
        Raises SetupError (port in use; see `jars.ensure`) and KafkaUnavailable (it does not start).
        """
        if self.running:
            return
        if not is_free(self.port):
            raise SetupError(
                f"{self.bootstrap_servers} is in use: stop what listens there or choose another port"
            )
        self.data_dir.mkdir(parents=True, exist_ok=True)
        properties = self.properties()
        file = self.data_dir / "server.properties"
        file.write_text(
            "".join(f"{key}={value}\n" for key, value in properties.items())
        )
        if not Path(properties["log.dirs"], "meta.properties").exists():
            tool = self._java(
                "kafka.tools.StorageTool", "format", "-t", _CLUSTER_ID, "-c", str(file)
            )
            tool.finish(timeout_seconds)
        process = self._java("kafka.Kafka", str(file))
        process.wait_until(lambda: _READY in process.log(), timeout_seconds)
        self._process = process

    def properties(self) -> dict[str, str]:
        """Everything that goes to `server.properties`."""
        controller = f"{LOOPBACK}:{self._controller_port}"
        return {
            **_SETTINGS,
            "controller.quorum.voters": f"1@{controller}",
            "listeners": f"CLIENT://{self.bootstrap_servers},CONTROLLER://{controller}",
            "log.dirs": str(self.data_dir / "data"),
            **self._extra,
        }

    def wait(self) -> None:
        """Wait for the broker's end. Raises KafkaUnavailable: it was not us who ended it."""
        process = self._started()
        raise process.failure(f"ended with status {process.wait()}")

    def stop(self, timeout_seconds: float = STOP_TIMEOUT_SECONDS) -> None:
        """Shut down in order (SIGTERM), after `timeout_seconds` by SIGKILL; nothing where it does not run."""
        if self._process is not None:
            self._process.stop(timeout_seconds)

    def kill(self) -> None:
        """Kill the broker (SIGKILL), as a crash would."""
        self._started().kill()

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def _started(self) -> JavaProcess:
        if self._process is None:
            raise RuntimeError("this broker was never started")
        return self._process

    def _java(self, *command: str) -> JavaProcess:
        classpath = os.pathsep.join(map(str, jars.bring("kafka")))
        return JavaProcess(
            "Kafka", [*_JVM, "-cp", classpath, *command], self.data_dir / "kafka.log"
        )


def run_kafka(listen_port: int, data_dir: Path | None) -> int:
    """Run a broker until SIGINT or SIGTERM; returns the exit status 0. For the main thread.

    `listen_port` 0 takes a free one; without `data_dir` the records are gone at the end.
    Raises as `LocalKafka.start` and `LocalKafka.wait` do.
    """
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(
            number, signal.default_int_handler
        )  # SIGINT too: a background job of a shell ignores it
    with contextlib.suppress(KeyboardInterrupt), contextlib.ExitStack() as stack:
        folder = data_dir or Path(
            stack.enter_context(tempfile.TemporaryDirectory(prefix="gex-kafka-"))
        )
        sys.stderr.write("starting Kafka ...\n")
        kafka = stack.enter_context(LocalKafka(folder, port=listen_port))
        sys.stdout.write(
            f"Kafka {VERSION} on {kafka.bootstrap_servers}, data in {kafka.data_dir}, stop with Ctrl-C\n"
        )
        sys.stdout.flush()
        kafka.wait()
    return 0
