"""Streams of events: what is encoded, and when a stream ends."""

from __future__ import annotations

from typing import Any

import pytest
from aiohttp.test_utils import make_mocked_request
from aiohttp.web import StreamResponse

from connector.web.events import EventFeed, EventStreams
from tests.support.simulated_day import simulated_day


@pytest.fixture
def feed() -> EventFeed:
    found = EventFeed()
    for event in simulated_day(seconds=120):
        found.add(event)
    return found


async def test_a_stream_that_is_closed_writes_no_further_event(
    feed: EventFeed, monkeypatch: pytest.MonkeyPatch
) -> None:
    streams = EventStreams(feed)
    written = []

    async def prepare(*_: Any) -> None:
        pass

    async def write(_: StreamResponse, text: bytes) -> None:
        written.append(text)
        streams.close()

    monkeypatch.setattr(StreamResponse, "prepare", prepare)
    monkeypatch.setattr(StreamResponse, "write", write)

    await streams.serve(make_mocked_request("GET", "/api/events"))

    kept = feed.since(0)
    assert len(kept) > 1
    assert written == [kept[0].text]
    # The others have not been encoded for nothing.
    assert not [event for event in kept[1:] if "text" in vars(event)]


def test_an_event_is_encoded_once_for_all_readers(feed: EventFeed) -> None:
    one, other = feed.since(0)[0], feed.since(0)[0]

    assert one.text is other.text
