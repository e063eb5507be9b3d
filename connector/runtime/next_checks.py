"""Reports each symbol's next check, and the rhythm that it is based on."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from connector.core.model import MICROS
from connector.runtime.ports import NextCheck

if TYPE_CHECKING:
    from connector.runtime.clock import Clock
    from connector.runtime.coverage import Key
    from connector.runtime.ports import RequestObserver
    from connector.schedule.batches import Batch
    from connector.schedule.scheduler import Schedule


class NextChecks:
    """The next check of each symbol, as of its last one."""

    def __init__(
        self, schedule: Schedule, clock: Clock, observer: RequestObserver
    ) -> None:
        self._schedule = schedule
        self._clock = clock
        self._observer = observer
        self._at: dict[Key, int | None] = {}

    def at(self, feed: str, symbol: str) -> int | None:
        """Return the moment of a symbol's next check (microseconds since the epoch)."""
        return self._at.get((feed, symbol))

    def report(self, batch: Batch) -> None:
        """Report the symbols of a batch that was just checked."""
        self._observer.visibility_lag_learnt(self._schedule.lag_seconds)
        at = self._wall_time(self._schedule.next_check_at(batch))
        for symbol in batch.symbols:
            forecast = self._schedule.forecast(batch.feed, symbol)
            # Its shard may have been lost while the request was under way.
            if forecast is None:
                continue
            self._at[batch.feed, symbol] = at
            check = NextCheck(batch.feed, symbol, at=at, rhythm=forecast)
            self._observer.check_planned(check)

    def _wall_time(self, monotonic: float | None) -> int | None:
        if monotonic is None:
            return None
        # Read both clocks now: an offset from the start would miss every step of ours.
        monotonic_now = round(time.monotonic() * MICROS)
        wall_minus_monotonic = self._clock.now() - monotonic_now
        return round(monotonic * MICROS) + wall_minus_monotonic
