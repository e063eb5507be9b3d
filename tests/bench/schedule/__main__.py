"""`python -m tests.bench.schedule`: how late schedules see refreshes, against the best that can be; virtual time."""

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
_THREADS: Final = "OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS"
for _name in _THREADS:  # before numpy is loaded: each process has one core
    os.environ.setdefault(_name, "1")

from tests.bench.schedule.oracle import check  # noqa: E402 -- as above
from tests.bench.schedule.plot import PLOTTED, plot  # noqa: E402 -- as above
from tests.bench.schedule.processes import BUDGET_ROWS, ISSUE_ROWS, MORE_ROWS  # noqa: E402 -- as above
from tests.bench.schedule.report import tables  # noqa: E402 -- as above
from tests.bench.schedule.study import Found, Job  # noqa: E402 -- as above

_SEEDS: Final = (1, 2, 3)
_LIMITS: Final = (120.0, 60.0, 30.0, 6.0)


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
    """What to do, in the order of the tables."""
    seeds, hours = (_SEEDS[:1], 2.0) if quick else (_SEEDS, 2.0)
    rows = ISSUE_ROWS if quick and not name else (*ISSUE_ROWS, *MORE_ROWS)
    found = [
        Job(row, seeds, hours, curves=curves and row.name in PLOTTED) for row in rows
    ]
    limits = _LIMITS[1:2] if quick else _LIMITS
    budgets = BUDGET_ROWS[:1] if quick and not name else BUDGET_ROWS
    for row in budgets:  # many symbols are many draws of a phase
        few = seeds if len(row.batches) == 1 else seeds[:1]
        found += [
            Job(row, few, hours / (4 if len(row.batches) == 1 else 6), limit=limit)
            for limit in limits
        ]
    return [job for job in found if name in job.row.name]


def measure(planned: list[Job]) -> list[Found]:
    """Do them all, the long ones first."""
    order = sorted(range(len(planned)), key=lambda at: -_weight(planned[at]))
    results: list[Found] = [{} for _ in planned]
    with get_context("spawn").Pool(_PROCESSES) as pool:
        running = [(at, pool.apply_async(planned[at].run)) for at in order]
        for at, result in running:
            results[at] = result.get()
            _say(f"{planned[at].row.name}: {results[at]['seconds']:.0f} s")
    return results


def _weight(job: Job) -> float:
    """About how long it takes."""
    wide = job.row.jitter.high - job.row.jitter.low > 5
    return (
        job.hours
        * len(job.seeds)
        * job.row.symbols
        * (4 if wide else 1)
        * (2 if job.curves else 1)
    )


def _say(what: str) -> None:
    sys.stderr.write(f"bench: {what}\n")
    sys.stderr.flush()


if __name__ == "__main__":
    main()
