"""`gex-connector simulate`: run the simulated upstream API."""

from __future__ import annotations

import asyncio
import errno
import math
import re
import signal
import sys
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Final

import msgspec

from connector.devkit.simulator.fault_list import fault_table
from connector.devkit.simulator.faults import read_script
from connector.devkit.simulator.past import read_past
from connector.devkit.simulator.replay_market import Replay
from connector.devkit.simulator.server import Simulator
from connector.devkit.simulator.settings import DEFAULT_KEY, DEFAULT_SYMBOLS, Settings
from connector.errors import UsageError

if TYPE_CHECKING:
    import argparse

EXIT_USAGE: Final = 2
_MAX_PORT: Final = 65_535
_SYMBOLS: Final = ",".join(DEFAULT_SYMBOLS)
# An IPv6 address needs brackets: its last part looks like a port.
_ADDRESS: Final = (
    r"(?:(?P<host>[\w.-]+)|\[(?P<address>[0-9A-Fa-f:.]+)\]):(?P<port>\d{1,5})"
)

# Setting, then option, type and help text.
OPTIONS: Final = {
    "period_seconds": ("--period", float, "seconds between refreshes of a symbol"),
    "jitter_seconds": ("--jitter", float, "jitter of a refresh, in seconds"),
    "phase": ("--phase", str, "when symbols refresh: own (moments) or together"),
    "skip_probability": ("--skip", float, "probability that a refresh is skipped"),
    "contract": ("--contract", str, "contract of the answers: 2.10 or 2.0"),
    "plan": ("--plan", str, "plan: demo, starter, standard, pro or enterprise"),
    "limit_per_minute": (
        "--limit",
        int,
        "requests a minute; 0: no limit",
    ),
    "month_seconds": ("--month", float, "seconds of a month; 0: calendar months"),
    "seed": ("--seed", int, "seed of everything random"),
}


_HOW_TO_ARM: Final = """\
Each one also takes for_seconds, count, probability, symbols and endpoint. Arm, look, disarm:
  curl -d '{{"fault": "503", "for_seconds": 90}}' http://{0}/_control/faults
  curl http://{0}/_control/stats
  curl -X DELETE http://{0}/_control/faults
docs/reference/simulator.md has the other orders.
docs/how-to/fire-drill.md says what a worker makes of faults.
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options of the command."""
    parser.add_argument(
        "--listen",
        default="127.0.0.1:8080",
        metavar="HOST:PORT",
        help="address to listen on, such as [::1]:8080 (default: %(default)s)",
    )
    parser.add_argument(
        "--list-faults",
        action="store_true",
        help="print all faults with their parameters, and the request that arms one",
    )
    parser.add_argument(
        "--quiet", action="store_true", help="do not log requests to standard output"
    )
    parser.add_argument(
        "--script",
        type=Path,
        metavar="FILE",
        help="TOML file with [[faults]] tables; at_seconds of each is when it starts",
    )
    parser.add_argument(
        "--replay",
        type=Path,
        metavar="FILE",
        help="show a past day: the events that `history --json` has printed, also "
        "compressed by gzip",
    )
    parser.add_argument(
        "--speed",
        type=float,
        default=1.0,
        metavar="N",
        help="how many times as fast to show the past day (default: %(default)s)",
    )
    parser.add_argument(
        "--symbols",
        metavar="A,B,C",
        help=f"supported symbols (default: those of --replay, or {_SYMBOLS})",
    )
    parser.add_argument(
        "--key",
        default=DEFAULT_KEY,
        help="the API key to accept (default: a made-up key)",
    )
    parser.add_argument(
        "--set",
        action="append",
        default=[],
        dest="changes",
        metavar="NAME=VALUE",
        help="any other setting (docs/reference/simulator.md), as JSON or text; repeatable",
    )
    for setting, (option, kind, about) in OPTIONS.items():
        parser.add_argument(
            option,
            dest=setting,
            type=kind,
            default=getattr(Settings(), setting),
            help=f"{about} (default: {_default_of(setting)})",
        )


def _default_of(setting: str) -> object:
    default = getattr(Settings(), setting)
    # The plan decides, unless a limit is set.
    return "the plan's" if default is None else default


def run(options: argparse.Namespace) -> int:
    """Serve until SIGINT or SIGTERM. Raises UsageError for options that do not fit."""
    if options.list_faults:
        sys.stdout.write(f"{fault_table()}\n\n{_HOW_TO_ARM.format(options.listen)}")
        return 0
    try:
        replay = _replay_of(options)
        settings = settings_from(options, replay)
    except ValueError as error:
        raise UsageError(f"simulate: {error}") from None

    host, port = _address_of(options.listen)
    log = None if options.quiet else _log
    simulator = Simulator(settings, log=log, replay=replay)
    return run_simulator(simulator, host, port, options.script)


def _address_of(listen: str) -> tuple[str, int]:
    """Return host and port. An IPv6 address loses its brackets. Raises UsageError."""
    match = re.fullmatch(_ADDRESS, listen, re.ASCII)
    if match is None or int(match["port"]) > _MAX_PORT:
        raise UsageError(
            f"simulate: --listen {listen[:40]!r}, expected HOST:PORT or [ADDRESS]:PORT "
            f"(IPv6), port 0 to {_MAX_PORT}"
        )
    return match["host"] or match["address"], int(match["port"])


def _replay_of(options: argparse.Namespace) -> Replay | None:
    """Return the past day to show, if one is wanted. Raises ValueError."""
    if options.replay is None:
        if options.speed != 1:
            raise ValueError("--speed is for --replay FILE, which is missing")
        return None
    if not 0 < options.speed < math.inf:
        raise ValueError(f"--speed {options.speed}, expected a number above 0")
    return Replay(read_past(options.replay), options.speed)


def settings_from(
    options: argparse.Namespace, replay: Replay | None = None
) -> Settings:
    """Return the settings that the options describe. Raises ValueError."""
    names = _SYMBOLS
    changes: dict[str, object] = {}
    if replay is not None:
        names = ",".join(replay.past.steps)
        # Each entry names the model that it had.
        changes["positioning_placement"] = "entry"
    if options.symbols is not None:
        names = options.symbols
    symbols = [part.strip() for part in names.split(",")]
    changes |= {
        "symbols": [symbol for symbol in symbols if symbol],
        "keys": [options.key],
    }
    for setting in OPTIONS:
        changes[setting] = getattr(options, setting)
    for change in options.changes:
        name, _, value = change.partition("=")
        changes[name] = _value_of(name, value)
    return Settings().changed(changes)


def _value_of(name: str, text: str) -> object:
    """Return a setting's value: a text, or else the JSON in it."""
    # The contract 2.10 is not the number 2.1.
    if isinstance(getattr(Settings(), name, None), str):
        return text
    try:
        return msgspec.json.decode(text)
    except msgspec.DecodeError:
        return text


def _log(line: str) -> None:
    moment = datetime.now(UTC).strftime("%H:%M:%S.%f")[:-3]  # milliseconds
    # If nobody reads any more, the clients must still get their answers.
    with suppress(BrokenPipeError):
        sys.stdout.write(f"{moment}  {line}\n")
        sys.stdout.flush()


def run_simulator(
    simulator: Simulator, host: str, port: int, script: Path | None
) -> int:
    """Serve until SIGINT or SIGTERM and return 0.

    Return 2 if the script cannot be read or the port cannot be used.
    """
    try:
        if script is not None:
            simulator.add_script(read_script(script))
        asyncio.run(_serve(simulator, host, port))
    except (OSError, ValueError) as error:
        problem = str(error)
        if isinstance(error, OSError) and error.errno == errno.EADDRINUSE:
            problem = f"{host} port {port} is in use: choose another address (--listen)"
        sys.stderr.write(f"upstream simulator: {problem}\n")
        return EXIT_USAGE
    return 0


async def _serve(simulator: Simulator, host: str, port: int) -> None:
    stopped = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, stopped.set)

    await simulator.start(host, port)
    key = simulator.settings.keys[0]
    sys.stdout.write(f"upstream simulator on {simulator.url} (key {key})\n")
    sys.stdout.flush()
    await stopped.wait()
    await simulator.stop()
