"""The simulated service over HTTP.

`GET /multi/gex/levels` and its siblings answer with and without `/v2`, and `/_control`
steers the simulator. `/_control` asks for no key: listen on loopback, or trust the network.
"""

from __future__ import annotations

import asyncio
import contextlib
import gzip
import time
from typing import TYPE_CHECKING, Any, Final, Self

import msgspec
from aiohttp import web

from connector.devkit.simulator.service import Service

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from connector.devkit.simulator.quota import Budget
    from connector.devkit.simulator.replay_market import Replay
    from connector.devkit.simulator.reply import Reply
    from connector.devkit.simulator.settings import Settings
    from connector.devkit.simulator.truth import Truth

_LEVELS: Final = "/multi/gex/levels"
_CONTROL: Final = "/_control/"
_JSON: Final = {"Content-Type": "application/json"}

# The part of an order that the log shows.
_MAX_LOGGED_BYTES: Final = 300


class Simulator:
    """A simulated upstream on a port of its own.

    `clock` returns Unix time in seconds and drives the market, the quota and the times of
    faults; only `slow` and `hang` wait in real time. A stopped simulator refuses
    connections, and keeps its state until it is started again. `log` gets a line for each
    request of a client, and for each order of `/_control`. With a `replay`, it shows a past
    day instead of an invented market.
    """

    def __init__(
        self,
        settings: Settings,
        clock: Callable[[], float] = time.time,
        log: Callable[[str], None] | None = None,
        replay: Replay | None = None,
    ) -> None:
        self._service = Service(settings, clock, replay)
        self._log = log
        self._runner: web.ServerRunner | None = None
        self._released = asyncio.Event()
        self.url = ""

    @property
    def settings(self) -> Settings:
        """The settings in force."""
        return self._service.settings

    async def start(self, host: str = "127.0.0.1", port: int = 0) -> None:
        """Listen, and set `url`, which includes `/v2`. Raises OSError."""
        server = web.Server(self._serve, handler_cancellation=True, access_log=None)
        self._runner = web.ServerRunner(server, shutdown_timeout=1)
        await self._runner.setup()
        try:
            await web.TCPSite(self._runner, host, port).start()
        except OSError:
            await self.stop()
            raise
        # A URL needs brackets around an IPv6 address.
        host_in_url = f"[{host}]" if ":" in host else host
        self.url = f"http://{host_in_url}:{self._runner.addresses[0][1]}/v2"

    async def stop(self) -> None:
        """Close the port and every connection."""
        self._release_held_requests()
        if self._runner is not None:
            await self._runner.cleanup()
            self._runner = None

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.stop()

    def add_fault(self, fault: str, **parameters: Any) -> None:
        """Arm a fault with parameters as in a script. Raises ValueError."""
        self.add_script([{"fault": fault, **parameters}])

    def add_script(self, tables: list[dict[str, Any]]) -> None:
        """Arm the faults of a script, all or none. Raises ValueError."""
        self._service.add_script(tables)

    def clear_faults(self) -> None:
        """Disarm all faults, and release the requests that they hold."""
        self._service.clear_faults()
        self._release_held_requests()

    def change(self, **changes: Any) -> None:
        """Change settings while it runs. Raises ValueError."""
        self._service.change(**changes)

    def spend(
        self, requests: int = 1, key: str | None = None, budget: Budget = "both"
    ) -> None:
        """Use up budgets as another program of the key's user would."""
        self._service.spend(requests, key, budget)

    def truth(self, since: int = 0, *, contents: bool = False) -> Truth:
        """Return the page of the truth log after a cursor."""
        return self._service.truth(since, contents=contents)

    def stats(self) -> dict[str, Any]:
        """Return counts since the start, and the faults in force."""
        return self._service.stats()

    async def _serve(self, request: web.BaseRequest) -> web.StreamResponse:
        started_at = time.monotonic()
        outcome = "broken off"
        notes: list[str] = []
        try:
            response = await self._handle(request, notes)
            transport = request.transport
            if transport is not None and not transport.is_closing():
                outcome = str(response.status)
            return response
        finally:
            # Reading `/_control` is not worth a line.
            if request.method != "GET" or _CONTROL not in request.path:
                milliseconds = (time.monotonic() - started_at) * 1000
                notes.insert(0, f"{milliseconds:.0f} ms")
                self._log_request(request, outcome, notes)

    def _log_request(
        self, request: web.BaseRequest, outcome: str, notes: list[str]
    ) -> None:
        """Log a request without its headers: one of them is the key."""
        if self._log is not None:
            parts = [f"{request.method} {request.path_qs}", outcome, *notes]
            self._log(_on_one_line("  ".join(parts)))

    async def _handle(
        self, request: web.BaseRequest, notes: list[str]
    ) -> web.StreamResponse:
        """Answer a request, and add notes about it for its line in the log."""
        path = request.path.removeprefix("/v2")
        key = request.headers.get("X-API-Key", "")
        if path.startswith(_CONTROL):
            return await self._control(request, path.removeprefix(_CONTROL), notes)
        if path == _LEVELS and request.method == "GET":
            return await self._levels(request, key, notes)

        name = path.removeprefix("/")
        reply = self._service.sibling(name, key, request.remote or "")
        await self._delay(reply)
        return await _respond(request, reply)

    async def _levels(
        self, request: web.BaseRequest, key: str, notes: list[str]
    ) -> web.StreamResponse:
        reply = self._service.answer(key, request.query)
        if reply.answer is not None and reply.answer.faults:
            notes.append(f"faults: {', '.join(reply.answer.faults)}")
        # The log has status 0 unless the whole response went out.
        status = 0
        try:
            await self._delay(reply)
            response = await _respond(request, reply)
            transport = request.transport
            if transport is not None and not transport.is_closing():
                status = response.status
            return response
        finally:
            self._service.answered(reply, status)

    async def _delay(self, reply: Reply) -> None:
        """Hold a reply for its delay, or until held requests are released."""
        if reply.delay_seconds:
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._released.wait(), reply.delay_seconds)

    def _release_held_requests(self) -> None:
        self._released.set()
        self._released = asyncio.Event()

    async def _control(
        self, request: web.BaseRequest, resource: str, notes: list[str]
    ) -> web.StreamResponse:
        try:
            body = await request.read()
            if body:
                notes.append(body[:_MAX_LOGGED_BYTES].decode(errors="replace"))
            order = msgspec.json.decode(body) if body else {}
            command = f"{request.method} {resource}"
            result = self._execute(command, order, request.query)
        except (TypeError, ValueError, msgspec.MsgspecError) as error:
            return _json_response(400, {"error": str(error)})
        return _json_response(404 if result is None else 200, result)

    def _execute(self, command: str, order: Any, query: Mapping[str, str]) -> Any:
        """Run a command of `/_control`. Return None if it is unknown."""
        match command:
            case "GET stats":
                return self.stats()
            case "GET truth":
                since = int(query.get("since", "0"))
                return self.truth(since, contents=query.get("contents") == "1")
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


def _on_one_line(text: str) -> str:
    """Return a text from outside without characters that break lines or steer a terminal."""
    return "".join(char if char.isprintable() else " " for char in text)


def _json_response(status: int, content: Any) -> web.Response:
    body = msgspec.json.encode(content)
    return web.Response(status=status, body=body, headers=_JSON)


async def _respond(request: web.BaseRequest, reply: Reply) -> web.StreamResponse:
    body = reply.body
    headers = _JSON | reply.headers
    accepts_gzip = "gzip" in request.headers.get("Accept-Encoding", "")
    is_raw = reply.replacement is not None and reply.is_raw
    if accepts_gzip and not is_raw:
        headers |= {"Content-Encoding": "gzip", "Vary": "Accept-Encoding"}
        body = gzip.compress(body, compresslevel=1, mtime=0)
    if reply.sent_fraction == 1:
        return web.Response(status=reply.status, body=body, headers=headers)

    # Announce the whole body, send a part of it, and close the connection.
    headers |= {"Content-Length": str(len(body))}
    response = web.StreamResponse(status=reply.status, headers=headers)
    if reply.sent_fraction > 0:
        await response.prepare(request)
        sent_bytes = int(len(body) * reply.sent_fraction)
        await response.write(body[:sent_bytes])
    if request.transport is not None:
        request.transport.close()
    return response
