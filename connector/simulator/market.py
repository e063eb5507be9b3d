"""The market behind the service: when each symbol is computed, and what its levels are.

Pure: time is passed in, as microseconds since the Unix epoch, and chance is a hash of seed, symbol and the number of
the refresh. Each symbol is generated lazily, forward only.
"""

from __future__ import annotations

import math
from collections import deque
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Final

from connector.simulator.levels import Basis, Content, Shape, content_of, gauss, uniforms

if TYPE_CHECKING:
    from itertools import count

    from connector.simulator.settings import Settings

MICROS: Final = 1_000_000
EPOCH_PERIODS: Final = 1024  # how far back a walk begins where no epoch is given
KEPT_REFRESHES: Final = 5_000  # per symbol
STEP_SIGMA: Final = 0.0004  # of log spot, per refresh
REVERSION: Final = 0.9995  # of log spot, per refresh: keeps a walk of any length near its base
LONGEST_LAG: Final = 3_600 * MICROS  # between a refresh that a freeze suppresses and when it would have been visible
MIN_GAP: Final = 1_000  # microseconds between two refreshes of a symbol
PLAIN: Final[tuple[frozenset[str], frozenset[str]]] = (frozenset(), frozenset())
_UNIX_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)


def iso(at: int) -> str:
    """ISO 8601 with microseconds and Z."""
    return (_UNIX_EPOCH + timedelta(microseconds=at)).isoformat(timespec="microseconds")[:-6] + "Z"


def micros(seconds: float) -> int:
    """Seconds as whole microseconds."""
    return round(seconds * MICROS)


@dataclass(slots=True)
class Refresh:
    """One computation of one symbol. `sequence` counts the refreshes and answers of a simulator in one row.

    `contents` are kept while it is the current one, by `include` and `exchanges`; `sha256` is of the plain one.
    """

    computed_at: int
    visible_at: int
    spot: float
    basis: Basis
    skipped: bool
    sequence: int = 0
    sha256: str = ""
    contents: dict[tuple[frozenset[str], frozenset[str]], Content] = field(default_factory=dict)


@dataclass(slots=True)
class Freeze:
    """No refreshes of `symbols` (None: all) are computed from `from_at` until before `until_at`."""

    symbols: frozenset[str] | None
    from_at: int
    until_at: float

    def covers(self, symbol: str, at: int) -> bool:
        """True where `symbol` stands still at that moment."""
        return self.from_at <= at < self.until_at and (self.symbols is None or symbol in self.symbols)


class Market:
    """All symbols. `now` may not go back, between calls, by anything that matters."""

    def __init__(self, settings: Settings, now: int, sequence: count[int]) -> None:
        self.settings = settings
        self.freezes: list[Freeze] = []
        self.refreshes_total = 0
        self._sequence = sequence
        block = micros(EPOCH_PERIODS * settings.period_seconds)
        given = settings.epoch_seconds
        self._epoch_at = now // block * block if given is None else micros(given)
        self._series: dict[str, Series] = {}
        self.change(settings, now)

    def change(self, settings: Settings, now: int) -> None:
        """Take other settings from now on; a new rhythm starts with its phase from `now`."""
        self.advance(now)
        retime = any(
            getattr(settings, name) != getattr(self.settings, name)
            for name in ("period_seconds", "phase", "every_request")
        )
        self.settings = settings
        for series in self._series.values():
            series.settings = settings
            if retime:
                series.retime(now)
        for symbol in settings.symbols:
            if symbol not in self._series:
                series = self._series[symbol] = Series(symbol, settings, self._epoch_at)
                self._forward(series, now)
                series.forget_but_current()

    def freeze(self, freeze: Freeze, now: int) -> None:
        """Let symbols stand still for a while, from now or later."""
        self.advance(now)
        self.freezes = [one for one in self.freezes if one.until_at > now - LONGEST_LAG] + [freeze]

    def thaw(self, now: int) -> None:
        """End every freeze, those to come as well."""
        self.advance(now)
        ends = ((one, min(one.until_at, now)) for one in self.freezes)
        self.freezes = [Freeze(one.symbols, one.from_at, until_at) for one, until_at in ends]

    def advance(self, now: int) -> None:
        """Compute whatever is due."""
        for series in self._series.values():
            self._forward(series, now)

    def show(self, symbol: str, now: int) -> Refresh | None:
        """What a request at `now` sees of a supported symbol; None while its cache is cold."""
        if symbol in self.settings.cold:
            return None
        series = self._series[symbol]
        if not self.settings.every_request:
            self._forward(series, now)
        elif not any(freeze.covers(symbol, now) for freeze in self.freezes):
            self._publish(series, series.step(now))
        return series.current

    def peek(self, symbol: str, now: int) -> Refresh | None:
        """The same, without a new refresh where every request brings one."""
        self.advance(now)
        return None if symbol in self.settings.cold else self._series[symbol].current

    def content(
        self, symbol: str, refresh: Refresh, include: frozenset[str], exchanges: frozenset[str]
    ) -> tuple[Content, bool]:
        """The entry with the sections of `include`, seen through a venue filter (empty: none); True where it is new."""
        key = (include, exchanges)
        found = refresh.contents.get(key)
        if found is not None:
            return found, False
        entry = self._series[symbol].shape.sections(refresh.basis, include, exchanges)
        if "zones" in entry:
            entry[self.settings.zones_field] = entry.pop("zones")
        entry |= {"spot_price": refresh.spot, "computed_at": iso(refresh.computed_at)}
        found = refresh.contents[key] = content_of(entry)
        return found, True

    def digest(self, symbol: str, refresh: Refresh) -> str:
        """SHA-256 of the entry without optional sections and without filter."""
        if not refresh.sha256:
            refresh.sha256 = self.content(symbol, refresh, *PLAIN)[0].sha256
            if refresh is not self._series[symbol].current:
                refresh.contents = {}
        return refresh.sha256

    def refreshes(self, since: int) -> list[tuple[str, Refresh]]:
        """Symbol and refresh of all kept with a sequence above `since`, oldest first."""
        found = []
        for symbol, series in self._series.items():
            for refresh in reversed(series.kept):
                if refresh.sequence <= since:
                    break
                found.append((symbol, refresh))
        return sorted(found, key=lambda one: one[1].sequence)

    def _forward(self, series: Series, now: int) -> None:
        if self.settings.every_request and series.current is not None:
            return
        while series.upcoming.visible_at <= now:
            due = series.take()
            if not due.skipped and not any(freeze.covers(series.symbol, due.computed_at) for freeze in self.freezes):
                self._publish(series, due)

    def _publish(self, series: Series, refresh: Refresh) -> None:
        if series.current is not None:
            plain = series.current.contents.get(PLAIN)
            series.current.sha256 = plain.sha256 if plain else ""
            series.current.contents = {}
        refresh.sequence = next(self._sequence)
        series.current = refresh
        series.kept.append(refresh)
        self.refreshes_total += 1


class Series:
    """The refreshes of one symbol: the one shown, the one to come, and the walk they come from."""

    def __init__(self, symbol: str, settings: Settings, epoch_at: int) -> None:
        self.symbol = symbol
        self.settings = settings
        self.shape = Shape(symbol)
        self.current: Refresh | None = None
        self.kept: deque[Refresh] = deque(maxlen=KEPT_REFRESHES)
        self._fraction = uniforms("phase", settings.seed, symbol)[0]
        self._number = 0
        self._log_spot = 0.0
        self._last_computed_at = self._last_visible_at = 0
        first = uniforms("regime", settings.seed, symbol)
        self._basis = Basis(0, self.shape.base, round(self.shape.base * 0.995, self.shape.digits), first)
        self._nominal_at = self._phase_from(epoch_at - micros(settings.period_seconds))
        self.upcoming = self._draw()

    def take(self) -> Refresh:
        """Hand out the upcoming refresh and draw the one after it."""
        due = self.upcoming
        self._last_computed_at, self._last_visible_at = due.computed_at, due.visible_at
        self._nominal_at += micros(self.settings.period_seconds)
        self.upcoming = self._draw()
        return due

    def step(self, now: int) -> Refresh:
        """A refresh computed and visible now, whatever the time-table says."""
        self.upcoming.computed_at = self.upcoming.visible_at = max(now, self._last_computed_at + MIN_GAP)
        return self.take()

    def forget_but_current(self) -> None:
        """Drop what was computed before anyone could look."""
        while len(self.kept) > 1:
            self.kept.popleft()

    def retime(self, now: int) -> None:
        """Begin the time-table anew: the upcoming refresh is the first."""
        self._nominal_at = self._phase_from(now)
        self.upcoming.computed_at = max(self._nominal_at, self._last_computed_at + MIN_GAP)
        self.upcoming.visible_at = self.upcoming.computed_at + micros(self.settings.visible_lag_seconds)

    def _phase_from(self, at: int) -> int:
        own = self.settings.phase == "own"
        return at + (micros(self._fraction * self.settings.period_seconds) if own else 0)

    def _draw(self) -> Refresh:
        settings, shape = self.settings, self.shape
        u = uniforms("refresh", settings.seed, self.symbol, self._number)
        edge = 0.45 * settings.period_seconds
        jitter = micros(min(edge, max(-edge, gauss(u[0], u[1]) * settings.jitter_seconds)))
        late = micros(settings.late_seconds) if u[2] < settings.late_probability else 0
        if settings.drift:
            self._nominal_at += jitter
            jitter = 0
        computed_at = max(self._nominal_at + jitter + late, self._last_computed_at + MIN_GAP)
        visible_at = max(computed_at + micros(settings.visible_lag_seconds), self._last_visible_at)
        self._log_spot = self._log_spot * REVERSION + STEP_SIGMA * gauss(u[3], u[4])
        spot = round(shape.base * math.exp(self._log_spot), shape.digits)
        if u[5] < settings.change_probability or self._number == 0:
            self._basis = shape.next_basis(self._basis, spot, u[6], u[7])
        skipped = self._number > 0 and 1 - u[2] < settings.skip_probability
        self._number += 1
        return Refresh(computed_at, visible_at, spot, self._basis, skipped)
