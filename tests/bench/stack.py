"""The processes that are measured, and those around them. Each ends with its block; all listen on loopback only."""

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

from connector.devkit.java import free_port
from connector.devkit.simulator.settings import DEFAULT_KEY, DEFAULT_SYMBOLS
from tests.bench.measure import Usage, Window

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

PATIENCE_SECONDS: Final = 60
MANY_SYMBOLS: Final = (*DEFAULT_SYMBOLS, *(f"SYM{n:02d}USDT" for n in range(72)))
"""Eighty."""

UNLIMITED: Final = 100_000
_TURN_SECONDS: Final = 0.02


@dataclass(frozen=True, slots=True)
class Upstream:
    """The simulator in a process of its own."""

    address: str

    @property
    def base_url(self) -> str:
        return f"{self.address}/v2"

    def every_request(self) -> None:
        """From now on each response is new."""
        self._control("set", {"every_request": True})
        urlopen(
            Request(f"{self.address}/_control/faults", method="DELETE"),
            timeout=PATIENCE_SECONDS,
        ).close()

    def freeze(self) -> None:
        """From now on no response is."""
        self._control("faults", {"fault": "freeze"})

    def _control(self, what: str, order: dict[str, object]) -> None:
        urlopen(
            f"{self.address}/_control/{what}",
            json.dumps(order).encode(),
            timeout=PATIENCE_SECONDS,
        ).close()


@dataclass(frozen=True, slots=True)
class Stack:
    """What a worker needs, and a place for logs."""

    upstream: Upstream
    bootstrap: str
    folder: Path
    _numbers: Iterator[int] = field(default_factory=count)

    def new_prefix(self) -> str:
        """A topic prefix nobody has used."""
        return f"bench{next(self._numbers)}.levels"

    @contextmanager
    def worker(
        self, symbols: Sequence[str], include: Sequence[str], prefix: str, **more: str
    ) -> Iterator[Worker]:
        """`gex-connector run` flat out: as many requests as there is time for; `more` overrides its settings."""
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
        with process(
            ["run", "--log-level", "WARNING"], environ, self.folder / f"{prefix}.log"
        ) as (child, started):
            yield Worker(child.pid, f"http://{http}", started)


@dataclass(frozen=True, slots=True)
class Worker:
    """A worker's process; `started` is a moment of the monotonic clock."""

    pid: int
    http: str
    started: float

    def wait_for_events(self, events: int) -> None:
        """Until it has committed so many."""
        deadline = time.monotonic() + PATIENCE_SECONDS
        while self.total("gex_events_total") < events:
            if time.monotonic() > deadline:
                raise TimeoutError(
                    f"the worker has not committed {events} events in {PATIENCE_SECONDS} s"
                )
            time.sleep(0.2)

    def total(self, name: str, label: str = "") -> float:
        """The sum of a counter over its series, those with `label` in them; 0 where nobody listens yet."""
        try:
            with urlopen(f"{self.http}/metrics", timeout=PATIENCE_SECONDS) as response:
                lines = response.read().decode().splitlines()
        except URLError:
            return 0.0
        return sum(
            float(line.rsplit(" ", 1)[1])
            for line in lines
            if line.startswith(name) and label in line
        )

    def usage(self) -> Usage:
        return Usage.of(self.pid)

    def during(self, seconds: float) -> Window:
        """Watch it for a while."""
        counters = (
            ("gex_events_total", ""),
            ("gex_upstream_request_duration_seconds_count", ""),
            _COLLAPSED,
        )
        before = [self.total(*one) for one in counters]
        started, cpu = time.monotonic(), self.usage().cpu_seconds
        time.sleep(seconds)
        passed, spent = time.monotonic() - started, self.usage().cpu_seconds - cpu
        events, requests, collapsed = (
            self.total(*one) - was for one, was in zip(counters, before, strict=True)
        )
        return Window(passed, spent, events, requests, collapsed)


_COLLAPSED: Final = ("gex_observations_dropped_total", 'reason="collapsed"')


@contextmanager
def upstream(folder: Path) -> Iterator[Upstream]:
    """The simulator: eighty symbols, no limit, every response new."""
    port = free_port()
    options = [
        "--listen",
        f"127.0.0.1:{port}",
        "--symbols",
        ",".join(MANY_SYMBOLS),
        "--limit",
        "0",
    ]
    with process(["simulate", *options], {}, folder / "simulator.log"):
        served = Upstream(f"http://127.0.0.1:{port}")
        _wait_for(f"{served.address}/_control/stats")
        served.every_request()
        yield served


@contextmanager
def process(
    arguments: Sequence[str], environ: dict[str, str], log: Path
) -> Iterator[tuple[subprocess.Popen[bytes], float]]:
    """A command of ours, and when it was started."""
    ours = {
        name: value for name, value in os.environ.items() if not name.startswith("GEX_")
    } | environ
    with log.open("wb") as out:
        started = time.monotonic()
        child = subprocess.Popen(
            [sys.executable, "-m", "connector", *arguments],
            env=ours,
            stdout=out,
            stderr=out,
            stdin=subprocess.DEVNULL,
        )
    try:
        yield child, started
        if child.poll() is not None:
            raise RuntimeError(
                f"{arguments[0]} ended with {child.returncode}:\n{log.read_text()[-2000:]}"
            )
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
            if time.monotonic() > deadline:
                raise
            time.sleep(_TURN_SECONDS)
