"""Measure everything and print a table: `python -m tests.bench`."""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import platform
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

from connector.devkit.local_kafka import LocalKafka
from tests.bench.report import Results, table
from tests.bench.requests import requests
from tests.bench.sample import INCLUDED, SYMBOLS
from tests.bench.shards import latency, produce
from tests.bench.stack import MANY_SYMBOLS, Stack, upstream
from tests.bench.stages import sizes, stages
from tests.bench.workers import first_event_seconds, flat_out, idle, quiet, steady

if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import TypeAlias

    Part: TypeAlias = Callable[[str], dict[str, float]]

_CHECK_EVERY_SECONDS: Final = 0.05


@dataclass(frozen=True, slots=True)
class Effort:
    """The extent of a run: its repetitions, and the included sections (`names`) end to end."""

    names: tuple[str, ...]
    rounds: int
    transactions: int
    checks: int
    starts: int
    seconds: float
    flat_out_seconds: float


_FULL: Final = Effort(tuple(INCLUDED), 10, 500, 240, 3, 8, 60)
_QUICK: Final = Effort(("all",), 2, 40, 30, 1, 2, 3)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.bench", description=__doc__)
    parser.add_argument(
        "--quick",
        action="store_true",
        help="less than a minute; rougher, all includes mostly",
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="write every figure")
    parser.add_argument(
        "--plot", type=Path, metavar="FILE.svg", help="draw CPU by stage"
    )
    options = parser.parse_args()
    results = measure(_QUICK if options.quick else _FULL)
    print(table(results))
    if options.json:
        options.json.write_text(json.dumps(results, indent=2) + "\n")
    if options.plot:
        from tests.bench.plot import plot  # noqa: PLC0415 -- a second to load

        plot(results, options.plot)


def measure(effort: Effort) -> Results:
    """Measure every figure."""
    results: Results = {"machine": _machine()}
    results["sizes"] = {name: sizes(name) for name in INCLUDED}
    results["stages"] = {name: stages(name, effort.rounds) for name in INCLUDED}
    with tempfile.TemporaryDirectory(prefix="gex-bench-") as folder:
        _say("starting Kafka and the simulator")
        with (
            LocalKafka(Path(folder) / "kafka") as kafka,
            upstream(Path(folder)) as served,
        ):
            stack = Stack(served, kafka.bootstrap_servers, Path(folder))
            for part, names, work in _Parts(stack, effort).all():
                _say(part)
                results[part] = {name: work(name) for name in names}
    return results


class _Parts:
    """The parts of the benchmark: each method measures one, for some included sections."""

    def __init__(self, stack: Stack, effort: Effort) -> None:
        self._stack = stack
        self._effort = effort

    def all(self) -> list[tuple[str, tuple[str, ...], Part]]:
        """Return the title of each part, the names to measure it for, and its method."""
        both = tuple(INCLUDED)
        chosen = self._effort.names
        return [
            ("requests", both, self._requests),
            ("produce", both, self._produce),
            ("latency", chosen, self._latency),
            ("start", ("all",), self._start),
            ("idle", ("all",), self._idle),
            ("steady", chosen, self._steady),
            ("quiet", chosen, self._quiet),
            ("flat out, 8 symbols", chosen, self._eight_symbols),
            ("flat out, 80 symbols", ("all",), self._eighty_symbols),
        ]

    def _requests(self, name: str) -> dict[str, float]:
        served, rounds = self._stack.upstream, self._effort.rounds
        return asyncio.run(requests(served, name, rounds))

    def _produce(self, name: str) -> dict[str, float]:
        return produce(self._stack, name, self._effort.transactions)

    def _latency(self, name: str) -> dict[str, float]:
        checks = self._effort.checks
        return asyncio.run(latency(self._stack, name, checks, _CHECK_EVERY_SECONDS))

    def _start(self, name: str) -> dict[str, float]:
        seconds = []
        for _ in range(self._effort.starts):
            seconds.append(first_event_seconds(self._stack, name))
        return {"seconds": min(seconds)}

    def _idle(self, name: str) -> dict[str, float]:
        return idle(self._stack, name, self._effort.seconds)

    def _steady(self, name: str) -> dict[str, float]:
        return steady(self._stack, name, self._effort.seconds)

    def _quiet(self, name: str) -> dict[str, float]:
        return quiet(self._stack, name, self._effort.seconds)

    def _eight_symbols(self, name: str) -> dict[str, float]:
        # Long enough with all includes to see the memory settle.
        seconds = self._effort.seconds
        if name == "all":
            seconds = self._effort.flat_out_seconds
        return flat_out(self._stack, SYMBOLS, name, seconds)

    def _eighty_symbols(self, name: str) -> dict[str, float]:
        return flat_out(self._stack, MANY_SYMBOLS, name, self._effort.seconds)


def _machine() -> dict[str, str | int | float]:
    return {
        "at": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "cores": len(os.sched_getaffinity(0)),
        "load_before": os.getloadavg()[0],
        "python": platform.python_version(),
        "system": platform.platform(),
    }


def _say(what: str) -> None:
    sys.stderr.write(f"bench: {what}\n")
    sys.stderr.flush()


if __name__ == "__main__":
    main()
