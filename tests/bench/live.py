"""Delay and requests of the schedule over real HTTP, in real time, with default settings.

Run `python -m tests.bench.live`. It prints how late each refresh was observed and how
many requests were sent, while the rhythm was being learnt and after.
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
from connector.devkit.simulator.settings import DEFAULT_KEY, EIGHT_SYMBOLS
from tests.support import checker
from tests.support.processes import start_simulator, start_worker

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from tests.support.processes import Program

SYMBOLS: Final = EIGHT_SYMBOLS[:4]

# Symbols that are refreshed together, and each in a phase of its own.
PHASES: Final = ("together", "own")


@dataclass(frozen=True, slots=True)
class Run:
    """A worker, its upstream and its topics."""

    phase: str
    simulator: Program
    worker: Program
    prefix: str


@dataclass(frozen=True, slots=True)
class Period:
    """A part of the measured time, in Unix seconds."""

    label: str
    begin: float
    end: float


def main() -> None:
    options = _parser().parse_args()
    learn_seconds = 60 * options.learn
    with (
        tempfile.TemporaryDirectory(prefix="gex-live-") as folder,
        ExitStack() as stack,
    ):
        kafka = stack.enter_context(LocalKafka(Path(folder) / "kafka"))
        runs = [_start(stack, kafka, phase) for phase in PHASES]

        started = time.time()
        time.sleep(learn_seconds + 60 * options.minutes)

        learnt = started + learn_seconds
        periods = (
            Period(f"first {options.learn:g} min", started, learnt),
            Period(f"next {options.minutes:g} min", learnt, time.time()),
        )
        for run in runs:
            _print(kafka, run, periods)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m tests.bench.live", description=__doc__
    )
    parser.add_argument(
        "--learn",
        type=float,
        default=5,
        metavar="MINUTES",
        help="time to learn the rhythm (default %(default)s)",
    )
    parser.add_argument(
        "--minutes",
        type=float,
        default=10,
        help="time to measure after that (default %(default)s)",
    )
    return parser


def _start(stack: ExitStack, kafka: LocalKafka, phase: str) -> Run:
    symbols = ",".join(SYMBOLS)
    simulator = stack.enter_context(
        start_simulator("--phase", phase, "--symbols", symbols)
    )
    # The workers share the broker, so each needs topics and a group of its own.
    unique = uuid.uuid4().hex[:8]
    prefix = f"live.{unique}"
    variables = {
        "GEX_UPSTREAM__BASE_URL": f"{simulator.url}/v2",
        "GEX_UPSTREAM__API_KEY": DEFAULT_KEY,
        "GEX_SYMBOLS": symbols,
        "GEX_KAFKA__BOOTSTRAP_SERVERS": kafka.bootstrap_servers,
        "GEX_KAFKA__TOPIC_PREFIX": prefix,
        "GEX_KAFKA__GROUP_ID": f"live-{unique}",
    }
    worker = stack.enter_context(start_worker(variables))
    return Run(phase, simulator, worker, prefix)


def _print(kafka: LocalKafka, run: Run, periods: Sequence[Period]) -> None:
    answers = run.simulator.ask("/_control/truth")["answers"]
    print(f"{run.phase}, 30 s, jitter 0.3 s, {len(SYMBOLS)} symbols, default settings")
    for period in periods:
        figures = _figures(kafka, run, answers, period)
        print(f"  {period.label:12} {figures}")


def _figures(
    kafka: LocalKafka, run: Run, answers: Sequence[Mapping[str, Any]], period: Period
) -> str:
    """Return the delays of the period's refreshes, and its requests a minute."""
    delays = []
    for event in checker.events(kafka, run.prefix):
        if event.computed_at is None:
            continue
        # Refreshes of the last second may not have been observed yet.
        computed_at = event.computed_at / MICROS
        if period.begin <= computed_at < period.end - 1:
            delays.append((event.observed_at - event.computed_at) / MICROS)
    delays.sort()

    # Count the upstream's side: requests that failed for the worker are among them.
    requests = 0
    for answer in answers:
        if period.begin <= answer["received_at"] / MICROS < period.end:
            requests += 1

    p95 = delays[int(0.95 * len(delays))]
    rate = requests * 60 / (period.end - period.begin)
    return (
        f"mean {mean(delays):.3f} s  p95 {p95:.3f} s  "
        f"{rate:.1f} requests a minute  {len(delays)} refreshes"
    )


if __name__ == "__main__":
    main()
