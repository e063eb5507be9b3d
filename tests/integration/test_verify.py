"""`verify` on topics that a worker writes, and on topics that were tampered with."""

from __future__ import annotations

import json
import time
from typing import TYPE_CHECKING

import confluent_kafka as ck
import confluent_kafka.admin as admin_api
import pytest
from msgspec.structs import replace

from connector.config.model import Kafka
from connector.core.model import MICROS, Event, State
from connector.kafka.avro import Codec, SingleObject
from connector.kafka.clients import Clients
from connector.kafka.events import Log
from connector.kafka.names import Topics, partition_of
from connector.tools.verify import verify
from connector.tools.verify_report import Totals
from tests.support import checker
from tests.support.processes import (
    PATIENCE_SECONDS,
    Program,
    start_simulator,
    start_worker,
    variables_for,
    wait_until,
)
from tests.support.tools import SYMBOLS, publish_events, run_tool
from tests.support.topics import create_topics

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from connector.devkit.local_kafka import LocalKafka
    from connector.kafka.names import Partition
    from tests.conftest import Names

KEY = b"BTCUSDT"


@pytest.fixture(scope="module")
def simulator() -> Iterator[Program]:
    with start_simulator("--period", "1", "--limit", "600") as program:
        yield program


@pytest.fixture(scope="module")
def published(kafka: LocalKafka, simulator: Program) -> dict[str, str]:
    """Variables of a stopped worker that has published events of each symbol."""
    return publish_events(kafka, simulator)


@pytest.fixture(scope="module")
def events(kafka: LocalKafka, published: dict[str, str]) -> list[Event]:
    """The events of BTCUSDT."""
    found = checker.events(kafka, published["GEX_KAFKA__TOPIC_PREFIX"])
    return [event for event in found if event.symbol == "BTCUSDT"]


@pytest.fixture(scope="module")
def states(kafka: LocalKafka, published: dict[str, str]) -> list[State]:
    """Every state of BTCUSDT that is still in `current`, oldest first."""
    codec = Codec(SingleObject())
    topic = f"{published['GEX_KAFKA__TOPIC_PREFIX']}.all.current"
    found = []
    for record in checker.records(kafka, topic):
        state = codec.decode_state(record.value)
        if state.symbol == "BTCUSDT":
            found.append(state)
    return found


class Writer:
    """Topics of a test's own, and a producer that writes anything to them."""

    def __init__(self, kafka: LocalKafka, names: Names, partitions: int = 1) -> None:
        self.prefix = names.topic_prefix
        self.changes = f"{self.prefix}.all.changes"
        self.current = f"{self.prefix}.all.current"
        self.codec = Codec(SingleObject())
        self.producer = ck.Producer({"bootstrap.servers": kafka.bootstrap_servers})
        create_topics(
            kafka,
            admin_api.NewTopic(self.changes, partitions, 1),
            admin_api.NewTopic(self.current, 1, 1),
        )

    def event(self, event: Event, key: bytes = KEY, partition: int = 0) -> None:
        value = self.codec.encode_event(self.changes, event)
        self.producer.produce(self.changes, value, key, partition=partition)

    def state(self, state: State) -> None:
        value = self.codec.encode_state(self.current, state)
        self.producer.produce(self.current, value, KEY)

    def flush(self) -> None:
        assert self.producer.flush(PATIENCE_SECONDS) == 0


def wait_for_events(
    kafka: LocalKafka, names: Names, worker: Program, count: int
) -> None:
    """Wait until at least `count` events are published."""

    def has_published() -> bool:
        return len(checker.events(kafka, names.topic_prefix)) >= count

    wait_until(has_published, f"{count} events", worker)


def test_verify_finds_no_faults_while_a_worker_writes(
    kafka: LocalKafka, simulator: Program, names: Names
) -> None:
    variables = variables_for(kafka, names, simulator, SYMBOLS)
    with start_worker(variables) as worker:
        wait_for_events(kafka, names, worker, 7)
        # Each run meets the worker at another moment of its transactions.
        for _ in range(3):
            code, printed = run_tool("verify", variables=variables)
            assert code == 0, printed
            assert printed.startswith("ok: ")


def test_verify_waits_for_a_transaction_that_hides_later_events(
    kafka: LocalKafka, simulator: Program, names: Names
) -> None:
    """A partition of `changes` belongs to all shards.

    An open transaction of another shard hides the events after it, but not their states.
    """
    variables = variables_for(kafka, names, simulator, SYMBOLS)
    variables["GEX_KAFKA__PARTITIONS"] = "1"
    prefix = names.topic_prefix

    with start_worker(variables) as worker:
        wait_for_events(kafka, names, worker, 5)
        open_transaction(kafka, names)

        sequences = []
        for state in checker.states(kafka, prefix).values():
            sequences.append(state.sequence)
        hidden_from = max(sequences)

        def has_hidden_event() -> bool:
            return checker.states(kafka, prefix)["BTCUSDT"].sequence > hidden_from

        wait_until(has_hidden_event, "a state whose event is hidden", worker)
        code, printed = run_tool("verify", variables=variables)
        assert code == 0, printed


def open_transaction(kafka: LocalKafka, names: Names) -> None:
    """Write to `changes` in a transaction that nobody will commit."""
    settings = {
        "bootstrap.servers": kafka.bootstrap_servers,
        "transactional.id": names.transactional_id,
        # The broker aborts the transaction after this time, and so ends the wait.
        "transaction.timeout.ms": 6_000,
    }
    producer = ck.Producer(settings)
    producer.init_transactions(PATIENCE_SECONDS)
    producer.begin_transaction()
    producer.produce(f"{names.topic_prefix}.all.changes", b"never committed", KEY)
    assert producer.flush(PATIENCE_SECONDS) == 0


def write_nothing() -> None:
    """Leave the log as it is."""


class BusyLog(Log):
    """A log that grows right after its end was first asked for."""

    def __init__(
        self, clients: Clients, topics: Topics, write: Callable[[], None]
    ) -> None:
        super().__init__(clients, topics)
        self._write = write

    def offsets(
        self, partitions: Iterable[Partition], moment: int
    ) -> dict[Partition, int]:
        found = super().offsets(partitions, moment)
        # Once only: later calls ask for the ends up to which `verify` reads.
        self._write()
        self._write = write_nothing
        return found


def test_verify_reads_the_states_of_events_that_arrive_meanwhile(
    kafka: LocalKafka,
    names: Names,
    events: list[Event],
    states: list[State],
    capsys: pytest.CaptureFixture[str],
) -> None:
    writer = Writer(kafka, names)

    def write_first() -> None:
        event = replace(events[0], sequence=1, event_id="all/BTCUSDT/1", before=None)
        writer.event(event)
        writer.state(replace(states[0], sequence=1))
        writer.flush()

    def write_second() -> None:
        event_id = "all/BTCUSDT/2"
        before = events[0].after
        event = replace(events[0], sequence=2, event_id=event_id, before=before)
        writer.event(event)
        writer.state(replace(states[0], sequence=2))
        writer.flush()

    write_first()
    kafka_settings = Kafka(
        bootstrap_servers=kafka.bootstrap_servers, topic_prefix=writer.prefix
    )
    topics = Topics(writer.prefix)
    log = BusyLog(Clients(kafka_settings), topics, write_second)

    code = verify(log, topics, writer.codec, {}, Totals())
    log.close()

    printed = capsys.readouterr().out
    assert code == 0, printed
    assert "ok: 2 events and 2 states of 1 symbols" in printed


# Each of these functions returns the records of a worker, one of them tampered with.
Events = list[Event]
States = list[State]
Records = tuple[Events, States]


def unchanged(events: Events, states: States) -> Records:
    return events, states


def without_an_event(events: Events, states: States) -> Records:
    return [*events[:2], *events[3:]], states


def with_a_duplicate(events: Events, states: States) -> Records:
    return [*events, events[-1]], states


def without_the_last_event(events: Events, states: States) -> Records:
    return events[:-1], states


def without_the_last_state(events: Events, states: States) -> Records:
    last = events[-1].sequence
    return events, [state for state in states if state.sequence < last]


def with_other_levels(events: Events, states: States) -> Records:
    levels = events[0].after
    assert levels is not None
    other = replace(levels, all_expiry=replace(levels.all_expiry, hvl=1.0))
    # `published` is what the event had; without it, it is the same as the levels.
    last = replace(states[-1], levels=other, published=None)
    return events, [*states[:-1], last]


def with_computed_at_going_back(events: Events, states: States) -> Records:
    first = events[0].computed_at
    assert first is not None
    older = replace(events[3], computed_at=first - 1)
    return [*events[:3], older, *events[4:]], states


@pytest.mark.parametrize(
    ("tamper", "fault"),
    [
        (unchanged, None),
        (without_an_event, "gap in the sequence: it follows #2"),
        (with_a_duplicate, "duplicate or out of order"),
        (without_the_last_event, "but its last event is #"),
        (without_the_last_state, "but its state is #"),
        (with_other_levels, "the state differs from the levels its event published"),
        (with_computed_at_going_back, "computed_at goes back"),
    ],
)
def test_verify_finds_tampered_records(
    kafka: LocalKafka,
    published: dict[str, str],
    names: Names,
    events: list[Event],
    states: list[State],
    tamper: Callable[[Events, States], Records],
    fault: str | None,
) -> None:
    writer = Writer(kafka, names)
    tampered_events, tampered_states = tamper(events, states)
    for event in tampered_events:
        writer.event(event)
    for state in tampered_states:
        writer.state(state)
    writer.flush()

    variables = {**published, "GEX_KAFKA__TOPIC_PREFIX": writer.prefix}
    code, printed = run_tool("verify", variables=variables)

    summary = printed.splitlines()[-1]
    if fault is None:
        assert code == 0, printed
        assert summary.startswith("ok: ")
    else:
        assert code == 1, printed
        assert summary.startswith("FAULTY")
        assert fault in printed


def test_verify_finds_records_with_wrong_content_or_in_the_wrong_place(
    kafka: LocalKafka, published: dict[str, str], names: Names, events: list[Event]
) -> None:
    writer = Writer(kafka, names, partitions=2)
    right = partition_of("BTCUSDT", 2)
    # Wrong contents in the right partition: key, event_id, before, and no Avro at all. A
    # connector claims to have written the last one.
    writer.event(events[0], key=b"ETHUSDT", partition=right)
    writer.event(replace(events[1], event_id="1"), partition=right)
    writer.event(replace(events[2], before=None), partition=right)
    writer.producer.produce(writer.changes, b"not avro", KEY, partition=right)
    writer.producer.produce(
        writer.changes, b"newer", KEY, partition=right, headers=[("worker", "newer")]
    )

    # A correct event in the wrong partition, and a tombstone that nobody has asked for.
    other = replace(events[0], symbol="HYPEUSDT", event_id="all/HYPEUSDT/1")
    # Partition 0 would be right if the topic had had one partition before.
    assert partition_of("HYPEUSDT", 2) == 0
    writer.event(other, key=b"HYPEUSDT", partition=1)
    writer.producer.produce(writer.current, None, KEY)
    writer.flush()

    variables = {**published, "GEX_KAFKA__TOPIC_PREFIX": writer.prefix}
    code, printed = run_tool("verify", variables=variables)

    faults = [
        "BTCUSDT #1: the record key is not the symbol",
        "BTCUSDT #2: event_id is '1', expected all/BTCUSDT/2",
        "BTCUSDT #3: `before` differs from the levels published last",
        "offset 4: a value begins with 6e65776572, which is no schema of this version",
        "HYPEUSDT #1: the record is in the wrong partition",
        "BTCUSDT: its last event is #3, but it has no state",
        "HYPEUSDT: its last event is #1, but it has no state",
    ]
    assert code == 1, printed
    for fault in faults:
        assert fault in printed
    # Other programs wrote these: the promises are not about them.
    assert "stray record: " in printed
    assert "offset 3: a value begins with 6e6f74206176726f" in printed
    assert "a tombstone under b'BTCUSDT'" in printed
    # And no more than these: no fault may be reported twice.
    *shown, summary = printed.splitlines()
    assert f"; {len(faults)} faults, 2 stray records" in summary, printed

    code, printed = run_tool("verify", "--json", variables=variables)

    document = json.loads(printed)
    assert code == 1
    assert document["ok"] is False
    assert document["faults"] == len(faults)
    assert document["strays"] == 2
    strays = [f"stray record: {stray}" for stray in document["first_strays"]]
    assert sorted(document["first_faults"] + strays) == sorted(shown)


@pytest.mark.parametrize(
    ("configured", "minutes", "code"),
    [
        pytest.param({"all": ()}, 5, 0, id="configured"),
        pytest.param({}, 5, 0, id="a configuration without feeds"),
        pytest.param({"other": ()}, 5, 1, id="nobody refreshes it"),
        pytest.param({"other": ()}, 0, 0, id="another fleet refreshes it"),
    ],
)
def test_verify_names_a_feed_that_is_not_configured(
    kafka: LocalKafka,
    names: Names,
    events: list[Event],
    states: list[State],
    capsys: pytest.CaptureFixture[str],
    configured: dict[str, tuple[str, ...]],
    minutes: int,
    code: int,
) -> None:
    writer = Writer(kafka, names)
    event = replace(events[0], sequence=1, event_id="all/BTCUSDT/1", before=None)
    observed_at = (time.time_ns() // 1000) - minutes * 60 * MICROS
    writer.event(event)
    writer.state(replace(states[0], sequence=1, observed_at=observed_at))
    writer.flush()
    kafka_settings = Kafka(
        bootstrap_servers=kafka.bootstrap_servers, topic_prefix=writer.prefix
    )
    log = Log(Clients(kafka_settings), Topics(writer.prefix))

    found = verify(log, Topics(writer.prefix), writer.codec, configured, Totals())
    log.close()

    printed = capsys.readouterr().out
    assert found == code, printed
    expected = (
        "feed all is not configured, but 1 of its symbols are not REMOVED: BTCUSDT"
    )
    assert (expected in printed) is (code == 1), printed
