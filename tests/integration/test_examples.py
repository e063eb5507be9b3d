"""The example consumer, run as its users run it."""

from __future__ import annotations

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
# Three lines for each symbol: its state, and some events after it.
ENOUGH_LINES = 24
SHOWN_LEVELS = ("hvl", "call_resistance", "put_support")


class Topic:
    """The topics of the feed, read by the connector's own reader."""

    def __init__(
        self, kafka: LocalKafka, names: Names, registry: str | None = None
    ) -> None:
        settings = Kafka(
            bootstrap_servers=kafka.bootstrap_servers, topic_prefix=names.topic_prefix
        )
        self.settings = settings
        self.clients = Clients(settings)
        self.topics = Topics(settings.topic_prefix)
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
        """Return the last state of each symbol."""
        current = self.topics.current(FEED)
        end = self.reader.high_watermark(current, 0)
        contents = self.reader.contents(current, 0, end)
        states = {}
        for key, record in contents.latest.items():
            states[key.decode()] = self.codec.decode_state(record.value or b"")
        return states

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
        """Open the feed's only shard, as a worker does."""
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
        """Return every event that was published: as many as the states have counted."""
        count = sum(state.sequence for state in self.states().values())
        reader = Events(self.clients, self.topics, self.codec, from_beginning=True)
        events: list[Event] = []

        def has_all() -> bool:
            return len(events) >= count

        for received in reader.until(has_all):
            if received is not None:
                events.append(received.event)
        reader.close()
        return events


def follow(kafka: LocalKafka, names: Names, *options: str) -> list[str]:
    """Return the command that follows the test's feed."""
    command = [sys.executable, str(CONSUMER)]
    command += ["--bootstrap", kafka.bootstrap_servers]
    command += ["--prefix", names.topic_prefix]
    command += ["--feed", FEED]
    return [*command, *options]


def lines(consumer: Program) -> list[str]:
    return consumer.log().splitlines()


def wait_for_lines(consumer: Program, count: int) -> None:
    """Wait until the consumer has printed at least `count` lines in total."""

    def has_printed() -> bool:
        return len(lines(consumer)) >= count

    wait_until(has_printed, f"{count} lines of the consumer", consumer)


def printed_line(record: Event | State, kind: str, levels: Levels | None) -> str:
    """Return the line that the consumer prints for an event or a state."""
    text = "no levels"
    if record.status.has_levels:
        assert levels is not None
        values = []
        for name in SHOWN_LEVELS:
            values.append(f"{name}={getattr(levels.all_expiry, name)}")
        text = " ".join(values)
    if record.status is Status.STALE:
        text += " (old: careful)"
    return f"{record.symbol} #{record.sequence} {kind} {record.status} {text}"


def expected(events: list[Event], restored: dict[str, int]) -> dict[str, list[str]]:
    """Return the lines, by symbol, of a consumer that restored these sequences."""
    texts: dict[str, list[str]] = {}
    for event in events:
        last = restored.get(event.symbol, 0)
        # The restored state stands for every event up to its own.
        if event.sequence < last:
            continue
        kind: str = event.kind
        if event.sequence == last:
            kind = "state"
        line = printed_line(event, kind, event.after)
        texts.setdefault(event.symbol, []).append(line)
    return texts


def by_symbol(texts: list[str]) -> dict[str, list[str]]:
    """Return the lines of each symbol, in their order.

    Between symbols there is no order: their events are in several partitions.
    """
    found: dict[str, list[str]] = {}
    for text in texts:
        symbol = text.split()[0]
        found.setdefault(symbol, []).append(text)
    return found


def restored_by(texts: list[str]) -> dict[str, int]:
    """Return the sequence of each state that the consumer has restored."""
    found = {}
    for text in texts:
        symbol, number, kind, *_ = text.split()
        if kind == "state":
            found[symbol] = int(number.removeprefix("#"))
    return found


@pytest.fixture
def topic(kafka: LocalKafka, names: Names) -> Iterator[Topic]:
    """The test's topics, new and empty."""
    with Topic(kafka, names) as made:
        wait_until(made.is_made, "the topics are there")
        yield made


@pytest.mark.parametrize("framed", [False, True], ids=["single-object", "registry"])
def test_a_consumer_sees_every_event_although_the_worker_is_killed(
    kafka: LocalKafka, names: Names, framed: bool, request: pytest.FixtureRequest
) -> None:
    # The registry's fixture takes seconds: ask for it only if it is needed.
    registry: str | None = None
    options: list[str] = []
    if framed:
        registry = str(request.getfixturevalue("registry").url)
        options = ["--registry", registry]
    command = follow(kafka, names, *options)

    simulated = ["--period", "0.5", "--jitter", "0.1", "--limit", "0"]
    with (
        start_simulator(*simulated) as simulator,
        Topic(kafka, names, registry) as topic,
    ):
        variables = variables_for(kafka, names, simulator)
        if registry:
            variables["GEX_SCHEMA_REGISTRY__URL"] = registry

        def every_symbol_has_a_state() -> bool:
            return len(topic.states()) == len(EIGHT_SYMBOLS)

        with start_worker(variables) as worker:
            wait_until(every_symbol_has_a_state, "all symbols have a state", worker)
            with start(command) as consumer:
                wait_for_lines(consumer, ENOUGH_LINES)
                # Between two workers there may be no gap and no duplicate.
                worker.kill()
                before = len(lines(consumer))
                with start_worker(variables) as another:
                    wait_for_lines(consumer, before + ENOUGH_LINES)
                    assert another.terminate() == 0

                # The consumer may still be behind, but nothing is published any more.
                events = topic.events()
                expected_lines = expected(events, restored_by(lines(consumer)))
                wait_for_lines(consumer, sum(map(len, expected_lines.values())))
                assert by_symbol(lines(consumer)) == expected_lines
    assert len({event.source.worker for event in events}) == 2

    # A consumer that starts now restores the last state of each symbol, and nothing else.
    last_sequences = {event.symbol: event.sequence for event in events}
    with start([*command, "--seconds", "0"]) as late:
        assert late.wait() == 0
        assert by_symbol(lines(late)) == expected(events, last_sequences)


def moment(sequence: int) -> Transaction:
    """Return an event of BTCUSDT and the state after it."""
    source = Source("0", "group", "worker")
    # Any moment will do, as long as later events are younger.
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
    changes = topic.topics.changes(FEED)
    current = topic.topics.current(FEED)
    log = topic.log()
    log.publish(moment(1))
    log.publish(moment(2))
    # The third is written, but not committed yet.
    producer = log._producer
    assert producer is not None
    producer.begin_transaction()
    log._produce(producer, moment(3))
    assert producer.flush(PATIENCE_SECONDS) == 0

    # Note both ends in the order in which the example does.
    monkeypatch.setattr(example, "Consumer", Watched)
    decoder = example.Decoder(None)
    reader = example.consumer(kafka.bootstrap_servers, "read_committed")
    begin = example.ends(reader, changes)
    uncommitted = example.consumer(kafka.bootstrap_servers, "read_uncommitted")
    high = example.ends(uncommitted, current)

    with ThreadPoolExecutor() as pool:
        restored = pool.submit(example.restore, reader, current, high, decoder)
        # Commit only when the reader has reached the end of all that is committed so far.
        assert Watched.at_end.wait(PATIENCE_SECONDS)
        producer.commit_transaction(PATIENCE_SECONDS)
        states = restored.result(PATIENCE_SECONDS)
    assert states["BTCUSDT"]["sequence"] == 3

    # The reader meets the event of the third again, and must skip it.
    log.publish(moment(4))
    example.assign(reader, changes, begin)
    deadline = time.monotonic() + PATIENCE_SECONDS
    known = {"BTCUSDT": 3}
    events = example.follow(reader, changes, known, decoder, deadline, PATIENCE_SECONDS)
    event = next(events)
    assert event["sequence"] == 4
    reader.close()


def test_a_gap_ends_the_consumer(kafka: LocalKafka, names: Names, topic: Topic) -> None:
    log = topic.log()
    log.publish(moment(1))
    with start(follow(kafka, names, "--patience", "1")) as consumer:
        # Its first line is the restored state.
        wait_for_lines(consumer, 1)
        log.publish(moment(3))
        assert consumer.wait() == 1
        assert lines(consumer)[1:] == ["all/BTCUSDT/3 follows 1"]


def test_the_error_for_an_absent_topic_names_it(
    kafka: LocalKafka, names: Names
) -> None:
    with start(follow(kafka, names)) as consumer:
        assert consumer.wait() == 1
        topic = f"{names.topic_prefix}.all.changes"
        assert lines(consumer) == [f"no topic {topic}: see --prefix and --feed"]
