"""Compare the delays of schedules with the best possible: `python -m tests.bench.schedule`."""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from multiprocessing import get_context
from pathlib import Path
from typing import Final

_PROCESSES: Final = 2

# numpy reads these when it is loaded. Each process has a core to itself, so more threads
# only compete.
_THREADS: Final = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS")
for _name in _THREADS:
    os.environ.setdefault(_name, "1")

from tests.bench.schedule.oracle import check  # noqa: E402 -- as above
from tests.bench.schedule.plot import PLOTTED, plot  # noqa: E402 -- as above
from tests.bench.schedule.processes import BUDGET_ROWS, ISSUE_ROWS, MORE_ROWS, Row  # noqa: E402 -- as above
from tests.bench.schedule.report import tables  # noqa: E402 -- as above
from tests.bench.schedule.study import Found, Job  # noqa: E402 -- as above

_SEEDS: Final = (1, 2, 3)
_HOURS: Final = 2.0
_LIMITS: Final = (120.0, 60.0, 30.0, 6.0)

# A jitter wider than this makes windows that overlap.
_WIDE_SECONDS: Final = 5.0


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m tests.bench.schedule", description=__doc__
    )
    parser.add_argument(
        "--quick",
        action="store_true",
        help="less than a minute: the issue's rows, one seed, one hour",
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="write every figure")
    parser.add_argument(
        "--plot", type=Path, metavar="FILE.svg", help="draw delay against requests"
    )
    parser.add_argument(
        "--row", metavar="NAME", help="only rows with this in their names"
    )
    parser.add_argument(
        "--check",
        action="store_true",
        help="only play the policies that the bounds are made of",
    )
    options = parser.parse_args()
    if options.check:
        for line in check():
            print(line, flush=True)
        return
    started = time.monotonic()
    results = measure(jobs(options.quick, options.row or "", options.plot is not None))
    print(tables(results))
    _say(f"{time.monotonic() - started:.0f} s")
    if options.json:
        options.json.write_text(json.dumps(results, indent=1) + "\n")
    if options.plot:
        plot(results, options.plot)


def jobs(quick: bool, name: str, curves: bool) -> list[Job]:
    """Return the jobs in the order of the tables."""
    seeds = _SEEDS[:1] if quick else _SEEDS
    limits = _LIMITS[1:2] if quick else _LIMITS
    rows: tuple[Row, ...] = (*ISSUE_ROWS, *MORE_ROWS)
    budget_rows: tuple[Row, ...] = BUDGET_ROWS
    # A name may ask for any row, even in a quick run.
    if quick and not name:
        rows = ISSUE_ROWS
        budget_rows = BUDGET_ROWS[:1]

    found = []
    for row in rows:
        with_curves = curves and row.name in PLOTTED
        found.append(Job(row, seeds, _HOURS, curves=with_curves))

    for row in budget_rows:
        own_seeds = seeds
        hours = _HOURS / 4
        # Many symbols are many draws of a phase: one seed and less time are enough.
        if len(row.batches) > 1:
            own_seeds = seeds[:1]
            hours = _HOURS / 6
        for limit in limits:
            found.append(Job(row, own_seeds, hours, limit=limit))
    return [job for job in found if name in job.row.name]


def measure(planned: list[Job]) -> list[Found]:
    """Run all jobs, the long ones first, so that no long job runs alone at the end."""

    def weight(at: int) -> float:
        return _weight(planned[at])

    order = sorted(range(len(planned)), key=weight, reverse=True)
    results: list[Found] = [{} for _ in planned]
    with get_context("spawn").Pool(_PROCESSES) as pool:
        running = [(at, pool.apply_async(planned[at].run)) for at in order]
        for at, result in running:
            results[at] = result.get()
            _say(f"{planned[at].row.name}: {results[at]['seconds']:.0f} s")
    return results


def _weight(job: Job) -> float:
    """Estimate the duration of a job, on a scale of its own."""
    weight = job.hours * len(job.seeds) * job.row.symbols
    # Wide windows overlap, and make large decision problems.
    if job.row.jitter.high - job.row.jitter.low > _WIDE_SECONDS:
        weight *= 4
    if job.curves:
        weight *= 2
    return weight


def _say(message: str) -> None:
    sys.stderr.write(f"bench: {message}\n")
    sys.stderr.flush()


if __name__ == "__main__":
    main()
