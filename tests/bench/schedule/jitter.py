"""Distances of refreshes from their rhythm: distributions to draw from and to integrate."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Final, Literal

import numpy as np

if TYPE_CHECKING:
    from random import Random

    from numpy.typing import NDArray

    Floats = NDArray[np.float64]

# Standard deviations at which a normal is cut: 3e-5 of its mass lies beyond.
_CUT: Final = 4.2

# Degrees of freedom of Student's t: a variance, but no fourth moment.
_FREEDOM: Final = 3

# Scales at which Student's t is cut: 0.9 % of its mass lies beyond.
_STUDENT_CUT: Final = 6.0

# Half the width of the support, in scales.
_REACH: Final = {
    "normal": _CUT,
    "uniform": 1.0,
    "student": _STUDENT_CUT,
}


@dataclass(frozen=True, slots=True)
class Part:
    """A component of a mixture, in seconds.

    `scale` is the standard deviation, half the width, or the scale of Student's t.
    """

    share: float
    kind: Literal["normal", "uniform", "student"]
    centre: float
    scale: float

    @property
    def reach(self) -> float:
        """Half the width of the support."""
        return self.scale * _REACH[self.kind]

    def sample(self, chance: Random) -> float:
        if self.kind == "uniform":
            return self.centre + self.scale * chance.uniform(-1, 1)

        # Draw again if the value lies beyond the cut.
        while True:
            unit = chance.gauss(0, 1)
            if self.kind == "student":
                squares = chance.gammavariate(_FREEDOM / 2, 2)
                unit /= math.sqrt(squares / _FREEDOM)
            if abs(unit) * self.scale <= self.reach:
                return self.centre + self.scale * unit

    def cdf(self, at: Floats) -> Floats:
        """Return the distribution function of the part after its tails are cut."""
        lowest = self.centre - self.reach
        highest = self.centre + self.reach
        unit = (np.clip(at, lowest, highest) - self.centre) / self.scale

        edge = self.reach / self.scale
        low = _unit_cdf(self.kind, np.array([-edge]))[0]
        high = _unit_cdf(self.kind, np.array([edge]))[0]
        scaled: Floats = (_unit_cdf(self.kind, unit) - low) / (high - low)
        return scaled


def _unit_cdf(kind: str, unit: Floats) -> Floats:
    """Return the distribution function of a kind with centre 0 and scale 1."""
    if kind == "uniform":
        return (unit + 1) / 2
    if kind == "normal":
        return np.array([0.5 * math.erfc(-x / math.sqrt(2)) for x in unit.tolist()])

    # Student's t has a closed form for three degrees of freedom.
    x = unit / math.sqrt(_FREEDOM)
    student: Floats = 0.5 + (x / (1 + x * x) + np.arctan(x)) / math.pi
    return student


@dataclass(frozen=True, slots=True)
class Jitter:
    """A mixture; `skip` is the probability that the refresh does not happen at all."""

    parts: tuple[Part, ...]
    skip: float = 0.0

    @property
    def low(self) -> float:
        return min(part.centre - part.reach for part in self.parts)

    @property
    def high(self) -> float:
        return max(part.centre + part.reach for part in self.parts)

    def sample(self, chance: Random) -> float:
        if len(self.parts) == 1:
            return self.parts[0].sample(chance)

        drawn = chance.random()
        for part in self.parts:
            drawn -= part.share
            if drawn < 0:
                return part.sample(chance)
        # The shares may add up to slightly less than 1.
        return self.parts[-1].sample(chance)

    def cdf(self, at: Floats) -> Floats:
        """Return the distribution function of a refresh that happens."""
        total = np.zeros_like(at)
        for part in self.parts:
            total += part.share * part.cdf(at)
        return total

    def later(self, mean: float, deviation: float) -> Jitter:
        """Add an independent normal delay. A part that is not normal keeps its shape."""
        moved = []
        for part in self.parts:
            later = replace(part, centre=part.centre + mean)
            if part.kind == "normal":
                later = replace(later, scale=math.hypot(part.scale, deviation))
            moved.append(later)
        return Jitter(tuple(moved), self.skip)


def normal(deviation: float, skip: float = 0.0) -> Jitter:
    part = Part(1.0, "normal", 0.0, deviation)
    return Jitter((part,), skip)


def uniform(width: float) -> Jitter:
    """Return a jitter from 0 to `width` seconds after the rhythm."""
    part = Part(1.0, "uniform", width / 2, width / 2)
    return Jitter((part,))


def late(deviation: float, share: float, seconds: float) -> Jitter:
    """Return a normal jitter of which a share comes `seconds` later."""
    most = Part(1 - share, "normal", 0.0, deviation)
    rest = Part(share, "normal", seconds, deviation)
    return Jitter((most, rest))


def heavy(deviation: float, share: float, scale: float) -> Jitter:
    """Return a normal jitter of which a share follows Student's t."""
    most = Part(1 - share, "normal", 0.0, deviation)
    rest = Part(share, "student", 0.0, scale)
    return Jitter((most, rest))
