"""Workers that are ended while somebody watches the API and the topics.

Every figure comes from outside of the workers: the simulator's log of its answers, and a
consumer that notes when an event arrives. Only the open shards are the workers' own word.
"""

from __future__ import annotations

import threading
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Self

import confluent_kafka as ck

from connector.core.model import MICROS
from connector.kafka.records import WORKER_HEADER
from tests.chaos.fleet import KEYS
from tests.support.processes import wait_until

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from connector.devkit.local_kafka import LocalKafka
    from tests.chaos.fleet import Fleet, Life
    from tests.support.processes import Program

    # Ends a worker of a fleet.
    End = Callable[[Fleet, Life], None]

SYMBOLS_OF_A_FEED = 4
# Longer than the session time-outs of that measurement: the group gives the shard up.
BROKER_AWAY_SECONDS = 10
# The broker's start takes several times as long on a busy machine.
BROKER_START_SECONDS = 300

_METADATA_SECONDS = 30
_POLL_SECONDS = 0.1
_MAX_MESSAGES = 1000


@dataclass(frozen=True, slots=True)
class Takeover:
    """Seconds from a worker's end until all feeds are served by the next worker.

    `dark_seconds`: each feed had an answer; `published_seconds`: an event of each feed
    reached a consumer; `open_seconds`: every shard was open.
    """

    dark_seconds: float
    published_seconds: float
    open_seconds: float


@dataclass(frozen=True, slots=True)
class Recovery:
    """Seconds that the broker took to start, and then to the first events of all feeds."""

    start_seconds: float
    events_seconds: float


@dataclass(frozen=True, slots=True)
class Arrival:
    """An event in a consumer's hands: its topic, its writer, and the moment in Unix seconds."""

    topic: str
    worker: str
    at: float


class Arrivals:
    """A consumer in a thread of its own, which notes every committed event.

    It starts at the end of the topics, which must exist.
    """

    def __init__(self, kafka: LocalKafka, topics: list[str]) -> None:
        self._consumer = ck.Consumer(
            {
                "bootstrap.servers": kafka.bootstrap_servers,
                "group.id": "failover-unused",
                "isolation.level": "read_committed",
                "enable.auto.commit": False,
                # The broker is killed: that is no news, and no reason to wait for long.
                "log_level": 0,
                "reconnect.backoff.max.ms": 250,
            }
        )
        self._topics = topics
        self._noted: list[Arrival] = []
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="arrivals", daemon=True)

    def since(self, moment: float) -> list[Arrival]:
        """Return the events that arrived after a moment, in order."""
        return [arrival for arrival in self._noted if arrival.at > moment]

    def __enter__(self) -> Self:
        metadata = self._consumer.list_topics(timeout=_METADATA_SECONDS)
        assignment = []
        for topic in self._topics:
            for partition in metadata.topics[topic].partitions:
                assignment.append(ck.TopicPartition(topic, partition, ck.OFFSET_END))
        self._consumer.assign(assignment)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stopping.set()
        self._thread.join()
        self._consumer.close()

    def _run(self) -> None:
        while not self._stopping.is_set():
            # Wait for one message, and take all that came with it.
            first = self._consumer.poll(_POLL_SECONDS)
            if first is None:
                continue
            rest = self._consumer.consume(_MAX_MESSAGES, timeout=0)
            at = time.time()
            for message in (first, *rest):
                # An error while the broker is away: the consumer goes on by itself.
                if message.error() is None:
                    self._noted.append(_arrival(message, at))


def _arrival(message: ck.Message, at: float) -> Arrival:
    headers = dict(message.headers() or {})
    worker = headers[WORKER_HEADER]
    topic = message.topic()
    # The client's types allow None; a message without an error has both.
    assert isinstance(worker, bytes)
    assert topic is not None
    return Arrival(topic, worker.decode(), at)


class Scene:
    """One worker, or two of one group, with a shard for each feed.

    `topics` maps each feed's topic of events to its symbols.
    """

    def __init__(
        self,
        kafka: LocalKafka,
        simulator: Program,
        fleet: Fleet,
        topics: Mapping[str, list[str]],
    ) -> None:
        self._kafka = kafka
        self._simulator = simulator
        self._fleet = fleet
        self._topics = topics
        self._cursor = 0

    def settle(self) -> None:
        """Wait until the workers are ready, and every shard is open."""
        wait_until(self._is_settled, "the workers are ready, and every shard is open")

    def take_over(self, arrivals: Arrivals, end: End) -> Takeover:
        """End the worker with more shards, and wait until the other one has them all."""
        self.settle()
        owner, standby = self._owner_and_standby()
        began_at = time.time()
        end(self._fleet, owner)
        takeover = self._wait_for(standby, arrivals, began_at)

        def has_ended() -> bool:
            return not owner.program.running

        # A clean stop may take longer than the takeover.
        wait_until(has_ended, "the owner has ended")
        return takeover

    def restart(self, arrivals: Arrivals) -> Takeover:
        """Kill the only worker, and start it again at once."""
        self.settle()
        (owner,) = self._fleet.running()
        began_at = time.time()
        owner.program.kill()
        # The next life has the same key.
        self._new_answers()
        self._fleet.tend()
        (next_life,) = self._fleet.running()
        return self._wait_for(next_life, arrivals, began_at)

    def lose_broker(self, arrivals: Arrivals) -> Recovery:
        """Kill the broker, start it again after a while, and wait for events of all feeds."""
        self.settle()
        self._kafka.kill()
        killed_at = time.time()
        time.sleep(BROKER_AWAY_SECONDS)

        began_at = time.time()
        self._kafka.start(BROKER_START_SECONDS)
        started_at = time.time()

        def events_flow() -> bool:
            # The first events can be those that waited: wait for more than one of each symbol.
            topics = [arrival.topic for arrival in arrivals.since(killed_at)]
            return all(
                topics.count(topic) > SYMBOLS_OF_A_FEED for topic in self._topics
            )

        wait_until(events_flow, "events of every feed flow")
        return Recovery(
            start_seconds=started_at - began_at,
            events_seconds=time.time() - started_at,
        )

    def _wait_for(self, owner: Life, arrivals: Arrivals, began_at: float) -> Takeover:
        """Wait until a worker has every shard, and events of every feed."""
        worker = _name_of(owner)

        def has_every_shard() -> bool:
            return self._open_shards(owner) == len(self._topics)

        published: dict[str, float] = {}

        def has_published() -> bool:
            for arrival in arrivals.since(began_at):
                if arrival.worker == worker:
                    published.setdefault(arrival.topic, arrival.at)
            return len(published) == len(self._topics)

        wait_until(has_every_shard, "the next owner has every shard", owner.program)
        opened_at = time.time()
        wait_until(has_published, "it has published every feed", owner.program)
        answered_at = self._answered_at(KEYS[owner.slot], began_at)
        return Takeover(
            dark_seconds=answered_at - began_at,
            published_seconds=max(published.values()) - began_at,
            open_seconds=opened_at - began_at,
        )

    def _answered_at(self, key: str, began_at: float) -> float:
        """Return when the last feed had its first answer. All have been published."""
        first: dict[str, float] = {}
        for answer in self._new_answers():
            at = answer["answered_at"] / MICROS
            if answer["key"] != key or answer["status"] != 200 or at < began_at:
                continue
            for topic, symbols in self._topics.items():
                if not answer["shown"].keys().isdisjoint(symbols):
                    first.setdefault(topic, at)
        return max(first.values())

    def _new_answers(self) -> list[dict[str, Any]]:
        """Return the upstream's answers since the last call."""
        page = self._simulator.ask(f"/_control/truth?since={self._cursor}")
        self._cursor = page["cursor"]
        answers: list[dict[str, Any]] = page["answers"]
        return answers

    def _is_settled(self) -> bool:
        # A worker that gave up, on a machine that is too busy, is started again.
        self._fleet.tend()
        return self._fleet.ready() and self._fleet.shards_owned() == len(self._topics)

    def _owner_and_standby(self) -> tuple[Life, Life]:
        one, other = self._fleet.running()
        if self._open_shards(one) > self._open_shards(other):
            return one, other
        return other, one

    def _open_shards(self, life: Life) -> int:
        return life.program.metric("gex_shards_owned")


def _name_of(life: Life) -> str:
    """Return the name of a worker, once it has logged that it listens."""

    def logged() -> str:
        for line in life.lines():
            if line["message"] == "listening":
                return str(line["worker"])
        return ""

    return wait_until(logged, "the worker listens", life.program)
