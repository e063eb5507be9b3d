"""`gex-connector`: the commands and their exit statuses.

`run` is the connector itself. Every other command is a module with two functions:
`add_arguments(parser)` declares its arguments, and `run(options)` returns its exit status.
"""

from __future__ import annotations

import argparse
import asyncio
import codecs
import errno
import importlib
import io
import json
import logging
import os
import resource
import signal
import sys
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Final, NamedTuple

from connector import __version__
from connector.config.load import load
from connector.errors import EXIT_CONFIG, EXIT_FATAL, ConfigError, ConnectorError
from connector.logs import configure

if TYPE_CHECKING:
    from collections.abc import Sequence

    from connector.config.model import Config

_log = logging.getLogger("connector")

_ESCAPE: Final = "connector.escape"

# These do a piece of work, so an interrupt leaves it undone. Others go on until one comes.
_END_BY_THEMSELVES: Final = frozenset(
    {"check", "health", "history", "replay", "verify"}
)
# As of a program that SIGINT ends: 128 plus its number.
_EXIT_INTERRUPTED: Final = 130

_DISK_FAULTS: Final = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EIO})

# A shard takes nine, three brokers assumed.
_OPEN_FILES: Final = 65_536


class _Command(NamedTuple):
    """A command that is a module; `takes_config` if it has `--config`."""

    module: str
    about: str
    takes_config: bool = True


_RUN_ABOUT: Final = "poll, compare and publish until SIGTERM, SIGINT or SIGHUP"
_RUN_STATUSES: Final = (
    "exit status: 0 stopped as asked, 2 invalid configuration, 3 Kafka or the registry was "
    "not usable in time, or a topic does not fit, 4 a topic holds a record of another "
    "version, or another unrecoverable error, 5 the credentials of Kafka were replaced: start "
    "again"
)
_COMMANDS: Final = {
    "check": _Command(
        "connector.tools.check",
        "try everything a worker will need, and say how to fix it",
    ),
    "watch": _Command(
        "connector.tools.watch",
        "print committed events as they come",
    ),
    "history": _Command(
        "connector.tools.history",
        "print the events of a period, or write them to a Parquet file",
    ),
    "replay": _Command(
        "connector.tools.replay.command",
        "publish past events again, to topics of their own, as they were or faster",
    ),
    "verify": _Command(
        "connector.tools.verify",
        "read both topics and prove that events and states agree",
    ),
    "quarantine": _Command(
        "connector.tools.quarantine",
        "list, show and follow the entries that could not be used",
    ),
    "health": _Command(
        "connector.tools.health",
        "ask the worker of this machine if it is alive, or ready",
    ),
    "simulate": _Command(
        "connector.devkit.simulator.command",
        "run the simulated upstream API",
        takes_config=False,
    ),
    "kafka": _Command(
        "connector.devkit.local_kafka",
        "run a local Apache Kafka for development",
        takes_config=False,
    ),
    "demo": _Command(
        "connector.devkit.demo",
        "run Kafka, simulator, connector and watch together",
        takes_config=False,
    ),
}


def main(arguments: Sequence[str] | None = None) -> None:
    """Run a command and end the process with its exit status.

    The statuses are 0, those of `connector.errors`, 1 for a tool that found faults, and 130
    for one that was interrupted.
    """
    if arguments is None:
        arguments = sys.argv[1:]
    _escape_what_the_terminal_cannot_show()
    options = _parser(arguments).parse_args(arguments)
    try:
        exit_code = int(options.run(options))
        with suppress(BrokenPipeError):
            sys.stdout.flush()
    except ConfigError as error:
        for fault in error.faults:
            print(f"configuration: {fault}", file=sys.stderr)
        exit_code = EXIT_CONFIG
    except ConnectorError as error:
        print(f"{error}", file=sys.stderr)
        exit_code = error.exit_code
    except KeyboardInterrupt:
        exit_code = options.interrupted
    except BrokenPipeError:
        exit_code = 0
    except OSError as error:
        if error.errno not in _DISK_FAULTS:
            raise
        print(f"cannot write the output: {error.strerror}", file=sys.stderr)
        exit_code = EXIT_FATAL

    # Do not wait for pool threads: one may hang in a Kafka call. `os._exit` flushes
    # nothing, so do that first.
    logging.shutdown()
    with suppress(OSError):
        sys.stdout.flush()
    sys.stderr.flush()
    os._exit(exit_code)


def _escape_what_the_terminal_cannot_show() -> None:
    """Print escapes instead of a traceback, with `LC_ALL=C` or a Latin-1 terminal."""
    codecs.register_error(_ESCAPE, _escape)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors=_ESCAPE)


def _escape(error: UnicodeError) -> tuple[str, int]:
    r"""Return \uXXXX for characters that cannot be encoded. JSON has the same escapes."""
    if not isinstance(error, UnicodeEncodeError):
        raise error
    escaped = json.dumps(error.object[error.start : error.end])
    return escaped[1:-1], error.end


def _parser(arguments: Sequence[str]) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="gex-connector",
        description="Publish every change of bundled gamma-exposure levels to Kafka, "
        "exactly once and in order.",
    )
    parser.add_argument("--version", action="version", version=__version__)
    parser.set_defaults(interrupted=0)
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    command = commands.add_parser("run", help=_RUN_ABOUT, description=_RUN_ABOUT)
    command.set_defaults(run=_run)
    _add_config_argument(command)
    command.add_argument(
        "--log-level",
        default="INFO",
        choices=["DEBUG", "INFO", "WARNING", "ERROR"],
        help="the least severe lines of the log (default: %(default)s)",
    )
    command.epilog = _RUN_STATUSES

    for name, (module, about, takes_config) in _COMMANDS.items():
        command = commands.add_parser(name, help=about, description=about)
        if takes_config:
            _add_config_argument(command)
        # Import the chosen command only: a worker must not load tools or simulator.
        if name in arguments:
            implementation = importlib.import_module(module)
            implementation.add_arguments(command)
            command.set_defaults(run=implementation.run)
            if name in _END_BY_THEMSELVES:
                command.set_defaults(interrupted=_EXIT_INTERRUPTED)
    return parser


def _add_config_argument(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--config",
        type=Path,
        metavar="FILE.toml",
        help="configuration file; environment variables override it",
    )


def _stop_signals() -> list[signal.Signals]:
    """Return the signals that ask a worker to stop.

    SIGHUP comes when a terminal closes. Without a handler it ends the process at once, and
    the shards wait for a session time-out. `nohup` has it ignored.
    """
    signals = [signal.SIGTERM, signal.SIGINT]
    if signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN:
        signals.append(signal.SIGHUP)
    return signals


def allow_open_files() -> None:
    """Raise the limit of open files, as far as we may.

    The usual 1,024 are those of a hundred shards. Without a free one, a worker can neither
    connect to anything nor be asked why.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = _OPEN_FILES
    if hard != resource.RLIM_INFINITY:
        wanted = min(hard, _OPEN_FILES)
    if soft == resource.RLIM_INFINITY or soft >= wanted:
        return
    # A sandbox may forbid the change.
    with suppress(ValueError, OSError):
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


def _run(options: argparse.Namespace) -> int:
    config = load(options.config, os.environ)
    allow_open_files()
    # The loop is not closed, as `asyncio.run` would do. That starts a thread, which a limit
    # may forbid, and waits for the others, of which one may hang while it resolves a name.
    loop = asyncio.new_event_loop()
    return loop.run_until_complete(_work(config, options.log_level))


async def _work(config: Config, log_level: str) -> int:
    # Kafka and HTTP clients take a while to import; tools that need neither do not wait.
    from connector.app.worker import run_worker  # noqa: PLC0415 -- as above
    from connector.runtime.supervisor import Supervisor  # noqa: PLC0415 -- as above
    from connector.runtime.threads import thread_fault  # noqa: PLC0415 -- as above
    from connector.upstream.api_key import ApiKey  # noqa: PLC0415 -- as above

    key = ApiKey(config.upstream)
    supervisor = Supervisor()

    def secrets() -> tuple[str, ...]:
        # The key file may change while we run, so the log asks for the current key.
        return (*config.secrets(), key.secret.reveal())

    configure(log_level, secrets=secrets)
    loop = asyncio.get_running_loop()
    for number in _stop_signals():
        loop.add_signal_handler(number, supervisor.stop)
    try:
        return await run_worker(config, key, supervisor)
    except ConnectorError as error:
        _log.critical("not started", extra={"error": str(error)})
        return error.exit_code
    except Exception as error:  # noqa: BLE001 -- the outermost loop logs every defect
        fault = thread_fault(error)
        if fault is not None:
            _log.critical("cannot go on", extra={"error": fault})
        else:
            _log.critical("a defect of the connector", exc_info=True)
        return EXIT_FATAL
