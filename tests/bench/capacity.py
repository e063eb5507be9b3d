"""`python -m tests.bench.capacity`: the cost of one worker for 80, 800 and 8,000 symbols.

One feed, all includes, refreshed every 30 s at each symbol's own moments; the simulator
without a limit, and as many requests as show each batch twice per refresh. A worker
learns for some minutes; then three windows follow: as it is; with an upstream that
stands still, so that checks bring nothing new; and with one that refuses (429), so that
nothing is requested.

CPU is the worker's alone, all threads, without simulator and broker; times are of a
machine that all three share. Other programs on the machine add to CPU times too: a
yardstick, a piece of work that is always the same, shows by how much.
"""

from __future__ import annotations

import argparse
import json
import math
import tempfile
import time
import urllib.request
import uuid
from collections import defaultdict
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import mean
from typing import TYPE_CHECKING, Any, Final

import psutil

from connector.devkit.local_kafka import LocalKafka
from connector.devkit.simulator.settings import DEFAULT_KEY, EIGHT_SYMBOLS, INCLUDES
from connector.schedule.batches import MAX_SYMBOLS
from connector.upstream.budget.other_clients import PLANNED_FRACTION
from tests.bench.measure import MIB, MICROS, Usage, cpu_micros
from tests.support.processes import (
    PATIENCE_SECONDS,
    Program,
    start_simulator,
    start_worker,
    wait_until,
)

if TYPE_CHECKING:
    from collections.abc import Mapping

# As the real upstream recomputes its levels.
REFRESH_SECONDS: Final = 30

# Of each batch: enough for the target delay if a batch's symbols are refreshed
# together.
CHECKS_PER_REFRESH: Final = 2

_SIZES: Final = "80,800,8000,8000x4"

# Often enough to see a stall that lasts a second, seldom enough not to cost CPU.
_PROBE_EVERY_SECONDS: Final = 0.25

# With the time before it, less than levels take to become stale (90 s).
_QUIET_SECONDS: Final = 40

# After a fault begins: let the answers under way arrive.
_SETTLE_SECONDS: Final = 2

# Until all levels are fresh again.
_RECOVERY_SECONDS: Final = 45

# Longer than the measurement: the worker does not try again within it.
_REFUSED_SECONDS: Final = 600

# Decoding this text is the piece of work that shows how busy the machine is.
_YARDSTICK_ROWS: Final = 1000
_YARDSTICK: Final = json.dumps(
    [{"strike": row / 7, "gex": [row] * 3} for row in range(_YARDSTICK_ROWS)]
)

# The counters of a worker that are read, by the name of their figure.
_METRICS: Final = {
    "events": "gex_events_total",
    "requests": "gex_upstream_requests_total",
    "transactions": "gex_transactions_total",
    "delay_seconds": "gex_detection_delay_seconds_sum",
    "delays": "gex_detection_delay_seconds_count",
}


@dataclass(frozen=True, slots=True)
class Size:
    """A number of symbols, in some shards of one worker."""

    symbols: int
    shards: int

    @classmethod
    def parse(cls, text: str) -> Size:
        """Parse `800`, or `8000x4` for four shards."""
        symbols, separator, shards = text.partition("x")
        if not separator:
            return cls(int(symbols), 1)
        return cls(int(symbols), int(shards))

    def __str__(self) -> str:
        if self.shards == 1:
            return str(self.symbols)
        return f"{self.symbols}x{self.shards}"

    @property
    def names(self) -> list[str]:
        """Return the symbols' names, the simulator's own first."""
        invented = [f"T{number:04d}USDT" for number in range(self.symbols)]
        names = [*EIGHT_SYMBOLS, *invented]
        return names[: self.symbols]

    @property
    def batches(self) -> int:
        return math.ceil(self.symbols / MAX_SYMBOLS)

    @property
    def cap_per_minute(self) -> int:
        """Return the requests that the worker is allowed."""
        refreshes_per_minute = 60 / REFRESH_SECONDS
        return round(self.batches * CHECKS_PER_REFRESH * refreshes_per_minute)


@dataclass(frozen=True, slots=True)
class Scrape:
    """The answer of `/metrics`, each metric summed over its series, and the time it took."""

    totals: Mapping[str, float]
    series: int
    size_bytes: int
    seconds: float

    @classmethod
    def of(cls, worker: Program) -> Scrape:
        started_at = time.monotonic()
        body = _get(f"{worker.url}/metrics")
        seconds = time.monotonic() - started_at

        totals: dict[str, float] = defaultdict(float)
        series = 0
        for line in body.decode().splitlines():
            # Comments carry the help and the type of a metric.
            if line.startswith("#"):
                continue
            series_name, _, value = line.rpartition(" ")
            metric, _, _ = series_name.partition("{")
            totals[metric] += float(value)
            series += 1
        return cls(totals, series, len(body), seconds)


@dataclass(frozen=True, slots=True)
class Window:
    """Figures of a worker between two moments, for each minute. CPU is in seconds of one core."""

    cpu: float
    broker_cpu: float
    events: float
    requests: float
    transactions: float
    changes_bytes: float
    current_bytes: float
    mean_delay_seconds: float
    slowest_probe_seconds: float
    yardstick_micros: float


@dataclass(frozen=True, slots=True)
class _Reading:
    """The counters at a moment. Written bytes are by topic."""

    at: float
    worker_cpu_seconds: float
    broker_cpu_seconds: float
    written: Mapping[str, int]


class Bench:
    """A broker, and one size after another."""

    def __init__(
        self, kafka: LocalKafka, phase: str, learn_seconds: float, seconds: float
    ) -> None:
        self._kafka = kafka
        self._phase = phase
        self._learn_seconds = learn_seconds
        self._seconds = seconds

    def measure(self, size: Size) -> dict[str, Any]:
        """Return every figure of one size."""
        prefix = f"capacity.{uuid.uuid4().hex[:8]}"
        symbols = ",".join(size.names)
        options = ("--symbols", symbols, "--limit", "0", "--phase", self._phase)
        with start_simulator(*options) as simulator:
            variables = self._variables(size, prefix, simulator)
            started_at = time.monotonic()
            with start_worker(variables) as worker:
                found: dict[str, Any] = {"ready": time.monotonic() - started_at}
                _wait_until_all_published(worker, size)
                found["all published"] = time.monotonic() - started_at
                found |= self._measure_windows(worker, simulator, prefix)
                assert worker.terminate() == 0

            # Once more, now with a state of each symbol to restore.
            with start_worker(variables, wait_ready=False) as again:
                found |= _restart(again)
        # The machine is quiet by now.
        found["least_yardstick_micros"] = cpu_micros(_yardstick, 1000)
        return found

    def _measure_windows(
        self, worker: Program, simulator: Program, prefix: str
    ) -> dict[str, Any]:
        found: dict[str, Any] = {}
        # As it is, once the schedule knows the rhythm of each symbol.
        time.sleep(self._learn_seconds)
        found["polled"] = asdict(self._watch(worker, prefix, self._seconds))
        found |= _resident(worker)

        # An upstream that stands still: every check brings the same answer.
        simulator.ask("/_control/faults", {"fault": "freeze"})
        time.sleep(_SETTLE_SECONDS)
        found["nothing new"] = asdict(self._watch(worker, prefix, _QUIET_SECONDS))
        _clear_faults(simulator)
        time.sleep(_RECOVERY_SECONDS)

        # An upstream that refuses: only timers and heartbeats are left.
        refusal = {"fault": "429", "retry_after_seconds": _REFUSED_SECONDS}
        simulator.ask("/_control/faults", refusal)
        time.sleep(_SETTLE_SECONDS)
        found["nothing asked"] = asdict(self._watch(worker, prefix, _QUIET_SECONDS))
        found |= _scraped(worker)
        return found

    def _variables(self, size: Size, prefix: str, simulator: Program) -> dict[str, str]:
        return {
            "GEX_UPSTREAM__BASE_URL": f"{simulator.url}/v2",
            "GEX_UPSTREAM__API_KEY": DEFAULT_KEY,
            "GEX_UPSTREAM__MAX_REQUESTS_PER_MINUTE": str(size.cap_per_minute),
            "GEX_SYMBOLS": ",".join(size.names),
            "GEX_INCLUDE": ",".join(INCLUDES),
            "GEX_KAFKA__BOOTSTRAP_SERVERS": self._kafka.bootstrap_servers,
            "GEX_KAFKA__TOPIC_PREFIX": prefix,
            "GEX_KAFKA__GROUP_ID": prefix,
            "GEX_KAFKA__SHARDS": str(size.shards),
        }

    def _watch(self, worker: Program, prefix: str, seconds: float) -> Window:
        """Measure CPU and bytes for a while.

        Scrapes cost CPU themselves, so they come before and after. A probe now and then
        shows stalls.
        """
        counted_from = time.monotonic()
        totals_before = Scrape.of(worker).totals
        before = self._read(worker, prefix)

        slowest_probe_seconds = 0.0
        yardsticks = []
        while time.monotonic() - before.at < seconds:
            probed_at = time.monotonic()
            _get(f"{worker.url}/health/live")
            probe_seconds = time.monotonic() - probed_at
            slowest_probe_seconds = max(slowest_probe_seconds, probe_seconds)
            yardsticks.append(cpu_micros(_yardstick, 1))
            time.sleep(_PROBE_EVERY_SECONDS)

        after = self._read(worker, prefix)
        counted_seconds = time.monotonic() - counted_from
        totals_after = Scrape.of(worker).totals

        # Counters are those of the scrapes, which lie a little further apart.
        per_minute = {}
        for name, metric in _METRICS.items():
            increase = totals_after[metric] - totals_before[metric]
            per_minute[name] = increase * 60 / counted_seconds
        # Without an event there is no delay: avoid dividing by zero.
        delays = max(per_minute["delays"], 1e-9)

        minutes = (after.at - before.at) / 60
        cpu_seconds = after.worker_cpu_seconds - before.worker_cpu_seconds
        broker_cpu_seconds = after.broker_cpu_seconds - before.broker_cpu_seconds
        changes_bytes = after.written["changes"] - before.written["changes"]
        current_bytes = after.written["current"] - before.written["current"]
        return Window(
            cpu=cpu_seconds / minutes,
            broker_cpu=broker_cpu_seconds / minutes,
            events=per_minute["events"],
            requests=per_minute["requests"],
            transactions=per_minute["transactions"],
            changes_bytes=changes_bytes / minutes,
            current_bytes=current_bytes / minutes,
            mean_delay_seconds=per_minute["delay_seconds"] / delays,
            slowest_probe_seconds=slowest_probe_seconds,
            yardstick_micros=mean(yardsticks),
        )

    def _read(self, worker: Program, prefix: str) -> _Reading:
        return _Reading(
            time.monotonic(),
            Usage.of(worker.pid).cpu_seconds,
            Usage.of(self._kafka.pid).cpu_seconds,
            self._written(prefix),
        )

    def _written(self, prefix: str) -> dict[str, int]:
        """Return the bytes of each topic's segments on disk, without indexes."""
        data = self._kafka.data_dir / "data"
        found = {}
        for topic in ("changes", "current"):
            segments = data.glob(f"{prefix}.all.{topic}-*/*.log")
            found[topic] = sum(segment.stat().st_size for segment in segments)
        return found


def _get(url: str) -> bytes:
    with urllib.request.urlopen(url, timeout=PATIENCE_SECONDS) as response:
        body: bytes = response.read()
    return body


def _yardstick() -> None:
    """Do a piece of work that is always the same."""
    json.loads(_YARDSTICK)


def _clear_faults(simulator: Program) -> None:
    request = urllib.request.Request(
        f"{simulator.url}/_control/faults", method="DELETE"
    )
    urllib.request.urlopen(request, timeout=PATIENCE_SECONDS).close()


def _wait_until_all_published(worker: Program, size: Size) -> None:
    # A scrape of thousands of symbols takes long: scrape more seldom.
    pause_seconds = max(0.2, size.symbols / 1000)
    while Scrape.of(worker).totals["gex_events_total"] < size.symbols:
        assert worker.running, worker.log()[-2000:]
        time.sleep(pause_seconds)


def _resident(worker: Program) -> dict[str, float]:
    process = psutil.Process(worker.pid)
    return {
        "resident_mib": process.memory_info().rss / MIB,
        "threads": process.num_threads(),
    }


def _scraped(worker: Program) -> dict[str, float]:
    """Return the cost of a scrape of an idle worker, and its memory afterwards."""
    cpu_seconds_before = Usage.of(worker.pid).cpu_seconds
    scrapes = [Scrape.of(worker) for _ in range(3)]
    cpu_seconds = Usage.of(worker.pid).cpu_seconds - cpu_seconds_before
    last = scrapes[-1]
    return {
        "scrape_seconds": min(scrape.seconds for scrape in scrapes),
        "scrape_cpu": cpu_seconds / len(scrapes),
        "scrape_bytes": last.size_bytes,
        "scrape_series": last.series,
        "resident_mib_after_scrapes": Usage.of(worker.pid).resident_bytes / MIB,
    }


def _restart(worker: Program) -> dict[str, float]:
    """Return the cost of a start with states to restore."""
    started_at = time.monotonic()
    wait_until(worker.ready, "the worker is ready again", worker)
    ready_seconds = time.monotonic() - started_at
    ready_cpu_seconds = Usage.of(worker.pid).cpu_seconds
    totals = Scrape.of(worker).totals
    return {
        "ready again": ready_seconds,
        "ready again cpu": ready_cpu_seconds,
        "restore_records": totals["gex_restore_records_total"],
        "restore_seconds": totals["gex_restore_duration_seconds_sum"],
        "resident_mib_ready_again": Usage.of(worker.pid).resident_bytes / MIB,
    }


def table(results: Mapping[str, Mapping[str, Any]]) -> str:
    """Return a table with a column for each size."""
    rows: dict[str, str] = {}
    for text, found in results.items():
        column = _column(Size.parse(text), found)
        for label, cell in column.items():
            row = rows.get(label, f"{label:30}")
            rows[label] = f"{row}{cell:>12}"
    return "\n".join(rows.values())


def _column(size: Size, found: Mapping[str, Any]) -> dict[str, str]:
    return {
        **_work_cells(size, found["polled"]),
        **_cost_cells(found),
        **_process_cells(found),
    }


def _work_cells(size: Size, polled: Mapping[str, float]) -> dict[str, str]:
    """Return how much the worker did."""
    events = polled["events"]
    bytes_per_state = "?"
    # After ten minutes the topic is compacted, and shrinks.
    if polled["current_bytes"] > 0:
        bytes_per_state = f"{polled['current_bytes'] / events:.0f}"
    planned = PLANNED_FRACTION * size.cap_per_minute
    return {
        "symbols x shards": str(size),
        "batches": f"{size.batches}",
        "requests a minute, cap": f"{size.cap_per_minute}",
        "requests a minute, planned": f"{planned:.0f}",
        "requests a minute": f"{polled['requests']:.0f}",
        "mean delay, s": f"{polled['mean_delay_seconds']:.2f}",
        "events a minute": f"{events:.0f}",
        "transactions a minute": f"{polled['transactions']:.0f}",
        "bytes an event: changes": f"{polled['changes_bytes'] / events:.0f}",
        "bytes an event: current": bytes_per_state,
        "MB a minute: changes": f"{polled['changes_bytes'] / 1e6:.2f}",
    }


def _cost_cells(found: Mapping[str, Any]) -> dict[str, str]:
    """Return the CPU time of worker and broker."""
    polled = found["polled"]
    idle = found["nothing asked"]
    # An idle worker's CPU is not the events' to pay for.
    cpu_of_events = polled["cpu"] - idle["cpu"]
    event_micros = cpu_of_events / polled["events"] * MICROS
    slowdown = polled["yardstick_micros"] / found["least_yardstick_micros"]
    return {
        "worker: CPU seconds a minute": f"{polled['cpu']:.2f}",
        "  if nothing is new": f"{found['nothing new']['cpu']:.2f}",
        "  if nothing is requested": f"{idle['cpu']:.2f}",
        "  an event, µs, all in": f"{event_micros:.0f}",
        "  the yardstick took, times": f"{slowdown:.1f}",
        "broker: CPU seconds a minute": f"{polled['broker_cpu']:.2f}",
    }


def _process_cells(found: Mapping[str, Any]) -> dict[str, str]:
    """Return memory, scrapes and starts."""
    return {
        "resident, MiB": f"{found['resident_mib']:.0f}",
        "  after three scrapes": f"{found['resident_mib_after_scrapes']:.0f}",
        "  ready again": f"{found['resident_mib_ready_again']:.0f}",
        "threads": f"{found['threads']}",
        "slowest probe, s": f"{found['polled']['slowest_probe_seconds']:.2f}",
        "/metrics: series": f"{found['scrape_series']}",
        "/metrics: MB": f"{found['scrape_bytes'] / 1e6:.2f}",
        "/metrics: s": f"{found['scrape_seconds']:.2f}",
        "/metrics: CPU s": f"{found['scrape_cpu']:.2f}",
        "start → ready, no states, s": f"{found['ready']:.1f}",
        "start → all published, s": f"{found['all published']:.1f}",
        "start → ready, states, s": f"{found['ready again']:.1f}",
        "  CPU s": f"{found['ready again cpu']:.1f}",
        "  records read": f"{found['restore_records']:.0f}",
    }


def options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m tests.bench.capacity", description=__doc__
    )
    parser.add_argument(
        "--sizes",
        default=_SIZES,
        help="symbols, or symbols x shards (default %(default)s)",
    )
    parser.add_argument(
        "--learn",
        type=float,
        default=150,
        metavar="SECONDS",
        help="before it is measured (%(default)g)",
    )
    parser.add_argument(
        "--seconds", type=float, default=90, help="that are measured (%(default)g)"
    )
    parser.add_argument(
        "--phase",
        default="own",
        choices=("own", "together"),
        help="of the symbols' refreshes",
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="write every figure")
    return parser.parse_args()


def main() -> None:
    chosen = options()
    results: dict[str, Any] = {}
    with (
        tempfile.TemporaryDirectory(prefix="gex-capacity-") as folder,
        LocalKafka(Path(folder) / "kafka") as kafka,
    ):
        bench = Bench(kafka, chosen.phase, chosen.learn, chosen.seconds)
        for text in chosen.sizes.split(","):
            size = Size.parse(text)
            found = bench.measure(size)
            results[str(size)] = found
            print(json.dumps({str(size): found}), flush=True)
    print(table(results))
    if chosen.json:
        chosen.json.write_text(json.dumps(results, indent=2) + "\n")


if __name__ == "__main__":
    main()
