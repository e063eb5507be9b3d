"""Requests to publish a symbol's levels again."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from connector.core.model import Event

MOVED_AWAY: Final = (
    "the shard moved to another worker; "
    "see the topic `changes` for whether the snapshot was published before"
)


class SnapshotRequests:
    """The requests that have not been answered yet, at most one per symbol.

    Each is answered exactly once: with the committed event, or with the reason why there is
    none.
    """

    def __init__(self) -> None:
        self._futures: dict[str, asyncio.Future[Event | str]] = {}

    def __bool__(self) -> bool:
        return bool(self._futures)

    @property
    def symbols(self) -> list[str]:
        """The symbols that a snapshot is requested of."""
        return list(self._futures)

    def request(self, symbol: str) -> asyncio.Future[Event | str]:
        """Add a request, or return the future of one that has not been answered yet."""
        if symbol not in self._futures:
            self._futures[symbol] = asyncio.get_running_loop().create_future()
        return self._futures[symbol]

    def fulfil(self, event: Event) -> None:
        """Answer the request for the event's symbol with the committed event."""
        self._finish(event.symbol, event)

    def reject(self, symbol: str, reason: str) -> None:
        """Answer a request with the reason why there is no event."""
        self._finish(symbol, reason)

    def reject_all(self, reason: str) -> None:
        """Answer every request with the reason why there is no event."""
        for symbol in self.symbols:
            self._finish(symbol, reason)

    def _finish(self, symbol: str, answer: Event | str) -> None:
        future = self._futures.pop(symbol, None)
        # The caller that made the request may have been cancelled meanwhile.
        if future is not None and not future.done():
            future.set_result(answer)
