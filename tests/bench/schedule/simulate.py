"""Run a policy against a world in virtual time and measure how late it sees each refresh."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field
from heapq import heappop, heappush
from math import inf
from typing import TYPE_CHECKING, Final, Protocol

import numpy as np

from tests.bench.schedule.window import SlidingMinute

if TYPE_CHECKING:
    from collections.abc import Mapping

    from tests.bench.schedule.jitter import Floats
    from tests.bench.schedule.processes import World

# From sending a request to its answer. The server looks in the middle, where a delay
# ends.
REQUEST_SECONDS: Final = 0.01

# Start of a run, over which the cost of learning is measured.
FIRST_SECONDS: Final = 300.0

# The symbols of one request.
Symbols = tuple[int, ...]


class Policy(Protocol):
    """Decides when each batch is checked. Symbols are numbers; times are virtual seconds."""

    def next(self) -> tuple[float, Symbols] | None:
        """Return the time and the symbols of the next check."""

    def started(self, batch: Symbols, now: float) -> None:
        """Take the check as started. It is sent as soon as the hard limit allows."""

    def finished(
        self, batch: Symbols, sent_at: float, now: float, seen: Mapping[int, int]
    ) -> None:
        """Take the answer: the server's microseconds of each symbol's last refresh, if any."""


@dataclass(frozen=True, slots=True)
class Span:
    """The part of a run that is measured, in seconds.

    The run goes on to `until`, so that the last refreshes can still be seen.
    """

    start: float
    end: float
    until: float

    @property
    def middle(self) -> float:
        return (self.start + self.end) / 2


@dataclass(frozen=True, slots=True)
class Figures:
    """Delays in seconds over all refreshes of all symbols, and requests a minute.

    `first_mean` and `first_requests` are of the first five minutes.
    """

    mean: float
    p95: float
    p99: float
    requests: float
    first_mean: float
    first_requests: float
    checks: int


@dataclass(slots=True)
class Record:
    """The requests and refreshes of a run.

    Entry n of `visible_at`, `delays` and `shown` belongs to refresh n. `shown` is 0 for a
    refresh that a later one replaced before a request could show it.
    """

    sent_at: list[float] = field(default_factory=list)
    visible_at: list[float] = field(default_factory=list)
    delays: list[float] = field(default_factory=list)
    shown: list[int] = field(default_factory=list)


def simulate(
    world: World, policy: Policy, span: Span, limit: float | None = None
) -> Figures:
    """Run `policy` from 0 to the end of the span and return its figures.

    With `limit`, no sliding minute holds more requests, as in production.
    """
    record = play(world, policy, span.until, limit)
    return _figures(record, span)


def play(
    world: World, policy: Policy, until: float, limit: float | None = None
) -> Record:
    """Run `policy` from 0 to `until` and return all that happened."""
    run = _Run(world, policy, min(until, world.until), limit)
    run.play()
    return run.record


class _Run:
    """A run in progress. `waiting` are the checks that wait for the hard limit."""

    def __init__(
        self, world: World, policy: Policy, until: float, limit: float | None
    ) -> None:
        self.record = Record()
        self._policy = policy
        self._until = until
        self._visible = [track.visible for track in world.tracks]
        self._computed = [track.computed for track in world.tracks]
        self._shown = [0] * len(world.tracks)
        self._window = SlidingMinute(inf if limit is None else limit)
        self._waiting: deque[Symbols] = deque()
        self._flying: list[tuple[float, int, Symbols, dict[int, int]]] = []

    def play(self) -> None:
        """Handle one event at a time, answers before requests of the same moment."""
        now = 0.0
        while True:
            answer_at = self._flying[0][0] if self._flying else inf
            sends_at = self._window.opens_at(now) if self._waiting else inf
            upcoming = self._policy.next()
            starts_at = inf if upcoming is None else max(now, upcoming[0])

            if answer_at < inf and answer_at <= min(sends_at, starts_at):
                now = answer_at
                self._answer()
                continue

            if min(sends_at, starts_at) >= self._until:
                break

            if sends_at <= starts_at:
                now = sends_at
                self._send(now)
                continue

            now = starts_at
            if upcoming is not None:
                self._policy.started(upcoming[1], now)
                self._waiting.append(upcoming[1])

        self._count_unseen()

    def _send(self, now: float) -> None:
        """Send the first of the waiting checks, and note the refreshes it shows."""
        batch = self._waiting.popleft()
        looked_at = now + REQUEST_SECONDS / 2
        seen = {}
        for symbol in batch:
            times = self._visible[symbol]
            at = self._shown[symbol]
            while at < len(times) and times[at] <= looked_at:
                is_overtaken = at + 1 < len(times) and times[at + 1] <= looked_at
                self.record.visible_at.append(times[at])
                self.record.delays.append(looked_at - times[at])
                self.record.shown.append(0 if is_overtaken else 1)
                at += 1
            if at:
                self._shown[symbol] = at
                seen[symbol] = self._computed[symbol][at - 1]

        self._window.start()
        number = len(self.record.sent_at)
        heappush(self._flying, (now + REQUEST_SECONDS, number, batch, seen))
        self.record.sent_at.append(now)

    def _answer(self) -> None:
        """Hand the policy the answer that is due."""
        now, number, batch, seen = heappop(self._flying)
        self._window.end(now)
        self._policy.finished(batch, self.record.sent_at[number], now, seen)

    def _count_unseen(self) -> None:
        """Count refreshes that no request showed as late by the time that was left."""
        for times, at in zip(self._visible, self._shown, strict=True):
            for moment in times[at:]:
                self.record.visible_at.append(moment)
                self.record.delays.append(self._until - moment)
                self.record.shown.append(0)


def _figures(record: Record, span: Span) -> Figures:
    sent = np.array(record.sent_at)
    moments = np.array(record.visible_at)
    delays: Floats = np.array(record.delays)
    counted = delays[(moments >= span.start) & (moments < span.end)]
    first = delays[moments < FIRST_SECONDS]
    p95, p99 = np.percentile(counted, (95, 99))
    requests = np.count_nonzero((sent >= span.start) & (sent < span.end))
    first_requests = np.count_nonzero(sent < FIRST_SECONDS)
    return Figures(
        mean=float(counted.mean()),
        p95=float(p95),
        p99=float(p99),
        requests=float(requests / (span.end - span.start) * 60),
        first_mean=float(first.mean()),
        first_requests=float(first_requests / FIRST_SECONDS * 60),
        checks=len(sent),
    )
