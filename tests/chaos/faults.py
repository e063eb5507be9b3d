"""What can go wrong. A fault is a generator: it does harm, yields how long to wait, and mends what it broke.

Everything random is drawn before the first harm, so that a seed says what happens, though not what comes of it.
"""

from __future__ import annotations

import os
import signal
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from tests.chaos.armed import POINTS
from tests.chaos.fleet import SLOTS, Life, is_frozen

if TYPE_CHECKING:
    import random
    from collections.abc import Callable, Iterator
    from concurrent.futures import ThreadPoolExecutor
    from typing import TypeAlias

    from connector.devkit.local_kafka import LocalKafka
    from tests.chaos.cluster import Cluster
    from tests.chaos.fleet import Fleet
    from tests.support.processes import Program
    from tests.support.registry import LocalRegistry

    Fault: TypeAlias = Iterator[float]

SESSION_SECONDS = 6.0
_TURN_SECONDS = 0.1
_REACHED_SECONDS = 6.0


@dataclass(slots=True)
class World:
    """What faults harm."""

    cluster: Cluster
    fleet: Fleet
    simulator: Program
    registry: LocalRegistry | None
    symbols: tuple[str, ...]
    threads: ThreadPoolExecutor
    points: tuple[str, ...] = POINTS
    brokers_down: bool = False

    def victim(self, part: float) -> Life | None:
        """A running worker; `part`, 0 to 1, says which."""
        running = self.fleet.running()
        return running[int(part * len(running))] if running else None


def kill(world: World, chance: random.Random) -> Fault:
    """kill -9 of a worker, at any moment."""
    part = chance.random()
    yield 0
    if life := world.victim(part):
        life.program.kill()


def kill_at_a_point(world: World, chance: random.Random) -> Fault:
    """kill -9 of a worker at a point of a transaction."""
    part, point = chance.random(), chance.choice(world.points)
    yield 0
    if life := world.victim(part):
        yield from _ordered(world, life, point, signal.SIGKILL)


def freeze(world: World, chance: random.Random) -> Fault:
    """SIGSTOP for longer than the session time-out, then SIGCONT."""
    part, seconds = (
        chance.random(),
        chance.uniform(SESSION_SECONDS + 1, SESSION_SECONDS + 5),
    )
    yield 0
    if life := world.victim(part):
        life.program.signal(signal.SIGSTOP)
        yield from _frozen(life, seconds)


def freeze_at_a_point(world: World, chance: random.Random) -> Fault:
    """The same at a point of a transaction."""
    part, point = chance.random(), chance.choice(world.points)
    seconds = chance.uniform(SESSION_SECONDS + 1, SESSION_SECONDS + 5)
    yield 0
    if life := world.victim(part):
        yield from _ordered(world, life, point, signal.SIGSTOP)
        if is_frozen(life):
            yield from _frozen(life, seconds)


def hiccup(world: World, chance: random.Random) -> Fault:
    """SIGSTOP for less than the session time-out."""
    part, seconds = chance.random(), chance.uniform(0.2, SESSION_SECONDS - 2)
    yield 0
    if life := world.victim(part):
        life.program.signal(signal.SIGSTOP)
        yield from _frozen(life, seconds)


def restart(world: World, chance: random.Random) -> Fault:
    """A clean stop of a worker, which is started again."""
    part = chance.random()
    yield 0
    if life := world.victim(part):
        world.fleet.stop(life)


def scale(world: World, chance: random.Random) -> Fault:
    """Another number of workers for a while."""
    wanted, seconds, before = (
        chance.randint(1, SLOTS),
        chance.uniform(6, 14),
        world.fleet.wanted,
    )
    yield 0
    world.fleet.wanted = wanted
    yield seconds
    world.fleet.wanted = before


def broker(world: World, chance: random.Random) -> Fault:
    """kill -9 of a broker, which is started again."""
    number, seconds = chance.randrange(3), chance.uniform(0, 5)
    yield 0
    yield from _down(world, [world.cluster.brokers[number]], seconds)


def coordinator(world: World, chance: random.Random) -> Fault:
    """The same of the transaction coordinator's leader."""
    seconds = chance.uniform(0, 5)
    yield 0
    yield from _down(world, [world.cluster.coordinator()], seconds)


def all_brokers(world: World, chance: random.Random) -> Fault:
    """The same of all three at once."""
    seconds = chance.uniform(0, 8)
    yield 0
    yield from _down(world, world.cluster.brokers, seconds)


def network_cut(world: World, chance: random.Random) -> Fault:
    """Every connection to some brokers is closed, and none accepted for a while."""
    proxies, seconds = (
        _some(world, chance),
        chance.choice([0.0, chance.uniform(0.5, 9)]),
    )
    yield 0
    world.cluster.network.tell(lambda proxy: proxy.refuse(True), proxies)
    yield seconds
    world.cluster.network.tell(lambda proxy: proxy.refuse(False), proxies)


def network_stall(world: World, chance: random.Random) -> Fault:
    """Connections to some brokers stay and nothing passes."""
    proxies, seconds = _some(world, chance), chance.uniform(0.5, 12)
    yield 0
    world.cluster.network.tell(lambda proxy: proxy.stall(True), proxies)
    yield seconds
    world.cluster.network.tell(lambda proxy: proxy.stall(False), proxies)


def network_delay(world: World, chance: random.Random) -> Fault:
    """What passes to some brokers takes longer."""
    proxies, seconds, delay = (
        _some(world, chance),
        chance.uniform(2, 10),
        chance.uniform(0.02, 0.4),
    )
    yield 0
    world.cluster.network.tell(
        lambda proxy: setattr(proxy, "delay_seconds", delay), proxies
    )
    yield seconds
    world.cluster.network.tell(
        lambda proxy: setattr(proxy, "delay_seconds", 0.0), proxies
    )


def upstream(world: World, chance: random.Random) -> Fault:
    """The upstream is down, slow, refuses, or answers badly or by halves."""
    some = chance.sample(world.symbols, 3)
    fault: dict[str, Any] = chance.choice(
        [
            {"fault": "503"},
            {"fault": "drop", "probability": 0.5},
            {"fault": "hang", "seconds": 3.0},
            {"fault": "slow", "seconds": 1.0},
            {"fault": "truncated", "probability": 0.5},
            {"fault": "html", "probability": 0.5},
            {"fault": "429", "retry_after_seconds": 2.0},
            {"fault": "missing", "symbols": some},
            {"fault": "invalid", "symbols": some},
            {"fault": "absent", "symbols": some},
            {"fault": "nan", "symbols": some},
            {"fault": "wrong_types", "symbols": some},
            {
                "fault": "computed_at",
                "variant": "older",
                "symbols": some,
                "probability": 0.5,
            },
            {"fault": "null_levels", "symbols": some, "probability": 0.5},
        ]
    )
    seconds = chance.uniform(1, 8)
    yield 0
    world.simulator.ask("/_control/faults", {**fault, "for_seconds": seconds})
    yield seconds


def clock(world: World, chance: random.Random) -> Fault:
    """A worker's wall clock is set."""
    part, seconds = (
        chance.random(),
        chance.choice([-1, 1]) * 10 ** chance.uniform(-1, 2.3),
    )
    yield 0
    if life := world.victim(part):
        world.fleet.order(life, "clock", str(seconds))


def registry(world: World, chance: random.Random) -> Fault:
    """The schema registry does not answer, and a worker is started again meanwhile."""
    part, seconds = chance.random(), chance.uniform(2, 12)
    yield 0
    if world.registry is None:
        return
    os.kill(world.registry.pid, signal.SIGSTOP)
    if life := world.victim(part):
        life.program.kill()
    yield seconds
    os.kill(world.registry.pid, signal.SIGCONT)


FAULTS: dict[str, tuple[Callable[[World, random.Random], Fault], float]] = {
    "kill": (kill, 2),
    "kill at a point": (kill_at_a_point, 4),
    "freeze": (freeze, 1),
    "freeze at a point": (freeze_at_a_point, 2),
    "hiccup": (hiccup, 1),
    "restart": (restart, 2),
    "scale": (scale, 1.5),
    "broker": (broker, 1.5),
    "coordinator": (coordinator, 1),
    "all brokers": (all_brokers, 0.7),
    "network cut": (network_cut, 1.5),
    "network stall": (network_stall, 1.5),
    "network delay": (network_delay, 1.5),
    "upstream": (upstream, 3),
    "clock": (clock, 1.5),
    "registry": (registry, 1),
}
"""With how often each is drawn."""


def _ordered(world: World, life: Life, point: str, number: int) -> Fault:
    """Until it is carried out or withdrawn: one that is left would freeze a worker that nobody wakes."""
    world.fleet.order(life, "point", f"{point} {int(number)}")
    for _ in range(int(_REACHED_SECONDS / _TURN_SECONDS)):
        if not world.fleet.is_ordered(life) or not life.program.running:
            break
        yield _TURN_SECONDS
    world.fleet.withdraw(life)
    yield _TURN_SECONDS  # it may have been at the point just then


def _frozen(life: Life, seconds: float) -> Fault:
    began = time.time()
    yield seconds
    life.program.signal(signal.SIGCONT)
    life.frozen.append((began, time.time()))


def _down(world: World, brokers: list[LocalKafka], seconds: float) -> Fault:
    if world.brokers_down:  # two faults of brokers are one of all
        return
    world.brokers_down = True
    for one in brokers:
        one.kill()
    yield seconds
    started = [world.threads.submit(one.start, 120.0) for one in brokers]
    while not all(each.done() for each in started):
        yield _TURN_SECONDS
    world.brokers_down = False
    for each in started:
        each.result()


def _some(world: World, chance: random.Random) -> list[Any]:
    return chance.choice(
        [world.cluster.network.proxies, [chance.choice(world.cluster.network.proxies)]]
    )
