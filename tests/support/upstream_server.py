"""A server whose every reply a test decides, and the client to be tested against it."""

from __future__ import annotations

import asyncio
import time
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

import pytest
from aiohttp import web

from connector.config.model import Upstream
from connector.config.secrets import Secret
from connector.errors import UpstreamError
from connector.upstream.api_key import ApiKey
from connector.upstream.budget import Budget
from connector.upstream.client import Client, LevelsAnswer, LevelsRequest
from tests.support.levels import document, encoded

if TYPE_CHECKING:
    import ssl
    from collections.abc import AsyncIterator, Awaitable, Callable, Mapping

    Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]

# Keys in the vendor's form. They share no piece, so that a leak of either is recognized.
KEY: Final = "bq_live_0123456789abcdefghijklmnopqrstuv"
OTHER_KEY: Final = "bq_live_ZYXWVUTSRQPONMLKJIHGFEDCBA987654"

# A shorter piece of a key tells nobody anything, and may occur in a text by chance.
LEAKED_CHARACTERS: Final = 8

REQUEST: Final = LevelsRequest(("BTCUSDT", "ETHUSDT"))
META: Final = {
    "version": "2",
    "timestamp": "2027-01-15T08:00:00Z",
    "request_id": "req-1",
}
RESULTS: Final = {"BTCUSDT": document(), "ETHUSDT": {}}
LEVELS: Final = encoded({"success": True, "data": {"results": RESULTS}, "meta": META})
JSON: Final = {"Content-Type": "application/json"}


def replying(
    body: bytes = LEVELS,
    status: int = 200,
    headers: Mapping[str, str] | None = None,
) -> Handler:
    """Return a handler that gives every request the same reply."""
    all_headers = {**JSON, **(headers or {})}

    async def handler(_: web.Request) -> web.Response:
        return web.Response(body=body, status=status, headers=all_headers)

    return handler


async def drop(request: web.Request) -> web.StreamResponse:
    """Close the connection instead of replying."""
    # `abort` sends a reset; `close` would still send the response below.
    assert request.transport is not None
    request.transport.abort()
    return web.Response()


def refusal(
    code: Any,
    message: Any = "because",
    details: Any = None,
    **meta: Any,
) -> bytes:
    """Return the body of a refusal in the API's form."""
    error = {"code": code, "message": message, "details": details or {}}
    all_meta = {**META, **meta}
    return encoded({"success": False, "error": error, "meta": all_meta})


@dataclass
class Server:
    """Replies as `handler` does, and records the requests."""

    handler: Handler = field(default_factory=replying)
    requests: list[web.Request] = field(default_factory=list)
    url: str = ""
    _stopped: asyncio.Event = field(default_factory=asyncio.Event)

    async def handle(self, request: web.Request) -> web.StreamResponse:
        self.requests.append(request)
        return await self.handler(request)

    async def hang(self, _: web.Request) -> web.StreamResponse:
        """Send no reply until the server stops."""
        await self._stopped.wait()
        return web.Response()

    def stop(self) -> None:
        self._stopped.set()


@asynccontextmanager
async def running_server(
    context: ssl.SSLContext | None = None,
) -> AsyncIterator[Server]:
    """Run a server on a free port, with TLS if there is a context."""
    server = Server()
    application = web.Application()
    application.router.add_route("*", "/{path:.*}", server.handle)
    # Handlers that hang are cancelled, so that a test ends as soon as its client gives up.
    runner = web.AppRunner(
        application, access_log=None, handler_cancellation=True, shutdown_timeout=0.1
    )
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0, ssl_context=context)
    await site.start()

    # The system chose the port.
    port = runner.addresses[0][1]
    scheme = "https"
    if context is None:
        scheme = "http"
    server.url = f"{scheme}://127.0.0.1:{port}"
    try:
        yield server
    finally:
        server.stop()
        await runner.cleanup()


@asynccontextmanager
async def raw_server(reply: bytes) -> AsyncIterator[str]:
    """Run a server that sends these bytes on every connection and closes it.

    Yields its URL. For replies that aiohttp's server would refuse to send.
    """

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        # Closing with unread data would reset the connection before the reply arrives.
        await reader.readuntil(b"\r\n\r\n")
        writer.write(reply)
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    async with server:
        port = server.sockets[0].getsockname()[1]
        yield f"http://127.0.0.1:{port}"


@dataclass
class Fetcher:
    """The client under test, its key and its budget."""

    client: Client
    key: ApiKey
    budget: Budget

    async def fetch(self, request: LevelsRequest = REQUEST) -> LevelsAnswer:
        async with self.budget.request() as permit:
            return await self.client.fetch_levels(request, permit)

    async def fail(self) -> UpstreamError:
        """Fetch, and return the error that this raises."""
        with pytest.raises(UpstreamError) as caught:
            await self.fetch()
        return caught.value

    @property
    def wait_seconds(self) -> float:
        """Return the time until the budget allows another request."""
        return self.budget.spending(time.monotonic()).wait_seconds


def upstream_at(url: str, **options: Any) -> Upstream:
    """Return the configuration of a client of the server at `url`, with KEY as its key."""
    return Upstream(base_url=url, api_key=Secret(KEY), **options)


@asynccontextmanager
async def fetching(upstream: Upstream) -> AsyncIterator[Fetcher]:
    """Create a client with its own budget, and close it."""
    key = ApiKey(upstream)
    budget = Budget(upstream.max_requests_per_minute)
    client = Client(upstream, key, budget)
    try:
        yield Fetcher(client, key, budget)
    finally:
        await client.close()


def assert_hidden(*objects: object) -> None:
    """Assert that the text of these objects contains neither the key nor a part of it."""
    # All keys begin with "bq_live_", which says nothing. Our limits cut texts anywhere, so
    # a piece from the middle of the key may be all that is left to find.
    pieces = []
    for start in range(8, len(KEY) - LEAKED_CHARACTERS + 1):
        pieces.append(KEY[start : start + LEAKED_CHARACTERS])

    for shown in objects:
        for text in (str(shown), repr(shown)):
            for piece in pieces:
                assert piece not in text
