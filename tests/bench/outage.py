"""`python -m tests.bench.outage`: a worker's memory without Kafka, and its later events.

Sixteen symbols, recomputed every second, all includes, four checks a second. Kafka is
away in two ways:

- `refused`: the feed's topics have two replicas that both must be in sync, and the broker
  with the second replicas is killed. Every transaction fails, while the group goes on.
  A worker rarely checks symbols that it cannot publish. Here it checks them as ever
  (`tests.bench.unstuck`), so that no outage can ask for more memory.
- `killed`: the only broker is killed and started again. The worker is as it is.

Afterwards every event is read. No event is missing, duplicated or out of order, and a
refresh that was shown to the worker but has no event is in the `collapsed_observations`
of one, or in the worker's count of dropped observations.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
import uuid
from collections import Counter, defaultdict
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from statistics import linear_regression, mean
from typing import TYPE_CHECKING, Final

from connector.core.model import Kind
from connector.devkit.local_kafka import LocalKafka
from connector.devkit.loopback_ports import LOOPBACK, free_port
from connector.devkit.simulator.settings import DEFAULT_KEY, INCLUDES
from tests.bench.measure import MIB, Usage
from tests.bench.stack import MANY_SYMBOLS
from tests.support import checker
from tests.support.internal_topics import create_internal_topics
from tests.support.processes import (
    Program,
    start,
    start_simulator,
    wait_until,
)

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from contextlib import AbstractContextManager

    from connector.core.model import Event

SYMBOLS: Final = MANY_SYMBOLS[:16]
_REFRESHES: Final = ("--period", "1", "--jitter", "0.1", "--limit", "0")

# The counters that are read.
_EVENTS: Final = "gex_events_total"
_REQUESTS: Final = "gex_upstream_requests_total"
_DROPPED: Final = "gex_observations_dropped_total"

# A topic with one replica, as the broker's own topics have here, needs only that one.
_BOTH_IN_SYNC: Final = {"min.insync.replicas": "2"}

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

    @property
    def without_seconds(self) -> float:
        return 60 * self.without

    @property
    def end_seconds(self) -> float:
        """Return the end of the measurement, in seconds from the beginning of the outage."""
        return 60 * (self.without + self.after)


@dataclass(frozen=True, slots=True)
class Sample:
    """Resident memory at a moment, in seconds from the beginning of the outage."""

    at: float
    resident_mib: float


@dataclass(slots=True)
class Course:
    """A sample for each second, and a summary of each part."""

    samples: list[Sample] = field(default_factory=list)
    summaries: list[str] = field(default_factory=list)

    def between(self, begin: float, end: float) -> list[Sample]:
        return [sample for sample in self.samples if begin <= sample.at < end]


class Bench:
    """A broker, an upstream and one worker."""

    def __init__(self, how: str, folder: Path, stack: ExitStack) -> None:
        self._is_refused = how == "refused"
        self._prefix = f"outage.{uuid.uuid4().hex[:8]}"
        settings = _BOTH_IN_SYNC if self._is_refused else None
        self._kafka = stack.enter_context(LocalKafka(folder / "first", extra=settings))
        self._victim = self._kafka
        if self._is_refused:
            second = second_broker(self._kafka, folder / "second")
            self._victim = stack.enter_context(second)
        self._simulator = stack.enter_context(
            start_simulator("--symbols", ",".join(SYMBOLS), *_REFRESHES)
        )
        self._worker = stack.enter_context(self._start_worker())
        wait_until(self._worker.ready, "the worker is ready", self._worker)

    def measure(self, lengths: Lengths) -> Course:
        """Sample the worker's memory before, during and after an outage."""
        course = Course()
        outage_at = time.monotonic() + 60 * lengths.before

        # Counters have no history: read them at each boundary.
        at_begin = self._totals()
        self._sample_until(0.0, outage_at, course)
        at_outage = self._totals()

        self._victim.kill()
        self._sample_until(lengths.without_seconds, outage_at, course)
        at_return = self._totals()

        self._victim.start()
        self._sample_until(lengths.end_seconds, outage_at, course)
        at_end = self._totals()

        course.summaries = [
            summary("before", at_begin, at_outage),
            summary("without", at_outage, at_return),
            summary("after", at_return, at_end),
        ]
        return course

    def account(self) -> Account:
        """End the worker, and account for all that it was shown."""
        dropped = 0
        for name, count in self._totals().items():
            # Events count the collapsed ones themselves.
            if name.startswith(_DROPPED) and "collapsed" not in name:
                dropped += count
        assert self._worker.terminate() == 0, self._worker.log()[-2000:]

        events = checker.events(self._kafka, self._prefix)
        states = checker.states(self._kafka, self._prefix)
        answers = self._simulator.ask("/_control/truth")["answers"]
        moments_shown: dict[str, list[int]] = defaultdict(list)
        for symbol, computed_at in checker.shown(answers):
            moments_shown[symbol].append(computed_at)

        found = Account(dropped, checker.violations(events, states))
        for symbol, its_events in checker.by_symbol(events).items():
            found.add(symbol, its_events, moments_shown[symbol])
        found.check()
        return found

    def _start_worker(self) -> AbstractContextManager[Program]:
        listen = f"127.0.0.1:{free_port()}"
        # With both replicas required, a killed one makes every transaction fail.
        replicas = "2" if self._is_refused else "1"
        variables = {
            "GEX_UPSTREAM__BASE_URL": f"{self._simulator.url}/v2",
            "GEX_UPSTREAM__API_KEY": DEFAULT_KEY,
            "GEX_UPSTREAM__MAX_REQUESTS_PER_MINUTE": "6000",
            "GEX_SCHEDULE__TARGET_DELAY_SECONDS": "0",
            "GEX_SYMBOLS": ",".join(SYMBOLS),
            "GEX_INCLUDE": ",".join(INCLUDES),
            "GEX_KAFKA__BOOTSTRAP_SERVERS": self._kafka.bootstrap_servers,
            "GEX_KAFKA__REPLICATION_FACTOR": replicas,
            "GEX_KAFKA__TOPIC_PREFIX": self._prefix,
            "GEX_KAFKA__GROUP_ID": self._prefix,
            "GEX_HTTP__LISTEN": listen,
        }
        module = "tests.bench.unstuck" if self._is_refused else "connector"
        command = [sys.executable, "-m", module, "run"]
        return start(command, variables, f"http://{listen}")

    def _sample_until(self, end: float, outage_at: float, course: Course) -> None:
        """Take a sample each second until `end` seconds after the outage began."""
        while True:
            at = time.monotonic() - outage_at
            if at >= end:
                return
            assert self._worker.running, self._worker.log()[-2000:]
            resident_bytes = Usage.of(self._worker.pid).resident_bytes
            course.samples.append(Sample(at, resident_bytes / MIB))
            time.sleep(1)

    def _totals(self) -> Counter[str]:
        """Return the counters of events and requests, and each series of dropped observations."""
        found: Counter[str] = Counter()
        for line in self._worker.text("/metrics").splitlines():
            series, _, value = line.rpartition(" ")
            metric, _, _ = series.partition("{")
            if metric == _DROPPED:
                found[series] += int(float(value))
            elif metric in (_EVENTS, _REQUESTS):
                found[metric] += int(float(value))
        return found


def summary(part: str, at_begin: Mapping[str, int], at_end: Mapping[str, int]) -> str:
    """Return the requests and the events of a part of the measurement."""
    requests = at_end[_REQUESTS] - at_begin[_REQUESTS]
    events = at_end[_EVENTS] - at_begin[_EVENTS]
    return f"{part}: {requests:.0f} requests, {events:.0f} events"


@dataclass(slots=True)
class Account:
    """The refreshes that were shown, and their fate."""

    dropped: int
    violations: list[str]
    shown: int = 0
    events: int = 0
    collapsed: int = 0
    missing: Counter[str] = field(default_factory=Counter)
    """By symbol: refreshes that neither an event nor a count of collapsed ones accounts for."""

    def add(self, symbol: str, events: list[Event], moments: list[int]) -> None:
        """Account for one symbol: its events, and the moments of the refreshes shown."""
        of_refreshes = [event for event in events if event.kind is not Kind.STALE]
        # Refreshes after the last event were under way when the worker ended.
        last = max(event.computed_at or 0 for event in of_refreshes)
        shown = sum(moment <= last for moment in moments)
        collapsed = sum(event.collapsed_observations for event in events)
        self.missing[symbol] = shown - len(of_refreshes) - collapsed
        self.shown += shown
        self.events += len(of_refreshes)
        self.collapsed += collapsed

    def check(self) -> None:
        """Add a violation if the figures do not add up."""
        # An event for a refresh that was never shown makes a negative number.
        has_surplus = min(self.missing.values(), default=0) < 0
        if has_surplus or self.missing.total() != self.dropped:
            self.violations.append(
                f"not accounted for: {self.missing.total()} but {self.dropped} dropped; "
                f"by symbol {dict(self.missing)}"
            )

    def text(self) -> str:
        return (
            f"{self.shown} refreshes shown = {self.events} events "
            f"+ {self.collapsed} collapsed + {self.dropped} dropped"
        )


def second_broker(first: LocalKafka, folder: Path) -> LocalKafka:
    """Return a broker that only holds replicas.

    Groups and transactions use topics of the broker's own. They are created here while
    the first broker is alone, so that they lie on it.
    """
    create_internal_topics(first)
    port = free_port()
    settings = {
        **_BOTH_IN_SYNC,
        "node.id": "2",
        "process.roles": "broker",
        "listeners": f"CLIENT://{LOOPBACK}:{port}",
        "controller.quorum.voters": first.properties()["controller.quorum.voters"],
    }
    return LocalKafka(folder, port=port, extra=settings)


def report(how: str, course: Course, lengths: Lengths) -> Iterator[str]:
    """Yield a line for each part, with the slope of its memory."""
    without = lengths.without_seconds
    parts = {
        "the last minute before": (-60.0, 0.0),
        "the first minute without": (0.0, 60.0),
        "the rest of the first half": (60.0, without / 2),
        "the second half": (without / 2, without),
        "after": (without, lengths.end_seconds),
    }
    yield f"{_TITLES[how]}: {'; '.join(course.summaries)}"
    for name, (begin, end) in parts.items():
        samples = course.between(begin, end)
        # One sample has no slope.
        if len(samples) < 2:
            continue
        mib = [sample.resident_mib for sample in samples]
        fit = linear_regression([sample.at for sample in samples], mib)
        yield (
            f"  {name:26} {mean(mib):6.1f} MiB, {min(mib):.1f} to {max(mib):.1f}, "
            f"{60 * fit.slope:+.2f} a minute"
        )


def plot(
    courses: Mapping[str, Course], lengths: Mapping[str, Lengths], path: Path
) -> None:
    """Draw memory over time, with each outage in grey."""
    from matplotlib.figure import Figure  # noqa: PLC0415 -- a second to load

    figure = Figure(figsize=(8, 2.8), layout="constrained")
    axes = figure.subplots()
    most_mib = 0.0
    for how, course in courses.items():
        minutes = [sample.at / 60 for sample in course.samples]
        mib = [sample.resident_mib for sample in course.samples]
        most_mib = max(most_mib, *mib)
        without = lengths[how].without
        label = f"{_TITLES[how]}, {without:g} min"
        axes.axvspan(0, without, color="#000000", alpha=0.07, linewidth=0)
        axes.plot(minutes, mib, color=_COLOURS[how], linewidth=1.2, label=label)
    # Leave room for the legend above the curves.
    axes.set_ylim(0, 1.4 * most_mib)
    axes.set_xlabel("minutes since Kafka took nothing any more", fontsize=9)
    axes.set_ylabel("resident, MiB", fontsize=9)
    axes.spines[["top", "right"]].set_visible(False)
    axes.margins(x=0)
    axes.legend(loc="upper left", frameon=False, fontsize=8)
    figure.savefig(path, dpi=150)


def options() -> argparse.Namespace:
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
    return parser.parse_args()


def main() -> None:
    chosen = options()
    # Zero minutes leave a kind of outage out.
    minutes_by_kind = {"refused": chosen.minutes, "killed": chosen.killed}
    lengths = {}
    for how, minutes in minutes_by_kind.items():
        if minutes:
            lengths[how] = Lengths(chosen.around, minutes, chosen.around)

    courses = {}
    is_clean = True
    for how, its_lengths in lengths.items():
        course, account = measure(how, its_lengths)
        courses[how] = course
        for line in report(how, course, its_lengths):
            print(line, flush=True)
        print(f"  {account.text()}", flush=True)
        print(f"  violations: {account.violations}", flush=True)
        if account.violations:
            is_clean = False

    if chosen.json:
        write_samples(courses, chosen.json)
    if chosen.plot:
        plot(courses, lengths, chosen.plot)
    if not is_clean:
        sys.exit(1)


def measure(how: str, lengths: Lengths) -> tuple[Course, Account]:
    """Run one kind of outage with a broker, a simulator and a worker of its own."""
    with (
        tempfile.TemporaryDirectory(prefix="gex-outage-") as folder,
        ExitStack() as stack,
    ):
        bench = Bench(how, Path(folder), stack)
        course = bench.measure(lengths)
        account = bench.account()
    return course, account


def write_samples(courses: Mapping[str, Course], path: Path) -> None:
    samples = {}
    for how, course in courses.items():
        samples[how] = [(sample.at, sample.resident_mib) for sample in course.samples]
    path.write_text(json.dumps(samples) + "\n")


if __name__ == "__main__":
    main()
