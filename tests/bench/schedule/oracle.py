"""The policies that the bounds are made of, played in the simulation: `python -m tests.bench.schedule --check`.

What a policy costs by calculation and what it costs when it is played must agree, but for chance; so must a fixed
interval with half of itself.
"""

from __future__ import annotations

from random import Random
from typing import TYPE_CHECKING, Final

from tests.bench.schedule.bounds import decision
from tests.bench.schedule.policies import Fixed, fixed_mean
from tests.bench.schedule.processes import ISSUE_ROWS, MICROS, MORE_ROWS, world
from tests.bench.schedule.simulate import REQUEST_SECONDS, Span, simulate

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from tests.bench.schedule.processes import Row
    from tests.bench.schedule.simulate import Figures, Symbols

_SAME: Final = 1e-3  # seconds: moments are rounded
_HOURS: Final = 10
_PRICES: Final = (1.0, 0.3)


class Oracle:
    """One batch of a row whose refreshes are on a grid with one period. It knows the law, and sees what a check shows.

    It only asks a new question once the one before is answered, so the next place may not lie within a request.
    """

    def __init__(self, row: Row, seed: int, price: float) -> None:
        self._decision = decision(row, seed)
        self.rates = self._decision.solve(price)
        self._batch = row.batches[0]
        self._shown = (
            self._batch[:1] if row.common and not row.own_phase else self._batch
        )
        self._place, self._looks_at = 0, float(self._decision.grid[0])
        self._flying = False

    def next(self) -> tuple[float, Symbols] | None:
        return (
            None
            if self._flying
            else (max(0.0, self._looks_at - REQUEST_SECONDS / 2), self._batch)
        )

    def started(self, batch: Symbols, now: float) -> None:
        self._flying = True

    def finished(
        self, batch: Symbols, sent_at: float, now: float, seen: Mapping[int, int]
    ) -> None:
        def unseen(source: int, begun: float) -> bool:
            return seen.get(self._shown[source], 0) / MICROS < begun - _SAME

        self._place, wait = self._decision.next(self._place, self._looks_at, unseen)
        self._looks_at += wait
        self._flying = False


def check() -> Iterator[str]:
    """A line for each policy."""
    span = Span(600, 600 + _HOURS * 3600, 800 + _HOURS * 3600)
    rows = [row for row in (*ISSUE_ROWS, *MORE_ROWS) if _known(row)]
    yield "requests a minute and mean delay, calculated and played"
    for row in rows:
        drawn = world(row, 1, span.middle, span.until)
        refreshes = row.symbols / row.period(0) * (1 - row.jitter.skip)
        for price in _PRICES:
            oracle = Oracle(row, 1, price)
            played = simulate(drawn, oracle, span)
            told = oracle.rates.requests * 60, oracle.rates.delay / refreshes
            yield _line(row, f"c={price:g}", told, played)
        yield _line(
            row,
            "7.3 s",
            (60 / 7.3, fixed_mean(60 / 7.3, 1)),
            simulate(drawn, Fixed(row, 7.3, Random(1)), span),
        )


def _line(row: Row, what: str, told: tuple[float, float], played: Figures) -> str:
    return f"  {row.name:30} {what:6} {told[0]:8.3f} {told[1]:8.4f}  {played.requests:8.3f} {played.mean:8.4f}"


def _known(row: Row) -> bool:
    """Whether the policy's place in the cycle is all there is to it."""
    odd = (
        row.drift
        or row.period_later
        or row.outage
        or row.ahead
        or row.missing
        or row.lag[0]
    )
    return not odd and len(row.periods) == 1
