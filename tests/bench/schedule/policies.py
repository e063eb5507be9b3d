"""What ours is compared with: a fixed interval, and the plain learnt schedule."""

from __future__ import annotations

import math
from heapq import heapify, heappop, heappush
from typing import TYPE_CHECKING, Final

import numpy as np

from tests.bench.schedule.processes import MICROS

if TYPE_CHECKING:
    from collections.abc import Mapping
    from random import Random

    from tests.bench.schedule.jitter import Floats
    from tests.bench.schedule.processes import Row
    from tests.bench.schedule.simulate import Symbols

_MIN_SECONDS: Final = 0.25
# Of the tables, seconds. The issue does not say it, nor the next two: these come
# nearest its figures.
_STEP: Final = 0.25

_MAX_SECONDS: Final = 60.0
_KEPT: Final = 40
_EVEN: Final = 0.03
# Over which the even part of the mass lies.
_EVEN_SECONDS: Final = 90.0

# Intervals before which the next check is a second later; the issue does not say how
# many.
_ENOUGH: Final = 3

_UNKNOWN_SECONDS: Final = 1.0
# Bandwidth of a kernel, seconds, at least.
_NARROWEST: Final = 0.5


class _Timed:
    """The next check of each batch, by its moment."""

    def __init__(self, at: Mapping[Symbols, float]) -> None:
        self._queue = [(moment, batch) for batch, moment in at.items()]
        heapify(self._queue)

    def next(self) -> tuple[float, Symbols] | None:
        return self._queue[0] if self._queue else None

    def started(self, batch: Symbols, now: float) -> None:
        heappop(self._queue)

    def again(self, batch: Symbols, at: float) -> None:
        heappush(self._queue, (at, batch))


class Fixed(_Timed):
    """Each batch every `interval` seconds, the batches spread over it, from a random moment.

    Over that moment, a delay is uniform from 0 to `interval` whatever the source does: see `fixed_mean`.
    """

    def __init__(self, row: Row, interval: float, chance: Random) -> None:
        start, batches = chance.random() * interval, row.batches
        super().__init__(
            {
                batch: (start + interval * place / len(batches)) % interval
                for place, batch in enumerate(batches)
            }
        )
        self._interval = interval

    def finished(
        self, batch: Symbols, sent_at: float, now: float, seen: Mapping[int, int]
    ) -> None:
        self.again(batch, sent_at + self._interval)


def fixed_mean(requests: float, batches: int) -> float:
    """Mean delay of the fixed interval that makes so many requests a minute; its p95 is 1.9 times, p99 1.98 times."""
    return 30.0 * batches / requests


class _Symbol:
    """What the plain learnt schedule knows of a symbol."""

    def __init__(self) -> None:
        self.last: int | None = None
        self.intervals: list[float] = []
        self.hazard: Floats = np.zeros(0)

    def see(self, computed: int) -> None:
        if self.last is not None and computed > self.last:
            self.intervals = [
                *self.intervals[1 - _KEPT :],
                (computed - self.last) / MICROS,
            ]
            if len(self.intervals) >= _ENOUGH:
                self.hazard = _hazard(np.array(self.intervals))
        self.last = computed


def _hazard(intervals: Floats) -> Floats:
    """By age, in steps: of a kernel estimate (normal, Silverman's bandwidth) with a part of the mass spread evenly."""
    low, high = np.percentile(intervals, (25, 75))
    spread = min(float(intervals.std(ddof=1)), float(high - low) / 1.34 or math.inf)
    width = max(0.9 * spread * len(intervals) ** -0.2, _NARROWEST)
    ages = np.arange(0, _EVEN_SECONDS + 2 * _MAX_SECONDS, _STEP) + _STEP / 2
    reach = math.ceil(5 * width / _STEP)
    near = (intervals / _STEP).astype(int)[:, None] + np.arange(-reach, reach + 1)[
        None, :
    ]
    parts = np.exp(-0.5 * (((near + 0.5) * _STEP - intervals[:, None]) / width) ** 2)
    within = (near >= 0) & (near < len(ages))
    density: Floats = np.bincount(near[within], parts[within], len(ages)).astype(
        np.float64
    )
    density *= (1 - _EVEN) / max(float(density.sum()) * _STEP, 1e-12)
    density += np.where(ages < _EVEN_SECONDS, _EVEN / _EVEN_SECONDS, 0.0)
    left = np.cumsum(density[::-1])[::-1] * _STEP
    hazard: Floats = density / np.maximum(left, _EVEN / 100)
    hazard[ages > _EVEN_SECONDS] = hazard[ages < _EVEN_SECONDS][-1]
    return hazard


class Learnt(_Timed):
    """The issue's plain learnt schedule, after Keller, Management Science 21(3), 1974.

    Checks have the density sqrt(h / 2c), with the hazard h of the batch (that of its symbols, added up) and the price
    c of a request in seconds of delay; the next one is where its integral from the last one reaches 1.
    """

    def __init__(self, row: Row, price: float) -> None:
        super().__init__(dict.fromkeys(row.batches, 0.0))
        self._price = price
        self._ahead = row.ahead
        self._symbols = [_Symbol() for _ in range(row.symbols)]

    def finished(
        self, batch: Symbols, sent_at: float, now: float, seen: Mapping[int, int]
    ) -> None:
        for symbol, computed in seen.items():
            self._symbols[symbol].see(computed)
        self.again(batch, max(now, sent_at + self._wait(batch, sent_at)))

    def _wait(self, batch: Symbols, sent_at: float) -> float:
        hazard = np.zeros(round(_MAX_SECONDS / _STEP))
        known = 0
        for symbol in batch:
            of = self._symbols[symbol]
            if of.last is None or not len(of.hazard):
                continue
            known += 1
            age = max(0, int((sent_at - of.last / MICROS + self._ahead) / _STEP))
            part = of.hazard[min(age, len(of.hazard) - 1) :][: len(hazard)]
            hazard[: len(part)] += part
            hazard[len(part) :] += part[-1]
        if not known:
            return _UNKNOWN_SECONDS
        checks = np.cumsum(np.sqrt(hazard / (2 * self._price))) * _STEP
        return max(_MIN_SECONDS, (int(np.searchsorted(checks, 1.0)) + 1) * _STEP)
