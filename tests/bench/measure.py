"""CPU seconds and spreads. Knows nothing of the connector."""

from __future__ import annotations

import time
from dataclasses import dataclass
from statistics import quantiles
from typing import TYPE_CHECKING, Final

import psutil

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

MICROS: Final = 1e6
MIB: Final = 2**20


def cpu_micros(call: Callable[[], object], rounds: int) -> float:
    """Return the CPU time of one call in this thread, in µs.

    The least of `rounds` calls, since a disturbance only ever adds time.
    """
    spent_ns = []
    for _ in range(rounds):
        started = time.thread_time_ns()
        call()
        spent_ns.append(time.thread_time_ns() - started)
    return min(spent_ns) / 1000


def percentile(values: Sequence[float], percent: int) -> float:
    """Return the value that `percent` percent of the values stay below."""
    # The first of the 99 cut points is the first percentile. Inclusive, so that those of a
    # few values are not beyond the largest.
    return quantiles(values, n=100, method="inclusive")[percent - 1]


@dataclass(frozen=True, slots=True)
class Usage:
    """CPU seconds of all threads of a process since its start, and its resident bytes now."""

    cpu_seconds: float
    resident_bytes: int

    @classmethod
    def of(cls, pid: int) -> Usage:
        process = psutil.Process(pid)
        times = process.cpu_times()
        return cls(times.user + times.system, process.memory_info().rss)


@dataclass(frozen=True, slots=True)
class Window:
    """Figures of a worker between two moments."""

    seconds: float
    cpu_seconds: float
    events: float
    requests: float
    collapsed: float

    @property
    def cpu_micros_per_event(self) -> float:
        return self.cpu_seconds / self.events * MICROS

    @property
    def cpu_micros_per_request(self) -> float:
        return self.cpu_seconds / self.requests * MICROS

    @property
    def events_per_second(self) -> float:
        return self.events / self.seconds

    @property
    def cores(self) -> float:
        return self.cpu_seconds / self.seconds
