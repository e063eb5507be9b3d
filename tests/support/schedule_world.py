"""A simulated upstream, and a schedule that checks it, in virtual time."""

from __future__ import annotations

import heapq
from bisect import bisect_right
from dataclasses import dataclass, field
from random import Random
from statistics import mean
from typing import TYPE_CHECKING, Final

from connector.core.model import MICROS
from connector.schedule.batches import Batch
from connector.schedule.checks import CheckSettings, Outcome
from connector.schedule.scheduler import Schedule
from connector.schedule.symbols import ComputedTimes

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

# The moments of each symbol's refreshes, in order.
Refreshes = dict[str, list[float]]

# Requests a minute that no schedule uses up.
PLENTY: Final = 60_000.0

# From a request to its answer. The server reads its levels in the middle.
REQUEST_SECONDS: Final = 0.05

_END: Final = float("inf")


def grid(
    period: float = 30.0,
    jitter: float = 0.3,
    phase: float = 7.0,
    seed: int = 1,
    hours: float = 2,
) -> list[float]:
    """Return the moments of a symbol's refreshes, whose jitter does not add up."""
    chance = Random(seed)
    count = int(hours * 3_600 / period)
    moments = []
    for number in range(count):
        at = phase + number * period + chance.gauss(0, jitter)
        earliest = 0.1 + number / 1_000
        moments.append(max(at, earliest))
    return moments


def together(symbols: Iterable[str] = "ABCD", period: float = 30.0) -> Refreshes:
    """Return refreshes that all symbols have at the same moments."""
    return dict.fromkeys(symbols, grid(period))


def own_phases(symbols: Iterable[str] = "ABCD", period: float = 30.0) -> Refreshes:
    """Return refreshes that each symbol has at a phase of its own."""
    refreshes = {}
    for number, symbol in enumerate(symbols):
        phase = 3 + 7.3 * number % period
        refreshes[symbol] = grid(period, phase=phase, seed=number)
    return refreshes


def numbered(count: int) -> list[str]:
    """Return the names of many symbols."""
    return [f"S{number:02d}" for number in range(count)]


def create_schedule(
    budget: float = PLENTY, chance: float = 0.5, settings: CheckSettings | None = None
) -> Schedule:
    """Return a schedule whose random numbers are all `chance`."""
    if settings is None:
        settings = CheckSettings()
    schedule = Schedule(settings, lambda: chance)
    schedule.set_budget(budget, 0.0)
    return schedule


def next_check(schedule: Schedule) -> tuple[float, Batch]:
    """Return the moment of the next check and its batch."""
    planned = schedule.next()
    assert planned is not None
    return planned


def next_at(schedule: Schedule) -> float:
    """Return the moment of the next check."""
    at, _ = next_check(schedule)
    return at


@dataclass(frozen=True, order=True)
class InFlight:
    """A request that is not answered yet. Requests are in the order of their answers."""

    ends_at: float
    number: int
    sent_at: float = field(compare=False)
    batch: Batch = field(compare=False)


@dataclass(frozen=True)
class Seen:
    """A refresh that a check showed, or a later one. `delay` is in seconds."""

    visible_at: float
    delay: float


@dataclass
class World:
    """An upstream and a schedule that checks it, in virtual time.

    `lag` is the time until a refresh is visible. `ahead` is the upstream's clock minus
    ours, and `believed` our estimate of it.
    """

    schedule: Schedule
    refreshes: Mapping[str, Sequence[float]]
    batches: Sequence[Batch]
    lag: float = 0.0
    ahead: Callable[[float], float] = lambda _: 0.0
    believed: Callable[[float], float] = lambda _: 0.0
    outcome: Callable[[Batch], Outcome] = lambda _: Outcome.ANSWERED
    now: float = 0.0
    sent: list[tuple[float, Batch]] = field(default_factory=list)
    seen: list[Seen] = field(default_factory=list)
    _in_flight: list[InFlight] = field(default_factory=list)
    _seen_count: dict[str, int] = field(default_factory=dict)

    def cover(self, batches: Sequence[Batch]) -> None:
        """Check these batches from now on."""
        self.batches = batches
        self.schedule.set_batches(batches, self.now)

    def run(self, until: float) -> World:
        """Make every check that is due before `until`."""
        if not self.sent:
            self.schedule.set_batches(self.batches, self.now)
        while True:
            answer_at = self._in_flight[0].ends_at if self._in_flight else _END
            check_at = _END
            planned = self.schedule.next()
            if planned is not None:
                check_at = max(planned[0], self.now)

            if self._in_flight and answer_at <= check_at:
                self._answer(heapq.heappop(self._in_flight))
            elif planned is None or check_at >= until:
                self.now = until
                return self
            else:
                self.now = check_at
                self._send(planned[1])

    def mean_delay(self, start: float, end: float = _END) -> float:
        """Return the mean delay of the refreshes that became visible in this time."""
        return mean(seen.delay for seen in self.seen if start <= seen.visible_at < end)

    def checks(self, start: float, end: float = _END) -> int:
        """Return the number of checks in this time."""
        return len([at for at, _ in self.sent if start <= at < end])

    def sent_for(self, batch: Batch) -> list[float]:
        """Return the moments at which a batch was checked."""
        return [at for at, sent in self.sent if sent == batch]

    def _send(self, batch: Batch) -> None:
        assert all(batch != other.batch for other in self._in_flight)
        self.schedule.start_check(batch, self.now)
        self.sent.append((self.now, batch))
        ends_at = self.now + REQUEST_SECONDS
        request = InFlight(ends_at, len(self.sent), self.now, batch)
        heapq.heappush(self._in_flight, request)

    def _answer(self, request: InFlight) -> None:
        self.now = request.ends_at
        outcome = self.outcome(request.batch)
        times = None
        if outcome is Outcome.ANSWERED:
            computed_at = self._look(request)
            times = ComputedTimes(computed_at, self.believed(self.now))
        self.schedule.finish_check(
            request.batch, outcome, request.sent_at, self.now, times
        )

    def _look(self, request: InFlight) -> dict[str, int]:
        """Return the last refresh that each symbol shows, and note those seen first."""
        # A refresh is visible if it was computed at this moment or before.
        computed_by = request.sent_at + REQUEST_SECONDS / 2 - self.lag
        computed_at = {}
        for symbol in request.batch.symbols:
            moments = self.refreshes.get(symbol, ())
            visible = bisect_right(moments, computed_by)
            if visible:
                at = moments[visible - 1]
                computed_at[symbol] = round((at + self.ahead(at)) * MICROS)
            before = self._seen_count.get(symbol, 0)
            for at in moments[before:visible]:
                visible_at = at + self.lag
                self.seen.append(Seen(visible_at, self.now - visible_at))
            self._seen_count[symbol] = max(visible, before)
        return computed_at


def create_world(
    refreshes: Mapping[str, Sequence[float]],
    *,
    size: int = 8,
    budget: float = 54.0,
    settings: CheckSettings | None = None,
) -> World:
    """Return a world in which `size` symbols share a batch."""
    symbols = sorted(refreshes)
    batches = []
    for first in range(0, len(symbols), size):
        batches.append(Batch("f", tuple(symbols[first : first + size])))
    return World(create_schedule(budget, settings=settings), refreshes, batches)
