"""`python -m tests.bench`: measure everything, print a table, and write the figures where asked to."""

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

_CHECK_EVERY_SECONDS: Final = 0.05


@dataclass(frozen=True, slots=True)
class Effort:
    """How long to look; `names` of what is included are measured end to end."""

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
    """Every figure."""
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
            for part, names, work in _parts(stack, effort):
                _say(part)
                results[part] = {name: work(name) for name in names}
    return results


def _parts(
    stack: Stack, effort: Effort
) -> list[tuple[str, tuple[str, ...], Callable[[str], dict[str, float]]]]:
    both, asked = tuple(INCLUDED), effort.names

    def start(name: str) -> dict[str, float]:
        return {
            "seconds": min(
                first_event_seconds(stack, name) for _ in range(effort.starts)
            )
        }

    def eight(name: str) -> dict[str, float]:
        return flat_out(
            stack,
            SYMBOLS,
            name,
            effort.flat_out_seconds if name == "all" else effort.seconds,
        )

    return [
        (
            "requests",
            both,
            lambda name: asyncio.run(requests(stack.upstream, name, effort.rounds)),
        ),
        ("produce", both, lambda name: produce(stack, name, effort.transactions)),
        (
            "latency",
            asked,
            lambda name: asyncio.run(
                latency(stack, name, effort.checks, _CHECK_EVERY_SECONDS)
            ),
        ),
        ("start", ("all",), start),
        ("idle", ("all",), lambda name: idle(stack, name, effort.seconds)),
        ("steady", asked, lambda name: steady(stack, name, effort.seconds)),
        ("quiet", asked, lambda name: quiet(stack, name, effort.seconds)),
        ("flat out, 8 symbols", asked, eight),
        (
            "flat out, 80 symbols",
            ("all",),
            lambda name: flat_out(stack, MANY_SYMBOLS, name, effort.seconds),
        ),
    ]


def _machine() -> dict[str, str | int | float]:
    return {
        "at": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "cores": len(os.sched_getaffinity(0))
        if hasattr(os, "sched_getaffinity")
        else os.cpu_count() or 0,
        "load_before": os.getloadavg()[0],
        "python": platform.python_version(),
        "system": platform.platform(),
    }


def _say(what: str) -> None:
    sys.stderr.write(f"bench: {what}\n")
    sys.stderr.flush()


if __name__ == "__main__":
    main()
