"""`python -m tests.bench.client`: the cost of `connector.client`, and what it says of silence.

Restore: the time of `LiveLevels.start()` in a new process, with several states of each
symbol in `current`, as between two compactions. CPU: all threads of a process that only
holds views, and of one that also iterates the events; idle, and per event. Silence: a real
worker is killed beside a client.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING

import msgspec

from connector.client import LiveLevels
from connector.core.entry import decode_entry
from connector.devkit.local_kafka import LocalKafka
from tests.conftest import Names
from tests.support.levels import NOW, document, encoded
from tests.support.processes import (
    start_simulator,
    start_worker,
    variables_for,
    wait_until,
)
from tests.support.written_feed import WrittenFeed, an_event, levels_of

if TYPE_CHECKING:
    from connector.core.model import Event

STATES_OF_A_SYMBOL = 20
SYMBOLS_OF_A_TRANSACTION = 80
IDLE_SECONDS = 10
EVENT_ROUNDS = 200
SILENCE_SECONDS = (0, 5, 10, 20, 80)

RESTORE = """
import sys, time
from connector.client import LiveLevels
started_at = time.monotonic()
with LiveLevels(sys.argv[1], prefix=sys.argv[2]) as levels:
    print(time.monotonic() - started_at, len(levels))
"""
CPU = """
import sys, time
from connector.client import LiveLevels
with LiveLevels(sys.argv[1], prefix=sys.argv[2]) as levels:
    stream = levels.events() if sys.argv[3] == "events" else None
    began, at = time.process_time(), time.monotonic()
    print("ready", flush=True)
    last, quiet_at, count = sum(levels.sequences().values()), time.monotonic(), 0
    end = float(sys.argv[4])
    while time.monotonic() - at < end:
        if stream is None:
            time.sleep(min(1, end - (time.monotonic() - at)))
        elif stream.next_event(1) is not None:
            count += 1
    used = time.process_time() - began
    print(used, sum(levels.sequences().values()) - last, count)
"""


def python(program: str, *arguments: str) -> subprocess.Popen[str]:
    """Start a program that prints a line of figures."""
    command = [sys.executable, "-c", program, *arguments]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True)


def line(process: subprocess.Popen[str]) -> list[str]:
    """Return the next line of a program, in words."""
    assert process.stdout is not None
    return process.stdout.readline().split()


def full_event(sequence: int, symbol: str) -> Event:
    """Return an event with all includes, whose flip is its sequence."""
    levels = decode_entry(encoded(document()), NOW).levels
    flip = levels_of(sequence).all_expiry
    return an_event(
        sequence, symbol, levels=msgspec.structs.replace(levels, all_expiry=flip)
    )


def publish_round(feed: WrittenFeed, symbols: list[str], sequence: int) -> None:
    """Publish an event and a state of each symbol."""
    for start in range(0, len(symbols), SYMBOLS_OF_A_TRANSACTION):
        part = symbols[start : start + SYMBOLS_OF_A_TRANSACTION]
        feed.publish(*[full_event(sequence, symbol) for symbol in part])


def names_of(count: int) -> list[str]:
    return [f"S{number}USDT" for number in range(count)]


def measure_restore(kafka: LocalKafka, count: int, rounds: int) -> None:
    """Print the time to restore a number of symbols."""
    names = Names(f"restore{count}")
    with WrittenFeed(kafka, names, partitions=6) as feed:
        for sequence in range(1, STATES_OF_A_SYMBOL + 1):
            publish_round(feed, names_of(count), sequence)
    seconds = []
    for _ in range(rounds):
        with python(RESTORE, kafka.bootstrap_servers, names.topic_prefix) as process:
            took, found = line(process)
        assert int(found) == count
        seconds.append(float(took))
    print(
        f"restore {count:4} symbols, {count * STATES_OF_A_SYMBOL:6} states: median "
        f"{median(seconds):.2f} s, worst {max(seconds):.2f} s of {rounds}"
    )


def measure_cpu(kafka: LocalKafka, kind: str) -> None:
    """Print the CPU time of a client, idle and per event."""
    symbols = names_of(8)
    names = Names(f"cpu-{kind}")
    with WrittenFeed(kafka, names, partitions=6) as feed:
        publish_round(feed, symbols, 1)
        arguments = (kafka.bootstrap_servers, names.topic_prefix, kind)
        with python(CPU, *arguments, str(IDLE_SECONDS)) as process:
            line(process)
            idle, *_ = map(float, line(process))
        # As long as publishing takes, and some seconds more.
        seconds = EVENT_ROUNDS * 0.1
        with python(CPU, *arguments, str(seconds)) as process:
            line(process)
            started_at = time.monotonic()
            for sequence in range(2, EVENT_ROUNDS + 2):
                publish_round(feed, symbols, sequence)
            took = time.monotonic() - started_at
            used, seen, _ = map(float, line(process))
    assert seen == EVENT_ROUNDS * len(symbols), f"{seen} events: publishing was slow"
    per_event = (used - idle * seconds / IDLE_SECONDS) / seen
    print(
        f"CPU, {kind}: idle {100 * idle / IDLE_SECONDS:.2f} % of a core; "
        f"{1e6 * per_event:.0f} µs an event with all includes "
        f"({seen:.0f} in {took:.0f} s)"
    )


def show_silence(kafka: LocalKafka) -> None:
    """Print what a client says after the last worker was killed."""
    names = Names("silence")
    with start_simulator("--limit", "0") as simulator:
        variables = variables_for(kafka, names, simulator)
        with (
            start_worker(variables) as worker,
            LiveLevels(kafka.bootstrap_servers, prefix=names.topic_prefix) as levels,
        ):
            wait_until(lambda: len(levels) == 8, "all symbols")
            levels.wait_until_fresh("BTCUSDT", 60)
            worker.kill()
            killed_at = time.monotonic()
            for after in SILENCE_SECONDS:
                time.sleep(max(0.0, killed_at + after - time.monotonic()))
                view = levels["BTCUSDT"]
                print(
                    f"{after:3} s after the kill: is_fresh "
                    f"{levels.is_fresh('BTCUSDT')!s:5}  status {view.status}  age "
                    f"{view.age or 0:.0f} s  silent_for {levels.silent_for or 0:.0f} s  "
                    f"trouble {levels.trouble!r}"
                )
            with start_worker(variables, wait_ready=False):
                restarted_at = time.monotonic()
                wait_until(lambda: levels.is_fresh("BTCUSDT"), "fresh again")
                took = time.monotonic() - restarted_at
                print(f"fresh again {took:.1f} s after a worker was started")


def main() -> None:
    """Print all figures."""
    parser = argparse.ArgumentParser(description="Measure connector.client.")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--symbols", type=int, nargs="+", default=[8, 80, 800])
    options = parser.parse_args()
    with (
        tempfile.TemporaryDirectory() as folder,
        LocalKafka(Path(folder)) as kafka,
    ):
        for count in options.symbols:
            measure_restore(kafka, count, options.rounds)
        measure_cpu(kafka, "views")
        measure_cpu(kafka, "events")
        show_silence(kafka)


if __name__ == "__main__":
    main()
