"""`gex-connector simulate`: the simulator as a program of its own."""

from __future__ import annotations

import asyncio
import signal
import sys
from typing import TYPE_CHECKING, Final

from connector.devkit.simulator.faults import read_script
from connector.devkit.simulator.settings import DEFAULT_KEY, DEFAULT_SYMBOLS, Settings
from connector.devkit.simulator.upstream import Simulator

if TYPE_CHECKING:
    import argparse
    from pathlib import Path

EXIT_USAGE = 2
OPTIONS: Final = {
    "period_seconds": ("--period", float, "seconds between the refreshes of a symbol"),
    "jitter_seconds": ("--jitter", float, "of a refresh, in seconds"),
    "phase": ("--phase", str, "of the symbols: own or together"),
    "skip_probability": ("--skip", float, "probability that a refresh is skipped"),
    "limit_per_minute": ("--limit", int, "requests a minute; 0: no limit"),
    "seed": ("--seed", int, "of everything random"),
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of the command; `settings_from` reads all but `--listen` and `--script`."""
    parser.add_argument(
        "--listen",
        default="127.0.0.1:8080",
        metavar="HOST:PORT",
        help="default %(default)s",
    )
    parser.add_argument(
        "--script",
        metavar="FILE",
        help="TOML: faults by the clock, as [[faults]] tables",
    )
    parser.add_argument(
        "--symbols",
        default=",".join(DEFAULT_SYMBOLS),
        metavar="A,B,C",
        help="supported symbols",
    )
    parser.add_argument(
        "--key",
        default=DEFAULT_KEY,
        help="the API key that is accepted (default: a made-up one)",
    )
    for setting, (option, kind, about) in OPTIONS.items():
        default = getattr(Settings(), setting)
        parser.add_argument(
            option,
            dest=setting,
            type=kind,
            default=default,
            help=f"{about} (default {default})",
        )


def settings_from(namespace: argparse.Namespace) -> Settings:
    """Settings from the parsed options; ValueError says what is wrong with them."""
    symbols = [
        one
        for one in (part.strip().upper() for part in namespace.symbols.split(","))
        if one
    ]
    chosen = {setting: getattr(namespace, setting) for setting in OPTIONS}
    return Settings().changed({"symbols": symbols, "keys": [namespace.key], **chosen})


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
    sys.stdout.write(
        f"upstream simulator on {simulator.url} (key {simulator.settings.keys[0]})\n"
    )
    sys.stdout.flush()
    await stopped.wait()
    await simulator.stop()
