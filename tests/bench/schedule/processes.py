"""Refresh times of each row of the table. Seeded and pure; in virtual seconds from 0."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from random import Random
from typing import TYPE_CHECKING, Final

from tests.bench.schedule.jitter import Jitter, heavy, late, normal, uniform

if TYPE_CHECKING:
    from collections.abc import Iterator

MICROS: Final = 1_000_000
PERIOD_SECONDS: Final = 30.0
OUTAGE_SECONDS: Final = 600.0

# Least time between two refreshes of a symbol, so that their order is never in doubt.
_GAP: Final = 0.001


@dataclass(frozen=True, slots=True)
class Row:
    """A kind of source, with the symbols that are watched. All times are in seconds.

    `periods` are dealt to the symbols in turn. With `own_phase`, each symbol has a phase of
    its own, uniform over its period; otherwise all symbols share a phase. With `common`, a
    single event refreshes all symbols. With `drift`, a refresh follows the previous refresh
    (sleep after work) instead of a grid.

    `period_later` is the period from the middle of the measured span on. With `outage`,
    nothing is refreshed for `OUTAGE_SECONDS` from there. `lag` is the mean and the
    deviation of the time for which a refresh stays invisible. `ahead` is the server's clock
    minus ours. `missing` symbols are asked for, but never there.
    """

    name: str
    jitter: Jitter = field(default_factory=lambda: normal(0.3))
    symbols: int = 4
    batch: int = 8
    periods: tuple[float, ...] = (PERIOD_SECONDS,)
    own_phase: bool = False
    common: bool = True
    drift: bool = False
    period_later: float | None = None
    outage: bool = False
    lag: tuple[float, float] = (0.0, 0.0)
    ahead: float = 0.0
    missing: int = 0

    def phase(self, seed: int, symbol: int) -> float:
        """Return the phase of a symbol's rhythm."""
        key = symbol if self.own_phase else "all"
        chance = Random(f"phase/{self.name}/{seed}/{key}")
        return chance.random() * self.period(symbol)

    def period(self, symbol: int) -> float:
        return self.periods[symbol % len(self.periods)]

    @property
    def batches(self) -> tuple[tuple[int, ...], ...]:
        """The symbols of each request."""
        groups = []
        for first in range(0, self.symbols, self.batch):
            end = min(first + self.batch, self.symbols)
            groups.append(tuple(range(first, end)))
        return tuple(groups)


@dataclass(frozen=True, slots=True)
class Track:
    """A symbol's refreshes in order.

    `computed` is in the server's microseconds. `visible` is the time from which each refresh can be
    seen, in seconds of our clock.
    """

    computed: list[int]
    visible: list[float]


@dataclass(frozen=True, slots=True)
class World:
    """The refreshes of all symbols of a row, for one seed, until `until`."""

    row: Row
    seed: int
    until: float
    tracks: tuple[Track, ...]


def world(row: Row, seed: int, middle: float, until: float) -> World:
    """Draw the refreshes of a row. `middle` is the middle of the measured span."""
    drawn: dict[int, Track] = {}
    tracks = []
    for symbol in range(row.symbols):
        if symbol >= row.symbols - row.missing:
            tracks.append(Track([], []))
            continue

        stream = _stream(row, symbol)
        if stream not in drawn:
            drawn[stream] = _track(row, seed, stream, middle, until)
        tracks.append(drawn[stream])
    return World(row, seed, until, tuple(tracks))


def _stream(row: Row, symbol: int) -> int:
    """Return the number of the stream of events that refreshes a symbol."""
    if row.common and len(row.periods) > 1:
        return symbol % len(row.periods)
    if row.common and not row.own_phase:
        return 0
    return symbol


def _track(row: Row, seed: int, stream: int, middle: float, until: float) -> Track:
    track = Track([], [])
    for at, visible in refreshes(row, seed, stream, middle):
        if visible >= until:
            break
        track.computed.append(round((at + row.ahead) * MICROS))
        track.visible.append(visible)
    return track


def refreshes(
    row: Row, seed: int, stream: int, middle: float
) -> Iterator[tuple[float, float]]:
    """Yield the time of each refresh, and the time from which it is visible, without end.

    Both are in seconds of our clock.
    """
    chance = Random(f"refreshes/{row.name}/{seed}/{stream}")
    nominal = row.phase(seed, stream) - row.period(stream)
    last = float("-inf")
    visible = float("-inf")
    lag, spread = row.lag
    while True:
        # Step to the next place of the rhythm.
        period = row.period(stream)
        if row.period_later and nominal >= middle:
            period = row.period_later
        nominal += period

        # Draw the refresh near it. Refreshes never change their order.
        moved = row.jitter.sample(chance)
        at = max(nominal + moved, last + _GAP)
        if row.drift:
            nominal = at

        # Leave out a refresh that is skipped, in the outage, or before the start.
        is_skipped = row.jitter.skip > 0 and chance.random() < row.jitter.skip
        is_out = row.outage and middle <= at < middle + OUTAGE_SECONDS
        if is_skipped or is_out or at < 0:
            continue

        last = at
        hidden_seconds = 0.0
        if lag:
            hidden_seconds = max(0.0, chance.gauss(lag, spread))
        visible = max(visible, at + hidden_seconds)
        yield at, visible


TOGETHER: Final = Row("together, jitter 0.3 s")
OWN: Final = Row("own phase, jitter 0.3 s", own_phase=True, common=False)

# The table of the issue: 4 symbols in a batch.
ISSUE_ROWS: Final = (
    TOGETHER,
    Row("together, sleep after work", drift=True),
    Row("together, uniform 0-10 s", uniform(10)),
    Row("together, 5 % skipped", normal(0.3, skip=0.05)),
    OWN,
    Row("own phase, uniform 0-10 s", uniform(10), own_phase=True, common=False),
    Row("together, 30 s becomes 20 s", period_later=20.0),
)

# Rhythms the issue does not name, and defects of a source.
MORE_ROWS: Final = (
    Row("in step, own jitter 0.3 s", common=False),
    Row("in step, own uniform 0-10 s", uniform(10), common=False),
    Row("together, 5 % late by 5 s", late(0.3, 0.05, 5.0)),
    Row("together, 3 % heavy tail", heavy(0.3, 0.03, 2.0)),
    Row("together, outage of 10 min", outage=True),
    Row("together, visible after 0.5 s", lag=(0.5, 0.1)),
    Row("together, clock 2.7 s ahead", ahead=2.7),
    Row("together, one of 4 missing", missing=1),
    Row("own phase, one of 4 missing", own_phase=True, common=False, missing=1),
    Row("two periods, 30 s and 60 s", periods=(30.0, 60.0)),
    replace(OWN, name="own phase, 8 symbols", symbols=8),
)

# Rows that are measured under a limit of requests a minute.
BUDGET_ROWS: Final = (
    replace(OWN, name="4 symbols, own phase"),
    replace(OWN, name="80 symbols, own phase", symbols=80),
    replace(OWN, name="800 symbols, own phase", symbols=800),
)
