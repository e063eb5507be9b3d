"""`connector.client` over a real broker: its views, events, resumes and errors."""

from __future__ import annotations

import asyncio
import threading
import time
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import confluent_kafka as ck
import confluent_kafka.admin as admin_api
import msgspec
import pytest

from connector.client import (
    Change,
    ClientStopped,
    EventsMissing,
    EventStream,
    KafkaUnreachable,
    LiveLevels,
    NotFresh,
    SchemaError,
    SettingsError,
    Status,
    TopicMissing,
    TopicReplaced,
    UnknownSymbol,
)
from connector.client.kafka import Feed, assigned
from connector.client.look import TopicLook
from connector.devkit.loopback_ports import free_port
from connector.kafka.names import partition_of
from connector.kafka.shard_log import Transaction
from tests.support.processes import PATIENCE_SECONDS, wait_until
from tests.support.topics import add_partitions
from tests.support.written_feed import (
    SYMBOL,
    WrittenFeed,
    an_event,
    levels_of,
    state_of,
)

if TYPE_CHECKING:
    from collections.abc import Iterator

    from connector.client import Event
    from connector.client.follower import OnHole
    from connector.devkit.local_kafka import LocalKafka
    from tests.conftest import Names

OTHER = "ETHUSDT"


@pytest.fixture
def feed(kafka: LocalKafka, names: Names) -> Iterator[WrittenFeed]:
    with WrittenFeed(kafka, names) as made:
        yield made


@pytest.fixture(autouse=True)
def frequent_looks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("connector.client.look._INTERVAL_SECONDS", 0.3)
    monkeypatch.setattr("connector.client.workers._INTERVAL_SECONDS", 0.3)


def client_of(
    feed: WrittenFeed, on_hole: OnHole = "raise", patience_seconds: float = 90
) -> LiveLevels:
    return LiveLevels(
        feed.bootstrap,
        prefix=feed.settings.topic_prefix,
        on_hole=on_hole,
        patience_seconds=patience_seconds,
    )


def next_sequences(events: EventStream, count: int) -> list[tuple[str, int]]:
    """Return symbol and sequence of the next events."""
    found = []
    for _ in range(count):
        event = events.next_event(PATIENCE_SECONDS)
        assert event is not None
        found.append((event.symbol, event.sequence))
    return found


def wait_for_sequence(levels: LiveLevels, sequence: int, symbol: str = SYMBOL) -> None:
    def has_come() -> bool:
        return levels.sequences().get(symbol, 0) >= sequence

    wait_until(has_come, f"sequence {sequence} of {symbol}")


def wait_for_error(levels: LiveLevels) -> Exception:
    """Return the error that ends the client."""

    def error() -> Exception | None:
        try:
            levels.snapshot()
        except Exception as found:  # noqa: BLE001 -- any
            return found
        return None

    found = wait_until(error, "the client fails")
    assert found is not None
    return found


# test_examples.py does the same with a schema registry.
def test_a_client_restores_and_follows(feed: WrittenFeed) -> None:
    feed.publish(an_event(1), an_event(1, OTHER))
    feed.publish(an_event(2))
    with client_of(feed) as levels, levels.events() as events:
        assert levels.sequences() == {SYMBOL: 2, OTHER: 1}
        assert levels[SYMBOL].levels == levels_of(2)
        assert levels[SYMBOL].model == "flow"
        assert levels[SYMBOL].status is Status.LIVE

        feed.publish(an_event(3), an_event(2, OTHER))
        feed.publish(an_event(4))
        found = next_sequences(events, 3)
        of_symbol = [sequence for symbol, sequence in found if symbol == SYMBOL]
        assert of_symbol == [3, 4]
        assert (OTHER, 2) in found
        assert levels[SYMBOL].levels.all_expiry.hvl == 4


def test_neither_an_aborted_nor_an_open_transaction_shows(
    feed: WrittenFeed, monkeypatch: pytest.MonkeyPatch
) -> None:
    feed.publish(an_event(1))
    # Two of the same producer, as after two kills of the same shard.
    for _ in range(2):
        feed.begin(an_event(2, levels=levels_of(666)))
        feed.end(commit=False)
    feed.open_log()
    feed.begin(an_event(2))

    # The restore must wait for the transaction, so end it only then.
    is_reading = threading.Event()
    take = Feed.take

    def watched_take(self: Feed, *arguments: Any) -> list[ck.Message]:
        is_reading.set()
        return take(self, *arguments)

    def commit() -> None:
        assert is_reading.wait(PATIENCE_SECONDS)
        feed.end(commit=True)

    monkeypatch.setattr(Feed, "take", watched_take)
    committer = threading.Thread(target=commit)
    committer.start()
    with client_of(feed) as levels, levels.events() as events:
        committer.join(PATIENCE_SECONDS)
        assert levels[SYMBOL].levels == levels_of(2)
        # The client meets the event of the second again, and must skip it.
        feed.publish(an_event(3))
        assert next_sequences(events, 1) == [(SYMBOL, 3)]


def test_an_event_that_comes_while_the_ends_are_noted_is_not_lost(
    feed: WrittenFeed, monkeypatch: pytest.MonkeyPatch
) -> None:
    feed.publish(an_event(1))
    ends = Feed.ends
    topics: list[str] = []

    def watched_ends(
        self: Feed, consumer: ck.Consumer, topic: str, timeout_seconds: float
    ) -> dict[tuple[str, int], int]:
        found = ends(self, consumer, topic, timeout_seconds)
        topics.append(topic)
        if len(topics) == 1:
            feed.publish(an_event(2))
        return found

    monkeypatch.setattr(Feed, "ends", watched_ends)
    with client_of(feed) as levels:
        wait_for_sequence(levels, 2)
        assert topics == [feed.changes, feed.current]


def test_a_stream_that_begins_between_two_events_out_of_order_has_both(
    feed: WrittenFeed,
) -> None:
    feed.publish(an_event(1))
    with client_of(feed) as levels:
        # As after partitions were added: the later event comes first.
        feed.publish(an_event(3))

        def is_waiting() -> bool:
            reason = levels.why_not_fresh(SYMBOL)
            return reason == "event 2 has not come, but a later record has"

        wait_until(is_waiting, "the client waits for the earlier event")
        with levels.events() as events:
            feed.publish(an_event(2))
            assert next_sequences(events, 2) == [(SYMBOL, 2), (SYMBOL, 3)]


def test_a_refresh_without_an_event_shows_in_the_view(feed: WrittenFeed) -> None:
    first = an_event(1)
    feed.publish(first)
    with client_of(feed) as levels:
        moved = msgspec.structs.replace(levels_of(1), spot_price=101.0)
        feed.commit(Transaction([], [state_of(first, moved)]))

        def has_moved() -> bool:
            return levels[SYMBOL].levels.spot_price == 101.0

        wait_until(has_moved, "the refresh is seen")
        assert levels[SYMBOL].sequence == 1
        silent_for = levels.silent_for
        assert silent_for is not None
        assert silent_for >= 0


def test_levels_end_with_an_absence(feed: WrittenFeed) -> None:
    feed.publish(an_event(1))
    with client_of(feed) as levels:
        assert levels.is_fresh(SYMBOL)
        feed.publish(an_event(2, status=Status.MISSING, reason="gone"))
        wait_for_sequence(levels, 2)
        # The state keeps the last levels, but they must not be used.
        view = levels[SYMBOL]
        assert view.levels.all_expiry.hvl is None
        assert (view.status, view.reason) == (Status.MISSING, "gone")
        assert not levels.is_fresh(SYMBOL)
        with pytest.raises(NotFresh, match="the status is MISSING"):
            levels.wait_until_fresh(SYMBOL, 0)

        feed.publish(an_event(3))
        assert levels.wait_until_fresh(SYMBOL, PATIENCE_SECONDS).sequence == 3


def test_a_connector_that_has_died_is_noticed_by_its_group(
    feed: WrittenFeed, names: Names
) -> None:
    worker = ck.Consumer(
        {"bootstrap.servers": feed.bootstrap, "group.id": names.group_id}
    )
    worker.subscribe([feed.current])

    def has_joined() -> bool:
        worker.poll(0.1)
        return bool(worker.assignment())

    wait_until(has_joined, "the group has a member")
    feed.publish(an_event(1, group=names.group_id))
    troubles: list[str | None] = []
    with client_of(feed) as levels:
        levels.on_trouble(troubles.append)
        assert levels.is_fresh(SYMBOL)
        worker.close()

        def has_noticed() -> bool:
            return bool(troubles)

        wait_until(has_noticed, "the client has noticed")
        expected = f"no connector runs: the group {names.group_id} has no members"
        assert levels.trouble == expected
        assert levels.why_not_fresh(SYMBOL) == expected
        assert troubles == [expected]

        # Workers with another protocol: this look does not see their group.
        admin = admin_api.AdminClient({"bootstrap.servers": feed.bootstrap})
        deleted = admin.delete_consumer_groups([names.group_id])
        deleted[names.group_id].result(PATIENCE_SECONDS)
        feed.publish(an_event(2, group=names.group_id))
        levels.wait_until_fresh(SYMBOL, PATIENCE_SECONDS)
        assert levels.trouble is None


def test_callbacks_tell_each_change_of_their_path_once(feed: WrittenFeed) -> None:
    feed.publish(an_event(1), an_event(1, OTHER))
    changes: list[Change] = []
    statuses: list[tuple[str, object]] = []

    def note_status(change: Change) -> None:
        statuses.append((change.symbol, change.after))

    with client_of(feed) as levels:
        levels.on_change(SYMBOL, "all_expiry.hvl", changes.append)
        levels.on_change(None, "status", note_status)
        feed.publish(an_event(2), an_event(2, OTHER))
        same = an_event(3, levels=levels_of(2))
        feed.publish(same)
        feed.publish(an_event(4, status=Status.STALE, reason="old"))
        wait_for_sequence(levels, 4)

        def has_told() -> bool:
            return len(changes) == 2 and bool(statuses)

        wait_until(has_told, "the callbacks are called")
    assert [(change.before, change.after) for change in changes] == [(1, 2), (2, 4)]
    assert statuses == [(SYMBOL, Status.STALE)]


def test_a_callback_that_raises_stops_the_client(feed: WrittenFeed) -> None:
    def fail(_: Change) -> None:
        raise RuntimeError("of the callback")

    feed.publish(an_event(1))
    with client_of(feed) as levels:
        levels.on_change(SYMBOL, "all_expiry.hvl", fail)
        feed.publish(an_event(2))
        assert isinstance(wait_for_error(levels), ClientStopped)


def test_asyncio_sees_the_same_events(
    feed: WrittenFeed, monkeypatch: pytest.MonkeyPatch
) -> None:
    feed.publish(an_event(1))
    closed: list[EventStream] = []
    close = EventStream.close

    def watched_close(self: EventStream) -> None:
        close(self)
        closed.append(self)

    monkeypatch.setattr(EventStream, "close", watched_close)

    async def take_two(levels: LiveLevels) -> list[int]:
        found = []
        async for event in levels.events_async({SYMBOL: 1}):
            found.append(event.sequence)
            if len(found) == 2:
                break
        return found

    with client_of(feed) as levels:
        feed.publish(an_event(2))
        feed.publish(an_event(3))
        wait_for_sequence(levels, 3)
        assert asyncio.run(take_two(levels)) == [2, 3]
        assert closed


def test_stored_sequences_continue_without_a_gap_or_a_repeat(feed: WrittenFeed) -> None:
    feed.publish(an_event(1), an_event(1, OTHER))
    for sequence in range(2, 8):
        feed.publish(an_event(sequence))
    with client_of(feed) as levels, levels.events({SYMBOL: 3}) as events:
        found = next_sequences(events, 4)
        assert found == [(SYMBOL, 4), (SYMBOL, 5), (SYMBOL, 6), (SYMBOL, 7)]
        feed.publish(an_event(8), an_event(2, OTHER))
        assert sorted(next_sequences(events, 2)) == [(SYMBOL, 8), (OTHER, 2)]


def test_a_stored_sequence_is_found_far_back(
    feed: WrittenFeed, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Fewer records at a time than there are, so that it must go back several times.
    monkeypatch.setattr("connector.client.positions._FIRST_OFFSETS", 1)
    feed.publish(an_event(1))
    for sequence in range(1, 20):
        feed.publish(an_event(sequence, OTHER))
    feed.publish(an_event(2))
    with client_of(feed) as levels, levels.events({SYMBOL: 0, OTHER: 4}) as events:
        found = next_sequences(events, 17)
    expected = [(OTHER, sequence) for sequence in range(5, 20)]
    assert sorted(found) == [(SYMBOL, 1), (SYMBOL, 2), *expected]


def test_a_stored_sequence_of_another_topic_is_an_error(feed: WrittenFeed) -> None:
    feed.publish(an_event(1))
    with (
        client_of(feed) as levels,
        pytest.raises(TopicReplaced, match="stored sequence of BTCUSDT is 41"),
    ):
        levels.events({SYMBOL: 41})


def delete_records(feed: WrittenFeed) -> None:
    """Delete every event, as retention does."""
    admin = admin_api.AdminClient({"bootstrap.servers": feed.bootstrap})
    ends = []
    for partition in range(feed.settings.partitions):
        end = feed.reader.high_watermark(feed.changes, partition)
        ends.append(ck.TopicPartition(feed.changes, partition, end))
    for future in admin.delete_records(ends).values():
        future.result(PATIENCE_SECONDS)


def test_deleted_events_are_an_error_that_names_them(feed: WrittenFeed) -> None:
    for sequence in range(1, 5):
        feed.publish(an_event(sequence))
    delete_records(feed)
    with client_of(feed) as levels:
        assert levels[SYMBOL].sequence == 4
        with pytest.raises(
            EventsMissing, match="any more: BTCUSDT 3; retention"
        ) as hole:
            levels.events({SYMBOL: 2})
        assert hole.value.next_sequences == {SYMBOL: 3}
        # What follows the views is there.
        with levels.events() as events:
            feed.publish(an_event(5))
            assert next_sequences(events, 1) == [(SYMBOL, 5)]


def test_a_reader_whose_next_records_are_deleted_says_so(feed: WrittenFeed) -> None:
    for sequence in range(1, 5):
        feed.publish(an_event(sequence))
    delete_records(feed)
    topics = Feed(feed.bootstrap, feed.settings.topic_prefix, "all", {})
    consumer = topics.consumer()
    partition = partition_of(SYMBOL, feed.settings.partitions)
    consumer.assign(assigned({(feed.changes, partition): 0}))

    def take() -> bool:
        topics.take(consumer, 0.1)
        return False

    expected = f"{feed.changes}-{partition}, offset 0: retention has deleted"
    with pytest.raises(EventsMissing, match=expected):
        wait_until(take, "an error")
    consumer.close()


class Unanswered:
    """An admin client whose requests time out."""

    def __init__(self, *topics: str) -> None:
        self._topics = topics

    def poll(self, timeout: float) -> None: ...

    def list_groups(self, *_: object, **__: object) -> list[object]:
        return []

    def describe_topics(self, *_: object, **__: object) -> dict[str, Future[object]]:
        answers = {}
        for topic in self._topics:
            answers[topic] = Future[object]()
            timed_out = ck.KafkaError(ck.KafkaError._TIMED_OUT)
            answers[topic].set_exception(ck.KafkaException(timed_out))
        return answers


class SlowToAnswer(Unanswered):
    """An admin client whose first request times out, and no other."""

    def __init__(self, admin: admin_api.AdminClient, *topics: str) -> None:
        super().__init__(*topics)
        self._admin = admin
        self._was_asked = False

    def describe_topics(
        self, *topics: Any, **options: Any
    ) -> dict[str, Future[object]]:
        if self._was_asked:
            answers: dict[str, Future[object]]
            answers = self._admin.describe_topics(*topics, **options)
            return answers
        self._was_asked = True
        return super().describe_topics()


def test_ids_of_topics_are_asked_for_again_if_no_answer_comes(
    feed: WrittenFeed, monkeypatch: pytest.MonkeyPatch
) -> None:
    look = TopicLook(Feed(feed.bootstrap, feed.settings.topic_prefix, "all", {}))
    topics = {feed.changes, feed.current}
    monkeypatch.setattr(look, "admin", SlowToAnswer(look.admin, *topics))
    look.begin(0, PATIENCE_SECONDS)
    assert set(look.partitions) == topics


def test_an_outage_of_kafka_is_trouble_and_no_error(
    feed: WrittenFeed, monkeypatch: pytest.MonkeyPatch
) -> None:
    feed.publish(an_event(1))
    troubles: list[str | None] = []
    with client_of(feed) as levels:
        levels.on_trouble(troubles.append)
        assert levels._follower is not None
        silent = Unanswered(feed.changes, feed.current)
        with monkeypatch.context() as patched:
            patched.setattr(levels._follower._look, "admin", silent)
            wait_until(lambda: troubles, "the outage is noticed")
            assert not levels.is_fresh(SYMBOL)
        wait_until(lambda: None in troubles, "the outage is over")
        assert troubles[0] is not None
        assert troubles[0].startswith(f"Kafka at {feed.bootstrap} does not answer")
        feed.publish(an_event(2))
        wait_for_sequence(levels, 2)


def test_a_missing_event_ends_the_client_after_its_patience(feed: WrittenFeed) -> None:
    feed.publish(an_event(1))
    with client_of(feed, patience_seconds=0.5) as levels:
        feed.publish(an_event(3))
        error = wait_for_error(levels)
        assert isinstance(error, EventsMissing)
        assert "event 2 of BTCUSDT has not come" in str(error)


def test_a_client_may_restore_again_after_a_gap(feed: WrittenFeed) -> None:
    feed.publish(an_event(1))
    with client_of(feed, "restore", patience_seconds=0.5) as levels:
        events = levels.events()
        feed.publish(an_event(3))
        wait_for_sequence(levels, 3)
        # An open stream cannot deliver what is missing, and says so.
        with pytest.raises(EventsMissing, match="has restored the states again"):
            events.next_event(PATIENCE_SECONDS)
        events.close()
        # Nothing is missing from here on, however late its records come.
        levels._patience_seconds = PATIENCE_SECONDS
        assert levels._follower is not None
        levels._follower._patience_seconds = PATIENCE_SECONDS
        with levels.events() as again:
            feed.publish(an_event(4))
            assert next_sequences(again, 1) == [(SYMBOL, 4)]


def test_partitions_that_are_added_are_read(
    kafka: LocalKafka, feed: WrittenFeed
) -> None:
    feed.publish(an_event(1), an_event(1, OTHER))
    symbols = [f"S{number}USDT" for number in range(12)]
    with client_of(feed) as levels, levels.events() as events:
        add_partitions(kafka, feed.changes, 6)
        # A new producer knows all partitions.
        feed.open_log()
        feed.publish(*[an_event(1, symbol) for symbol in symbols])
        found = next_sequences(events, len(symbols))
        assert sorted(found) == sorted((symbol, 1) for symbol in symbols)
        wait_for_sequence(levels, 1, symbols[-1])


def recreate(feed: WrittenFeed) -> None:
    """Delete both topics, and create them again."""
    admin = admin_api.AdminClient({"bootstrap.servers": feed.bootstrap})
    topics = [feed.changes, feed.current]
    for future in admin.delete_topics(topics).values():
        future.result(PATIENCE_SECONDS)

    def are_gone() -> bool:
        return not any(feed.reader.partition_count(topic) for topic in topics)

    wait_until(are_gone, "the topics are gone")
    feed.make()
    feed.open_log()


def test_a_recreated_topic_is_an_error(feed: WrittenFeed) -> None:
    for sequence in range(1, 5):
        feed.publish(an_event(sequence))
    with client_of(feed) as levels:
        recreate(feed)
        for sequence in range(1, 10):
            feed.publish(an_event(sequence))
        error = wait_for_error(levels)
        assert isinstance(error, TopicReplaced | EventsMissing)
        assert "deleted" in str(error)


def test_a_topic_of_the_same_name_is_known_by_its_id(feed: WrittenFeed) -> None:
    # Even if nobody has looked while it was gone.
    look = TopicLook(Feed(feed.bootstrap, feed.settings.topic_prefix, "all", {}))
    look.begin(0, PATIENCE_SECONDS)
    recreate(feed)

    def look_again() -> bool:
        look.look(time.monotonic())
        return False

    with pytest.raises(TopicReplaced, match="was deleted and created again"):
        wait_until(look_again, "an error")


def test_a_client_may_restore_recreated_topics(feed: WrittenFeed) -> None:
    for sequence in range(1, 5):
        feed.publish(an_event(sequence))
    with client_of(feed, "restore") as levels:
        recreate(feed)
        feed.publish(an_event(1, OTHER))

        def is_restored() -> bool:
            return levels.sequences() == {OTHER: 1}

        wait_until(is_restored, "the new states")


def test_a_deleted_topic_is_an_error(feed: WrittenFeed) -> None:
    feed.publish(an_event(1))
    with client_of(feed) as levels, levels.events() as events:
        admin = admin_api.AdminClient({"bootstrap.servers": feed.bootstrap})
        admin.delete_topics([feed.changes])[feed.changes].result(PATIENCE_SECONDS)
        with pytest.raises(TopicReplaced, match=f"topic {feed.changes} was deleted"):
            list(events)


def test_strays_are_skipped(
    feed: WrittenFeed, caplog: pytest.LogCaptureFixture
) -> None:
    feed.publish(an_event(1))
    producer = ck.Producer({"bootstrap.servers": feed.bootstrap})
    for topic in (feed.changes, feed.current):
        producer.produce(topic, b"not ours", SYMBOL.encode(), partition=0)
    producer.produce(feed.current, None, SYMBOL.encode(), partition=0)
    assert producer.flush(PATIENCE_SECONDS) == 0
    with client_of(feed) as levels, levels.events({SYMBOL: 0}) as events:
        assert levels[SYMBOL].sequence == 1
        assert next_sequences(events, 1) == [(SYMBOL, 1)]
    assert "skipped a record of another program" in caplog.text


def test_an_unknown_schema_is_an_error_with_its_place(feed: WrittenFeed) -> None:
    producer = ck.Producer({"bootstrap.servers": feed.bootstrap})
    value = b"\xc3\x01" + bytes(range(8)) + b"datum"
    producer.produce(feed.current, value, b"X", headers={"ce_type": b"gex"})
    assert producer.flush(PATIENCE_SECONDS) == 0
    place = f"{feed.current}-0, offset 0: the schema with fingerprint 0001020304050607"
    with pytest.raises(SchemaError, match=place):
        client_of(feed).start()


def test_registry_framing_without_a_registry_is_an_error(feed: WrittenFeed) -> None:
    producer = ck.Producer({"bootstrap.servers": feed.bootstrap})
    value = b"\x00\x00\x00\x00\x07datum"
    producer.produce(feed.current, value, b"X", headers={"ce_type": b"gex"})
    assert producer.flush(PATIENCE_SECONDS) == 0
    with pytest.raises(SchemaError, match=r"schema 7 .* pass `registry`, its URL"):
        client_of(feed).start()


def test_a_wrong_feed_names_the_feeds_that_there_are(feed: WrittenFeed) -> None:
    prefix = feed.settings.topic_prefix
    with pytest.raises(TopicMissing, match=r"no topic .*\.mayors\.current .* are all"):
        LiveLevels(feed.bootstrap, feed="mayors", prefix=prefix).start()


def test_an_absent_broker_is_an_error_with_its_address() -> None:
    address = f"127.0.0.1:{free_port()}"
    with pytest.raises(KafkaUnreachable, match=f"at {address}"):
        LiveLevels(address, start_seconds=0).start()


def test_settings_that_librdkafka_refuses_are_an_error() -> None:
    with pytest.raises(SettingsError, match=r"security\.protocol"):
        LiveLevels("x:1", kafka={"security.protocol": "rot13"}).start()


def test_an_unknown_symbol_names_those_that_there_are(feed: WrittenFeed) -> None:
    feed.publish(an_event(1))
    with client_of(feed) as levels:
        with pytest.raises(UnknownSymbol, match="no symbol 'BTC'; it has BTCUSDT"):
            levels["BTC"]
        assert levels.get("BTC") is None
        assert SYMBOL in levels
        assert len(levels) == 1


def test_a_client_that_is_not_started_or_closed_says_so(feed: WrittenFeed) -> None:
    feed.publish(an_event(1))
    client = client_of(feed)
    with pytest.raises(ClientStopped, match="not started"):
        client.snapshot()
    with client as levels:
        stream = levels.events()
    with pytest.raises(ClientStopped, match="closed"):
        client.snapshot()
    # Iteration ends with the client.
    events: list[Event] = list(stream)
    assert events == []


def test_a_stream_ends_when_it_is_closed(feed: WrittenFeed) -> None:
    feed.publish(an_event(1))
    with client_of(feed) as levels, ThreadPoolExecutor() as pool:
        stream = levels.events()
        iterated = pool.submit(list, stream)
        feed.publish(an_event(2))
        wait_for_sequence(levels, 2)
        stream.close()
        # The event came before the end or not at all.
        assert [event.sequence for event in iterated.result(PATIENCE_SECONDS)] in (
            [2],
            [],
        )
        with pytest.raises(ClientStopped, match="the stream is closed"):
            stream.next_event(PATIENCE_SECONDS)
