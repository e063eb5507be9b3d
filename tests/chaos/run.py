"""A chaos run: a cluster, a fleet, an upstream, seeded faults, and a verdict."""

from __future__ import annotations

import json
import random
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from connector.kafka.avro import Codec, SingleObject
from connector.kafka.names import Topics
from connector.kafka.registry import Registry
from tests.chaos.armed import POINTS
from tests.chaos.cluster import Cluster
from tests.chaos.deleted_events import all_events
from tests.chaos.director import Director, StateCounter
from tests.chaos.evidence import Evidence
from tests.chaos.faults import FAULTS, World
from tests.chaos.feed_records import FeedRecords
from tests.chaos.fleet import KEYS, Fleet
from tests.chaos.verdict import Verdict, judge
from tests.chaos.viewer import Viewer
from tests.support.processes import start_simulator
from tests.support.registry import LocalRegistry
from tests.support.registry_front import RegistryFront

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from tests.support.processes import Program

WORKERS = 3
SHARDS = 4
SYMBOLS = tuple(f"SYM{number:02d}USDT" for number in range(16))
PREFIX = "chaos"
# Three brokers may start while topics are deleted and foreign transactions end.
THREADS = 12


@dataclass(frozen=True, slots=True)
class Plan:
    """The faults of a run.

    Attributes:
        pause_seconds: the mean time between two faults.
        points: points of a transaction at which workers are killed or frozen.
        fenced: False for the control, in which nothing fences a zombie.
        period_seconds: how often the upstream refreshes each symbol.
        freeze_longer_seconds: added to each freeze beyond the session time-out.
    """

    seed: int
    faults: int
    pause_seconds: float
    kinds: tuple[str, ...] = tuple(FAULTS)
    with_registry: bool = False
    fenced: bool = True
    period_seconds: float = 2.0
    points: tuple[str, ...] = POINTS
    freeze_longer_seconds: float = 0.0


@dataclass(slots=True)
class Outcome:
    """The result of a run.

    Attributes:
        recoveries_seconds: the time from the end of all faults until all was well, for
        each calm. looks: answers of status pages to the viewer. deletions: how often
        the topic of events was deleted; an open transaction can prevent it.
    """

    plan: Plan
    verdict: Verdict
    struck: Counter[str] = field(default_factory=Counter)
    recoveries_seconds: list[float] = field(default_factory=list)
    seconds: float = 0.0
    looks: int = 0
    deletions: int = 0

    def text(self) -> str:
        kinds = []
        for kind, count in sorted(self.struck.items()):
            kinds.append(f"{kind} {count}")
        slowest = max(self.recoveries_seconds, default=0.0)
        return (
            f"seed {self.plan.seed}: {self.struck.total()} faults "
            f"in {self.seconds:.0f} s: {', '.join(kinds)}\n"
            f"{self.verdict.text()}\n"
            f"well again after calm: {len(self.recoveries_seconds)} times, "
            f"slowest {slowest:.1f} s; "
            f"answered looks at status pages: {self.looks}; "
            f"topics of events deleted: {self.deletions}"
        )


def run(plan: Plan, folder: Path, say: Callable[[str], None]) -> Outcome:
    """Carry out a plan and judge it. Everything that is written goes to `folder`."""
    with ExitStack() as stack:
        # The world that can be harmed.
        names = Topics(PREFIX)
        cluster = stack.enter_context(Cluster(folder))
        registry, front = None, None
        if plan.with_registry:
            registry = stack.enter_context(LocalRegistry(folder / "registry"))
            front = stack.enter_context(RegistryFront(registry).running())
        simulator = stack.enter_context(start_simulator(*_simulated(plan)))
        # The truth log tells by the key which worker saw an answer.
        simulator.ask("/_control/set", {"keys": KEYS})
        variables = _variables(plan, cluster, simulator, front)
        fleet = stack.enter_context(Fleet(variables, folder, WORKERS))
        viewer = stack.enter_context(Viewer(fleet))
        world = World(
            cluster=cluster,
            fleet=fleet,
            simulator=simulator,
            registry=front,
            names=names,
            records=FeedRecords(cluster, names, "all", _codec(registry, stack)),
            symbols=SYMBOLS,
            shards=SHARDS,
            threads=stack.enter_context(ThreadPoolExecutor(THREADS)),
            points=plan.points,
            freeze_longer_seconds=plan.freeze_longer_seconds,
        )

        # Start, harm and stop it.
        states = StateCounter(cluster.bootstrap_servers, names.current("all"), SHARDS)
        director = Director(plan, world, states, random.Random(plan.seed), say)
        director.begin()
        began_at = time.monotonic()
        director.play()
        seconds = time.monotonic() - began_at
        fleet.end()

        # Judge it while the brokers still run: the judge reads their topics.
        say("all workers have stopped; judging")
        director.truth.read()
        _save(folder / "run.json", director, fleet)
        verdict = judge(_evidence(world, director))
        verdict.other += director.complaints + viewer.complaints
        return Outcome(
            plan,
            verdict,
            struck=director.struck,
            recoveries_seconds=director.recoveries_seconds,
            seconds=seconds,
            looks=viewer.answers,
            deletions=len(world.deleted),
        )


def _simulated(plan: Plan) -> list[str]:
    """Return the simulator's arguments."""
    options = {
        "--period": str(plan.period_seconds),
        "--jitter": "0.1",
        "--limit": "0",
        "--seed": str(plan.seed),
        "--symbols": ",".join(SYMBOLS),
    }
    arguments = []
    for name, value in options.items():
        arguments += [name, value]
    return arguments


def _variables(
    plan: Plan, cluster: Cluster, simulator: Program, registry: RegistryFront | None
) -> dict[str, str]:
    """Return the workers' configuration: fast refreshes, and Kafka behind the bad network."""
    variables = {
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
    }
    if registry is not None:
        variables["GEX_SCHEMA_REGISTRY__URL"] = registry.url
    if not plan.fenced:
        variables["CHAOS_UNFENCED"] = "1"
    return variables


def _codec(registry: LocalRegistry | None, stack: ExitStack) -> Codec:
    """Return the codec of the judge, which asks the registry behind every fault."""
    if registry is None:
        return Codec(SingleObject())
    client = Registry(registry.url, {})
    stack.callback(client.close)
    return Codec(client)


def _save(path: Path, director: Director, fleet: Fleet) -> None:
    """Write the evidence that is in memory only, for a later look into a violation."""
    lives = []
    for life in fleet.lives:
        lives.append(
            {
                "slot": life.slot,
                "started_at": life.started_at,
                "stopping_at": life.stopping_at,
                "ended_at": life.ended_at,
                "status": life.status,
                "frozen": life.frozen,
            }
        )
    memory = {
        "lives": lives,
        "troubles": director.troubles,
        "answers": director.truth.answers,
        "contents": director.truth.contents,
    }
    path.write_text(json.dumps(memory))


def _evidence(world: World, director: Director) -> Evidence:
    current = world.records.states()
    events = all_events(world.deleted, world.records.events(), current)
    return Evidence(
        answers=director.truth.answers,
        contents=director.truth.contents,
        events=events.events,
        current=current,
        quarantined=[*world.quarantined, *world.records.quarantined()],
        lives=world.fleet.lives,
        shards=SHARDS,
        troubles=director.troubles,
        stand_ins=events.stand_ins,
        quarantine_gone=world.quarantine_gone,
    )
