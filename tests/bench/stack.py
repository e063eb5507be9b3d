"""The processes that are measured, and those around them.

Each process ends with its block, and listens on loopback only.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import count
from typing import TYPE_CHECKING, Any, Final
from urllib.error import URLError
from urllib.request import Request, urlopen

from connector.devkit.loopback_ports import free_port
from connector.devkit.simulator.settings import DEFAULT_KEY, EIGHT_SYMBOLS
from tests.bench.measure import Usage, Window

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

# For anything that should take seconds on a busy machine.
PATIENCE_SECONDS: Final = 60

# Eighty symbols.
MANY_SYMBOLS: Final = (*EIGHT_SYMBOLS, *(f"SYM{n:02d}USDT" for n in range(72)))

# Requests a minute that no measurement reaches.
UNLIMITED: Final = 100_000

_RETRY_SECONDS: Final = 0.02


@dataclass(frozen=True, slots=True)
class Upstream:
    """The simulator in a process of its own."""

    address: str

    @property
    def base_url(self) -> str:
        return f"{self.address}/v2"

    def every_request(self) -> None:
        """Serve new levels in every response from now on."""
        self._control("set", {"every_request": True})
        # A frozen upstream is a fault of the simulator: remove it.
        clear = Request(f"{self.address}/_control/faults", method="DELETE")
        urlopen(clear, timeout=PATIENCE_SECONDS).close()

    def freeze(self) -> None:
        """Serve the same levels in every response from now on."""
        self._control("faults", {"fault": "freeze"})

    def _control(self, path: str, order: dict[str, object]) -> None:
        url = f"{self.address}/_control/{path}"
        body = json.dumps(order).encode()
        urlopen(url, body, timeout=PATIENCE_SECONDS).close()


@dataclass(frozen=True, slots=True)
class Stack:
    """The API and Kafka for workers to use, and a folder for their logs."""

    upstream: Upstream
    bootstrap: str
    folder: Path
    _numbers: Iterator[int] = field(default_factory=count)

    def new_prefix(self) -> str:
        """Return a topic prefix that nobody has used."""
        return f"bench{next(self._numbers)}.levels"

    def log_of(self, prefix: str) -> Path:
        """Return the log of the worker with a topic prefix."""
        return self.folder / f"{prefix}.log"

    @contextmanager
    def worker(
        self,
        symbols: Sequence[str],
        include: Sequence[str],
        prefix: str,
        log_level: str = "WARNING",
        **more: str,
    ) -> Iterator[Worker]:
        """Start `gex-connector run` without a limit on requests; `more` overrides its settings."""
        http = f"127.0.0.1:{free_port()}"
        environ = {
            "GEX_UPSTREAM__BASE_URL": self.upstream.base_url,
            "GEX_UPSTREAM__API_KEY": DEFAULT_KEY,
            "GEX_UPSTREAM__MAX_REQUESTS_PER_MINUTE": str(UNLIMITED),
            "GEX_SCHEDULE__TARGET_DELAY_SECONDS": "0",
            "GEX_SCHEDULE__MIN_INTERVAL_SECONDS": "0.001",
            "GEX_SYMBOLS": ",".join(symbols),
            "GEX_INCLUDE": ",".join(include),
            "GEX_KAFKA__BOOTSTRAP_SERVERS": self.bootstrap,
            "GEX_KAFKA__TOPIC_PREFIX": prefix,
            "GEX_KAFKA__GROUP_ID": prefix,
            "GEX_HTTP__LISTEN": http,
            **more,
        }
        command = ["run", "--log-level", log_level]
        with process(command, environ, self.log_of(prefix)) as (child, started):
            yield Worker(child.pid, f"http://{http}", started)


@dataclass(frozen=True, slots=True)
class _Counters:
    """A worker's events, requests and collapsed observations since its start."""

    events: float
    requests: float
    collapsed: float


@dataclass(frozen=True, slots=True)
class Worker:
    """A worker's process; `started` is a moment of the monotonic clock."""

    pid: int
    http: str
    started: float

    def wait_for_events(self, events: int) -> None:
        """Wait until the worker has committed this many events."""
        deadline = time.monotonic() + PATIENCE_SECONDS
        while self.total("gex_events_total") < events:
            if time.monotonic() > deadline:
                late = f"no {events} events within {PATIENCE_SECONDS} s"
                raise TimeoutError(f"the worker has committed {late}")
            time.sleep(0.2)

    def total(self, name: str, label: str = "") -> float:
        """Return the sum of a counter over its series that contain `label`.

        Returns 0 if the worker does not listen yet.
        """
        try:
            with urlopen(f"{self.http}/metrics", timeout=PATIENCE_SECONDS) as response:
                lines = response.read().decode().splitlines()
        except URLError:
            return 0.0
        total = 0.0
        for line in lines:
            if line.startswith(name) and label in line:
                _, _, value = line.rpartition(" ")
                total += float(value)
        return total

    def usage(self) -> Usage:
        return Usage.of(self.pid)

    def during(self, seconds: float) -> Window:
        """Watch the worker for a while."""
        # The scrapes are outside of the measured time, since they cost CPU.
        before = self._counters()
        started = time.monotonic()
        cpu_seconds_before = self.usage().cpu_seconds

        time.sleep(seconds)

        passed_seconds = time.monotonic() - started
        cpu_seconds = self.usage().cpu_seconds - cpu_seconds_before
        after = self._counters()
        return Window(
            seconds=passed_seconds,
            cpu_seconds=cpu_seconds,
            events=after.events - before.events,
            requests=after.requests - before.requests,
            collapsed=after.collapsed - before.collapsed,
        )

    def _counters(self) -> _Counters:
        collapsed = 'reason="collapsed"'
        return _Counters(
            events=self.total("gex_events_total"),
            requests=self.total("gex_upstream_request_duration_seconds_count"),
            collapsed=self.total("gex_observations_dropped_total", collapsed),
        )


@contextmanager
def upstream(folder: Path) -> Iterator[Upstream]:
    """Start the simulator: eighty symbols, no limit, new levels in every response."""
    port = free_port()
    command = ["simulate", "--listen", f"127.0.0.1:{port}", "--limit", "0"]
    command += ["--symbols", ",".join(MANY_SYMBOLS)]
    # A log of its requests would cost time that is not the worker's.
    command.append("--quiet")
    with process(command, {}, folder / "simulator.log"):
        served = Upstream(f"http://127.0.0.1:{port}")
        _wait_for(f"{served.address}/_control/stats")
        served.every_request()
        yield served


@contextmanager
def process(
    arguments: Sequence[str], environ: dict[str, str], log: Path
) -> Iterator[tuple[subprocess.Popen[bytes], float]]:
    """Run a command of the connector; yield the process and the moment of its start."""
    # Settings of the caller's shell must not change the measurement.
    variables = dict(environ)
    for name, value in os.environ.items():
        if not name.startswith("GEX_"):
            variables.setdefault(name, value)
    with log.open("wb") as out:
        started = time.monotonic()
        child = subprocess.Popen(
            [sys.executable, "-m", "tests.bench.installed", *arguments],
            env=variables,
            stdout=out,
            stderr=out,
            stdin=subprocess.DEVNULL,
        )
    try:
        yield child, started
        # A measurement of a process that has ended is void.
        if child.poll() is not None:
            status = f"{arguments[0]} ended with {child.returncode}"
            raise RuntimeError(f"{status}:\n{log.read_text()[-2000:]}")
    finally:
        child.terminate()
        try:
            child.wait(PATIENCE_SECONDS / 2)
        except subprocess.TimeoutExpired:
            child.kill()
            child.wait()


def _wait_for(url: str) -> Any:
    deadline = time.monotonic() + PATIENCE_SECONDS
    while True:
        try:
            with urlopen(url, timeout=PATIENCE_SECONDS) as response:
                return json.load(response)
        except URLError:
            # Nothing listens until the process has started.
            if time.monotonic() > deadline:
                raise
            time.sleep(_RETRY_SECONDS)
