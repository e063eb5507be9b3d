"""The last published events, and their stream to readers as server-sent events."""

from __future__ import annotations

import asyncio
import functools
import time
from collections import deque
from typing import TYPE_CHECKING, Final

import msgspec
from aiohttp import hdrs, web

from connector.web.server import problem

if TYPE_CHECKING:
    from connector.core.model import Event

# Events that a new reader gets first. The status page shows as many.
EVENTS_KEPT: Final = 100

# Readers at a time. Each one costs a connection and a wake-up for every event.
MAX_STREAMS: Final = 20

# Readers must reconnect at least this often, so that a forgotten one does not stay.
STREAM_SECONDS: Final = 3600.0

# A reader that accepts no data for this long is disconnected.
WRITE_SECONDS: Final = 10.0

# Only a write shows that a reader is gone, so an idle stream gets an empty comment.
_HEARTBEAT_SECONDS: Final = 15.0
_NOTHING: Final = b":\n\n"


class KeptEvent:
    """A published event, and its text in the stream."""

    def __init__(self, event: Event) -> None:
        self.event_id = event.event_id
        self._event = event

    @functools.cached_property
    def text(self) -> bytes:
        """The event as in the Avro schema. It is encoded once, for all readers."""
        data = msgspec.json.encode(self._event)
        return b"id: %s\ndata: %s\n\n" % (self.event_id.encode(), data)


class EventFeed:
    """The last events of this worker.

    A position in the feed is the number of events published before it.
    """

    def __init__(self) -> None:
        self.changed = asyncio.Event()
        """Set, and replaced by a new one, when an event is added."""

        self.position = 0
        self._events: deque[KeptEvent] = deque(maxlen=EVENTS_KEPT)

    def add(self, event: Event) -> None:
        """Add a committed event."""
        self._events.append(KeptEvent(event))
        self.position += 1
        # Readers that wait hold the old event; those that come later get the new one.
        changed, self.changed = self.changed, asyncio.Event()
        changed.set()

    def since(self, position: int) -> list[KeptEvent]:
        """Return the events after `position` that are still kept."""
        new = self.position - position
        skipped = max(len(self._events) - new, 0)
        return list(self._events)[skipped:]

    def resume_position(self, last_event_id: str | None) -> int:
        """Return the position after this event, or before all kept ones if it is not kept."""
        before_kept = self.position - len(self._events)
        for index, event in enumerate(self._events, 1):
            if event.event_id == last_event_id:
                return before_kept + index
        return before_kept


class EventStreams:
    """Streams the feed to a limited number of readers, until `close`."""

    def __init__(self, feed: EventFeed, write_seconds: float = WRITE_SECONDS) -> None:
        self._feed = feed
        self._write_seconds = write_seconds
        self._closed = asyncio.Event()
        self.open = 0
        """Readers that are connected."""

    def close(self) -> None:
        """End every stream, so that the worker can stop at once."""
        self._closed.set()

    async def serve(self, request: web.Request) -> web.StreamResponse:
        """Answer with a stream that starts after the `Last-Event-ID` header's event."""
        if self.open >= MAX_STREAMS:
            return problem(
                503,
                f"too many event streams (limit {MAX_STREAMS})",
                {"Retry-After": "10"},
            )
        response = web.StreamResponse(headers={hdrs.CONTENT_TYPE: "text/event-stream"})
        self.open += 1
        try:
            async with asyncio.timeout(self._write_seconds):
                await response.prepare(request)
            # After `prepare`, during which further events may be published: the oldest
            # kept event would otherwise count as missed.
            last_event_id = request.headers.get("Last-Event-ID")
            position = self._feed.resume_position(last_event_id)
            await self._write_events(response, position)
        except TimeoutError:
            # A graceful close would wait for the reader to take the data first.
            if request.transport is not None:
                request.transport.abort()
        finally:
            self.open -= 1
        return response

    async def _write_events(self, response: web.StreamResponse, position: int) -> None:
        """Write events as they come.

        Returns after `STREAM_SECONDS`, at `close`, or when the reader has fallen behind
        the events that are kept: it must reconnect. Raises TimeoutError if it accepts
        no data.
        """
        feed = self._feed
        ends_at = time.monotonic() + STREAM_SECONDS
        while not self._closed.is_set() and time.monotonic() < ends_at:
            # Take these together before any await, so that no event comes in between.
            changed = feed.changed
            events = feed.since(position)
            end = feed.position
            missed_some = len(events) < end - position
            # At position 0 nothing was sent: a new connection would get the same events.
            if position and missed_some:
                return
            position = end

            # One by one: a hundred large events may take a slow reader a while.
            for event in events:
                if self._closed.is_set():
                    return
                await self._write(response, event.text)
            if not events:
                await self._write(response, _NOTHING)
            await _wait_for_any(changed, self._closed)

    async def _write(self, response: web.StreamResponse, text: bytes) -> None:
        async with asyncio.timeout(self._write_seconds):
            await response.write(text)


async def _wait_for_any(*events: asyncio.Event) -> None:
    """Wait until one of the events is set, or until the next heartbeat is due."""
    waiting = [asyncio.create_task(event.wait()) for event in events]
    try:
        await asyncio.wait(
            waiting,
            timeout=_HEARTBEAT_SECONDS,
            return_when=asyncio.FIRST_COMPLETED,
        )
    finally:
        for task in waiting:
            task.cancel()
