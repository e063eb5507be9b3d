"""The client against a server of the test's own: what the documentation says, and what proxies do."""

from __future__ import annotations

import asyncio
import gzip
import json
import os
import ssl
import sys
import time
import tracemalloc
import zlib
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from typing import TYPE_CHECKING, Any, Final

import pytest
import trustme
from aiohttp import web

from connector.config.model import Upstream
from connector.config.secrets import Secret
from connector.core.decode import RateLimit
from connector.core.model import Status
from connector.errors import (
    BadResponse,
    KeyRefused,
    NothingFound,
    RateLimited,
    RequestRefused,
    UpstreamError,
    UpstreamUnavailable,
)
from connector.upstream.api_key import ApiKey
from connector.upstream.budget import Budget
from connector.upstream.client import Client, LevelsAnswer, LevelsRequest
from tests.support.levels import document, encoded

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable
    from pathlib import Path

    Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]

KEY: Final = "bq_live_0123456789abcdefghijklmnopqrstuv"
OTHER_KEY: Final = "bq_live_ZYXWVUTSRQPONMLKJIHGFEDCBA987654"
REQUEST: Final = LevelsRequest(("BTCUSDT", "ETHUSDT"))
META: Final = {
    "version": "2",
    "timestamp": "2027-01-15T08:00:00Z",
    "request_id": "req-1",
}
GOOD: Final = encoded(
    {
        "success": True,
        "data": {"results": {"BTCUSDT": document(), "ETHUSDT": {}}},
        "meta": META,
    }
)
JSON: Final = {"Content-Type": "application/json"}


def answering(
    body: bytes = GOOD, status: int = 200, headers: dict[str, str] | None = None
) -> Handler:
    async def handler(_: web.Request) -> web.Response:
        return web.Response(
            body=body, status=status, headers={**JSON, **(headers or {})}
        )

    return handler


def refusal(
    code: Any, message: Any = "because", details: Any = None, **meta: Any
) -> bytes:
    error = {"code": code, "message": message, "details": details or {}}
    return encoded({"success": False, "error": error, "meta": {**META, **meta}})


@dataclass
class Server:
    """Answers as `handler` says, and remembers what it was asked."""

    handler: Handler = field(default_factory=answering)
    seen: list[web.Request] = field(default_factory=list)
    url: str = ""
    never: asyncio.Event = field(default_factory=asyncio.Event)

    async def handle(self, request: web.Request) -> web.StreamResponse:
        self.seen.append(request)
        return await self.handler(request)

    async def hang(self, _: web.Request) -> web.StreamResponse:
        await self.never.wait()
        return web.Response()


async def serving(
    server: Server, context: ssl.SSLContext | None = None
) -> AsyncIterator[Server]:
    application = web.Application()
    application.router.add_route("*", "/{path:.*}", server.handle)
    runner = web.AppRunner(
        application, access_log=None, handler_cancellation=True, shutdown_timeout=0.1
    )
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0, ssl_context=context)
    await site.start()
    [(host, port)] = [address[:2] for address in runner.addresses]
    server.url = f"{'https' if context else 'http'}://{host}:{port}"
    yield server
    server.never.set()
    await runner.cleanup()


@pytest.fixture
async def server() -> AsyncIterator[Server]:
    async for one in serving(Server()):
        yield one


@pytest.fixture
async def elsewhere() -> AsyncIterator[Server]:
    """A second server, to which nobody should send anything."""
    async for one in serving(Server()):
        yield one


@dataclass
class Asker:
    """The client under test and its parts."""

    client: Client
    key: ApiKey
    budget: Budget

    async def check(self, request: LevelsRequest = REQUEST) -> LevelsAnswer:
        async with self.budget.request() as permit:
            return await self.client.fetch_levels(request, permit)

    @property
    def wait_seconds(self) -> float:
        return self.budget.spending(time.monotonic()).wait_seconds

    async def fails(self) -> UpstreamError:
        with pytest.raises(UpstreamError) as caught:
            await self.check()
        return caught.value


@pytest.fixture
async def asker(server: Server) -> AsyncIterator[Asker]:
    async for one in asking(
        Upstream(base_url=f"{server.url}/v2/", api_key=Secret(KEY), timeout_seconds=20)
    ):
        yield one


async def asking(upstream: Upstream) -> AsyncIterator[Asker]:
    key, budget = ApiKey(upstream), Budget(upstream.max_requests_per_minute)
    client = Client(upstream, key, budget)
    yield Asker(client, key, budget)
    await client.close()


@pytest.fixture
async def hasty(server: Server) -> AsyncIterator[Asker]:
    """A client whose time is soon over."""
    upstream = Upstream(base_url=server.url, api_key=Secret(KEY), timeout_seconds=0.25)
    async for one in asking(upstream):
        yield one


async def test_a_request_has_the_documented_form(server: Server, asker: Asker) -> None:
    await asker.check(
        LevelsRequest(("ETHUSDT", "BTCUSDT"), ("okx", "bybit"), ("ranked", "zones"))
    )
    await asker.check(LevelsRequest(("BTCUSDT",)))
    first, second = server.seen
    assert (first.method, first.path) == ("GET", "/v2/multi/gex/levels")
    assert dict(first.query) == {
        "symbols": "ETHUSDT,BTCUSDT",
        "exchanges": "okx,bybit",
        "include": "ranked,zones",
    }
    assert dict(second.query) == {"symbols": "BTCUSDT"}
    assert first.headers["X-API-Key"] == KEY
    assert KEY not in first.path_qs


async def test_an_answer_is_decoded_and_timed(asker: Asker) -> None:
    before = time.time_ns() // 1000
    answer = await asker.check()
    assert before <= answer.sent_at <= answer.received_at <= time.time_ns() // 1000
    assert answer.response.meta.request_id == "req-1"
    entry = answer.response.answers["BTCUSDT"]
    assert isinstance(entry, bytes)
    assert json.loads(entry) == document()


async def test_a_connection_is_kept(server: Server, asker: Asker) -> None:
    for _ in range(3):
        await asker.check()
    assert len({id(request.transport) for request in server.seen}) == 1


@pytest.mark.parametrize(
    ("status", "code", "kind"),
    [
        (400, "VALIDATION_ERROR", RequestRefused),
        (422, "VALIDATION_ERROR", RequestRefused),
        (404, "NOT_FOUND", NothingFound),
        (401, "UNAUTHORIZED", KeyRefused),
        (403, "FORBIDDEN", KeyRefused),
        (429, "RATE_LIMIT_EXCEEDED", RateLimited),
        (500, "INTERNAL_ERROR", UpstreamUnavailable),
        (502, "UPSTREAM_ERROR", UpstreamUnavailable),
        (503, "UPSTREAM_ERROR", UpstreamUnavailable),
        (504, "UPSTREAM_ERROR", UpstreamUnavailable),
        (200, "VALIDATION_ERROR", RequestRefused),
        (200, "RATE_LIMIT_EXCEEDED", RateLimited),
        (200, "UNAUTHORIZED", KeyRefused),
        (500, "SOMETHING_NEW", UpstreamUnavailable),
        (401, "SOMETHING_NEW", KeyRefused),
        (429, "SOMETHING_NEW", RateLimited),
        (418, "SOMETHING_NEW", BadResponse),
        (200, "SOMETHING_NEW", BadResponse),
        (200, None, BadResponse),
        (503, ["UNAUTHORIZED"], UpstreamUnavailable),
    ],
)
async def test_a_refusal_is_the_error_that_its_code_names(
    server: Server, asker: Asker, status: int, code: Any, kind: type[UpstreamError]
) -> None:
    server.handler = answering(refusal(code), status, {"X-Request-ID": "req-header"})
    error = await asker.fails()
    assert type(error) is kind
    assert (error.status, error.request_id) == (status, "req-header")
    assert len(server.seen) == 1


async def test_a_refused_request_says_why_and_whether_nothing_is_there(
    server: Server, asker: Asker
) -> None:
    server.handler = answering(
        refusal("VALIDATION_ERROR", details={"errors": ["symbols: XXX"]}), 422
    )
    error = await asker.fails()
    assert isinstance(error, RequestRefused)
    assert "symbols: XXX" in str(error)
    assert (isinstance(error, NothingFound), error.request_id) == (False, "req-1")
    server.handler = answering(refusal("NOT_FOUND"), 404)
    error = await asker.fails()
    assert isinstance(error, RequestRefused)
    assert isinstance(error, NothingFound)


@pytest.mark.parametrize(
    ("status", "kind"),
    [
        (200, BadResponse),
        (204, BadResponse),
        (302, BadResponse),
        (400, BadResponse),
        (404, BadResponse),
        (407, BadResponse),
        (422, BadResponse),
        (401, KeyRefused),
        (403, KeyRefused),
        (429, RateLimited),
        (500, UpstreamUnavailable),
        (502, UpstreamUnavailable),
        (503, UpstreamUnavailable),
        (520, UpstreamUnavailable),
    ],
)
@pytest.mark.parametrize(
    "body",
    [b"<html>Bad Gateway</html>", b"", GOOD[:-20], b"[]"],
    ids=["html", "empty", "cut", "list"],
)
async def test_a_proxys_answer_says_nothing_about_our_symbols(
    server: Server, asker: Asker, status: int, kind: type[UpstreamError], body: bytes
) -> None:
    server.handler = answering(body, status, {"Content-Type": "text/html"})
    error = await asker.fails()
    assert (type(error), error.status) == (kind, status)
    assert len(server.seen) == 1


async def test_an_error_status_with_the_body_of_an_answer_is_no_answer(
    server: Server, asker: Asker
) -> None:
    server.handler = answering(GOOD, 503)
    assert type(await asker.fails()) is UpstreamUnavailable


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
async def test_a_redirect_is_not_followed_and_the_key_goes_nowhere_else(
    server: Server, elsewhere: Server, asker: Asker, status: int
) -> None:
    for location in (
        f"{elsewhere.url}/v2/multi/gex/levels",
        "/v2/other",
        f"//{elsewhere.url[7:]}/",
    ):
        server.handler = answering(b"", status, {"Location": location})
        assert type(await asker.fails()) is BadResponse
    assert len(server.seen) == 3
    assert {request.path for request in server.seen} == {"/v2/multi/gex/levels"}
    assert elsewhere.seen == []


async def test_a_body_cut_off_by_the_connection_is_no_answer(
    server: Server, asker: Asker
) -> None:
    async def cut(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse(
            headers={"Content-Length": str(len(GOOD)), **JSON}
        )
        await response.prepare(request)
        await response.write(GOOD[:100])
        assert request.transport is not None
        request.transport.close()
        return response

    server.handler = cut
    assert type(await asker.fails()) is UpstreamUnavailable
    assert len(server.seen) == 1


async def test_a_huge_body_is_not_read_to_its_end(server: Server, asker: Asker) -> None:
    written = 0

    async def huge(request: web.Request) -> web.StreamResponse:
        nonlocal written
        response = web.StreamResponse()
        await response.prepare(request)
        for _ in range(20):
            await response.write(b" " * 2**20)
            written += 1
        return response

    server.handler = huge
    assert type(await asker.fails()) is BadResponse
    assert written < 20


async def test_a_small_body_that_unpacks_to_a_huge_one_is_refused(
    server: Server, asker: Asker
) -> None:
    packer = zlib.compressobj(9, wbits=31)
    bomb = b"".join([packer.compress(bytes(2**20)) for _ in range(64)]) + packer.flush()
    assert len(bomb) < 2**20
    server.handler = answering(bomb, headers={"Content-Encoding": "gzip"})
    tracemalloc.start()
    assert type(await asker.fails()) is BadResponse
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 32 * 2**20


@pytest.mark.parametrize("encoding", ["gzip", "GZIP", "x-gzip"])
async def test_a_compressed_answer_is_unpacked(
    server: Server, asker: Asker, encoding: str
) -> None:
    server.handler = answering(
        gzip.compress(GOOD), headers={"Content-Encoding": encoding}
    )
    assert (await asker.check()).response.answers["ETHUSDT"] == b"{}"


@pytest.mark.parametrize(
    ("body", "encoding"),
    [
        (gzip.compress(GOOD)[:-30], "gzip"),
        (GOOD, "gzip"),
        (b"", "gzip"),
        (GOOD, "br"),
        (GOOD, "unheard-of"),
        (zlib.compress(GOOD), "deflate"),
        (gzip.compress(gzip.compress(GOOD)), "gzip, gzip"),
    ],
    ids=["cut", "not packed", "empty", "br", "unknown", "deflate", "twice"],
)
async def test_a_body_that_cannot_be_unpacked_is_no_answer(
    server: Server, asker: Asker, body: bytes, encoding: str
) -> None:
    server.handler = answering(body, headers={"Content-Encoding": encoding})
    assert type(await asker.fails()) is BadResponse
    assert len(server.seen) == 1


@pytest.mark.parametrize(
    ("status", "kind"),
    [
        (429, RateLimited),
        (401, KeyRefused),
        (503, UpstreamUnavailable),
        (404, BadResponse),
    ],
)
async def test_a_status_counts_though_its_body_cannot_be_read(
    server: Server, asker: Asker, status: int, kind: type[UpstreamError]
) -> None:
    server.handler = answering(
        b"\x1b\x2a", status, {"Content-Encoding": "br", "Retry-After": "17"}
    )
    error = await asker.fails()
    assert (type(error), error.retry_after_seconds) == (kind, 17)


@pytest.mark.parametrize("requests_before", [0, 1])
async def test_a_dropped_connection_is_one_request_and_no_more(
    server: Server, asker: Asker, requests_before: int
) -> None:
    for _ in range(requests_before):
        await asker.check()

    async def drop(request: web.Request) -> web.StreamResponse:
        assert request.transport is not None
        request.transport.abort()
        return web.Response()

    server.handler = drop
    assert type(await asker.fails()) is UpstreamUnavailable
    assert len(server.seen) == requests_before + 1


async def test_nobody_listening_is_an_upstream_that_is_not_available() -> None:
    async for asker in asking(
        Upstream(base_url="http://127.0.0.1:1", api_key=Secret(KEY))
    ):
        assert type(await asker.fails()) is UpstreamUnavailable


async def test_an_answer_that_never_comes_ends_with_the_time_out(
    server: Server, hasty: Asker
) -> None:
    server.handler = server.hang
    assert type(await hasty.fails()) is UpstreamUnavailable
    assert len(server.seen) == 1


async def test_an_answer_that_trickles_ends_with_the_same_time_out(
    server: Server, hasty: Asker
) -> None:
    async def trickle(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse()
        await response.prepare(request)
        while True:
            await response.write(b" ")
            await asyncio.sleep(0.02)  # the server's slowness, not the test's

    server.handler = trickle
    started = time.monotonic()
    assert type(await hasty.fails()) is UpstreamUnavailable
    assert time.monotonic() - started < 5


async def test_headers_that_are_too_large_are_an_error_and_one_request(
    server: Server, asker: Asker
) -> None:
    server.handler = answering(headers={"X-Large": KEY * 2_000})
    error = await asker.fails()
    assert_hidden(str(error))
    assert len(server.seen) == 1


@pytest.mark.parametrize(
    "body", [b"<html/>", refusal("RATE_LIMIT_EXCEEDED")], ids=["html", "json"]
)
@pytest.mark.parametrize(
    ("header", "seconds"),
    [
        ("30", 30.0),
        ("0", 0.0),
        ("99999999", 3600.0),
        ("-5", None),
        ("soon", None),
        ("", None),
        ("9" * 500, None),
    ],
)
async def test_retry_after_is_taken_in_seconds(
    server: Server, asker: Asker, header: str, seconds: float | None, body: bytes
) -> None:
    server.handler = answering(body, 429, {"Retry-After": header})
    error = await asker.fails()
    assert isinstance(error, RateLimited)
    assert error.retry_after_seconds == seconds


@pytest.mark.parametrize(
    ("later", "seconds"), [(timedelta(seconds=42), 42), (timedelta(days=-1), 0)]
)
async def test_retry_after_may_be_a_date_by_the_servers_clock(
    server: Server, asker: Asker, later: timedelta, seconds: float
) -> None:
    date = datetime(2001, 2, 3, tzinfo=UTC)
    headers = {
        "Date": format_datetime(date, usegmt=True),
        "Retry-After": format_datetime(date + later, usegmt=True),
    }
    server.handler = answering(b"", 503, headers)
    assert (await asker.fails()).retry_after_seconds == seconds


@pytest.mark.parametrize(
    ("given", "seconds"),
    [
        (12, 12.0),
        (1.5, 1.5),
        (0, 0.0),
        (10**400, 3600.0),
        (-3, 0.0),
        ("5", None),
        (None, None),
        ([], None),
    ],
)
async def test_retry_after_may_stand_in_the_body(
    server: Server, asker: Asker, given: Any, seconds: float | None
) -> None:
    server.handler = answering(
        refusal("RATE_LIMIT_EXCEEDED", details={"retry_after_seconds": given}), 429
    )
    assert (await asker.fails()).retry_after_seconds == seconds


@pytest.mark.parametrize("status", [429, 500, 503, 418])
async def test_after_a_retry_after_nothing_is_asked_for_so_long(
    server: Server, asker: Asker, status: int
) -> None:
    server.handler = answering(b"", status, {"Retry-After": "17"})
    await asker.fails()
    assert 15 < asker.wait_seconds <= 17


@pytest.mark.parametrize(
    ("status", "body"),
    [
        (401, b""),
        (404, refusal("NOT_FOUND")),
        (422, refusal("VALIDATION_ERROR")),
        (503, b""),
    ],
)
async def test_one_that_is_about_our_key_or_request_only_holds_nothing(
    server: Server, asker: Asker, status: int, body: bytes
) -> None:
    server.handler = answering(
        body, status, {"Retry-After": "0" if status == 503 else "17"}
    )
    await asker.fails()
    assert asker.wait_seconds == 0


async def test_what_waited_before_a_retry_after_waits_as_well_and_goes_soon_after_it_in_order(
    server: Server, asker: Asker
) -> None:
    asker.budget.pause(time.monotonic() + 0.3)
    symbols = ("BTCUSDT", "ETHUSDT", "SOLUSDT")
    asks = [
        asyncio.create_task(asker.check(LevelsRequest((symbol,)))) for symbol in symbols
    ]
    await asyncio.sleep(0)
    until = time.monotonic() + 1.0
    asker.budget.pause(until)
    await asyncio.gather(*asks)
    assert until <= time.monotonic() < until + 1
    assert [request.query["symbols"] for request in server.seen] == list(symbols)


async def test_those_that_wait_never_start_more_than_the_budget(server: Server) -> None:
    upstream = Upstream(
        base_url=server.url, api_key=Secret(KEY), max_requests_per_minute=2
    )
    async for asker in asking(upstream):
        asker.budget.pause(time.monotonic() + 0.1)
        asks = [asyncio.create_task(asker.check()) for _ in range(5)]
        done, waiting = await asyncio.wait(asks, timeout=1)
        for ask in waiting:
            ask.cancel()
        assert len(done) == len(server.seen) == 2


async def test_the_rate_limit_comes_from_the_headers(
    server: Server, asker: Asker
) -> None:
    reset = int(time.time()) + 30
    limits = {
        "X-RateLimit-Limit": "60",
        "X-RateLimit-Remaining": "41",
        "X-RateLimit-Reset": str(reset),
    }
    server.handler = answering(headers=limits)
    assert (await asker.check()).rate_limit == RateLimit(60, 41, reset)


async def test_the_rate_limit_comes_from_the_body_where_there_are_no_headers(
    server: Server, asker: Asker
) -> None:
    meta = {"rate_limit": {"limit": 30, "remaining": 29, "reset": 1_800_000_030}}
    server.handler = answering(
        encoded({"data": {"results": {}}, "meta": {**META, **meta}})
    )
    answer = await asker.check()
    assert answer.rate_limit == RateLimit(30, 29, 1_800_000_030)
    assert set(answer.response.answers.values()) == {Status.MISSING}
    assert asker.budget.spending(time.monotonic()).limit_per_minute == 30


@pytest.mark.parametrize("wrong", ["", "many", "-1", "1e9", "\u00b2", "9" * 400])
async def test_headers_that_are_no_numbers_are_ignored(
    server: Server, asker: Asker, wrong: str
) -> None:
    server.handler = answering(
        headers={
            f"X-RateLimit-{name}": wrong for name in ("Limit", "Remaining", "Reset")
        }
    )
    assert (await asker.check()).rate_limit == RateLimit()
    assert asker.wait_seconds == 0


@pytest.mark.parametrize(
    ("status", "body"),
    [(200, GOOD), (429, b""), (503, b"<html/>"), (401, refusal("UNAUTHORIZED"))],
    ids=str,
)
async def test_the_limiter_hears_of_what_is_left_whatever_the_answer(
    server: Server, asker: Asker, status: int, body: bytes
) -> None:
    server.handler = answering(
        body,
        status,
        {
            "Date": "Fri, 15 Jan 2027 08:00:00 GMT",
            "X-RateLimit-Remaining": "0",
            "X-RateLimit-Reset": "1800000020",
        },
    )
    try:
        await asker.check()
    except UpstreamError:
        assert status != 200
    assert 15 < asker.wait_seconds <= 20


@pytest.mark.parametrize("how", ["answered", "html", "dropped", "hung"])
async def test_every_request_counts_against_the_budget_however_it_ended(
    server: Server, how: str
) -> None:
    async def drop(request: web.Request) -> web.StreamResponse:
        assert request.transport is not None
        request.transport.close()
        return web.Response()

    server.handler = {
        "answered": answering(),
        "html": answering(b"x", 502),
        "dropped": drop,
        "hung": server.hang,
    }[how]
    upstream = Upstream(
        base_url=server.url,
        api_key=Secret(KEY),
        timeout_seconds=0.25,
        max_requests_per_minute=1,
    )
    async for asker in asking(upstream):
        try:
            await asker.check()
        except UpstreamError:
            assert how != "answered"
        assert asker.wait_seconds > 50
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(asker.check(), 0.05)
    assert len(server.seen) == 1


def assert_hidden(*shown: object) -> None:
    """Neither the key nor a part of it that is worth anything."""
    for one in shown:
        for text in (str(one), repr(one)):
            for start in range(8, len(KEY) - 8):
                assert KEY[start : start + 8] not in text


ECHOES: Final[dict[str, tuple[int, bytes, dict[str, str]]]] = {
    "message": (401, refusal("UNAUTHORIZED", f"unknown key {KEY}"), {}),
    "message_cut_in_the_key": (401, refusal("UNAUTHORIZED", "x" * 180 + KEY), {}),
    "message_cut_at_the_end": (401, refusal("UNAUTHORIZED", "x" * 480 + KEY), {}),
    "code": (401, refusal(KEY), {}),
    "details": (
        422,
        refusal(
            "VALIDATION_ERROR", details={"errors": [{"headers": {"X-API-Key": KEY}}]}
        ),
        {},
    ),
    "details_cut": (
        422,
        refusal("VALIDATION_ERROR", details={"errors": ["y" * 170 + KEY]}),
        {},
    ),
    "request_id": (503, refusal("UPSTREAM_ERROR", request_id=KEY), {}),
    "request_id_header": (503, b"", {"X-Request-ID": f"{KEY}/1"}),
    "request_id_header_cut": (503, b"", {"X-Request-ID": "z" * 180 + KEY}),
    "html": (502, f"<html>{KEY}</html>".encode(), {}),
    "truncated_json": (
        200,
        f'{{"success":false,"error":{{"message":"{KEY}'.encode(),
        {},
    ),
    "json_key": (200, encoded({KEY: KEY}), {}),
    "wrong_type": (200, encoded({"data": KEY}), {}),
    "content_encoding": (200, b"x", {"Content-Encoding": KEY}),
    "content_encoding_cut": (200, b"x", {"Content-Encoding": "zzz" + KEY}),
    "location": (302, b"", {"Location": f"https://login.example/?key={KEY}"}),
    "retry_after": (429, b"", {"Retry-After": KEY}),
}


@pytest.mark.parametrize(("status", "body", "headers"), ECHOES.values(), ids=ECHOES)
async def test_a_key_that_the_server_repeats_is_in_no_error(
    server: Server, asker: Asker, status: int, body: bytes, headers: dict[str, str]
) -> None:
    server.handler = answering(body, status, headers)
    error = await asker.fails()
    assert_hidden(error, error.request_id)


async def test_a_key_that_the_server_repeats_is_in_no_answer(
    server: Server, asker: Asker
) -> None:
    meta = {**META, "request_id": KEY, "exchanges_filtered": [KEY]}
    server.handler = answering(
        encoded({"data": {"results": {"BTCUSDT": {"echo": KEY}}}, "meta": meta})
    )
    assert_hidden(await asker.check())


async def test_a_key_that_was_rotated_while_it_was_used_is_in_no_error(
    server: Server, tmp_path: Path
) -> None:
    file, keys = tmp_path / "key", list[ApiKey]()
    file.write_text(KEY)

    async def rotate_and_repeat(request: web.Request) -> web.StreamResponse:
        file.write_text(f"{OTHER_KEY}\n\n")
        assert keys[0].refresh()
        return web.Response(
            body=refusal("UNAUTHORIZED", f"bad key {request.headers['X-API-Key']}"),
            status=401,
        )

    server.handler = rotate_and_repeat
    async for asker in asking(
        Upstream(base_url=server.url, api_key=Secret(KEY), api_key_file=str(file))
    ):
        keys.append(asker.key)
        assert_hidden(await asker.fails())


async def test_the_next_request_goes_with_the_key_that_the_file_has_now(
    server: Server, tmp_path: Path
) -> None:
    file, new = tmp_path / "key", tmp_path / "new"
    file.write_text(KEY)
    async for asker in asking(
        Upstream(base_url=server.url, api_key=Secret(KEY), api_key_file=str(file))
    ):
        assert not asker.key.refresh()
        await asker.check()
        new.write_text(f"  {OTHER_KEY}\n")
        new.replace(file)
        assert asker.key.refresh()
        assert not asker.key.refresh()
        await asker.check()
    assert [request.headers["X-API-Key"] for request in server.seen] == [KEY, OTHER_KEY]


@pytest.mark.parametrize(
    "content",
    ["", " \n", "two words", "x" * 5_000, "\x00\x01"],
    ids=["empty", "blank", "words", "long", "bin"],
)
def test_a_file_that_holds_no_key_changes_nothing_until_it_does(
    tmp_path: Path, content: str
) -> None:
    file = tmp_path / "key"
    file.write_text(KEY)
    key = ApiKey(Upstream(api_key=Secret(KEY), api_key_file=str(file)))
    file.write_text(content)
    assert not key.refresh()
    file.unlink()
    assert not key.refresh()
    assert key.secret == Secret(KEY)
    file.write_text(OTHER_KEY)
    assert key.refresh()
    assert key.secret == Secret(OTHER_KEY)


def test_a_file_written_again_with_the_same_key_is_no_change(tmp_path: Path) -> None:
    file = tmp_path / "key"
    file.write_text(KEY)
    key = ApiKey(Upstream(api_key=Secret(KEY), api_key_file=str(file)))
    file.write_text(f"{KEY}\n")
    assert not key.refresh()


def test_a_file_that_holds_no_key_is_said_once_and_changes_nothing(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    file = tmp_path / "key"
    file.write_text(KEY)
    key = ApiKey(Upstream(api_key=Secret(KEY), api_key_file=str(file)))
    file.write_text("")
    assert not any(key.refresh() for _ in range(3))
    assert key.secret == Secret(KEY)
    assert [record.message for record in caplog.records] == [
        "cannot read API key file; keeping the previous key"
    ]


def test_a_key_rotated_before_anyone_looked_is_found(tmp_path: Path) -> None:
    """Between the configuration being read and the worker being there."""
    file = tmp_path / "key"
    file.write_text(OTHER_KEY)
    key = ApiKey(Upstream(api_key=Secret(KEY), api_key_file=str(file)))
    assert key.refresh()
    assert key.secret == Secret(OTHER_KEY)


def test_without_a_file_the_key_never_changes() -> None:
    key = ApiKey(Upstream(api_key=Secret(KEY)))
    assert not key.refresh()
    assert_hidden(key, key.secret, vars(key))


@pytest.mark.parametrize(
    "raw",
    [
        b"HTTP/1.1 403 Acc\xe8s refus\xe9\r\nContent-Length: 0\r\n\r\n",
        b"HTTP/1.1 302 Found\r\nLocation: http://xn--/\r\nContent-Length: 0\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\n{}",
    ],
    ids=[
        "a reason that is no UTF-8",
        "a location that is no name",
        "less than was promised",
    ],
)
async def test_a_status_line_or_header_of_any_kind_is_an_error_of_ours(
    raw: bytes,
) -> None:
    async with raw_server(raw) as url:
        async for asker in asking(Upstream(base_url=url, api_key=Secret(KEY))):
            assert isinstance(await asker.fails(), UpstreamError)


async def test_a_length_that_is_only_declared_reserves_nothing_and_ends_with_the_time_out(
    server: Server, hasty: Asker
) -> None:
    async def promise(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse(headers={"Content-Length": str(2**40), **JSON})
        await response.prepare(request)
        await response.write(GOOD)
        return await server.hang(request)

    server.handler = promise
    tracemalloc.start()
    assert type(await hasty.fails()) is UpstreamUnavailable
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 8 * 2**20


REQUEST_IDS: Final = {
    "lines": ("a\r\nX-Forged: 1\n\n", None),
    "nul": ("a\0b", None),
    "long": ("x" * 2**19, None),
    "separators": ("a\u2028b\u202e\x85\x1b[2J", None),
    "header with bytes that are no ASCII": ("b", b"a\xff\xe9\x80"),
    "header with UTF-8": ("b", "ä€".encode()),
    "header that is long": ("b", b"y" * 4_000),
}


@pytest.mark.parametrize("status", [200, 404])
@pytest.mark.parametrize(("said", "header"), REQUEST_IDS.values(), ids=REQUEST_IDS)
async def test_a_request_id_of_any_kind_is_short_and_can_be_written(
    said: str, header: bytes | None, status: int
) -> None:
    body = encoded({"data": {"results": {"BTCUSDT": {}}}, "meta": {"request_id": said}})
    if status != 200:
        body = refusal("NOT_FOUND", request_id=said)
    head = b"" if header is None else b"X-Request-ID: %b\r\n" % header
    length = b"Content-Length: %d\r\n" % len(body)
    async with raw_server(
        b"HTTP/1.1 %d X\r\n%b%b\r\n%b" % (status, head, length, body)
    ) as url:
        async for asker in asking(Upstream(base_url=url, api_key=Secret(KEY))):
            if status == 200:
                request_id = (await asker.check()).response.meta.request_id
            else:
                error = await asker.fails()
                assert isinstance(error, NothingFound)
                request_id = error.request_id
    assert request_id
    assert len(request_id) <= 200
    assert request_id.encode()


@pytest.mark.parametrize(
    "header",
    [b"a\0b", b"a\rb", b"a\r\n\r\n{}", b"z" * 2**20],
    ids=["nul", "return", "a body", "1 MiB"],
)
async def test_a_header_that_http_forbids_is_an_error_of_ours_and_nothing_of_it_is_taken(
    header: bytes,
) -> None:
    async with raw_server(
        b"HTTP/1.1 200 OK\r\nX-Request-ID: %b\r\n\r\n{}" % header
    ) as url:
        async for asker in asking(Upstream(base_url=url, api_key=Secret(KEY))):
            error = await asker.fails()
            assert len(str(error)) < 600
            assert len(error.request_id or "") <= 200


@asynccontextmanager
async def raw_server(answer: bytes) -> AsyncIterator[str]:
    """One that answers every connection with these bytes and the end of it; its URL."""

    async def once(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(answer)
        writer.close()

    server = await asyncio.start_server(once, "127.0.0.1", 0)
    async with server:
        yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"


ASKS: Final = """
import asyncio, sys
from connector.config.model import Upstream
from connector.config.secrets import Secret
from connector.errors import UpstreamError
from connector.upstream.api_key import ApiKey
from connector.upstream.budget import Budget
from connector.upstream.client import Client, LevelsRequest

async def main() -> None:
    upstream = Upstream(base_url=sys.argv[1], api_key=Secret("not-to-be-told"))
    budget = Budget(None)
    client = Client(upstream, ApiKey(upstream), budget)
    try:
        async with budget.request() as permit:
            answer = await client.fetch_levels(LevelsRequest(("ETHUSDT",)), permit)
            print(list(answer.response.answers))
    except UpstreamError as error:
        print(error)

asyncio.run(main())
"""


@pytest.mark.parametrize(
    ("name", "trusted", "said"),
    [
        ("127.0.0.1", True, "['ETHUSDT']"),
        ("127.0.0.1", False, "certificate verify failed"),
        ("api.example.com", True, "certificate is not valid for '127.0.0.1'"),
    ],
    ids=["by an authority of one's own", "nobody vouches for it", "another name"],
)
async def test_a_server_that_is_not_who_it_should_be_is_told_nothing(
    name: str, trusted: bool, said: str, tmp_path: Path
) -> None:
    authority, context = (
        trustme.CA(),
        ssl.create_default_context(ssl.Purpose.CLIENT_AUTH),
    )
    authority.issue_cert(name).configure_cert(context)
    authority.cert_pem.write_to_path(tmp_path / "authority.pem")
    variables = {
        **os.environ,
        **({"SSL_CERT_FILE": str(tmp_path / "authority.pem")} if trusted else {}),
    }
    server = Server()
    async for one in serving(server, context):
        asking_it = await asyncio.create_subprocess_exec(
            sys.executable,
            "-W",
            "ignore",
            "-c",
            ASKS,
            one.url,
            env=variables,
            stdout=asyncio.subprocess.PIPE,
        )
        output, _ = await asking_it.communicate()
    assert said in output.decode()
    assert len(server.seen) == (said == "['ETHUSDT']")
