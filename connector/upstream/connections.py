"""Connections to the upstream that are kept open, for a limited time.

A name can move to another address while the old server still answers: with errors, or
with levels that no longer change. A kept connection would never notice.
"""

from __future__ import annotations

from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Final

import aiohttp
from httpx_aiohttp import AiohttpTransport

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

    import httpx

# The budget limits requests, so the pool need not: this only bounds sockets.
_MAX_CONNECTIONS: Final = 64

# Longer than `schedule.max_interval_seconds` (60 s unless set): connections are reused.
_KEEP_ALIVE_SECONDS: Final = 120

# A new connection costs one handshake, and looks the name up again.
MAX_AGE_SECONDS: Final = 300.0
MAX_FAILURES_IN_A_ROW: Final = 3


class _Pool:
    """A transport with its connections, and the number of requests that use it."""

    def __init__(self, opened_at: float) -> None:
        self.transport = AiohttpTransport(client=_session)
        self.opened_at = opened_at
        self.in_use = 0


class Connections:
    """Replaces all connections when they are old, or after failures in a row.

    Requests in progress finish on the connections they began with.
    """

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._pool = _Pool(clock())
        self._failures = 0

    @asynccontextmanager
    async def transport(self) -> AsyncIterator[httpx.AsyncBaseTransport]:
        """Lend the transport for one request."""
        if self._is_worn_out(self._pool):
            await self._replace()
        pool = self._pool
        pool.in_use += 1
        try:
            yield pool.transport
        finally:
            pool.in_use -= 1
            is_last_of_an_old_pool = pool is not self._pool and pool.in_use == 0
            if is_last_of_an_old_pool:
                await pool.transport.aclose()

    def note_success(self) -> None:
        """Note that the upstream answered."""
        self._failures = 0

    def note_failure(self) -> None:
        """Note that a request was not answered, or not by the API."""
        self._failures += 1

    async def close(self) -> None:
        """Close the connections."""
        await self._pool.transport.aclose()

    def _is_worn_out(self, pool: _Pool) -> bool:
        age_seconds = self._clock() - pool.opened_at
        has_failed = self._failures >= MAX_FAILURES_IN_A_ROW
        return has_failed or age_seconds > MAX_AGE_SECONDS

    async def _replace(self) -> None:
        # Replace them again only after as many further failures.
        self._failures = 0
        old, self._pool = self._pool, _Pool(self._clock())
        if old.in_use == 0:
            await old.transport.aclose()


def _session() -> aiohttp.ClientSession:
    connector = aiohttp.TCPConnector(
        limit=_MAX_CONNECTIONS, keepalive_timeout=_KEEP_ALIVE_SECONDS
    )
    session = aiohttp.ClientSession(
        connector=connector, cookie_jar=aiohttp.DummyCookieJar()
    )
    # aiohttp repeats a GET by itself if the server drops the connection. That request
    # would bypass the budget, and there is no public switch for it.
    session._retry_connection = False  # noqa: SLF001 -- as the comment says; a test counts the requests
    return session
