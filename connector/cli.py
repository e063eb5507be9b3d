"""`gex-connector`: run, the tools beside it, and the fake upstream and local Kafka of the demo."""

from __future__ import annotations

import argparse
import asyncio
import logging
import math
import os
import signal
import sys
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Final

from connector import __version__
from connector.config.load import load
from connector.core.model import Kind, Status
from connector.errors import EXIT_CONFIG, EXIT_FATAL, ConfigError, ConnectorError
from connector.logs import configure

if TYPE_CHECKING:
    from collections.abc import Sequence

    from connector.config.model import Config

_log = logging.getLogger("connector")

_MAX_PORT: Final = 65_535


def main(arguments: Sequence[str] | None = None) -> None:
    """Run a command and end the process with its exit status: 0, or 2, 3, 4 as `connector.errors` has them."""
    given = sys.argv[1:] if arguments is None else arguments
    options = _parser(given).parse_args(given)
    try:
        code = int(options.command(options))
    except ConfigError as error:
        for fault in error.faults:
            print(f"configuration: {fault}", file=sys.stderr)
        code = EXIT_CONFIG
    except ConnectorError as error:
        print(f"{error}", file=sys.stderr)
        code = error.exit_code
    except (KeyboardInterrupt, BrokenPipeError):
        code = 0
    # A pool thread that hangs in a Kafka call must not delay the end.
    logging.shutdown()
    with suppress(BrokenPipeError):
        sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


def _parser(given: Sequence[str]) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="gex-connector",
        description="Publishes every change of bundled gamma-exposure levels to Kafka, exactly once and in order.",
    )
    parser.add_argument("--version", action="version", version=__version__)
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    run = _command(
        commands, "run", _run, "poll, compare and publish until SIGTERM or SIGINT"
    )
    run.add_argument(
        "--log-level", default="INFO", choices=["DEBUG", "INFO", "WARNING", "ERROR"]
    )

    check = _command(
        commands,
        "check",
        _check,
        "try everything that a worker will need, and say how to mend it",
    )
    check.epilog = "exit status: 0 nothing failed, 2 the configuration, 3 Kafka or the registry, 1 anything else"

    watch = _command(
        commands,
        "watch",
        _watch,
        "print the events, read_committed and decoded, as they come",
    )
    watch.add_argument(
        "--from-beginning",
        action="store_true",
        help="also those that are there already",
    )
    watch.add_argument("--feed", help="only this one")
    watch.add_argument(
        "--symbol",
        action="append",
        type=str.upper,
        default=[],
        help="only this one; repeatable",
    )
    watch.add_argument(
        "--kind",
        action="append",
        type=str.upper,
        default=[],
        choices=list(Kind),
        help="repeatable",
    )
    watch.add_argument(
        "--status",
        action="append",
        type=str.upper,
        default=[],
        choices=list(Status),
        help="repeatable",
    )
    form = watch.add_mutually_exclusive_group()
    form.add_argument("--json", action="store_true", help="one JSON object a line")
    form.add_argument(
        "--table",
        action="store_true",
        help="on a terminal: a row for each symbol, kept up to date",
    )

    history = _command(
        commands, "history", _history, "the events of one symbol, up to now"
    )
    history.add_argument("symbol", type=str.upper)
    history.add_argument(
        "--since", default="1d", help="2h, 3d (ago), or ISO 8601 (default: %(default)s)"
    )
    history.add_argument("--until", help="likewise (default: now)")
    history.add_argument("--feed", help="only this one")
    form = history.add_mutually_exclusive_group()
    for name, about in (
        ("csv", "a row for each event, with the levels after it"),
        ("json", "one JSON object a line"),
    ):
        form.add_argument(
            f"--{name}",
            dest="form",
            action="store_const",
            const=name,
            default="table",
            help=about,
        )

    verify = _command(
        commands,
        "verify",
        _verify,
        "read both topics and prove that events and states are as promised",
    )
    verify.add_argument("--feed", help="only this one")
    verify.epilog = "exit status: 0 all is well, 1 something is not, 2 the configuration, 3 Kafka is not usable"

    simulate = _command(
        commands, "simulate", _simulate, "the upstream's simulator", configured=False
    )
    if "simulate" in given:
        from connector.devkit.simulator import command  # noqa: PLC0415 -- production never loads the simulator

        command.add_arguments(simulate)
    kafka = _command(
        commands,
        "kafka",
        _kafka,
        "a local Apache Kafka for development",
        configured=False,
    )
    kafka.add_argument(
        "--port", type=int, default=9092, help="on 127.0.0.1 (default %(default)s)"
    )
    kafka.add_argument(
        "--data",
        type=Path,
        help="folder to keep its data in (default: a temporary one)",
    )
    demo = _command(
        commands,
        "demo",
        _demo,
        "Kafka, simulator, connector and watch together",
        configured=False,
    )
    demo.add_argument(
        "--seconds", type=float, help="end by itself after so long (default: at Ctrl-C)"
    )
    return parser


def _command(
    commands: argparse._SubParsersAction[argparse.ArgumentParser],
    name: str,
    command: object,
    about: str,
    *,
    configured: bool = True,
) -> argparse.ArgumentParser:
    parser = commands.add_parser(name, help=about, description=about)
    parser.set_defaults(command=command)
    if configured:
        parser.add_argument(
            "--config",
            type=Path,
            metavar="FILE.toml",
            help="settings; the environment wins over it",
        )
    return parser


def _run(options: argparse.Namespace) -> int:
    settings = load(options.config, os.environ)
    return asyncio.run(_work(settings, options.log_level))


async def _work(settings: Config, log_level: str) -> int:
    from connector.app import Worker  # noqa: PLC0415 -- `watch` needs none of it

    worker = Worker(settings)
    configure(
        log_level, secrets=lambda: (*settings.secrets(), worker.key.secret.reveal())
    )
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, worker.stop)
    try:
        return await worker.run()
    except ConnectorError as error:
        _log.critical("not started", extra={"error": str(error)})
        return error.exit_code
    except Exception:  # noqa: BLE001 -- the outermost loop: said, and an exit status
        _log.critical("a defect of the connector", exc_info=True)
        return EXIT_FATAL


def _check(options: argparse.Namespace) -> int:
    from connector.tools.check import check  # noqa: PLC0415 -- `run` needs none of it

    logging.disable()  # what the clients have to say stands in the report
    return check(options.config, os.environ)


def _watch(options: argparse.Namespace) -> int:
    from connector.tools import reading  # noqa: PLC0415 -- `run` needs none of it
    from connector.tools.table import Table  # noqa: PLC0415 -- as above
    from connector.tools.watch import EventFilter, watch  # noqa: PLC0415 -- as above

    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(
            number, signal.default_int_handler
        )  # SIGINT too: a background job of a shell ignores it
    opened = reading.opened(options.config, os.environ)
    wanted = EventFilter(
        *map(frozenset, (options.symbol, options.kind, options.status))
    )
    if options.table and sys.stdout.isatty():
        return Table(opened.log(options.feed), opened, wanted).show()
    return watch(
        opened.events(options.feed, from_beginning=options.from_beginning),
        wanted,
        as_json=options.json,
    )


def _history(options: argparse.Namespace) -> int:
    from connector.tools import reading  # noqa: PLC0415 -- `run` needs none of it
    from connector.tools.history import events, history, moment  # noqa: PLC0415 -- as above

    between = (
        moment(options.since, "--since"),
        None if options.until is None else moment(options.until, "--until"),
    )
    opened = reading.opened(options.config, os.environ)
    found = events(
        opened.log(options.feed), opened.topics, opened.codec, options.symbol, between
    )
    return history(found, options.form)


def _verify(options: argparse.Namespace) -> int:
    from connector.tools import reading  # noqa: PLC0415 -- `run` needs none of it
    from connector.tools.verify import verify  # noqa: PLC0415 -- as above

    opened = reading.opened(options.config, os.environ)
    ignored = reading.ignored(options.config, os.environ)
    return verify(opened.log(options.feed), opened.topics, opened.codec, ignored)


def _simulate(options: argparse.Namespace) -> int:
    from connector.devkit.simulator import command  # noqa: PLC0415 -- production never loads the simulator

    host, _, port = options.listen.rpartition(":")
    try:
        settings = command.settings_from(options)
    except ValueError as error:
        raise ConfigError([f"simulate: {error}"]) from None
    if not host or not port.isdecimal() or int(port) > _MAX_PORT:
        raise ConfigError(
            [f"simulate: --listen {options.listen[:40]!r}, expected HOST:PORT"]
        )
    return command.run_simulator(
        settings, host, int(port), Path(options.script) if options.script else None
    )


def _kafka(options: argparse.Namespace) -> int:
    from connector.devkit.local_kafka import run_kafka  # noqa: PLC0415 -- production never loads it

    if not 0 <= options.port <= _MAX_PORT:
        raise ConfigError([f"kafka: --port {options.port}, expected 0 to {_MAX_PORT}"])
    return run_kafka(options.port, options.data)


def _demo(options: argparse.Namespace) -> int:
    from connector.devkit.demo import demo  # noqa: PLC0415 -- production never loads it

    if options.seconds is not None and not 0 < options.seconds < math.inf:
        raise ConfigError([f"demo: --seconds {options.seconds}, expected more than 0"])
    return demo(options.seconds)
