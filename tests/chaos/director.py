"""Lets faults happen beside each other, and watches the upstream and Kafka meanwhile."""

from __future__ import annotations

import heapq
import itertools
import random
import time
from collections import Counter
from typing import TYPE_CHECKING, Any

import confluent_kafka as ck

from tests.chaos.faults import FAULTS
from tests.support.processes import wait_until

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from tests.chaos.faults import Fault, World
    from tests.chaos.run import Plan
    from tests.support.processes import Program

# Often enough to find a fault that the fleet does not recover from, and to tell after
# which.
CALM_EVERY_FAULTS = 10

# Longest recovery: everything must come back by itself. A slow machine needs minutes, so a
# slower recovery than usual is seen in the report only.
CALM_SECONDS = 300.0

START_SECONDS = 180.0

# Kinds of faults during which no commit may succeed.
BETWEEN_WORKERS_AND_KAFKA = frozenset(
    {
        "broker",
        "coordinator",
        "all brokers",
        "network cut",
        "network stall",
        "network delay",
        # Without a topic for its event, no state is committed either.
        "changes topic",
    }
)

_TURN_SECONDS = 0.05
# The simulator keeps a bounded log, and a page of it must not become too large.
_READ_TRUTH_EVERY_SECONDS = 20.0


class TruthLog:
    """The upstream's log of all it answered, fetched bit by bit."""

    def __init__(self, simulator: Program) -> None:
        self._simulator = simulator
        self._cursor = 0
        self._read_at = time.monotonic()
        self.answers: list[dict[str, Any]] = []
        self.contents: dict[str, str] = {}

    def read(self) -> None:
        """Fetch the answers since the last call."""
        page = self._simulator.ask(f"/_control/truth?since={self._cursor}&contents=1")
        self._cursor = page["cursor"]
        self._read_at = time.monotonic()
        self.answers += page["answers"]
        self.contents |= page["contents"]

    def read_now_and_then(self) -> None:
        """Fetch the answers if the last call was long ago."""
        if time.monotonic() - self._read_at > _READ_TRUTH_EVERY_SECONDS:
            self.read()


class StateCounter:
    """Counts the committed states of each symbol, by a consumer that no fault touches."""

    def __init__(self, bootstrap_servers: str, topic: str, partitions: int) -> None:
        self._consumer = ck.Consumer(
            {
                "bootstrap.servers": bootstrap_servers,
                "group.id": "unused",
                "log_level": 0,
            }
        )
        self._assigned = []
        for partition in range(partitions):
            start = ck.TopicPartition(topic, partition, ck.OFFSET_BEGINNING)
            self._assigned.append(start)
        self._counts: Counter[str] = Counter()

    def start(self) -> None:
        """Begin to read. The topic must exist: the client looks again only minutes later."""
        self._consumer.assign(self._assigned)

    def poll(self) -> None:
        """Count the states written since the last call."""
        for message in self._consumer.consume(1_000, timeout=0):
            # While brokers are down, errors come instead of records.
            if message.error() is None:
                symbol = (message.key() or b"").decode()
                self._counts[symbol] += 1

    def more_than_now(self, symbols: Sequence[str]) -> Callable[[], bool]:
        """Return a function that returns True once each symbol has a new state."""
        before = self._counts.copy()

        def is_more() -> bool:
            new = self._counts - before
            return new.keys() >= set(symbols)

        return is_more


class Agenda:
    """The faults under way, each with the moment of its next step."""

    def __init__(self) -> None:
        self._steps: list[tuple[float, int, str, Fault]] = []
        self._numbers = itertools.count(1)
        self._began_at: dict[int, float] = {}
        self.troubles: list[tuple[float, float]] = []
        """When something stood between the workers and Kafka, in Unix seconds."""

    def __bool__(self) -> bool:
        return bool(self._steps)

    def add(self, kind: str, fault: Fault) -> None:
        """Begin a fault with the next call of `advance`."""
        number = next(self._numbers)
        heapq.heappush(self._steps, (time.monotonic(), number, kind, fault))

    def advance(self) -> None:
        """Take every step that is due."""
        while self._steps and self._steps[0][0] <= time.monotonic():
            _, number, kind, fault = heapq.heappop(self._steps)
            pause_seconds = next(fault, None)
            # Without another step the fault has repaired what it broke.
            if pause_seconds is None:
                began_at = self._began_at.pop(number)
                if kind in BETWEEN_WORKERS_AND_KAFKA:
                    self.troubles.append((began_at, time.time()))
                continue
            self._began_at.setdefault(number, time.time())
            due_at = time.monotonic() + pause_seconds
            heapq.heappush(self._steps, (due_at, number, kind, fault))


class Director:
    """Carries out a plan: faults at random moments, and calm after every ten."""

    def __init__(
        self,
        plan: Plan,
        world: World,
        states: StateCounter,
        chance: random.Random,
        say: Callable[[str], None],
    ) -> None:
        self._plan = plan
        self._world = world
        self._states = states
        self._chance = chance
        self._say = say
        self._agenda = Agenda()
        self.truth = TruthLog(world.simulator)
        self.struck: Counter[str] = Counter()
        self.recoveries_seconds: list[float] = []
        self.complaints: list[str] = []

    @property
    def troubles(self) -> Sequence[tuple[float, float]]:
        return self._agenda.troubles

    def begin(self) -> None:
        """Start the fleet, and wait until every symbol is published."""
        fleet = self._world.fleet
        fleet.tend()
        wait_until(fleet.ready, "the fleet is ready", fleet.lives[0].program)
        self._states.start()
        if not self._wait_for_states(START_SECONDS):
            self.complaints.append("not every symbol was published at the start")

    def play(self) -> None:
        """Let all faults of the plan happen."""
        kinds = list(self._plan.kinds)
        if not self._plan.with_registry and "registry" in kinds:
            kinds.remove("registry")
        weights = [FAULTS[kind].weight for kind in kinds]
        for number in range(1, self._plan.faults + 1):
            # A fault has a generator of its own: its draws must not change the others.
            (kind,) = self._chance.choices(kinds, weights)
            own_chance = random.Random(self._chance.getrandbits(32))
            self._say(f"{number:4d} {kind}")
            self.struck[kind] += 1
            self._agenda.add(kind, FAULTS[kind].start(self._world, own_chance))

            # Faults come independently (a Poisson process), so that they overlap.
            self._pass(self._chance.expovariate(1 / self._plan.pause_seconds))
            if number % CALM_EVERY_FAULTS == 0 or number == self._plan.faults:
                seconds = self._recover()
                self.recoveries_seconds.append(seconds)
                self._say(f"     well again after {seconds:.1f} s")

    def _pass(self, seconds: float) -> None:
        """Let time pass."""
        until = time.monotonic() + seconds
        while time.monotonic() < until:
            self._turn()

    def _turn(self) -> None:
        # One thread does everything, so that a fault never meets a half-started worker.
        self._agenda.advance()
        self._world.fleet.tend()
        self._states.poll()
        self.truth.read_now_and_then()
        time.sleep(_TURN_SECONDS)

    def _recover(self) -> float:
        """Let every fault end, and return how many seconds later all is well again."""
        # Each fault repairs what it broke in its last step.
        while self._agenda:
            self._turn()
        # From here on nothing is broken: the workers must recover without help.
        began_at = time.monotonic()
        while not self._is_fleet_complete():
            self._turn()
            if time.monotonic() - began_at > CALM_SECONDS:
                self._complain("the fleet was not ready")
                break
        if not self._wait_for_states(CALM_SECONDS):
            self._complain("no events")
        return time.monotonic() - began_at

    def _is_fleet_complete(self) -> bool:
        fleet = self._world.fleet
        return fleet.ready() and fleet.shards_owned() == self._world.shards

    def _wait_for_states(self, seconds: float) -> bool:
        """Return whether every symbol gets a new committed state in time."""
        # Count from here: a state that is already written proves nothing.
        is_more = self._states.more_than_now(self._world.symbols)
        until = time.monotonic() + seconds
        while time.monotonic() < until:
            if is_more():
                return True
            self._turn()
        return False

    def _complain(self, problem: str) -> None:
        logs = []
        for life in self._world.fleet.running():
            logs.append(f"slot {life.slot}: {life.program.log()[-1500:]}")
        self.complaints.append(
            f"{problem} {CALM_SECONDS:g} s after the last fault: {'; '.join(logs)}"
        )
