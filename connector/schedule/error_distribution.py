"""Turn the last errors of a forecast into the distribution of the next one. Pure."""

from __future__ import annotations

from bisect import bisect_right
from itertools import pairwise
from typing import Final

import msgspec

# Order statistics that the distribution goes through. Each is the mean of its
# neighbours.
_GROUPS: Final = 10

# Ranks from either end at which a group ends too, so that rare errors are not averaged
# with common ones.
_EDGES: Final = (0, 1, 2, 4)

# Points of a tail beyond the last order statistic, in scales.
_TAIL_REACHES: Final = (0.5, 1.2, 3.0, 8.0, 24.0)

# About half of a tail lies within this part of the distance between the quartiles.
_SCALE_PER_QUARTILE_DISTANCE: Final = 0.3

_MIN_SCALE_SECONDS: Final = 0.02
_MIN_STEP_SECONDS: Final = 1e-4

# Standard deviations between the quartiles of a normal distribution.
_NORMAL_QUARTILE_DISTANCE: Final = 1.349


class ErrorDistribution(msgspec.Struct, frozen=True):
    """A cumulative distribution: straight lines between points.

    `at` are errors in seconds, in order; `mass` is the probability of an error at or below each.
    """

    at: tuple[float, ...]
    mass: tuple[float, ...]
    scale: float

    @property
    def deviation(self) -> float:
        """The standard deviation in seconds, if it were a normal distribution."""
        quartile_distance = self.scale / _SCALE_PER_QUARTILE_DISTANCE
        return quartile_distance / _NORMAL_QUARTILE_DISTANCE

    @property
    def latest(self) -> float:
        """An error that hardly any exceeds: a point within the upper tail."""
        # Half of the tail's points lie beyond this one.
        return self.at[-len(_TAIL_REACHES) // 2]

    def below(self, error: float) -> float:
        """Return the probability of an error at or below `error`."""
        at = self.at
        mass = self.mass
        if error <= at[0]:
            return 0.0
        if error >= at[-1]:
            return 1.0
        after = bisect_right(at, error)
        before = after - 1
        width = at[after] - at[before]
        part = (error - at[before]) / width
        return mass[before] + part * (mass[after] - mass[before])


def shape_of(errors: list[float], widest: float) -> ErrorDistribution:
    """Return the distribution of the next error.

    For any process, the next error is the largest of n + 1 with a probability of 1 / (n +
    1). `widest` is the longest reach of a tail in seconds.
    """
    ordered = sorted(errors)
    middle = _order_statistics(ordered)
    n = len(ordered)
    quartile_distance = ordered[3 * n // 4] - ordered[n // 4]
    scale = max(quartile_distance * _SCALE_PER_QUARTILE_DISTANCE, _MIN_SCALE_SECONDS)

    # Add a tail on either side, from the outermost point inwards and back.
    first_error, first_mass = middle[0]
    last_error, last_mass = middle[-1]
    lower_tail = []
    upper_tail = []
    for reach, rest in _tail(scale, widest):
        lower_tail.append((first_error - reach, first_mass * rest))
        mass_beyond = (1 - last_mass) * rest
        upper_tail.append((last_error + reach, 1 - mass_beyond))
    lower_tail.reverse()
    points = lower_tail + middle + upper_tail

    # Equal errors would make a vertical line.
    at: list[float] = []
    mass: list[float] = []
    for error, below in points:
        lowest = at[-1] + _MIN_STEP_SECONDS if at else error
        at.append(max(error, lowest))
        mass.append(below)
    mass[0] = 0.0
    mass[-1] = 1.0
    return ErrorDistribution(tuple(at), tuple(mass), scale)


def _tail(scale: float, widest: float) -> list[tuple[float, float]]:
    """Return how far each point reaches, and the fraction of the last mass beyond it.

    It is a Pareto tail.
    """
    tail = []
    for reach in _TAIL_REACHES:
        if reach * scale < widest:
            rest = 1 / (1 + reach) ** 2
            tail.append((reach * scale, rest))
    return tail


def _order_statistics(ordered: list[float]) -> list[tuple[float, float]]:
    """Return the mean error of each group, with the probability of an error at or below it."""
    n = len(ordered)
    group_size = max(n // _GROUPS, 1)
    bounds = set(range(0, n, group_size))
    for edge in _EDGES:
        if edge < n:
            bounds |= {edge, n - edge}

    statistics = []
    for low, high in pairwise(sorted(bounds)):
        mean = sum(ordered[low:high]) / (high - low)
        mean_rank = (low + high + 1) / 2
        statistics.append((mean, mean_rank / (n + 1)))
    return statistics
