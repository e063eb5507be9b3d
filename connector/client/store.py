"""The shared state of a client: one thread writes it, any thread reads it."""

from __future__ import annotations

import threading
import time
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from connector.client.errors import (
    ClientError,
    ClientStopped,
    EventsMissing,
    UnknownSymbol,
)
from connector.client.staleness import StalenessClock
from connector.client.views import SymbolView, Views
from connector.core.model import Status

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from connector.client.kafka import Partition
    from connector.client.restore import Restored

# Silence begins without an event that could wake a waiting thread.
_TICK_SECONDS: Final = 0.2
_MAX_NAMED_SYMBOLS: Final = 10
# An event and its state are read one after the other, often by different fetches.
_USUAL_WAIT_SECONDS: Final = 2.0


@dataclass(frozen=True, slots=True)
class Start:
    """The views at one moment, and the offsets from which all later events follow."""

    views: Mapping[str, SymbolView]
    positions: Mapping[Partition, int]
    generation: int


@dataclass(slots=True)
class Clocks:
    """The sources of time, which tests replace. Both return seconds."""

    monotonic: Callable[[], float] = time.monotonic
    wall: Callable[[], float] = time.time


@dataclass(slots=True)
class _Content:
    """Everything that a restore replaces."""

    views: Views
    staleness: StalenessClock
    positions: dict[Partition, int] = field(default_factory=dict)
    # The last positions at which no event was held back.
    safe_positions: dict[Partition, int] = field(default_factory=dict)
    generation: int = 0


class Store:
    """The views, positions and troubles of a client. Safe for concurrent use."""

    def __init__(self, clocks: Clocks) -> None:
        self.clocks = clocks
        self.changed = threading.Condition()
        # What the reading thread knows to be wrong: Kafka is away, nobody publishes.
        self.trouble: str | None = None
        self._error: ClientError | None = None
        self._is_closed = False
        views, staleness = Views([], clocks.wall), self._staleness()
        self._content = _Content(views, staleness)

    def _staleness(self) -> StalenessClock:
        return StalenessClock(self.clocks.monotonic, self.clocks.wall)

    def restore(self, restored: Restored) -> dict[str, SymbolView]:
        """Replace everything by restored states. Return the views before."""
        staleness = self._staleness()
        for state in restored.states.values():
            staleness.note(state)
        views = Views(restored.states.values(), self.clocks.wall)
        with self.changed:
            before = dict(self._content.views.all)
            self._content = _Content(
                views,
                staleness,
                dict(restored.starts),
                dict(restored.starts),
                self._content.generation + 1,
            )
            self.changed.notify_all()
        return before

    @contextmanager
    def writing(self) -> Iterator[_Content]:
        """Change the content, and wake those who wait for a change."""
        with self.changed:
            yield self._content
            self.changed.notify_all()

    def fail(self, error: ClientError) -> None:
        """Stop for an error, which every later use raises."""
        with self.changed:
            self._error = error
            self.changed.notify_all()

    def close(self) -> None:
        """Stop because the program wants it."""
        with self.changed:
            self._is_closed = True
            self.changed.notify_all()

    @property
    def is_stopped(self) -> bool:
        """Return True after `fail` or `close`."""
        return self._is_closed or self._error is not None

    @property
    def is_closed(self) -> bool:
        """Return True after `close`."""
        return self._is_closed

    def check(self) -> None:
        """Raise the error that has stopped the client, or ClientStopped."""
        if self._error is not None:
            # A copy of the traceback would grow with each use.
            raise self._error.with_traceback(None)
        if self._is_closed:
            raise ClientStopped("the client is closed")
        if self._content.generation == 0:
            raise ClientStopped(
                "the client is not started: use `with LiveLevels(...) as levels`, or "
                "call start()"
            )

    def views(self) -> dict[str, SymbolView]:
        """Return all views of one moment. Raises ClientError."""
        with self.changed:
            self.check()
            return dict(self._content.views.all)

    def view(self, symbol: str) -> SymbolView:
        """Return a view. Raises ClientError, UnknownSymbol."""
        with self.changed:
            self.check()
            found = self._content.views.all.get(symbol)
            if found is None:
                raise self._unknown(symbol)
            return found

    def start(self) -> Start:
        """Return what a stream of events starts from. Raises ClientError."""
        with self.changed:
            self.check()
            content = self._content
            return Start(
                dict(content.views.all),
                dict(content.safe_positions),
                content.generation,
            )

    def check_generation(self, generation: int) -> None:
        """Raise if the states were restored again since, and so events are missing."""
        self.check()
        if self._content.generation != generation:
            raise EventsMissing(
                "the client has restored the states again, so events may be missing: act "
                "on the present views, then ask for events() again"
            )

    def partitions(self, topic: str) -> list[Partition]:
        """Return the partitions of a topic that are read."""
        with self.changed:
            return [place for place in self._content.positions if place[0] == topic]

    def wait_for_sequence(self, symbol: str, sequence: int, generation: int) -> None:
        """Wait until a view has reached a sequence. Raises ClientError."""
        with self.changed:
            while self._content.views.keeper.known.get(symbol, 0) < sequence:
                self.check_generation(generation)
                self.changed.wait(_TICK_SECONDS)

    @property
    def silent_for(self) -> float | None:
        """Return the seconds since the last record of the feed, None if there is none."""
        with self.changed:
            self.check()
            return self._content.staleness.silent_for

    def feed_overdue(self) -> str | None:
        """Return why the feed is silent for too long, None if it is not."""
        with self.changed:
            return self._content.staleness.feed_overdue()

    def last_group(self) -> str | None:
        """Return the consumer group of the last record's writer."""
        with self.changed:
            return self._content.staleness.last_group

    def why_not_fresh(self, symbol: str) -> str | None:
        """Return why a symbol's levels are not fresh, None if they are.

        Raises ClientError, UnknownSymbol.
        """
        with self.changed:
            self.check()
            content = self._content
            view = content.views.all.get(symbol)
            if view is None:
                raise self._unknown(symbol)
            if view.status is not Status.LIVE:
                reason = "" if view.reason is None else f" ({view.reason})"
                return f"the status is {view.status}{reason}"
            if self.trouble is not None:
                return self.trouble
            since = content.views.keeper.waits_since(symbol)
            now = self.clocks.monotonic()
            if since is not None and now - since > _USUAL_WAIT_SECONDS:
                return f"event {view.sequence + 1} has not come, but a later record has"
            return content.staleness.overdue(symbol)

    def wait_until_fresh(self, symbol: str, timeout_seconds: float) -> str | None:
        """Wait until a symbol is fresh. Return the reason if it is not in time."""
        deadline = self.clocks.monotonic() + timeout_seconds
        with self.changed:
            while True:
                try:
                    reason = self.why_not_fresh(symbol)
                except UnknownSymbol as error:
                    # Its first event may be on the way.
                    reason = str(error)
                left = deadline - self.clocks.monotonic()
                if reason is None or left <= 0:
                    return reason
                self.changed.wait(min(left, _TICK_SECONDS))

    def _unknown(self, symbol: str) -> UnknownSymbol:
        known = sorted(self._content.views.all)
        shown = ", ".join(known[:_MAX_NAMED_SYMBOLS]) or "no symbol yet"
        more = len(known) - _MAX_NAMED_SYMBOLS
        if more > 0:
            shown += f" and {more} more"
        return UnknownSymbol(
            f"the feed has no symbol {symbol!r}; it has {shown}: check the spelling, and "
            "that the connector is configured for it"
        )
