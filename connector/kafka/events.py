"""Reads the events of every feed, as a consumer would: read_committed and decoded."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Final

import confluent_kafka as ck

from connector.core.model import Event, Value
from connector.errors import KafkaUnavailable
from connector.kafka.faults import explained, made, of

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from connector.kafka.avro import Codec
    from connector.kafka.settings import Clients, Topics

_TIMEOUT_SECONDS: Final = 10
_TURN_SECONDS: Final = 0.2
_AT_ONCE: Final = 1000


class Received(Value, frozen=True):
    """An event, and when this program had it (microseconds since the epoch)."""

    event: Event
    received_at: int


class Events:
    """The `changes` topics below a prefix. Iterate to receive; None comes where nothing did for 0.2 s."""

    def __init__(self, clients: Clients, topics: Topics, codec: Codec, *, from_beginning: bool) -> None:
        """Raises KafkaUnavailable: no answer, or no such topic."""
        self._codec = codec
        self._consumer = made(ck.Consumer, {**clients.reader("read_committed"), "enable.partition.eof": False})
        try:
            found = self._consumer.list_topics(timeout=_TIMEOUT_SECONDS).topics
        except ck.KafkaException as exception:
            self._consumer.poll(0)  # hands out why, such as a wrong password
            raise explained(of(exception), "listing topics", clients.last_error) from None
        self.topics = sorted(name for name in found if topics.is_changes(name))
        if not self.topics:
            raise KafkaUnavailable(f"no topic is called {topics.changes('*')}: has a connector run with this prefix?")
        start = ck.OFFSET_BEGINNING if from_beginning else ck.OFFSET_END
        self._consumer.assign(
            [ck.TopicPartition(name, p, start) for name in self.topics for p in found[name].partitions]
        )

    def until(self, stopped: Callable[[], bool]) -> Iterator[Received | None]:
        """Every event until `stopped()`, in order per symbol. Raises KafkaUnavailable, ShardCorrupt."""
        while not stopped():
            first = self._consumer.poll(_TURN_SECONDS)  # `consume` would wait for as many as it was asked for
            if first is None:
                yield None
                continue
            for message in (first, *self._consumer.consume(_AT_ONCE, timeout=0)):
                if (error := message.error()) is not None:
                    raise explained(error, f"reading {message.topic()}")
                event = self._codec.decode_event(bytes(message.value() or b""))
                yield Received(event, time.time_ns() // 1000)

    def close(self) -> None:
        """Let go of the consumer."""
        self._consumer.close()
