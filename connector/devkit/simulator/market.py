"""The market behind the service: the refreshes of symbols, and the one that a request is shown.

Pure: time is passed in, a refresh follows from the one before, and every symbol has a
seeded generator of its own.
"""

from __future__ import annotations

import functools
import math
from collections import deque
from typing import TYPE_CHECKING, Final, Protocol

from connector.devkit.simulator.levels import (
    Content,
    Refresh,
    Regime,
    View,
    canonical_content,
    chance_of,
    entry_of,
    grid_of,
    micros,
)

if TYPE_CHECKING:
    from collections.abc import Callable
    from itertools import count
    from random import Random

    from connector.devkit.simulator.settings import Settings

# Bound the memory of a long run. A day of eight symbols is 23,040 refreshes.
_REFRESHES_KEPT: Final = 40_000
_CONTENTS_KEPT: Final = 1_000

# Standard deviation of the log price per refresh.
_PRICE_SIGMA: Final = 0.0004

# Part of its distance from the base that the log price keeps per refresh. Below 1, so that
# a walk of any length stays near the base.
_PRICE_REVERSION: Final = 0.9995

# Probability per refresh that a number of the regime changes.
_REGIME_CHANGE_PROBABILITY: Final = 1 / 32

# A refresh is at least this much younger than the one before, in microseconds.
_MIN_GAP_MICROS: Final = 1_000

# Jitter is limited to this part of the period, so that refreshes keep their order.
_MAX_JITTER_PERIODS: Final = 0.45

# Changes of these settings start a new rhythm.
_RHYTHM: Final = ("period_seconds", "phase", "every_request")


class AnyMarket(Protocol):
    """The refreshes that requests are shown, invented or of a past day."""

    refreshes_total: int

    def change(self, settings: Settings, now: int) -> None:
        """Apply new settings from now on."""

    def advance(self, now: int) -> None:
        """Publish all refreshes that are due."""

    def show(self, symbol: str, now: int) -> Refresh | None:
        """Return the refresh that a request sees, or None if there is none."""

    def refreshes(self, since: int) -> list[Refresh]:
        """Return the published refreshes with a sequence above `since`, if still kept."""

    def content(self, refresh: Refresh, view: View, /) -> Content:
        """Return the entry of a refresh."""


class Market:
    """The refreshes of all symbols. Calls must pass moments that do not go back.

    `is_frozen(symbol, at)` tells if a symbol was not computed at a moment.
    """

    def __init__(
        self,
        settings: Settings,
        now: int,
        is_frozen: Callable[[str, int], bool],
        sequence: count[int],
    ) -> None:
        self.settings = settings
        self.refreshes_total = 0
        self.content = functools.lru_cache(_CONTENTS_KEPT)(self._content)
        self._is_frozen = is_frozen
        self._sequence = sequence
        self._published: deque[Refresh] = deque(maxlen=_REFRESHES_KEPT)
        self._chance: dict[str, Random] = {}
        self._current: dict[str, Refresh] = {}
        self._upcoming: dict[str, Refresh] = {}
        self.change(settings, now)

    def change(self, settings: Settings, now: int) -> None:
        """Apply new settings from now on. A new rhythm starts its phase at `now`."""
        self.advance(now)

        def is_changed(name: str) -> bool:
            return bool(getattr(settings, name) != getattr(self.settings, name))

        if any(map(is_changed, _RHYTHM)):
            lag = micros(settings.visible_lag_seconds)
            for symbol, due in self._upcoming.items():
                self._reschedule(due, now + phase_of(symbol, settings), lag)

        self.settings = settings
        self.content.cache_clear()
        for symbol in settings.symbols:
            if symbol not in self._upcoming:
                self._chance[symbol] = chance_of("refreshes", settings.seed, symbol)
                self._upcoming[symbol] = first_refresh(symbol, settings, now)
                self._publish(symbol)

    def advance(self, now: int) -> None:
        """Publish all refreshes that are due."""
        for symbol in self._upcoming:
            self._advance_symbol(symbol, now)

    def show(self, symbol: str, now: int) -> Refresh | None:
        """Return the refresh that a request sees, or None while the cache is cold."""
        if symbol in self.settings.cold:
            return None

        self._advance_symbol(symbol, now)
        if self.settings.every_request and not self._is_frozen(symbol, now):
            self._reschedule(self._upcoming[symbol], now)
            self._publish(symbol)
        return self._current[symbol]

    def refreshes(self, since: int) -> list[Refresh]:
        """Return the published refreshes with a sequence above `since`, if still kept."""
        return [refresh for refresh in self._published if refresh.sequence > since]

    def _content(self, refresh: Refresh, view: View) -> Content:
        return canonical_content(entry_of(refresh, view, self.settings))

    def _advance_symbol(self, symbol: str, now: int) -> None:
        # Requests drive the market then, not time.
        if self.settings.every_request:
            return

        while self._upcoming[symbol].visible_at <= now:
            due = self._upcoming[symbol]
            if due.skipped or self._is_frozen(symbol, due.computed_at):
                following = next_refresh(due, self.settings, self._chance[symbol])
                self._upcoming[symbol] = following
            else:
                self._publish(symbol)

    def _reschedule(self, due: Refresh, at: int, lag: int = 0) -> None:
        earliest = self._current[due.symbol].computed_at + _MIN_GAP_MICROS
        due.computed_at = max(at, earliest)
        due.nominal_at = due.computed_at
        due.visible_at = due.computed_at + lag

    def _publish(self, symbol: str) -> None:
        refresh = self._upcoming[symbol]
        refresh.sequence = next(self._sequence)
        self._current[symbol] = refresh
        self._published.append(refresh)
        self.refreshes_total += 1
        following = next_refresh(refresh, self.settings, self._chance[symbol])
        self._upcoming[symbol] = following


def phase_of(symbol: str, settings: Settings) -> int:
    """Return the offset of a symbol's refreshes within the period, in microseconds."""
    if settings.phase == "together":
        return 0
    fraction = chance_of("phase", settings.seed, symbol).random()
    return micros(fraction * settings.period_seconds)


def first_refresh(symbol: str, settings: Settings, now: int) -> Refresh:
    """Return the refresh that is visible from the start."""
    grid = grid_of(symbol)
    at = now - phase_of(symbol, settings)
    chance = chance_of("regime", settings.seed, symbol)
    regime = Regime(*[chance.random() for _ in Regime._fields])
    return Refresh(
        symbol=symbol,
        nominal_at=at,
        computed_at=at,
        visible_at=at,
        spot=grid.base,
        basis_spot=grid.base,
        hvl=grid.price(-0.5, grid.base),
        regime=regime,
    )


def next_refresh(last: Refresh, settings: Settings, chance: Random) -> Refresh:
    """Return the refresh after `last`.

    If levels change, the gamma flip moves with the price and the walls now and then. The
    order of the draws from `chance` decides what a seed shows, so do not change it.
    """
    # When it is computed.
    max_jitter = _MAX_JITTER_PERIODS * settings.period_seconds
    jitter_seconds = chance.gauss(0, settings.jitter_seconds)
    jitter = micros(min(max_jitter, max(-max_jitter, jitter_seconds)))
    late = 0
    if chance.random() < settings.late_probability:
        late = micros(settings.late_seconds)
    nominal_at = last.nominal_at + micros(settings.period_seconds)
    computed_at = max(nominal_at + jitter + late, last.computed_at + _MIN_GAP_MICROS)
    visible_at = computed_at + micros(settings.visible_lag_seconds)

    # Where the price went.
    grid = grid_of(last.symbol)
    reverted = grid.base * (last.spot / grid.base) ** _PRICE_REVERSION
    spot = reverted * math.exp(chance.gauss(0, _PRICE_SIGMA))

    # The inputs of the levels.
    basis_spot, hvl, regime = last.basis_spot, last.hvl, last.regime
    if chance.random() < settings.change_probability:
        basis_spot = spot
        hvl = grid.price(0, spot * chance.uniform(0.994, 0.996))
        if hvl == last.hvl:
            # A change must show: move the flip by its smallest digit.
            hvl = grid.price(0, hvl + 10.0**-grid.digits)
        regime = _next_regime(regime, chance)

    return Refresh(
        symbol=last.symbol,
        nominal_at=nominal_at + jitter if settings.drift else nominal_at,
        computed_at=computed_at,
        visible_at=max(visible_at, last.visible_at),
        spot=grid.price(0, spot),
        basis_spot=basis_spot,
        hvl=hvl,
        regime=regime,
        skipped=chance.random() < settings.skip_probability,
    )


def _next_regime(regime: Regime, chance: Random) -> Regime:
    numbers = []
    for number in regime:
        is_new = chance.random() < _REGIME_CHANGE_PROBABILITY
        numbers.append(chance.random() if is_new else number)
    return Regime(*numbers)
