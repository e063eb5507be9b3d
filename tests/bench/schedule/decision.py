"""The best moments for checks where the source's law is known: a semi-Markov decision problem, solved exactly.

A batch is checked at moments of a grid over one cycle. The state after a check is its place in the cycle and, for each
source of refreshes that is then within its window, whether this cycle's refresh is still to be seen; outside its window
nothing of a source is open. (The windows of a source do not overlap, so this is all that a check tells: exact moments
of refreshes add nothing to it.) An action is the place of the next check, any number of cycles ahead up to a limit. It
costs the price of a request, and the time that refreshes wait for it: seconds times symbols, the overtaken included.
Delays are integrated exactly between places of the grid; only the checks are bound to it, so that a result is the cost
of a schedule that exists, above the true optimum by a term of second order in the step (`bounds` measures it).
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING, Final

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.bench.schedule.jitter import Floats, Jitter

_FINE: Final = 0.002  # of the tables of a distribution, seconds
# Probability of a jump to the first state: keeps a policy with several closed classes
# solvable.
_RESTART: Final = 1e-6

_SAME: Final = 1e-6  # seconds
_ROUNDS: Final = 60
_ENOUGH: Final = 1e-9


class Source:
    """Refreshes that come together, `weight` symbols of them, once a cycle: after `start`, within `width` seconds."""

    def __init__(
        self, jitter: Jitter, phase: float, cycle: float, weight: int = 1
    ) -> None:
        self.weight = weight
        self.mass = 1 - jitter.skip
        self.width = jitter.high - jitter.low
        if self.width >= cycle:
            raise ValueError("the windows of a source overlap")
        self.start = (phase + jitter.low) % cycle
        self._ages = np.linspace(0, self.width, max(2, round(self.width / _FINE)))
        self._seen = self.mass * jitter.cdf(self._ages + jitter.low)
        steps = np.diff(self._ages) * (self._seen[1:] + self._seen[:-1]) / 2
        self._waited = np.concatenate([[0.0], np.cumsum(steps)])

    def seen(self, age: Floats) -> Floats:
        """Probability that the refresh is visible, by time since the window began."""
        result: Floats = np.interp(age, self._ages, self._seen)
        return result

    def waited(self, age: Floats) -> Floats:
        """Expected seconds for which it has been visible."""
        beyond: Floats = np.interp(
            age, self._ages, self._waited
        ) + self.mass * np.maximum(age - self.width, 0)
        return beyond

    def waited_all(self, age: Floats, cycle: float) -> Floats:
        """The same for all windows that began at `age` seconds ago, or whole cycles later; no age is no window."""
        last = np.maximum(np.floor(age / cycle), 0)
        whole = self._waited[-1] + self.mass * (
            age - self.width
        )  # of the first; each later one is a cycle less
        ended: Floats = last * whole - self.mass * cycle * last * (last - 1) / 2
        return ended + self.waited(np.maximum(age - last * cycle, 0.0))


@dataclass(frozen=True, slots=True)
class Rates:
    """Of one policy, in the long run, per second: what is minimised, requests, and symbol-seconds of delay."""

    cost: float
    requests: float
    delay: float


class Decision:
    """One batch: all prices are solved with the same tables. Seconds; checks lie `shortest` apart, or more."""

    def __init__(
        self,
        sources: list[Source],
        cycle: float,
        grid: Floats,
        *,
        horizon: float,
        shortest: float = 0.0,
    ) -> None:
        self.grid, self._sources, self._cycle = grid, sources, cycle
        places, steps = len(grid), round(horizon / cycle * len(grid))
        self._ages = _ages(sources, cycle, grid)
        self._active = [
            [
                i
                for i, source in enumerate(sources)
                if self._ages[i, at] < source.width - _SAME
            ]
            for at in range(places)
        ]
        self._first = np.concatenate(
            [[0], np.cumsum([1 << len(active) for active in self._active])]
        )
        self._place = np.repeat(np.arange(places), np.diff(self._first))
        ahead = np.arange(places)[:, None] + np.arange(1, steps + 1)[None, :]
        self._to = ahead % places
        self._gap = grid[self._to] + (ahead // places) * cycle - grid[:, None]
        self._seen_at = np.array(
            [source.seen(own) for source, own in zip(sources, self._ages, strict=True)]
        )
        self._banned = np.where(self._gap < shortest - _SAME, np.inf, 0.0)
        self._unseen = [self._fresh(at) for at in range(places)]
        self._delay = np.concatenate([self._delays(at) for at in range(places)])
        self._near = [self._transitions(at) for at in range(places)]
        self._policy = np.full(len(self._place), min(steps, places) - 1)

    def _fresh(self, at: int) -> Floats:
        """The distribution over a place's states where all its windows began since the last check."""
        return _product([1 - float(self._seen_at[i, at]) for i in self._active[at]])

    def _delays(self, at: int) -> Floats:
        """[state, action]: expected symbol-seconds of delay until the next check."""
        gap = self._gap[at]
        result = np.zeros((1 << len(self._active[at]), len(gap)))
        for i, source in enumerate(self._sources):
            result += source.weight * source.waited_all(
                self._ages[i, at] + gap - self._cycle, self._cycle
            )
        for bit, i in enumerate(self._active[at]):
            source, begun = self._sources[i], float(self._ages[i, at])
            seen, waited = (
                float(source.seen(np.array(begun))),
                float(source.waited(np.array(begun))),
            )
            more = (source.waited(begun + gap) - waited - seen * gap) / max(
                1 - seen, 1e-12
            )
            result[np.arange(len(result)) >> bit & 1 == 1] += source.weight * more
        return result

    def _transitions(self, at: int) -> list[Floats]:
        """[action][state, next state] for the actions whose place shares a window with this one."""
        found = []
        for to, gap in zip(self._to[at], self._gap[at], strict=True):
            shared = [
                i
                for i in self._active[at]
                if self._ages[i, at] + gap < self._sources[i].width - _SAME
            ]
            if not shared:
                break
            rows = []
            for state in range(1 << len(self._active[at])):
                unseen = []
                for i in self._active[to]:
                    seen = float(self._seen_at[i, to])
                    if i in shared:
                        still = (1 - seen) / max(1 - float(self._seen_at[i, at]), 1e-12)
                        unseen.append(
                            still if state >> self._active[at].index(i) & 1 else 0.0
                        )
                    else:
                        unseen.append(1 - seen)
                rows.append(_product(unseen))
            found.append(np.array(rows))
        return found

    def solve(self, price: float) -> Rates:
        """The best policy for a price, in seconds of delay a request; starts from the last one found."""
        best = self._evaluate(price)
        for _ in range(_ROUNDS):
            rates, values = best
            self._improve(price, rates.cost, values)
            best = self._evaluate(price)
            if best[0].cost > rates.cost - _ENOUGH:
                break
        return best[0]

    def next(
        self, at: int, moment: float, unseen: Callable[[int, float], bool]
    ) -> tuple[int, float]:
        """The place of the best next check after one at a place, and how long until then.

        `unseen` tells for a source (by number) and the moment its window began whether its refresh was not there.
        """
        states = [
            bit
            for bit, i in enumerate(self._active[at])
            if unseen(i, moment - float(self._ages[i, at]))
        ]
        action = self._policy[self._first[at] + sum(1 << bit for bit in states)]
        return int(self._to[at, action]), float(self._gap[at, action])

    def _improve(self, price: float, cost: float, values: Floats) -> None:
        mean = np.array(
            [
                self._unseen[at] @ values[low:high]
                for at, (low, high) in enumerate(pairwise(self._first))
            ]
        )
        for at, (low, high) in enumerate(pairwise(self._first)):
            expected = np.repeat(mean[self._to[at]][None, :], high - low, axis=0)
            for action, table in enumerate(self._near[at]):
                to = self._to[at, action]
                expected[:, action] = (
                    table @ values[self._first[to] : self._first[to + 1]]
                )
            total = (
                price
                + self._delay[low:high]
                - cost * self._gap[at]
                + self._banned[at]
                + expected
            )
            chosen = self._policy[low:high]
            better = (
                total.min(axis=1) < total[np.arange(high - low), chosen] - _ENOUGH / 10
            )
            self._policy[low:high] = np.where(better, total.argmin(axis=1), chosen)

    def _evaluate(self, price: float) -> tuple[Rates, Floats]:
        states = len(self._place)
        matrix = np.eye(states)
        for state in range(states):
            at, action = int(self._place[state]), int(self._policy[state])
            to, own = self._to[at, action], state - self._first[at]
            near = self._near[at]
            row = near[action][own] if action < len(near) else self._unseen[to]
            matrix[state, self._first[to] : self._first[to + 1]] -= (1 - _RESTART) * row
            matrix[state, 0] -= _RESTART
        matrix[:, 0] = self._gap[
            self._place, self._policy
        ]  # the first value is 0: its column is for the rate
        costs = np.stack(
            [np.ones(states), self._delay[np.arange(states), self._policy]], axis=1
        )
        solved = np.linalg.solve(matrix, costs)
        requests, delay = solved[0]
        values = price * solved[:, 0] + solved[:, 1]
        values[0] = 0.0
        return Rates(
            float(price * requests + delay), float(requests), float(delay)
        ), values


def _ages(sources: list[Source], cycle: float, grid: Floats) -> Floats:
    """[source, place]: seconds since the last window began. One that begins right now is one to come."""
    ages = np.array([(grid - source.start) % cycle for source in sources])
    return np.where(ages < _SAME, cycle, ages)


def count_states(sources: list[Source], cycle: float, grid: Floats) -> int:
    """How many states a decision with this grid has: effort goes with the third power."""
    widths = np.array([[source.width] for source in sources])
    active = (_ages(sources, cycle, grid) < widths - _SAME).sum(axis=0)
    return int((1 << active).sum())


def _product(unseen: list[float]) -> Floats:
    """The distribution over subsets of the unseen; bit i of its index says that i is one."""
    result = np.ones(1)
    for chance in unseen:
        result = np.concatenate([result * (1 - chance), result * chance])
    return result
