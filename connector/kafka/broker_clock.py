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
    newest_record,
    offsets_of,
    wait_unless,
)
from connector.kafka.errors import new_client, translating
from connector.kafka.transactional_producer import transactional_producer

if TYPE_CHECKING:
    from connector.kafka.clients import Clients
    from connector.kafka.names import Partition, Topics

_ACTION: Final = "asking for the brokers' time"
_VALUE: Final = b"gex-levels-connector compares clocks; this transaction is aborted"
# The oldest time that a record can have. Whether it is accepted makes no difference.
_OLDEST_MS: Final = 1
# The end of a transaction is written after the request for it was answered.
_MARKER_SECONDS: Final = 5
_LOOK_SECONDS: Final = 0.05
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
        """Return the difference, None if the newest record is another program's."""
        before = self._newest(partition, admin)
        sent_at = time.time()
        record_offset = self._abort_transaction(partition)

        # Looked at by the monotonic clock: ours may be stepped meanwhile.
        deadline = time.monotonic() + _MARKER_SECONDS
        while time.monotonic() < deadline:
            newest = self._newest(partition, admin)
            received_at = time.time()
            if _is_end(newest, before.offset, record_offset):
                broker_at = newest.timestamp_ms / 1000
                return _difference(broker_at, sent_at, received_at)
            if record_offset is not None and newest.offset > record_offset:
                return None
            time.sleep(_LOOK_SECONDS)
        raise KafkaUnavailable(
            f"{_ACTION}: topic {partition[0]} has records with later times"
        )

    def _newest(self, partition: Partition, admin: AdminClient) -> _Newest:
        newest = offsets_of([partition], newest_record(), _ACTION, admin, self._clients)
        found = newest[partition]
        return _Newest(found.offset, found.timestamp)

    def _abort_transaction(self, partition: Partition) -> int | None:
        """Begin a transaction and abort it.

        Return the offset of the record in it, None if the brokers refuse the record.
        """
        topic, number = partition
        settings = self._clients.producer(self._transactional_id)
        producer = transactional_producer(settings, topic)
        offsets: list[int | None] = []

        def delivered(error: ck.KafkaError | None, message: ck.Message) -> None:
            if error is None:
                offsets.append(message.offset())

        with translating(_ACTION, self._clients):
            producer.init_transactions(REQUEST_TIMEOUT_SECONDS)
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
        return offsets[0] if offsets else None


def _is_end(newest: _Newest, before: int, ours: int | None) -> bool:
    """Return True if the newest record is the end of our transaction.

    The offsets are that of the record that was the newest before, and that of ours. Another
    program's record has the time of its own clock, which may be wrong.
    """
    # Only a record that was written within the milliseconds between the two is mistaken.
    if ours is not None:
        return newest.offset == ours + 1
    # Ours was refused, or written although that was never confirmed. Then its offset is not
    # known, but its time is.
    return newest.timestamp_ms > _OLDEST_MS and newest.offset != before


def _difference(broker_at: float, sent_at: float, received_at: float) -> float:
    """Return the smallest difference that the time between the two moments permits."""
    smallest, largest = broker_at - received_at, broker_at - sent_at
    if smallest <= 0 <= largest:
        return 0.0
    return min(smallest, largest, key=abs)
