"""A market that shows a day of the past again, in the present and at any speed."""

from __future__ import annotations

import functools
from collections import deque
from typing import TYPE_CHECKING, Final, NamedTuple

from connector.devkit.simulator.levels import (
    Content,
    Refresh,
    Regime,
    View,
    canonical_content,
    iso,
)
from connector.devkit.simulator.past import entry_of_levels, spot_price

if TYPE_CHECKING:
    from itertools import count

    from connector.devkit.simulator.past import Past, Step
    from connector.devkit.simulator.settings import Settings

_REFRESHES_KEPT: Final = 40_000
_CONTENTS_KEPT: Final = 1_000

# The levels come from the file, not from these.
_NO_REGIME: Final = Regime(*[0.0] * len(Regime._fields))


class Replay(NamedTuple):
    """A past day, and how many times as fast as it was to show it."""

    past: Past
    speed: float = 1.0


class ReplayMarket:
    """The refreshes of a past day. Calls must pass moments that do not go back.

    The past begins at the moment `now`. After its end, nothing is computed any more.
    """

    def __init__(
        self, replay: Replay, settings: Settings, now: int, sequence: count[int]
    ) -> None:
        past = replay.past
        self.settings = settings
        self.refreshes_total = 0
        self.content = functools.lru_cache(_CONTENTS_KEPT)(self._content)
        self._begins_at = past.begins_at
        self._starts_at = now
        self._speed = replay.speed
        self._sequence = sequence
        self._upcoming = {symbol: deque(steps) for symbol, steps in past.steps.items()}
        self._current: dict[str, Refresh | None] = dict.fromkeys(past.steps)
        self._published: deque[Refresh] = deque(maxlen=_REFRESHES_KEPT)
        # The levels of each refresh, by its sequence. A quiet symbol shows an old one.
        self._steps: dict[int, Step] = {}
        self.advance(now)

    def change(self, settings: Settings, now: int) -> None:
        """Apply new settings. Those of the market have no effect on the past."""
        self.advance(now)
        self.settings = settings
        self.content.cache_clear()

    def advance(self, now: int) -> None:
        """Publish all refreshes that are due."""
        for symbol, steps in self._upcoming.items():
            while steps and self._moved(steps[0].at) <= now:
                self._take(symbol, steps.popleft())

    def show(self, symbol: str, now: int) -> Refresh | None:
        """Return the refresh that a request sees, or None if the API had none."""
        if symbol in self.settings.cold:
            return None
        self.advance(now)
        return self._current.get(symbol)

    def refreshes(self, since: int) -> list[Refresh]:
        """Return the published refreshes with a sequence above `since`, if still kept."""
        return [refresh for refresh in self._published if refresh.sequence > since]

    def _content(self, refresh: Refresh, view: View) -> Content:
        step = self._steps[refresh.sequence]
        computed_at = None
        if step.computed_at is not None:
            computed_at = iso(refresh.computed_at, self.settings.stamp_format)
        levels = step.levels or b"{}"
        entry = entry_of_levels(levels, view.include, computed_at)
        if "zones" in entry:
            entry[self.settings.zones_name] = entry.pop("zones")
        return canonical_content(entry)

    def _take(self, symbol: str, step: Step) -> None:
        """Publish a step, or end the symbol's levels."""
        if step.levels is None:
            self._current[symbol] = None
            return
        visible_at = self._moved(step.at)
        computed_at = visible_at
        if step.computed_at is not None:
            computed_at = self._moved(step.computed_at)
        spot = spot_price(step.levels)
        refresh = Refresh(
            symbol=symbol,
            nominal_at=computed_at,
            computed_at=computed_at,
            visible_at=visible_at,
            spot=spot,
            basis_spot=spot,
            hvl=spot,
            regime=_NO_REGIME,
            sequence=next(self._sequence),
        )
        self._current[symbol] = refresh
        self._steps[refresh.sequence] = step
        self._published.append(refresh)
        self.refreshes_total += 1

    def _moved(self, at: int) -> int:
        """Return the moment of the replay that a moment of the past has become."""
        return self._starts_at + round((at - self._begins_at) / self._speed)
