"""Faults of topics: they are deleted, or another program holds them."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any, TypeVar

import confluent_kafka as ck

from tests.chaos import topics
from tests.chaos.deleted_events import DeletedTopic, covers

if TYPE_CHECKING:
    import random
    from collections.abc import Callable, Generator

    from connector.core.model import Event
    from tests.chaos.evidence import States
    from tests.chaos.faults import Fault, World

    T = TypeVar("T")

_TURN_SECONDS = 0.1

# Enough for a transaction in progress when the fault begins. A foreign one can be open for
# longer; then the topic is not deleted.
_READING_SECONDS = 20.0
_READING_PAUSE_SECONDS = 0.5
# By then every broker knows of the deletion.
_GONE_SECONDS = 2.0

# A worker that is stopped and started again creates missing topics.
_RESTART_SECONDS = 60.0

# Longest transaction of another program. A worker names it after 35 to 50 s.
_FOREIGN_SECONDS = 60.0


def quarantine_topic(world: World, chance: random.Random) -> Fault:
    """Delete the quarantine while bad entries come."""
    some = chance.sample(world.symbols, 3)
    bad: dict[str, Any] = chance.choice(
        [
            {"fault": "nan", "symbols": some},
            {"fault": "wrong_types", "symbols": some},
            {"fault": "wrong_types", "symbols": some, "variant": "entry"},
        ]
    )
    seconds = chance.uniform(2, 15)
    back = _Return(chance)
    yield 0
    if world.is_quarantine_deleted:
        return
    world.is_quarantine_deleted = True
    name = world.names.quarantine
    began_at = time.time()
    entries = yield from _in_thread(world, lambda: _readable(world.records.quarantined))
    if entries is not None:
        world.quarantined += entries
        yield from _in_thread(world, lambda: topics.delete(world.cluster, name))
        world.simulator.ask(
            "/_control/faults", {**bad, "probability": 0.7, "for_seconds": seconds}
        )
        yield seconds
        yield from back.create(world, name)
        world.quarantine_gone.append((began_at, time.time()))
    world.is_quarantine_deleted = False


def changes_topic(world: World, chance: random.Random) -> Fault:
    """Delete the events. The topic comes back, perhaps with another number of partitions."""
    seconds = chance.uniform(0, 12)
    back = _Return(chance)
    yield 0
    # Nobody deletes the same topic twice at once.
    if world.is_topic_deleted:
        return
    world.is_topic_deleted = True
    deleted = yield from _in_thread(world, lambda: _read_and_delete(world))
    if deleted is not None:
        world.deleted.append(deleted)
        yield seconds
        yield from back.create(world, world.names.changes("all"))
    world.is_topic_deleted = False


def foreign_transaction(world: World, chance: random.Random) -> Fault:
    """Hold the events back by the open transaction of another program."""
    partition = chance.randrange(6)
    seconds = chance.choice(
        [chance.uniform(1, 10), chance.uniform(1, _FOREIGN_SECONDS)]
    )
    yield 0
    topic = world.names.changes("all")
    foreign = topics.ForeignTransaction(world.cluster, topic, partition)
    yield from _in_thread(world, foreign.begin)
    yield seconds
    yield from _in_thread(world, foreign.abort)


class _Return:
    """The way in which a deleted topic comes back: by a worker's start, or by hand."""

    def __init__(self, chance: random.Random) -> None:
        self._victim = chance.random()
        self._is_by_hand = chance.random() < 0.5
        # As many as configured, or as brokers create by themselves.
        self._partitions = chance.choice([6, 1])

    def create(self, world: World, topic: str) -> Fault:
        life = None
        if not self._is_by_hand:
            life = world.victim(self._victim)
        if life is not None:
            world.fleet.stop(life)
            until = time.monotonic() + _RESTART_SECONDS
            while time.monotonic() < until:
                yield _TURN_SECONDS
                exists = yield from _in_thread(
                    world, lambda: topics.exists(world.cluster, topic)
                )
                if exists:
                    return
        # Does nothing if a worker that another fault has started was faster.
        yield from _in_thread(
            world, lambda: topics.create(world.cluster, topic, self._partitions)
        )


def _read_and_delete(world: World) -> DeletedTopic | None:
    """Delete `changes`, and return its events. None: they could not be read in time."""
    states = _readable(world.records.states)
    if states is None:
        return None
    events = _events_of(states, world)
    if events is None:
        return None
    since = dict.fromkeys(range(world.shards), 0)
    for partition, records in states.items():
        last_offset, _ = records[-1]
        since[partition] = last_offset + 1

    topics.delete(world.cluster, world.names.changes("all"))
    time.sleep(_GONE_SECONDS)
    ends = topics.end_of_all_transactions(
        world.cluster, world.names.current("all"), world.shards
    )
    return DeletedTopic(events, since, ends)


def _events_of(states: States, world: World) -> list[Event] | None:
    """Return all events, once those of the states are among them. None: not in time."""
    until = time.monotonic() + _READING_SECONDS
    while time.monotonic() < until:
        events = _readable(world.records.events)
        if events is not None and covers(events, states):
            return events
        # An open transaction of any program hides events whose states can be read.
        time.sleep(_READING_PAUSE_SECONDS)
    return None


def _readable(read: Callable[[], T]) -> T | None:
    """Return what was read, None if brokers are dead or do not know the topic yet."""
    try:
        return read()
    except (ck.KafkaException, AssertionError, KeyError):
        return None


def _in_thread(world: World, call: Callable[[], T]) -> Generator[float, None, T]:
    """Run a blocking call in a thread, and return its result."""
    done = world.threads.submit(call)
    while not done.done():
        yield _TURN_SECONDS
    return done.result()
