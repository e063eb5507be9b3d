"""The example consumer, run as its users run it."""

from __future__ import annotations

import itertools
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Self

import confluent_kafka as ck
import pytest

from connector.config.model import Kafka
from connector.core.model import Event, Kind, Levels, Source, State, Status
from connector.devkit.simulator.settings import EIGHT_SYMBOLS
from connector.errors import KafkaUnavailable
from connector.kafka import admin
from connector.kafka.avro import Codec, SingleObject
from connector.kafka.clients import Clients
from connector.kafka.events import Events
from connector.kafka.names import ShardId, Topics
from connector.kafka.reader import Reader
from connector.kafka.registry import Registry
from connector.kafka.shard_log import ShardLog, Transaction
from examples import consumer as example
from tests.support.processes import (
    PATIENCE_SECONDS,
    Program,
    start,
    start_simulator,
    start_worker,
    variables_for,
    wait_until,
)

if TYPE_CHECKING:
    from collections.abc import Iterator

    from connector.devkit.local_kafka import LocalKafka
    from tests.conftest import Names

CONSUMER = Path(__file__).parents[2] / "examples" / "consumer.py"
FEED = "all"
ENOUGH = 24


class Topic:
    """The topics of the feed, read by the connector's own reader."""

    def __init__(
        self, kafka: LocalKafka, names: Names, registry: str | None = None
    ) -> None:
        settings = Kafka(
            bootstrap_servers=kafka.bootstrap_servers, topic_prefix=names.topic_prefix
        )
        self.settings = settings
        self.clients, self.topics = Clients(settings), Topics(settings.topic_prefix)
        self._framing = SingleObject() if registry is None else Registry(registry, {})
        self.codec = Codec(self._framing)
        self.reader = Reader(self.clients)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.reader.close()
        if isinstance(self._framing, Registry):
            self._framing._client.close()

    def states(self) -> dict[str, State]:
        current = self.topics.current(FEED)
        values = self.reader.contents(
            current, 0, self.reader.high_watermark(current, 0)
        ).values
        return {
            key.decode(): self.codec.decode_state(value)
            for key, value in values.items()
        }

    def is_made(self) -> bool:
        """Make the topics; the broker's parts learn of them one after the other."""
        wanted = admin.topic_specs(self.topics, [FEED], self.settings)
        try:
            admin.prepare_topics(self.clients, wanted, 1)
            for spec in wanted:
                for partition in range(spec.partitions):
                    self.reader.high_watermark(spec.name, partition)
        except KafkaUnavailable:
            return False
        return True

    def log(self) -> ShardLog:
        """The feed's only shard, open."""
        log = ShardLog(
            ShardId(FEED, 0),
            1,
            topics=self.topics,
            clients=self.clients,
            reader=self.reader,
            codec=self.codec,
        )
        log.open()
        return log

    def events(self) -> list[Event]:
        """All of them: as many as the states say there were."""
        count = sum(state.sequence for state in self.states().values())
        reader = Events(self.clients, self.topics, self.codec, from_beginning=True)
        found = (
            received.event
            for received in reader.until(lambda: False)
            if received is not None
        )
        events = list(itertools.islice(found, count))
        reader.close()
        return events


def follow(kafka: LocalKafka, names: Names, *options: str) -> list[str]:
    where = [
        "--bootstrap",
        kafka.bootstrap_servers,
        "--prefix",
        names.topic_prefix,
        "--feed",
        FEED,
    ]
    return [sys.executable, str(CONSUMER), *where, *options]


def lines(consumer: Program) -> list[str]:
    return consumer.log().splitlines()


def said(record: Event | State, kind: str, levels: Levels | None) -> str:
    text = "no levels"
    if record.status.has_levels:
        assert levels is not None
        shown = ("hvl", "call_resistance", "put_support")
        text = " ".join(f"{name}={getattr(levels.all_expiry, name)}" for name in shown)
    warning = " (old: careful)" if record.status is Status.STALE else ""
    return f"{record.symbol} #{record.sequence} {kind} {record.status} {text}{warning}"


def expected(events: list[Event], restored: dict[str, int]) -> dict[str, list[str]]:
    """Return the lines, by symbol, of a consumer that restored these sequences."""
    texts: dict[str, list[str]] = {}
    for event in events:
        last = restored.get(event.symbol, 0)
        if event.sequence >= last:
            kind = "state" if event.sequence == last else event.kind
            texts.setdefault(event.symbol, []).append(said(event, kind, event.after))
    return texts


def by_symbol(texts: list[str]) -> dict[str, list[str]]:
    ordered = sorted(texts, key=lambda text: text.split()[0])
    return {
        symbol: list(group)
        for symbol, group in itertools.groupby(ordered, lambda text: text.split()[0])
    }


def restored_by(texts: list[str]) -> dict[str, int]:
    words = (text.split() for text in texts)
    return {
        symbol: int(number[1:]) for symbol, number, kind, *_ in words if kind == "state"
    }


@pytest.fixture
def topic(kafka: LocalKafka, names: Names) -> Iterator[Topic]:
    """Made, and empty."""
    with Topic(kafka, names) as made:
        wait_until(made.is_made, "the topics are there")
        yield made


@pytest.mark.parametrize("framed", [False, True], ids=["single-object", "registry"])
def test_a_consumer_sees_every_event_although_the_worker_is_killed(
    kafka: LocalKafka, names: Names, framed: bool, request: pytest.FixtureRequest
) -> None:
    registry: str | None = request.getfixturevalue("registry").url if framed else None
    command = follow(kafka, names, *(["--registry", registry] if registry else []))
    with (
        start_simulator(
            "--period", "0.5", "--jitter", "0.1", "--limit", "0"
        ) as simulator,
        Topic(kafka, names, registry) as topic,
    ):
        variables = variables_for(kafka, names, simulator)
        if registry:
            variables["GEX_SCHEMA_REGISTRY__URL"] = registry
        with start_worker(variables) as worker:
            wait_until(
                lambda: len(topic.states()) == len(EIGHT_SYMBOLS),
                "all symbols have a state",
                worker,
            )
            with start(command) as consumer:
                wait_until(
                    lambda: len(lines(consumer)) >= ENOUGH,
                    "the consumer follows",
                    consumer,
                )
                worker.kill()
                before = len(lines(consumer))
                with start_worker(variables) as another:
                    wait_until(
                        lambda: len(lines(consumer)) >= before + ENOUGH,
                        "it follows the next one",
                        consumer,
                    )
                    assert another.terminate() == 0
                events = topic.events()
                expected_lines = expected(events, restored_by(lines(consumer)))
                count = sum(map(len, expected_lines.values()))
                wait_until(
                    lambda: len(lines(consumer)) >= count,
                    "it has seen every event",
                    consumer,
                )
                assert by_symbol(lines(consumer)) == expected_lines
    assert len({event.source.worker for event in events}) == 2
    with start([*command, "--seconds", "0"]) as late:
        assert late.wait() == 0
        assert by_symbol(lines(late)) == expected(
            events, {event.symbol: event.sequence for event in events}
        )


def moment(sequence: int) -> Transaction:
    """Return an event of BTCUSDT and the state after it."""
    source = Source("0", "group", "worker")
    at = 1_700_000_000_000_000 + sequence
    levels = Levels()
    event = Event(
        event_id=f"{FEED}/BTCUSDT/{sequence}",
        feed=FEED,
        symbol="BTCUSDT",
        sequence=sequence,
        kind=Kind.CHANGED,
        status=Status.LIVE,
        reason=None,
        computed_at=at,
        previous_computed_at=None,
        observed_at=at,
        changed_levels=(),
        changed_sections=(),
        collapsed_observations=0,
        source=source,
        before=None,
        after=levels,
    )
    after = State(
        feed=FEED,
        symbol="BTCUSDT",
        sequence=sequence,
        status=Status.LIVE,
        computed_at=at,
        observed_at=at,
        request_fingerprint="",
        source=source,
        levels=levels,
    )
    return Transaction([event], [after])


class Watched(ck.Consumer):
    """A consumer that signals when it has reached an end."""

    at_end = threading.Event()

    def poll(self, *arguments: float) -> ck.Message | None:
        message = super().poll(*arguments)
        if message is not None and message.error() is not None:
            self.at_end.set()
        return message


def test_a_transaction_open_at_the_start_is_neither_lost_nor_duplicated(
    kafka: LocalKafka, topic: Topic, monkeypatch: pytest.MonkeyPatch
) -> None:
    changes, current = topic.topics.changes(FEED), topic.topics.current(FEED)
    log = topic.log()
    log.publish(moment(1))
    log.publish(moment(2))
    producer = log._producer
    assert producer is not None
    producer.begin_transaction()
    log._produce(producer, moment(3))
    assert producer.flush(PATIENCE_SECONDS) == 0

    monkeypatch.setattr(example, "Consumer", Watched)
    decoder, reader = (
        example.Decoder(None),
        example.consumer(kafka.bootstrap_servers, "read_committed"),
    )
    begin = example.ends(reader, changes)
    high = example.ends(
        example.consumer(kafka.bootstrap_servers, "read_uncommitted"), current
    )
    with ThreadPoolExecutor() as pool:
        restored = pool.submit(example.restore, reader, current, high, decoder)
        assert Watched.at_end.wait(PATIENCE_SECONDS)  # of all that is committed so far
        producer.commit_transaction(PATIENCE_SECONDS)
        states = restored.result(PATIENCE_SECONDS)
    assert states["BTCUSDT"]["sequence"] == 3
    log.publish(moment(4))
    reader.assign(
        [
            ck.TopicPartition(changes, partition, offset)
            for partition, offset in begin.items()
        ]
    )
    event = next(
        example.follow(
            reader, {"BTCUSDT": 3}, decoder, time.monotonic() + PATIENCE_SECONDS
        )
    )
    assert event["sequence"] == 4
    reader.close()


def test_a_gap_ends_the_consumer(kafka: LocalKafka, names: Names, topic: Topic) -> None:
    log = topic.log()
    log.publish(moment(1))
    with start(follow(kafka, names)) as consumer:
        wait_until(lambda: lines(consumer), "it has restored", consumer)
        log.publish(moment(3))
        assert consumer.wait() == 1
        assert lines(consumer)[1:] == ["all/BTCUSDT/3 follows 1"]


def test_the_error_for_an_absent_topic_names_it(
    kafka: LocalKafka, names: Names
) -> None:
    with start(follow(kafka, names)) as consumer:
        assert consumer.wait() == 1
        assert lines(consumer) == [
            f"no topic {names.topic_prefix}.all.changes: see --prefix and --feed"
        ]
