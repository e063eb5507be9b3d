"""How far a refresh lies from where its rhythm puts it: distributions that can be drawn from and integrated."""

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


@dataclass(frozen=True, slots=True)
class Part:
    """One component of a mixture. Seconds; `scale` is the standard deviation, half the width, or the scale of t."""

    share: float
    kind: Literal["normal", "uniform", "student"]
    centre: float
    scale: float

    @property
    def reach(self) -> float:
        """Half the width of the support."""
        return (
            self.scale
            * {"normal": _CUT, "uniform": 1.0, "student": _STUDENT_CUT}[self.kind]
        )

    def sample(self, chance: Random) -> float:
        if self.kind == "uniform":
            return self.centre + self.scale * chance.uniform(-1, 1)
        while True:
            unit = chance.gauss(0, 1)
            if self.kind == "student":
                unit /= math.sqrt(chance.gammavariate(_FREEDOM / 2, 2) / _FREEDOM)
            if abs(unit) * self.scale <= self.reach:
                return self.centre + self.scale * unit

    def cdf(self, at: Floats) -> Floats:
        unit = (
            np.clip(at, self.centre - self.reach, self.centre + self.reach)
            - self.centre
        ) / self.scale
        edge = self.reach / self.scale
        low, high = (
            _unit_cdf(self.kind, np.array([side * edge]))[0] for side in (-1, 1)
        )
        scaled: Floats = (_unit_cdf(self.kind, unit) - low) / (high - low)
        return scaled


def _unit_cdf(kind: str, unit: Floats) -> Floats:
    if kind == "uniform":
        return (unit + 1) / 2
    if kind == "normal":
        return np.array([0.5 * math.erfc(-x / math.sqrt(2)) for x in unit.tolist()])
    x = unit / math.sqrt(_FREEDOM)  # closed form for three degrees of freedom
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
        return self.parts[-1].sample(chance)

    def cdf(self, at: Floats) -> Floats:
        """Of a refresh that happens."""
        total = np.zeros_like(at)
        for part in self.parts:
            total += part.share * part.cdf(at)
        return total

    def later(self, mean: float, deviation: float) -> Jitter:
        """With an independent normal delay added; what is not normal keeps its shape."""
        parts = [replace(part, centre=part.centre + mean) for part in self.parts]
        wider = [
            replace(part, scale=math.hypot(part.scale, deviation))
            if part.kind == "normal"
            else part
            for part in parts
        ]
        return Jitter(tuple(wider), self.skip)


def normal(deviation: float, skip: float = 0.0) -> Jitter:
    return Jitter((Part(1.0, "normal", 0.0, deviation),), skip)


def uniform(width: float) -> Jitter:
    """From 0 to `width` after the rhythm."""
    return Jitter((Part(1.0, "uniform", width / 2, width / 2),))


def late(deviation: float, share: float, seconds: float) -> Jitter:
    """Normal, but for a share that comes so much later."""
    return Jitter(
        (
            Part(1 - share, "normal", 0.0, deviation),
            Part(share, "normal", seconds, deviation),
        )
    )


def heavy(deviation: float, share: float, scale: float) -> Jitter:
    """Normal, but for a share that is Student's t."""
    return Jitter(
        (Part(1 - share, "normal", 0.0, deviation), Part(share, "student", 0.0, scale))
    )
