"""Measures how long a worker takes from its process's start to its first event."""

from __future__ import annotations

import json
import time
from datetime import datetime
from statistics import median
from typing import TYPE_CHECKING, Final

from connector.kafka.avro import Codec, SingleObject
from connector.kafka.event_stream import Events
from tests.bench.sample import INCLUDED, SYMBOLS
from tests.bench.shards import prepare
from tests.bench.stack import PATIENCE_SECONDS

if TYPE_CHECKING:
    from pathlib import Path

    from tests.bench.stack import Stack

STARTS: Final = 8

FIRST_EVENT: Final = "first event"

# In their order: what the worker logs at the end of each, and its label in the table.
PHASES: Final = {
    "listening": "process started → listening: imports, configuration; median",
    "shard assigned": "… → shard assigned: topics, readers, the group; median",
    "shard open": "… → shard open: fenced and restored; median",
    FIRST_EVENT: "… → first event in a consumer's hands; median",
}


def start(stack: Stack, name: str) -> dict[str, float]:
    """Return the median seconds from the process's start to the end of each phase.

    `best` is the shortest time to the first event.
    """
    starts = [_one_start(stack, name) for _ in range(STARTS)]
    figures = {}
    for phase in PHASES:
        figures[phase] = median(seconds[phase] for seconds in starts)
    figures["best"] = min(seconds[FIRST_EVENT] for seconds in starts)
    return figures


def _one_start(stack: Stack, name: str) -> dict[str, float]:
    """Return the seconds from the process's start to the end of each phase.

    The topics exist already, as they do for every start but the first.
    """
    prefix = stack.new_prefix()
    clients, topics = prepare(stack.bootstrap, prefix, "all")
    consumer = Events(clients, topics, Codec(SingleObject()), from_beginning=True)
    include = INCLUDED[name]
    try:
        with stack.worker(SYMBOLS, include, prefix, log_level="INFO") as worker:
            _wait_for_event(consumer, worker.started + PATIENCE_SECONDS)
            seconds = time.monotonic() - worker.started
            started_at = time.time() - seconds
    finally:
        consumer.close()

    phases = _phases(stack.log_of(prefix), started_at)
    return {**phases, FIRST_EVENT: seconds}


def _wait_for_event(consumer: Events, deadline: float) -> None:
    def is_late() -> bool:
        return time.monotonic() > deadline

    # None is a poll without an event.
    for received in consumer.until(is_late):
        if received is not None:
            return
    raise TimeoutError(f"no event within {PATIENCE_SECONDS} s")


def _phases(log: Path, started_at: float) -> dict[str, float]:
    """Return the seconds from a moment to the first line with each message."""
    found: dict[str, float] = {}
    for text in log.read_text().splitlines():
        line = json.loads(text)
        if line["message"] in PHASES:
            at = datetime.fromisoformat(line["ts"]).timestamp()
            found.setdefault(line["message"], at - started_at)
    return found
