"""What the worker says of itself over HTTP: metrics, probes, and whatever routes are passed in."""

from __future__ import annotations

import asyncio
import logging
from functools import partial
from http import HTTPStatus
from typing import TYPE_CHECKING, Final

from aiohttp import hdrs, web

from connector.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    from aiohttp.typedefs import Handler

    from connector.runtime.health import Health
    from connector.telemetry.metrics import Metrics

REQUEST_SECONDS: Final = 10.0
"""For one request, its body included."""

STREAM: Final = "/api/events"
"""What is sent there has no end, and bounds itself."""

BODY_BYTES: Final = 65_536
_IDLE_SECONDS: Final = 75.0
_LINGERING_SECONDS: Final = 1.0

_log = logging.getLogger(__name__)


class Listener:
    """Serves `/metrics`, `/health/live`, `/health/ready` and `routes`."""

    def __init__(
        self,
        metrics: Metrics,
        health: Health,
        host: str,
        port: int,
        routes: Iterable[web.AbstractRouteDef] = (),
        request_seconds: float = REQUEST_SECONDS,
    ) -> None:
        """Port 0 takes a free one, which `url` then names."""
        self._metrics = metrics
        self._host, self._port = host, port
        self._request_seconds = request_seconds
        app = web.Application(middlewares=[self._in_time], client_max_size=BODY_BYTES)
        app.on_response_prepare.append(_finish)
        app.router.add_get("/metrics", self._scrape)
        app.router.add_get("/health/live", partial(_probe, health.why_not_live))
        app.router.add_get("/health/ready", partial(_probe, health.why_not_ready))
        app.add_routes(routes)
        self._runner = web.AppRunner(
            app,
            access_log=None,
            logger=_log,
            shutdown_timeout=request_seconds,
            keepalive_timeout=_IDLE_SECONDS,
            lingering_time=_LINGERING_SECONDS,
            handler_cancellation=True,  # whoever leaves makes room at once
        )
        self.url = _url(host, port)
        """Where it listens, without a path."""

    async def start(self) -> None:
        """Listen. ConfigError where the address is taken or not ours."""
        await self._runner.setup()
        try:
            await web.TCPSite(self._runner, self._host, self._port).start()
        except (OSError, UnicodeError) as error:
            await self.stop()
            raise ConfigError(
                [f"http.listen: cannot listen on {self.url}: {error}"]
            ) from error
        self.url = _url(self._host, self._runner.addresses[0][1])

    async def stop(self) -> None:
        """Finish the requests at hand and stop listening, for good. Doing it twice is harmless."""
        await self._runner.cleanup()

    @web.middleware
    async def _in_time(
        self, request: web.Request, handler: Handler
    ) -> web.StreamResponse:
        try:
            async with asyncio.timeout(
                None if request.path == STREAM else self._request_seconds
            ) as limit:
                return await handler(request)
        except TimeoutError:
            if not limit.expired():
                raise
            return problem(
                408, f"the request took longer than {self._request_seconds:g} s"
            )
        except web.HTTPError as error:
            kept = (
                {"Allow": error.headers[hdrs.ALLOW]}
                if hdrs.ALLOW in error.headers
                else {}
            )
            return problem(error.status, error.reason, kept)

    async def _scrape(self, request: web.Request) -> web.Response:
        """In a thread: many symbols take longer to render than a check may be late."""
        accept = ",".join(request.headers.getall(hdrs.ACCEPT, []))
        body, content_type = await asyncio.to_thread(self._metrics.render, accept)
        return web.Response(body=body, headers={hdrs.CONTENT_TYPE: content_type})


def problem(
    status: int, detail: str, headers: Mapping[str, str] | None = None, **more: object
) -> web.Response:
    """An error as RFC 9457 has it."""
    body = {
        "type": "about:blank",
        "title": HTTPStatus(status).phrase,
        "status": status,
        "detail": detail,
        **more,
    }
    return web.json_response(
        body, status=status, headers=headers, content_type="application/problem+json"
    )


async def _probe(why_not: Callable[[], list[str]], _: web.Request) -> web.Response:
    reasons = why_not()
    return web.json_response(
        {"ok": not reasons, "reasons": reasons}, status=503 if reasons else 200
    )


async def _finish(_: web.Request, response: web.StreamResponse) -> None:
    """Without aiohttp's and Python's versions, for nobody to keep and for no other site's pages."""
    response.headers.popall(hdrs.SERVER, None)
    response.headers.setdefault(hdrs.CACHE_CONTROL, "no-store")
    response.headers["X-Content-Type-Options"] = "nosniff"
    response.headers["Cross-Origin-Resource-Policy"] = "same-origin"


def _url(host: str, port: int) -> str:
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"
