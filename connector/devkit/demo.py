"""`gex-connector demo`: a local Kafka, the simulator, a connector, and its events."""

from __future__ import annotations

import json
import math
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from statistics import median, quantiles
from typing import TYPE_CHECKING, Any, Final
from urllib.request import urlopen

from connector.config.load import load
from connector.config.model import Kafka
from connector.core.model import MICROS
from connector.devkit.local_kafka import LocalKafka
from connector.devkit.loopback_ports import LOOPBACK, usual_port
from connector.devkit.simulator.settings import DEFAULT_KEY, DEFAULT_SYMBOLS
from connector.errors import KafkaUnavailable, UsageError
from connector.kafka.avro import Codec, SingleObject
from connector.kafka.clients import Clients
from connector.kafka.event_stream import Events, ReceivedEvent
from connector.kafka.names import Topics
from connector.tools.silence import SilenceNotice
from connector.tools.text import arrow, text_line

if TYPE_CHECKING:
    import argparse
    from collections.abc import Iterator

_READY_TIMEOUT_SECONDS: Final = 180
_READY_POLL_SECONDS: Final = 0.05
_STOP_TIMEOUT_SECONDS: Final = 30
_HTTP_TIMEOUT_SECONDS: Final = 5

# The defaults, which the commands of the documentation rely on. If a port is in use, the
# demo takes another.
_KAFKA_PORT: Final = 9092
_SIMULATOR_PORT: Final = 8080
_HTTP_PORT: Final = 9464
_LOG_TAIL_CHARACTERS: Final = 2000

# The API refreshes every 30 s. Ten times as often makes the demo worth watching, and twice
# the smallest plan's quota keeps up with it.
_DEFAULT_PERIOD_SECONDS: Final = 3.0
_SHORTEST_PERIOD_SECONDS: Final = 0.5
# Levels become STALE after 90 s, so slower refreshes would show little else.
_LONGEST_PERIOD_SECONDS: Final = 60.0
# Jitter of a refresh, as a share of the period.
_JITTER: Final = 0.1
_REQUESTS_PER_MINUTE: Final = 120
_KEY: Final = {"GEX_UPSTREAM__API_KEY": DEFAULT_KEY}

_NEXT_STEPS: Final = """
Next: docs/tutorial/first-levels.md explains what you saw.
      docs/how-to/run.md runs it with your API key and your Kafka."""


@dataclass(frozen=True, slots=True)
class Market:
    """The simulated symbols, and the seconds between two refreshes of each."""

    symbols: tuple[str, ...] = DEFAULT_SYMBOLS
    period_seconds: float = _DEFAULT_PERIOD_SECONDS


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options of the command."""
    parser.add_argument(
        "--seconds", type=float, help="end after this time (default: run until Ctrl-C)"
    )
    parser.add_argument(
        "--symbols",
        default=",".join(DEFAULT_SYMBOLS),
        metavar="A,B,C",
        help="symbols to simulate and follow (default: %(default)s)",
    )
    parser.add_argument(
        "--period",
        type=float,
        default=_DEFAULT_PERIOD_SECONDS,
        metavar="SECONDS",
        help="time between two refreshes of a symbol (default: %(default)s; the API: 30)",
    )


def run(options: argparse.Namespace) -> int:
    """Run the demo. Raises UsageError and ConfigError for options that do not fit."""
    seconds = options.seconds
    if seconds is not None and not 0 < seconds < math.inf:
        raise UsageError(f"demo: --seconds {seconds}, expected more than 0")
    period = options.period
    if not _SHORTEST_PERIOD_SECONDS <= period <= _LONGEST_PERIOD_SECONDS:
        raise UsageError(
            f"demo: --period {period}, expected {_SHORTEST_PERIOD_SECONDS} to "
            f"{_LONGEST_PERIOD_SECONDS:.0f} seconds"
        )
    (feed,) = load(None, {"GEX_SYMBOLS": options.symbols, **_KEY}).feeds
    return demo(seconds, Market(feed.symbols, period))


def demo(seconds: float | None, market: Market) -> int:
    """Run until Ctrl-C, or for `seconds` after the connector is ready.

    Return 1 if nothing was published, else 0.
    """
    # End as with Ctrl-C, so that Kafka, the simulator and the connector are stopped.
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.default_int_handler)

    with tempfile.TemporaryDirectory(prefix="gex-demo-") as name:
        folder = Path(name)
        # Downloads that the first start needs show their own progress.
        print("1 of 2: starting Kafka ...", flush=True)
        with LocalKafka(folder / "kafka", port=usual_port(_KAFKA_PORT)) as kafka:
            return _run_with_kafka(kafka.bootstrap_servers, folder, seconds, market)


def _run_with_kafka(
    bootstrap_servers: str, folder: Path, seconds: float | None, market: Market
) -> int:
    upstream = f"{LOOPBACK}:{usual_port(_SIMULATOR_PORT)}"
    http = f"{LOOPBACK}:{usual_port(_HTTP_PORT)}"
    symbols = ",".join(market.symbols)
    environment = {
        **_KEY,
        "GEX_UPSTREAM__BASE_URL": f"http://{upstream}/v2",
        "GEX_UPSTREAM__MAX_REQUESTS_PER_MINUTE": str(_REQUESTS_PER_MINUTE),
        "GEX_SYMBOLS": symbols,
        "GEX_INCLUDE": "max_pain,expected_move,ranked,zones",
        "GEX_KAFKA__BOOTSTRAP_SERVERS": bootstrap_servers,
        "GEX_HTTP__LISTEN": http,
    }
    simulate = [
        "simulate",
        f"--listen={upstream}",
        f"--limit={_REQUESTS_PER_MINUTE}",
        f"--symbols={symbols}",
        f"--period={market.period_seconds}",
        f"--jitter={market.period_seconds * _JITTER}",
    ]
    log = folder / "connector.log"
    print("2 of 2: starting a simulator of the API and a connector ...", flush=True)
    # The simulator first: the connector would back off from an upstream that is not there.
    with (
        _child(simulate, {}, folder / "simulator.log"),
        _child(["run"], environment, log) as worker,
    ):
        _wait_until_ready(f"http://{http}/health/ready", worker, log)
        ready_at = time.time()

        kafka = Kafka(bootstrap_servers=bootstrap_servers)
        topics = Topics(kafka.topic_prefix)
        codec = Codec(SingleObject())
        silence = SilenceNotice()
        events = Events(
            Clients(kafka),
            topics,
            codec,
            from_beginning=True,
            states=silence,
        )
        print(f"\nstatus page   http://{http}/status   (open it in a browser)")
        print(f"metrics       http://{http}/metrics")
        print(f"Kafka         {bootstrap_servers}")
        print(
            f"simulator     http://{upstream}   (docs/how-to/fire-drill.md breaks it)"
        )
        print(f"topics        {', '.join(events.topics)}")
        print(f"log           {log}\n")
        print(
            f"Each symbol is refreshed every {market.period_seconds:g} s, where the API "
            "takes 30.\nEach line below is one event. Ctrl-C ends.\n",
            flush=True,
        )

        end = math.inf if seconds is None else time.monotonic() + seconds
        received = _print_events(events, silence, end)
        events.close()
        statistics = _get(f"http://{upstream}/_control/stats")
        _print_summary(received, statistics["requests_total"], ready_at)
        print(_NEXT_STEPS)
        return 0 if received else 1


def _print_events(
    events: Events, silence: SilenceNotice, end: float
) -> list[ReceivedEvent]:
    """Print and return events until Ctrl-C, or `end` on the monotonic clock."""
    received_events = []
    try:
        for received in events.until(lambda: time.monotonic() >= end):
            silence.look()
            if received is not None:
                received_events.append(received)
                print(text_line(received, width=_width()), flush=True)
    except KeyboardInterrupt:
        pass
    return received_events


def _width() -> int | None:
    """Return the columns of the terminal. Lines are not cut if a program reads them."""
    return shutil.get_terminal_size().columns if sys.stdout.isatty() else None


def _print_summary(
    received_events: list[ReceivedEvent], requests: int, ready_at: float
) -> None:
    kinds: Counter[str] = Counter()
    refreshes = set()
    delays = []
    for received in received_events:
        event = received.event
        kinds[event.kind.value] += 1
        if event.computed_at is None:
            continue
        # A refresh can cause several events, such as a change and a snapshot.
        refreshes.add((event.symbol, event.computed_at))
        # Older refreshes waited for the connector to start, which says nothing about it.
        if event.computed_at / MICROS > ready_at:
            delays.append((received.received_at - event.computed_at) / MICROS)

    counts = [f"{kind} {count}" for kind, count in sorted(kinds.items())]
    by_kind = "  ".join(counts)
    print(f"\nrequests           {requests}")
    print(f"refreshes seen     {len(refreshes)}")
    print(f"events             {len(received_events)}   {by_kind}")
    # `quantiles` needs two values.
    if len(delays) > 1:
        p95 = quantiles(delays, n=20)[-1]
        print(
            f"refresh {arrow()} consumer median {median(delays):.2f} s, p95 {p95:.2f} s "
            f"({len(delays)} refreshes)"
        )


@contextmanager
def _child(
    arguments: list[str], environment: dict[str, str], log: Path
) -> Iterator[subprocess.Popen[bytes]]:
    """Run a `gex-connector` command that ends with this block; `log` gets its output."""
    # Settings of the caller's connector must not reach the demo.
    inherited = {}
    for name, value in os.environ.items():
        if not name.startswith("GEX_"):
            inherited[name] = value
    command = [sys.executable, "-m", "connector", *arguments]
    with log.open("wb") as output:
        child = subprocess.Popen(  # noqa: S603 -- our own command
            command,
            env=inherited | environment,
            stdout=output,
            stderr=output,
            stdin=subprocess.DEVNULL,
            # Ctrl-C in the terminal ends the demo first, which then ends its children.
            start_new_session=True,
        )
    try:
        yield child
    finally:
        child.terminate()
        try:
            child.wait(_STOP_TIMEOUT_SECONDS)
        except subprocess.TimeoutExpired:
            child.kill()
            child.wait()


def _wait_until_ready(url: str, worker: subprocess.Popen[bytes], log: Path) -> None:
    deadline = time.monotonic() + _READY_TIMEOUT_SECONDS
    while True:
        try:
            _get(url)
        except OSError:  # HTTPError and URLError are subclasses
            has_ended = worker.poll() is not None
            if has_ended or time.monotonic() > deadline:
                tail = log.read_text()[-_LOG_TAIL_CHARACTERS:]
                raise KafkaUnavailable(
                    f"the connector did not become ready; its log ends:\n{tail}"
                ) from None
            time.sleep(_READY_POLL_SECONDS)
        else:
            return


def _get(url: str) -> dict[str, Any]:
    with urlopen(url, timeout=_HTTP_TIMEOUT_SECONDS) as response:  # noqa: S310 -- a loopback address
        answer: dict[str, Any] = json.load(response)
        return answer
