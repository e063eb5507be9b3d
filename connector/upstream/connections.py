"""Connections to the upstream that are kept open, for a limited time.

A name can move to another address while the old server still answers: with errors, or
with levels that no longer change. A kept connection would never notice.
"""

from __future__ import annotations

import socket
import ssl
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Final

import aiohttp
import httpx
from httpx_aiohttp import AiohttpTransport

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

    from aiohttp.connector import AddrInfoType

# The budget limits requests, so the pool need not: this only bounds sockets.
_MAX_CONNECTIONS: Final = 64

# Longer than `schedule.max_interval_seconds` (60 s unless set): connections are reused.
_MAX_IDLE_SECONDS: Final = 120

# A NAT or firewall forgets idle connections silently, some after 30 s. Probes keep it from
# doing so. One that has forgotten us leaves them without an answer, so that the connection is
# closed before a request needs it.
PROBE_AFTER_SECONDS: Final = 15
PROBE_INTERVAL_SECONDS: Final = 5

# The limit until the other side has received what we sent: enough for four repetitions. A
# request on a forgotten connection fails after it, not after `upstream.timeout_seconds`.
_UNACKNOWLEDGED_MS: Final = 3_000

# Gateways and firewalls add long headers, such as a Content-Security-Policy. aiohttp's own
# limit of 8 KiB would fail every check. This one bounds memory, and nothing reads them.
MAX_HEADER_BYTES: Final = 128 * 1024

# A new connection costs one handshake, and looks the name up again.
MAX_AGE_SECONDS: Final = 300.0
MAX_FAILURES_IN_A_ROW: Final = 3


class Pool:
    """A transport with its connections, and the number of requests that use it.

    `failures` is the number of requests in a row that were not answered by the API.
    """

    def __init__(self, opened_at: float, proxy: httpx.Proxy | None) -> None:
        # The session has its own context, which verifies. Without an empty one here, the
        # transport reads all certificates (30 ms) for a context that nobody uses.
        unused = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        self.transport = AiohttpTransport(verify=unused, client=_session, proxy=proxy)
        self.opened_at = opened_at
        self.in_use = 0
        self.failures = 0


class Connections:
    """Replaces all connections when they are old, or after failures in a row.

    Requests in progress finish on the connections they began with.
    """

    def __init__(self, clock: Callable[[], float], proxy: str | None = None) -> None:
        """`proxy` is the URL of an HTTP proxy, None to connect directly."""
        self._clock = clock
        # It keeps user and password apart, so that no error shows them.
        self._proxy = None if proxy is None else httpx.Proxy(proxy)
        self._pool = Pool(clock(), self._proxy)

    @asynccontextmanager
    async def lend(self) -> AsyncIterator[Pool]:
        """Lend the connections for one request."""
        if self._is_worn_out():
            await self._replace()
        pool = self._pool
        pool.in_use += 1
        try:
            yield pool
        finally:
            pool.in_use -= 1
            is_last_of_an_old_pool = pool is not self._pool and pool.in_use == 0
            if is_last_of_an_old_pool:
                await pool.transport.aclose()

    async def close(self) -> None:
        """Close the connections."""
        await self._pool.transport.aclose()

    def _is_worn_out(self) -> bool:
        age_seconds = self._clock() - self._pool.opened_at
        has_failed = self._pool.failures >= MAX_FAILURES_IN_A_ROW
        return has_failed or age_seconds > MAX_AGE_SECONDS

    async def _replace(self) -> None:
        old, self._pool = self._pool, Pool(self._clock(), self._proxy)
        if old.in_use == 0:
            await old.transport.aclose()


def _session() -> aiohttp.ClientSession:
    connector = aiohttp.TCPConnector(
        limit=_MAX_CONNECTIONS,
        keepalive_timeout=_MAX_IDLE_SECONDS,
        socket_factory=_new_socket,
    )
    # It does not trust the environment: `connector.config.proxy` decides on the proxy.
    session = aiohttp.ClientSession(
        connector=connector,
        cookie_jar=aiohttp.DummyCookieJar(),
        max_line_size=MAX_HEADER_BYTES,
        max_field_size=MAX_HEADER_BYTES,
    )
    # aiohttp repeats a GET by itself if the server drops the connection. That request
    # would bypass the budget, and there is no public switch for it.
    session._retry_connection = False  # noqa: SLF001 -- as the comment says; a test counts the requests
    return session


def _new_socket(address: AddrInfoType) -> socket.socket:
    """Return a socket that notices when a connection was dropped without a word."""
    family, kind, protocol, _, _ = address
    new = socket.socket(family, kind, protocol)
    new.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for option, value in (
        (socket.TCP_KEEPIDLE, PROBE_AFTER_SECONDS),
        (socket.TCP_KEEPINTVL, PROBE_INTERVAL_SECONDS),
        (socket.TCP_USER_TIMEOUT, _UNACKNOWLEDGED_MS),
    ):
        new.setsockopt(socket.IPPROTO_TCP, option, value)
    return new
