"""What the worker says of itself over HTTP: metrics, probes, and whatever routes are passed in."""

from __future__ import annotations

import asyncio
import logging
import os
import socket
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from html import escape
from typing import TYPE_CHECKING

from aiohttp import hdrs, http_exceptions, web

from connector.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from aiohttp.typedefs import Handler

    from connector.runtime.health import Health
    from connector.runtime.metrics import Metrics

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Limits:
    """What a client may take: time for one request, time without one, and the size of a body."""

    request_seconds: float = 10.0
    idle_seconds: float = 75.0
    body_bytes: int = 65_536


class Listener:
    """Serves `/metrics`, `/health/live`, `/health/ready`, an index at `/`, and `routes`."""

    def __init__(
        self,
        metrics: Metrics,
        health: Health,
        host: str,
        port: int,
        routes: Iterable[web.AbstractRouteDef] = (),
        limits: Limits = Limits(),
    ) -> None:
        """Port 0 takes a free one, which `url` then names."""
        self._metrics = metrics
        self._renderer = ThreadPoolExecutor(max_workers=1, thread_name_prefix="metrics")
        self._host, self._port = host, port
        self._limits = limits
        self._app = web.Application(middlewares=[self._in_time], client_max_size=limits.body_bytes)
        self._app.on_response_prepare.append(_headers)
        self._app.router.add_get("/", self._index)
        self._app.router.add_get("/metrics", self._scrape)
        self._app.router.add_get("/health/live", partial(_probe, health.why_not_live))
        self._app.router.add_get("/health/ready", partial(_probe, health.why_not_ready))
        self._app.add_routes(routes)
        self._runner = web.AppRunner(
            self._app,
            access_log=None,
            logger=log,
            shutdown_timeout=limits.request_seconds,
            keepalive_timeout=limits.idle_seconds,
            lingering_time=1.0,
            max_line_size=4096,
            max_field_size=4096,
            max_headers=64,
        )
        self.url = f"http://{_with_port(host, port)}"
        """Where it listens, without a path."""

    async def start(self) -> None:
        """Listen. ConfigError where the address is taken or not ours."""
        log.addFilter(_is_ours)
        await self._runner.setup()
        try:
            await web.TCPSite(self._runner, self._host, self._port).start()
        except (OSError, UnicodeError) as error:
            await self.stop()
            raise ConfigError([f"http.listen = {_with_port(self._host, self._port)}: {_reason(error)}"]) from error
        self.url = f"http://{_with_port(self._host, self._runner.addresses[0][1])}"

    async def stop(self) -> None:
        """Finish the requests at hand and stop listening, for good. Doing it twice is harmless."""
        await self._runner.cleanup()
        self._renderer.shutdown(wait=False)

    @web.middleware
    async def _in_time(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        try:
            async with asyncio.timeout(self._limits.request_seconds) as limit:
                return await handler(request)
        except TimeoutError as error:
            if not limit.expired():
                raise
            raise web.HTTPRequestTimeout from error

    async def _index(self, _: web.Request) -> web.Response:
        paths = [escape(found.canonical) for found in self._app.router.resources() if "{" not in found.canonical]
        links = "".join(f'<li><a href="{path}">{path}</a>' for path in paths)
        return web.Response(text=f"<!doctype html><title>gex-connector</title><ul>{links}", content_type="text/html")

    async def _scrape(self, request: web.Request) -> web.Response:
        """In one thread of its own: many symbols take longer to render than a check may be late."""
        accept = ",".join(request.headers.getall(hdrs.ACCEPT, []))
        loop = asyncio.get_running_loop()
        body, content_type = await loop.run_in_executor(self._renderer, self._metrics.render, accept)
        return web.Response(body=body, headers={hdrs.CONTENT_TYPE: content_type})


async def _probe(why_not: Callable[[], list[str]], _: web.Request) -> web.Response:
    reasons = why_not()
    return web.json_response({"ok": not reasons, "reasons": reasons}, status=503 if reasons else 200)


async def _headers(_: web.Request, response: web.StreamResponse) -> None:
    response.headers.popall(hdrs.SERVER, None)
    response.headers.setdefault("X-Content-Type-Options", "nosniff")
    response.headers.setdefault(hdrs.CACHE_CONTROL, "no-store")


def _is_ours(record: logging.LogRecord) -> bool:
    """False for a request that is no HTTP: what strangers send must not fill the log."""
    error = record.exc_info[1] if record.exc_info else None
    return not isinstance(error, http_exceptions.HttpProcessingError)


def _with_port(host: str, port: int) -> str:
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def _reason(error: OSError | UnicodeError) -> str:
    """In the system's words: asyncio's repeat the address, and a resolver's numbers are not the system's."""
    if isinstance(error, UnicodeError | socket.gaierror) or error.errno is None:
        return "no address has this name"
    return os.strerror(error.errno)
