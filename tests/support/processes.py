"""Programs as tests run them: a process of its own, its output kept, ready when it says so, ended whatever happens."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from typing import IO, TYPE_CHECKING, Any, TypeVar

from connector.devkit.java import free_port
from connector.devkit.simulator.settings import DEFAULT_KEY, DEFAULT_SYMBOLS

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence
    from pathlib import Path

    from connector.devkit.local_kafka import LocalKafka
    from tests.conftest import Names

PATIENCE_SECONDS = 60.0
_POLL_SECONDS = 0.02
_REQUEST_SECONDS = 5.0
_LOG_TAIL_CHARACTERS = 4000

T = TypeVar("T")


class Program:
    """A running program. `url` is where it serves HTTP, without a path; empty where it does not."""

    def __init__(
        self,
        command: Sequence[str],
        variables: Mapping[str, str],
        log: IO[bytes],
        url: str = "",
    ) -> None:
        inherited = {
            name: value
            for name, value in os.environ.items()
            if not name.startswith("GEX_")
        }
        self.url = url
        self._log = log
        self._process = subprocess.Popen(
            command,
            env={**inherited, **variables},
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
        )

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def running(self) -> bool:
        return self._process.poll() is None

    def log(self) -> str:
        """All of its output so far, both streams."""
        size = os.fstat(self._log.fileno()).st_size
        return os.pread(self._log.fileno(), size, 0).decode(errors="replace")

    def ask(self, path: str, body: object = None) -> Any:
        """The JSON it answers to GET, or to POST with a body. Raises OSError, HTTPError among them."""
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(
            self.url + path, data, {"Content-Type": "application/json"}
        )
        with urllib.request.urlopen(request, timeout=_REQUEST_SECONDS) as response:
            return json.load(response)

    def ready(self) -> bool:
        """Whether a worker's own probe says so."""
        try:
            return bool(self.ask("/health/ready")["ok"])
        except OSError:
            return False

    def text(self, path: str) -> str:
        """What it answers to GET. Raises OSError."""
        with urllib.request.urlopen(
            self.url + path, timeout=_REQUEST_SECONDS
        ) as response:
            return str(response.read().decode())

    def metric(self, name: str) -> int:
        """The sum over all labels of a worker's metric; 0 where it does not answer."""
        try:
            lines = self.text("/metrics").splitlines()
        except OSError:
            return 0
        return round(
            sum(float(line.split()[1]) for line in lines if line.startswith(name + "{"))
        )

    def signal(self, number: int) -> None:
        """SIGSTOP and SIGCONT, for example."""
        self._process.send_signal(number)

    def kill(self) -> None:
        """End it as a crash would (SIGKILL)."""
        self._process.kill()
        self._process.wait()

    def terminate(self) -> int:
        """Ask for its end (SIGTERM) and wait for it; its exit status."""
        self._process.terminate()
        return self.wait()

    def wait(self) -> int:
        """Its exit status, once it has ended by itself."""
        return self._process.wait(PATIENCE_SECONDS)


def wait_until(ask: Callable[[], T], what: str, program: Program | None = None) -> T:
    """Ask until the answer is true, and return it.

    AssertionError, with the end of the program's log, when our patience ends or the program does.
    """
    deadline = time.monotonic() + PATIENCE_SECONDS
    while True:
        if answer := ask():
            return answer
        ended = program is not None and not program.running
        if ended or time.monotonic() > deadline:
            log = (
                ""
                if program is None
                else f"; its log ends:\n{program.log()[-_LOG_TAIL_CHARACTERS:]}"
            )
            raise AssertionError(
                f"{what}: not {'before it ended' if ended else 'in time'}{log}"
            )
        time.sleep(_POLL_SECONDS)


@contextlib.contextmanager
def start(
    command: Sequence[str], variables: Mapping[str, str] | None = None, url: str = ""
) -> Iterator[Program]:
    """A program that is killed at the end of the block where it has not ended before."""
    with tempfile.TemporaryFile() as log:
        program = Program(command, variables or {}, log, url)
        try:
            yield program
        finally:
            program.kill()


@contextlib.contextmanager
def start_worker(
    variables: Mapping[str, str],
    *,
    wait_ready: bool = True,
    arguments: Sequence[str] = (),
) -> Iterator[Program]:
    """`gex-connector run` with these GEX_ variables and nothing else of ours; ready, unless not waited for."""
    listen = variables.get("GEX_HTTP__LISTEN") or f"127.0.0.1:{free_port()}"
    command = [sys.executable, "-m", "connector", "run", *arguments]
    with start(
        command, {**variables, "GEX_HTTP__LISTEN": listen}, f"http://{listen}"
    ) as worker:
        if wait_ready:
            wait_until(worker.ready, "the worker is ready", worker)
        yield worker


@contextlib.contextmanager
def start_simulator(*arguments: str) -> Iterator[Program]:
    """`gex-connector simulate` with more arguments, once it answers. `ask("/_control/…")` steers it."""
    listen = f"127.0.0.1:{free_port()}"
    command = [
        sys.executable,
        "-m",
        "connector",
        "simulate",
        "--listen",
        listen,
        *arguments,
    ]
    with start(command, url=f"http://{listen}") as simulator:
        wait_until(
            lambda: "upstream simulator on" in simulator.log(),
            "the simulator answers",
            simulator,
        )
        yield simulator


@contextlib.contextmanager
def start_prometheus(folder: Path, config: Mapping[str, object]) -> Iterator[Program]:
    """Prometheus, of the system's packages, once it is ready. `config` as its file has it; its data go to `folder`."""
    listen = f"127.0.0.1:{free_port()}"
    file = folder / "prometheus.yml"
    file.write_text(json.dumps(config))  # YAML, too
    command = [
        "prometheus",
        f"--config.file={file}",
        f"--storage.tsdb.path={folder / 'tsdb'}",
    ]
    with start(
        [*command, f"--web.listen-address={listen}"], url=f"http://{listen}"
    ) as prometheus:
        wait_until(
            lambda: "Server is ready" in prometheus.log(),
            "Prometheus is ready",
            prometheus,
        )
        yield prometheus


def variables_for(
    kafka: LocalKafka,
    names: Names,
    simulator: Program,
    symbols: Sequence[str] = DEFAULT_SYMBOLS,
) -> dict[str, str]:
    """What a worker needs to know, and a budget for fast refreshes. The feed is called `all`."""
    return {
        "GEX_UPSTREAM__BASE_URL": f"{simulator.url}/v2",
        "GEX_UPSTREAM__API_KEY": DEFAULT_KEY,
        "GEX_UPSTREAM__MAX_REQUESTS_PER_MINUTE": "6000",
        "GEX_SYMBOLS": ",".join(symbols),
        "GEX_KAFKA__BOOTSTRAP_SERVERS": kafka.bootstrap_servers,
        "GEX_KAFKA__TOPIC_PREFIX": names.topic_prefix,
        "GEX_KAFKA__GROUP_ID": names.group_id,
    }
