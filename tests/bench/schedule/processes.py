"""When refreshes happen: the rows of the table. Seeded and pure; seconds of virtual time from 0."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from itertools import takewhile
from random import Random
from typing import TYPE_CHECKING, Final

from tests.bench.schedule.jitter import Jitter, heavy, late, normal, uniform

if TYPE_CHECKING:
    from collections.abc import Iterator

MICROS: Final = 1_000_000
PERIOD_SECONDS: Final = 30.0
OUTAGE_SECONDS: Final = 600.0
_GAP: Final = 0.001  # seconds between two refreshes of a symbol, at least


@dataclass(frozen=True, slots=True)
class Row:
    """One kind of source, with the symbols that are watched. Seconds.

    `periods` are dealt to the symbols in turn. `own_phase`: each symbol has a phase of its own, uniform over its
    period; else all share one. `common`: one event refreshes all symbols. `drift`: a refresh follows the one before
    (sleep after work), not a grid. `period_later`: the period from the middle of what is counted. `outage`: nothing
    is refreshed for `OUTAGE_SECONDS` from there. `lag`: mean and deviation of how long a refresh stays invisible.
    `ahead`: the server's clock, less ours. `missing`: how many symbols are asked for and never there.
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
        """Of a symbol's rhythm."""
        key = symbol if self.own_phase else "all"
        return Random(f"phase/{self.name}/{seed}/{key}").random() * self.period(symbol)

    def period(self, symbol: int) -> float:
        return self.periods[symbol % len(self.periods)]

    @property
    def batches(self) -> tuple[tuple[int, ...], ...]:
        """The symbols of each request."""
        return tuple(
            tuple(range(at, min(at + self.batch, self.symbols)))
            for at in range(0, self.symbols, self.batch)
        )


@dataclass(frozen=True, slots=True)
class Track:
    """A symbol's refreshes in order: the server's microseconds, and when each can be seen (seconds of our clock)."""

    computed: list[int]
    visible: list[float]


@dataclass(frozen=True, slots=True)
class World:
    """What a row's source does, for one seed, until `until`; `middle` is the middle of what is counted."""

    row: Row
    seed: int
    until: float
    tracks: tuple[Track, ...]


def world(row: Row, seed: int, middle: float, until: float) -> World:
    """Draw it."""
    drawn: dict[int, Track] = {}
    tracks = []
    for symbol in range(row.symbols):
        stream = 0 if row.common and not row.own_phase else symbol
        if row.common and len(row.periods) > 1:
            stream = symbol % len(row.periods)
        if symbol >= row.symbols - row.missing:
            tracks.append(Track([], []))
            continue
        if stream not in drawn:
            seen = list(
                takewhile(
                    lambda refresh: refresh[1] < until,
                    refreshes(row, seed, stream, middle),
                )
            )
            offset = row.ahead
            drawn[stream] = Track(
                [round((at + offset) * MICROS) for at, _ in seen],
                [at for _, at in seen],
            )
        tracks.append(drawn[stream])
    return World(row, seed, until, tuple(tracks))


def refreshes(
    row: Row, seed: int, stream: int, middle: float
) -> Iterator[tuple[float, float]]:
    """When each is computed and visible, both in seconds of our clock; without end."""
    chance = Random(f"refreshes/{row.name}/{seed}/{stream}")
    nominal = row.phase(seed, stream) - row.period(stream)
    last = visible = float("-inf")
    lag, spread = row.lag
    while True:
        later = row.period_later is not None and nominal >= middle
        nominal += (
            row.period_later if later and row.period_later else row.period(stream)
        )
        moved = row.jitter.sample(chance)
        at = max(nominal + moved, last + _GAP)
        if row.drift:
            nominal = at
        skipped = row.jitter.skip > 0 and chance.random() < row.jitter.skip
        if skipped or (row.outage and middle <= at < middle + OUTAGE_SECONDS) or at < 0:
            continue
        last = at
        visible = max(
            visible, at + (max(0.0, chance.gauss(lag, spread)) if lag else 0.0)
        )
        yield at, visible


TOGETHER: Final = Row("together, jitter 0.3 s")
OWN: Final = Row("own phase, jitter 0.3 s", own_phase=True, common=False)
# The table of the issue, 4 symbols in one batch.
ISSUE_ROWS: Final = (
    TOGETHER,
    Row("together, sleep after work", drift=True),
    Row("together, uniform 0-10 s", uniform(10)),
    Row("together, 5 % skipped", normal(0.3, skip=0.05)),
    OWN,
    Row("own phase, uniform 0-10 s", uniform(10), own_phase=True, common=False),
    Row("together, 30 s becomes 20 s", period_later=20.0),
)

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
BUDGET_ROWS: Final = (
    replace(OWN, name="4 symbols, own phase"),
    replace(OWN, name="80 symbols, own phase", symbols=80),
    replace(OWN, name="800 symbols, own phase", symbols=800),
)
