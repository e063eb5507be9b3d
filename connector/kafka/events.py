"""Reads what connectors wrote as a consumer would, read_committed: as it comes, or a stretch that ends."""

from __future__ import annotations

import time
from functools import cached_property
from typing import TYPE_CHECKING, Final, TypeVar

import confluent_kafka as ck
import msgspec
from confluent_kafka.admin import AdminClient, OffsetSpec

from connector.core.model import Event, Value
from connector.errors import KafkaUnavailable, ShardCorrupt
from connector.kafka.errors import kafka_error, new_client, translate
from connector.kafka.topics import waited

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping

    from connector.kafka.avro import Codec
    from connector.kafka.clients import Clients
    from connector.kafka.names import Topics

_T = TypeVar("_T")
_TIMEOUT_SECONDS: Final = 10
_TURN_SECONDS: Final = 0.2
_AT_ONCE: Final = 1000
_STALLED_SECONDS: Final = 90
"""The broker aborts what a dead worker left open after 60 s, and looks for such every 10 s."""

BEGINNING: Final = ck.OFFSET_BEGINNING
END: Final = ck.OFFSET_END

Place = tuple[str, int]
"""Topic and partition."""


class Record(Value, frozen=True):
    """A record as it lies in its topic."""

    topic: str
    partition: int
    offset: int
    key: bytes
    value: bytes

    @property
    def place(self) -> str:
        """Where, for a message."""
        return f"{self.topic}-{self.partition}, offset {self.offset}"

    def decoded(self, decode: Callable[[bytes], _T]) -> _T:
        """The value. Raises ShardCorrupt, and KafkaUnavailable where the registry is needed and does not answer."""
        try:
            return decode(self.value)
        except (ShardCorrupt, msgspec.ValidationError) as error:
            raise ShardCorrupt(f"{self.place}: {error}") from None


class ReceivedEvent(Value, frozen=True):
    """An event, and when this program had it (microseconds since the epoch)."""

    event: Event
    received_at: int


class Log:
    """The topics of every feed below a prefix, or of one feed. `partitions` has how many each topic has."""

    def __init__(
        self, clients: Clients, topics: Topics, feed: str | None = None
    ) -> None:
        """Raises KafkaUnavailable: no answer, or no such topic."""
        self._clients = clients
        self._consumer = new_client(ck.Consumer, clients.reader("read_committed"))
        try:
            found = self._consumer.list_topics(timeout=_TIMEOUT_SECONDS).topics
        except ck.KafkaException as exception:
            self._consumer.poll(0)  # hands out why, such as a wrong password
            raise translate(
                kafka_error(exception), "listing topics", clients.last_error
            ) from None
        self.partitions = {name: len(topic.partitions) for name, topic in found.items()}
        names = (
            name.removeprefix(f"{topics.prefix}.")
            for name in sorted(found)
            if topics.is_changes(name)
        )
        self.feeds = [
            name.removesuffix(".changes")
            for name in names
            if feed in {None, name.removesuffix(".changes")}
        ]
        if not self.feeds:
            name = topics.changes(feed or "*")
            raise KafkaUnavailable(
                f"no topic is called {name}: has a connector run with this prefix, may we read it?"
            )

    def planned_checks(self, *topics: str) -> list[Place]:
        """Every partition of these topics. Raises KafkaUnavailable where a topic is not there."""
        if absent := [topic for topic in topics if not self.partitions.get(topic)]:
            raise KafkaUnavailable(
                f"no topic is called {absent[0]}: was it deleted, may we read it?"
            )
        return [
            (topic, partition)
            for topic in topics
            for partition in range(self.partitions[topic])
        ]

    def offsets(self, places: Iterable[Place], moment: int) -> dict[Place, int]:
        """The first with a timestamp from a moment (milliseconds) on, below 0 where there is none; or BEGINNING, END.

        Records that are not committed yet count, too. Raises KafkaUnavailable.
        """
        spec = OffsetSpec.for_timestamp(
            moment
        )  # the protocol has BEGINNING and END as the moments -2 and -1
        wanted = {ck.TopicPartition(*place): spec for place in places}
        try:
            asked = self._admin.list_offsets(wanted, request_timeout=_TIMEOUT_SECONDS)
            found = {
                at: waited(future, "asking for offsets") for at, future in asked.items()
            }
            return {
                (at.topic, at.partition): result.offset for at, result in found.items()
            }
        except ck.KafkaException as exception:
            raise translate(
                kafka_error(exception), "asking for offsets", self._clients.last_error
            ) from None

    def read(
        self, starts: Mapping[Place, int], ends: Mapping[Place, int]
    ) -> Iterator[Record]:
        """The committed records from each start to its end. Transactions that are open in between are waited for.

        Raises:
            KafkaUnavailable: also where nothing came for 90 s.
        """
        left = {place for place, start in starts.items() if start < ends[place]}
        self._assign({place: starts[place] for place in left})
        progress_at = time.monotonic()
        while left:
            for message in self._messages():
                progress_at = time.monotonic()
                place = str(message.topic()), int(message.partition() or 0)
                if int(message.offset() or 0) >= ends[place]:
                    left.discard(place)
                elif message.error() is None:
                    yield _record(message)
            if time.monotonic() - progress_at > _STALLED_SECONDS:
                topic, partition = min(left)
                raise KafkaUnavailable(
                    f"reading {topic}-{partition}: nothing came for {_STALLED_SECONDS} s"
                )

    def follow(
        self, starts: Mapping[Place, int], stopped: Callable[[], bool]
    ) -> Iterator[Record | None]:
        """Everything from there on until `stopped()`; None where nothing came for 0.2 s. Raises KafkaUnavailable."""
        self._assign(starts)
        while not stopped():
            messages = [
                message for message in self._messages() if message.error() is None
            ]
            yield from map(_record, messages) if messages else (None,)

    @cached_property
    def _admin(self) -> AdminClient:
        """Not for whoever only follows, for days: nobody would poll it."""
        return new_client(AdminClient, self._clients.admin())

    def close(self) -> None:
        """Let go of the consumer."""
        self._consumer.close()

    def _assign(self, starts: Mapping[Place, int]) -> None:
        self._consumer.assign(
            [ck.TopicPartition(*place, offset) for place, offset in starts.items()]
        )

    def _messages(self) -> list[ck.Message]:
        """What is there, and the ends of partitions; waits for the first."""
        first = self._consumer.poll(
            _TURN_SECONDS
        )  # `consume` would wait for as many as it was asked for
        found = (
            []
            if first is None
            else [first, *self._consumer.consume(_AT_ONCE, timeout=0)]
        )
        for message in found:
            error = message.error()
            if error is not None and error.code() != ck.KafkaError._PARTITION_EOF:  # noqa: SLF001 -- librdkafka's own
                raise translate(
                    error, f"reading {message.topic()}", self._clients.last_error
                )
        return found


def _record(message: ck.Message) -> Record:
    key, value = bytes(message.key() or b""), bytes(message.value() or b"")
    return Record(
        str(message.topic()),
        int(message.partition() or 0),
        int(message.offset() or 0),
        key,
        value,
    )


class Events:
    """The events of every feed, or of one. Iterate to receive; None comes where nothing did for 0.2 s."""

    def __init__(
        self,
        clients: Clients,
        topics: Topics,
        codec: Codec,
        *,
        from_beginning: bool,
        feed: str | None = None,
    ) -> None:
        """Raises KafkaUnavailable: no answer, or no such topic."""
        self._codec = codec
        self._log = Log(clients, topics, feed)
        self.topics = [topics.changes(name) for name in self._log.feeds]
        self._starts = dict.fromkeys(
            self._log.planned_checks(*self.topics), BEGINNING if from_beginning else END
        )

    def until(self, stopped: Callable[[], bool]) -> Iterator[ReceivedEvent | None]:
        """Every event until `stopped()`, in order per symbol. Raises KafkaUnavailable, ShardCorrupt."""
        for record in self._log.follow(self._starts, stopped):
            event = None if record is None else record.decoded(self._codec.decode_event)
            yield (
                None if event is None else ReceivedEvent(event, time.time_ns() // 1000)
            )

    def close(self) -> None:
        """Let go of the consumer."""
        self._log.close()
