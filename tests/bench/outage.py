"""`python -m tests.bench.outage`: the memory of a worker while Kafka takes nothing, second by second, and what follows.

Two ways for Kafka to be away; sixteen symbols, recomputed every second, all includes, four checks a second:

- `refused`: the feed's topics have two replicas that both must be in sync, and the broker with the second ones is
  killed. Every transaction fails, while the group goes on. A worker asks seldom for what it cannot publish; here it is
  told not to (`tests.bench.unstuck`), so that as much comes in as ever: the most that memory could be asked for.
- `killed`: the only broker is killed and started again; the worker as it is.

Afterwards every event is read: nothing is missing, doubled or out of order, and what was shown to the worker but has no
event of its own is in the `collapsed_observations` of one that has, or in the worker's count of what it dropped.
"""

from __future__ import annotations

import argparse
import itertools
import json
import sys
import tempfile
import time
import urllib.request
import uuid
from collections import Counter
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from statistics import linear_regression, mean
from typing import TYPE_CHECKING, Any, Final

import confluent_kafka as ck

from connector.core.model import Kind
from connector.devkit.java import LOOPBACK, free_port
from connector.devkit.local_kafka import LocalKafka
from connector.devkit.simulator.settings import DEFAULT_KEY, INCLUDES
from tests.bench.measure import MIB, Usage
from tests.bench.stack import MANY_SYMBOLS
from tests.support import checker
from tests.support.processes import (
    PATIENCE_SECONDS,
    Program,
    start,
    start_simulator,
    wait_until,
)

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

SYMBOLS: Final = MANY_SYMBOLS[:16]
_REFRESHES: Final = ("--period", "1", "--jitter", "0.1", "--limit", "0")
_PUBLISHED: Final = "gex_events_total"
_ASKED: Final = "gex_upstream_requests_total"
_DROPPED: Final = "gex_observations_dropped_total"
_BOTH: Final = {"min.insync.replicas": "2"}
"""Where a topic has only one replica, as the broker's own have here, one is enough all the same."""

_TITLES: Final = {
    "refused": "every transaction refused, polling at full speed",
    "killed": "broker killed, the worker as it is",
}
_COLOURS: Final = {"refused": "#4c78a8", "killed": "#f58518"}


@dataclass(frozen=True, slots=True)
class Lengths:
    """Minutes before, without and after."""

    before: float
    without: float
    after: float


@dataclass(slots=True)
class Course:
    """What was seen, second by second: time from the beginning of the outage, and MiB resident."""

    at: list[float] = field(default_factory=list)
    resident_mib: list[float] = field(default_factory=list)
    said: list[str] = field(default_factory=list)

    def between(self, begin: float, end: float) -> tuple[list[float], list[float]]:
        chosen = [
            (at, mib)
            for at, mib in zip(self.at, self.resident_mib, strict=True)
            if begin <= at < end
        ]
        return [at for at, _ in chosen], [mib for _, mib in chosen]


class Bench:
    """A broker, an upstream and one worker."""

    def __init__(self, how: str, folder: Path, stack: ExitStack) -> None:
        self.prefix = f"outage.{uuid.uuid4().hex[:8]}"
        self._stuck = how == "refused"
        self.kafka = stack.enter_context(
            LocalKafka(folder / "first", extra=_BOTH if self._stuck else None)
        )
        self._victim = (
            stack.enter_context(self._second(folder / "second"))
            if self._stuck
            else self.kafka
        )
        self.simulator = stack.enter_context(
            start_simulator("--symbols", ",".join(SYMBOLS), *_REFRESHES)
        )
        self.worker = stack.enter_context(self._worker())
        wait_until(self.worker.ready, "the worker is ready", self.worker)

    def _worker(self) -> Any:
        listen = f"127.0.0.1:{free_port()}"
        variables = {
            "GEX_UPSTREAM__BASE_URL": f"{self.simulator.url}/v2",
            "GEX_UPSTREAM__API_KEY": DEFAULT_KEY,
            "GEX_UPSTREAM__MAX_REQUESTS_PER_MINUTE": "6000",
            "GEX_SCHEDULE__TARGET_DELAY_SECONDS": "0",
            "GEX_SYMBOLS": ",".join(SYMBOLS),
            "GEX_INCLUDE": ",".join(INCLUDES),
            "GEX_KAFKA__BOOTSTRAP_SERVERS": self.kafka.bootstrap_servers,
            "GEX_KAFKA__REPLICATION_FACTOR": "2" if self._stuck else "1",
            "GEX_KAFKA__TOPIC_PREFIX": self.prefix,
            "GEX_KAFKA__GROUP_ID": self.prefix,
            "GEX_HTTP__LISTEN": listen,
        }
        module = "tests.bench.unstuck" if self._stuck else "connector"
        return start(
            [sys.executable, "-m", module, "run"], variables, f"http://{listen}"
        )

    def _second(self, folder: Path) -> LocalKafka:
        """A broker that only holds replicas: what groups and transactions need is on the first one already."""
        address = {"bootstrap.servers": self.kafka.bootstrap_servers}
        ck.Producer(
            {**address, "transactional.id": "first", "log_level": 0}
        ).init_transactions(PATIENCE_SECONDS)
        consumer = ck.Consumer({**address, "group.id": "first"})
        consumer.list_topics(timeout=PATIENCE_SECONDS)
        consumer.committed([ck.TopicPartition("none", 0)], PATIENCE_SECONDS)
        consumer.close()
        port = free_port()
        voters = self.kafka.properties()["controller.quorum.voters"]
        own = {
            "node.id": "2",
            "process.roles": "broker",
            "listeners": f"CLIENT://{LOOPBACK}:{port}",
        }
        return LocalKafka(
            folder,
            port=port,
            extra={**_BOTH, **own, "controller.quorum.voters": voters},
        )

    def course(self, lengths: Lengths) -> Course:
        """Before, without Kafka, and after."""
        course, zero = Course(), time.monotonic() + 60 * lengths.before
        totals = [self._totals()]
        for end, turn in (
            (0.0, self._victim.kill),
            (60 * lengths.without, self._victim.start),
            (60 * (lengths.without + lengths.after), lambda: None),
        ):
            while (at := time.monotonic() - zero) < end:
                assert self.worker.running, self.worker.log()[-2000:]
                course.at.append(at)
                course.resident_mib.append(
                    Usage.of(self.worker.pid).resident_bytes / MIB
                )
                time.sleep(1)
            totals.append(self._totals())
            turn()
        for name, (then, now) in zip(
            ("before", "without", "after"), itertools.pairwise(totals), strict=True
        ):
            asked, published = (
                now[_ASKED] - then[_ASKED],
                now[_PUBLISHED] - then[_PUBLISHED],
            )
            course.said.append(f"{name}: {asked:.0f} requests, {published:.0f} events")
        return course

    def faults(self) -> tuple[list[str], str]:
        """End the worker, and read what it left: what is wrong with it, and how what was shown is accounted for."""
        dropped = {
            name: count
            for name, count in self._totals().items()
            if name.startswith(_DROPPED) and count
        }
        assert self.worker.terminate() == 0, self.worker.log()[-2000:]
        events = checker.events(self.kafka, self.prefix)
        found = checker.violations(events, checker.states(self.kafka, self.prefix))
        shown = checker.shown(self.simulator.ask("/_control/truth")["answers"])
        missed: Counter[str] = Counter()
        seen = told = collapsed = 0
        for symbol, its in checker.by_symbol(events).items():
            ours = [event for event in its if event.kind is not Kind.STALE]
            until = max(event.computed_at or 0 for event in ours)
            there = sum(one == symbol and at <= until for one, at in shown)
            more = sum(event.collapsed_observations for event in its)
            missed[symbol] = there - len(ours) - more
            seen, told, collapsed = seen + there, told + len(ours), collapsed + more
        elsewhere = sum(
            count for name, count in dropped.items() if "collapsed" not in name
        )
        if missed.total() != elsewhere or any(count < 0 for count in missed.values()):
            found.append(
                f"not accounted for: {missed.total()} but {elsewhere:.0f} dropped; by symbol {dict(missed)}"
            )
        return (
            found,
            f"{seen} refreshes shown = {told} events + {collapsed} collapsed + {elsewhere:.0f} dropped",
        )

    def _totals(self) -> Counter[str]:
        """The counters, and each series of what was dropped."""
        found: Counter[str] = Counter()
        for line in _metrics(self.worker):
            name, _, value = line.rpartition(" ")
            if name.startswith(_DROPPED):
                found[name] += int(float(value))
            elif name.startswith((_PUBLISHED, _ASKED)):
                found[name.partition("{")[0]] += int(float(value))
        return found


def _metrics(worker: Program) -> Iterator[str]:
    with urllib.request.urlopen(
        f"{worker.url}/metrics", timeout=PATIENCE_SECONDS
    ) as response:
        yield from response.read().decode().splitlines()


def report(how: str, course: Course, lengths: Lengths) -> Iterator[str]:
    """Whether it is flat."""
    without = 60 * lengths.without
    yield f"{_TITLES[how]}: {'; '.join(course.said)}"
    for name, begin, end in (
        ("the last minute before", -60.0, 0.0),
        ("the first minute without", 0.0, 60.0),
        ("the rest of the first half", 60.0, without / 2),
        ("the second half", without / 2, without),
        ("after", without, without + 60 * lengths.after),
    ):
        at, mib = course.between(begin, end)
        if len(at) > 1:
            slope = 60 * linear_regression(at, mib).slope
            yield f"  {name:26} {mean(mib):6.1f} MiB, {min(mib):.1f} to {max(mib):.1f}, {slope:+.2f} a minute"


def plot(
    courses: Mapping[str, Course], lengths: Mapping[str, Lengths], path: Path
) -> None:
    """Both curves; the time without Kafka in grey, as dark as many of them are without it."""
    from matplotlib.figure import Figure  # noqa: PLC0415 -- a second to load

    figure = Figure(figsize=(8, 2.8), layout="constrained")
    axes = figure.subplots()
    for how, course in courses.items():
        axes.axvspan(0, lengths[how].without, color="#000000", alpha=0.07, linewidth=0)
        label = f"{_TITLES[how]}, {lengths[how].without:g} min"
        axes.plot(
            [at / 60 for at in course.at],
            course.resident_mib,
            color=_COLOURS[how],
            linewidth=1.2,
            label=label,
        )
    axes.set_ylim(0, 1.4 * max(max(course.resident_mib) for course in courses.values()))
    axes.set_xlabel("minutes since Kafka took nothing any more", fontsize=9)
    axes.set_ylabel("resident, MiB", fontsize=9)
    axes.spines[["top", "right"]].set_visible(False)
    axes.margins(x=0)
    axes.legend(loc="upper left", frameon=False, fontsize=8)
    figure.savefig(path, dpi=150)


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m tests.bench.outage", description=__doc__
    )
    parser.add_argument(
        "--minutes",
        type=float,
        default=10,
        help="of refused transactions (%(default)g)",
    )
    parser.add_argument(
        "--killed",
        type=float,
        default=4,
        metavar="MINUTES",
        help="without a broker (%(default)g)",
    )
    parser.add_argument(
        "--around",
        type=float,
        default=2,
        metavar="MINUTES",
        help="before and after (%(default)g)",
    )
    parser.add_argument(
        "--plot", type=Path, metavar="FILE.png", help="draw memory over time"
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="write every sample")
    options = parser.parse_args()
    minutes = {"refused": options.minutes, "killed": options.killed}
    lengths = {
        how: Lengths(options.around, without, options.around)
        for how, without in minutes.items()
        if without
    }
    courses, faults = {}, []
    for how, its in lengths.items():
        with (
            tempfile.TemporaryDirectory(prefix="gex-outage-") as folder,
            ExitStack() as stack,
        ):
            bench = Bench(how, Path(folder), stack)
            courses[how] = bench.course(its)
            found, account = bench.faults()
        for line in (
            *report(how, courses[how], its),
            f"  {account}",
            f"  violations: {found}",
        ):
            print(line, flush=True)
        faults += found
    if options.json:
        samples = {
            how: list(zip(course.at, course.resident_mib, strict=True))
            for how, course in courses.items()
        }
        options.json.write_text(json.dumps(samples) + "\n")
    if options.plot:
        plot(courses, lengths, options.plot)
    if faults:
        sys.exit(1)


if __name__ == "__main__":
    main()
