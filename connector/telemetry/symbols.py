"""What is shown of every symbol: plain attributes on the hot path, series only when they are asked for. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from operator import attrgetter
from typing import TYPE_CHECKING, Final

from connector.core.diff import NUMBERS
from connector.core.model import MICROS, Levels, Status

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

    from connector.schedule.forecast import Forecast

_NUMBERS_OF: Final = attrgetter(*NUMBERS)
_STATUSES: Final = tuple(Status)


@dataclass(slots=True)
class SymbolStats:
    """One symbol's figures, written on the event loop; moments in microseconds since the epoch.

    Set `owned` to False when the shard is lost: the new owner shows status, freshness and levels from then on,
    while this worker's counts stay.
    """

    requested: int = 0
    served: int = 0
    missing: int = 0
    invalid: int = 0
    computed_at: int | None = None
    observed_at: int | None = None
    next_check_at: int | None = None
    forecast: Forecast | None = None
    status: Status | None = None
    levels: Levels | None = None
    owned: bool = False

    def shown_levels(self) -> Iterator[tuple[str, float]]:
        """Path and value of each number that consumers may rely on."""
        if (
            self.levels is not None
            and self.status is not None
            and self.status.has_levels
        ):
            for path, value in zip(NUMBERS, _NUMBERS_OF(self.levels), strict=True):
                if value is not None:
                    yield path, value


def series(
    symbols: Mapping[tuple[str, str], SymbolStats], level_symbols: int
) -> Iterator[tuple[str, Iterable[tuple[tuple[str, ...], float]]]]:
    """Metric by metric: its name, then the label values and value of every series. Levels only of so many symbols."""
    owned = [(key, stats) for key, stats in symbols.items() if stats.owned]
    for count in ("requested", "served", "missing", "invalid"):
        yield (
            f"gex_symbols_{count}_total",
            [(key, getattr(stats, count)) for key, stats in symbols.items()],
        )
    for moment in ("computed", "observed", "next_check"):
        moments = [(key, getattr(stats, f"{moment}_at")) for key, stats in owned]
        yield (
            f"gex_symbol_{moment}_timestamp_seconds",
            [(key, at / MICROS) for key, at in moments if at is not None],
        )
    for learnt in ("period", "jitter"):
        values = [(key, getattr(stats.forecast, learnt, None)) for key, stats in owned]
        yield (
            f"gex_symbol_{learnt}_seconds",
            [(key, value) for key, value in values if value is not None],
        )
    yield (
        "gex_symbol_status",
        [
            ((*key, s), float(stats.status is s))
            for key, stats in owned
            for s in _STATUSES
        ],
    )
    levels = [
        (key, path, value)
        for key, stats in owned[:level_symbols]
        for path, value in stats.shown_levels()
    ]
    yield "gex_level", [((*key, path), value) for key, path, value in levels]
