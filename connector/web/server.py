"""The HTTP listener: metrics, health probes, and the routes passed in."""

from __future__ import annotations

import asyncio
import errno
import logging
import socket
import time
from functools import partial
from http import HTTPStatus
from typing import TYPE_CHECKING, Final

import msgspec
from aiohttp import hdrs, web
from msgspec import UNSET, UnsetType

from connector.errors import ConfigError
from connector.logs import Bounded
from connector.web import answers

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

    from aiohttp.typedefs import Handler

    from connector.config.listen import Address
    from connector.runtime.health import Health
    from connector.telemetry.metrics import Metrics

# Time limit of one request, its body included, and again of sending the response.
# Prometheus gives up after 10 s too.
REQUEST_SECONDS: Final = 10.0

# Exempt from the time limit: a stream has no end, and limits itself.
STREAM_PATH: Final = "/api/events"

# Maximum size of a request body. The one body there is has 20 bytes.
BODY_BYTES: Final = 65_536

# Idle connections are closed after this; Prometheus keeps its own between scrapes.
_KEEPALIVE_SECONDS: Final = 75.0

# Time to read the rest of a rejected body, so that the client sees the answer.
_LINGERING_SECONDS: Final = 1.0

# Open connections at most: each takes a file descriptor, which checks and Kafka need, too.
# Probes, Prometheus and all readers of events need far fewer.
MAX_CONNECTIONS: Final = 100
_CONNECTIONS_LOOK_SECONDS: Final = 1.0
_LOG_INTERVAL_SECONDS: Final = 60

_log = logging.getLogger(__name__)


class Listener:
    """Serves `/metrics`, `/health/live`, `/health/ready` and `routes`."""

    def __init__(
        self,
        metrics: Metrics,
        health: Health,
        addresses: Sequence[Address],
        routes: Iterable[web.AbstractRouteDef] = (),
        request_seconds: float = REQUEST_SECONDS,
    ) -> None:
        """Port 0 takes a free port, which `urls` then name."""
        self._metrics = metrics
        self._addresses = addresses
        self._request_seconds = request_seconds
        self._closing: asyncio.Task[None] | None = None
        self._bounded = Bounded(_LOG_INTERVAL_SECONDS, time.monotonic)

        app = web.Application(
            middlewares=[self._limit_time], client_max_size=BODY_BYTES
        )
        app.on_response_prepare.append(_set_headers)
        app.router.add_get("/metrics", self._get_metrics)
        app.router.add_get("/health/live", partial(_probe, health.why_not_live))
        app.router.add_get("/health/ready", partial(_probe, health.why_not_ready))
        app.add_routes(routes)
        self._runner = web.AppRunner(
            app,
            access_log=None,
            logger=_log,
            shutdown_timeout=request_seconds,
            keepalive_timeout=_KEEPALIVE_SECONDS,
            lingering_time=_LINGERING_SECONDS,
            # A client that disconnects frees its stream at once.
            handler_cancellation=True,
        )
        self.urls = [address.url for address in addresses]
        """Where it listens, without a path."""

    async def start(self) -> None:
        """Listen. Raises ConfigError if an address is in use or not this machine's."""
        await self._runner.setup()
        urls = []
        for address in self._addresses:
            try:
                port = await self._listen_on(address)
            except (OSError, UnicodeError) as error:  # the latter for names like "a..b"
                await self.stop()
                fault = f"http.listen: cannot listen on {address.url}: {error}"
                if isinstance(error, OSError) and error.errno == errno.EADDRINUSE:
                    fault += "; set another address, or port 0 for any free port"
                raise ConfigError([fault]) from error
            urls.append(address._replace(port=port).url)
        self.urls = urls
        self._closing = asyncio.create_task(self._close_surplus())

    async def _listen_on(self, address: Address) -> int:
        """Listen on one more address, and return its port."""
        before = len(self._runner.addresses)
        is_alone = len(self._addresses) == 1
        site: web.BaseSite
        if is_alone and address.is_every_of_ipv6:
            site = web.SockSite(self._runner, both_families_socket(address.port))
        else:
            site = web.TCPSite(self._runner, address.host, address.port)
        await site.start()
        _, port, *_ = self._runner.addresses[before]
        return int(port)

    async def stop(self) -> None:
        """Finish the requests in progress and stop listening. Safe to call twice."""
        if self._closing is not None:
            self._closing.cancel()
        await self._runner.cleanup()

    async def _close_surplus(self) -> None:
        """Close the oldest connections while there are too many, until cancelled.

        Those in use open again: pages, Prometheus and probes connect anew.
        """
        while self._runner.server is not None:
            await asyncio.sleep(_CONNECTIONS_LOOK_SECONDS)
            connections = self._runner.server.connections
            surplus = connections[:-MAX_CONNECTIONS]
            for connection in surplus:
                connection.force_close()
            if surplus and self._bounded.admit("connections") is not None:
                fields = {"connections": len(connections), "limit": MAX_CONNECTIONS}
                _log.warning(
                    "too many HTTP connections; closing the oldest", extra=fields
                )

    @web.middleware
    async def _limit_time(
        self, request: web.Request, handler: Handler
    ) -> web.StreamResponse:
        """Limit a request's time, and give every error the same shape."""
        is_stream = request.path == STREAM_PATH
        limit_seconds = None if is_stream else self._request_seconds
        try:
            async with asyncio.timeout(limit_seconds) as limit:
                response = await handler(request)
        except TimeoutError:
            # A handler's own timeout is a defect, and must show as one.
            if not limit.expired():
                raise
            return problem(
                408, f"request not finished within {self._request_seconds:g} s"
            )
        except web.HTTPError as error:
            headers = {}
            if hdrs.ALLOW in error.headers:
                headers["Allow"] = error.headers[hdrs.ALLOW]
            return problem(error.status, error.reason, headers)
        if not is_stream:
            await self._send(request, response)
        return response

    async def _send(self, request: web.Request, response: web.StreamResponse) -> None:
        """Send a response. Disconnect a client that does not read it in time."""
        try:
            async with asyncio.timeout(self._request_seconds):
                await response.prepare(request)
                await response.write_eof()
        except TimeoutError:
            # A graceful close would wait for the client, and keep the body in memory.
            if request.transport is not None:
                request.transport.abort()
        except ConnectionError:
            # The client has gone. aiohttp notices it when it gets the response.
            pass

    async def _get_metrics(self, request: web.Request) -> web.Response:
        accept_headers = request.headers.getall(hdrs.ACCEPT, [])
        accept = ",".join(accept_headers)
        # In a thread: rendering many symbols would delay the next check.
        body, content_type = await asyncio.to_thread(self._metrics.render, accept)
        return web.Response(body=body, headers={hdrs.CONTENT_TYPE: content_type})


def json_response(body: msgspec.Struct | bytes, status: int = 200) -> web.Response:
    """Return a JSON response; `body` may be encoded already."""
    if isinstance(body, msgspec.Struct):
        body = msgspec.json.encode(body)
    return web.Response(
        body=body, status=status, content_type="application/json", charset="utf-8"
    )


def problem(
    status: int,
    detail: str,
    headers: Mapping[str, str] | None = None,
    *,
    owner: str | UnsetType | None = UNSET,
) -> web.Response:
    """Return an error as RFC 9457 problem details."""
    body = answers.Problem(
        type="about:blank",
        title=HTTPStatus(status).phrase,
        status=status,
        detail=detail,
        owner=owner,
    )
    return web.Response(
        body=msgspec.json.encode(body),
        status=status,
        headers=headers,
        content_type="application/problem+json",
        charset="utf-8",
    )


async def _probe(why_not: Callable[[], list[str]], _: web.Request) -> web.Response:
    reasons = why_not()
    answer = answers.HealthAnswer(ok=not reasons, reasons=reasons)
    return json_response(answer, status=503 if reasons else 200)


async def _set_headers(_: web.Request, response: web.StreamResponse) -> None:
    """Hide the server's version; forbid caching, sniffing and use by other sites."""
    response.headers.popall(hdrs.SERVER, None)
    response.headers.setdefault(hdrs.CACHE_CONTROL, "no-store")
    response.headers["X-Content-Type-Options"] = "nosniff"
    response.headers["Cross-Origin-Resource-Policy"] = "same-origin"


def both_families_socket(port: int) -> socket.socket:
    """Return a socket that listens on every address of this machine. Raises OSError.

    asyncio would take connections over IPv6 only.
    """
    if not socket.has_dualstack_ipv6():
        # The kernel has no IPv6.
        return socket.create_server(("0.0.0.0", port))
    return socket.create_server(
        ("::", port), family=socket.AF_INET6, dualstack_ipv6=True
    )
