"""A worker and a standby, watched by a Prometheus while the upstream, the worker and a broker's address fail."""

from __future__ import annotations

import signal
import time
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from threading import Event
from typing import TYPE_CHECKING, Any

from connector.devkit.java import free_port
from tests.support.processes import (
    start_simulator,
    start_worker,
    variables_for,
    wait_until,
)
from tests.system.grafana import Window, start_scraping

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from connector.devkit.local_kafka import LocalKafka
    from tests.conftest import Names
    from tests.support.processes import Program
    from tests.system.grafana import Prometheus


@dataclass(frozen=True, slots=True)
class Pace:
    """How fast all goes, in seconds: the refreshes, the scrapes, each calm part and each fault."""

    refresh: int
    scrape: int
    calm: int
    fault: int


def faults(pace: Pace) -> list[dict[str, Any]]:
    """Of the upstream: a symbol is missing, one is of no use, one stands still; then nothing answers for a moment."""
    return [
        {"fault": "missing", "symbols": ["ETHUSDT"], "for_seconds": pace.fault},
        {"fault": "wrong_types", "symbols": ["SOLUSDT"], "for_seconds": pace.fault},
        {"fault": "freeze", "symbols": ["XRPUSDT"], "for_seconds": 2 * pace.fault},
        {"fault": "503", "at_seconds": pace.fault, "for_seconds": pace.fault / 2},
    ]


@contextmanager
def watched(
    kafka: LocalKafka, names: Names, folder: Path, pace: Pace
) -> Iterator[tuple[Prometheus, Window]]:
    """Prometheus and the time that it saw, once everything that is to go wrong went wrong and is well again."""
    pause = Event().wait
    with ExitStack() as stack:
        simulator = stack.enter_context(
            start_simulator("--period", str(pace.refresh), "--limit", "300")
        )
        variables = variables_for(kafka, names, simulator)
        # The second address is nobody's: clients say so, and go on with the first.
        variables["GEX_KAFKA__BOOTSTRAP_SERVERS"] += f",127.0.0.1:{free_port()}"
        owner, standby = (
            stack.enter_context(start_worker(variables)) for _ in range(2)
        )
        prometheus = stack.enter_context(
            start_scraping(folder, [owner, standby], pace.scrape)
        )
        start = time.time()
        pause(pace.calm)
        simulator.ask("/_control/faults", faults(pace))
        for seconds in (
            2 * pace.fault,
            pace.calm,
        ):  # twice: what is spent as a minute ends is noticed by nobody
            simulator.ask("/_control/spend", {"requests": 60})
            pause(seconds)
        _frozen(owner, standby)
        pause(pace.calm)
        yield prometheus, Window(start, time.time(), pace.scrape)


def _frozen(owner: Program, standby: Program) -> None:
    """Stop the owner until the standby has its shard, and let it go on."""
    owner.signal(signal.SIGSTOP)
    try:
        wait_until(
            lambda: standby.metric("gex_shards_owned"),
            "the standby has the shard",
            standby,
        )
    finally:
        owner.signal(signal.SIGCONT)
    wait_until(lambda: standby.ready() and owner.ready(), "both are ready", owner)
