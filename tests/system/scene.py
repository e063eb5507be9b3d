"""A worker and a standby, scraped by Prometheus, while everything around them fails."""

from __future__ import annotations

import signal
import time
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from threading import Event
from typing import TYPE_CHECKING, Any

from connector.devkit.loopback_ports import free_port
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
    """Durations in seconds: between refreshes and scrapes, of a calm part and of a fault."""

    refresh: int
    scrape: int
    calm: int
    fault: int


def faults(pace: Pace) -> list[dict[str, Any]]:
    """Return the upstream's faults: three symbols with one each, then an outage."""
    return [
        {"fault": "missing", "symbols": ["ETHUSDT"], "for_seconds": pace.fault},
        {"fault": "wrong_types", "symbols": ["SOLUSDT"], "for_seconds": pace.fault},
        {"fault": "freeze", "symbols": ["XRPUSDT"], "for_seconds": 2 * pace.fault},
        {"fault": "flow_fallback", "symbols": ["BNBUSDT"], "for_seconds": pace.fault},
        {
            "fault": "renamed",
            "variant": "dash",
            "symbols": ["DOGEUSDT"],
            "for_seconds": pace.fault,
        },
        {"fault": "503", "at_seconds": pace.fault, "for_seconds": pace.fault / 2},
    ]


# Fleets and figures of the last minutes need some time before a picture is calm.
WARM_UP_SECONDS = 300


@dataclass(frozen=True, slots=True)
class Fleet:
    """A worker that owns the shard, a standby, their upstream, and Prometheus."""

    simulator: Program
    owner: Program
    standby: Program
    prometheus: Prometheus


# The pace of the real API and of deploy/prometheus.
CALM_PACE = Pace(refresh=30, scrape=15, calm=3600, fault=0)


@contextmanager
def calm_hour(
    kafka: LocalKafka, names: Names, folder: Path
) -> Iterator[tuple[Prometheus, Window]]:
    """Yield Prometheus and the hour it has seen, in which nothing fails."""
    with _fleet(kafka, names, folder, CALM_PACE) as fleet:
        Event().wait(WARM_UP_SECONDS)
        start = time.time()
        Event().wait(CALM_PACE.calm)
        yield fleet.prometheus, Window(start, time.time(), CALM_PACE.scrape)


@contextmanager
def watched(
    kafka: LocalKafka, names: Names, folder: Path, pace: Pace
) -> Iterator[tuple[Prometheus, Window]]:
    """Yield Prometheus and the time it has seen, after every fault and its recovery."""
    pause = Event().wait
    # Nothing listens on the second address. Clients report that, and use the first.
    more_servers = f",127.0.0.1:{free_port()}"
    with _fleet(kafka, names, folder, pace, more_servers) as fleet:
        start = time.time()
        pause(pace.calm)

        fleet.simulator.ask("/_control/faults", faults(pace))
        # Another client spends requests, twice: nobody notices those at a minute's end.
        # The faults end within the first pause, and the symbols recover in the second.
        for seconds in (2 * pace.fault, pace.calm):
            fleet.simulator.ask("/_control/spend", {"requests": 60})
            pause(seconds)

        _fail_over(fleet.owner, fleet.standby)
        pause(pace.calm)
        end = _settled_moment(fleet.prometheus, pace.scrape)
        yield fleet.prometheus, Window(start, end, pace.scrape)


@contextmanager
def _fleet(
    kafka: LocalKafka, names: Names, folder: Path, pace: Pace, more_servers: str = ""
) -> Iterator[Fleet]:
    """Run two workers with their upstream, and a Prometheus that scrapes them."""
    with ExitStack() as stack:
        simulator = stack.enter_context(
            start_simulator(
                *("--period", str(pace.refresh)),
                *("--limit", "300"),
                # More than the scene needs, so that the month is shown and slows nothing.
                *("--set", "limit_per_month=10000000"),
            )
        )
        variables = variables_for(kafka, names, simulator)
        variables["GEX_KAFKA__BOOTSTRAP_SERVERS"] += more_servers
        owner = stack.enter_context(start_worker(variables))
        standby = stack.enter_context(start_worker(variables))
        prometheus = stack.enter_context(
            start_scraping(folder, [owner, standby], pace.scrape)
        )
        yield Fleet(simulator, owner, standby, prometheus)


def _settled_moment(prometheus: Prometheus, scrape_seconds: int) -> float:
    """Return a moment at which every worker had answered the last scrape in time.

    Tables and single figures show nothing else, and a busy machine answers some too late.
    """

    def settled() -> float | None:
        now = time.time()
        # A scrape that is under way counts for this moment, too.
        Event().wait(2 * scrape_seconds)
        answer = prometheus.ask("query", query="min(up) == 1", time=now)
        return now if answer["result"] else None

    moment = wait_until(settled, "every worker answers the last scrape")
    assert moment is not None
    return moment


def _fail_over(owner: Program, standby: Program) -> None:
    """Freeze the owner until the standby has taken its shard, and let it continue."""

    def standby_is_owner() -> bool:
        return standby.metric("gex_shards_owned") > 0

    def both_are_ready() -> bool:
        return standby.ready() and owner.ready()

    owner.signal(signal.SIGSTOP)
    try:
        wait_until(standby_is_owner, "the standby owns the shard", standby)
    finally:
        # Awake, the former owner finds that it was fenced, and becomes a standby.
        owner.signal(signal.SIGCONT)
    wait_until(both_are_ready, "both are ready", owner)
