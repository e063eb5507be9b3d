"""The simulated service over HTTP: `GET /multi/gex/levels` and its siblings, with and without `/v2`, and `/_control`.

`/_control` asks for no key: listen on loopback, or trust the network.
"""

from __future__ import annotations

import asyncio
import contextlib
import gzip
import time
from typing import TYPE_CHECKING, Any, Final, Self
from uuid import uuid4

import msgspec
from aiohttp import web

from connector.devkit.simulator.service import Service

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from connector.devkit.simulator.reply import Reply
    from connector.devkit.simulator.settings import Settings

LEVELS: Final = "/multi/gex/levels"
CONTROL: Final = "/_control/"
JSON: Final = {"Content-Type": "application/json"}


class Simulator:
    """An upstream on a port of its own.

    `clock` gives Unix time in seconds and drives the market, the quota and the times of faults; only `slow` and
    `hang` wait in real time. Stopped, it refuses connections; started again, it goes on with the state it had.
    """

    def __init__(
        self, settings: Settings, clock: Callable[[], float] = time.time
    ) -> None:
        self._service = Service(settings, clock)
        self.add_script = self._service.add_script
        self.change = self._service.change
        self.spend = self._service.spend
        self.truth = self._service.truth
        self.stats = self._service.stats
        self._runner: web.ServerRunner | None = None
        self._released = asyncio.Event()
        self.url = ""

    @property
    def settings(self) -> Settings:
        """The settings in force."""
        return self._service.settings

    async def start(self, host: str = "127.0.0.1", port: int = 0) -> None:
        """Listen; `url`, with `/v2`, is known afterwards."""
        server = web.Server(self._handle, handler_cancellation=True, access_log=None)
        self._runner = web.ServerRunner(server, shutdown_timeout=1)
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

    async def __aexit__(self, *_: object) -> None:
        await self.stop()

    def add_fault(self, fault: str, **parameters: Any) -> None:
        """Arm a fault; `parameters` as in a script. ValueError says what is wrong with it."""
        self.add_script([{"fault": fault, **parameters}])

    def clear_faults(self) -> None:
        """Disarm all faults, and let go of the requests that they hold."""
        self._service.clear_faults()
        self._release()

    async def _handle(self, request: web.BaseRequest) -> web.StreamResponse:
        path = request.path.removeprefix("/v2")
        key = request.headers.get("X-API-Key", "")
        if path.startswith(CONTROL):
            return await self._control(request, path.removeprefix(CONTROL))
        if path == LEVELS and request.method == "GET":
            return await self._levels(request, key)
        reply = self._service.reply(key, uuid4().hex)
        if data := self._service.sibling(path.removeprefix("/")):
            reply.document = {"data": data}
        else:
            reply.refuse("404")
        return await _respond(request, reply)

    async def _levels(self, request: web.BaseRequest, key: str) -> web.StreamResponse:
        reply = self._service.answer(key, request.query)
        status = 0
        try:
            if reply.delay_seconds:
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(self._released.wait(), reply.delay_seconds)
            response = await _respond(request, reply)
            if request.transport is not None and not request.transport.is_closing():
                status = response.status
            return response
        finally:
            self._service.answered(reply, status)

    def _release(self) -> None:
        self._released.set()
        self._released = asyncio.Event()

    async def _control(self, request: web.BaseRequest, what: str) -> web.StreamResponse:
        try:
            body = await request.read()
            told = self._ordered(
                f"{request.method} {what}",
                msgspec.json.decode(body) if body else {},
                request.query,
            )
        except (TypeError, ValueError, msgspec.MsgspecError) as error:
            return web.Response(
                status=400,
                body=msgspec.json.encode({"error": str(error)}),
                headers=JSON,
            )
        return web.Response(
            status=404 if told is None else 200,
            body=msgspec.json.encode(told),
            headers=JSON,
        )

    def _ordered(self, what: str, order: Any, query: Mapping[str, str]) -> Any:
        match what:
            case "GET stats":
                return self.stats()
            case "GET truth":
                return self.truth(
                    int(query.get("since", "0")), contents=query.get("contents") == "1"
                )
            case "POST faults":
                self.add_script(order if isinstance(order, list) else [order])
            case "DELETE faults":
                self.clear_faults()
            case "POST set":
                self.change(**order)
            case "POST spend":
                self.spend(**order)
            case _:
                return None
        return {"settings": self.settings, **self.stats()}


async def _respond(request: web.BaseRequest, reply: Reply) -> web.StreamResponse:
    body, headers = reply.body, JSON | reply.headers
    if reply.instead is None and "gzip" in request.headers.get("Accept-Encoding", ""):
        headers |= {"Content-Encoding": "gzip", "Vary": "Accept-Encoding"}
        body = gzip.compress(body, compresslevel=1, mtime=0)
    if reply.sent == 1:
        return web.Response(status=reply.status, body=body, headers=headers)
    response = web.StreamResponse(
        status=reply.status, headers=headers | {"Content-Length": str(len(body))}
    )
    if reply.sent > 0:
        await response.prepare(request)
        await response.write(body[: int(len(body) * reply.sent)])
    if request.transport is not None:
        request.transport.close()
    return response
