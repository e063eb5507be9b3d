"""The connector's schedule as a policy of the simulation."""

from __future__ import annotations

from random import Random
from typing import TYPE_CHECKING, Final

from connector.schedule.batches import Batch, Batches
from connector.schedule.checks import CheckSettings, Outcome
from connector.schedule.scheduler import Schedule
from connector.schedule.symbols import ComputedTimes

if TYPE_CHECKING:
    from collections.abc import Mapping

    from tests.bench.schedule.processes import Row
    from tests.bench.schedule.simulate import Symbols

# Planned part of the limit, as in production: 54 of 60 requests a minute.
BUDGET_SHARE: Final = 0.9

# Requests a minute that never bind, so that the pinned price alone decides.
UNLIMITED: Final = 1e9

_FEED: Final = "all"

# Between two attempts to pack symbols of the same rhythm together.
_REGROUP_SECONDS: Final = 60.0


class Product:
    """Our schedule, with a pinned price or with a limit.

    A pinned price has no limit. Otherwise `limit` is in requests a minute, and `target` is the
    target delay in seconds. With `regroup`, symbols of the same rhythm are packed together.
    """

    def __init__(
        self,
        row: Row,
        *,
        price: float | None = None,
        limit: float = 60.0,
        target: float = 0.4,
        regroup: bool = False,
    ) -> None:
        self._ahead = row.ahead
        self._names = [f"S{symbol:03}" for symbol in range(row.symbols)]
        self._numbers = {name: symbol for symbol, name in enumerate(self._names)}
        self._regroup_at = _REGROUP_SECONDS if regroup else float("inf")
        self._batches = Batches(_FEED, row.batch)
        self._batches.own(self._names)
        self._asked: dict[Symbols, Batch] = {}

        settings = CheckSettings(target_delay_seconds=target)
        self.schedule = Schedule(settings, Random(row.name).random, fixed_price=price)
        budget = limit * BUDGET_SHARE if price is None else UNLIMITED
        self.schedule.set_budget(budget, 0.0)
        self.schedule.set_batches(self._batches.all(), 0.0)

    def next(self) -> tuple[float, Symbols] | None:
        upcoming = self.schedule.next()
        if upcoming is None:
            return None
        at, batch = upcoming
        symbols = tuple([self._numbers[name] for name in batch.symbols])
        self._asked[symbols] = batch
        return at, symbols

    def started(self, batch: Symbols, now: float) -> None:
        self.schedule.start_check(self._asked[batch], now)

    def finished(
        self, batch: Symbols, sent_at: float, now: float, seen: Mapping[int, int]
    ) -> None:
        computed = {self._names[symbol]: moment for symbol, moment in seen.items()}
        times = ComputedTimes(computed, self._ahead)
        self.schedule.finish_check(
            self._asked[batch], Outcome.ANSWERED, sent_at, now, times
        )

        if now >= self._regroup_at:
            self._regroup_at = now + _REGROUP_SECONDS
            self._regroup(now)

    def _regroup(self, now: float) -> None:
        """Pack the symbols by their forecast rhythms."""
        rhythms = {}
        for name in self._names:
            forecast = self.schedule.forecast(_FEED, name)
            if forecast is None or forecast.last is None:
                continue
            # A symbol without a rhythm has no place in the packing.
            if forecast.period:
                next_refresh = forecast.last + forecast.period
                rhythms[name] = (forecast.period, next_refresh)
        if self._batches.regroup(rhythms):
            self.schedule.set_batches(self._batches.all(), now)
