"""Calls what has to be done once a second."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from concurrent.futures import Executor, Future

    from connector.runtime.health import Health

_LOOP: Final = "ticker"
# Generous: the calls are short, and a loaded machine must not get the worker killed.
_LOOP_LIMIT_SECONDS: Final = 30
_INTERVAL_SECONDS: Final = 1.0


class Ticker:
    """Looks for stale levels and a changed API key, and serves the clients' callbacks."""

    def __init__(self, calls: Sequence[Callable[[], None]], health: Health) -> None:
        self._calls = calls
        self._health = health

    async def run(self) -> None:
        """Make the calls until cancelled."""
        self._health.register(_LOOP, _LOOP_LIMIT_SECONDS)
        while True:
            await asyncio.sleep(_INTERVAL_SECONDS)
            self._health.progress(_LOOP)
            for call in self._calls:
                call()


class InBackground:
    """Makes a call in a thread, unless the previous call has not returned yet.

    While brokers hang, polling a client waits for the request that another thread has made
    with it. The event loop must not wait as well.
    """

    def __init__(self, call: Callable[[], object], executor: Executor) -> None:
        self._call = call
        self._executor = executor
        self._running: Future[object] | None = None

    def __call__(self) -> None:
        """Make the call, if the previous one has returned."""
        if self._running is None or self._running.done():
            self._running = self._executor.submit(self._call)
