"""Routes of the status page at `/status` and of the API at `/api`.

`page/openapi.json` describes the API. Errors are RFC 9457 problem details.
"""

from __future__ import annotations

import asyncio
import logging
from importlib.resources import files
from typing import TYPE_CHECKING, Final

import msgspec
from aiohttp import ETag, hdrs, web

from connector.config.secrets import quote
from connector.web import answers
from connector.web.access import Access
from connector.web.events import WRITE_SECONDS, EventStreams
from connector.web.levels import etag_of
from connector.web.server import REQUEST_SECONDS, STREAM_PATH, json_response, problem
from connector.web.status_page import StatusPage

if TYPE_CHECKING:
    from multidict import MultiMapping

    from connector.config.model import Http
    from connector.kafka.names import ShardId
    from connector.web.levels import Key
    from connector.web.views import WorkerView

PAGE_PATH: Final = "/status"

# Time for a snapshot to be committed before the answer is 202, within the request's.
COMMIT_WAIT_SECONDS: Final = REQUEST_SECONDS - 2

_log = logging.getLogger(__name__)


class Api:
    """Routes for the listener."""

    def __init__(
        self, http: Http, view: WorkerView, write_seconds: float = WRITE_SECONDS
    ) -> None:
        self._view = view
        self._access = Access(http)
        symbols = {symbol for _, symbol in view.shard_ids}
        self._symbols = frozenset(symbols)
        # Of those with the same letters, the first: it is set last.
        self._symbols_by_letters = {
            symbol.casefold(): symbol for symbol in sorted(symbols, reverse=True)
        }
        self.streams = EventStreams(view.recent, write_seconds)
        page = files("connector.web") / "page"
        self._page = StatusPage((page / "status.html").read_text("utf-8"))
        self._openapi = (page / "openapi.json").read_bytes()

    def routes(self) -> list[web.RouteDef]:
        """Return every route, each with its rules of access."""
        guard = self._access.guard
        snapshot = "/api/symbols/{symbol}/snapshot"
        return [
            web.get("/", self._redirect_to_page),
            web.get(PAGE_PATH, self._get_page),
            web.get("/api/openapi.json", guard(self._get_openapi)),
            web.get("/api/status", guard(self._get_status)),
            web.get("/api/schedule", guard(self._get_schedule)),
            web.get("/api/levels", guard(self._get_levels)),
            # HEAD would open a stream and never read it.
            web.get(STREAM_PATH, guard(self.streams.serve), allow_head=False),
            web.post(snapshot, guard(self._post_snapshot, changes=True)),
            web.put("/api/log-level", guard(self._put_log_level, changes=True)),
        ]

    def close(self) -> None:
        """End the event streams, so that the listener can stop at once."""
        self.streams.close()
        self._view.levels.close()

    async def _get_page(self, request: web.Request) -> web.Response:
        # The page has no data, so it needs no token; it asks the user for it.
        refusal = self._access.refuse_origin(request, links_allowed=True)
        return self._page.response() if refusal is None else refusal

    async def _redirect_to_page(self, _: web.Request) -> web.Response:
        # The log and the demo print the address without a path.
        return web.Response(status=302, headers={hdrs.LOCATION: PAGE_PATH})

    async def _get_openapi(self, _: web.Request) -> web.Response:
        return json_response(self._openapi)

    async def _get_status(self, _: web.Request) -> web.Response:
        return json_response(self._view.status_json())

    async def _get_schedule(self, _: web.Request) -> web.Response:
        return json_response(self._view.schedule_json())

    async def _get_levels(self, request: web.Request) -> web.Response:
        """Return the levels, or 304 if nothing but their age has changed."""
        wanted = self._wanted(request.query)
        if isinstance(wanted, web.Response):
            return wanted
        answer = await self._view.levels.answer(wanted)
        etag = ETag(etag_of(answer), is_weak=True)
        if etag in (request.if_none_match or ()):
            response = web.Response(status=304)
        else:
            response = json_response(answer)
        response.etag = etag
        # A program may keep the answer, but has to ask if it still holds.
        response.headers[hdrs.CACHE_CONTROL] = "private, no-cache"
        return response

    def _wanted(self, query: MultiMapping[str]) -> list[Key] | web.Response:
        """Return the configured symbols that a query asks for, or an error."""
        unknown = set(query) - {"feed", "symbol"}
        if unknown:
            return problem(
                400,
                f"unknown query parameter {quote(min(unknown))}; expected feed or symbol",
            )
        feeds = query.getall("feed", [])
        typed = query.getall("symbol", [])
        # As the keys of a dict: a URL has room for hundreds, and a worker for thousands.
        symbols = dict.fromkeys(self._configured_name(name.strip()) for name in typed)
        wanted = []
        for feed, symbol in self._view.shard_ids:
            is_of_feed = not feeds or feed in feeds
            if is_of_feed and (not symbols or symbol in symbols):
                wanted.append((feed, symbol))

        known_feeds = {feed for feed, _ in self._view.shard_ids}
        for feed in feeds:
            if feed not in known_feeds:
                return problem(404, f"feed {quote(feed)} is not configured")
        found = {symbol for _, symbol in wanted}
        for symbol in symbols:
            if symbol not in found:
                place = " in the feed" if feeds else ""
                return problem(404, f"symbol {quote(symbol)} is not configured{place}")
        return wanted

    async def _post_snapshot(self, request: web.Request) -> web.Response:
        """Publish a symbol's levels again.

        Idempotent until the event is committed: requests share one snapshot.
        """
        if await request.read():
            return problem(400, "unexpected request body; this request takes none")
        symbol = self._configured_name(request.match_info["symbol"].strip())
        found = self._find_shard(symbol, request.query.get("feed"))
        if isinstance(found, web.Response):
            return found
        shard = self._view.owned_shard(found)
        if shard is None:
            return problem(
                409,
                f"shard {found} belongs to another worker; send the request to it",
                owner=await self._view.owner_of(found),
            )

        fields = {"shard": str(found), "symbol": symbol}
        _log.info("snapshot requested", extra=fields)
        snapshot = shard.request_snapshot(symbol)
        # `wait` leaves the snapshot pending at the time limit; `wait_for` would cancel
        # it for everybody who waits for it.
        await asyncio.wait([snapshot], timeout=COMMIT_WAIT_SECONDS)
        if not snapshot.done():
            pending = answers.SnapshotAnswer(event_id=None, sequence=None)
            return json_response(pending, status=202)
        event = snapshot.result()
        if isinstance(event, str):
            return problem(409, f"no snapshot: {event}")
        return json_response(
            answers.SnapshotAnswer(event_id=event.event_id, sequence=event.sequence)
        )

    def _configured_name(self, typed: str) -> str:
        """Return the configured symbol that a person has typed in any case."""
        # Another feed may have the same letters in another case.
        if typed in self._symbols:
            return typed
        return self._symbols_by_letters.get(typed.casefold(), typed)

    def _find_shard(self, symbol: str, feed: str | None) -> ShardId | web.Response:
        """Return the shard of a configured symbol, or an error."""
        found = []
        for (feed_name, name), shard_id in self._view.shard_ids.items():
            if name == symbol and feed in {None, feed_name}:
                found.append(shard_id)
        if len(found) == 1:
            return found[0]
        if found:
            feeds = "|".join(shard_id.feed for shard_id in found)
            return problem(
                400, f"symbol {quote(symbol)} is in several feeds; add ?feed={feeds}"
            )
        place = "" if feed is None else f" in feed {quote(feed)}"
        return problem(404, f"symbol {quote(symbol)} is not configured{place}")

    async def _put_log_level(self, request: web.Request) -> web.Response:
        if request.content_type != "application/json":
            return problem(
                415,
                f"unsupported Content-Type {quote(request.content_type)}; "
                "expected application/json",
            )
        try:
            level = msgspec.json.decode(
                await request.read(), type=answers.LogLevelRequest
            ).level
        except msgspec.DecodeError:
            return problem(
                400,
                'invalid request body; expected {"level": "DEBUG"} '
                "with DEBUG, INFO, WARNING or ERROR",
            )
        logger = logging.getLogger("connector")
        before = logging.getLevelName(logger.getEffectiveLevel())
        # A warning, so that it is logged at either level.
        _log.warning("log level changed", extra={"log_level": level, "before": before})
        logger.setLevel(level)
        return json_response(answers.LogLevelAnswer(level=level, before=before))
