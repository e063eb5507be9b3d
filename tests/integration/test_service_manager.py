"""The worker's reports to systemd, which this test stands in for."""

from __future__ import annotations

import socket
import uuid
from typing import TYPE_CHECKING

import pytest

from tests.integration.test_exit_status import NO_BROKER, SHORT_START
from tests.support.processes import (
    PATIENCE_SECONDS,
    start_simulator,
    start_worker,
    variables_for,
)

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from connector.devkit.local_kafka import LocalKafka
    from tests.conftest import Names
    from tests.support.processes import Program, Variables


class Systemd:
    """The socket that systemd reads."""

    def __init__(self, address: str, shown: str) -> None:
        self.variables = {"NOTIFY_SOCKET": shown}
        self.received: list[str] = []
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.bind(address)
        self._socket.settimeout(PATIENCE_SECONDS)

    def wait_for(self, report: str, count: int = 1) -> None:
        """Wait until a report has come `count` times. Raises TimeoutError."""
        while self.received.count(report) < count:
            self.received.append(self._socket.recv(10_000).decode())

    def read_all(self) -> list[str]:
        """Return every report so far. Call it after the end of the worker."""
        self._socket.setblocking(False)
        try:
            while True:
                self.received.append(self._socket.recv(10_000).decode())
        except BlockingIOError:
            return self.received

    def close(self) -> None:
        self._socket.close()


@pytest.fixture(params=["path", "abstract"])
def systemd(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Systemd]:
    if request.param == "path":
        path = str(tmp_path / "notify")
        manager = Systemd(path, path)
    else:
        name = f"gex-{uuid.uuid4().hex}"
        # A container's systemd has an abstract name, written with an @.
        manager = Systemd(f"\0{name}", f"@{name}")
    yield manager
    manager.close()


@pytest.fixture
def simulator() -> Iterator[Program]:
    with start_simulator("--limit", "0") as program:
        yield program


@pytest.fixture
def variables(
    kafka: LocalKafka, names: Names, simulator: Program, systemd: Systemd
) -> Variables:
    return variables_for(kafka, names, simulator) | systemd.variables


def test_systemd_hears_of_the_start_the_life_and_the_stop(
    variables: Variables, systemd: Systemd
) -> None:
    with start_worker(variables, wait_ready=False) as worker:
        systemd.wait_for("READY=1")
        systemd.wait_for("STATUS=ready")
        systemd.wait_for("WATCHDOG=1", count=2)
        assert worker.terminate() == 0

    received = systemd.read_all()
    assert received[-1] == "STOPPING=1"
    assert received.count("READY=1") == 1


def test_a_worker_that_cannot_start_is_never_called_started(
    variables: Variables, systemd: Systemd
) -> None:
    with start_worker({**variables, **NO_BROKER, **SHORT_START}, wait_ready=False) as w:
        assert w.wait() == 3

    assert "READY=1" not in systemd.read_all()
