"""Reads the topics of one feed. librdkafka's errors become the client's here."""

from __future__ import annotations

import logging
import time
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Final

import confluent_kafka as ck

from connector.client.errors import (
    AccessDenied,
    ClientError,
    EventsMissing,
    KafkaUnreachable,
    SettingsError,
    TopicMissing,
)
from connector.kafka.headers import headers_of
from connector.kafka.names import Topics
from connector.kafka.refusals import refusal_of

if TYPE_CHECKING:
    from collections.abc import Mapping

_log = logging.getLogger("connector.client")
_librdkafka_log = logging.getLogger("connector.client.librdkafka")

# A topic and the number of one of its partitions.
Partition = tuple[str, int]

_REQUEST_SECONDS: Final = 5.0
# Short, because the reason for a time-out is known only after it. Connecting goes on.
_FIRST_REQUEST_SECONDS: Final = 1.0
_RETRY_PAUSE_SECONDS: Final = 0.2
_MAX_MESSAGES: Final = 1000
# Cut, so that a message stays one line.
_MAX_NAMED_FEEDS: Final = 10
# The first strays are named, and then each thousandth.
_MAX_NAMED_STRAYS: Final = 10
_STRAYS_PER_REPORT: Final = 1000

# Every record of a connector is a CloudEvent.
_OURS: Final = "ce_type"

_END_OF_PARTITION: Final = ck.KafkaError._PARTITION_EOF  # noqa: SLF001 -- librdkafka's name
_OFFSET_IS_GONE: Final = ck.KafkaError._AUTO_OFFSET_RESET  # noqa: SLF001 -- librdkafka's name
_TOPIC_DENIED: Final = ck.KafkaError.TOPIC_AUTHORIZATION_FAILED
_GROUP_DENIED: Final = ck.KafkaError.GROUP_AUTHORIZATION_FAILED
# The look at the topics names a deleted topic better than a read does.
_UNKNOWN_TOPIC: Final = frozenset(
    {
        ck.KafkaError._UNKNOWN_TOPIC,  # noqa: SLF001 -- librdkafka's name
        ck.KafkaError._UNKNOWN_PARTITION,  # noqa: SLF001 -- librdkafka's name
        ck.KafkaError.UNKNOWN_TOPIC_OR_PART,
        ck.KafkaError.UNKNOWN_TOPIC_ID,
    }
)
_CHECK_ADDRESS: Final = (
    "check that a broker runs there, the address, and security.protocol in `kafka`"
)

# A caller's settings may replace these.
_DEFAULTS: Final[dict[str, Any]] = {
    # librdkafka requires a group. It is never joined, and no offset is committed.
    "group.id": "gex-levels-client",
    "client.id": "gex-levels-client",
    # Brokers report the end of a partition after this wait. The default is 500.
    "fetch.wait.max.ms": 100,
    # librdkafka's default of 10 s would lengthen every outage of a broker.
    "reconnect.backoff.max.ms": 2_000,
}
# These are the protocol: see `restore`.
_REQUIRED: Final[dict[str, Any]] = {
    "enable.auto.commit": False,
    "enable.auto.offset.store": False,
    "enable.partition.eof": True,
    "auto.offset.reset": "error",
    # Looking for a deleted topic must not create it.
    "allow.auto.create.topics": False,
}


class Feed:
    """The topics of a feed, and consumers to read them."""

    def __init__(
        self, bootstrap: str, prefix: str, name: str, settings: Mapping[str, Any]
    ) -> None:
        """`settings` are librdkafka's, such as `security.protocol`."""
        topics = Topics(prefix)
        self.name = name
        self.bootstrap = bootstrap
        self.changes = topics.changes(name)
        self.current = topics.current(name)
        self._topics = topics
        self._settings = settings
        # The last error that librdkafka has told by its callback.
        self.last_error: ck.KafkaError | None = None
        # The error of the last look at the topics, None if it was answered.
        self.unanswered: ck.KafkaError | None = None
        self.strays = 0

    def settings(self) -> dict[str, Any]:
        """Return the settings of any client of the feed."""
        return {
            **_DEFAULTS,
            "logger": _logger(),
            **self._settings,
            "bootstrap.servers": self.bootstrap,
            # An outage would not be noticed without it.
            "error_cb": self._report,
        }

    def consumer(self, isolation: str = "read_committed") -> ck.Consumer:
        """Return a consumer that assigns its partitions itself. Raises SettingsError."""
        settings = {
            **self.settings(),
            **_REQUIRED,
            "isolation.level": isolation,
        }
        try:
            return ck.Consumer(settings)
        except ck.KafkaException as exception:
            reason = _error(exception).str()
        except (TypeError, ValueError) as error:
            reason = str(error)
        raise SettingsError(f"a setting in `kafka` is refused: {reason}")

    def check(self, consumer: ck.Consumer, timeout_seconds: float) -> None:
        """Wait until a broker answers, and check that both topics are there.

        Raises KafkaUnreachable, AccessDenied, TopicMissing.
        """
        deadline = time.monotonic() + timeout_seconds
        for topic in (self.current, self.changes):
            while not self._answers(consumer, topic, deadline):
                pass

    @property
    def outage(self) -> str | None:
        """Return why no broker answers, None if one does."""
        if self.unanswered is None:
            return None
        # The reason for a time-out comes by the callback.
        return (self.last_error or self.unanswered).str()

    def ends(
        self, consumer: ck.Consumer, topic: str, timeout_seconds: float = 0
    ) -> dict[Partition, int]:
        """Return the end of each partition of a topic. Asks again until the time-out.

        To a read_committed consumer, a partition ends before its first open transaction.
        Raises KafkaUnreachable, AccessDenied.
        """
        deadline = time.monotonic() + timeout_seconds
        while True:
            try:
                return self._ends(consumer, topic)
            except KafkaUnreachable:
                if time.monotonic() >= deadline:
                    raise
            time.sleep(_RETRY_PAUSE_SECONDS)

    def _ends(self, consumer: ck.Consumer, topic: str) -> dict[Partition, int]:
        action = f"asking for the ends of {topic}"
        try:
            found = consumer.list_topics(topic, _REQUEST_SECONDS).topics[topic]
        except ck.KafkaException as exception:
            raise self.failure(action, _error(exception)) from None
        ends = {}
        for number in found.partitions:
            _, ends[topic, number] = self._watermarks(consumer, (topic, number))
        return ends

    def low(self, consumer: ck.Consumer, partition: Partition) -> int:
        """Return the first offset that a partition still has.

        Raises KafkaUnreachable, AccessDenied.
        """
        low, _ = self._watermarks(consumer, partition)
        return low

    def _watermarks(
        self, consumer: ck.Consumer, partition: Partition
    ) -> tuple[int, int]:
        action = f"asking for the offsets of {partition[0]}-{partition[1]}"
        try:
            offsets: tuple[int, int] | None = consumer.get_watermark_offsets(
                ck.TopicPartition(*partition), _REQUEST_SECONDS, cached=False
            )
        except ck.KafkaException as exception:
            raise self.failure(action, _error(exception)) from None
        if offsets is None:
            raise KafkaUnreachable(f"{action}: no answer; {_CHECK_ADDRESS}")
        return offsets

    def take(self, consumer: ck.Consumer, wait_seconds: float) -> list[ck.Message]:
        """Wait for a message, and return all that are there, ends of partitions too.

        An outage is no error: librdkafka connects again, and nothing is lost.

        Raises EventsMissing if records were deleted before they were read, and
        AccessDenied.
        """
        # `consume` alone would wait for as many messages as it may return.
        first = consumer.poll(wait_seconds)
        if first is None:
            return []
        messages = []
        for message in (first, *consumer.consume(_MAX_MESSAGES, timeout=0)):
            error = message.error()
            if error is None or error.code() == _END_OF_PARTITION:
                messages.append(message)
                self.last_error = None
                continue
            self._check(message, error)
        return messages

    def is_ours(self, message: ck.Message) -> bool:
        """Return False for a stray: a record that no connector wrote.

        Another program may have the right to write to the topics, and an operator may
        delete a state by mistake. The connector continues as if strays were not there.
        """
        if _OURS in headers_of(message):
            return True
        self.strays += 1
        # A program may go on writing to the wrong topic.
        if self.strays <= _MAX_NAMED_STRAYS or self.strays % _STRAYS_PER_REPORT == 0:
            _log.warning(
                "skipped a record of another program: %s (skipped so far: %d)",
                place_of(message),
                self.strays,
            )
        return False

    def failure(self, action: str, error: ck.KafkaError) -> ClientError:
        """Return the client's error for one of librdkafka's. `action` begins the message."""
        text = f"{action} at {self.bootstrap}: {error.str()}"
        if error.code() == _TOPIC_DENIED:
            return AccessDenied(
                f"{text}; grant READ on the topics {self.changes} and {self.current}"
            )
        if error.code() == _GROUP_DENIED:
            group = self.settings()["group.id"]
            return AccessDenied(
                f"{text}; grant READ on the group {group!r}, or name another one with "
                '`kafka={"group.id": ...}`'
            )
        refusal = refusal_of(error)
        if refusal is not None:
            return KafkaUnreachable(
                f"{text}: {refusal.summary}; check sasl.* and ssl.* in `kafka`"
            )
        return KafkaUnreachable(f"{text}; {_CHECK_ADDRESS}")

    def _check(self, message: ck.Message, error: ck.KafkaError) -> None:
        """Raise an error that waiting does not end."""
        topic = message.topic()
        if error.code() == _OFFSET_IS_GONE:
            place = f"{topic}-{message.partition()}, offset {message.offset()}"
            raise EventsMissing(
                f"{place}: retention has deleted records before they were read, or the "
                "topic was deleted and created again; start again from the present "
                'states, or pass on_hole="restore"'
            )
        if error.code() in {_TOPIC_DENIED, _GROUP_DENIED}:
            # An error of the group names no topic.
            raise self.failure(f"reading {topic or self.changes}", error)
        if error.code() not in _UNKNOWN_TOPIC:
            self.last_error = error

    def _answers(self, consumer: ck.Consumer, topic: str, deadline: float) -> bool:
        """Return True if a topic is there, False to ask again. Raises if it is not."""
        action = f"asking for {topic}"
        try:
            metadata = consumer.list_topics(topic, _FIRST_REQUEST_SECONDS)
        except ck.KafkaException as exception:
            # The reason for a time-out comes by the callback.
            consumer.poll(0)
            error = self.last_error or _error(exception)
            # Waiting does not help if the password is wrong.
            if refusal_of(error) is None and time.monotonic() < deadline:
                return False
            raise self.failure(action, error) from None
        found = metadata.topics[topic]
        if found.error is not None and found.error.code() == _TOPIC_DENIED:
            raise self.failure(action, found.error)
        if not found.partitions:
            raise self._missing(consumer, topic)
        return True

    def _missing(self, consumer: ck.Consumer, topic: str) -> TopicMissing:
        """Return the error for a missing topic, with the feeds that there are."""
        feeds = []
        with suppress(ck.KafkaException):
            for name in consumer.list_topics(timeout=_REQUEST_SECONDS).topics:
                feed = self._topics.feed_of_current(name)
                if feed is not None:
                    feeds.append(feed)
        if feeds:
            shown = ", ".join(sorted(feeds)[:_MAX_NAMED_FEEDS])
            remedy = f"the feeds there are {shown}: check `feed` and `prefix`"
        else:
            remedy = (
                f"no feed is there with the prefix {self._topics.prefix!r}: check "
                "`prefix` and the address, that a connector has run, and that this "
                "program may READ the topics"
            )
        return TopicMissing(f"no topic {topic} at {self.bootstrap}; {remedy}")

    def _report(self, error: ck.KafkaError) -> None:
        """Keep the last error, but not in place of a refusal: that explains the others."""
        known = self.last_error
        is_explained = known is not None and refusal_of(known) is not None
        if not is_explained or refusal_of(error) is not None:
            self.last_error = error


def _is_worth_a_line(record: logging.LogRecord) -> bool:
    # Each attempt to connect is a line, and comes as an error, too.
    return not record.getMessage().startswith("FAIL ")


def _logger() -> logging.Logger:
    """Return the logger for librdkafka's own lines."""
    if _is_worth_a_line not in _librdkafka_log.filters:
        _librdkafka_log.addFilter(_is_worth_a_line)
    return _librdkafka_log


def is_end(message: ck.Message) -> bool:
    """Return True if a message is the end of a partition, not a record."""
    return message.error() is not None


def place_of(message: ck.Message) -> str:
    """Return the position of a record, for messages."""
    return f"{message.topic()}-{message.partition()}, offset {message.offset()}"


def partition_of(message: ck.Message) -> Partition:
    """Return the topic and partition of a message."""
    return str(message.topic()), message.partition() or 0


def offset_of(message: ck.Message) -> int:
    """Return the offset of a message."""
    return message.offset() or 0


def value_of(message: ck.Message) -> bytes:
    """Return the value of a record, empty for a tombstone."""
    return bytes(message.value() or b"")


def assigned(offsets: Mapping[Partition, int]) -> list[ck.TopicPartition]:
    """Return partitions with the offsets to read them from."""
    partitions = []
    for (topic, number), offset in offsets.items():
        partitions.append(ck.TopicPartition(topic, number, offset))
    return partitions


def _error(exception: ck.KafkaException) -> ck.KafkaError:
    error: ck.KafkaError = exception.args[0]
    return error


def sequence_of(message: ck.Message) -> tuple[str, int] | None:
    """Return symbol and sequence of an event by its id, None if it has none.

    The id is `feed/symbol/sequence`, and a feed's name has no slash.
    """
    event_id = headers_of(message).get("ce_id")
    if not isinstance(event_id, bytes):
        return None
    _, _, named = event_id.decode(errors="replace").partition("/")
    symbol, _, sequence = named.rpartition("/")
    return (symbol, int(sequence)) if sequence.isdecimal() else None
