"""What the client reads: a restore and a stream, from messages that a test makes."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, cast

import confluent_kafka as ck
import pytest

from connector.client.errors import EventsMissing, KafkaUnreachable, RegistryError
from connector.client.events import EventStream
from connector.client.kafka import Feed
from connector.client.live import LiveLevels
from connector.client.positions import positions_of
from connector.client.restore import Restored, restore
from connector.client.store import Clocks, Store
from connector.client.values import ValueDecoder
from connector.kafka.avro import Codec, SingleObject
from tests.support.written_feed import SYMBOL, an_event, state_of

if TYPE_CHECKING:
    from collections.abc import Mapping

    from connector.client.kafka import Partition
    from connector.core.model import Event, State

CHANGES, CURRENT = "changes", "current"
END = 5_000
CODEC = Codec(SingleObject())


class SlowToAnswer:
    """A consumer whose first request of each kind has no answer in time."""

    def __init__(self) -> None:
        self._was_asked: set[str] = set()

    def list_topics(self, topic: str, timeout: float) -> object:
        self._time_out_once("list_topics")
        return SimpleNamespace(topics={topic: SimpleNamespace(partitions={0: None})})

    def get_watermark_offsets(
        self, partition: object, timeout: float, *, cached: bool
    ) -> tuple[int, int]:
        self._time_out_once("get_watermark_offsets")
        return 0, END

    def _time_out_once(self, request: str) -> None:
        if request not in self._was_asked:
            self._was_asked.add(request)
            raise ck.KafkaException(ck.KafkaError(ck.KafkaError._TIMED_OUT))


def ends(timeout_seconds: float) -> dict[Partition, int]:
    feed = Feed("localhost:9092", "levels", "all", {})
    consumer = cast("ck.Consumer", SlowToAnswer())
    return feed.ends(consumer, CHANGES, timeout_seconds)


def test_ends_are_asked_for_again_if_no_answer_comes() -> None:
    assert ends(timeout_seconds=600) == {(CHANGES, 0): END}
    with pytest.raises(KafkaUnreachable, match="asking for the ends of changes"):
        ends(timeout_seconds=0)


class Message:
    """A record of a connector."""

    def __init__(self, topic: str, partition: int, offset: int, value: bytes) -> None:
        self._place = topic, partition, offset
        self._value = value

    def error(self) -> None:
        return None

    def topic(self) -> str:
        return self._place[0]

    def partition(self) -> int:
        return self._place[1]

    def offset(self) -> int:
        return self._place[2]

    def key(self) -> bytes:
        return SYMBOL.encode()

    def headers(self) -> list[tuple[str, bytes]]:
        return []

    def value(self) -> bytes:
        return self._value


class Batches:
    """A feed and its consumer, which give out a batch of messages at each call."""

    changes, current = CHANGES, CURRENT

    def __init__(self, *batches: list[Message], ends: Mapping[str, int]) -> None:
        self.batches = list(batches)
        self._ends = ends

    def consumer(self, isolation: str = "") -> Batches:
        return self

    def ends(
        self, consumer: object, topic: str, timeout_seconds: float = 0
    ) -> dict[Partition, int]:
        return {(topic, number): self._ends[topic] for number in range(2)}

    def take(self, consumer: object, wait_seconds: float) -> list[Message]:
        return self.batches.pop(0) if self.batches else []

    def is_ours(self, message: Message) -> bool:
        return True

    def assign(self, partitions: object) -> None: ...

    def incremental_assign(self, partitions: object) -> None: ...

    def close(self) -> None: ...


def event_message(offset: int, event: Event) -> Message:
    return Message(CHANGES, 0, offset, CODEC.encode_event(CHANGES, event))


def state_message(partition: int, offset: int, state: State) -> Message:
    return Message(CURRENT, partition, offset, CODEC.encode_state(CURRENT, state))


def test_a_restore_keeps_the_last_sequence_whatever_partition_comes_last() -> None:
    states = [
        state_message(0, 5, state_of(an_event(7))),
        # A copy of an old state.
        state_message(1, 5, state_of(an_event(3))),
    ]
    feed = Batches(states, ends={CHANGES: 0, CURRENT: 5})
    restored = restore(
        cast("Feed", feed),
        cast("ck.Consumer", feed),
        ValueDecoder(None),
        lambda: False,
        start_seconds=0,
        patience_seconds=60,
    )
    assert restored.states[SYMBOL].sequence == 7


def test_a_partition_that_is_held_back_is_noticed_while_others_go_on() -> None:
    other = [state_message(1, 5, state_of(an_event(1)))]
    batches = [other] * 1_000
    feed = Batches(*batches, ends={CHANGES: 0, CURRENT: 5})
    with pytest.raises(KafkaUnreachable, match="reading current-0: nothing came"):
        restore(
            cast("Feed", feed),
            cast("ck.Consumer", feed),
            ValueDecoder(None),
            lambda: not feed.batches,
            start_seconds=0,
            patience_seconds=0,
        )


class EventIds:
    """A feed and its consumer, with an event at each of some offsets."""

    changes = CHANGES

    def __init__(self, ids: Mapping[Partition, str]) -> None:
        self._ids = ids
        self._assigned: list[ck.TopicPartition] = []

    def low(self, consumer: object, partition: Partition) -> int:
        return 0

    def assign(self, partitions: list[ck.TopicPartition]) -> None:
        self._assigned = partitions

    def take(self, consumer: object, wait_seconds: float) -> list[Message]:
        messages: list[Message] = []
        for place in self._assigned:
            for (name, offset), event_id in self._ids.items():
                if name == str(place.partition) and offset >= place.offset:
                    messages.append(EventId(place.partition, offset, event_id))
            messages.append(EventId(place.partition, END, ""))
        return messages


class EventId(Message):
    """A message with the header of an event."""

    def __init__(self, partition: int, offset: int, event_id: str) -> None:
        super().__init__(CHANGES, partition, offset, b"")
        self._event_id = event_id

    def headers(self) -> list[tuple[str, bytes]]:
        return [("ce_id", self._event_id.encode())]


def test_stored_sequences_are_found_in_all_partitions() -> None:
    # The symbol has moved to the partition 1, which has grown fast since.
    ids = {("0", END - 1): f"all/{SYMBOL}/1", ("1", 5): f"all/{SYMBOL}/2"}
    feed = EventIds(ids)
    ends = {(CHANGES, 0): END, (CHANGES, 1): END}

    def starts(wanted: range) -> dict[Partition, int]:
        return positions_of(
            {SYMBOL: wanted},
            cast("Feed", feed),
            cast("ck.Consumer", feed),
            ends,
            lambda: False,
        )

    assert starts(range(1, 2))[CHANGES, 1] > 5
    assert starts(range(1, 3))[CHANGES, 1] <= 5
    # The third is behind the ends.
    assert starts(range(1, 4)) == {(CHANGES, 0): 0, (CHANGES, 1): 0}
    with pytest.raises(EventsMissing, match=f"{SYMBOL} 3"):
        starts(range(3, 4))


class HeldBack(EventIds):
    """A feed whose partition 0 is held back, while records go on in the partition 1."""

    def take(self, consumer: object, wait_seconds: float) -> list[Message]:
        messages = super().take(consumer, wait_seconds)
        return [message for message in messages if message.partition() == 1]


def test_a_search_notices_a_partition_that_is_held_back(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("connector.client.positions._STALLED_SECONDS", 0)
    feed = HeldBack({})
    calls = iter(range(1_000))
    with pytest.raises(KafkaUnreachable, match="in changes-0: nothing came"):
        positions_of(
            {SYMBOL: range(1, 2)},
            cast("Feed", feed),
            cast("ck.Consumer", feed),
            {(CHANGES, 0): END, (CHANGES, 1): END},
            lambda: next(calls, None) is None,
        )


class Restarting(ValueDecoder):
    """A decoder whose registry does not answer at the first look-up."""

    has_failed = False

    def event(self, value: bytes) -> Event:
        if not self.has_failed:
            self.has_failed = True
            raise RegistryError("no answer")
        return super().event(value)


def test_a_stream_loses_nothing_by_an_error_of_the_registry() -> None:
    time: Any = lambda: 0.0  # noqa: E731 -- a clock that stands still
    store = Store(Clocks(time, time))
    store.restore(Restored({}, {(CHANGES, 0): 0}))
    events = [an_event(number) for number in (1, 2, 3)]
    messages = [event_message(event.sequence, event) for event in events]
    stream = EventStream(
        cast("Feed", Batches(messages, ends={})),
        Restarting(None),
        store,
        after={},
        patience_seconds=90,
    )
    with store.writing() as content:
        for event in events:
            content.views.take_event(event, 0)
    with pytest.raises(RegistryError):
        stream.next_event(0)
    assert [stream.next_event(0) for _ in events] == events


def test_an_asynchronous_stream_ends_when_the_client_is_closed() -> None:
    levels = LiveLevels("127.0.0.1:9092")
    levels._store.restore(Restored({}, {(CHANGES, 0): 0}))

    class Closing(Batches):
        """A feed during whose first read the program closes the client."""

        def take(self, consumer: object, wait_seconds: float) -> list[Message]:
            levels.close()
            return []

    levels._feed = cast("Feed", Closing(ends={}))

    async def take_all() -> list[Event]:
        return [event async for event in levels.events_async()]

    assert asyncio.run(take_all()) == []
