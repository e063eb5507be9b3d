"""Measure the real worker, a process of its own, against the simulator and a real broker."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Final

from connector.kafka.avro import Codec, SingleObject
from connector.kafka.events import Events
from tests.bench.measure import MIB, Window
from tests.bench.sample import INCLUDED, SYMBOLS
from tests.bench.shards import prepare
from tests.bench.stack import PATIENCE_SECONDS, Stack

if TYPE_CHECKING:
    from collections.abc import Sequence

# Between two checks of the steady load: 25 checks a second.
STEADY_SECONDS: Final = 0.04

_WARM_UP_EVENTS: Final = 1000
_SETTLE_SECONDS: Final = 2.0


def steady(stack: Stack, name: str, seconds: float) -> dict[str, float]:
    """Measure a steady load: every response is new and makes a transaction of its own."""
    every = {"GEX_SCHEDULE__MIN_INTERVAL_SECONDS": str(STEADY_SECONDS)}
    with stack.worker(SYMBOLS, INCLUDED[name], stack.new_prefix(), **every) as worker:
        worker.wait_for_events(_WARM_UP_EVENTS // 4)
        return _figures(worker.during(seconds))


def flat_out(
    stack: Stack, symbols: Sequence[str], name: str, seconds: float
) -> dict[str, float]:
    """Measure the highest rate: every response is new, and waiting events share a commit."""
    with stack.worker(symbols, INCLUDED[name], stack.new_prefix()) as worker:
        worker.wait_for_events(_WARM_UP_EVENTS)
        window = worker.during(seconds)
        resident = worker.usage().resident_bytes
    return {**_figures(window), "resident_mib": resident / MIB}


def quiet(stack: Stack, name: str, seconds: float) -> dict[str, float]:
    """Measure checks that bring nothing new: flat out against a frozen API."""
    with stack.worker(SYMBOLS, INCLUDED[name], stack.new_prefix()) as worker:
        worker.wait_for_events(_WARM_UP_EVENTS)
        stack.upstream.freeze()
        try:
            time.sleep(_SETTLE_SECONDS)
            window = worker.during(seconds)
        finally:
            stack.upstream.every_request()
    return {
        "cpu_micros_per_request": window.cpu_micros_per_request,
        "requests_per_second": window.requests / window.seconds,
    }


def idle(stack: Stack, name: str, seconds: float) -> dict[str, float]:
    """Measure one check a second with nothing new: a worker's usual life."""
    prefix = stack.new_prefix()
    one_a_second = {"GEX_SCHEDULE__MIN_INTERVAL_SECONDS": "1"}
    stack.upstream.freeze()
    try:
        with stack.worker(SYMBOLS, INCLUDED[name], prefix, **one_a_second) as worker:
            worker.wait_for_events(len(SYMBOLS))
            time.sleep(_SETTLE_SECONDS)
            window = worker.during(seconds)
            resident = worker.usage().resident_bytes
    finally:
        stack.upstream.every_request()
    return {"resident_mib": resident / MIB, "cpu_percent": window.cores * 100}


def first_event_seconds(stack: Stack, name: str) -> float:
    """Return the seconds from the process's start to its first event at a consumer.

    The topics exist already, as they do for every start but the first.
    """
    prefix = stack.new_prefix()
    clients, topics = prepare(stack.bootstrap, prefix, "all")
    consumer = Events(clients, topics, Codec(SingleObject()), from_beginning=True)
    try:
        with stack.worker(SYMBOLS, INCLUDED[name], prefix) as worker:
            deadline = worker.started + PATIENCE_SECONDS
            for received in consumer.until(lambda: time.monotonic() > deadline):
                if received is not None:
                    return time.monotonic() - worker.started
    finally:
        consumer.close()
    raise TimeoutError(f"no event within {PATIENCE_SECONDS} s")


def _figures(window: Window) -> dict[str, float]:
    return {
        "cpu_micros_per_event": window.cpu_micros_per_event,
        "events_per_second": window.events_per_second,
        "cores": window.cores,
        "collapsed_percent": 100
        * window.collapsed
        / (window.collapsed + window.events),
    }
