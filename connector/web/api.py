"""The status page at `/status` and the API at `/api`, which page/openapi.json describes.

Who may: on loopback anybody may look who asks this machine by its own name, so that no web page of another site can
(DNS rebinding); elsewhere, and for whatever changes something, `http.token` is needed. Errors are RFC 9457's.
"""

from __future__ import annotations

import asyncio
import base64
import hashlib
import hmac
import logging
import re
import time
from importlib.resources import files
from typing import TYPE_CHECKING, Final, Literal
from urllib.parse import urlsplit

import msgspec
from aiohttp import hdrs, web

from connector.config.secrets import quote
from connector.config.values import is_loopback
from connector.web.server import REQUEST_SECONDS, STREAM, problem

if TYPE_CHECKING:
    from aiohttp.typedefs import Handler

    from connector.config.model import Http
    from connector.kafka.names import ShardId
    from connector.web.views import WorkerView

MAX_STREAMS: Final = 20
STREAM_SECONDS: Final = 3600.0
WRITE_SECONDS: Final = 10.0
"""A reader that takes nothing for so long is dropped."""

_BEAT_SECONDS: Final = 15.0
_WAIT_SECONDS: Final = REQUEST_SECONDS - 2
"""For a snapshot to be committed, before it is said to be on its way."""

_POLICY: Final = (
    "default-src 'none'; connect-src 'self'; img-src data:; base-uri 'none'; "
    "form-action 'none'; frame-ancestors 'none'"
)
_HOW: Final = "set http.token_file or http.token (GEX_HTTP__TOKEN_FILE) and restart"

_log = logging.getLogger(__name__)


class LogLevel(msgspec.Struct, forbid_unknown_fields=True):
    """The body of `PUT /api/log-level`."""

    level: Literal["DEBUG", "INFO", "WARNING", "ERROR"]


class Api:
    """Routes for the listener. `close` ends what is being streamed."""

    def __init__(
        self, http: Http, status: WorkerView, write_seconds: float = WRITE_SECONDS
    ) -> None:
        self._is_local, self._token = http.is_local, http.token
        self._status = status
        self._write_seconds = write_seconds
        self._streams = 0
        self._closed = asyncio.Event()
        assets = files("connector.web") / "page"
        self._page, self._openapi = (
            (assets / "status.html").read_text("utf-8"),
            (assets / "openapi.json").read_bytes(),
        )

    def routes(self) -> list[web.RouteDef]:
        """All of it."""
        return [
            web.get("/status", self._show),
            web.get("/api/openapi.json", self._guarded(self._describe)),
            web.get("/api/status", self._guarded(self._everything)),
            web.get("/api/schedule", self._guarded(self._schedule)),
            web.get(STREAM, self._guarded(self._events), allow_head=False),
            web.post(
                "/api/symbols/{symbol}/snapshot",
                self._guarded(self._snapshot, changes=True),
            ),
            web.put("/api/log-level", self._guarded(self._log_level, changes=True)),
        ]

    def close(self) -> None:
        """The worker stops: nobody is to wait for a stream."""
        self._closed.set()

    def _guarded(self, handler: Handler, *, changes: bool = False) -> Handler:
        needed = changes or not self._is_local

        async def guarded(request: web.Request) -> web.StreamResponse:
            return (
                self._foreign(request)
                or (needed and self._stranger(request))
                or await handler(request)
            )

        return guarded

    def _foreign(self, request: web.Request) -> web.Response | None:
        """What is wrong with where a request comes from: a browser says so, or it took us for another host."""
        if (
            request.headers.get("Sec-Fetch-Site", "none") not in {"none", "same-origin"}
            and request.path != "/status"
        ):
            return problem(403, "pages of other sites may not ask")
        if self._is_local and not _names_us(request.host):
            return problem(
                421,
                "on loopback ask for localhost or the address, not for another name",
            )
        return None

    def _stranger(self, request: web.Request) -> web.Response | None:
        """What is wrong with who asks."""
        if not self._token:
            return problem(403, f"this needs a token, and none is configured: {_HOW}")
        scheme, _, given = request.headers.get(hdrs.AUTHORIZATION, "").partition(" ")
        right = hmac.compare_digest(
            given.strip().encode(errors="surrogateescape"),
            self._token.reveal().encode(),
        )
        if scheme.lower() == "bearer" and right:
            return None
        return problem(
            401,
            "expected `Authorization: Bearer` and the token",
            {"WWW-Authenticate": "Bearer"},
        )

    async def _show(self, request: web.Request) -> web.Response:
        """The page, without any data, which it asks for itself."""
        inline = f"script-src {_hash(self._page, 'script')}; style-src {_hash(self._page, 'style')}"
        headers = {
            "Content-Security-Policy": f"{_POLICY}; {inline}",
            "Referrer-Policy": "no-referrer",
        }
        page = web.Response(text=self._page, content_type="text/html", headers=headers)
        return self._foreign(request) or page

    async def _describe(self, _: web.Request) -> web.Response:
        return _json(self._openapi)

    async def _everything(self, _: web.Request) -> web.Response:
        return _json(self._status.everything())

    async def _schedule(self, _: web.Request) -> web.Response:
        return _json(self._status.schedule())

    async def _events(self, request: web.Request) -> web.StreamResponse:
        if self._streams >= MAX_STREAMS:
            return problem(
                503, f"{MAX_STREAMS} readers are there already", {"Retry-After": "10"}
            )
        response = web.StreamResponse(headers={hdrs.CONTENT_TYPE: "text/event-stream"})
        self._streams += 1
        try:
            async with asyncio.timeout(self._write_seconds):
                await response.prepare(request)
            await self._stream(
                response,
                self._status.recent.place_of(request.headers.get("Last-Event-ID")),
            )
        except TimeoutError:
            if request.transport is not None:
                request.transport.abort()
        finally:
            self._streams -= 1
        return response

    async def _stream(self, response: web.StreamResponse, added: int) -> None:
        """Send events as they come. Returns after an hour, at the end, or where the reader fell behind what is kept.

        Raises TimeoutError where it takes nothing.
        """
        recent, ends_at = self._status.recent, time.monotonic() + STREAM_SECONDS
        while not self._closed.is_set() and time.monotonic() < ends_at:
            news, lines, total = recent.news, recent.since(added), recent.added
            if added and len(lines) < total - added:
                return
            text = b"".join(
                b"id: %s\ndata: %s\n\n"
                % (one["event_id"].encode(), msgspec.json.encode(one))
                for one in lines
            )
            added = total
            async with asyncio.timeout(self._write_seconds):
                await response.write(text or b":\n\n")
            await _first_of(news, self._closed)

    async def _snapshot(self, request: web.Request) -> web.Response:
        if await request.read():
            return problem(400, "this takes no body")
        symbol = request.match_info["symbol"].strip().upper()
        found = self._find(symbol, request.query.get("feed"))
        if isinstance(found, web.Response):
            return found
        shard = self._status.shard(found)
        if shard is None:
            owner = await self._status.owner_of(found)
            return problem(
                409, f"shard {found} is not this worker's: ask its owner", owner=owner
            )
        _log.info(
            "a snapshot was asked for", extra={"shard": str(found), "symbol": symbol}
        )
        asked = shard.ask(symbol)
        await asyncio.wait([asked], timeout=_WAIT_SECONDS)
        event = asked.result() if asked.done() else None
        if isinstance(event, str):
            return problem(409, f"no snapshot: {event}")
        said = {
            "event_id": event and event.event_id,
            "sequence": event and event.sequence,
        }
        return web.json_response(said, status=202 if event is None else 200)

    def _find(self, symbol: str, feed: str | None) -> ShardId | web.Response:
        found = [
            shard
            for (name, one), shard in self._status.where.items()
            if one == symbol and feed in {None, name}
        ]
        if len(found) == 1:
            return found[0]
        if found:
            return problem(
                400,
                f"it is in several feeds, say which: ?feed={'|'.join(shard.feed for shard in found)}",
            )
        return problem(
            404,
            f"{quote(symbol)} is not configured{'' if feed is None else ' in this feed'}",
        )

    async def _log_level(self, request: web.Request) -> web.Response:
        if request.content_type != "application/json":
            return problem(415, "expected application/json")
        try:
            wanted = msgspec.json.decode(await request.read(), type=LogLevel).level
        except msgspec.DecodeError:
            return problem(
                400, 'expected {"level": "DEBUG"}, or INFO, WARNING or ERROR'
            )
        ours = logging.getLogger("connector")
        before = logging.getLevelName(ours.getEffectiveLevel())
        _log.warning(
            "the log level was set", extra={"log_level": wanted, "before": before}
        )
        ours.setLevel(wanted)
        return web.json_response({"level": wanted, "before": before})


async def _first_of(*events: asyncio.Event) -> None:
    """Wait for one of them, but not for ever: a reader that is gone is noticed by writing to it."""
    waiting = [asyncio.create_task(event.wait()) for event in events]
    try:
        await asyncio.wait(
            waiting, timeout=_BEAT_SECONDS, return_when=asyncio.FIRST_COMPLETED
        )
    finally:
        for task in waiting:
            task.cancel()


def _json(body: bytes) -> web.Response:
    return web.Response(body=body, content_type="application/json")


def _names_us(host: str) -> bool:
    """Whether a Host header names this machine and nothing else."""
    try:
        return is_loopback(urlsplit(f"//{host}").hostname or "")
    except ValueError:
        return False


def _hash(page: str, element: str) -> str:
    """How a Content-Security-Policy names the one inline element of a kind (W3C CSP 3, hash sources)."""
    inside = re.search(rf"<{element}>(.*?)</{element}>", page, re.DOTALL)
    digest = hashlib.sha256((inside[1] if inside else "").encode()).digest()
    return f"'sha256-{base64.b64encode(digest).decode()}'"
