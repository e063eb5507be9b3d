"""`watch` needs `changes` only: it goes on without the states, and says what it cannot tell."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import confluent_kafka as ck
import confluent_kafka.admin as admin_api
import pytest

from connector.kafka import events as events_module
from connector.kafka.event_stream import Events
from connector.tools.known_symbols import warn_of_unknown_symbols
from connector.tools.silence import SilenceNotice
from tests.support.processes import PATIENCE_SECONDS, wait_until
from tests.support.written_feed import SYMBOL, WrittenFeed, an_event

if TYPE_CHECKING:
    from collections.abc import Iterator

    from connector.devkit.local_kafka import LocalKafka
    from tests.conftest import Names


@pytest.fixture
def feed(kafka: LocalKafka, names: Names) -> Iterator[WrittenFeed]:
    """Return a feed with one event, and the state after it."""
    with WrittenFeed(kafka, names) as written:
        written.publish(an_event(1))
        yield written


def delete(kafka: LocalKafka, topic: str) -> None:
    """Delete a topic, and wait until no client sees it."""
    admin = admin_api.AdminClient({"bootstrap.servers": kafka.bootstrap_servers})
    admin.delete_topics([topic])[topic].result(PATIENCE_SECONDS)

    def is_gone() -> bool:
        return topic not in admin.list_topics(timeout=PATIENCE_SECONDS).topics

    wait_until(is_gone, "the topic is gone")


def write_event(feed: WrittenFeed, sequence: int) -> None:
    """Write an event alone: the feed's own writer would need `current`."""
    event = an_event(sequence)
    producer = ck.Producer({"bootstrap.servers": feed.bootstrap})
    producer.produce(
        feed.changes, feed.codec.encode_event(feed.changes, event), SYMBOL.encode()
    )
    assert producer.flush(PATIENCE_SECONDS) == 0


def wait_for_sequence(stream: Iterator[Any], sequence: int) -> None:
    """Read until an event has the sequence."""

    def has_come() -> bool:
        received = next(stream)
        return received is not None and received.event.sequence == sequence

    wait_until(has_come, f"the event of sequence {sequence}")


def test_events_are_read_although_current_is_missing(
    kafka: LocalKafka, feed: WrittenFeed, capsys: pytest.CaptureFixture[str]
) -> None:
    delete(kafka, feed.current)
    states = SilenceNotice()
    events = Events(
        feed.clients, feed.topics, feed.codec, from_beginning=True, states=states
    )
    stream = events.until(lambda: False)
    wait_for_sequence(stream, 1)
    write_event(feed, 2)
    wait_for_sequence(stream, 2)
    events.close()

    printed = capsys.readouterr().err
    assert printed.startswith(
        "feed all: cannot tell if a connector is running: cannot find topic "
        f"{feed.current}: "
    )
    assert printed.count("\n") == 1


def test_following_makes_no_client_that_nothing_polls(
    feed: WrittenFeed, monkeypatch: pytest.MonkeyPatch
) -> None:
    made: list[str] = []
    new_client = events_module.new_client

    def recorded(kind: Any, settings: Any) -> Any:
        made.append(kind.__name__)
        return new_client(kind, settings)

    monkeypatch.setattr(events_module, "new_client", recorded)
    states = SilenceNotice()
    events = Events(
        feed.clients, feed.topics, feed.codec, from_beginning=True, states=states
    )
    warn_of_unknown_symbols(events.log, feed.topics, [SYMBOL])
    wait_for_sequence(events.until(lambda: False), 1)
    events.close()
    assert made == ["Consumer"]
