"""The simulated service over HTTP: `GET /multi/gex/levels` and its siblings, with and without `/v2`, and `/_control`.

`/_control` asks for no key: listen on loopback, or trust the network.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import time
from typing import TYPE_CHECKING, Any, Final, Self
from uuid import uuid4

import msgspec
from aiohttp import web

from connector.simulator.faults import ERRORS
from connector.simulator.market import MICROS
from connector.simulator.service import MAX_SYMBOLS, Refusal, Service, Spend
from connector.simulator.wire import JSON, respond, respond_instead

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import TracebackType

    from connector.simulator.settings import Settings
    from connector.simulator.truth import Truth

HEALTHY_SECONDS: Final = 60
UNHEALTHY_SECONDS: Final = 90


class Simulator:
    """An upstream on a port of its own.

    `clock` gives Unix time in seconds and drives the market, the quota and the times of faults; only `slow` and
    `hang` wait in real time. Stopped, it refuses connections; started again, it goes on with the state it had.
    """

    def __init__(self, settings: Settings, clock: Callable[[], float] = time.time) -> None:
        self._service = Service(settings, clock)
        self._runner: web.AppRunner | None = None
        self._released = asyncio.Event()
        self.url = ""

    @property
    def settings(self) -> Settings:
        """The settings in force."""
        return self._service.settings

    async def start(self, host: str = "127.0.0.1", port: int = 0) -> None:
        """Listen; `url`, with `/v2`, is known afterwards."""
        self._runner = web.AppRunner(self._app(), access_log=None, shutdown_timeout=1, handler_cancellation=True)
        await self._runner.setup()
        try:
            await web.TCPSite(self._runner, host, port).start()
        except OSError:
            await self.stop()
            raise
        self.url = f"http://{host}:{self._runner.addresses[0][1]}/v2"

    async def stop(self) -> None:
        """Close the port and every connection."""
        self._release()
        if self._runner is not None:
            await self._runner.cleanup()
            self._runner = None

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.stop()

    def add_fault(self, fault: str, **parameters: Any) -> None:
        """Arm a fault; `parameters` as in a script. ValueError says what is wrong with it."""
        self.add_script([{"fault": fault, **parameters}])

    def add_script(self, tables: list[dict[str, Any]]) -> None:
        """Arm the faults of a script, `at_seconds` from now."""
        self._service.add_faults(tables, self._service.now())

    def clear_faults(self) -> None:
        """Disarm all faults, and let go of the requests that they hold."""
        self._service.clear_faults()
        self._release()

    def change(self, **settings: Any) -> None:
        """Change settings, or `add_symbols` and `remove_symbols`. ValueError says what is wrong."""
        self._service.change(settings)

    def spend(self, requests: int, key: str | None = None) -> None:
        """Use up quota as another program with the same key would."""
        self._service.spend(Spend(requests, key))

    def truth(self, since: int = 0, *, contents: bool = False) -> Truth:
        """The truth log after a cursor."""
        return self._service.truth(since, contents=contents)

    def stats(self) -> dict[str, Any]:
        """Counts of requests and refreshes."""
        return self._service.stats()

    def _app(self) -> web.Application:
        app = web.Application()
        siblings = {"symbols": self._symbols, "status": self._status, "meta": self._meta, "health": self._health}
        for prefix in ("/v2", ""):
            app.router.add_get(f"{prefix}/multi/gex/levels", self._levels)
            for name, part in siblings.items():
                app.router.add_get(f"{prefix}/{name}", functools.partial(self._sibling, part))
        app.router.add_post("/_control/{what:faults|set|spend}", self._control)
        app.router.add_delete("/_control/faults", self._control)
        app.router.add_get("/_control/{what:truth|stats}", self._told)
        app.router.add_route("*", "/{tail:.*}", self._not_found)
        return app

    async def _levels(self, request: web.Request) -> web.StreamResponse:
        reply = self._service.answer(_key(request), request.query)
        answer, status = reply.answer, 0
        try:
            if reply.delay_seconds:
                await self._pause(reply.delay_seconds)
            if reply.instead is not None and reply.instead.name != "huge":
                answer.shown = {}
            response = await respond_instead(request, reply, self._pause)
            status = 0 if request.transport is None or request.transport.is_closing() else response.status
            return response
        finally:
            answer.status, answer.answered_at = status, self._service.now()
            self._service.log.answered(answer)

    async def _pause(self, seconds: float) -> None:
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._released.wait(), seconds)

    def _release(self) -> None:
        self._released.set()
        self._released = asyncio.Event()

    async def _sibling(self, part: Callable[[], dict[str, Any]], request: web.Request) -> web.Response:
        body, headers = self._service.envelope(_key(request), {"success": True, "data": part()}, uuid4().hex)
        return respond(request, 200, body, headers)

    def _symbols(self) -> dict[str, Any]:
        return {"categories": {"crypto": self.settings.symbols}, "total": len(self.settings.symbols)}

    def _status(self) -> dict[str, Any]:
        now = self._service.now()
        grid = {}
        for symbol in self.settings.symbols:
            refresh = self._service.market.peek(symbol, now)
            age_seconds = None if refresh is None else (now - refresh.computed_at) / MICROS
            grid[symbol] = {"status": _health_of(age_seconds), "freshness_seconds": age_seconds}
        return {"symbols": grid}

    def _meta(self) -> dict[str, Any]:
        errors = [{"http": int(status), "code": code, "message": text} for status, (code, text) in ERRORS.items()]
        return {"errors": errors, "supported_symbols": self.settings.symbols, "max_symbols": MAX_SYMBOLS}

    def _health(self) -> dict[str, Any]:
        return {"status": "ok"}

    async def _not_found(self, request: web.Request) -> web.Response:
        body, headers = self._service.error(_key(request), Refusal("404"), uuid4().hex)
        return respond(request, 404, body, headers)

    async def _control(self, request: web.Request) -> web.Response:
        try:
            if request.method == "DELETE":
                self.clear_faults()
            else:
                self._order(request.match_info["what"], msgspec.json.decode(await request.read()))
        except (ValueError, msgspec.MsgspecError) as error:
            return web.Response(status=400, body=msgspec.json.encode({"error": str(error)}), headers=JSON)
        return web.Response(body=msgspec.json.encode({"settings": self.settings, **self.stats()}), headers=JSON)

    def _order(self, what: str, order: Any) -> None:
        if what == "faults" and isinstance(order, list) and all(isinstance(one, dict) for one in order):
            self.add_script(order)
        elif not isinstance(order, dict):
            raise ValueError("an object is expected" + (", or a list of them" if what == "faults" else ""))
        elif what == "faults":
            self.add_script([order])
        elif what == "set":
            self._service.change(order)
        else:
            self._service.spend(msgspec.convert(order, Spend))

    async def _told(self, request: web.Request) -> web.Response:
        if request.match_info["what"] == "stats":
            return web.Response(body=msgspec.json.encode(self.stats()), headers=JSON)
        since, contents = request.query.get("since", "0"), request.query.get("contents") == "1"
        if not since.isdecimal():
            return web.Response(status=400, body=b'{"error":"since is a cursor"}', headers=JSON)
        return web.Response(body=msgspec.json.encode(self.truth(int(since), contents=contents)), headers=JSON)


def _key(request: web.Request) -> str:
    return request.headers.get("X-API-Key", "")


def _health_of(age_seconds: float | None) -> str:
    if age_seconds is None:
        return "unavailable"
    if age_seconds <= HEALTHY_SECONDS:
        return "healthy"
    return "degraded" if age_seconds <= UNHEALTHY_SECONDS else "unhealthy"
