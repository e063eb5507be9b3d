"""`gex-connector kafka`: a real Apache Kafka on loopback, without Docker or Java.

The demo and every test that needs a broker run on it.
"""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Final, Self

from connector.devkit import jars
from connector.devkit.java import STOP_TIMEOUT_SECONDS, JavaProcess
from connector.devkit.loopback_ports import LOOPBACK, free_port, is_free
from connector.errors import SetupError, UsageError

if TYPE_CHECKING:
    import argparse
    from collections.abc import Mapping

VERSION: Final = "4.3.1"

# Generous, for tests that start several at once on a loaded machine; an idle one takes a few
# seconds. A broker that ends is noticed at once.
START_TIMEOUT_SECONDS: Final = 240.0

_MAX_PORT: Final = 65_535
_CLUSTER_ID: Final = "gexLocalKafkaAAAAAAAAAA"

# Kafka logs this once the broker is unfenced, so it serves requests from here on.
_READY: Final = "Kafka Server started"
_JVM_OPTIONS: Final = (
    "-Xmx256m",
    "-Dorg.slf4j.simpleLogger.showDateTime=true",
    "-Dorg.slf4j.simpleLogger.dateTimeFormat=HH:mm:ss.SSS",
)

# One broker holds every replica. Kafka's defaults wait for other brokers and members; these
# do not: https://kafka.apache.org/documentation/#brokerconfigs
_SETTINGS: Final = {
    "node.id": "1",
    "process.roles": "broker,controller",
    "controller.listener.names": "CONTROLLER",
    "inter.broker.listener.name": "CLIENT",
    "listener.security.protocol.map": "CLIENT:PLAINTEXT,CONTROLLER:PLAINTEXT",
    "auto.create.topics.enable": "false",
    # A broker killed by SIGKILL is back after 4 s; with the defaults it takes 14 s.
    "broker.heartbeat.interval.ms": "500",
    "broker.session.timeout.ms": "2500",
    # Heartbeats of the new group protocol (KIP-848): members notice a rebalance sooner.
    "group.consumer.heartbeat.interval.ms": "500",
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
    """A broker with its own controller (KRaft), listening on 127.0.0.1 only.

    Use it from one thread at a time.

    Args:
        data_dir: Folder for `server.properties`, `kafka.log` and the records. A later
            `start` finds the records again.
        port: Port for clients. 0 picks a free port, which stays the same at every start.
        extra: Broker settings that override those of this module. The listener for
            clients is called CLIENT.
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
        """Address for clients."""
        return f"{LOOPBACK}:{self.port}"

    @property
    def pid(self) -> int:
        """Process id of the broker that was started last."""
        return self._started().pid

    @property
    def running(self) -> bool:
        """True from `start` until the broker has ended, for any reason."""
        return self._process is not None and self._process.wait(0) is None

    def start(self, timeout_seconds: float = START_TIMEOUT_SECONDS) -> None:
        """Start the broker and wait until it serves. Do nothing if it is running.

        `timeout_seconds` applies to formatting the storage (once) and to starting, each by
        itself. It does not cover downloading the jars.

        Raises:
            SetupError: The port is in use, or the jars cannot be used (`jars.ensure`).
            KafkaUnavailable: The broker does not start.
        """
        if self.running:
            return
        if not is_free(self.port):
            raise SetupError(
                f"{self.bootstrap_servers} is in use: stop the program that listens "
                "there, or choose another port"
            )

        properties = self.properties()
        # A file of earlier starts is replaced: the settings of this object apply.
        lines = [f"{key}={value}\n" for key, value in properties.items()]
        self.data_dir.mkdir(parents=True, exist_ok=True)
        file = self.data_dir / "server.properties"
        file.write_text("".join(lines))

        # Kafka refuses to format twice, and to start without formatting.
        is_formatted = Path(properties["log.dirs"], "meta.properties").exists()
        if not is_formatted:
            tool = self._java(
                "kafka.tools.StorageTool", "format", "-t", _CLUSTER_ID, "-c", str(file)
            )
            tool.finish(timeout_seconds)

        process = self._java("kafka.Kafka", str(file))
        process.wait_until(lambda: _READY in process.log(), timeout_seconds)
        self._process = process

    def properties(self) -> dict[str, str]:
        """Return the content of `server.properties`."""
        controller = f"{LOOPBACK}:{self._controller_port}"
        return {
            **_SETTINGS,
            "controller.quorum.voters": f"1@{controller}",
            "listeners": f"CLIENT://{self.bootstrap_servers},CONTROLLER://{controller}",
            "log.dirs": str(self.data_dir / "data"),
            **self._extra,
        }

    def wait(self) -> None:
        """Wait until the broker ends by itself, and raise KafkaUnavailable."""
        process = self._started()
        raise process.failure(f"ended with status {process.wait()}")

    def stop(self, timeout_seconds: float = STOP_TIMEOUT_SECONDS) -> None:
        """Shut down in order, or kill after `timeout_seconds`. Safe to call twice."""
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
        classpath = os.pathsep.join(map(str, jars.fetch_set("kafka")))
        arguments = [*_JVM_OPTIONS, "-cp", classpath, *command]
        return JavaProcess("Kafka", arguments, self.data_dir / "kafka.log")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options of the command."""
    parser.add_argument(
        "--port",
        type=int,
        default=9092,
        help="port on 127.0.0.1 (default: %(default)s)",
    )
    parser.add_argument(
        "--data",
        type=Path,
        help="folder that keeps the data (default: a temporary folder)",
    )


def run(options: argparse.Namespace) -> int:
    """Run a broker until SIGINT or SIGTERM. Raises UsageError for a bad port."""
    if not 0 <= options.port <= _MAX_PORT:
        raise UsageError(f"kafka: --port {options.port}, expected 0 to {_MAX_PORT}")
    return run_kafka(options.port, options.data)


def run_kafka(listen_port: int, data_dir: Path | None) -> int:
    """Run a broker until SIGINT or SIGTERM, and return 0. Main thread only.

    Port 0 picks a free port. Without `data_dir` the records are deleted at the end.
    Raises the errors of `LocalKafka.start` and `LocalKafka.wait`.
    """
    # A shell starts background jobs with SIGINT ignored, so set its handler as well.
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.default_int_handler)

    with contextlib.suppress(KeyboardInterrupt), contextlib.ExitStack() as stack:
        folder = data_dir
        if folder is None:
            temporary = tempfile.TemporaryDirectory(prefix="gex-kafka-")
            folder = Path(stack.enter_context(temporary))

        sys.stderr.write("starting Kafka ...\n")
        kafka = stack.enter_context(LocalKafka(folder, port=listen_port))
        sys.stdout.write(
            f"Kafka {VERSION} on {kafka.bootstrap_servers}, data in {kafka.data_dir}; "
            "stop it with Ctrl-C\n"
        )
        sys.stdout.flush()
        kafka.wait()
    return 0
