"""`gex-connector simulate`: the simulator as a program of its own."""

from __future__ import annotations

import asyncio
import signal
import sys
from typing import TYPE_CHECKING

from connector.simulator.faults import read_script
from connector.simulator.settings import DEFAULT_KEY, DEFAULT_SYMBOLS, Settings
from connector.simulator.upstream import Simulator

if TYPE_CHECKING:
    import argparse
    from pathlib import Path

EXIT_USAGE = 2


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of the command; `settings_from` reads all but `--listen` and `--script`."""
    parser.add_argument("--listen", default="127.0.0.1:8080", metavar="HOST:PORT", help="default %(default)s")
    parser.add_argument("--symbols", default=",".join(DEFAULT_SYMBOLS), metavar="A,B,C", help="supported symbols")
    parser.add_argument("--key", default=DEFAULT_KEY, help="the API key that is accepted (default: a made-up one)")
    parser.add_argument("--period", type=float, default=30.0, metavar="SECONDS", help="between refreshes (default 30)")
    parser.add_argument("--jitter", type=float, default=0.3, metavar="SECONDS", help="of a refresh (default 0.3)")
    parser.add_argument("--phase", choices=["own", "together"], default="own", help="of the symbols (default own)")
    parser.add_argument("--skip", type=float, default=0.0, metavar="P", help="probability that a refresh is skipped")
    parser.add_argument(
        "--limit", type=int, default=60, metavar="N", help="requests a minute (default 60; 0: no limit)"
    )
    parser.add_argument("--seed", type=int, default=1, help="of everything random (default 1)")
    parser.add_argument("--epoch", type=float, metavar="UNIX_SECONDS", help="where the random walk begins")
    parser.add_argument("--script", metavar="FILE", help="TOML: faults by the clock, as [[faults]] tables")


def settings_from(namespace: argparse.Namespace) -> Settings:
    """Settings from the parsed options; ValueError says what is wrong with them."""
    return Settings().changed(
        {
            "symbols": [one for one in (part.strip().upper() for part in namespace.symbols.split(",")) if one],
            "keys": [namespace.key],
            "period_seconds": namespace.period,
            "jitter_seconds": namespace.jitter,
            "phase": namespace.phase,
            "skip_probability": namespace.skip,
            "limit_per_minute": namespace.limit,
            "seed": namespace.seed,
            "epoch_seconds": namespace.epoch,
        }
    )


def run_simulator(settings: Settings, host: str, port: int, script: Path | None) -> int:
    """Serve until SIGINT or SIGTERM and return 0; 2 where the script or the port cannot be used."""
    simulator = Simulator(settings)
    try:
        if script is not None:
            simulator.add_script(read_script(script))
        asyncio.run(_serve(simulator, host, port))
    except (OSError, ValueError) as error:
        sys.stderr.write(f"upstream simulator: {error}\n")
        return EXIT_USAGE
    return 0


async def _serve(simulator: Simulator, host: str, port: int) -> None:
    stopped = asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, stopped.set)
    await simulator.start(host, port)
    sys.stdout.write(f"upstream simulator on {simulator.url} (key {simulator.settings.keys[0]})\n")
    sys.stdout.flush()
    await stopped.wait()
    await simulator.stop()
