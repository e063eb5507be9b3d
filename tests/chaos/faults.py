"""The faults of a chaos run.

A fault is a generator: it does harm, yields how many seconds to wait, and repairs what
it broke. It draws everything random before its first yield, so that a seed determines
which faults come, though not their consequences.
"""

from __future__ import annotations

import signal
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from tests.chaos.armed import POINTS
from tests.chaos.fleet import SLOTS, Life, is_frozen
from tests.chaos.topic_faults import (
    changes_topic,
    foreign_transaction,
    quarantine_topic,
)
from tests.support.registry_front import STRANGE

if TYPE_CHECKING:
    import random
    from collections.abc import Callable, Iterator, Sequence
    from concurrent.futures import ThreadPoolExecutor
    from typing import TypeAlias

    from connector.devkit.local_kafka import LocalKafka
    from connector.kafka.names import Topics
    from tests.chaos.cluster import Cluster
    from tests.chaos.deleted_events import DeletedTopic
    from tests.chaos.feed_records import FeedRecords
    from tests.chaos.fleet import Fleet
    from tests.chaos.proxy import Proxy
    from tests.support.checker import Record
    from tests.support.processes import Program
    from tests.support.registry_front import RegistryFront

    Fault: TypeAlias = Iterator[float]

# Session time-out of the workers' group: a worker frozen for longer loses its shards.
SESSION_SECONDS = 6.0

_TURN_SECONDS = 0.1
# How long a worker may take to the ordered point: three refreshes of the upstream.
_POINT_REACHED_SECONDS = 6.0

# Timestamps further ahead than an hour are refused (`message.timestamp.after.max.ms`).
_REFUSED_AHEAD_SECONDS = 3_700.0

# A worker gives its shards up after 10 s, and ends itself after 60 s.
_STUCK_SECONDS = 35.0


@dataclass(slots=True)
class World:
    """Everything that faults can harm.

    `deleted` has the topics of events that were deleted so far, in order, and `quarantined`
    the entries of deleted quarantines. Every freeze beyond the session time-out is
    `freeze_longer_seconds` longer than usual.
    """

    cluster: Cluster
    fleet: Fleet
    simulator: Program
    registry: RegistryFront | None
    names: Topics
    records: FeedRecords
    symbols: tuple[str, ...]
    shards: int
    threads: ThreadPoolExecutor
    points: tuple[str, ...] = POINTS
    freeze_longer_seconds: float = 0.0
    are_brokers_down: bool = False
    is_topic_deleted: bool = False
    is_quarantine_deleted: bool = False
    deleted: list[DeletedTopic] = field(default_factory=list)
    quarantined: list[Record] = field(default_factory=list)
    quarantine_gone: list[tuple[float, float]] = field(default_factory=list)

    def victim(self, part: float) -> Life | None:
        """Return a running worker, chosen by `part` between 0 and 1."""
        running = self.fleet.running()
        if not running:
            return None
        return running[int(part * len(running))]


def kill(world: World, chance: random.Random) -> Fault:
    """Kill a worker (SIGKILL) at any moment."""
    part = chance.random()
    yield 0
    life = world.victim(part)
    if life is not None:
        life.program.kill()


def kill_at_a_point(world: World, chance: random.Random) -> Fault:
    """Kill a worker (SIGKILL) at a point of a transaction."""
    part = chance.random()
    point = chance.choice(world.points)
    yield 0
    life = world.victim(part)
    if life is not None:
        yield from _signal_at_point(world, life, point, signal.SIGKILL)


def freeze(world: World, chance: random.Random) -> Fault:
    """Freeze a worker (SIGSTOP) for longer than the session time-out."""
    part = chance.random()
    seconds = _longer_than_session(world, chance)
    yield 0
    life = world.victim(part)
    if life is not None:
        life.program.signal(signal.SIGSTOP)
        yield from _thaw_after(life, seconds)


def freeze_at_a_point(world: World, chance: random.Random) -> Fault:
    """Freeze a worker for longer than the session time-out, at a point of a transaction."""
    part = chance.random()
    point = chance.choice(world.points)
    seconds = _longer_than_session(world, chance)
    yield 0
    life = world.victim(part)
    if life is not None:
        yield from _signal_at_point(world, life, point, signal.SIGSTOP)
        if is_frozen(life):
            yield from _thaw_after(life, seconds)


def hiccup(world: World, chance: random.Random) -> Fault:
    """Freeze a worker for less than the session time-out."""
    part = chance.random()
    seconds = chance.uniform(0.2, SESSION_SECONDS - 2)
    yield 0
    life = world.victim(part)
    if life is not None:
        life.program.signal(signal.SIGSTOP)
        yield from _thaw_after(life, seconds)


def restart(world: World, chance: random.Random) -> Fault:
    """Stop a worker as asked (SIGTERM). The fleet starts another one."""
    part = chance.random()
    yield 0
    life = world.victim(part)
    if life is not None:
        world.fleet.stop(life)


def scale(world: World, chance: random.Random) -> Fault:
    """Change the number of workers for a while."""
    wanted = chance.randint(1, SLOTS)
    seconds = chance.uniform(6, 14)
    before = world.fleet.wanted
    yield 0
    world.fleet.wanted = wanted
    yield seconds
    world.fleet.wanted = before


def broker(world: World, chance: random.Random) -> Fault:
    """Kill a broker, and start it again."""
    number = chance.randrange(3)
    seconds = chance.uniform(0, 5)
    yield 0
    yield from _kill_brokers(world, [world.cluster.brokers[number]], seconds)


def coordinator(world: World, chance: random.Random) -> Fault:
    """Kill the broker that coordinates transactions, and start it again."""
    seconds = chance.uniform(0, 5)
    yield 0
    yield from _kill_brokers(world, [world.cluster.coordinator()], seconds)


def all_brokers(world: World, chance: random.Random) -> Fault:
    """Kill all brokers at once, and start them again."""
    seconds = chance.uniform(0, 8)
    yield 0
    yield from _kill_brokers(world, world.cluster.brokers, seconds)


def network_cut(world: World, chance: random.Random) -> Fault:
    """Close every connection to some brokers, and refuse new ones for a while."""
    proxies = _some_proxies(world, chance)
    seconds = chance.choice([0.0, chance.uniform(0.5, 9)])
    yield 0
    world.cluster.network.tell(lambda proxy: proxy.refuse(True), proxies)
    yield seconds
    world.cluster.network.tell(lambda proxy: proxy.refuse(False), proxies)


def network_stall(world: World, chance: random.Random) -> Fault:
    """Keep the connections to some brokers open, but let no data pass."""
    proxies = _some_proxies(world, chance)
    seconds = chance.uniform(0.5, 12)
    yield 0
    world.cluster.network.tell(lambda proxy: proxy.stall(True), proxies)
    yield seconds
    world.cluster.network.tell(lambda proxy: proxy.stall(False), proxies)


def network_delay(world: World, chance: random.Random) -> Fault:
    """Delay the data to and from some brokers."""
    proxies = _some_proxies(world, chance)
    seconds = chance.uniform(2, 10)
    delay_seconds = chance.uniform(0.02, 0.4)
    yield 0
    world.cluster.network.tell(lambda proxy: proxy.delay(delay_seconds), proxies)
    yield seconds
    world.cluster.network.tell(lambda proxy: proxy.delay(0.0), proxies)


def upstream(world: World, chance: random.Random) -> Fault:
    """Let the upstream fail, be slow, refuse, or answer badly."""
    some = chance.sample(world.symbols, 3)
    older = {"fault": "computed_at", "variant": "older"}
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
            {**older, "symbols": some, "probability": 0.5},
            {"fault": "null_levels", "symbols": some, "probability": 0.5},
        ]
    )
    seconds = chance.uniform(1, 8)
    yield 0
    world.simulator.ask("/_control/faults", {**fault, "for_seconds": seconds})
    yield seconds


def clock(world: World, chance: random.Random) -> Fault:
    """Set a worker's wall clock forward or back, by 0.1 to 200 seconds."""
    part = chance.random()
    seconds = chance.choice([-1, 1]) * 10 ** chance.uniform(-1, 2.3)
    yield 0
    life = world.victim(part)
    if life is not None:
        world.fleet.order(life, "clock", str(seconds))


def clock_ahead(world: World, chance: random.Random) -> Fault:
    """Set a worker's wall clock further ahead than brokers accept, for a while."""
    part = chance.random()
    ahead_seconds = chance.uniform(_REFUSED_AHEAD_SECONDS, 3 * _REFUSED_AHEAD_SECONDS)
    # Long enough for the worker to find out.
    seconds = chance.uniform(10, 25)
    yield 0
    life = world.victim(part)
    if life is not None:
        began_at = time.time()
        world.fleet.order(life, "clock", str(ahead_seconds))
        yield seconds
        world.fleet.withdraw(life, "clock")
        life.clock_ahead.append((began_at, time.time()))


def registry(world: World, chance: random.Random) -> Fault:
    """Let the registry be silent or answer as something else, and kill a worker.

    Another one takes over, and a new one starts meanwhile.
    """
    part = chance.random()
    answer = chance.choice([None, *STRANGE.values()])
    seconds = chance.uniform(2, 12)
    yield 0
    if world.registry is None:
        return
    world.registry.answer = answer
    world.registry.silent = answer is None
    life = world.victim(part)
    if life is not None:
        life.program.kill()
    yield seconds
    world.registry.answer = None
    world.registry.silent = False


def unread_log(world: World, chance: random.Random) -> Fault:
    """Let nobody read a worker's log, so that its pipe is full."""
    part = chance.random()
    seconds = chance.uniform(3, 30)
    yield 0
    life = world.victim(part)
    if life is not None:
        world.fleet.order(life, "unread", "")
        yield seconds
        world.fleet.withdraw(life, "unread")


def stuck_loop(world: World, chance: random.Random) -> Fault:
    """Let a worker's event loop be stuck in a call, while its other threads go on."""
    part = chance.random()
    seconds = chance.choice([chance.uniform(1, 10), chance.uniform(10, _STUCK_SECONDS)])
    yield 0
    life = world.victim(part)
    if life is not None:
        began_at = time.time()
        life.is_stuck = True
        world.fleet.order(life, "stuck", "")
        yield seconds
        world.fleet.withdraw(life, "stuck")
        # It looks every tenth of a second.
        yield 2 * _TURN_SECONDS
        life.is_stuck = False
        life.frozen.append((began_at, time.time()))


@dataclass(frozen=True, slots=True)
class FaultKind:
    """A kind of fault, and how often it is drawn in proportion to the others."""

    start: Callable[[World, random.Random], Fault]
    weight: float


FAULTS = {
    "kill": FaultKind(kill, 2),
    "kill at a point": FaultKind(kill_at_a_point, 4),
    "freeze": FaultKind(freeze, 1),
    "freeze at a point": FaultKind(freeze_at_a_point, 2),
    "hiccup": FaultKind(hiccup, 1),
    "restart": FaultKind(restart, 2),
    "scale": FaultKind(scale, 1.5),
    "broker": FaultKind(broker, 1.5),
    "coordinator": FaultKind(coordinator, 1),
    "all brokers": FaultKind(all_brokers, 0.7),
    "network cut": FaultKind(network_cut, 1.5),
    "network stall": FaultKind(network_stall, 1.5),
    "network delay": FaultKind(network_delay, 1.5),
    "upstream": FaultKind(upstream, 3),
    "clock": FaultKind(clock, 1.5),
    "clock ahead": FaultKind(clock_ahead, 1),
    "registry": FaultKind(registry, 1.5),
    "quarantine topic": FaultKind(quarantine_topic, 1),
    "changes topic": FaultKind(changes_topic, 1),
    "foreign transaction": FaultKind(foreign_transaction, 1),
    "unread log": FaultKind(unread_log, 1),
    "stuck loop": FaultKind(stuck_loop, 1.5),
}


def _longer_than_session(world: World, chance: random.Random) -> float:
    seconds = chance.uniform(SESSION_SECONDS + 1, SESSION_SECONDS + 5)
    return seconds + world.freeze_longer_seconds


def _signal_at_point(world: World, life: Life, point: str, number: int) -> Fault:
    """Order a signal at a point of a transaction, and wait until it is carried out.

    An order that is not carried out in time is withdrawn. Later it would freeze a worker
    that nobody wakes.
    """
    world.fleet.order(life, "point", f"{point} {int(number)}")
    for _ in range(int(_POINT_REACHED_SECONDS / _TURN_SECONDS)):
        if not world.fleet.is_ordered(life) or not life.program.running:
            break
        yield _TURN_SECONDS
    world.fleet.withdraw(life)
    # The worker may have read the order just before it was withdrawn.
    yield _TURN_SECONDS


def _thaw_after(life: Life, seconds: float) -> Fault:
    """Wake a frozen worker (SIGCONT) after a while."""
    began_at = time.time()
    yield seconds
    life.program.signal(signal.SIGCONT)
    life.frozen.append((began_at, time.time()))


def _kill_brokers(world: World, brokers: Sequence[LocalKafka], seconds: float) -> Fault:
    """Kill brokers, and start them again after a while."""
    # Two faults of brokers at once would leave no quorum for longer than either means to.
    if world.are_brokers_down:
        return
    world.are_brokers_down = True
    for one in brokers:
        one.kill()
    yield seconds
    starts = []
    for one in brokers:
        starts.append(world.threads.submit(one.start))
    while not all(start.done() for start in starts):
        yield _TURN_SECONDS
    world.are_brokers_down = False
    for start in starts:
        start.result()


def _some_proxies(world: World, chance: random.Random) -> list[Proxy]:
    """Return the proxy of one broker, or those of all."""
    proxies = world.cluster.network.proxies
    return chance.choice([proxies, [chance.choice(proxies)]])
