"""The log of one shard on a real broker: fencing, restoring, whole transactions."""

from __future__ import annotations

import logging
import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import TYPE_CHECKING

import confluent_kafka as ck
import confluent_kafka.admin
import pytest
from msgspec.structs import replace

from connector.config.model import Kafka
from connector.config.secrets import ClientSettings
from connector.core.entry import decode_entry
from connector.core.model import MICROS, Observation, State, Status
from connector.core.transition import RECENT_REFRESHES_KEPT, FeedRules, observe
from connector.errors import (
    KafkaUnavailable,
    SetupError,
    ShardCorrupt,
    ShardFenced,
    Unpublishable,
)
from connector.kafka import admin, shared_consumer, transactional_producer
from connector.kafka.avro import Codec, SingleObject
from connector.kafka.clients import Clients
from connector.kafka.names import ShardId, Topics, partition_of
from connector.kafka.reader import Reader
from connector.kafka.shard_log import ShardLog, Transaction, Writer
from tests.support import checker
from tests.support.log_statements import ME, NOW, LogStatements, changed, hvl_of
from tests.support.processes import PATIENCE_SECONDS, wait_until
from tests.support.topics import add_partitions, create_topics

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator

    from connector.core.model import Event
    from connector.devkit.local_kafka import LocalKafka
    from connector.kafka.records import OutgoingRecord
    from tests.conftest import Names

REFRESH_SECONDS = 30
# Of each symbol, when it is restored from its events.
EVENTS_KEPT = 16


class BrokerShard:
    """The only shard of feed `all` on a broker."""

    def __init__(self, kafka: LocalKafka, settings: Kafka, reader: Reader) -> None:
        self._kafka = kafka
        self._clients = Clients(settings)
        self._reader = reader
        self.topics = Topics(settings.topic_prefix)
        self.current = self.topics.current("all")
        self.changes = self.topics.changes("all")

    def new_log(self, shards: int = 1, partition: int = 0) -> ShardLog:
        return ShardLog(
            ShardId("all", partition),
            shards,
            topics=self.topics,
            clients=self._clients,
            reader=self._reader,
            codec=Codec(SingleObject()),
        )

    def committed(self) -> list[Event]:
        return checker.events(self._kafka, self.topics.prefix)

    def records(
        self, topic: str, isolation: str = "read_committed"
    ) -> list[checker.Record]:
        return checker.records(self._kafka, topic, isolation)

    def partitions_of(self, topic: str) -> Collection[int]:
        admin_client = ck.admin.AdminClient(
            {"bootstrap.servers": self._kafka.bootstrap_servers}
        )
        metadata = admin_client.list_topics(topic, timeout=PATIENCE_SECONDS)
        return metadata.topics[topic].partitions

    def add_partitions(self, topic: str, count: int) -> None:
        """Let a topic have `count` partitions, and wait until all of them are usable."""
        add_partitions(self._kafka, topic, count)

    def write(
        self,
        topic: str,
        key: bytes,
        value: bytes | None,
        headers: dict[str, str] | None = None,
        partition: int | None = None,
    ) -> None:
        """Write a record as another program or an operator's tool does."""
        if partition is None:
            partition = 0
            if topic == self.changes:
                partition = partition_of(key.decode(), len(self.partitions_of(topic)))
        producer = self.producer()
        producer.produce(
            topic,
            value,
            key,
            partition=partition,
            headers=list((headers or {}).items()),
        )
        assert producer.flush(PATIENCE_SECONDS) == 0

    def producer(self, transactional_id: str | None = None) -> ck.Producer:
        """Return a producer of another program."""
        settings: dict[str, str | int] = {
            "bootstrap.servers": self._kafka.bootstrap_servers
        }
        if transactional_id is not None:
            settings["transactional.id"] = transactional_id
            # Longer than a test, or the broker would end a transaction by itself.
            settings["transaction.timeout.ms"] = 600_000
        return ck.Producer(settings)


@pytest.fixture
def settings(kafka: LocalKafka, names: Names) -> Kafka:
    return Kafka(
        bootstrap_servers=kafka.bootstrap_servers,
        topic_prefix=names.topic_prefix,
        group_id=names.group_id,
    )


@pytest.fixture
def shard(kafka: LocalKafka, settings: Kafka) -> Iterator[BrokerShard]:
    with made_topics(kafka, settings) as made:
        yield made


@contextmanager
def made_topics(kafka: LocalKafka, settings: Kafka) -> Iterator[BrokerShard]:
    """Make the topics of feed `all`, and wait until they are usable."""
    clients = Clients(settings)
    topics = Topics(settings.topic_prefix)
    specs = admin.topic_specs(topics, ["all"], settings)
    admin.prepare_topics(clients, specs, 1)
    reader = Reader(clients)

    def is_usable() -> bool:
        return have_leaders(reader, specs)

    try:
        wait_until(is_usable, "every partition has a leader")
        yield BrokerShard(kafka, settings, reader)
    finally:
        reader.close()


def have_leaders(reader: Reader, specs: list[admin.TopicSpec]) -> bool:
    """Return True once new topics are usable: the broker's parts learn of them in turn."""
    try:
        for spec in specs:
            for partition in range(spec.partitions):
                reader.high_watermark(spec.name, partition)
    except KafkaUnavailable:
        return False
    return True


def leave_transaction_open(log: ShardLog, transaction: Transaction) -> ck.Producer:
    """Write a transaction as a worker that dies before its commit. Returns its producer."""
    producer = log._producer
    assert producer is not None
    producer.begin_transaction()
    log._produce(producer, transaction)
    producer.flush()
    return producer


def last_record_comes_late(log: ShardLog, patched: pytest.MonkeyPatch) -> None:
    """Let the last record of a transaction come after the answers to all others."""
    all_records = log._writer.records

    def others_are_answered() -> bool:
        log.serve_callbacks()
        return log.waiting == 0

    def records(transaction: Transaction) -> Iterator[OutgoingRecord]:
        *others, last = all_records(transaction)
        yield from others
        wait_until(others_are_answered, "the other records are answered")
        yield last

    patched.setattr(log._writer, "records", records)


def refresh(state: State | None, computed_at: int) -> State:
    """Return the state after a refresh at `computed_at` that changes nothing else."""
    same_levels = decode_entry(b'{"spot_price": 1}', NOW)
    entry = replace(same_levels, computed_at=computed_at)
    observation = Observation(
        "BTCUSDT", Status.LIVE, entry, computed_at, computed_at, ME
    )
    step = observe(state, observation, FeedRules("all"))
    assert step.state is not None
    return step.state


class TestShardLog(LogStatements):
    """The statements that hold for every log, and those about Kafka."""

    def test_the_offset_of_the_last_record_is_restored(
        self, shard: BrokerShard
    ) -> None:
        log = shard.new_log()
        log.open()
        log.publish(changed(None, 1))
        other = changed(None, 1, "ETHUSDT").states[0]
        by_another = replace(other, source=replace(ME, worker="another"))
        log.publish(Transaction(states=(by_another,)))

        restored = log.open()

        # The last offset is that of the commit marker.
        assert restored.writer == Writer("another", "group", restored.end - 2)

    def test_the_coordinator_is_looked_for_once_a_broker_is_connected(
        self,
        kafka: LocalKafka,
        names: Names,
        caplog: pytest.LogCaptureFixture,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        # A busy machine may take longer than the second after which a log goes on.
        monkeypatch.setattr(transactional_producer, "_CONNECT_SECONDS", 60)
        caplog.set_level(logging.DEBUG, "librdkafka")
        settings = Kafka(
            bootstrap_servers=kafka.bootstrap_servers,
            topic_prefix=names.topic_prefix,
            client=ClientSettings({"debug": "eos"}),
        )
        with made_topics(kafka, settings) as shard:
            # Without a connection, every other shard was opened half a second later.
            for _ in range(8):
                log = shard.new_log()
                log.open()
                log.serve_callbacks()

        assert "Querying for transaction coordinator: Acquire PID" in caplog.text
        assert "Unable to query for transaction coordinator" not in caplog.text

    def test_the_rhythm_of_a_symbol_is_restored_exactly(
        self, shard: BrokerShard
    ) -> None:
        log = shard.new_log()
        log.open()
        state: State | None = None
        refreshes = []
        for count in range(RECENT_REFRESHES_KEPT + 4):
            refreshes.append(NOW + count * REFRESH_SECONDS * MICROS)
            state = refresh(state, refreshes[-1])
            log.publish(Transaction(states=(state,)))

        restored = shard.new_log().open().states["BTCUSDT"]
        assert restored == state
        # Older refreshes are forgotten, so that a state does not grow.
        assert restored.recent_computed_at == tuple(refreshes[-RECENT_REFRESHES_KEPT:])

    def test_a_transaction_left_open_by_a_dead_worker_is_never_seen(
        self, shard: BrokerShard
    ) -> None:
        dead = shard.new_log()
        dead.open()
        leave_transaction_open(dead, changed(None, 1))

        heir = shard.new_log()
        assert heir.open().states == {}
        heir.publish(changed(None, 7))

        assert hvl_of(shard.committed()) == [(1, 7.0)]
        # The event of the dead worker is in the topic, but was aborted.
        everything = shard.records(shard.changes, "read_uncommitted")
        assert len(everything) == 2

    def test_the_callbacks_of_a_fenced_producer_can_be_served(
        self, shard: BrokerShard, caplog: pytest.LogCaptureFixture
    ) -> None:
        caplog.set_level("DEBUG", "connector.kafka.errors")
        zombie = shard.new_log()
        zombie.open()
        shard.new_log().open()
        # The brokers refuse its next transaction, while nobody waits for an answer.
        first = changed(None, 1)
        producer = zombie._producer
        assert producer is not None
        producer.begin_transaction()
        zombie._produce(producer, first)

        def hears_that_it_is_fenced() -> bool:
            # Only the first poll after the fatal error raises.
            zombie.serve_callbacks()
            return "client has failed" in caplog.text

        wait_until(hears_that_it_is_fenced, "the zombie hears that it is fenced")
        # The poll only logs it; the next call of the owner raises.
        with pytest.raises(ShardFenced):
            zombie.publish(first)

    @pytest.mark.parametrize("fatal", [True, False])
    def test_a_producer_has_nothing_under_way_when_it_is_dropped(
        self, shard: BrokerShard, *, fatal: bool
    ) -> None:
        log = shard.new_log()
        log.open()
        producer = log._producer
        assert producer is not None
        producer.begin_transaction()
        log._produce(producer, changed(None, 1))
        assert len(producer) > 0

        log.abort(fatal=fatal)

        # librdkafka would crash if a request failed while the producer is destroyed.
        assert len(producer) == 0

    @pytest.mark.parametrize("is_late", [False, True], ids=["at once", "slowly"])
    def test_a_batch_that_is_too_large_is_sent_record_by_record(
        self, kafka: LocalKafka, names: Names, *, is_late: bool
    ) -> None:
        # Larger than any record, and smaller than all of them.
        limit = ClientSettings({"max.message.bytes": 3000})
        settings = Kafka(
            bootstrap_servers=kafka.bootstrap_servers,
            topic_prefix=names.topic_prefix,
            topic=limit,
        )
        changes = [changed(None, 1, f"SYMBOL{number}") for number in range(20)]
        together = Transaction(
            tuple(change.events[0] for change in changes),
            tuple(change.states[0] for change in changes),
        )
        with made_topics(kafka, settings) as shard:
            log = shard.new_log()
            log.open()
            with pytest.MonkeyPatch.context() as patched:
                if is_late:
                    last_record_comes_late(log, patched)
                with pytest.raises(Unpublishable, match="raise max"):
                    log.publish(together)

            # Each record is small enough, so nothing must keep them from being published.
            assert log.open().states == {}
            log.publish(together)

            assert len(log.open().states) == len(changes)
            assert len(shard.committed()) == len(changes)

    def test_a_foreign_writer_in_the_middle_of_a_transaction_is_refused(
        self, shard: BrokerShard
    ) -> None:
        # With our id, opening the log would fence it and abort its transaction.
        foreign = shard.producer(transactional_id=shard.topics.prefix)
        foreign.init_transactions(PATIENCE_SECONDS)
        foreign.begin_transaction()
        foreign.produce(shard.current, b"x", b"BTCUSDT", partition=0)
        foreign.flush()

        expected = "another program writes to it in a transaction with another id"
        with pytest.raises(KafkaUnavailable, match=expected):
            shard.new_log().open()

        # The refusal is for now only: Kafka aborts an abandoned transaction in the end.
        foreign.abort_transaction(PATIENCE_SECONDS)
        assert shard.new_log().open().states == {}

    def test_a_record_of_another_program_is_skipped_and_named(
        self, shard: BrokerShard
    ) -> None:
        log = shard.new_log()
        log.open()
        first = changed(None, 1)
        log.publish(first)
        shard.write(shard.current, b"someone's key", b"not avro")
        shard.write(shard.current, b"\xff\x00", None)
        # A state, but not of this feed.
        (foreign,) = changed(None, 7, "ETHUSDT").states
        value = Codec(SingleObject()).encode_state(
            shard.current, replace(foreign, feed="other")
        )
        shard.write(shard.current, b"ETHUSDT", value)

        restored = shard.new_log().open()

        assert restored.states == {"BTCUSDT": first.states[0]}
        assert restored.recovered == ()
        reasons = {stray.key: stray.reason for stray in restored.strays}
        assert set(reasons) == {"someone's key", "\\xff\\x00", "ETHUSDT"}
        assert "no schema of this version" in reasons["someone's key"]
        assert "tombstone" in reasons["\\xff\\x00"]
        assert reasons["ETHUSDT"] == "the state of other/ETHUSDT"
        # The last writer is still the last connector that wrote.
        assert restored.writer is not None
        assert restored.writer.worker == ME.worker

    @pytest.mark.parametrize(
        "strays", [[None], [b"not avro"], [b"not avro", None, b"\xc3\x01"]]
    )
    def test_a_state_is_found_behind_the_strays_that_hide_it(
        self, shard: BrokerShard, strays: list[bytes | None]
    ) -> None:
        log = shard.new_log()
        log.open()
        first = changed(None, 1)
        log.publish(first)
        second = changed(first.states[0], 2)
        log.publish(second)
        for value in strays:
            shard.write(shard.current, b"BTCUSDT", value)

        # Whether or not the symbol is still configured.
        for symbols in ((), ("BTCUSDT",)):
            restored = shard.new_log().open(symbols)
            assert restored.states == {"BTCUSDT": second.states[0]}
            assert restored.recovered == ("BTCUSDT",)
            (stray,) = restored.strays
            assert stray.key == "BTCUSDT"
            assert stray.is_recovered

    def test_a_stray_before_the_last_state_is_no_news(self, shard: BrokerShard) -> None:
        log = shard.new_log()
        log.open()
        shard.write(shard.current, b"BTCUSDT", b"not avro")
        log.publish(changed(None, 1))

        restored = shard.new_log().open(["BTCUSDT"])

        assert restored.strays == ()
        assert restored.recovered == ()

    def test_a_symbol_without_a_state_continues_from_its_last_event(
        self, shard: BrokerShard
    ) -> None:
        log = shard.new_log()
        log.open()
        first = changed(None, 1)
        second = changed(first.states[0], 2)
        other = changed(None, 3, "ETHUSDT")
        # Compaction has removed the states: a tombstone took their place.
        for step in (first, second, other):
            log.publish(Transaction(events=step.events))
        shard.write(shard.current, b"BTCUSDT", None)
        shard.write(shard.changes, b"BTCUSDT", b"not avro")

        restored = shard.new_log().open(["BTCUSDT", "SOLUSDT"])

        # ETHUSDT is not configured, and SOLUSDT never had an event.
        assert restored.recovered == ("BTCUSDT",)
        assert set(restored.states) == {"BTCUSDT"}
        state, lost = restored.states["BTCUSDT"], second.states[0]
        assert state.sequence == lost.sequence
        assert state.status is lost.status
        assert state.last_published == lost.last_published
        assert state.computed_at == lost.computed_at
        # The next event follows, and consumers can tell that nothing is between.
        following = changed(state, 4)
        (event,) = following.events
        assert event.sequence == lost.sequence + 1
        assert event.before == lost.last_published

    def test_events_are_not_read_if_every_symbol_has_a_state(
        self, shard: BrokerShard, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        log = shard.new_log()
        log.open()
        first = changed(None, 1)
        log.publish(first)

        # There may be years of them, and a take-over must not wait.
        def refuse(*_: object) -> None:
            raise AssertionError("the events are read")

        monkeypatch.setattr(Reader, "records_of", refuse)
        restored = shard.new_log().open(["BTCUSDT"])

        assert restored.states == {"BTCUSDT": first.states[0]}
        with pytest.raises(AssertionError, match="the events are read"):
            shard.new_log().open(["BTCUSDT", "ETHUSDT"])

    def test_the_last_event_of_a_symbol_that_has_moved_is_found(
        self, shard: BrokerShard
    ) -> None:
        log = shard.new_log()
        log.open()
        before = len(shard.partitions_of(shard.changes))
        steps = [changed(None, 1)]
        # More than are kept of a partition, so that none of these may push others out.
        for number in range(2, 2 * EVENTS_KEPT):
            steps.append(changed(steps[-1].states[0], number))
        for step in steps:
            log.publish(Transaction(events=step.events))

        # Add partitions until the symbol's key belongs to another one.
        after = before + 1
        while partition_of("BTCUSDT", after) == partition_of("BTCUSDT", before):
            after += 1
        shard.add_partitions(shard.changes, after)

        # It had no event since.
        states = shard.new_log().open(["BTCUSDT"]).states
        assert states["BTCUSDT"].sequence == len(steps)

        # Its next event is in the other partition.
        last = steps[-1].events[0]
        moved = replace(last, sequence=len(steps) + 1, before=last.after)
        value = Codec(SingleObject()).encode_event(shard.changes, moved)
        shard.write(shard.changes, b"BTCUSDT", value, {"worker": "w"})

        states = shard.new_log().open(["BTCUSDT"]).states
        assert states["BTCUSDT"].sequence == len(steps) + 1

    def test_an_event_behind_an_open_transaction_is_found(
        self,
        shard: BrokerShard,
        monkeypatch: pytest.MonkeyPatch,
        caplog: pytest.LogCaptureFixture,
    ) -> None:
        caplog.set_level("INFO")
        monkeypatch.setattr(shared_consumer, "_REPORT_SECONDS", 0)
        log = shard.new_log()
        log.open()
        # Another shard's worker: its events share the partitions of `changes`.
        another = shard.producer(transactional_id=shard.topics.prefix)
        another.init_transactions(PATIENCE_SECONDS)
        another.begin_transaction()
        partition = partition_of("BTCUSDT", len(shard.partitions_of(shard.changes)))
        another.produce(shard.changes, b"x", b"BTCUSDT", partition=partition)
        another.flush()
        log.publish(Transaction(events=changed(None, 1).events))

        def is_reading_events() -> bool:
            lines = [str(vars(record).get("partition")) for record in caplog.records]
            return any(shard.changes in line for line in lines)

        heir = shard.new_log()
        with ThreadPoolExecutor(1) as pool:
            opening = pool.submit(heir.open, ["BTCUSDT"])
            wait_until(is_reading_events, "the events are being read")
            another.abort_transaction(PATIENCE_SECONDS)
            restored = opening.result(PATIENCE_SECONDS)

        assert restored.states["BTCUSDT"].sequence == 1

    def test_a_transaction_that_stays_open_does_not_block_the_reader_for_good(
        self, shard: BrokerShard, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        count = len(shard.partitions_of(shard.changes))
        held_back = partition_of("BTCUSDT", count)
        foreign = shard.producer(transactional_id=shard.topics.prefix)
        foreign.init_transactions(PATIENCE_SECONDS)
        foreign.begin_transaction()
        foreign.produce(shard.changes, b"x", b"BTCUSDT", partition=held_back)
        foreign.flush()
        busy = shard.producer()
        stopped = threading.Event()

        # Records that come in another partition are no progress.
        def write_elsewhere() -> None:
            while not stopped.wait(0.01):
                elsewhere = (held_back + 1) % count
                busy.produce(shard.changes, b"x", b"y", partition=elsewhere)
                busy.flush()

        shard.write(shard.changes, b"x", b"y", partition=(held_back + 1) % count)
        with ThreadPoolExecutor(1) as pool:
            writing = pool.submit(write_elsewhere)
            try:
                with monkeypatch.context() as impatient:
                    impatient.setattr(shared_consumer, "_STALLED_SECONDS", 2)
                    with pytest.raises(KafkaUnavailable, match="no record for 2 s"):
                        shard.new_log().open(["BTCUSDT"])
            finally:
                stopped.set()
            writing.result(PATIENCE_SECONDS)

        foreign.abort_transaction(PATIENCE_SECONDS)
        assert shard.new_log().open(["BTCUSDT"]).states == {}

    def test_a_state_of_ours_that_cannot_be_read_is_refused_by_name(
        self, shard: BrokerShard
    ) -> None:
        # A newer version may have written it, whose sequence would start again.
        headers = {"worker": "newer"}
        shard.write(shard.current, b"BTCUSDT", b"\xc3\x01 newer", headers)

        expected = r"all\.current-0, offset 0, key BTCUSDT: .*no schema of this version"
        with pytest.raises(ShardCorrupt, match=expected):
            shard.new_log().open(["BTCUSDT"])

        # The remedy in the message.
        shard.write(shard.current, b"BTCUSDT", None)
        assert shard.new_log().open(["BTCUSDT"]).states == {}

    def test_a_symbol_in_the_wrong_partition_is_refused(
        self, shard: BrokerShard
    ) -> None:
        log = shard.new_log()
        log.open()
        log.publish(changed(None, 1))

        # Find a number of shards with which the symbol belongs elsewhere.
        shards = 2
        while partition_of("BTCUSDT", shards) == 0:
            shards += 1
        expected = f"belongs to partition .* of {shards}: were partitions added"
        with pytest.raises(ShardCorrupt, match=expected):
            shard.new_log(shards).open()

    def test_a_copy_of_a_state_in_the_wrong_partition_is_skipped(
        self, kafka: LocalKafka, names: Names, settings: Kafka
    ) -> None:
        two = replace(settings, shards=2, topic_prefix=f"{names.topic_prefix}.two")
        home = partition_of("BTCUSDT", 2)
        with made_topics(kafka, two) as shard:
            first = changed(None, 1)
            log = shard.new_log(2, home)
            log.open()
            log.publish(first)
            # A tool with another partitioner has copied the topic into itself.
            value = Codec(SingleObject()).encode_state(shard.current, first.states[0])
            shard.write(shard.current, b"BTCUSDT", value, partition=1 - home)

            restored = shard.new_log(2, 1 - home).open()

            assert restored.states == {}
            (stray,) = restored.strays
            assert stray.reason == f"a copy of a state that partition {home} has"
            assert shard.new_log(2, home).open().strays == ()


def test_topics_that_do_not_fit_are_all_named_with_a_remedy(
    kafka: LocalKafka,
    settings: Kafka,
    names: Names,
    caplog: pytest.LogCaptureFixture,
) -> None:
    changes = f"{names.topic_prefix}.all.changes"
    current = f"{names.topic_prefix}.all.current"
    not_compacted = {"cleanup.policy": "delete"}
    create_topics(
        kafka,
        ck.admin.NewTopic(changes, num_partitions=3),
        ck.admin.NewTopic(current, num_partitions=2, config=not_compacted),
    )

    specs = admin.topic_specs(Topics(names.topic_prefix), ["all"], settings)
    with pytest.raises(SetupError) as caught:
        admin.prepare_topics(Clients(settings), specs, 1)

    # One message names them all, so that the user needs one attempt.
    message = str(caught.value)
    assert f"{current} has 2 partitions, but kafka.shards is 1;" in message
    assert "set kafka.shards = 2" in message
    assert f"{current} has cleanup.policy=delete, but needs compact" in message

    # Events can be written to any number of partitions.
    warnings = {vars(record).get("topic"): record.message for record in caplog.records}
    assert warnings[changes] == "another number of partitions than configured"


def test_an_unreachable_broker_is_named_with_a_remedy(names: Names) -> None:
    nowhere = Kafka(bootstrap_servers="127.0.0.1:1", topic_prefix=names.topic_prefix)
    specs = admin.topic_specs(Topics("x"), ["all"], nowhere)
    with pytest.raises(KafkaUnavailable, match="check that the broker runs"):
        admin.prepare_topics(Clients(nowhere), specs, 1)
