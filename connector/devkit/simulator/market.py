"""The market behind the service: when each symbol is computed, and what a request sees of it.

Pure: time is passed in, a refresh follows from the one before, and every symbol has a seeded chance of its own.
"""

from __future__ import annotations

import functools
import math
from collections import deque
from typing import TYPE_CHECKING, Final

from connector.devkit.simulator.levels import (
    Content,
    Refresh,
    chance_of,
    content_of,
    entry_of,
    grid_of,
    micros,
)

if TYPE_CHECKING:
    from collections.abc import Callable
    from itertools import count
    from random import Random

    from connector.devkit.simulator.settings import Settings

KEPT_REFRESHES: Final = 40_000
KEPT_CONTENTS: Final = 1_000
STEP_SIGMA: Final = 0.0004  # of log spot, per refresh
REVERSION: Final = (
    0.9995  # of log spot, per refresh: keeps a walk of any length near its base
)
TURN: Final = 1 / 32  # how often a slow number turns, per refresh
MIN_GAP: Final = 1_000  # microseconds between two refreshes of a symbol


class Market:
    """All symbols. `now` may not go back, between calls, by anything that matters.

    `frozen` says whether a symbol (str) is not computed at a moment (int), which may lie in the past.
    """

    def __init__(
        self,
        settings: Settings,
        now: int,
        frozen: Callable[[str, int], bool],
        sequence: count[int],
    ) -> None:
        self.settings = settings
        self.refreshes_total = 0
        self.content = functools.lru_cache(KEPT_CONTENTS)(self._content)
        self._frozen = frozen
        self._sequence = sequence
        self._record: deque[Refresh] = deque(maxlen=KEPT_REFRESHES)
        self._chance: dict[str, Random] = {}
        self._current: dict[str, Refresh] = {}
        self._upcoming: dict[str, Refresh] = {}
        self.change(settings, now)

    def change(self, settings: Settings, now: int) -> None:
        """Take other settings from now on; a new rhythm starts with its phase from `now`."""
        self.advance(now)
        rhythm = ("period_seconds", "phase", "every_request")
        if any(
            getattr(settings, name) != getattr(self.settings, name) for name in rhythm
        ):
            for symbol, due in self._upcoming.items():
                self._set(
                    due,
                    now + phase_of(symbol, settings),
                    micros(settings.visible_lag_seconds),
                )
        self.settings = settings
        self.content.cache_clear()
        for symbol in settings.symbols:
            if symbol not in self._upcoming:
                self._chance[symbol] = chance_of("refreshes", settings.seed, symbol)
                self._upcoming[symbol] = first_refresh(symbol, settings, now)
                self._publish(symbol)

    def advance(self, now: int) -> None:
        """Compute whatever is due."""
        for symbol in self._upcoming:
            self._forward(symbol, now)

    def show(self, symbol: str, now: int) -> Refresh | None:
        """What a request at `now` sees of a supported symbol; None while its cache is cold."""
        if symbol in self.settings.cold:
            return None
        self._forward(symbol, now)
        if self.settings.every_request and not self._frozen(symbol, now):
            self._set(self._upcoming[symbol], now)
            self._publish(symbol)
        return self._current[symbol]

    def refreshes(self, since: int) -> list[Refresh]:
        """All that became visible and are kept, with a sequence above `since`."""
        return [refresh for refresh in self._record if refresh.sequence > since]

    def _content(
        self, refresh: Refresh, include: frozenset[str], exchanges: frozenset[str]
    ) -> Content:
        """The entry with the sections of `include`, seen through a venue filter (empty: none)."""
        entry = entry_of(refresh, include, exchanges)
        if "zones" in entry:
            entry[self.settings.zones_field] = entry.pop("zones")
        return content_of(entry)

    def _forward(self, symbol: str, now: int) -> None:
        while (
            due := self._upcoming[symbol]
        ).visible_at <= now and not self.settings.every_request:
            if due.skipped or self._frozen(symbol, due.computed_at):
                self._upcoming[symbol] = next_refresh(
                    due, self.settings, self._chance[symbol]
                )
            else:
                self._publish(symbol)

    def _set(self, due: Refresh, at: int, lag: int = 0) -> None:
        due.nominal_at = due.computed_at = max(
            at, self._current[due.symbol].computed_at + MIN_GAP
        )
        due.visible_at = due.computed_at + lag

    def _publish(self, symbol: str) -> None:
        refresh = self._upcoming[symbol]
        refresh.sequence = next(self._sequence)
        self._current[symbol] = refresh
        self._record.append(refresh)
        self.refreshes_total += 1
        self._upcoming[symbol] = next_refresh(
            refresh, self.settings, self._chance[symbol]
        )


def phase_of(symbol: str, settings: Settings) -> int:
    """How long after the others' a symbol's refreshes come, in microseconds."""
    own = settings.phase == "own"
    return (
        micros(
            chance_of("phase", settings.seed, symbol).random() * settings.period_seconds
        )
        if own
        else 0
    )


def first_refresh(symbol: str, settings: Settings, now: int) -> Refresh:
    """The one that can be seen at the start."""
    grid, at = grid_of(symbol), now - phase_of(symbol, settings)
    chance = chance_of("regime", settings.seed, symbol)
    regime = tuple([chance.random() for _ in range(8)])
    return Refresh(
        symbol, at, at, at, grid.base, grid.base, grid.price(-0.5, grid.base), regime
    )


def next_refresh(last: Refresh, settings: Settings, chance: Random) -> Refresh:
    """The one after `last`. Where levels change, the gamma flip moves with the price, the walls now and then."""
    grid, edge = grid_of(last.symbol), 0.45 * settings.period_seconds
    jitter = micros(min(edge, max(-edge, chance.gauss(0, settings.jitter_seconds))))
    late = (
        micros(settings.late_seconds)
        if chance.random() < settings.late_probability
        else 0
    )
    nominal_at = last.nominal_at + micros(settings.period_seconds)
    computed_at = max(nominal_at + jitter + late, last.computed_at + MIN_GAP)
    spot = (
        grid.base
        * (last.spot / grid.base) ** REVERSION
        * math.exp(chance.gauss(0, STEP_SIGMA))
    )
    basis_spot, hvl, regime = last.basis_spot, last.hvl, last.regime
    if chance.random() < settings.change_probability:
        basis_spot, hvl = spot, grid.price(0, spot * chance.uniform(0.994, 0.996))
        hvl = hvl if hvl != last.hvl else grid.price(0, hvl + 10.0**-grid.digits)
        regime = tuple(
            [chance.random() if chance.random() < TURN else slow for slow in regime]
        )
    return Refresh(
        symbol=last.symbol,
        nominal_at=nominal_at + (jitter if settings.drift else 0),
        computed_at=computed_at,
        visible_at=max(
            computed_at + micros(settings.visible_lag_seconds), last.visible_at
        ),
        spot=grid.price(0, spot),
        basis_spot=basis_spot,
        hvl=hvl,
        regime=regime,
        skipped=chance.random() < settings.skip_probability,
    )
