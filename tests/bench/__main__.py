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
from contextlib import contextmanager
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
from tests.bench.start import start
from tests.bench.workers import flat_out, idle, quiet, steady

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from typing import TypeAlias

    Part: TypeAlias = Callable[[str], dict[str, float]]

# Longer than a check with its transaction takes, so that checks do not wait for each other.
_CHECK_EVERY_SECONDS: Final = 0.05


@dataclass(frozen=True, slots=True)
class Effort:
    """The extent of a run: its repetitions, and the included sections (`names`) end to end."""

    names: tuple[str, ...]
    rounds: int
    transactions: int
    checks: int
    seconds: float
    flat_out_seconds: float


# Long enough for figures that repeat within a few percent.
_FULL: Final = Effort(
    names=tuple(INCLUDED),
    rounds=10,
    transactions=500,
    checks=240,
    seconds=8,
    flat_out_seconds=60,
)
# Enough to see that the benchmark works, and the order of magnitude.
_QUICK: Final = Effort(
    names=("all",),
    rounds=2,
    transactions=40,
    checks=30,
    seconds=2,
    flat_out_seconds=3,
)


def main() -> None:
    options = _options()
    effort = _QUICK if options.quick else _FULL
    results = measure(effort)
    print(table(results))
    if options.json:
        options.json.write_text(json.dumps(results, indent=2) + "\n")
    if options.plot:
        from tests.bench.plot import plot  # noqa: PLC0415 -- a second to load

        plot(results, options.plot)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.bench", description=__doc__)
    parser.add_argument(
        "--quick",
        action="store_true",
        help="about a minute; rougher, all includes mostly",
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="write every figure")
    parser.add_argument(
        "--plot", type=Path, metavar="FILE.svg", help="draw CPU by stage"
    )
    return parser.parse_args()


def measure(effort: Effort) -> Results:
    """Measure every figure."""
    results: Results = {"machine": _machine(), "sizes": {}, "stages": {}}

    # Measure the pure parts before other processes compete for the processor.
    for name in INCLUDED:
        results["sizes"][name] = sizes(name)
        results["stages"][name] = stages(name, effort.rounds)

    with _running_stack() as stack:
        for part, names, work in _Parts(stack, effort).all():
            _report_progress(part)
            results[part] = {}
            for name in names:
                results[part][name] = work(name)
    return results


@contextmanager
def _running_stack() -> Iterator[Stack]:
    """Start a broker and the simulator in a folder that is removed afterwards."""
    _report_progress("starting Kafka and the simulator")
    with tempfile.TemporaryDirectory(prefix="gex-bench-") as name:
        folder = Path(name)
        with LocalKafka(folder / "kafka") as kafka, upstream(folder) as served:
            yield Stack(served, kafka.bootstrap_servers, folder)


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
        work = requests(self._stack.upstream, name, self._effort.rounds)
        return asyncio.run(work)

    def _produce(self, name: str) -> dict[str, float]:
        return produce(self._stack, name, self._effort.transactions)

    def _latency(self, name: str) -> dict[str, float]:
        checks = self._effort.checks
        work = latency(self._stack, name, checks, _CHECK_EVERY_SECONDS)
        return asyncio.run(work)

    def _start(self, name: str) -> dict[str, float]:
        return start(self._stack, name)

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


def _report_progress(text: str) -> None:
    # Not on standard output, which is for the table.
    sys.stderr.write(f"bench: {text}\n")
    sys.stderr.flush()


if __name__ == "__main__":
    main()
