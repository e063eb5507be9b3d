"""One shard's log on a real broker: fencing, restoring, and transactions that are whole or not there."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import confluent_kafka as ck
import confluent_kafka.admin
import msgspec
import pytest

from connector.config.model import Kafka
from connector.core.entry import decode_entry
from connector.core.model import MICROS, Observation, Source, Status
from connector.core.transition import FeedRules, observe
from connector.errors import KafkaUnavailable, SetupError, ShardCorrupt, ShardFenced
from connector.kafka import topics as topics_module
from connector.kafka.avro import Codec, SingleObject
from connector.kafka.clients import Clients
from connector.kafka.names import ShardId, Topics, partition_of
from connector.kafka.reader import Reader
from connector.kafka.shard_log import Quarantined, ShardLog, Transaction, Writer
from tests.support import checker
from tests.support.processes import wait_until

if TYPE_CHECKING:
    from collections.abc import Iterator

    from connector.core.model import State
    from connector.devkit.local_kafka import LocalKafka
    from tests.conftest import Names

NOW = 1_795_446_000 * MICROS
ME = Source("test", "group", "worker")
RULES = FeedRules("all")


@pytest.fixture
def settings(kafka: LocalKafka, names: Names) -> Kafka:
    return Kafka(
        bootstrap_servers=kafka.bootstrap_servers,
        topic_prefix=names.topic_prefix,
        group_id=names.group_id,
    )


@pytest.fixture
def clients(settings: Kafka) -> Clients:
    made, names = Clients(settings), Topics(settings.topic_prefix)
    topics_module.prepare(made, topics_module.specs(names, ["all"], settings), 1)
    wanted = {names.changes("all"), names.current("all"), names.quarantine}
    admin = ck.admin.AdminClient({"bootstrap.servers": settings.bootstrap_servers})
    wait_until(
        lambda: wanted <= set(admin.list_topics(timeout=10).topics),
        "the topics are known",
    )
    return made


@pytest.fixture
def reader(clients: Clients) -> Iterator[Reader]:
    made = Reader(clients)
    yield made
    made.close()


def shard_log(
    settings: Kafka, clients: Clients, reader: Reader, shards: int = 1
) -> ShardLog:
    tools = (clients, reader, Codec(SingleObject()))
    return ShardLog(ShardId("all", 0), shards, Topics(settings.topic_prefix), tools)


def changed(state: State | None, spot: int, symbol: str = "BTCUSDT") -> Transaction:
    """One event and its state: the levels differ at every `spot`."""
    entry = decode_entry(
        b'{"all_expiry": {"hvl": %d}, "computed_at": "2026-11-23T15:00:00Z"}' % spot,
        NOW,
    )
    step = observe(
        state,
        Observation(symbol, Status.LIVE, entry, NOW + spot, NOW + spot, ME),
        RULES,
    )
    assert step.event is not None
    assert step.state is not None
    return Transaction((step.event,), (step.state,))


def refreshed(*computed_at: int | None, symbol: str = "BTCUSDT") -> Transaction:
    """States and no event. Of the broker's own time: it compacts what is older than ten minutes."""
    (state,) = changed(None, 1, symbol).states
    observed_at = time.time_ns() // 1000
    return Transaction(
        states=[
            msgspec.structs.replace(state, computed_at=at, observed_at=observed_at)
            for at in computed_at
        ]
    )


def test_what_was_published_is_restored(
    settings: Kafka, clients: Clients, reader: Reader
) -> None:
    log = shard_log(settings, clients, reader)
    assert log.open().states == {}
    first = changed(None, 1)
    log.publish(first)
    second = changed(first.states[0], 2)
    log.publish(second)
    log.drop()
    other = msgspec.structs.replace(ME, worker="another")
    third = changed(None, 1, "ETHUSDT")
    log.open()
    log.publish(
        Transaction(states=[msgspec.structs.replace(third.states[0], source=other)])
    )
    log.drop()
    restored = shard_log(settings, clients, reader).open()
    assert restored.states["BTCUSDT"] == second.states[0]
    assert restored.records == 3
    assert restored.writer == Writer(
        "another", "group", restored.end - 2
    )  # of the last record, not of all


def test_the_last_refreshes_of_each_symbol_are_restored(
    settings: Kafka, clients: Clients, reader: Reader
) -> None:
    log = shard_log(settings, clients, reader)
    assert log.open().history == {}
    for round_at in range(10, 200, 10):
        log.publish(refreshed(NOW + round_at))
    log.publish(refreshed(NOW, NOW, NOW + 1, symbol="ETHUSDT"))
    producer = log._producer
    assert producer is not None
    producer.begin_transaction()
    log._produce(producer, refreshed(NOW + 195))
    log._produce(producer, refreshed(NOW + 2, symbol="ETHUSDT"))
    producer.flush()
    log.drop()
    heir = shard_log(settings, clients, reader)
    heir.open()
    heir.publish(refreshed(NOW + 200))
    heir.publish(refreshed(NOW + 3, symbol="ETHUSDT"))
    heir.publish(refreshed(None, symbol="NEWUSDT"))
    heir.drop()
    restored = shard_log(settings, clients, reader).open()
    assert restored.history == {
        "BTCUSDT": tuple(NOW + at for at in range(50, 210, 10)),
        "ETHUSDT": (NOW, NOW + 1, NOW + 3),
        "NEWUSDT": (),
    }
    assert {symbol: state.computed_at for symbol, state in restored.states.items()} == {
        "BTCUSDT": NOW + 200,
        "ETHUSDT": NOW + 3,
        "NEWUSDT": None,
    }


def test_what_cannot_be_read_of_the_past_is_left_out_and_a_tombstone_ends_it(
    kafka: LocalKafka, settings: Kafka, clients: Clients, reader: Reader
) -> None:
    current, codec = f"{settings.topic_prefix}.all.current", Codec(SingleObject())
    first, second, third, other = [
        codec.state(current, state)
        for transaction in (
            refreshed(NOW, NOW + 1, NOW + 2),
            refreshed(NOW + 3, symbol="ETHUSDT"),
        )
        for state in transaction.states
    ]
    producer = ck.Producer({"bootstrap.servers": kafka.bootstrap_servers})
    for value in (first, None, second, b"not avro", other, third[:-1], third):
        producer.produce(current, value, b"BTCUSDT", partition=0)
    for value in (other, None):
        producer.produce(current, value, b"ETHUSDT", partition=0)
    producer.flush()
    assert shard_log(settings, clients, reader).open().history == {
        "BTCUSDT": (NOW + 1, NOW + 2)
    }


def test_a_zombie_cannot_write(
    kafka: LocalKafka, settings: Kafka, clients: Clients, reader: Reader
) -> None:
    zombie, heir = (
        shard_log(settings, clients, reader),
        shard_log(settings, clients, reader),
    )
    zombie.open()
    first = changed(None, 1)
    zombie.publish(first)
    assert heir.open().states == {"BTCUSDT": first.states[0]}
    with pytest.raises(ShardFenced):
        zombie.publish(changed(first.states[0], 2))
    heir.publish(changed(first.states[0], 3))
    events = checker.events(kafka, settings.topic_prefix)
    assert [(event.sequence, event.changed_levels[0].after) for event in events] == [
        (1, 1.0),
        (2, 3.0),
    ]


def test_a_transaction_left_open_by_a_dead_worker_is_never_seen(
    kafka: LocalKafka, settings: Kafka, clients: Clients, reader: Reader
) -> None:
    dead = shard_log(settings, clients, reader)
    dead.open()
    producer = dead._producer
    assert producer is not None
    producer.begin_transaction()
    dead._produce(producer, changed(None, 1))
    producer.flush()
    heir = shard_log(settings, clients, reader)
    assert heir.open().states == {}
    heir.publish(changed(None, 7))
    assert [
        event.changed_levels[0].after
        for event in checker.events(kafka, settings.topic_prefix)
    ] == [7.0]
    aborted = checker.records(
        kafka, f"{settings.topic_prefix}.all.changes", isolation="read_uncommitted"
    )
    assert len(aborted) == 2


def test_a_foreign_writer_in_the_middle_of_a_transaction_is_refused(
    kafka: LocalKafka, settings: Kafka, clients: Clients, reader: Reader
) -> None:
    other = ck.Producer(
        {
            "bootstrap.servers": kafka.bootstrap_servers,
            "transactional.id": settings.topic_prefix,
        }
    )
    other.init_transactions(30)
    other.begin_transaction()
    other.produce(f"{settings.topic_prefix}.all.current", b"x", b"BTCUSDT", partition=0)
    other.flush()
    with pytest.raises(
        KafkaUnavailable,
        match="some program writes to it in a transaction of another id",
    ):
        shard_log(settings, clients, reader).open()
    other.abort_transaction(30)
    assert shard_log(settings, clients, reader).open().states == {}


def test_what_is_no_state_of_ours_is_refused_by_name(
    kafka: LocalKafka, settings: Kafka, clients: Clients, reader: Reader
) -> None:
    producer = ck.Producer({"bootstrap.servers": kafka.bootstrap_servers})
    producer.produce(
        f"{settings.topic_prefix}.all.current", b"not avro", b"BTCUSDT", partition=0
    )
    producer.flush()
    with pytest.raises(
        ShardCorrupt,
        match=r"all\.current-0, key b'BTCUSDT': .*no schema of this version",
    ):
        shard_log(settings, clients, reader).open()


def test_a_symbol_in_the_wrong_partition_is_refused(
    settings: Kafka, clients: Clients, reader: Reader
) -> None:
    log = shard_log(settings, clients, reader)
    log.open()
    log.publish(changed(None, 1))
    shards = next(
        count for count in range(2, 20) if partition_of("BTCUSDT", count) != 0
    )
    with pytest.raises(
        ShardCorrupt,
        match=f"belongs to partition .* of {shards}: were partitions added",
    ):
        shard_log(settings, clients, reader, shards).open()


def test_an_entry_in_quarantine_keeps_its_bytes_and_says_why(
    kafka: LocalKafka, settings: Kafka, clients: Clients, reader: Reader
) -> None:
    log = shard_log(settings, clients, reader)
    log.open()
    raw = b'{"spot_price": NaN}' + b" " * 70_000
    log.publish(
        Transaction(
            quarantined=(
                Quarantined("BTCUSDT", raw, "too_large", "70019 bytes", NOW, "r-1"),
            )
        )
    )
    (record,) = checker.records(kafka, f"{settings.topic_prefix}.quarantine")
    assert (record.key, record.value) == (b"BTCUSDT", raw[:65_536])
    assert record.headers["why"] == b"too_large: 70019 bytes"
    assert record.headers["where"] == b"all/BTCUSDT/r-1"
    assert record.timestamp_ms == NOW // 1000


def test_publishing_to_a_shard_that_is_not_open_is_refused(
    settings: Kafka, clients: Clients, reader: Reader
) -> None:
    with pytest.raises(KafkaUnavailable, match="not open"):
        shard_log(settings, clients, reader).publish(changed(None, 1))


def test_topics_that_do_not_fit_are_all_named_with_the_way_out(
    kafka: LocalKafka, settings: Kafka, names: Names
) -> None:
    admin = ck.admin.AdminClient({"bootstrap.servers": kafka.bootstrap_servers})
    prefix = names.topic_prefix
    new = [
        ck.admin.NewTopic(f"{prefix}.all.changes", num_partitions=3),
        ck.admin.NewTopic(
            f"{prefix}.all.current",
            num_partitions=2,
            config={"cleanup.policy": "delete"},
        ),
    ]
    for future in admin.create_topics(new).values():
        future.result(30)
    wanted = topics_module.specs(Topics(prefix), ["all"], settings)
    with pytest.raises(SetupError) as caught:
        topics_module.prepare(Clients(settings), wanted, 1)
    said = str(caught.value)
    assert (
        f"{prefix}.all.changes has 3 partitions, configured are 6; set kafka.partitions = 3"
        in said
    )
    assert (
        f"{prefix}.all.current has 2 partitions, configured are 1; set kafka.shards = 2"
        in said
    )
    assert f"{prefix}.all.current has cleanup.policy=delete, needed is compact" in said


def test_an_unreachable_broker_is_named_with_a_remedy(names: Names) -> None:
    nowhere = Kafka(bootstrap_servers="127.0.0.1:1", topic_prefix=names.topic_prefix)
    with pytest.raises(KafkaUnavailable, match="check that the broker runs"):
        topics_module.prepare(
            Clients(nowhere), topics_module.specs(Topics("x"), ["all"], nowhere), 1
        )
