"""Measurements of each row: the schedules at the same requests a minute, and the bound there."""

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

# Prices of the points in the picture.
CURVE_PRICES: Final = (10.0, 3.0, 1.0, 0.3, 0.1, 0.03)
_CURVE_POINTS: Final = 12

# Requests a minute of the default configuration.
DEFAULT_LIMIT: Final = 60.0

# Smallest budget of the bounds, in requests a minute.
_LEAST: Final = 1.5

# Search for the price with the wanted requests: its start, its length, and the ratio of
# requests a minute between which a straight line is near enough.
_FIRST_PRICE: Final = 0.3
_TRIES: Final = 4
_NEAR: Final = 1.08

# Time to learn before the measured span, and to see the last refreshes after it.
_LEARNING_SECONDS: Final = 1800.0
_AFTER_SECONDS: Final = 200.0

# Step of the grid for scarce budgets: fine steps hardly matter to rare checks.
_COARSE: Final = 4.0

_AS_GIVEN: Final = "as given"
_BY_RHYTHM: Final = "by rhythm"

# Nested names with numbers, or lists of numbers, at the leaves: the contents of the
# JSON file.
Found = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Job:
    """A row to measure, for a number of hours of each seed.

    `limit` is a limit of requests a minute. With `curves`, the first seed is also measured at the
    prices of the picture.
    """

    row: Row
    seeds: tuple[int, ...]
    hours: float
    limit: float | None = None
    curves: bool = False

    def run(self) -> Found:
        """Measure every seed."""
        started = time.monotonic()
        # With a rhythm for all symbols the bounds do not depend on the seed: find them once.
        shared = None
        if not self.row.own_phase:
            shared = _bounds(self.row, self.seeds[0], self.hours * 3600)

        found = []
        for seed in self.seeds:
            if self.limit:
                found.append(_budget(self, seed, self.limit))
            else:
                found.append(_row(self, seed, shared))

        return {
            "row": self.row.name,
            "limit": self.limit,
            "seeds": found,
            "seconds": time.monotonic() - started,
        }


class Curve:
    """Figures of a policy at several prices, and in between."""

    def __init__(self, run: Callable[[float], Figures]) -> None:
        self._run = run
        self.by_price: dict[float, Figures] = {}

    def at_price(self, price: float) -> Figures:
        if price not in self.by_price:
            self.by_price[price] = self._run(price)
        return self.by_price[price]

    def at(self, requests: float) -> dict[str, float]:
        """Return mean, p95 and p99 at this many requests a minute.

        If the policy never asks so often, they are taken at its most requests.
        """
        self.at_price(_FIRST_PRICE)
        for _ in range(_TRIES):
            fewer, more = self._around(requests)
            if self._are_near(fewer, more):
                break
            self.at_price(self._better(requests, fewer, more))

        # Interpolate. If all prices lie on the same side, the nearest is both ends.
        fewer, more = self._around(requests)
        low = self.by_price[fewer]
        high = self.by_price[more]
        part = 0.0
        if fewer != more:
            whole = math.log(high.requests / low.requests)
            part = math.log(requests / low.requests) / whole

        found = {}
        for name in ("mean", "p95", "p99"):
            found[name] = _between(getattr(low, name), getattr(high, name), part)
        return found

    def _around(self, requests: float) -> tuple[float, float]:
        """Return the nearest prices for fewer and for more requests.

        They are the same price, if all prices lie on the same side.
        """
        fewer = []
        more = []
        for price in sorted(self.by_price, key=self._requests_at):
            if self._requests_at(price) < requests:
                fewer.append(price)
            else:
                more.append(price)
        if not fewer:
            return more[0], more[0]
        if not more:
            return fewer[-1], fewer[-1]
        return fewer[-1], more[0]

    def _requests_at(self, price: float) -> float:
        return self.by_price[price].requests

    def _are_near(self, fewer: float, more: float) -> bool:
        """Return True if the requests lie between two prices that are near each other."""
        if fewer == more:
            return False
        return self._requests_at(more) < _NEAR * self._requests_at(fewer)

    def _better(self, requests: float, fewer: float, more: float) -> float:
        """Return a price to try: between the nearest two, or beyond the nearest.

        Beyond them, requests are taken to follow a steeper law than that of many checks.
        """
        many = self._requests_at(more)
        few = self._requests_at(fewer)
        if fewer != more:
            part = math.log(many / requests) / math.log(many / few)
            return _between(more, fewer, min(max(part, 0.15), 0.85))

        ratio = (few / requests) ** 3
        if few < requests:
            return fewer * max(min(ratio, 0.7), 0.03)
        return more * min(max(ratio, 1.4), 30)


def _between(low: float, high: float, part: float) -> float:
    """Interpolate on a straight line between logarithms."""
    return math.exp((1 - part) * math.log(low) + part * math.log(high))


def _bounds(row: Row, seed: int, span: float) -> dict[str, Bound]:
    return {
        "bound": Bound(row, seed, _LEAST, span),
        "bound, no shortest interval": Bound(row, seed, _LEAST, span, shortest=0.0),
    }


def _bound_delays(bounds: dict[str, Bound], requests: float) -> dict[str, float]:
    return {name: bound.delay(requests) for name, bound in bounds.items()}


def _row(job: Job, seed: int, shared: dict[str, Bound] | None) -> Found:
    """Measure a row without a limit, at the default settings and at the issue's prices."""
    start = _LEARNING_SECONDS
    end = _LEARNING_SECONDS + job.hours * 3600
    span = Span(start, end, end + _AFTER_SECONDS)
    drawn = world(job.row, seed, span.middle, span.until)

    def run_learnt(price: float) -> Figures:
        return simulate(drawn, Learnt(job.row, price), span)

    def run_ours(price: float) -> Figures:
        return simulate(drawn, Product(job.row, price=price), span)

    learnt = Curve(run_learnt)
    ours = Curve(run_ours)
    bounds = shared or _bounds(job.row, seed, end - start)

    default = _plain(simulate(drawn, Product(job.row), span, DEFAULT_LIMIT))
    found: Found = {"default": default | _bound_delays(bounds, default["requests"])}

    for price in LEARNT_PRICES:
        plain = learnt.at_price(price)
        found[f"c={price:g}"] = {
            "learnt": _plain(plain),
            "ours": ours.at(plain.requests),
            **_bound_delays(bounds, plain.requests),
        }

    if job.curves and seed == job.seeds[0]:
        found["curves"] = _curves(learnt, ours, bounds)
    return found


def _curves(learnt: Curve, ours: Curve, bounds: dict[str, Bound]) -> Found:
    """Return the points of the picture, as requests a minute and mean delay."""
    our_points = _points(ours)
    learnt_points = _points(learnt)
    found: Found = {"learnt": learnt_points, "ours": our_points}

    places = _spread(our_points, learnt_points)
    for name, bound in bounds.items():
        found[name] = [(requests, bound.delay(requests)) for requests in places]
    return found


def _budget(job: Job, seed: int, limit: float) -> Found:
    """Measure a row under a limit of requests a minute.

    A round is the time in which the limit lets each batch be checked once. Scarcer budgets are
    watched longer.
    """
    row = job.row
    planned = limit * BUDGET_SHARE
    round_seconds = 60 * len(row.batches) / planned
    start = max(_LEARNING_SECONDS, 10 * round_seconds)
    counted_seconds = max(job.hours * 3600, 4 * round_seconds)
    end = start + counted_seconds
    span = Span(start, end, end + max(_AFTER_SECONDS, 3 * round_seconds))
    drawn = world(row, seed, span.middle, span.until)

    packings: dict[str, Sequence[Sequence[int]]] = {_AS_GIVEN: row.batches}
    if len(row.batches) > 1:
        packings[_BY_RHYTHM] = _by_phase(row, seed)

    found: Found = {"planned": planned, "batches": len(row.batches)}
    for name, batches in packings.items():
        policy = Product(row, limit=limit, regroup=name == _BY_RHYTHM)
        ours = _plain(simulate(drawn, policy, span, limit))
        requests = ours["requests"]

        refine = _COARSE if round_seconds > PERIOD_SECONDS else None
        least = 0.8 * requests
        bound = Bound(row, seed, least, end - start, batches=batches, refine=refine)
        ours["bound"] = bound.delay(requests)
        ours["bound, any packing"] = _any_packing(row, seed, requests, end - start)
        found[name] = ours
    return found


def _by_phase(row: Row, seed: int) -> list[tuple[int, ...]]:
    """Return the symbols in the order of their refreshes, cut at the longest pauses."""

    def phase(symbol: int) -> float:
        return row.phase(seed, symbol)

    def width(packing: list[tuple[int, ...]]) -> float:
        widths = []
        for group in packing:
            widths.append((phase(group[-1]) - phase(group[0])) % row.period(0))
        return sum(widths)

    ordered = sorted(range(row.symbols), key=phase)
    packings = []
    for first in range(row.batch):
        turned = ordered[first:] + ordered[:first]
        packing = []
        for at in range(0, row.symbols, row.batch):
            packing.append(tuple(turned[at : at + row.batch]))
        packings.append(packing)
    return min(packings, key=width)


def _any_packing(row: Row, seed: int, requests: float, span: float) -> float:
    """Return a bound for any choice of the symbols of each request.

    Each symbol is checked alone, for its part of a request. A request shows at most `batch`
    symbols, so a schedule checks a symbol no more often than that part allows. The symbols of a row
    have the same law but for their phases.
    """
    checks = requests * row.batch / row.symbols
    refine = _COARSE if checks < 1 else 1.0
    bound = Bound(row, seed, 0.8 * checks, span, batches=[(0,)], refine=refine)
    return bound.delay(checks)


def _plain(figures: Figures) -> dict[str, float]:
    return {name: getattr(figures, name) for name in Figures.__slots__}


def _points(curve: Curve) -> list[tuple[float, float]]:
    points = []
    for price in CURVE_PRICES:
        figures = curve.at_price(price)
        points.append((figures.requests, figures.mean))
    return sorted(points)


def _spread(*curves: Sequence[tuple[float, float]]) -> list[float]:
    """Return a dozen values between the ends of the curves, evenly in logarithms."""
    ends = []
    for points in curves:
        for requests, _ in points:
            ends.append(requests)
    low = max(2.0, min(ends))
    high = max(ends)
    ratio = high / low
    steps = _CURVE_POINTS - 1
    return [low * ratio ** (at / steps) for at in range(_CURVE_POINTS)]
