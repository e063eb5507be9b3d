"""What is shown of every symbol: plain attributes on the hot path, series only when they are asked for. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from operator import attrgetter
from typing import TYPE_CHECKING, Final

from connector.core.diff import NUMBERS
from connector.core.model import MICROS, Levels, Status
from connector.runtime.catalogue import LEVEL_SYMBOLS

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

    Series = Iterable[tuple[tuple[str, ...], float]]

_COUNTS: Final = ("requested", "served", "missing", "invalid")
_MOMENTS: Final = ("computed", "observed")
_NUMBERS_OF: Final = attrgetter(*NUMBERS)


@dataclass(slots=True)
class SymbolStats:
    """One symbol's figures, written by the one loop that owns its shard; moments in microseconds since the epoch.

    Set `owned` to False when the shard is lost: the new owner shows status, freshness and levels from then on,
    while this worker's counts stay.
    """

    requested: int = 0
    served: int = 0
    missing: int = 0
    invalid: int = 0
    computed_at: int | None = None
    observed_at: int | None = None
    status: Status | None = None
    levels: Levels | None = None
    owned: bool = False


class Symbols:
    """Every symbol this worker has had to do with, in the order in which it was first asked for."""

    def __init__(self) -> None:
        self._symbols: dict[tuple[str, str], SymbolStats] = {}

    def get(self, feed: str, symbol: str) -> SymbolStats:
        """The symbol's figures, made at the first call."""
        found = self._symbols.get((feed, symbol))
        return self._symbols.setdefault((feed, symbol), SymbolStats()) if found is None else found

    def series(self) -> Iterator[tuple[str, Series]]:
        """Metric by metric: its name, then the label values and value of every series."""
        symbols = self._symbols.copy()
        for count in _COUNTS:
            yield f"gex_symbols_{count}_total", [(key, getattr(stats, count)) for key, stats in symbols.items()]
        owned = {key: stats for key, stats in symbols.items() if stats.owned}
        for moment in _MOMENTS:
            yield f"gex_symbol_{moment}_timestamp_seconds", _moments(owned, f"{moment}_at")
        yield "gex_symbol_status", _statuses(owned)
        yield "gex_level", _levels(owned)


def _moments(owned: Mapping[tuple[str, str], SymbolStats], attribute: str) -> Series:
    for key, stats in owned.items():
        at: int | None = getattr(stats, attribute)
        if at is not None:
            yield key, at / MICROS


def _statuses(owned: Mapping[tuple[str, str], SymbolStats]) -> Series:
    for (feed, symbol), stats in owned.items():
        for status in Status:
            yield (feed, symbol, status.value), float(stats.status is status)


def _levels(owned: Mapping[tuple[str, str], SymbolStats]) -> Series:
    for (feed, symbol), stats in list(owned.items())[:LEVEL_SYMBOLS]:
        levels, status = stats.levels, stats.status
        if levels is None or status is None or not status.has_levels:
            continue
        for path, value in zip(NUMBERS, _NUMBERS_OF(levels), strict=True):
            if value is not None:
                yield (feed, symbol, path), value
