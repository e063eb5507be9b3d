"""Lower bounds for the mean delay of any schedule, if the source's law is known.

For each price of a request the best policy is found (`decision`). Its cost, less the price of the
requests, is a lower bound for every schedule with that many requests (weak duality). The highest of
these bounds is taken: the convex frontier.

A batch with too many windows at once is replaced by parts that are checked separately, each for its
share of the price. A schedule may always check the parts together, so this too is a lower bound, if
a looser one. Several batches under one budget share the price, and their costs add up. Checks of a
batch lie a quarter of a second apart, as those of all schedules here do. Everything left out can
only lower the bound: learning, the duration of a request, and limits on bursts.

If each refresh follows the previous refresh (`drift`), the windows are as certain as those of a
grid once that refresh is known. The bound gives that knowledge away, which costs nothing from one
check a refresh on.

The grid of checks makes the bound too high, by a term of second order: halving the steps moves it
by less than 1 % up to the requests of a plain learnt schedule. `oracle` plays the policies, and
finds the same figures.
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

# Steps of the grid, in seconds: the smallest, the largest within a window, and the step
# between windows.
_FINEST: Final = 0.05
_WIDEST: Final = 0.4
_BETWEEN: Final = 2.0

# Step at a density of 1 refresh a second. It goes with the inverse root, as the best
# intervals do.
_DENSITY: Final = 0.04

# Ratio of two prices between which no other is tried.
_CLOSE: Final = 1.1

# If there are more batches, this many stand for all.
_SAMPLED: Final = 8

# Largest problem. Effort goes with the third power, and states with two to the power of
# the windows that overlap.
_MOST_STATES: Final = 1200

# A larger problem gets a coarser grid, up to this factor: 1 % too high then.
_COARSEST: Final = 6.0
_COARSER: Final = 1.4

# If that is not enough, a batch is cut into parts of this many symbols.
_PART: Final = 4

# A jitter wider than this, in seconds, makes windows that overlap.
_WIDE_SECONDS: Final = 5.0

# Points at which the density of the jitter is sampled.
_DENSITY_POINTS: Final = 4000


class Bound:
    """Lower bounds for one row and seed, for budgets from `least` requests a minute on.

    `span` is the measured time in seconds. `batches` are the symbols that share a request, if they
    are not those of the row. `shortest` is the time between checks of a batch, in seconds. `refine`
    multiplies the steps of the grid.
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
        sampled = _sample(groups)
        periods = row.periods[:1]
        if row.period_later is not None:
            periods = (row.periods[0], row.period_later)

        refined = _refinement(row) if refine is None else refine
        # The grid need not contain the shortest interval itself: allow half a step less.
        closest = max(0.0, shortest - refined * _FINEST / 2)
        # Look ahead for 2.5 of the intervals that the smallest budget allows.
        longest_interval = 60 * len(groups) / least
        horizon = max(3 * max(row.periods), 2.5 * longest_interval)

        self._problems: list[_Problem] = []
        for group in sampled:
            for period in periods:
                law = _Law(row, seed, period, refined)
                self._problems += _problems(law, group, horizon, closest)

        # Each problem stands for several batches, for a part of the time.
        awake = 1 - OUTAGE_SECONDS / span if row.outage else 1.0
        self._weight = len(groups) / len(sampled) * awake / len(periods)
        refreshes = sum(problem.refreshes for problem in self._problems)
        self._refreshes = self._weight * refreshes

        # Bracket the prices: from many checks a refresh to fewer than `least` allows.
        rate = self._refreshes / len(groups) / 2
        least_rate = least / len(groups) / 60
        self._lowest = rate / 300
        self._highest = 4 * rate / least_rate**2
        self._solved: dict[float, Rates] = {}

    def delay(self, requests: float) -> float:
        """Return the lowest mean delay in seconds for this many requests a minute."""
        low = self._lowest
        high = self._highest
        while high / low > _CLOSE:
            middle = math.sqrt(low * high)
            if self._solve(middle).requests * 60 > requests:
                low = middle
            else:
                high = middle

        # Every price solved so far gives a lower bound: the highest is the tightest.
        delays = []
        for price, rates in self._solved.items():
            delay_rate = rates.cost - price * requests / 60
            delays.append(delay_rate / self._refreshes)
        return max(delays)

    def _solve(self, price: float) -> Rates:
        """Return the rates of the best policies for a price, over all batches."""
        if price in self._solved:
            return self._solved[price]

        costs = []
        requests = []
        delays = []
        for problem in self._problems:
            rates = problem.decision.solve(price * problem.share)
            costs.append(rates.cost)
            requests.append(rates.requests * problem.share)
            delays.append(rates.delay)

        total = Rates(
            cost=self._weight * sum(costs),
            requests=self._weight * sum(requests),
            delay=self._weight * sum(delays),
        )
        self._solved[price] = total
        return total


def _sample(groups: Sequence[Sequence[int]]) -> list[Sequence[int]]:
    """Return up to `_SAMPLED` of the batches, evenly spaced."""
    places = np.linspace(0, len(groups) - 1, min(_SAMPLED, len(groups)))
    return [groups[round(at)] for at in places]


def _refinement(row: Row) -> float:
    """Return a fine step for one narrow window, and a coarse one for four wide ones."""
    is_wide = row.jitter.high - row.jitter.low > _WIDE_SECONDS
    if row.common and len(row.periods) == 1:
        return 1.0 if is_wide else 0.4
    return 2.0 if is_wide else 1.0


@dataclass(frozen=True, slots=True)
class _Law:
    """The law of a row's source, while the period is `period`."""

    row: Row
    seed: int
    period: float
    refine: float

    @property
    def cycle(self) -> float:
        if self.row.period_later:
            return self.period
        return max(self.row.periods)

    @property
    def jitter(self) -> Jitter:
        """The jitter of the visible refreshes."""
        return self.row.jitter.later(*self.row.lag)

    def sources(self, symbols: Sequence[int]) -> list[Source]:
        """Return the sources of these symbols.

        Symbols that an event refreshes together share one.
        """
        row = self.row
        cycle = self.cycle
        weights: dict[tuple[float, int], int] = {}
        for symbol in symbols:
            if symbol >= row.symbols - row.missing:
                continue

            period = self.period if row.period_later else row.period(symbol)
            # A short period has several windows in a cycle.
            for turn in range(round(cycle / period)):
                phase = (row.phase(self.seed, symbol) + turn * period) % cycle
                event = 0 if row.common else symbol
                key = (phase, event)
                weights[key] = weights.get(key, 0) + 1

        found = []
        for (phase, _), weight in weights.items():
            found.append(Source(self.jitter, phase, cycle, weight))
        return found


@dataclass(frozen=True, slots=True)
class _Problem:
    """A batch, or a part of it that pays its `share` of a request.

    `refreshes` is a rate per second.
    """

    decision: Decision
    refreshes: float
    share: float


def decision(row: Row, seed: int) -> Decision:
    """Return the decision of a row's first batch, without a shortest interval."""
    law = _Law(row, seed, row.period(0), _refinement(row))
    return _problems(law, row.batches[0], 3 * law.cycle, 0.0)[0].decision


def _problems(
    law: _Law, batch: Sequence[int], horizon: float, shortest: float
) -> list[_Problem]:
    """Return the problem of a batch, or several if it would be too large."""
    parts = [law.sources(batch)]
    refine = law.refine
    while True:
        grids = [_grid(law, sources, refine) for sources in parts]
        if _largest(law, parts, grids) <= _MOST_STATES:
            break

        # Try a coarser grid first: it costs less accuracy than parts.
        if refine < _COARSEST:
            refine = min(_COARSER * refine, _COARSEST)
            continue

        parts = []
        for first in range(0, len(batch), _PART):
            parts.append(law.sources(batch[first : first + _PART]))
        refine = law.refine

    # Each part pays in proportion to its refreshes.
    weights = []
    for sources in parts:
        weights.append(sum(source.weight * source.mass for source in sources))
    total = sum(weights)

    problems = []
    for sources, grid, weight in zip(parts, grids, weights, strict=True):
        solver = Decision(sources, law.cycle, grid, horizon=horizon, shortest=shortest)
        problems.append(_Problem(solver, weight / law.cycle, weight / total))
    return problems


def _largest(law: _Law, parts: list[list[Source]], grids: list[Floats]) -> int:
    """Return the number of states of the largest part."""
    states = []
    for sources, grid in zip(parts, grids, strict=True):
        states.append(count_states(sources, law.cycle, grid))
    return max(states)


def _grid(law: _Law, sources: Sequence[Source], refine: float) -> Floats:
    """Return the places of possible checks: dense in the windows, sparse between them."""
    # Choose the step at each age of a window by the density of refreshes there.
    jitter = law.jitter
    ages = np.linspace(0, jitter.high - jitter.low, _DENSITY_POINTS)
    density = np.gradient(jitter.cdf(ages + jitter.low), ages)
    wanted = _DENSITY / np.sqrt(np.maximum(density, 1e-9))
    steps = refine * np.clip(wanted, _FINEST, _WIDEST)

    # Walk through the window in such steps.
    passed = np.concatenate([[0.0], np.cumsum(np.diff(ages) / steps[1:])])
    counts = np.linspace(0, passed[-1], math.ceil(passed[-1]) + 1)
    within = np.interp(counts, passed, ages)

    # Put all windows and the places between them into a single cycle.
    between = np.arange(0, law.cycle, _BETWEEN)
    windows = [(source.start + within) % law.cycle for source in sources]
    places = np.concatenate([between, *windows])
    places.sort()

    # Drop places that nearly coincide: they add states, but no accuracy.
    is_apart = np.diff(places, prepend=-1.0) > 0.4 * refine * _FINEST
    return places[is_apart]
