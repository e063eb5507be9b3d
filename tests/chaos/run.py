"""One run: a cluster, a fleet and an upstream, a seeded row of faults, calm in between, and the verdict."""

from __future__ import annotations

import heapq
import itertools
import json
import random
import time
from collections import Counter, defaultdict
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import confluent_kafka as ck

from connector.config.model import SchemaRegistry
from connector.kafka.avro import Codec
from connector.kafka.framing import framing_of
from tests.chaos.armed import POINTS
from tests.chaos.cluster import Cluster
from tests.chaos.faults import FAULTS, World
from tests.chaos.fleet import KEYS, Fleet
from tests.chaos.verdict import Evidence, Verdict, judge
from tests.chaos.viewer import Viewer
from tests.support import checker
from tests.support.processes import start_simulator, wait_until
from tests.support.registry import LocalRegistry

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from tests.chaos.fleet import Life
    from tests.support.processes import Program

WORKERS = 3
SHARDS = 4
SYMBOLS = tuple(f"SYM{number:02d}USDT" for number in range(16))
PREFIX = "chaos"
CALM_EVERY = 10
"""Faults between two times of calm, in which everything must come back by itself."""

CALM_SECONDS = 120.0
BETWEEN = {
    "broker",
    "coordinator",
    "all brokers",
    "network cut",
    "network stall",
    "network delay",
}
"""Faults that stand between the workers and Kafka."""

_TURN_SECONDS = 0.05
_TRUTH_EVERY_SECONDS = 20.0


@dataclass(frozen=True, slots=True)
class Plan:
    """What to do. `faults`: how many, one every `pause_seconds` in the mean, from `kinds`, at `points`."""

    seed: int
    faults: int
    pause_seconds: float
    kinds: tuple[str, ...] = tuple(FAULTS)
    with_registry: bool = False
    fenced: bool = True
    period_seconds: float = 2.0
    points: tuple[str, ...] = POINTS


@dataclass(slots=True)
class Outcome:
    """What came of it.

    `recoveries`: seconds until all was well again after the last fault before each calm. `looks`: at status pages.
    """

    plan: Plan
    verdict: Verdict
    struck: Counter[str] = field(default_factory=Counter)
    recoveries: list[float] = field(default_factory=list)
    seconds: float = 0.0
    looks: int = 0

    def text(self) -> str:
        struck = ", ".join(
            f"{name} {count}" for name, count in sorted(self.struck.items())
        )
        slowest = max(self.recoveries, default=0.0)
        return (
            f"seed {self.plan.seed}: {self.struck.total()} faults in {self.seconds:.0f} s: {struck}\n"
            f"{self.verdict.text()}\n"
            f"well again after calm: {len(self.recoveries)} times, slowest {slowest:.1f} s; "
            f"answered looks at status pages: {self.looks}"
        )


def run(plan: Plan, folder: Path, say: Callable[[str], None]) -> Outcome:
    """Do it all and judge."""
    chance = random.Random(plan.seed)
    with ExitStack() as stack:
        cluster = stack.enter_context(Cluster(folder))
        registry = (
            stack.enter_context(LocalRegistry(folder / "registry"))
            if plan.with_registry
            else None
        )
        simulator = stack.enter_context(
            start_simulator(
                *(
                    "--period",
                    str(plan.period_seconds),
                    "--jitter",
                    "0.1",
                    "--limit",
                    "0",
                ),
                *("--seed", str(plan.seed), "--symbols", ",".join(SYMBOLS)),
            )
        )
        simulator.ask("/_control/set", {"keys": KEYS})
        fleet = stack.enter_context(
            Fleet(_variables(plan, cluster, simulator, registry), folder, WORKERS)
        )
        viewer = stack.enter_context(Viewer(fleet))
        world = World(
            cluster,
            fleet,
            simulator,
            registry,
            SYMBOLS,
            stack.enter_context(ThreadPoolExecutor(4)),
            plan.points,
        )
        director = _Director(plan, world, chance, say)
        director.begin()
        began = time.monotonic()
        outcome = Outcome(plan, Verdict(), seconds=0.0)
        director.play(outcome)
        outcome.seconds = time.monotonic() - began
        fleet.end()
        say("all workers have stopped; judging")
        director.read_truth()
        (folder / "answers.json").write_text(json.dumps(director.answers))
        outcome.verdict = judge(_evidence(plan, world, director))
        outcome.verdict.other += director.complaints + viewer.complaints
        outcome.looks = viewer.answers
        return outcome


class _Director:
    """Lets faults happen one after another and beside each other, tends the fleet, and keeps the truth log."""

    def __init__(
        self,
        plan: Plan,
        world: World,
        chance: random.Random,
        say: Callable[[str], None],
    ) -> None:
        self._plan, self._world, self._chance, self._say = plan, world, chance, say
        self._agenda: list[tuple[float, int, str, Iterator[float]]] = []
        self._numbers = itertools.count(1)
        self._cursor, self._truth_at = 0, time.monotonic()
        self._watcher = ck.Consumer(
            {
                "bootstrap.servers": world.cluster.bootstrap_servers,
                "group.id": "unused",
                "log_level": 0,
            }
        )
        self._written: Counter[bytes] = Counter()
        self._began: dict[int, float] = {}
        self.troubles: list[tuple[float, float]] = []
        self.answers: list[dict[str, Any]] = []
        self.contents: dict[str, str] = {}
        self.complaints: list[str] = []

    def begin(self) -> None:
        """Start the fleet and wait until events flow."""
        self._world.fleet.tend()
        wait_until(
            self._world.fleet.ready,
            "the fleet is ready",
            self._world.fleet.lives[0].program,
        )
        topic = f"{PREFIX}.all.current"
        self._watcher.assign(
            [
                ck.TopicPartition(topic, partition, ck.OFFSET_BEGINNING)
                for partition in range(SHARDS)
            ]
        )
        if not self._wait_for_events(60.0):
            self.complaints.append("not every symbol was published at the start")

    def play(self, outcome: Outcome) -> None:
        """All faults of the plan."""
        kinds = [
            kind
            for kind in self._plan.kinds
            if kind != "registry" or self._plan.with_registry
        ]
        weights = [FAULTS[kind][1] for kind in kinds]
        for number in range(1, self._plan.faults + 1):
            (kind,) = self._chance.choices(kinds, weights)
            seed = self._chance.getrandbits(32)
            self._say(f"{number:4d} {kind}")
            outcome.struck[kind] += 1
            fault = FAULTS[kind][0](self._world, random.Random(seed))
            heapq.heappush(
                self._agenda, (time.monotonic(), next(self._numbers), kind, fault)
            )
            self._pass(self._chance.expovariate(1 / self._plan.pause_seconds))
            if number % CALM_EVERY == 0 or number == self._plan.faults:
                outcome.recoveries.append(self._calm())
                self._say(f"     well again after {outcome.recoveries[-1]:.1f} s")

    def read_truth(self) -> None:
        """Fetch what the upstream has answered since the last time."""
        page = self._world.simulator.ask(
            f"/_control/truth?since={self._cursor}&contents=1"
        )
        self._cursor, self._truth_at = page["cursor"], time.monotonic()
        self.answers += page["answers"]
        self.contents |= page["contents"]

    def _pass(self, seconds: float) -> None:
        """Let time pass."""
        until = time.monotonic() + seconds
        while time.monotonic() < until:
            self._turn()

    def _turn(self) -> None:
        while self._agenda and self._agenda[0][0] <= time.monotonic():
            _, number, kind, fault = heapq.heappop(self._agenda)
            pause = next(fault, None)
            if pause is None:
                began = self._began.pop(number)
                if kind in BETWEEN:
                    self.troubles.append((began, time.time()))
            else:
                self._began.setdefault(number, time.time())
                heapq.heappush(
                    self._agenda, (time.monotonic() + pause, number, kind, fault)
                )
        self._world.fleet.tend()
        for message in self._watcher.consume(1_000, timeout=0):
            if message.error() is None:
                self._written[bytes(message.key() or b"")] += 1
        if time.monotonic() - self._truth_at > _TRUTH_EVERY_SECONDS:
            self.read_truth()
        time.sleep(_TURN_SECONDS)

    def _calm(self) -> float:
        """Let every fault end; then all must be well within a time."""
        while self._agenda:
            self._turn()
        began = time.monotonic()
        while not (
            self._world.fleet.ready() and self._world.fleet.shards_owned() == SHARDS
        ):
            self._turn()
            if time.monotonic() - began > CALM_SECONDS:
                self.complaints.append(
                    f"the fleet was not ready {CALM_SECONDS:g} s after the last fault: {self._why()}"
                )
                break
        if not self._wait_for_events(CALM_SECONDS):
            self.complaints.append(
                f"no events {CALM_SECONDS:g} s after the last fault: {self._why()}"
            )
        return time.monotonic() - began

    def _wait_for_events(self, seconds: float) -> bool:
        """Until there is a new committed state of every symbol, or so many seconds have passed."""
        until, before = time.monotonic() + seconds, self._written.copy()
        while time.monotonic() < until:
            if all(
                self._written[symbol.encode()] > before[symbol.encode()]
                for symbol in SYMBOLS
            ):
                return True
            self._turn()
        return False

    def _why(self) -> str:
        lives: list[Life] = self._world.fleet.running()
        return "; ".join(
            f"slot {life.slot}: {life.program.log()[-1500:]}" for life in lives
        )


def _variables(
    plan: Plan, cluster: Cluster, simulator: Program, registry: LocalRegistry | None
) -> dict[str, str]:
    return {
        "GEX_UPSTREAM__BASE_URL": f"{simulator.url}/v2",
        "GEX_UPSTREAM__MAX_REQUESTS_PER_MINUTE": "60000",
        "GEX_UPSTREAM__TIMEOUT_SECONDS": "5",
        "GEX_SYMBOLS": ",".join(SYMBOLS),
        "GEX_KAFKA__BOOTSTRAP_SERVERS": cluster.for_workers,
        "GEX_KAFKA__TOPIC_PREFIX": PREFIX,
        "GEX_KAFKA__GROUP_ID": PREFIX,
        "GEX_KAFKA__SHARDS": str(SHARDS),
        "GEX_KAFKA__REPLICATION_FACTOR": "3",
        "GEX_KAFKA__START_TIMEOUT_SECONDS": "120",
        "GEX_SCHEDULE__TARGET_DELAY_SECONDS": "0.1",
        "GEX_SCHEDULE__MIN_INTERVAL_SECONDS": "0.1",
        **({"GEX_SCHEMA_REGISTRY__URL": registry.url} if registry else {}),
        **({} if plan.fenced else {"CHAOS_UNFENCED": "1"}),
    }


def _evidence(plan: Plan, world: World, director: _Director) -> Evidence:
    codec = Codec(
        framing_of(
            SchemaRegistry(url=world.registry.url)
            if world.registry
            else SchemaRegistry()
        )
    )
    where = world.cluster
    current = defaultdict(list)
    for record in checker.records(where, f"{PREFIX}.all.current"):
        current[record.partition].append(
            (record.offset, codec.decode_state(record.value))
        )
    return Evidence(
        answers=director.answers,
        contents=director.contents,
        events=[
            codec.decode_event(record.value)
            for record in checker.records(where, f"{PREFIX}.all.changes")
        ],
        current=current,
        quarantined=checker.records(where, f"{PREFIX}.quarantine"),
        lives=world.fleet.lives,
        shards=SHARDS,
        troubles=director.troubles,
    )
