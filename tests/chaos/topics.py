"""Operations on topics that faults need. Every call blocks, and outlasts dead brokers."""

from __future__ import annotations

import time
from contextlib import suppress
from typing import TYPE_CHECKING

import confluent_kafka as ck
import confluent_kafka.admin as admin_api

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from concurrent.futures import Future

    from tests.support.checker import Brokers

# Brokers that were killed are back long before.
_PATIENCE_SECONDS = 180.0
_REQUEST_SECONDS = 10
_PAUSE_SECONDS = 0.5

# Longer than a fault, or the brokers would end the transaction by themselves.
_FOREIGN_TIMEOUT_MS = 120_000


def delete(brokers: Brokers, topic: str) -> None:
    """Delete a topic, if it exists."""
    # The client must outlive its requests.
    admin = _admin(brokers)

    def request() -> None:
        futures = admin.delete_topics([topic], request_timeout=_REQUEST_SECONDS)
        _wait_unless(ck.KafkaError.UNKNOWN_TOPIC_OR_PART, futures[topic])

    _until_it_succeeds(request)


def create(brokers: Brokers, topic: str, partitions: int) -> None:
    """Create a topic with three replicas, if it does not exist."""
    new = admin_api.NewTopic(topic, partitions, 3, config={"min.insync.replicas": "2"})
    admin = _admin(brokers)

    def request() -> None:
        futures = admin.create_topics([new], request_timeout=_REQUEST_SECONDS)
        _wait_unless(ck.KafkaError.TOPIC_ALREADY_EXISTS, futures[topic])

    _until_it_succeeds(request)


def exists(brokers: Brokers, topic: str) -> bool:
    """Return whether a topic exists, False if no broker answers."""
    try:
        found = _admin(brokers).list_topics(topic, timeout=_REQUEST_SECONDS)
    except ck.KafkaException:
        return False
    return bool(found.topics[topic].partitions)


def end_of_all_transactions(
    brokers: Brokers, topic: str, partitions: int
) -> dict[int, int]:
    """Return an end of each partition, once no transaction before it is open.

    The high watermark would not do: records that were written while followers stood still
    are behind it for a while. A record of our own, in a transaction that is aborted, comes
    after everything that was written before.
    """
    committed = _consumer(brokers)
    ends: dict[int, int] = {}

    def write() -> None:
        ends.update(_aborted_records(brokers, topic, range(partitions)))
        if len(ends) < partitions:
            raise ck.KafkaException(ck.KafkaError(ck.KafkaError._RETRY))

    def wait() -> None:
        for number, end in ends.items():
            if _end(committed, topic, number) < end:
                raise ck.KafkaException(ck.KafkaError(ck.KafkaError._RETRY))

    try:
        _until_it_succeeds(write)
        _until_it_succeeds(wait)
    finally:
        committed.close()
    return ends


def _aborted_records(
    brokers: Brokers, topic: str, partitions: Iterable[int]
) -> dict[int, int]:
    """Write a record to each partition, and abort it. Return the offsets of those written."""
    settings = {
        "bootstrap.servers": brokers.bootstrap_servers,
        "transactional.id": f"end-of-{topic}",
        "log_level": 0,
    }
    producer = ck.Producer(settings)
    offsets: dict[int, int] = {}

    def delivered(error: ck.KafkaError | None, message: ck.Message) -> None:
        partition, offset = message.partition(), message.offset()
        if error is None and partition is not None and offset is not None:
            offsets[partition] = offset

    producer.init_transactions(_REQUEST_SECONDS)
    producer.begin_transaction()
    for partition in partitions:
        producer.produce(
            topic, b"x", b"end", partition=partition, on_delivery=delivered
        )
    producer.flush(_REQUEST_SECONDS)
    producer.abort_transaction(_REQUEST_SECONDS)
    return offsets


class ForeignTransaction:
    """A transaction of another program that has a record in a topic of the connector."""

    def __init__(self, brokers: Brokers, topic: str, partition: int) -> None:
        self._topic = topic
        self._partition = partition
        self._settings = {
            "bootstrap.servers": brokers.bootstrap_servers,
            "transactional.id": f"foreign-{topic}-{partition}",
            "transaction.timeout.ms": _FOREIGN_TIMEOUT_MS,
            "log_level": 0,
        }

    def begin(self) -> None:
        """Write the record, if that is possible now."""
        producer = ck.Producer(self._settings)
        with suppress(ck.KafkaException):
            producer.init_transactions(_REQUEST_SECONDS)
            producer.begin_transaction()
            producer.produce(self._topic, b"x", b"foreign", partition=self._partition)
            producer.flush(_REQUEST_SECONDS)

    def abort(self) -> None:
        """End it, also if the brokers have died or lost the topic meanwhile."""

        def request() -> None:
            # The successor with the same id aborts whatever is left.
            ck.Producer(self._settings).init_transactions(_REQUEST_SECONDS)

        _until_it_succeeds(request)


def _until_it_succeeds(request: Callable[[], None]) -> None:
    """Call again after each failure. Raises the last one after a long time."""
    deadline = time.monotonic() + _PATIENCE_SECONDS
    while True:
        try:
            return request()
        except (ck.KafkaException, TimeoutError):
            if time.monotonic() > deadline:
                raise
        time.sleep(_PAUSE_SECONDS)


def _wait_unless(code: int, future: Future[None]) -> None:
    """Wait for a future, and accept an error with this code."""
    try:
        future.result(2 * _REQUEST_SECONDS)
    except ck.KafkaException as exception:
        error: ck.KafkaError = exception.args[0]
        if error.code() != code:
            raise


def _admin(brokers: Brokers) -> admin_api.AdminClient:
    return admin_api.AdminClient(
        {"bootstrap.servers": brokers.bootstrap_servers, "log_level": 0}
    )


def _consumer(brokers: Brokers) -> ck.Consumer:
    return ck.Consumer(
        {
            "bootstrap.servers": brokers.bootstrap_servers,
            "group.id": "chaos-unused",
            "isolation.level": "read_committed",
            "log_level": 0,
        }
    )


def _end(consumer: ck.Consumer, topic: str, partition: int) -> int:
    """Return the offset up to which a consumer can read. Raises KafkaException."""
    # After an outage librdkafka's metadata can lack partitions for minutes.
    consumer.list_topics(topic, timeout=_REQUEST_SECONDS)
    where = ck.TopicPartition(topic, partition)
    offsets = consumer.get_watermark_offsets(where, timeout=_REQUEST_SECONDS)
    if offsets is None:
        raise ck.KafkaException(ck.KafkaError(ck.KafkaError._TIMED_OUT))
    return int(offsets[1])
