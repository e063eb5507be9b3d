"""How far the next refresh may be from where it is expected: a distribution made of the last errors. Pure."""

from __future__ import annotations

from bisect import bisect_right
from itertools import pairwise
from typing import Final

import msgspec

_GROUPS: Final = 10
"""Order statistics that the distribution goes through, each the mean of its neighbours."""

_EDGES: Final = (0, 1, 2, 4)
"""Where a group ends besides, from either end: what is rare is not mixed with what is not."""

_TAIL: Final = tuple(
    (reach, 1 / (1 + reach) ** 2) for reach in (0.5, 1.2, 3.0, 8.0, 24.0)
)
"""Beyond the order statistics, in scales: what is left there of their last one (a Pareto tail)."""

_SCALE: Final = 0.3
"""Of the distance between the quartiles: how far a tail's first half reaches, about."""

_LEAST_SCALE_SECONDS: Final = 0.02

_LEAST_STEP_SECONDS: Final = 1e-4

_QUARTILES_OF_NORMAL: Final = 1.349
"""Standard deviations between the quartiles of a normal distribution."""


class ErrorDistribution(msgspec.Struct, frozen=True):
    """A distribution: straight lines through (error in seconds, how much of the mass is at or below it)."""

    at: tuple[float, ...]
    mass: tuple[float, ...]
    scale: float

    @property
    def deviation(self) -> float:
        """Its standard deviation, were it normal, in seconds."""
        return self.scale / _SCALE / _QUARTILES_OF_NORMAL

    @property
    def latest(self) -> float:
        """An error that hardly any exceeds: within the tail."""
        return self.at[-len(_TAIL) // 2]

    def below(self, error: float) -> float:
        """The mass at or below `error`."""
        at, mass = self.at, self.mass
        if error <= at[0]:
            return 0.0
        if error >= at[-1]:
            return 1.0
        after = bisect_right(at, error)
        part = (error - at[after - 1]) / (at[after] - at[after - 1])
        return mass[after - 1] + part * (mass[after] - mass[after - 1])


def shape_of(errors: list[float], widest: float) -> ErrorDistribution:
    """The distribution of the next error. The chance that it is the largest of n + 1 is 1 / (n + 1), for any process.

    `widest`: how far the tails reach at most, in seconds.
    """
    ordered = sorted(errors)
    n = len(ordered)
    edges = [edge for edge in _EDGES if edge < n]
    bounds = sorted(
        {*edges, *(n - edge for edge in edges), *range(0, n, max(n // _GROUPS, 1))}
    )
    middle = [
        (sum(ordered[low:high]) / (high - low), (low + high + 1) / 2 / (n + 1))
        for low, high in pairwise(bounds)
    ]
    scale = max((ordered[3 * n // 4] - ordered[n // 4]) * _SCALE, _LEAST_SCALE_SECONDS)
    (first, lowest), (last, highest) = middle[0], middle[-1]
    tail = [(reach * scale, rest) for reach, rest in _TAIL if reach * scale < widest]
    points = [(first - reach, lowest * rest) for reach, rest in reversed(tail)]
    points += middle
    points += [(last + reach, 1 - (1 - highest) * rest) for reach, rest in tail]
    at = [points[0][0]]
    for error, _ in points[1:]:
        at.append(max(error, at[-1] + _LEAST_STEP_SECONDS))
    mass = [below for _, below in points]
    mass[0], mass[-1] = 0.0, 1.0
    return ErrorDistribution(tuple(at), tuple(mass), scale)
