"""Measures the brokers' clock against ours."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Final

import confluent_kafka as ck
from confluent_kafka.admin import AdminClient

from connector.core.model import Value
from connector.errors import KafkaUnavailable
from connector.kafka.admin import (
    REQUEST_TIMEOUT_SECONDS,
    end_of_partition,
    newest_record,
    offsets_of,
    wait_unless,
)
from connector.kafka.errors import new_client, translate, translating
from connector.kafka.transactional_producer import transactional_producer

if TYPE_CHECKING:
    from confluent_kafka.admin import ListOffsetsResultInfo, OffsetSpec

    from connector.kafka.clients import Clients
    from connector.kafka.names import Partition, Topics

_ACTION: Final = "asking for the brokers' time"
_VALUE: Final = b"gex-levels-connector compares clocks; this transaction is aborted"
# The oldest time that a record can have. Whether it is accepted makes no difference.
_OLDEST_MS: Final = 1
# Others write to the topic of events, too, but far less often than this asks.
_ATTEMPTS: Final = 3


class _Newest(Value, frozen=True):
    """The record with the latest time. The offset is -1 if there are no records."""

    offset: int
    timestamp_ms: int


class BrokerClock:
    """Asks the brokers for their time. Use it from one thread at a time.

    No request of Kafka's protocol returns the time. But the brokers stamp one kind of record
    themselves: the end of a transaction. So this aborts a transaction in the quarantine
    topic, which readers with read_committed do not see. If that topic is gone, it asks by
    the events of `feed`.
    """

    def __init__(self, clients: Clients, topics: Topics, feed: str) -> None:
        self._clients = clients
        self._topics = (topics.quarantine, topics.changes(feed))
        self._transactional_id = topics.clock_id

    def difference_seconds(self) -> float:
        """Return the brokers' clock minus ours. Blocks.

        Raises KafkaError, also if it cannot be measured: records of another program
        have later times than the brokers.
        """
        admin = new_client(AdminClient, self._clients.admin())
        quarantine, changes = self._topics
        topic = quarantine if self._exists(quarantine, admin) else changes
        for _ in range(_ATTEMPTS):
            difference = self._attempt((topic, 0), admin)
            if difference is not None:
                return difference
        raise KafkaUnavailable(f"{_ACTION}: others write to topic {topic} all the time")

    def _exists(self, topic: str, admin: AdminClient) -> bool:
        """Return True if there is such a topic. Raises KafkaError."""
        described = admin.describe_topics(
            ck.TopicCollection([topic]), request_timeout=REQUEST_TIMEOUT_SECONDS
        )
        missing = ck.KafkaError.UNKNOWN_TOPIC_OR_PART
        found = wait_unless(missing, described[topic], _ACTION, self._clients)
        return found is not None

    def _attempt(self, partition: Partition, admin: AdminClient) -> float | None:
        """Return the difference, None if others have written to the partition meanwhile."""
        end_before = self._end(partition, admin)
        sent_at = time.time()
        record_offset = self._abort_transaction(partition)
        self._wait_until_ended(partition)
        end = self._end(partition, admin)
        newest = self._newest(partition, admin)
        received_at = time.time()

        is_written_since = newest.offset >= end
        if is_written_since or not _are_we_last(end_before, record_offset, end):
            return None
        if newest.offset != end - 1:
            raise KafkaUnavailable(
                f"{_ACTION}: topic {partition[0]} has records with later times"
            )
        return _difference(newest.timestamp_ms / 1000, sent_at, received_at)

    def _end(self, partition: Partition, admin: AdminClient) -> int:
        """Return the offset of the next record."""
        return self._found(partition, end_of_partition(), admin).offset

    def _newest(self, partition: Partition, admin: AdminClient) -> _Newest:
        found = self._found(partition, newest_record(), admin)
        return _Newest(found.offset, found.timestamp)

    def _found(
        self, partition: Partition, spec: OffsetSpec, admin: AdminClient
    ) -> ListOffsetsResultInfo:
        found = offsets_of([partition], spec, _ACTION, admin, self._clients)
        return found[partition]

    def _abort_transaction(self, partition: Partition) -> int | None:
        """Begin a transaction and abort it.

        Return the offset of the record in it, None if the brokers refuse its time.
        """
        topic, number = partition
        offsets: list[int | None] = []
        errors: list[ck.KafkaError] = []

        def delivered(error: ck.KafkaError | None, message: ck.Message) -> None:
            if error is None:
                offsets.append(message.offset())
            else:
                errors.append(error)

        producer = self._producer(topic)
        with translating(_ACTION, self._clients):
            producer.begin_transaction()
            # Without a record the transaction would have no end in the topic.
            producer.produce(
                topic,
                _VALUE,
                partition=number,
                timestamp=_OLDEST_MS,
                on_delivery=delivered,
            )
            producer.flush(REQUEST_TIMEOUT_SECONDS)
            producer.abort_transaction(REQUEST_TIMEOUT_SECONDS)
        if offsets:
            return offsets[0]
        for error in errors:
            if error.code() == ck.KafkaError.INVALID_TIMESTAMP:
                return None
            raise translate(error, _ACTION)
        raise KafkaUnavailable(f"{_ACTION}: topic {topic} took no record in time")

    def _wait_until_ended(self, partition: Partition) -> None:
        """Wait until the end of the transaction is in the topic.

        That is after the request for it was answered, but before the brokers accept another
        producer of the same id.
        """
        self._producer(partition[0])

    def _producer(self, topic: str) -> ck.Producer:
        """Return a producer that may begin a transaction."""
        settings = self._clients.producer(self._transactional_id)
        producer = transactional_producer(settings, topic)
        with translating(_ACTION, self._clients):
            producer.init_transactions(REQUEST_TIMEOUT_SECONDS)
        return producer


def _are_we_last(end_before: int, record_offset: int | None, end: int) -> bool:
    """Return True if the last record of the partition is the end of our transaction.

    It is in the topic, and comes after our record. The time of any other record is that of
    another program's clock, which may be wrong.
    """
    if record_offset is None:
        # Ours was refused, so the end is the only record.
        return end == end_before + 1
    return end == record_offset + 2


def _difference(broker_at: float, sent_at: float, received_at: float) -> float:
    """Return the smallest difference that the time between the two moments permits."""
    smallest, largest = broker_at - received_at, broker_at - sent_at
    if smallest <= 0 <= largest:
        return 0.0
    return min(smallest, largest, key=abs)
