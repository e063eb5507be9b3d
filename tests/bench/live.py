"""`python -m tests.bench.live`: the schedule against the simulator over real HTTP, in real time, at default settings.

Prints how late each refresh was seen and what was asked, while it was learnt and after.
"""

from __future__ import annotations

import argparse
import tempfile
import time
import uuid
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from statistics import mean
from typing import TYPE_CHECKING, Any, Final

from connector.core.model import MICROS
from connector.devkit.local_kafka import LocalKafka
from connector.devkit.simulator.settings import DEFAULT_KEY, DEFAULT_SYMBOLS
from tests.support import checker
from tests.support.processes import start_simulator, start_worker

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from tests.support.processes import Program

SYMBOLS: Final = DEFAULT_SYMBOLS[:4]
PHASES: Final = ("together", "own")


@dataclass(frozen=True, slots=True)
class Run:
    """A worker, its upstream and its topics."""

    phase: str
    simulator: Program
    worker: Program
    prefix: str


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m tests.bench.live", description=__doc__
    )
    parser.add_argument(
        "--learn",
        type=float,
        default=5,
        metavar="MINUTES",
        help="not counted in the result",
    )
    parser.add_argument(
        "--minutes", type=float, default=10, help="that count (default %(default)s)"
    )
    options = parser.parse_args()
    with (
        tempfile.TemporaryDirectory(prefix="gex-live-") as folder,
        ExitStack() as stack,
    ):
        kafka = stack.enter_context(LocalKafka(Path(folder) / "kafka"))
        runs = [_start(stack, kafka, phase) for phase in PHASES]
        started = time.time()
        time.sleep(60 * (options.learn + options.minutes))
        ended = time.time()
        for run in runs:
            answers = run.simulator.ask("/_control/truth")["answers"]
            print(
                f"{run.phase}, 30 s, jitter 0.3 s, {len(SYMBOLS)} symbols, default settings"
            )
            for name, begin, end in (
                (f"first {options.learn:g} min", started, started + 60 * options.learn),
                (f"next {options.minutes:g} min", started + 60 * options.learn, ended),
            ):
                print(f"  {name:12} {_figures(kafka, run, answers, begin, end)}")


def _start(stack: ExitStack, kafka: LocalKafka, phase: str) -> Run:
    simulator = stack.enter_context(
        start_simulator("--phase", phase, "--symbols", ",".join(SYMBOLS))
    )
    unique = uuid.uuid4().hex[:8]
    variables = {
        "GEX_UPSTREAM__BASE_URL": f"{simulator.url}/v2",
        "GEX_UPSTREAM__API_KEY": DEFAULT_KEY,
        "GEX_SYMBOLS": ",".join(SYMBOLS),
        "GEX_KAFKA__BOOTSTRAP_SERVERS": kafka.bootstrap_servers,
        "GEX_KAFKA__TOPIC_PREFIX": f"live.{unique}",
        "GEX_KAFKA__GROUP_ID": f"live-{unique}",
    }
    return Run(
        phase, simulator, stack.enter_context(start_worker(variables)), f"live.{unique}"
    )


def _figures(
    kafka: LocalKafka,
    run: Run,
    answers: Sequence[Mapping[str, Any]],
    begin: float,
    end: float,
) -> str:
    """Of the refreshes computed between two moments (Unix seconds), and the requests in that time."""
    delays = sorted(
        (event.observed_at - event.computed_at) / MICROS
        for event in checker.events(kafka, run.prefix)
        if event.computed_at is not None
        and begin <= event.computed_at / MICROS < end - 1
    )
    asked = sum(begin <= answer["received_at"] / MICROS < end for answer in answers)
    p95 = delays[int(0.95 * len(delays))]
    rate = asked * 60 / (end - begin)
    return f"mean {mean(delays):.3f} s  p95 {p95:.3f} s  {rate:.1f} requests a minute  {len(delays)} refreshes"


if __name__ == "__main__":
    main()
