"""Runs a policy over a world in virtual time, and says how late it saw each refresh."""

from __future__ import annotations

from dataclasses import dataclass
from heapq import heappop, heappush
from typing import TYPE_CHECKING, Final, Protocol

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Mapping

    from tests.bench.schedule.jitter import Floats
    from tests.bench.schedule.processes import World

REQUEST_SECONDS: Final = 0.01
"""From sending to the answer; the server looks in the middle. A delay ends when the server looks."""

FIRST_SECONDS: Final = 300.0
"""What learning costs is counted over these, from the start."""


Symbols = tuple[int, ...]
"""Of one request."""


class Policy(Protocol):
    """Decides when each batch is checked. Symbols are numbers; seconds of virtual time."""

    def next(self) -> tuple[float, Symbols] | None:
        """The next check and its moment."""

    def started(self, batch: Symbols, now: float) -> None:
        """It is under way."""

    def finished(
        self, batch: Symbols, sent_at: float, now: float, seen: Mapping[int, int]
    ) -> None:
        """The answer: the server's microseconds of the last refresh of each symbol that has one."""


@dataclass(frozen=True, slots=True)
class Span:
    """What is counted, in seconds; the run goes on to `until` for the refreshes that are still to be seen."""

    start: float
    end: float
    until: float

    @property
    def middle(self) -> float:
        return (self.start + self.end) / 2


@dataclass(frozen=True, slots=True)
class Figures:
    """Delays in seconds, over all refreshes of all symbols; requests a minute. `first_…`: the first five minutes."""

    mean: float
    p95: float
    p99: float
    requests: float
    first_mean: float
    first_requests: float
    checks: int


def simulate(world: World, policy: Policy, span: Span) -> Figures:
    """Run `policy` from 0 to the end of the span."""
    visible = [track.visible for track in world.tracks]
    computed = [track.computed for track in world.tracks]
    shown = [0] * len(visible)
    until = min(span.until, world.until)
    sent: list[float] = []
    moments: list[float] = []
    delays: list[float] = []
    flying: list[tuple[float, int, Symbols, dict[int, int]]] = []
    now = 0.0
    while True:
        upcoming = policy.next()
        if flying and (upcoming is None or flying[0][0] <= upcoming[0]):
            now, number, batch, seen = heappop(flying)
            policy.finished(batch, sent[number], now, seen)
            continue
        if upcoming is None or max(now, upcoming[0]) >= until:
            break
        now, batch = max(now, upcoming[0]), upcoming[1]
        policy.started(batch, now)
        looked = now + REQUEST_SECONDS / 2
        seen = {}
        for symbol in batch:
            times, at = visible[symbol], shown[symbol]
            while at < len(times) and times[at] <= looked:
                moments.append(times[at])
                delays.append(looked - times[at])
                at += 1
            if at:
                shown[symbol] = at
                seen[symbol] = computed[symbol][at - 1]
        heappush(flying, (now + REQUEST_SECONDS, len(sent), batch, seen))
        sent.append(now)
    for times, at in zip(
        visible, shown, strict=True
    ):  # what nobody saw: late by at least this
        moments.extend(times[at:])
        delays.extend(until - moment for moment in times[at:])
    return _figures(np.array(sent), np.array(moments), np.array(delays), span)


def _figures(sent: Floats, moments: Floats, delays: Floats, span: Span) -> Figures:
    counted = delays[(moments >= span.start) & (moments < span.end)]
    first = delays[moments < FIRST_SECONDS]
    p95, p99 = np.percentile(counted, (95, 99))
    requests = np.count_nonzero((sent >= span.start) & (sent < span.end))
    return Figures(
        mean=float(counted.mean()),
        p95=float(p95),
        p99=float(p99),
        requests=float(requests / (span.end - span.start) * 60),
        first_mean=float(first.mean()),
        first_requests=float(
            np.count_nonzero(sent < FIRST_SECONDS) / FIRST_SECONDS * 60
        ),
        checks=len(sent),
    )
