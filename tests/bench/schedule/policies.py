"""Baselines for our schedule: a fixed interval, and a plain learnt schedule."""

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

# Shortest time between two checks of a batch.
_MIN_SECONDS: Final = 0.25

# Resolution of the tables. The issue does not state it, nor the next two constants.
# These values come nearest to its figures.
_STEP: Final = 0.25
_MAX_SECONDS: Final = 60.0
_KEPT: Final = 40

# Share of the probability that is spread evenly, and the ages it is spread over. An
# interval never seen before keeps a hazard above zero.
_EVEN: Final = 0.03
_EVEN_SECONDS: Final = 90.0

# Until a symbol has this many intervals, its next check follows a second later. The
# issue does not state the number.
_ENOUGH: Final = 3
_UNKNOWN_SECONDS: Final = 1.0

# Lower limit of a kernel's bandwidth, in seconds.
_NARROWEST: Final = 0.5


class _Timed:
    """The next check of each batch, ordered by time."""

    def __init__(self, at: Mapping[Symbols, float]) -> None:
        self._queue = [(moment, batch) for batch, moment in at.items()]
        heapify(self._queue)

    def next(self) -> tuple[float, Symbols] | None:
        if not self._queue:
            return None
        return self._queue[0]

    def started(self, batch: Symbols, now: float) -> None:
        heappop(self._queue)

    def again(self, batch: Symbols, at: float) -> None:
        heappush(self._queue, (at, batch))


class Fixed(_Timed):
    """Check each batch every `interval` seconds, starting at a random moment.

    The batches are spread over the interval. Averaged over the random start, a delay
    is uniform from 0 to `interval` for any source: see `fixed_mean`.
    """

    def __init__(self, row: Row, interval: float, chance: Random) -> None:
        start = chance.random() * interval
        batches = row.batches
        first_checks = {}
        for place, batch in enumerate(batches):
            offset = interval * place / len(batches)
            first_checks[batch] = (start + offset) % interval

        super().__init__(first_checks)
        self._interval = interval

    def finished(
        self, batch: Symbols, sent_at: float, now: float, seen: Mapping[int, int]
    ) -> None:
        self.again(batch, sent_at + self._interval)


def fixed_mean(requests: float, batches: int) -> float:
    """Return the mean delay of the fixed interval with this many requests a minute.

    The delay is uniform: its p95 is 1.9 times the mean, its p99 1.98 times.
    """
    return 30.0 * batches / requests


class _Symbol:
    """The refreshes of a symbol as the plain learnt schedule knows them."""

    def __init__(self) -> None:
        self.last: int | None = None
        self.intervals: list[float] = []
        self.hazard: Floats = np.zeros(0)

    def observe(self, computed: int) -> None:
        """Take a refresh in server microseconds, and learn from the interval before it."""
        if self.last is not None and computed > self.last:
            interval = (computed - self.last) / MICROS
            self.intervals = [*self.intervals[1 - _KEPT :], interval]
            if len(self.intervals) >= _ENOUGH:
                self.hazard = _hazard(np.array(self.intervals))
        self.last = computed


def _hazard(intervals: Floats) -> Floats:
    """Return the hazard by age, one entry a step.

    The density is a normal kernel estimate with Silverman's bandwidth. A part of the
    mass is spread evenly.
    """
    width = _bandwidth(intervals)
    ages = np.arange(0, _EVEN_SECONDS + 2 * _MAX_SECONDS, _STEP) + _STEP / 2

    # Evaluate each kernel only near its interval: beyond five widths it adds nothing.
    reach = math.ceil(5 * width / _STEP)
    offsets = np.arange(-reach, reach + 1)
    own_steps = (intervals / _STEP).astype(int)
    near = own_steps[:, None] + offsets[None, :]
    distances = (near + 0.5) * _STEP - intervals[:, None]
    parts = np.exp(-0.5 * (distances / width) ** 2)

    # Add the kernels up, and leave room for the even part.
    within = (near >= 0) & (near < len(ages))
    summed = np.bincount(near[within], parts[within], len(ages))
    density: Floats = summed.astype(np.float64)
    density *= (1 - _EVEN) / max(float(density.sum()) * _STEP, 1e-12)
    density += np.where(ages < _EVEN_SECONDS, _EVEN / _EVEN_SECONDS, 0.0)

    # The last even steps leave almost no mass: a floor keeps the ratio finite.
    left = np.cumsum(density[::-1])[::-1] * _STEP
    hazard: Floats = density / np.maximum(left, _EVEN / 100)
    hazard[ages > _EVEN_SECONDS] = hazard[ages < _EVEN_SECONDS][-1]
    return hazard


def _bandwidth(intervals: Floats) -> float:
    """Return Silverman's bandwidth, from the smaller of two measures of spread."""
    low, high = np.percentile(intervals, (25, 75))
    deviation = float(intervals.std(ddof=1))
    quartiles = float(high - low) / 1.34
    # Equal quartiles say nothing about the spread.
    spread = deviation
    if quartiles:
        spread = min(deviation, quartiles)

    rule_of_thumb: float = 0.9 * spread * len(intervals) ** -0.2
    return max(rule_of_thumb, _NARROWEST)


class Learnt(_Timed):
    """The issue's plain learnt schedule, after Keller, Management Science 21(3), 1974.

    Checks have the density sqrt(h / 2c). Here h is the batch's hazard, the sum over its
    symbols, and c the price of a request in seconds of delay. The next check is due as
    soon as the integral of that density since the last check reaches 1.
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
            self._symbols[symbol].observe(computed)
        self.again(batch, max(now, sent_at + self._wait(batch, sent_at)))

    def _wait(self, batch: Symbols, sent_at: float) -> float:
        """Return the seconds from a check to the next one."""
        hazard = np.zeros(round(_MAX_SECONDS / _STEP))
        known = 0
        for number in batch:
            symbol = self._symbols[number]
            if symbol.last is None or not len(symbol.hazard):
                continue

            known += 1
            age = sent_at - symbol.last / MICROS + self._ahead
            step = max(0, int(age / _STEP))
            last_step = len(symbol.hazard) - 1
            part = symbol.hazard[min(step, last_step) :][: len(hazard)]
            # Beyond the table, the hazard stays as it is at its end.
            hazard[: len(part)] += part
            hazard[len(part) :] += part[-1]

        if not known:
            return _UNKNOWN_SECONDS

        density = np.sqrt(hazard / (2 * self._price))
        checks = np.cumsum(density) * _STEP
        steps = int(np.searchsorted(checks, 1.0)) + 1
        return max(_MIN_SECONDS, steps * _STEP)
