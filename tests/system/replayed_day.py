"""Export a whole day, and compare a strategy's signals at a speed and at full speed.

    python -m tests.system.replayed_day              (at speed 60: 25 minutes)
    python -m tests.system.replayed_day --hours 2    (two minutes)

It prints the figures, and ends with status 1 if any signal differs.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Final

import duckdb
import pandas as pd  # type: ignore[import-untyped]  # its stubs are a package of their own

from connector.core.model import MICROS
from connector.devkit.local_kafka import LocalKafka
from tests.support.replayed_strategy import (
    signals_of_day,
    signals_of_replay,
    write_day,
)
from tests.support.simulated_day import DAY_BEGINS_AT, simulated_day
from tests.support.tools import run_tool

if TYPE_CHECKING:
    from connector.core.model import Event
    from tests.support.replayed_strategy import Signals

HOUR_SECONDS: Final = 3600
# The topics of the replay at full speed, which are exported.
PREFIX: Final = "day.max"


def main() -> int:
    """Replay and compare. Return the exit status."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--hours", type=float, default=24)
    parser.add_argument("--speed", default="60")
    options = parser.parse_args()

    day = list(simulated_day(seconds=options.hours * HOUR_SECONDS))
    calculated = signals_of_day(day)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        file = folder / "day.jsonl.gz"
        write_day(day, file)
        _say(f"{len(day):,} events: {_megabytes(file)} as JSON lines with gzip")
        with LocalKafka(folder / "kafka") as kafka:
            servers = kafka.bootstrap_servers
            full = _replayed(servers, PREFIX, file, "max", calculated)
            _export(servers, folder / "day.parquet", day)
            paced = _replayed(servers, "day.paced", file, options.speed, calculated)
    return _verdict(calculated, full, paced)


def _replayed(
    servers: str, prefix: str, file: Path, speed: str, calculated: Signals
) -> Signals:
    began_at = time.monotonic()
    signals = signals_of_replay(servers, prefix, file, speed, calculated)
    seconds = time.monotonic() - began_at
    _say(f"speed {speed}: {_count(signals)} signals in {seconds:,.0f} s")
    return signals


def _export(servers: str, file: Path, day: list[Event]) -> None:
    """Write the events of the topics to Parquet, and read it with pandas and DuckDB."""
    until = datetime.fromtimestamp(day[-1].observed_at / MICROS, UTC)
    since = datetime.fromtimestamp(DAY_BEGINS_AT / MICROS, UTC)
    period = ("--since", since.isoformat(), "--until", until.isoformat())
    variables = {
        "GEX_KAFKA__BOOTSTRAP_SERVERS": servers,
        "GEX_KAFKA__TOPIC_PREFIX": PREFIX,
    }
    began_at = time.monotonic()
    code, printed = run_tool(
        "history", *period, "--parquet", str(file), variables=variables
    )
    assert code == 0, printed
    seconds = time.monotonic() - began_at
    _say(f"history --parquet: {_megabytes(file)} in {seconds:.1f} s")

    frame = pd.read_parquet(file)
    _say(f"pandas: {frame.shape[0]:,} rows, {frame.shape[1]} columns")
    above_flip = duckdb.execute(
        "SELECT symbol, count(*), round(avg(spot_price - all_expiry_hvl), 2) "
        "FROM read_parquet(?) WHERE status = 'LIVE' GROUP BY symbol ORDER BY symbol",
        [str(file)],
    )
    for symbol, events, distance in above_flip.fetchall():
        _say(f"DuckDB: {symbol}, {events:,} LIVE events, {distance} above the flip")
    assert len(frame) == len(day)


def _verdict(calculated: Signals, full: Signals, paced: Signals) -> int:
    if calculated == full == paced:
        _say(f"equal: {_count(paced)} signals at each speed")
        return 0
    for symbol in calculated:
        if not calculated[symbol] == full.get(symbol) == paced.get(symbol):
            _say(f"{symbol}: the signals differ")
    return 1


def _count(signals: Signals) -> int:
    return sum(len(lines) for lines in signals.values())


def _megabytes(file: Path) -> str:
    return f"{file.stat().st_size / 1_000_000:.1f} MB"


def _say(text: str) -> None:
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main())
