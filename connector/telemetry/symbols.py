"""The metrics of single symbols, built when somebody asks for them."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass, field
from operator import attrgetter
from typing import TYPE_CHECKING, Final

from connector.core.diff import NUMBER_PATHS
from connector.core.model import MICROS, Levels, Status
from connector.telemetry.metrics import new_family

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from prometheus_client import Metric as Family

    from connector.kafka.names import ShardId
    from connector.runtime.ports import Rhythm

_numbers_of: Final = attrgetter(*NUMBER_PATHS)

# Feed and symbol: the first two labels of each of these metrics.
Key = tuple[str, str]

# Spellings of a symbol with a series of their own. They come from outside.
_MAX_SPELLINGS: Final = 3


@dataclass(slots=True)
class SymbolFigures:
    """The figures of one symbol. Moments are microseconds since the epoch."""

    requested: int = 0
    served: int = 0
    missing: int = 0
    invalid: int = 0
    computed_at: int | None = None
    observed_at: int | None = None
    next_check_at: int | None = None
    rhythm: Rhythm | None = None
    status: Status | None = None
    levels: Levels | None = None
    spellings: dict[str, int] = field(default_factory=dict)

    def count_spelling(self, spelling: str) -> None:
        """Count an answer that spelt the symbol in another way."""
        if spelling not in self.spellings and len(self.spellings) >= _MAX_SPELLINGS:
            spelling = "other"
        self.spellings[spelling] = self.spellings.get(spelling, 0) + 1

    def valid_levels(self) -> Levels | None:
        """Return the levels that consumers may rely on, or None if there are none."""
        # The state of an absent symbol keeps its last levels, but they are not valid now.
        if self.status is None or not self.status.has_levels:
            return None
        return self.levels

    def reliable_levels(self) -> Iterator[tuple[str, float]]:
        """Yield path and value of each number that consumers may rely on."""
        levels = self.valid_levels()
        if levels is None:
            return

        numbers = _numbers_of(levels)
        for path, value in zip(NUMBER_PATHS, numbers, strict=True):
            if value is not None:
                yield path, value


class SymbolSeries:
    """Collects the series of all symbols.

    The event loop writes plain attributes, which cost next to nothing on the path of an
    answer. The series are made from them at scrape time, in the thread of the scrape.
    """

    def __init__(self, max_level_symbols: int) -> None:
        """Show levels of at most `max_level_symbols` symbols: each has dozens of series."""
        self._max_level_symbols = max_level_symbols
        self._figures: defaultdict[Key, SymbolFigures] = defaultdict(SymbolFigures)
        self._polled: dict[ShardId, frozenset[str]] = {}

    def of(self, feed: str, symbol: str) -> SymbolFigures:
        """Return the figures of a symbol, to be written to."""
        return self._figures[feed, symbol]

    def set_polled(self, shard: ShardId, symbols: frozenset[str]) -> None:
        """Set the symbols of a shard that this worker polls.

        Another worker shows the status, freshness and levels of a symbol once it has taken
        over. This worker's own counts stay, since they are summed over the workers.
        """
        self._polled[shard] = symbols
        # Create the figures, so that the counters of new symbols start at zero.
        for symbol in symbols:
            self.of(shard.feed, symbol)

    def collect(self) -> Iterator[Family]:
        """Yield each metric with all its series. The registry calls this."""
        # The copies are atomic, so that the event loop may go on writing meanwhile.
        everything = list(self._figures.copy().items())
        polled: set[Key] = set()
        for shard, symbols in self._polled.copy().items():
            polled.update((shard.feed, symbol) for symbol in symbols)
        # Gauges of symbols that others poll would contradict theirs.
        shown = [(key, figures) for key, figures in everything if key in polled]

        # Counts of all symbols; gauges only of those that this worker polls.
        for count in ("requested", "served", "missing", "invalid"):
            name = f"gex_symbols_{count}_total"
            yield _family(name, everything, attrgetter(count))
        for moment in ("computed", "observed", "next_check"):
            name = f"gex_symbol_{moment}_timestamp_seconds"
            yield _family(name, shown, _seconds_of(f"{moment}_at"))
        yield _family("gex_symbol_period_seconds", shown, _period_seconds)
        yield _family("gex_symbol_jitter_seconds", shown, _jitter_seconds)
        yield _statuses(shown)
        yield _spellings(everything)
        model_of = attrgetter("positioning")
        yield _texts_of_levels("gex_symbol_positioning", shown, model_of)
        reason_of = attrgetter("positioning_fallback_reason")
        yield _texts_of_levels("gex_symbol_positioning_fallback", shown, reason_of)
        yield _levels(shown[: self._max_level_symbols])


def _family(
    name: str,
    symbols: Iterable[tuple[Key, SymbolFigures]],
    value_of: Callable[[SymbolFigures], float | None],
) -> Family:
    family = new_family(name)
    for key, figures in symbols:
        value = value_of(figures)
        if value is not None:
            family.add_metric(key, value)
    return family


def _seconds_of(attribute: str) -> Callable[[SymbolFigures], float | None]:
    micros_of = attrgetter(attribute)

    def seconds(figures: SymbolFigures) -> float | None:
        micros = micros_of(figures)
        return None if micros is None else micros / MICROS

    return seconds


def _period_seconds(figures: SymbolFigures) -> float | None:
    return None if figures.rhythm is None else figures.rhythm.period


def _jitter_seconds(figures: SymbolFigures) -> float | None:
    return None if figures.rhythm is None else figures.rhythm.jitter


def _statuses(symbols: Iterable[tuple[Key, SymbolFigures]]) -> Family:
    family = new_family("gex_symbol_status")
    for key, figures in symbols:
        # One series per status, 1 for the present one: the convention for state sets.
        for status in Status:
            is_present = figures.status is status
            family.add_metric((*key, status), float(is_present))
    return family


def _spellings(symbols: Iterable[tuple[Key, SymbolFigures]]) -> Family:
    family = new_family("gex_symbol_other_spelling_total")
    for key, figures in symbols:
        # A copy, since the event loop may add one meanwhile.
        for spelling, count in figures.spellings.copy().items():
            family.add_metric((*key, spelling), count)
    return family


def _texts_of_levels(
    name: str,
    symbols: Iterable[tuple[Key, SymbolFigures]],
    text_of: Callable[[Levels], str | None],
) -> Family:
    """Return a metric whose label is a text of the present levels.

    Only the present text has a series: nobody knows all texts of the vendor.
    """
    family = new_family(name)
    for key, figures in symbols:
        levels = figures.valid_levels()
        text = None if levels is None else text_of(levels)
        if text is not None:
            family.add_metric((*key, text), 1.0)
    return family


def _levels(symbols: Iterable[tuple[Key, SymbolFigures]]) -> Family:
    family = new_family("gex_level")
    for key, figures in symbols:
        for path, value in figures.reliable_levels():
            family.add_metric((*key, path), value)
    return family
