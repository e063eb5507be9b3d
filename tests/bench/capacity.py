"""`python -m tests.bench.capacity`: what one worker takes for 80, 800 and 8,000 symbols, and whether that was foreseen.

One feed, all includes, refreshed every 30 s at moments of each symbol's own; the simulator without a limit, and as many
requests as show each batch twice a refresh. A worker learns for some minutes; then follow three windows: as it is; with
an upstream that stands still, so that checks bring nothing; and with one that refuses (429), so that nothing is asked.
CPU is the worker's alone, all threads, simulator and broker apart; times are of a machine that all three share. What
else runs there adds to CPU too: a piece of work that is always the same says how much.
"""

from __future__ import annotations

import argparse
import json
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
from connector.devkit.simulator.settings import DEFAULT_KEY, DEFAULT_SYMBOLS, INCLUDES
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

REFRESH_SECONDS: Final = 30
CHECKS_A_REFRESH: Final = 2
"""That may be made of each batch: enough for the target delay where a batch's symbols are refreshed together."""

_SIZES: Final = "80,800,8000,8000x4"
_PROBE_SECONDS: Final = 0.25
_QUIET_SECONDS: Final = 40
"""Less than levels take to become stale (90 s), with what comes before."""

_RECOVERY_SECONDS: Final = 45
"""Until all levels are fresh again."""

_TEXT: Final = json.dumps([{"strike": n / 7, "gex": [n] * 3} for n in range(1000)])
_COUNTED: Final = {
    "events": "gex_events_total",
    "requests": "gex_upstream_requests_total",
    "transactions": "gex_transactions_total",
    "delay_seconds": "gex_detection_delay_seconds_sum",
    "delays": "gex_detection_delay_seconds_count",
}


@dataclass(frozen=True, slots=True)
class Size:
    """So many symbols in so many shards of one worker."""

    symbols: int
    shards: int

    @classmethod
    def of(cls, text: str) -> Size:
        """`800`, or `8000x4`: four shards."""
        symbols, _, shards = text.partition("x")
        return cls(int(symbols), int(shards or 1))

    def __str__(self) -> str:
        return (
            f"{self.symbols}" if self.shards == 1 else f"{self.symbols}x{self.shards}"
        )

    @property
    def names(self) -> list[str]:
        return [*DEFAULT_SYMBOLS, *(f"T{n:04d}USDT" for n in range(self.symbols))][
            : self.symbols
        ]

    @property
    def batches(self) -> int:
        return -(-self.symbols // MAX_SYMBOLS)

    @property
    def cap_per_minute(self) -> int:
        return round(self.batches * CHECKS_A_REFRESH * 60 / REFRESH_SECONDS)


@dataclass(frozen=True, slots=True)
class Scrape:
    """What `/metrics` says, each metric summed over its series; and what it took to say it."""

    totals: Mapping[str, float]
    series: int
    size: int
    seconds: float

    @classmethod
    def of(cls, worker: Program) -> Scrape:
        started = time.monotonic()
        with urllib.request.urlopen(
            f"{worker.url}/metrics", timeout=PATIENCE_SECONDS
        ) as response:
            body = response.read()
        seconds, totals, series = (
            time.monotonic() - started,
            defaultdict[str, float](float),
            0,
        )
        for line in body.decode().splitlines():
            if not line.startswith("#"):
                name, _, value = line.rpartition(" ")
                totals[name.partition("{")[0]] += float(value)
                series += 1
        return cls(totals, series, len(body), seconds)


@dataclass(frozen=True, slots=True)
class Window:
    """What happened between two looks, a minute; CPU in seconds of one core."""

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


class Bench:
    """A broker, and one size after another."""

    def __init__(self, kafka: LocalKafka, phase: str) -> None:
        self._kafka = kafka
        self._phase = phase

    def measure(
        self, size: Size, learn_seconds: float, seconds: float
    ) -> dict[str, Any]:
        prefix = f"capacity.{uuid.uuid4().hex[:8]}"
        simulated = (
            "--symbols",
            ",".join(size.names),
            "--limit",
            "0",
            "--phase",
            self._phase,
        )
        with start_simulator(*simulated) as simulator:
            variables = self._variables(size, prefix, simulator)
            started = time.monotonic()
            with start_worker(variables) as worker:
                found: dict[str, Any] = {"ready": time.monotonic() - started}
                every = max(0.2, size.symbols / 1000)
                while Scrape.of(worker).totals["gex_events_total"] < size.symbols:
                    assert worker.running, worker.log()[-2000:]
                    time.sleep(every)
                found["all published"] = time.monotonic() - started
                time.sleep(learn_seconds)
                found["polled"] = asdict(self._watch(worker, prefix, seconds))
                found |= _resident(worker)
                simulator.ask("/_control/faults", {"fault": "freeze"})
                time.sleep(2)
                found["nothing new"] = asdict(
                    self._watch(worker, prefix, _QUIET_SECONDS)
                )
                urllib.request.urlopen(
                    _cleared(simulator), timeout=PATIENCE_SECONDS
                ).close()
                time.sleep(_RECOVERY_SECONDS)
                simulator.ask(
                    "/_control/faults", {"fault": "429", "retry_after_seconds": 600}
                )
                time.sleep(2)
                found["nothing asked"] = asdict(
                    self._watch(worker, prefix, _QUIET_SECONDS)
                )
                found |= _scraped(worker)
                assert worker.terminate() == 0
            with start_worker(variables, wait_ready=False) as again:
                found |= _restart(again)
        return found | {"least_yardstick_micros": cpu_micros(_yardstick, 1000)}

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
        """CPU and bytes between two scrapes, which cost CPU of their own; a probe now and then tells of stalls."""
        counted_from, before, began = (
            time.monotonic(),
            Scrape.of(worker).totals,
            time.monotonic(),
        )
        used, broker, bytes_before = (
            Usage.of(worker.pid),
            Usage.of(self._kafka.pid),
            self._bytes(prefix),
        )
        slowest, yardsticks = 0.0, []
        while time.monotonic() - began < seconds:
            asked = time.monotonic()
            urllib.request.urlopen(
                f"{worker.url}/health/live", timeout=PATIENCE_SECONDS
            ).close()
            slowest = max(slowest, time.monotonic() - asked)
            yardsticks.append(cpu_micros(_yardstick, 1))
            time.sleep(_PROBE_SECONDS)
        passed, bytes_after = time.monotonic() - began, self._bytes(prefix)
        cpu = Usage.of(worker.pid).cpu_seconds - used.cpu_seconds
        broker_cpu = Usage.of(self._kafka.pid).cpu_seconds - broker.cpu_seconds
        counted, after = time.monotonic() - counted_from, Scrape.of(worker).totals
        more = {
            name: (after[metric] - before[metric]) * 60 / counted
            for name, metric in _COUNTED.items()
        }
        a_minute = 60 / passed
        return Window(
            cpu=cpu * a_minute,
            broker_cpu=broker_cpu * a_minute,
            events=more["events"],
            requests=more["requests"],
            transactions=more["transactions"],
            changes_bytes=(bytes_after["changes"] - bytes_before["changes"]) * a_minute,
            current_bytes=(bytes_after["current"] - bytes_before["current"]) * a_minute,
            mean_delay_seconds=more["delay_seconds"] / max(more["delays"], 1e-9),
            slowest_probe_seconds=slowest,
            yardstick_micros=mean(yardsticks),
        )

    def _bytes(self, prefix: str) -> dict[str, int]:
        """Of the segments of each topic as they lie on the disk, indexes apart."""
        data = self._kafka.data_dir / "data"
        return {
            topic: sum(
                file.stat().st_size
                for file in data.glob(f"{prefix}.all.{topic}-*/*.log")
            )
            for topic in ("changes", "current")
        }


def _yardstick() -> None:
    """The same work again and again: how much more CPU it takes than the least says what else runs here."""
    json.loads(_TEXT)


def _cleared(simulator: Program) -> urllib.request.Request:
    return urllib.request.Request(f"{simulator.url}/_control/faults", method="DELETE")


def _resident(worker: Program) -> dict[str, float]:
    process = psutil.Process(worker.pid)
    return {
        "resident_mib": process.memory_info().rss / MIB,
        "threads": process.num_threads(),
    }


def _scraped(worker: Program) -> dict[str, float]:
    """What one scrape takes of a worker that does nothing else, and what is resident after it."""
    used = Usage.of(worker.pid).cpu_seconds
    scrapes = [Scrape.of(worker) for _ in range(3)]
    return {
        "scrape_seconds": min(scrape.seconds for scrape in scrapes),
        "scrape_cpu": (Usage.of(worker.pid).cpu_seconds - used) / len(scrapes),
        "scrape_bytes": scrapes[-1].size,
        "scrape_series": scrapes[-1].series,
        "resident_mib_after_scrapes": Usage.of(worker.pid).resident_bytes / MIB,
    }


def _restart(worker: Program) -> dict[str, float]:
    started = time.monotonic()
    wait_until(worker.ready, "the worker is ready again", worker)
    found = {
        "ready again": time.monotonic() - started,
        "ready again cpu": Usage.of(worker.pid).cpu_seconds,
    }
    totals = Scrape.of(worker).totals
    return found | {
        "restore_records": totals["gex_restore_records_total"],
        "restore_seconds": totals["gex_restore_duration_seconds_sum"],
        "resident_mib_ready_again": Usage.of(worker.pid).resident_bytes / MIB,
    }


def table(results: Mapping[str, Mapping[str, Any]]) -> str:
    """One column a size."""
    rows: dict[str, list[str]] = defaultdict(list)
    for text, found in results.items():
        size, polled, quiet, idle = (
            Size.of(text),
            found["polled"],
            found["nothing new"],
            found["nothing asked"],
        )
        least = found["least_yardstick_micros"]
        rows["symbols x shards"].append(text)
        rows["batches"].append(f"{size.batches}")
        rows["requests a minute, cap"].append(f"{size.cap_per_minute}")
        rows["requests a minute, planned"].append(
            f"{PLANNED_FRACTION * size.cap_per_minute:.0f}"
        )
        rows["requests a minute"].append(f"{polled['requests']:.0f}")
        rows["mean delay, s"].append(f"{polled['mean_delay_seconds']:.2f}")
        rows["events a minute"].append(f"{polled['events']:.0f}")
        rows["transactions a minute"].append(f"{polled['transactions']:.0f}")
        rows["bytes an event: changes"].append(
            f"{polled['changes_bytes'] / polled['events']:.0f}"
        )
        whole = (
            polled["current_bytes"] > 0
        )  # after ten minutes it is compacted, and shrinks
        rows["bytes an event: current"].append(
            f"{polled['current_bytes'] / polled['events']:.0f}" if whole else "?"
        )
        rows["MB a minute: changes"].append(f"{polled['changes_bytes'] / 1e6:.2f}")
        rows["worker: CPU seconds a minute"].append(f"{polled['cpu']:.2f}")
        rows["  where nothing is new"].append(f"{quiet['cpu']:.2f}")
        rows["  where nothing is asked"].append(f"{idle['cpu']:.2f}")
        rows["  an event, µs, all in"].append(
            f"{(polled['cpu'] - idle['cpu']) / polled['events'] * MICROS:.0f}"
        )
        rows["  the same work took, times"].append(
            f"{polled['yardstick_micros'] / least:.1f}"
        )
        rows["broker: CPU seconds a minute"].append(f"{polled['broker_cpu']:.2f}")
        rows["resident, MiB"].append(f"{found['resident_mib']:.0f}")
        rows["  after three scrapes"].append(
            f"{found['resident_mib_after_scrapes']:.0f}"
        )
        rows["  ready again"].append(f"{found['resident_mib_ready_again']:.0f}")
        rows["threads"].append(f"{found['threads']}")
        rows["slowest probe, s"].append(f"{polled['slowest_probe_seconds']:.2f}")
        rows["/metrics: series"].append(f"{found['scrape_series']}")
        rows["/metrics: MB"].append(f"{found['scrape_bytes'] / 1e6:.2f}")
        rows["/metrics: s"].append(f"{found['scrape_seconds']:.2f}")
        rows["/metrics: CPU s"].append(f"{found['scrape_cpu']:.2f}")
        rows["start → ready, no states, s"].append(f"{found['ready']:.1f}")
        rows["start → all published, s"].append(f"{found['all published']:.1f}")
        rows["start → ready, states, s"].append(f"{found['ready again']:.1f}")
        rows["  CPU s"].append(f"{found['ready again cpu']:.1f}")
        rows["  records read"].append(f"{found['restore_records']:.0f}")
    return "\n".join(
        f"{label:30}" + "".join(f"{cell:>12}" for cell in cells)
        for label, cells in rows.items()
    )


def main() -> None:
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
    options = parser.parse_args()
    results: dict[str, Any] = {}
    with (
        tempfile.TemporaryDirectory(prefix="gex-capacity-") as folder,
        LocalKafka(Path(folder) / "kafka") as kafka,
    ):
        for text in options.sizes.split(","):
            size = Size.of(text)
            results[str(size)] = Bench(kafka, options.phase).measure(
                size, options.learn, options.seconds
            )
            print(json.dumps({str(size): results[str(size)]}), flush=True)
    print(table(results))
    if options.json:
        options.json.write_text(json.dumps(results, indent=2) + "\n")


if __name__ == "__main__":
    main()
