"""`python -m tests.bench.month_live`: a month of 20 minutes, live.

Real workers poll the simulator over HTTP and publish to a real Kafka, all cases at once:
each plan with four symbols in step and in phases of their own, and a Standard plan with a
second program that spends a third of the month, and with two workers of which one is killed.
The limits of a month are scaled down with its length, those of a minute are the plan's.
After the month's end, the cases go on for a while.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import threading
import time
import urllib.error
import urllib.request
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field
from http import HTTPStatus
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import confluent_kafka as ck

from connector.core.model import MICROS, Kind
from connector.devkit.local_kafka import LocalKafka
from connector.kafka.avro import Codec, SingleObject
from tests.bench import short_month
from tests.bench.month import MONTH_SECONDS, PLANS
from tests.bench.month_live_report import plot, table
from tests.chaos.fleet import KEYS, Fleet
from tests.conftest import Names
from tests.support.processes import Program, start_simulator, variables_for, wait_until

if TYPE_CHECKING:
    from collections.abc import Sequence

    from connector.core.model import Event

SYMBOLS: Final = ("BTCUSDT", "ETHUSDT", "SOLUSDT", "HYPEUSDT")
# A key that no worker has. It belongs to the same user as theirs.
OTHER_KEY: Final = KEYS[-1]
OTHERS_FRACTION: Final = 1 / 3
# When one of two workers is killed: at minute 8 of 20.
KILLED_FRACTION: Final = 0.4

# Longer than the first minute of the next month.
AFTER_SECONDS: Final = 100
_SAMPLE_SECONDS: Final = 1.0
_POLL_SECONDS: Final = 0.2
_REQUEST_SECONDS: Final = 10.0


@dataclass(frozen=True, slots=True)
class Case:
    """A plan, the rhythm of its symbols, and the programs that use it."""

    plan: str
    phase: str
    workers: int = 1
    has_other_program: bool = False

    @property
    def title(self) -> str:
        rhythm = "in step" if self.phase == "together" else "own phases"
        if self.has_other_program:
            rhythm += ", second program"
        if self.workers > 1:
            rhythm += ", one of two workers killed"
        return f"{self.plan}, {rhythm}"


CASES: Final = (
    Case("Starter", "together"),
    Case("Starter", "own"),
    Case("Standard", "together"),
    Case("Standard", "own"),
    Case("Standard", "own", has_other_program=True),
    Case("Standard", "own", workers=2),
    Case("Pro", "together"),
    Case("Pro", "own"),
)


@dataclass(slots=True)
class Result:
    """Observations of a case. Moments are seconds since the month's start.

    `requests` are the workers' requests for levels: moment, slot and status. `used` holds
    samples of the server's count in the current month: moment, month and requests.
    """

    title: str
    plan: str
    seconds: float
    limit: int
    killed_at: float | None = None
    shards_at_kill: tuple[int, ...] = ()
    requests: list[tuple[float, int, int]] = field(default_factory=list)
    others: list[float] = field(default_factory=list)
    used: list[tuple[float, str, int]] = field(default_factory=list)
    answers_by_status: dict[str, int] = field(default_factory=dict)
    requests_by_endpoint: dict[str, int] = field(default_factory=dict)
    refreshes: int = 0
    delays: list[float] = field(default_factory=list)
    stale: list[tuple[float, str]] = field(default_factory=list)


class Run:
    """A case under way, with an upstream, topics and workers of its own."""

    def __init__(self, case: Case, month_seconds: float, limit: int) -> None:
        self.case = case
        self.names = Names(f"month{CASES.index(case)}")
        self.result = Result(case.title, case.plan, month_seconds, limit)
        self.starts_at = 0.0
        self._next_sample_at = 0.0
        self._next_other_at = 0.0

    def start(self, stack: ExitStack, kafka: LocalKafka, folder: Path) -> None:
        """Begin the month, and start the workers in it."""
        arguments = ["--symbols", ",".join(SYMBOLS), "--phase", self.case.phase]
        arguments += ["--plan", self.case.plan.lower()]
        self._simulator: Program = stack.enter_context(start_simulator(*arguments))

        settings = {
            "keys": KEYS,
            "limit_per_month": self.result.limit,
            "month_seconds": self.result.seconds,
        }
        # The simulator's month begins when it takes the settings.
        before = time.time()
        self._simulator.ask("/_control/set", settings)
        self.starts_at = (before + time.time()) / 2

        variables = variables_for(kafka, self.names, self._simulator, SYMBOLS)
        # The server's limits are to count, not one of our own.
        del variables["GEX_UPSTREAM__MAX_REQUESTS_PER_MINUTE"]
        variables["GEX_KAFKA__SHARDS"] = str(self.case.workers)
        variables |= short_month.variables(self.starts_at, self.result.seconds)
        logs = folder / self.names.topic_prefix
        logs.mkdir()
        self._fleet = stack.enter_context(
            Fleet(variables, logs, self.case.workers, module="tests.bench.short_month")
        )
        self._fleet.tend()

    def wait_started(self) -> None:
        """Wait until the workers own every shard."""

        # A worker whose month is used up already is not ready.
        def own_all() -> bool:
            return self._fleet.shards_owned() == self.case.workers

        wait_until(own_all, f"{self.case.title}: the workers own every shard")

    def tick(self) -> None:
        """Sample the server's count, and do whatever is due in the case."""
        at = time.time() - self.starts_at
        if at >= self._next_sample_at:
            self._next_sample_at = at + _SAMPLE_SECONDS
            quota = self._simulator.ask("/_control/stats")["quota"]
            sample = (at, quota["month_period"], quota["month_used"])
            self.result.used.append(sample)
        if self.case.has_other_program and at >= self._next_other_at:
            others = OTHERS_FRACTION * self.result.limit
            self._next_other_at += self.result.seconds / others
            self._ask_as_other()
        is_kill_due = at >= KILLED_FRACTION * self.result.seconds
        if self.case.workers > 1 and self.result.killed_at is None and is_kill_due:
            self._kill(at)

    def collect(self, events: Sequence[Received]) -> Result:
        """Return the result, after the last tick."""
        stats = self._simulator.ask("/_control/stats")
        self.result.answers_by_status = stats["requests_by_status"]
        self.result.requests_by_endpoint = stats["requests_by_endpoint"]
        truth = self._simulator.ask("/_control/truth")
        for answer in truth["answers"]:
            self._add_answer(answer)
        self.result.requests.sort()
        self.result.refreshes = len(truth["refreshes"])
        self._add_events(events)
        return self.result

    def _ask_as_other(self) -> None:
        """Send a request as another program of the same user would."""
        request = urllib.request.Request(
            f"{self._simulator.url}/v2/multi/gex/levels?symbols={SYMBOLS[0]}",
            headers={"X-API-Key": OTHER_KEY},
        )
        try:
            urllib.request.urlopen(request, timeout=_REQUEST_SECONDS).close()
        except urllib.error.HTTPError as error:
            # The month or the minute is used up: the table counts such answers.
            if error.code != HTTPStatus.TOO_MANY_REQUESTS:
                raise

    def _kill(self, at: float) -> None:
        shards = []
        for life in self._fleet.running():
            shards.append(life.program.metric("gex_shards_owned"))
        self.result.shards_at_kill = tuple(shards)
        self.result.killed_at = at
        self._fleet.running()[0].program.kill()

    def _add_answer(self, answer: dict[str, Any]) -> None:
        at = answer["received_at"] / MICROS - self.starts_at
        if answer["key"] == OTHER_KEY:
            self.result.others.append(at)
        elif at >= 0:
            slot = KEYS.index(answer["key"])
            self.result.requests.append((at, slot, answer["status"]))

    def _add_events(self, events: Sequence[Received]) -> None:
        """Note the first event of each refresh, and the symbols that became stale."""
        seen = set()
        for received in events:
            event = received.event
            if event.kind is Kind.STALE:
                at = received.at - self.starts_at
                self.result.stale.append((at, str(event.reason)))
                continue
            refresh = (event.symbol, event.computed_at)
            if event.computed_at is None or refresh in seen:
                continue
            seen.add(refresh)
            self.result.delays.append(received.at - event.computed_at / MICROS)


@dataclass(frozen=True, slots=True)
class Received:
    """An event, and when the consumer received it in Unix seconds."""

    event: Event
    at: float


class Consumer(threading.Thread):
    """Receives the committed events of all cases in a thread of its own."""

    def __init__(self, kafka: LocalKafka, topics: Sequence[str]) -> None:
        super().__init__(name="consumer", daemon=True)
        self._consumer = ck.Consumer(
            {
                "bootstrap.servers": kafka.bootstrap_servers,
                "group.id": "month-live",
                "isolation.level": "read_committed",
            }
        )
        assignment = []
        for topic in topics:
            metadata = self._consumer.list_topics(topic, timeout=_REQUEST_SECONDS)
            for partition in metadata.topics[topic].partitions:
                # Delays of events before this moment would not be true.
                place = ck.TopicPartition(topic, partition, ck.OFFSET_END)
                assignment.append(place)
        self._consumer.assign(assignment)
        self._is_stopping = threading.Event()
        self._received: dict[str, list[Received]] = {topic: [] for topic in topics}

    def run(self) -> None:
        codec = Codec(SingleObject())
        while not self._is_stopping.is_set():
            message = self._consumer.poll(_POLL_SECONDS)
            if message is None or message.error() is not None:
                continue
            at = time.time()
            topic, value = message.topic(), message.value()
            assert topic is not None
            assert value is not None
            received = Received(codec.decode_event(value), at)
            self._received[topic].append(received)

    def end(self) -> dict[str, list[Received]]:
        """Stop, and return the events by topic."""
        self._is_stopping.set()
        self.join()
        self._consumer.close()
        return self._received


def main() -> None:
    options = _options()
    options.out.mkdir(parents=True, exist_ok=True)
    results = measure(60 * options.minutes, options.out)

    as_json = json.dumps([asdict(result) for result in results], indent=1)
    (options.out / "month_live.json").write_text(as_json + "\n")
    text = table(results)
    (options.out / "month_live.md").write_text(text)
    plot(results, options.out / "month.svg")
    print(text)


def measure(month_seconds: float, out: Path) -> list[Result]:
    """Run all cases at once for a month and the beginning of the next one."""
    scale = month_seconds / MONTH_SECONDS
    with (
        tempfile.TemporaryDirectory(prefix="gex-month-") as folder,
        ExitStack() as stack,
    ):
        kafka = stack.enter_context(LocalKafka(Path(folder) / "kafka"))
        logs = Path(tempfile.mkdtemp(prefix="workers-", dir=out))
        runs = []
        for case in CASES:
            _, per_month = PLANS[case.plan]
            limit = max(round(per_month * scale), 1)
            run = Run(case, month_seconds, limit)
            run.start(stack, kafka, logs)
            runs.append(run)
        for run in runs:
            run.wait_started()

        topics = {f"{run.names.topic_prefix}.all.changes": run for run in runs}
        consumer = Consumer(kafka, list(topics))
        consumer.start()
        ends_at = runs[-1].starts_at + month_seconds + AFTER_SECONDS
        while time.time() < ends_at:
            for run in runs:
                run.tick()
            time.sleep(_POLL_SECONDS)

        events = consumer.end()
        return [run.collect(events[topic]) for topic, run in topics.items()]


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m tests.bench.month_live", description=__doc__
    )
    parser.add_argument(
        "--minutes",
        type=float,
        default=20,
        help="length of the month (default %(default)s)",
    )
    parser.add_argument(
        "--out",
        type=Path,
        default=Path("month_live"),
        metavar="FOLDER",
        help="for table, plot, figures and the workers' logs (default %(default)s)",
    )
    return parser.parse_args()


if __name__ == "__main__":
    main()
