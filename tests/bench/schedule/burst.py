"""Show how evenly a budget that binds is spent: `python -m tests.bench.schedule.burst`.

The time is virtual.

Eight symbols, refreshed every 5 s (standard deviation 1 s), each at its own phase, and a
target no budget can meet. The schedule runs under the hard limit of production, a sliding
minute, and is compared with a poller that makes as many requests at a fixed interval.
"""

from __future__ import annotations

import argparse
from dataclasses import dataclass
from random import Random
from statistics import fmean
from typing import TYPE_CHECKING, Final

import numpy as np

from tests.bench.schedule.jitter import normal
from tests.bench.schedule.policies import Fixed
from tests.bench.schedule.processes import Row, world
from tests.bench.schedule.product import Product
from tests.bench.schedule.simulate import play

if TYPE_CHECKING:
    from collections.abc import Sequence

    from tests.bench.schedule.simulate import Record

ROW: Final = Row(
    "8 symbols, own phase, 5 s ± 1 s",
    normal(1.0),
    symbols=8,
    periods=(5.0,),
    own_phase=True,
    common=False,
)

# A target that no budget can meet.
TARGET_SECONDS: Final = 0.01

# Requests are counted in bins of this length.
BIN_SECONDS: Final = 10.0

# Requests a minute.
_LIMITS: Final = (30.0, 60.0, 120.0)

_SEEDS: Final = (1, 2, 3, 4, 5)

# Time to see the last refreshes, after the measured span.
_AFTER_SECONDS: Final = 30.0

_HEAD: Final = (
    "limit",
    "poller",
    "requests",
    "per 10 s",
    "seen",
    "mean",
    "p95",
    "worst",
)


@dataclass(frozen=True, slots=True)
class Evenness:
    """The requests, the refreshes that were seen, and the delays of a run, in seconds."""

    requests: int
    least_per_bin: int
    most_per_bin: int
    seen: int
    refreshes: int
    mean: float
    p95: float
    worst: float


def measure(record: Record, start: float, end: float) -> Evenness:
    """Return the figures of the refreshes and requests between `start` and `end`."""
    sent_at = np.array(record.sent_at)
    is_within = (sent_at >= start) & (sent_at < end)
    requests = sent_at[is_within]
    edges = np.arange(start, end + BIN_SECONDS / 2, BIN_SECONDS)
    bins, _ = np.histogram(requests, edges)

    visible_at = np.array(record.visible_at)
    counted = (visible_at >= start) & (visible_at < end)
    delays = np.array(record.delays)[counted]
    return Evenness(
        requests=len(requests),
        least_per_bin=int(bins.min()),
        most_per_bin=int(bins.max()),
        seen=int(np.array(record.shown)[counted].sum()),
        refreshes=len(delays),
        mean=float(delays.mean()),
        p95=float(np.percentile(delays, 95)),
        worst=float(delays.max()),
    )


def compare(
    row: Row, seed: int, limit: float, start: float, end: float
) -> tuple[Evenness, Evenness]:
    """Return the figures of the schedule, and of a fixed poller that makes as many requests."""
    until = end + _AFTER_SECONDS
    drawn = world(row, seed, end, until)
    policy = Product(row, limit=limit, target=TARGET_SECONDS)
    ours = measure(play(drawn, policy, until, limit), start, end)

    interval = (end - start) * len(row.batches) / ours.requests
    poller = Fixed(row, interval, Random(seed))
    fixed = measure(play(drawn, poller, until), start, end)
    return ours, fixed


def _line(limit: float, poller: str, runs: Sequence[Evenness]) -> str:
    least = min(run.least_per_bin for run in runs)
    most = max(run.most_per_bin for run in runs)
    seen = sum(run.seen for run in runs)
    refreshes = sum(run.refreshes for run in runs)
    cells = (
        f"{limit:g}",
        poller,
        f"{fmean(run.requests for run in runs):.0f}",
        f"{least}-{most}",
        f"{seen} of {refreshes}",
        f"{fmean(run.mean for run in runs):.3f}",
        f"{fmean(run.p95 for run in runs):.3f}",
        f"{max(run.worst for run in runs):.2f}",
    )
    return "".join(f"{cell:>16}" for cell in cells)


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m tests.bench.schedule.burst", description=__doc__
    )
    parser.add_argument(
        "--start", type=float, default=0.0, metavar="SECONDS", help="measure from here"
    )
    parser.add_argument(
        "--seconds", type=float, default=240.0, help="to measure (default %(default)s)"
    )
    options = parser.parse_args()
    start = options.start
    end = start + options.seconds
    print(f"{ROW.name}; {start:g} to {end:g} s; {len(_SEEDS)} seeds; delays in seconds")
    print("".join(f"{name:>16}" for name in _HEAD))
    for limit in _LIMITS:
        pairs = [compare(ROW, seed, limit, start, end) for seed in _SEEDS]
        print(_line(limit, "ours", [ours for ours, _ in pairs]))
        print(_line(limit, "fixed", [fixed for _, fixed in pairs]))


if __name__ == "__main__":
    main()
