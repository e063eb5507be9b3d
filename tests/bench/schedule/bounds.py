"""The best mean delay that any schedule can have, for so many requests a minute, where the source's law is known.

For each price of a request the best policy is found (`decision`); its cost, less the price of the requests, is a lower
bound for every schedule with that many requests (weak duality), and the highest of these bounds is taken: the convex
frontier. A batch with too many windows at once is replaced by parts that are checked each for themselves, for their
share of the price: a schedule may always check them together, so that too is a lower bound, if a lower one. Several
batches under one budget share the price, and their costs add up. Checks of a batch lie a quarter of a second apart, as
those of all schedules here do. What is left out can only lower the bound: what has to be learnt, how long a request
takes, and that requests may not come in bursts.

Where each refresh follows from the one before (`drift`), the windows are as certain as those of a grid once the
refresh before is known; the bound gives that knowledge away, which costs nothing from one check a refresh on.

The grid of checks makes the bound too high, by a term of second order: halving the steps moves it by less than 1 % up
to the requests of a plain learnt schedule. `oracle` plays the policies, and finds the same figures.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import numpy as np

from tests.bench.schedule.decision import Decision, Rates, Source, count_states
from tests.bench.schedule.processes import OUTAGE_SECONDS

if TYPE_CHECKING:
    from collections.abc import Sequence

    from tests.bench.schedule.jitter import Floats, Jitter
    from tests.bench.schedule.processes import Row

# Between two checks of a batch.
SHORTEST_SECONDS: Final = 0.25

_FINEST: Final = 0.05  # step of the grid, seconds
_WIDEST: Final = 0.4  # within a window
_BETWEEN: Final = 2.0  # between windows
# Step where the density of refreshes is 1 a second. It goes with the inverse root, as
# the best intervals do.
_DENSITY: Final = 0.04

# Ratio of two prices between which no other is tried.
_CLOSE: Final = 1.1

# Batches that stand for all, where there are more.
_SAMPLED: Final = 8

# Of a problem: effort goes with the third power, and states with two to the power of
# the windows that overlap.
_MOST_STATES: Final = 1200

# Times the steps above, to keep to that: 1 % too high then.
_COARSEST: Final = 6.0

# Symbols of a part, where that is not enough.
_PART: Final = 4


class Bound:
    """Of one row and seed, for budgets from `least` requests a minute on. `span`: the seconds that are counted.

    `batches`: which symbols share a request, where they are not those of the row. `shortest`: seconds between checks
    of a batch. `refine` multiplies the steps of the grid.
    """

    def __init__(
        self,
        row: Row,
        seed: int,
        least: float,
        span: float,
        *,
        batches: Sequence[Sequence[int]] | None = None,
        shortest: float = SHORTEST_SECONDS,
        refine: float | None = None,
    ) -> None:
        groups = row.batches if batches is None else batches
        sampled = [
            groups[round(at)]
            for at in np.linspace(0, len(groups) - 1, min(_SAMPLED, len(groups)))
        ]
        periods = (
            row.periods[:1]
            if row.period_later is None
            else (row.periods[0], row.period_later)
        )
        refined = _refinement(row) if refine is None else refine
        closest = max(
            0.0, shortest - refined * _FINEST / 2
        )  # the grid need not have that very interval
        horizon = max(3 * max(row.periods), 2.5 * 60 * len(groups) / least)
        self._problems = [
            problem
            for group in sampled
            for period in periods
            for problem in _problems(
                _Law(row, seed, period, refined), group, horizon, closest
            )
        ]
        awake = 1 - OUTAGE_SECONDS / span if row.outage else 1.0
        self._weight = len(groups) / len(sampled) * awake / len(periods)
        self._refreshes = self._weight * sum(
            problem.refreshes for problem in self._problems
        )
        rate = self._refreshes / len(groups) / 2
        self._lowest, self._highest = (
            rate / 300,
            4 * rate / (least / len(groups) / 60) ** 2,
        )
        self._solved: dict[float, Rates] = {}

    def delay(self, requests: float) -> float:
        """The lowest mean delay in seconds for so many requests a minute."""
        low, high = self._lowest, self._highest
        while high / low > _CLOSE:
            middle = math.sqrt(low * high)
            if self._solve(middle).requests * 60 > requests:
                low = middle
            else:
                high = middle
        return max(
            (rates.cost - price * requests / 60) / self._refreshes
            for price, rates in list(self._solved.items())
        )

    def _solve(self, price: float) -> Rates:
        if price not in self._solved:
            solved = [
                (problem.share, problem.decision.solve(price * problem.share))
                for problem in self._problems
            ]
            self._solved[price] = Rates(
                self._weight * sum(one.cost for _, one in solved),
                self._weight * sum(one.requests * share for share, one in solved),
                self._weight * sum(one.delay for _, one in solved),
            )
        return self._solved[price]


def _refinement(row: Row) -> float:
    """Finer where that is cheap, with one narrow window; coarser where four wide ones overlap."""
    wide = row.jitter.high - row.jitter.low > 5
    if row.common and len(row.periods) == 1:
        return 1.0 if wide else 0.4
    return 2.0 if wide else 1.0


@dataclass(frozen=True, slots=True)
class _Law:
    """What is known of a row's source, while the period is `period`."""

    row: Row
    seed: int
    period: float
    refine: float

    @property
    def cycle(self) -> float:
        return self.period if self.row.period_later else max(self.row.periods)

    def sources(self, symbols: Sequence[int]) -> list[Source]:
        """Of these symbols; one for all that one event refreshes."""
        row, cycle, weights = self.row, self.cycle, dict[tuple[float, int], int]()
        for symbol in symbols:
            if symbol >= row.symbols - row.missing:
                continue
            own = self.period if row.period_later else row.period(symbol)
            for turn in range(round(cycle / own)):
                key = (
                    (row.phase(self.seed, symbol) + turn * own) % cycle,
                    0 if row.common else symbol,
                )
                weights[key] = weights.get(key, 0) + 1
        jitter = row.jitter.later(*row.lag)
        return [
            Source(jitter, phase, cycle, weight)
            for (phase, _), weight in weights.items()
        ]


@dataclass(frozen=True, slots=True)
class _Problem:
    """One batch, or a part of it that pays its `share` of a request. `refreshes` per second."""

    decision: Decision
    refreshes: float
    share: float


def decision(row: Row, seed: int) -> Decision:
    """For the first batch of a row with one period; without a shortest interval."""
    law = _Law(row, seed, row.period(0), _refinement(row))
    return _problems(law, row.batches[0], 3 * law.cycle, 0.0)[0].decision


def _problems(
    law: _Law, batch: Sequence[int], horizon: float, shortest: float
) -> list[_Problem]:
    """One, or several where it would be too large."""
    cycle = law.cycle
    parts, refine = [law.sources(batch)], law.refine
    while True:
        grids = [
            _grid(law.row.jitter.later(*law.row.lag), sources, cycle, refine)
            for sources in parts
        ]
        if (
            max(
                count_states(sources, cycle, grid)
                for sources, grid in zip(parts, grids, strict=True)
            )
            <= _MOST_STATES
        ):
            break
        if refine < _COARSEST:
            refine = min(1.4 * refine, _COARSEST)
        else:
            parts, refine = (
                [
                    law.sources(batch[at : at + _PART])
                    for at in range(0, len(batch), _PART)
                ],
                law.refine,
            )
    weights = [
        sum(source.weight * source.mass for source in sources) for sources in parts
    ]
    return [
        _Problem(
            Decision(sources, cycle, grid, horizon=horizon, shortest=shortest),
            weight / cycle,
            weight / sum(weights),
        )
        for sources, grid, weight in zip(parts, grids, weights, strict=True)
    ]


def _grid(
    jitter: Jitter, sources: Sequence[Source], cycle: float, refine: float
) -> Floats:
    ages = np.linspace(0, jitter.high - jitter.low, 4000)
    density = np.gradient(jitter.cdf(ages + jitter.low), ages)
    steps = refine * np.clip(
        _DENSITY / np.sqrt(np.maximum(density, 1e-9)), _FINEST, _WIDEST
    )
    passed = np.concatenate([[0.0], np.cumsum(np.diff(ages) / steps[1:])])
    within = np.interp(
        np.linspace(0, passed[-1], math.ceil(passed[-1]) + 1), passed, ages
    )
    places = np.concatenate(
        [
            np.arange(0, cycle, _BETWEEN),
            *[(source.start + within) % cycle for source in sources],
        ],
    )
    places.sort()
    apart = np.diff(places, prepend=-1.0) > 0.4 * refine * _FINEST
    return places[apart]
