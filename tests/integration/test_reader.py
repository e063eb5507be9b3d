"""Reading partitions of many topics for many shards at once, on a real broker."""

from __future__ import annotations

import threading
import time
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

import confluent_kafka as ck
import pytest
from confluent_kafka.admin import NewTopic

from connector.config.model import Kafka
from connector.errors import ShardCorrupt
from connector.kafka.clients import Clients
from connector.kafka.reader import Reader
from tests.support.processes import PATIENCE_SECONDS
from tests.support.topics import create_topics

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from connector.devkit.local_kafka import LocalKafka
    from connector.kafka.reader import KeptRecord
    from tests.conftest import Names

FEEDS = 40
# librdkafka looks for the leaders of new topics once a second: one topic after another
# would take longer than this on any machine.
ONE_AFTER_ANOTHER_SECONDS = 35


@pytest.fixture
def topics(kafka: LocalKafka, names: Names) -> list[str]:
    """Topics with one record each."""
    created = [f"{names.topic_prefix}.{number}" for number in range(FEEDS)]
    create_topics(kafka, *[NewTopic(topic, 1, 1) for topic in created])

    producer = ck.Producer({"bootstrap.servers": kafka.bootstrap_servers})
    for topic in created:
        producer.produce(topic, topic.encode(), b"key", partition=0)
    assert producer.flush(PATIENCE_SECONDS) == 0
    return created


@pytest.fixture
def reader(kafka: LocalKafka) -> Iterator[Reader]:
    opened = Reader(Clients(Kafka(bootstrap_servers=kafka.bootstrap_servers)))
    yield opened
    opened.close()


def value(reader: Reader, topic: str) -> bytes | None:
    """Return the value of the only record."""
    contents = reader.contents(topic, 0, reader.high_watermark(topic, 0))
    assert contents.records == 1
    return contents.latest[b"key"].value


def values(reader: Reader, topics: Sequence[str]) -> list[bytes | None]:
    """Return the value of each topic's record, read by as many threads."""
    with ThreadPoolExecutor(len(topics)) as executor:
        return list(executor.map(lambda topic: value(reader, topic), topics))


def test_the_first_reads_of_many_topics_do_not_wait_for_each_other(
    reader: Reader, topics: list[str]
) -> None:
    began_at = time.monotonic()
    read = values(reader, topics)
    assert time.monotonic() - began_at < ONE_AFTER_ANOTHER_SECONDS
    assert read == [topic.encode() for topic in topics]


def test_threads_that_read_the_same_partition_take_turns(
    reader: Reader, topics: list[str]
) -> None:
    same = [topics[0]] * 8
    assert values(reader, same) == [topics[0].encode()] * 8


def test_a_read_that_waits_for_a_transaction_holds_up_no_other(
    kafka: LocalKafka, names: Names, reader: Reader, topics: list[str]
) -> None:
    held_back, *others = topics
    producer = ck.Producer(
        {
            "bootstrap.servers": kafka.bootstrap_servers,
            "transactional.id": names.transactional_id,
            # Longer than the test, or the broker would end the transaction by itself.
            "transaction.timeout.ms": 600_000,
        }
    )
    producer.init_transactions(PATIENCE_SECONDS)
    producer.begin_transaction()
    producer.produce(held_back, b"late", b"key", partition=0)
    assert producer.flush(PATIENCE_SECONDS) == 0

    found: list[KeptRecord] = []
    has_first = threading.Event()

    def take(record: KeptRecord) -> None:
        found.append(record)
        has_first.set()

    ends = {(held_back, 0): reader.high_watermark(held_back, 0)}
    with ThreadPoolExecutor(1) as executor:
        waiting = executor.submit(reader.records_of, {b"key"}, ends, take)
        assert has_first.wait(PATIENCE_SECONDS)
        assert values(reader, others) == [topic.encode() for topic in others]
        assert not waiting.done()

        producer.commit_transaction(PATIENCE_SECONDS)
        waiting.result(PATIENCE_SECONDS)
    assert [record.value for record in found] == [held_back.encode(), b"late"]


def test_an_error_of_one_read_reaches_no_other(
    reader: Reader, topics: list[str]
) -> None:
    def refuse(_: KeptRecord) -> None:
        raise ShardCorrupt("refused")

    def read_corrupt() -> None:
        reader.records_of({b"key"}, {(topics[0], 0): 1}, refuse)

    with ThreadPoolExecutor(1) as executor:
        failing = executor.submit(read_corrupt)
        read = values(reader, topics)
    assert read == [topic.encode() for topic in topics]
    with pytest.raises(ShardCorrupt, match="refused"):
        failing.result()
    # Nothing of the failed read is left behind.
    assert value(reader, topics[0]) == topics[0].encode()
