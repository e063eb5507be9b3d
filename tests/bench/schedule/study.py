"""What is measured of each row: the schedules at the same requests a minute, and the bound there."""

from __future__ import annotations

import math
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from tests.bench.schedule.bounds import Bound
from tests.bench.schedule.policies import Learnt
from tests.bench.schedule.processes import PERIOD_SECONDS, world
from tests.bench.schedule.product import BUDGET_SHARE, Product
from tests.bench.schedule.simulate import Figures, Span, simulate

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from tests.bench.schedule.processes import Row

# Seconds of delay a request: the two columns of the issue.
LEARNT_PRICES: Final = (1.0, 0.3)

# For the picture.
CURVE_PRICES: Final = (10.0, 3.0, 1.0, 0.3, 0.1, 0.03)

DEFAULT_LIMIT: Final = 60.0

# Requests a minute from which bounds are asked for.
_LEAST: Final = 1.5

_FIRST_PRICE: Final = 0.3
_TRIES: Final = 4
# Ratio of requests a minute between which a straight line is near enough.
_NEAR: Final = 1.08

_LEARNING_SECONDS: Final = 1800.0
_AFTER_SECONDS: Final = 200.0

# By name, with numbers, lists of numbers or the like at the leaves: what goes to the
# JSON file.
Found = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Job:
    """One row, for so many counted hours of each seed; with `limit`, under this limit of requests a minute.

    `curves`: also at the prices of the picture, for the first seed.
    """

    row: Row
    seeds: tuple[int, ...]
    hours: float
    limit: float | None = None
    curves: bool = False

    def run(self) -> Found:
        """For each seed. What does not depend on it, the bound of one rhythm for all symbols, is found once."""
        started = time.monotonic()
        shared = (
            None
            if self.row.own_phase
            else _bounds(self.row, self.seeds[0], self.hours * 3600)
        )
        found = [
            _budget(self, seed, self.limit) if self.limit else _row(self, seed, shared)
            for seed in self.seeds
        ]
        seconds = time.monotonic() - started
        return {
            "row": self.row.name,
            "limit": self.limit,
            "seeds": found,
            "seconds": seconds,
        }


class Curve:
    """Figures of one policy at several prices, and in between."""

    def __init__(self, run: Callable[[float], Figures]) -> None:
        self._run = run
        self.by_price: dict[float, Figures] = {}

    def at_price(self, price: float) -> Figures:
        if price not in self.by_price:
            self.by_price[price] = self._run(price)
        return self.by_price[price]

    def at(self, requests: float) -> dict[str, float]:
        """Mean, p95 and p99 at so many requests a minute; where a policy never asks so often, at its most."""
        self.at_price(_FIRST_PRICE)
        for _ in range(_TRIES):
            fewer, more = self._around(requests)
            if (
                fewer
                and more
                and self.by_price[more].requests < _NEAR * self.by_price[fewer].requests
            ):
                break
            self.at_price(self._better(requests, fewer, more))
        fewer, more = self._around(requests)
        low, high = self.by_price[fewer or more], self.by_price[more or fewer]
        part = (
            math.log(requests / low.requests) / math.log(high.requests / low.requests)
            if fewer and more
            else 0.0
        )
        return {
            name: _between(getattr(low, name), getattr(high, name), part)
            for name in ("mean", "p95", "p99")
        }

    def _around(self, requests: float) -> tuple[float, float]:
        """The prices that are nearest, for fewer requests and for more; 0 where there is none."""
        by_requests = sorted(
            (figures.requests, price) for price, figures in self.by_price.items()
        )
        fewer = [price for many, price in by_requests if many < requests]
        more = [price for many, price in by_requests if many >= requests]
        return fewer[-1] if fewer else 0.0, more[0] if more else 0.0

    def _better(self, requests: float, fewer: float, more: float) -> float:
        """A price to try: between those around, or beyond, by a law steeper than that of many checks."""
        if fewer and more:
            many, few = self.by_price[more].requests, self.by_price[fewer].requests
            part = math.log(many / requests) / math.log(many / few)
            return _between(more, fewer, min(max(part, 0.15), 0.85))
        ratio = (self.by_price[fewer or more].requests / requests) ** 3
        return (
            fewer * max(min(ratio, 0.7), 0.03)
            if fewer
            else more * min(max(ratio, 1.4), 30)
        )


def _between(low: float, high: float, part: float) -> float:
    """On a straight line between logarithms."""
    return math.exp((1 - part) * math.log(low) + part * math.log(high))


def _bounds(row: Row, seed: int, span: float) -> dict[str, Bound]:
    return {
        "bound": Bound(row, seed, _LEAST, span),
        "bound, no shortest interval": Bound(row, seed, _LEAST, span, shortest=0.0),
    }


def _row(job: Job, seed: int, shared: dict[str, Bound] | None) -> Found:
    start, end = _LEARNING_SECONDS, _LEARNING_SECONDS + job.hours * 3600
    span = Span(start, end, end + _AFTER_SECONDS)
    drawn = world(job.row, seed, span.middle, span.until)
    learnt = Curve(lambda price: simulate(drawn, Learnt(job.row, price), span))
    ours = Curve(lambda price: simulate(drawn, Product(job.row, price=price), span))
    bounds = shared or _bounds(job.row, seed, end - start)
    default = _plain(simulate(drawn, Product(job.row), span, DEFAULT_LIMIT))
    found: Found = {
        "default": default
        | {name: one.delay(default["requests"]) for name, one in bounds.items()}
    }
    for price in LEARNT_PRICES:
        plain = learnt.at_price(price)
        found[f"c={price:g}"] = {
            "learnt": _plain(plain),
            "ours": ours.at(plain.requests),
            **{name: one.delay(plain.requests) for name, one in bounds.items()},
        }
    if job.curves and seed == job.seeds[0]:
        places = _spread(_points(ours), _points(learnt))
        found["curves"] = {
            "learnt": _points(learnt),
            "ours": _points(ours),
            **{
                name: [(requests, one.delay(requests)) for requests in places]
                for name, one in bounds.items()
            },
        }
    return found


def _budget(job: Job, seed: int, limit: float) -> Found:
    """A round is the time in which the limit lets each batch be checked once; scarcer budgets are watched longer."""
    row, planned = job.row, limit * BUDGET_SHARE
    around = 60 * len(row.batches) / planned
    start = max(_LEARNING_SECONDS, 10 * around)
    end = start + max(job.hours * 3600, 4 * around)
    span = Span(start, end, end + max(_AFTER_SECONDS, 3 * around))
    drawn = world(row, seed, span.middle, span.until)
    found: Found = {"planned": planned, "batches": len(row.batches)}
    packings = {"as given": row.batches} | (
        {"by rhythm": _by_phase(row, seed)} if len(row.batches) > 1 else {}
    )
    for name, batches in packings.items():
        policy = Product(row, limit=limit, regroup=name == "by rhythm")
        found[name] = ours = _plain(simulate(drawn, policy, span, limit))
        refine = 4.0 if around > PERIOD_SECONDS else None
        bound = Bound(
            row,
            seed,
            0.8 * ours["requests"],
            end - start,
            batches=batches,
            refine=refine,
        )
        ours["bound"] = bound.delay(ours["requests"])
        ours["bound, any packing"] = _any_packing(
            row, seed, ours["requests"], end - start
        )
    return found


def _by_phase(row: Row, seed: int) -> list[tuple[int, ...]]:
    """The symbols in the order of their refreshes, cut where the pauses are longest."""
    ordered = sorted(range(row.symbols), key=lambda symbol: row.phase(seed, symbol))
    packings = []
    for first in range(row.batch):
        turned = ordered[first:] + ordered[:first]
        packings.append(
            [
                tuple(turned[at : at + row.batch])
                for at in range(0, row.symbols, row.batch)
            ]
        )

    def width(packing: list[tuple[int, ...]]) -> float:
        return sum(
            (row.phase(seed, one[-1]) - row.phase(seed, one[0])) % row.period(0)
            for one in packing
        )

    return min(packings, key=width)


def _any_packing(row: Row, seed: int, requests: float, span: float) -> float:
    """A bound for any choice of the symbols of each request: each is looked at alone, for its part of a request.

    A request shows `batch` symbols at most, so a schedule's looks at one symbol are no more than its part of them. The
    symbols of a row have the same law but for their phases.
    """
    looks = requests * row.batch / row.symbols
    return Bound(
        row, seed, 0.8 * looks, span, batches=[(0,)], refine=4.0 if looks < 1 else 1.0
    ).delay(looks)


def _plain(figures: Figures) -> dict[str, float]:
    return {name: getattr(figures, name) for name in Figures.__slots__}


def _points(curve: Curve) -> list[tuple[float, float]]:
    return sorted(
        (curve.at_price(price).requests, curve.at_price(price).mean)
        for price in CURVE_PRICES
    )


def _spread(*curves: Sequence[tuple[float, float]]) -> list[float]:
    """A dozen values between the ends of the curves, evenly in logarithms."""
    ends = [requests for points in curves for requests, _ in points]
    low, high = max(2.0, min(ends)), max(ends)
    return [low * (high / low) ** (at / 11) for at in range(12)]
