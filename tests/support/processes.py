"""Start programs as processes for tests.

A program's output is kept, the test waits until the program is ready, and the process ends
with the test.
"""

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

from connector.devkit.loopback_ports import free_port
from connector.devkit.simulator.settings import DEFAULT_KEY, EIGHT_SYMBOLS

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence
    from pathlib import Path

    from tests.conftest import Names
    from tests.support.checker import Brokers

    # Settings of a worker, by the names of their environment variables.
    Variables = Mapping[str, str]

# Waits end by events. This only bounds a test that fails, on a machine that is very slow.
PATIENCE_SECONDS = 240.0
_POLL_SECONDS = 0.02
_REQUEST_SECONDS = 20.0
_LOG_TAIL_CHARACTERS = 4000

T = TypeVar("T")


class Program:
    """A running program. `url` is the base of its HTTP server, or empty if it has none."""

    def __init__(
        self,
        command: Sequence[str],
        variables: Mapping[str, str],
        log: IO[bytes],
        url: str = "",
    ) -> None:
        inherited = {}
        for name, value in os.environ.items():
            # The developer's own settings must not reach a test.
            if not name.startswith("GEX_"):
                inherited[name] = value
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
        """Return its output so far, both streams together."""
        size = os.fstat(self._log.fileno()).st_size
        return os.pread(self._log.fileno(), size, 0).decode(errors="replace")

    def lines(self) -> list[str]:
        """Return the complete lines of its output so far.

        The last one may be half written, and then is no JSON, for example.
        """
        complete, _, _ = self.log().rpartition("\n")
        return complete.splitlines()

    def ask(self, path: str, body: object = None) -> Any:
        """GET a path, or POST a body to it, and return the JSON answer. Raises OSError."""
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(
            self.url + path, data, {"Content-Type": "application/json"}
        )
        with urllib.request.urlopen(request, timeout=_REQUEST_SECONDS) as response:
            return json.load(response)

    def ready(self) -> bool:
        """Return whether the worker's readiness check passes."""
        try:
            return bool(self.ask("/health/ready")["ok"])
        except OSError:
            return False

    def text(self, path: str) -> str:
        """GET a path and return the text. Raises OSError."""
        with urllib.request.urlopen(
            self.url + path, timeout=_REQUEST_SECONDS
        ) as response:
            return str(response.read().decode())

    def text_of_error(self, path: str) -> str:
        """GET a path that answers with an error, and return its text."""
        try:
            self.text(path)
        except urllib.error.HTTPError as error:
            with contextlib.closing(error):
                return error.read().decode()
        raise AssertionError(f"{path}: answered without an error")

    def metric(self, name: str) -> int:
        """Return the sum of a metric over all labels, or 0 if the worker does not answer."""
        try:
            lines = self.text("/metrics").splitlines()
        except OSError:
            return 0
        total = 0.0
        for line in lines:
            if line.startswith(name + "{"):
                _, value = line.split()
                total += float(value)
        return round(total)

    def signal(self, number: int) -> None:
        """Send a signal, such as SIGSTOP."""
        self._process.send_signal(number)

    def kill(self) -> None:
        """End the process as a crash would (SIGKILL)."""
        self._process.kill()
        self._process.wait()

    def terminate(self) -> int:
        """Send SIGTERM, wait for the end, and return the exit status."""
        self._process.terminate()
        return self.wait()

    def wait(self) -> int:
        """Wait until the process ends by itself, and return the exit status."""
        return self._process.wait(PATIENCE_SECONDS)


def wait_until(ask: Callable[[], T], what: str, program: Program | None = None) -> T:
    """Call `ask` until its answer is true, and return that answer.

    Raises:
        AssertionError: the answer was not true within PATIENCE_SECONDS, or the program
            ended before. The message holds the end of the program's log.
    """
    deadline = time.monotonic() + PATIENCE_SECONDS
    while True:
        if answer := ask():
            return answer
        if program is not None and not program.running:
            raise AssertionError(f"{what}: not before it ended{_log_tail(program)}")
        if time.monotonic() > deadline:
            raise AssertionError(f"{what}: not in time{_log_tail(program)}")
        time.sleep(_POLL_SECONDS)


def wait_for_log(program: Program, text: str) -> None:
    """Wait until the program's output contains a text."""

    def is_logged() -> bool:
        return text in program.log()

    wait_until(is_logged, f"{text!r} is logged", program)


def _log_tail(program: Program | None) -> str:
    if program is None:
        return ""
    return f"; its log ends:\n{program.log()[-_LOG_TAIL_CHARACTERS:]}"


@contextlib.contextmanager
def start(
    command: Sequence[str], variables: Mapping[str, str] | None = None, url: str = ""
) -> Iterator[Program]:
    """Start a program, and kill it at the end of the block."""
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
    module: str = "connector",
) -> Iterator[Program]:
    """Start `gex-connector run` with these GEX_ variables, and wait until it is ready.

    `module` has the program's entry point.
    """
    listen = variables.get("GEX_HTTP__LISTEN") or f"127.0.0.1:{free_port()}"
    command = [sys.executable, "-m", module, "run", *arguments]
    settings = {**variables, "GEX_HTTP__LISTEN": listen}
    with start(command, settings, f"http://{listen}") as worker:
        if wait_ready:
            wait_until(worker.ready, "the worker is ready", worker)
        yield worker


@contextlib.contextmanager
def start_simulator(*arguments: str) -> Iterator[Program]:
    """Start `gex-connector simulate`, and wait until it answers.

    It has eight symbols, which fill a request. Steer it by `ask("/_control/…")`.
    """
    listen = f"127.0.0.1:{free_port()}"
    command = [sys.executable, "-m", "connector", "simulate", "--listen", listen]
    command += ["--symbols", ",".join(EIGHT_SYMBOLS)]
    with start([*command, *arguments], url=f"http://{listen}") as simulator:

        def answers() -> bool:
            return _answers(simulator, "/_control/stats")

        wait_until(answers, "the simulator answers", simulator)
        yield simulator


def _answers(program: Program, path: str) -> bool:
    """Return whether the program's HTTP server answers, whatever the status."""
    try:
        program.text(path)
    except urllib.error.HTTPError:
        return True
    except OSError:
        return False
    return True


@contextlib.contextmanager
def start_prometheus(folder: Path, config: Mapping[str, object]) -> Iterator[Program]:
    """Start the system's Prometheus, and wait until it is ready.

    `config` is the content of its configuration file; its data go to `folder`.
    """
    listen = f"127.0.0.1:{free_port()}"
    file = folder / "prometheus.yml"
    file.write_text(json.dumps(config))  # JSON is YAML
    command = [
        "prometheus",
        f"--config.file={file}",
        f"--storage.tsdb.path={folder / 'tsdb'}",
    ]
    command.append(f"--web.listen-address={listen}")
    with start(command, url=f"http://{listen}") as prometheus:

        def is_ready() -> bool:
            return "Server is ready" in prometheus.log()

        wait_until(is_ready, "Prometheus is ready", prometheus)
        yield prometheus


def variables_for(
    kafka: Brokers,
    names: Names,
    simulator: Program,
    symbols: Sequence[str] = EIGHT_SYMBOLS,
) -> dict[str, str]:
    """Return the settings of a worker, with a budget for fast refreshes.

    The feed is called `all`.
    """
    return {
        "GEX_UPSTREAM__BASE_URL": f"{simulator.url}/v2",
        "GEX_UPSTREAM__API_KEY": DEFAULT_KEY,
        "GEX_UPSTREAM__MAX_REQUESTS_PER_MINUTE": "6000",
        "GEX_SYMBOLS": ",".join(symbols),
        "GEX_KAFKA__BOOTSTRAP_SERVERS": kafka.bootstrap_servers,
        "GEX_KAFKA__TOPIC_PREFIX": names.topic_prefix,
        "GEX_KAFKA__GROUP_ID": names.group_id,
        # A busy machine may need more than the default of 60 s.
        "GEX_KAFKA__START_TIMEOUT_SECONDS": "120",
    }
