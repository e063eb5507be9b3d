"""Measure the real worker, a process of its own, against the simulator and a real broker."""

from __future__ import annotations

import time
from contextlib import contextmanager
from typing import TYPE_CHECKING, Final

from tests.bench.measure import MIB, Window
from tests.bench.sample import INCLUDED, SYMBOLS

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from tests.bench.stack import Stack, Upstream, Worker

# Between two checks of the steady load: 25 checks a second.
STEADY_SECONDS: Final = 0.04

# Until then, caches are cold and the broker's JVM compiles.
_WARM_UP_EVENTS: Final = 1000

# After the upstream changes, until the answers under way are published.
_SETTLE_SECONDS: Final = 2.0


@contextmanager
def _warm_worker(
    stack: Stack,
    symbols: Sequence[str],
    name: str,
    warm_up_events: int = _WARM_UP_EVENTS,
    **settings: str,
) -> Iterator[Worker]:
    """Start a worker with a topic of its own, and wait for its first events."""
    include = INCLUDED[name]
    with stack.worker(symbols, include, stack.new_prefix(), **settings) as worker:
        worker.wait_for_events(warm_up_events)
        yield worker


@contextmanager
def _frozen(upstream: Upstream) -> Iterator[None]:
    """Let the upstream serve the same levels, and new ones in every response afterwards."""
    upstream.freeze()
    try:
        yield
    finally:
        upstream.every_request()


def steady(stack: Stack, name: str, seconds: float) -> dict[str, float]:
    """Measure a steady load: every response is new and makes a transaction of its own."""
    interval = {"GEX_SCHEDULE__MIN_INTERVAL_SECONDS": str(STEADY_SECONDS)}
    # A quarter of the events: they come more slowly.
    events = _WARM_UP_EVENTS // 4
    with _warm_worker(stack, SYMBOLS, name, events, **interval) as worker:
        return _figures(worker.during(seconds))


def flat_out(
    stack: Stack, symbols: Sequence[str], name: str, seconds: float
) -> dict[str, float]:
    """Measure the highest rate: every response is new, and waiting events share a commit."""
    with _warm_worker(stack, symbols, name) as worker:
        window = worker.during(seconds)
        resident_bytes = worker.usage().resident_bytes
    return {**_figures(window), "resident_mib": resident_bytes / MIB}


def quiet(stack: Stack, name: str, seconds: float) -> dict[str, float]:
    """Measure checks that bring nothing new: flat out against a frozen API."""
    with (
        _warm_worker(stack, SYMBOLS, name) as worker,
        _frozen(stack.upstream),
    ):
        time.sleep(_SETTLE_SECONDS)
        window = worker.during(seconds)
    return {
        "cpu_micros_per_request": window.cpu_micros_per_request,
        "requests_per_second": window.requests / window.seconds,
    }


def idle(stack: Stack, name: str, seconds: float) -> dict[str, float]:
    """Measure one check a second with nothing new: a worker's usual life."""
    interval = {"GEX_SCHEDULE__MIN_INTERVAL_SECONDS": "1"}
    # Frozen levels make one event of each symbol, and no more.
    events = len(SYMBOLS)
    with (
        _frozen(stack.upstream),
        _warm_worker(stack, SYMBOLS, name, events, **interval) as worker,
    ):
        time.sleep(_SETTLE_SECONDS)
        window = worker.during(seconds)
        resident_bytes = worker.usage().resident_bytes
    return {
        "resident_mib": resident_bytes / MIB,
        "cpu_percent": window.cores * 100,
    }


def _figures(window: Window) -> dict[str, float]:
    # A collapsed observation has no event of its own.
    observations = window.collapsed + window.events
    return {
        "cpu_micros_per_event": window.cpu_micros_per_event,
        "events_per_second": window.events_per_second,
        "cores": window.cores,
        "collapsed_percent": 100 * window.collapsed / observations,
    }
