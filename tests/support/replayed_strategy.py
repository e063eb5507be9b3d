"""The example strategy on a past day: its signals by calculation, and beside a replay."""

from __future__ import annotations

import gzip
import io
import sys
from collections import Counter, defaultdict
from contextlib import redirect_stdout
from pathlib import Path
from typing import TYPE_CHECKING, Final

from connector.config.model import Kafka
from connector.kafka.clients import Clients
from connector.tools.replay.target import Sizes, prepare_target, topics_of_replay
from connector.tools.text import json_line
from examples.strategy import Regime, Strategy, update
from tests.support.processes import start, wait_for_log, wait_until

if TYPE_CHECKING:
    from collections.abc import Iterable

    from connector.core.model import Event

# The signals of each symbol, as the strategy prints them.
Signals = dict[str, list[str]]

FEED: Final = "all"
_PROGRAM: Final = Path(__file__).parents[2] / "examples" / "strategy.py"
_MARGIN: Final = 0.001
_REGIMES: Final = tuple(f" {regime} " for regime in Regime)


def write_day(events: Iterable[Event], path: Path) -> None:
    """Write events as `history --json | gzip` does."""
    with gzip.open(path, "wt", encoding="utf-8") as file:
        for event in events:
            file.write(f"{json_line(event)}\n")


def signals_of_day(events: Iterable[Event]) -> Signals:
    """Return the signals of the example strategy, without Kafka and without a clock."""
    strategies: dict[str, Strategy] = {}
    printed = io.StringIO()
    with redirect_stdout(printed):
        for event in events:
            strategy = strategies.setdefault(
                event.symbol, Strategy(event.symbol, _MARGIN)
            )
            update(strategy, event.status, event.after)
    return _by_symbol(printed.getvalue())


def signals_of_replay(
    servers: str, prefix: str, file: Path, speed: str, wanted: Signals
) -> Signals:
    """Return the signals of the strategy while a file is replayed, both as processes.

    They are read once there are as many for each symbol as in `wanted`.
    """
    # The strategy needs topics, and must be there before the first event.
    kafka = Kafka(bootstrap_servers=servers)
    topics = topics_of_replay(prefix, kafka.topic_prefix)
    sizes = {FEED: Sizes(kafka.partitions, kafka.shards)}
    prepare_target(Clients(kafka), topics, kafka, sizes)

    command = [sys.executable, str(_PROGRAM), "--bootstrap", servers]
    command += ["--prefix", prefix, "--feed", FEED, "--replay"]
    replay = [sys.executable, "-m", "connector", "replay", str(file)]
    replay += ["--to", prefix, "--speed", speed]
    variables = {"GEX_KAFKA__BOOTSTRAP_SERVERS": servers}
    counts = Counter({symbol: len(signals) for symbol, signals in wanted.items()})
    with start(command) as strategy:
        wait_for_log(strategy, "following ")
        with start(replay, variables) as replaying:
            assert replaying.wait() == 0, replaying.log()

        def has_all() -> bool:
            found = _by_symbol(strategy.log())
            return counts <= Counter(
                {name: len(lines) for name, lines in found.items()}
            )

        wait_until(has_all, "the signals of the day", strategy)
        return _by_symbol(strategy.log())


def _by_symbol(printed: str) -> Signals:
    """Return the signals in what was printed. Symbols are in no order among each other."""
    signals = defaultdict(list)
    # What follows the last line break may be half a line.
    for line in printed.splitlines(keepends=True):
        if line.endswith("\n") and any(regime in line for regime in _REGIMES):
            signals[line.split()[0]].append(line.rstrip("\n"))
    return dict(signals)
