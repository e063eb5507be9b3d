"""The events of a day of the simulated market, by the connector's own core in virtual time.

Each refresh is encoded as the API does, decoded, and compared with the state before it, as
in a worker whose answers come soon after each refresh. A day of four symbols takes seconds.

    python -m tests.support.simulated_day | gzip > day.jsonl.gz

prints such a day as `gex-connector history --json` does.
"""

from __future__ import annotations

import sys
from heapq import merge
from operator import attrgetter
from typing import TYPE_CHECKING, Final

from connector.core.diff import DEFAULT_IGNORE, Rules
from connector.core.entry import decode_entry
from connector.core.model import Observation, Source, Status
from connector.core.transition import FeedRules, observe
from connector.devkit.simulator.levels import (
    Refresh,
    View,
    canonical_content,
    chance_of,
    entry_of,
)
from connector.devkit.simulator.market import first_refresh, next_refresh
from connector.devkit.simulator.settings import DEFAULT_SYMBOLS, INCLUDES, Settings
from connector.tools.text import json_line

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from connector.core.model import Entry, Event, State

SECOND: Final = 1_000_000
DAY_SECONDS: Final = 86_400
# 2024-11-25T00:00:00Z. Brokers refuse records of the future, so it is long past.
DAY_BEGINS_AT: Final = 1_732_492_800 * SECOND

# Answers come at such moments, so that one can have several symbols.
_ANSWERS_EVERY: Final = SECOND // 2
# A symbol is missing for five minutes in each hour, one symbol after the other.
_HOUR: Final = 3_600 * SECOND
_MISSING_FROM: Final = 1_800 * SECOND
_MISSING_FOR: Final = 300 * SECOND


def simulated_day(
    symbols: Sequence[str] = DEFAULT_SYMBOLS,
    *,
    begins_at: int = DAY_BEGINS_AT,
    seconds: float = DAY_SECONDS,
    include: Sequence[str] = INCLUDES,
    seed: int = 1,
) -> Iterator[Event]:
    """Yield the events of a period in the order in which they are observed."""
    settings = Settings(symbols=tuple(symbols), seed=seed)
    view = View(include=frozenset(include), model="flow")
    feed = FeedRules("all", "request", Rules.of(DEFAULT_IGNORE))
    states: dict[str, State] = {}
    refreshes = [_refreshes(symbol, settings, begins_at) for symbol in symbols]
    for refresh in merge(*refreshes, key=attrgetter("visible_at")):
        if refresh.visible_at >= begins_at + seconds * SECOND:
            return
        symbol = refresh.symbol
        at = refresh.visible_at + _ANSWERS_EVERY
        at -= at % _ANSWERS_EVERY
        entry: Entry | None = None
        status = Status.MISSING
        if not _is_missing(symbol, symbols, at):
            raw = canonical_content(entry_of(refresh, view, settings)).raw
            entry = decode_entry(raw, at)
            status = Status.LIVE
        source = Source("0.1.0", "group", "worker", request_id=f"{at:x}")
        observation = Observation(symbol, status, entry, at, at, source)
        transition = observe(states.get(symbol), observation, feed)
        if transition.state is not None:
            states[symbol] = transition.state
        if transition.event is not None:
            yield transition.event


def _refreshes(symbol: str, settings: Settings, begins_at: int) -> Iterator[Refresh]:
    chance = chance_of("refreshes", settings.seed, symbol)
    refresh = first_refresh(symbol, settings, begins_at)
    while True:
        refresh = next_refresh(refresh, settings, chance)
        yield refresh


def _is_missing(symbol: str, symbols: Sequence[str], at: int) -> bool:
    hour, moment = divmod(at, _HOUR)
    is_in_turn = symbols[hour % len(symbols)] == symbol
    return is_in_turn and _MISSING_FROM <= moment < _MISSING_FROM + _MISSING_FOR


if __name__ == "__main__":
    for event in simulated_day():
        sys.stdout.write(f"{json_line(event)}\n")
