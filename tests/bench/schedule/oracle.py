"""The policies behind the bounds, simulated: `python -m tests.bench.schedule --check`.

The calculated cost of a policy and its cost when played must agree, but for chance. The mean delay
of a fixed interval must be half the interval.
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

# Moments closer than this, in seconds, are equal: the server rounds them.
_SAME: Final = 1e-3

# Long enough for the played figures to agree in the first two digits.
_HOURS: Final = 10

_PRICES: Final = (1.0, 0.3)

# The fixed interval that is played beside the policies.
_FIXED_SECONDS: Final = 7.3


class Oracle:
    """A policy that knows the law of its row, and learns only from its checks.

    The row has a single batch, and its refreshes lie on a grid with one period. The next check
    waits for the previous answer, so the next place may not lie within a request.
    """

    def __init__(self, row: Row, seed: int, price: float) -> None:
        self._decision = decision(row, seed)
        self.rates = self._decision.solve(price)
        self._batch = row.batches[0]
        # A source that refreshes all symbols together is seen in any of them.
        self._shown = self._batch
        if row.common and not row.own_phase:
            self._shown = self._batch[:1]
        self._place = 0
        self._looks_at = float(self._decision.grid[0])
        self._flying = False

    def next(self) -> tuple[float, Symbols] | None:
        if self._flying:
            return None
        # The server looks in the middle of a request.
        sends_at = self._looks_at - REQUEST_SECONDS / 2
        return max(0.0, sends_at), self._batch

    def started(self, batch: Symbols, now: float) -> None:
        self._flying = True

    def finished(
        self, batch: Symbols, sent_at: float, now: float, seen: Mapping[int, int]
    ) -> None:
        def unseen(source: int, begun: float) -> bool:
            last_refresh = seen.get(self._shown[source], 0) / MICROS
            return last_refresh < begun - _SAME

        self._place, wait = self._decision.next(self._place, self._looks_at, unseen)
        self._looks_at += wait
        self._flying = False


def check() -> Iterator[str]:
    """Yield a line for each policy."""
    counted = _HOURS * 3600
    span = Span(600, 600 + counted, 800 + counted)
    yield "requests a minute and mean delay, calculated and played"
    for row in (*ISSUE_ROWS, *MORE_ROWS):
        if not _known(row):
            continue

        drawn = world(row, 1, span.middle, span.until)
        refreshes = row.symbols / row.period(0) * (1 - row.jitter.skip)
        for price in _PRICES:
            oracle = Oracle(row, 1, price)
            played = simulate(drawn, oracle, span)
            requests = oracle.rates.requests * 60
            delay = oracle.rates.delay / refreshes
            yield _line(row, f"c={price:g}", requests, delay, played)

        requests = 60 / _FIXED_SECONDS
        played = simulate(drawn, Fixed(row, _FIXED_SECONDS, Random(1)), span)
        label = f"{_FIXED_SECONDS} s"
        yield _line(row, label, requests, fixed_mean(requests, 1), played)


def _line(row: Row, label: str, requests: float, delay: float, played: Figures) -> str:
    calculated = f"{requests:8.3f} {delay:8.4f}"
    measured = f"{played.requests:8.3f} {played.mean:8.4f}"
    return f"  {row.name:30} {label:6} {calculated}  {measured}"


def _known(row: Row) -> bool:
    """Return true if a policy needs to know only its place in the cycle."""
    odd = (
        row.drift
        or row.period_later
        or row.outage
        or row.ahead
        or row.missing
        or row.lag[0]
    )
    return not odd and len(row.periods) == 1
