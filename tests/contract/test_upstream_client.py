"""The client against real HTTP: documented replies, and those of broken proxies."""

from __future__ import annotations

import asyncio
import gzip
import json
import time
import tracemalloc
import zlib
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from typing import TYPE_CHECKING, Any, Final

import pytest
from aiohttp import web

from connector.core.decode import RateLimit
from connector.core.model import Status
from connector.errors import (
    BadResponse,
    Intercepted,
    KeyRefused,
    NothingFound,
    PlanRefused,
    QuotaExhausted,
    RateLimited,
    RequestRefused,
    UpstreamError,
    UpstreamUnavailable,
)
from connector.upstream.api_key import ApiKey
from connector.upstream.budget import Budget
from connector.upstream.client import Client, LevelsRequest
from tests.support.levels import document, encoded
from tests.support.upstream_server import (
    JSON,
    KEY,
    LEVELS,
    META,
    Fetcher,
    Server,
    assert_hidden,
    drop,
    fetching,
    raw_server,
    refusal,
    replying,
    running_server,
    upstream_at,
)

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

MEBIBYTE: Final = 2**20
# Long enough to connect, also on a busy machine.
IMPATIENT_SECONDS: Final = 1
PATIENCE_SECONDS: Final = 60


@pytest.fixture
async def elsewhere() -> AsyncIterator[Server]:
    """A second server, which must not receive anything."""
    async with running_server() as running:
        yield running


@pytest.fixture
async def impatient(server: Server) -> AsyncIterator[Fetcher]:
    """A client with a short time-out."""
    upstream = upstream_at(server.url, timeout_seconds=IMPATIENT_SECONDS)
    async with fetching(upstream) as created:
        yield created


class TestRequest:
    async def test_it_has_the_documented_form(
        self, server: Server, fetcher: Fetcher
    ) -> None:
        full = LevelsRequest(
            symbols=("ETHUSDT", "BTCUSDT"),
            exchanges=("okx", "bybit"),
            include=("ranked", "zones"),
            positioning="std",
        )

        await fetcher.fetch(full)
        await fetcher.fetch(LevelsRequest(("BTCUSDT",)))

        first, second = server.requests
        assert first.method == "GET"
        assert first.path == "/v2/multi/gex/levels"
        assert dict(first.query) == {
            "symbols": "ETHUSDT,BTCUSDT",
            "exchanges": "okx,bybit",
            "include": "ranked,zones",
            "positioning": "std",
        }
        assert dict(second.query) == {"symbols": "BTCUSDT"}
        # Servers and proxies log the URL, but not this header.
        assert first.headers["X-API-Key"] == KEY
        assert KEY not in first.path_qs

    async def test_connection_is_kept(self, server: Server, fetcher: Fetcher) -> None:
        for _ in range(3):
            await fetcher.fetch()

        # A handshake for each request would add a round trip or two to every detection.
        connections = {id(request.transport) for request in server.requests}
        assert len(connections) == 1

    @pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
    async def test_redirect_is_not_followed_and_the_key_goes_nowhere_else(
        self, server: Server, elsewhere: Server, fetcher: Fetcher, status: int
    ) -> None:
        # An absolute URL, a path on the same server, and a URL without its scheme.
        locations = (
            f"{elsewhere.url}/v2/multi/gex/levels",
            "/v2/other",
            f"{elsewhere.url.removeprefix('http:')}/",
        )
        for location in locations:
            server.handler = replying(b"", status, {"Location": location})
            error = await fetcher.fail()
            assert type(error) is BadResponse

        assert len(server.requests) == 3
        assert {request.path for request in server.requests} == {"/v2/multi/gex/levels"}
        assert elsewhere.requests == []

    @pytest.mark.parametrize("requests_before", [0, 1])
    async def test_dropped_connection_is_a_single_request(
        self, server: Server, fetcher: Fetcher, requests_before: int
    ) -> None:
        # The HTTP library repeats a request on a reused connection by default. The budget
        # would count one request while the upstream counts two.
        for _ in range(requests_before):
            await fetcher.fetch()
        server.handler = drop

        error = await fetcher.fail()

        assert type(error) is UpstreamUnavailable
        assert len(server.requests) == requests_before + 1


class TestAnswer:
    async def test_it_is_decoded_and_timed(self, fetcher: Fetcher) -> None:
        before = time.time_ns() // 1000
        answer = await fetcher.fetch()
        after = time.time_ns() // 1000

        assert before <= answer.sent_at <= answer.received_at <= after
        assert answer.response.meta.request_id == "req-1"
        entry = answer.response.answers["BTCUSDT"]
        assert isinstance(entry, bytes)
        assert json.loads(entry) == document()

    @pytest.mark.parametrize("encoding", ["gzip", "GZIP", "x-gzip"])
    async def test_compressed_body_is_decompressed(
        self, server: Server, fetcher: Fetcher, encoding: str
    ) -> None:
        headers = {"Content-Encoding": encoding}
        server.handler = replying(gzip.compress(LEVELS), headers=headers)

        answer = await fetcher.fetch()
        assert answer.response.answers["ETHUSDT"] == b"{}"


class TestRefusal:
    @pytest.mark.parametrize(
        ("status", "code", "kind"),
        [
            # The documented pairs of status and code.
            (400, "VALIDATION_ERROR", RequestRefused),
            (422, "VALIDATION_ERROR", RequestRefused),
            (404, "NOT_FOUND", NothingFound),
            (401, "UNAUTHORIZED", KeyRefused),
            (403, "FORBIDDEN", PlanRefused),
            (429, "RATE_LIMIT_EXCEEDED", RateLimited),
            (500, "INTERNAL_ERROR", UpstreamUnavailable),
            (502, "UPSTREAM_ERROR", UpstreamUnavailable),
            (503, "UPSTREAM_ERROR", UpstreamUnavailable),
            (504, "UPSTREAM_ERROR", UpstreamUnavailable),
            # A code counts even if the status denies that there is an error.
            (200, "VALIDATION_ERROR", RequestRefused),
            (200, "RATE_LIMIT_EXCEEDED", RateLimited),
            (200, "UNAUTHORIZED", KeyRefused),
            # With a code that we do not know, the status decides.
            (400, "SOMETHING_NEW", RequestRefused),
            (404, "SOMETHING_NEW", NothingFound),
            (422, "SOMETHING_NEW", RequestRefused),
            (500, "SOMETHING_NEW", UpstreamUnavailable),
            (401, "SOMETHING_NEW", KeyRefused),
            (429, "SOMETHING_NEW", RateLimited),
            (418, "SOMETHING_NEW", BadResponse),
            (200, "SOMETHING_NEW", BadResponse),
            # A code of another type than text.
            (200, None, BadResponse),
            (503, ["UNAUTHORIZED"], UpstreamUnavailable),
        ],
    )
    async def test_its_code_decides_the_error(
        self,
        server: Server,
        fetcher: Fetcher,
        status: int,
        code: Any,
        kind: type[UpstreamError],
    ) -> None:
        headers = {"X-Request-ID": "req-header"}
        server.handler = replying(refusal(code), status, headers)

        error = await fetcher.fail()

        assert type(error) is kind
        assert error.status == status
        # The header takes precedence over the id in the body.
        assert error.request_id == "req-header"
        assert len(server.requests) == 1

    async def test_error_says_why_a_request_was_refused(
        self, server: Server, fetcher: Fetcher
    ) -> None:
        details = {"errors": ["symbols: XXX"]}
        server.handler = replying(refusal("VALIDATION_ERROR", details=details), 422)

        error = await fetcher.fail()

        assert isinstance(error, RequestRefused)
        assert "symbols: XXX" in str(error)
        assert not isinstance(error, NothingFound)
        assert error.request_id == "req-1"

    async def test_nothing_found_is_a_refused_request_too(
        self, server: Server, fetcher: Fetcher
    ) -> None:
        server.handler = replying(refusal("NOT_FOUND"), 404)

        error = await fetcher.fail()

        assert isinstance(error, RequestRefused)
        assert isinstance(error, NothingFound)


class TestBrokenReply:
    @pytest.mark.parametrize(
        ("status", "kind"),
        [
            # A 404 or a 422 without the API's own body comes from a proxy. To read it as
            # "no such symbol" would publish MISSING for every symbol during its outage.
            (200, BadResponse),
            (204, BadResponse),
            (302, BadResponse),
            (400, Intercepted),
            (404, Intercepted),
            (407, Intercepted),
            (422, Intercepted),
            # These mean the same from a proxy as from the API.
            (401, KeyRefused),
            (403, Intercepted),
            (429, RateLimited),
            (500, UpstreamUnavailable),
            (502, UpstreamUnavailable),
            (503, UpstreamUnavailable),
            # Cloudflare's "unknown error", which no standard lists.
            (520, UpstreamUnavailable),
        ],
    )
    @pytest.mark.parametrize(
        "body",
        [b"<html>Bad Gateway</html>", b"", LEVELS[:-20], b"[]"],
        ids=["html", "empty", "cut", "list"],
    )
    async def test_error_page_of_a_proxy_says_nothing_about_our_symbols(
        self,
        server: Server,
        fetcher: Fetcher,
        status: int,
        kind: type[UpstreamError],
        body: bytes,
    ) -> None:
        server.handler = replying(body, status, {"Content-Type": "text/html"})

        error = await fetcher.fail()

        assert type(error) is kind
        assert error.status == status
        assert len(server.requests) == 1

    async def test_error_status_with_levels_in_the_body_is_an_error(
        self, server: Server, fetcher: Fetcher
    ) -> None:
        # A proxy that serves an old answer during an outage may send this.
        server.handler = replying(LEVELS, 503)

        error = await fetcher.fail()

        assert type(error) is UpstreamUnavailable

    async def test_body_cut_off_by_the_connection_is_an_error(
        self, server: Server, fetcher: Fetcher
    ) -> None:
        async def cut(request: web.Request) -> web.StreamResponse:
            headers = {"Content-Length": str(len(LEVELS)), **JSON}
            response = web.StreamResponse(headers=headers)
            await response.prepare(request)
            await response.write(LEVELS[:100])
            # The rest of the declared length never comes.
            assert request.transport is not None
            request.transport.close()
            return response

        server.handler = cut

        error = await fetcher.fail()

        assert type(error) is UpstreamUnavailable
        assert len(server.requests) == 1

    async def test_huge_body_is_not_read_to_its_end(
        self, server: Server, fetcher: Fetcher
    ) -> None:
        written = 0

        async def huge(request: web.Request) -> web.StreamResponse:
            nonlocal written
            response = web.StreamResponse()
            await response.prepare(request)
            for _ in range(20):
                await response.write(b" " * MEBIBYTE)
                written += 1
            return response

        server.handler = huge

        error = await fetcher.fail()

        assert type(error) is BadResponse
        assert "body is larger than 1048576 bytes" in str(error)
        # The socket's buffers hold some of it; the server cannot write the rest.
        assert written < 20

    async def test_small_body_that_decompresses_to_a_huge_one_is_rejected(
        self, server: Server, fetcher: Fetcher
    ) -> None:
        # The compressed body passes the limit, so decompression must stop by itself.
        bomb = gzip.compress(bytes(64 * MEBIBYTE))
        assert len(bomb) < MEBIBYTE
        server.handler = replying(bomb, headers={"Content-Encoding": "gzip"})

        tracemalloc.start()
        error = await fetcher.fail()
        _, peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()

        assert type(error) is BadResponse
        assert peak < 32 * MEBIBYTE

    @pytest.mark.parametrize(
        ("body", "encoding"),
        [
            (gzip.compress(LEVELS)[:-30], "gzip"),
            (b"", "gzip"),
            (b"\x1b\x2a", "br"),
            (b"\x1b\x2a", "unheard-of"),
            (zlib.compress(LEVELS), "deflate"),
        ],
        ids=["cut", "empty", "br", "unknown", "deflate"],
    )
    async def test_body_that_cannot_be_decompressed_is_an_error(
        self, server: Server, fetcher: Fetcher, body: bytes, encoding: str
    ) -> None:
        server.handler = replying(body, headers={"Content-Encoding": encoding})

        error = await fetcher.fail()

        assert type(error) is BadResponse
        assert len(server.requests) == 1

    @pytest.mark.parametrize(
        ("status", "kind"),
        [
            (429, RateLimited),
            (401, KeyRefused),
            (503, UpstreamUnavailable),
            (404, Intercepted),
        ],
    )
    async def test_status_counts_even_if_the_body_cannot_be_read(
        self,
        server: Server,
        fetcher: Fetcher,
        status: int,
        kind: type[UpstreamError],
    ) -> None:
        # We cannot read Brotli, but status and headers are enough to act on.
        headers = {"Content-Encoding": "br", "Retry-After": "17"}
        server.handler = replying(b"\x1b\x2a", status, headers)

        error = await fetcher.fail()

        assert type(error) is kind
        assert error.retry_after_seconds == 17
        assert "unsupported Content-Encoding 'br' (requested gzip)" in str(error)

    async def test_headers_that_are_too_large_are_an_error_and_a_single_request(
        self, server: Server, fetcher: Fetcher
    ) -> None:
        # The HTTP library quotes such headers in its error.
        server.handler = replying(headers={"X-Large": KEY * 20_000})

        error = await fetcher.fail()

        assert_hidden(str(error))
        assert len(server.requests) == 1

    @pytest.mark.parametrize(
        "raw",
        [
            b"HTTP/1.1 403 Acc\xe8s refus\xe9\r\nContent-Length: 0\r\n\r\n",
            b"HTTP/1.1 302 Found\r\nLocation: http://xn--/\r\nContent-Length: 0\r\n\r\n",
            b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\n{}",
        ],
        ids=[
            "reason is not UTF-8",
            "location is not a name",
            "body is shorter than declared",
        ],
    )
    async def test_malformed_status_line_or_header_is_an_upstream_error(
        self, raw: bytes
    ) -> None:
        # The HTTP library can raise ValueError or UnicodeError for such replies. Outside of
        # our own errors, that would end the process as a defect.
        async with raw_server(raw) as url, fetching(upstream_at(url)) as fetcher:
            error = await fetcher.fail()

        assert isinstance(error, UpstreamError)

    async def test_a_long_header_of_a_gateway_does_no_harm(
        self, server: Server, fetcher: Fetcher
    ) -> None:
        server.handler = replying(headers={"Content-Security-Policy": "x" * 64 * 1024})

        answer = await fetcher.fetch()

        assert answer.response.answers

    @pytest.mark.parametrize(
        "header",
        [b"a\0b", b"a\rb", b"a\r\n\r\n{}", b"z" * 2**20],
        ids=["nul", "return", "a body", "1 MiB"],
    )
    async def test_header_that_http_forbids_is_an_upstream_error(
        self, header: bytes
    ) -> None:
        raw = b"HTTP/1.1 200 OK\r\nX-Request-ID: %b\r\n\r\n{}" % header
        async with raw_server(raw) as url, fetching(upstream_at(url)) as fetcher:
            error = await fetcher.fail()

        # Errors are logged, and request ids are published: both must stay short.
        assert len(str(error)) < 600
        assert len(error.request_id or "") <= 200


class TestTimeout:
    async def test_refused_connection_means_the_upstream_is_unavailable(self) -> None:
        # Nothing listens on port 1 (tcpmux).
        async with fetching(upstream_at("http://127.0.0.1:1")) as fetcher:
            error = await fetcher.fail()

        assert type(error) is UpstreamUnavailable

    async def test_reply_that_never_comes_ends_with_the_time_out(
        self, server: Server, impatient: Fetcher
    ) -> None:
        server.handler = server.hang

        error = await impatient.fail()

        assert type(error) is UpstreamUnavailable
        assert str(error) == "no response within 1 s (upstream.timeout_seconds)"
        assert len(server.requests) == 1

    async def test_reply_that_trickles_ends_with_the_same_time_out(
        self, server: Server, impatient: Fetcher
    ) -> None:
        async def trickle(request: web.Request) -> web.StreamResponse:
            response = web.StreamResponse()
            await response.prepare(request)
            while True:
                await response.write(b" ")
                await asyncio.sleep(0.02)  # the server's slowness, not the test's

        # A limit for each read would start again with every byte.
        server.handler = trickle

        async with asyncio.timeout(PATIENCE_SECONDS):
            error = await impatient.fail()

        assert type(error) is UpstreamUnavailable

    async def test_declared_length_reserves_no_memory(
        self, server: Server, impatient: Fetcher
    ) -> None:
        async def promise(request: web.Request) -> web.StreamResponse:
            # A terabyte is announced.
            headers = {"Content-Length": str(2**40), **JSON}
            response = web.StreamResponse(headers=headers)
            await response.prepare(request)
            await response.write(LEVELS)
            return await server.hang(request)

        server.handler = promise

        tracemalloc.start()
        error = await impatient.fail()
        _, peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()

        assert type(error) is UpstreamUnavailable
        assert peak < 8 * MEBIBYTE


class TestRetryAfter:
    @pytest.mark.parametrize(
        "body", [b"<html/>", refusal("RATE_LIMIT_EXCEEDED")], ids=["html", "json"]
    )
    @pytest.mark.parametrize(
        ("header", "seconds"),
        [
            ("30", 30.0),
            ("0", 0.0),
            # A mistaken server must not silence us for longer than an hour.
            ("99999999", 3600.0),
            # Neither seconds nor a date.
            ("-5", None),
            ("soon", None),
            ("", None),
            # Python refuses to convert thousands of digits, with a ValueError.
            ("9" * 500, None),
        ],
    )
    async def test_header_is_in_seconds(
        self,
        server: Server,
        fetcher: Fetcher,
        header: str,
        seconds: float | None,
        body: bytes,
    ) -> None:
        server.handler = replying(body, 429, {"Retry-After": header})

        error = await fetcher.fail()

        assert isinstance(error, RateLimited)
        assert error.retry_after_seconds == seconds

    @pytest.mark.parametrize(
        ("later", "seconds"),
        [
            (timedelta(seconds=42), 42),
            (timedelta(days=-1), 0),
        ],
    )
    async def test_header_may_be_a_date_by_the_servers_clock(
        self, server: Server, fetcher: Fetcher, later: timedelta, seconds: float
    ) -> None:
        # Far from our clock: only the difference of the two dates may count.
        date = datetime(2001, 2, 3, tzinfo=UTC)
        headers = {
            "Date": format_datetime(date, usegmt=True),
            "Retry-After": format_datetime(date + later, usegmt=True),
        }
        server.handler = replying(b"", 503, headers)

        error = await fetcher.fail()

        assert error.retry_after_seconds == seconds

    @pytest.mark.parametrize(
        ("in_body", "seconds"),
        [
            (12, 12.0),
            (1.5, 1.5),
            (0, 0.0),
            # Too large for a float.
            (10**400, 3600.0),
            (-3, 0.0),
            # Of another type.
            ("5", None),
            (None, None),
            ([], None),
        ],
    )
    async def test_body_may_have_it_instead(
        self,
        server: Server,
        fetcher: Fetcher,
        in_body: Any,
        seconds: float | None,
    ) -> None:
        details = {"retry_after_seconds": in_body}
        body = refusal("RATE_LIMIT_EXCEEDED", details=details)
        server.handler = replying(body, 429)

        error = await fetcher.fail()

        assert error.retry_after_seconds == seconds

    @pytest.mark.parametrize("status", [429, 500, 503])
    async def test_nothing_is_sent_until_it_is_over(
        self, server: Server, fetcher: Fetcher, status: int
    ) -> None:
        server.handler = replying(b"", status, {"Retry-After": "1700"})

        await fetcher.fail()

        assert 1700 - PATIENCE_SECONDS < fetcher.wait_seconds <= 1700

    async def test_429_without_it_pauses_for_some_seconds(
        self, server: Server, fetcher: Fetcher
    ) -> None:
        # Without a pause, every further request of this minute would be refused as well.
        server.handler = replying(b"", 429)

        await fetcher.fail()

        assert 0 < fetcher.wait_seconds <= 5

    @pytest.mark.parametrize(
        ("status", "body", "retry_after"),
        [
            # The next key or the other batches may work at once.
            (401, b"", "17"),
            (404, refusal("NOT_FOUND"), "17"),
            (422, refusal("VALIDATION_ERROR"), "17"),
            # The server allows a retry at once.
            (503, b"", "0"),
        ],
    )
    async def test_refused_key_or_request_pauses_nothing(
        self,
        server: Server,
        fetcher: Fetcher,
        status: int,
        body: bytes,
        retry_after: str,
    ) -> None:
        server.handler = replying(body, status, {"Retry-After": retry_after})

        await fetcher.fail()

        assert fetcher.wait_seconds == 0

    async def test_waiting_requests_wait_for_it_too_and_keep_their_order(
        self, server: Server, fetcher: Fetcher
    ) -> None:
        # All three wait already when the server says to wait longer.
        fetcher.budget.pause(time.monotonic() + 1.0)
        symbols = ("BTCUSDT", "ETHUSDT", "SOLUSDT")
        fetches = []
        for symbol in symbols:
            fetch = fetcher.fetch(LevelsRequest((symbol,)))
            fetches.append(asyncio.create_task(fetch))
        # Let each of them start to wait.
        await asyncio.sleep(0)
        until = time.monotonic() + 1.5
        fetcher.budget.pause(until)
        await asyncio.gather(*fetches)

        assert until <= time.monotonic()
        sent = [request.query["symbols"] for request in server.requests]
        assert sent == list(symbols)


class TestBudget:
    async def test_waiting_requests_never_exceed_it(self, server: Server) -> None:
        upstream = upstream_at(server.url, max_requests_per_minute=2)
        async with fetching(upstream) as fetcher:
            # The pause ends for all of them at once: only two of five may go.
            fetcher.budget.pause(time.monotonic() + 0.1)
            fetches = []
            for _ in range(5):
                fetches.append(asyncio.create_task(fetcher.fetch()))
            while sum(fetch.done() for fetch in fetches) < 2:
                await asyncio.wait(
                    [fetch for fetch in fetches if not fetch.done()],
                    return_when=asyncio.FIRST_COMPLETED,
                )
            # Time for the others, if they did not wait for the minute's end.
            done, waiting = await asyncio.wait(fetches, timeout=0.2)
            for fetch in waiting:
                fetch.cancel()

            assert len(done) == 2
            assert len(server.requests) == 2

    @pytest.mark.parametrize("how", ["answered", "html", "dropped", "hung"])
    async def test_every_request_counts_however_it_ends(
        self, server: Server, how: str
    ) -> None:
        handlers = {
            "answered": replying(),
            "html": replying(b"x", 502),
            "dropped": drop,
            "hung": server.hang,
        }
        server.handler = handlers[how]
        # A busy machine must not end the other requests.
        timeout = IMPATIENT_SECONDS if how == "hung" else PATIENCE_SECONDS
        upstream = upstream_at(
            server.url, timeout_seconds=timeout, max_requests_per_minute=1
        )
        # The upstream counts a request when it arrives, even if we never see the reply.
        async with fetching(upstream) as fetcher:
            try:
                await fetcher.fetch()
            except UpstreamError:
                assert how != "answered"
            assert fetcher.wait_seconds > 0
            with pytest.raises(TimeoutError):
                await asyncio.wait_for(fetcher.fetch(), 0.05)
        assert len(server.requests) == 1

    async def test_rate_limit_comes_from_the_headers(
        self, server: Server, fetcher: Fetcher
    ) -> None:
        reset = int(time.time()) + 30
        headers = {
            "X-RateLimit-Limit": "60",
            "X-RateLimit-Remaining": "41",
            "X-RateLimit-Reset": str(reset),
        }
        server.handler = replying(headers=headers)

        answer = await fetcher.fetch()

        assert answer.rate_limit == RateLimit(60, 41, reset)

    @pytest.mark.parametrize("status", [200, 429, 503])
    async def test_every_answer_teaches_the_budget_of_the_month(
        self, server: Server, fetcher: Fetcher, status: int
    ) -> None:
        period = time.strftime("%Y%m", time.gmtime())
        headers = {
            "X-Quota-Limit": "10000",
            "X-Quota-Used": "4000",
            "X-Quota-Remaining": "6000",
            "X-Quota-Period": period,
        }
        server.handler = replying(headers=headers, status=status)

        if status == 200:
            await fetcher.fetch()
        else:
            with pytest.raises(UpstreamError):
                await fetcher.fetch()

        month = fetcher.budget.spending(time.monotonic()).month
        assert (month.limit, month.used, month.remaining) == (10_000, 4_000, 6_000)
        assert month.period == period

    @pytest.mark.parametrize("text", ["unlimited", "-1", "0", ""])
    async def test_a_plan_without_a_monthly_cap_may_send_texts_instead_of_numbers(
        self, server: Server, fetcher: Fetcher, text: str
    ) -> None:
        headers = {"X-Quota-Limit": text, "X-Quota-Remaining": text}
        server.handler = replying(headers={**headers, "X-Quota-Used": "5000000"})

        await fetcher.fetch()

        month = fetcher.budget.spending(time.monotonic()).month
        assert (month.limit, month.remaining) == (None, None)
        assert fetcher.wait_seconds == 0

    async def test_a_429_of_a_plan_with_a_limit_of_0_is_one_of_the_minute(
        self, server: Server, fetcher: Fetcher
    ) -> None:
        headers = {"X-Quota-Limit": "0", "X-Quota-Remaining": "0", "Retry-After": "7"}
        server.handler = replying(headers=headers, status=429)

        with pytest.raises(RateLimited):
            await fetcher.fetch()

        assert not fetcher.budget.spending(time.monotonic()).month.is_used_up

    @pytest.mark.parametrize("remaining", ["0", "-3", ""])
    async def test_a_used_up_month_holds_requests_without_sleeping_for_retry_after(
        self, server: Server, fetcher: Fetcher, remaining: str
    ) -> None:
        period = time.strftime("%Y%m", time.gmtime())
        headers = {
            "X-Quota-Limit": "10000",
            "X-Quota-Used": "10003",
            "X-Quota-Remaining": remaining,
            "X-Quota-Period": period,
            "Retry-After": "2678400",
        }
        server.handler = replying(headers=headers, status=429)

        with pytest.raises(QuotaExhausted):
            await fetcher.fetch()

        spending = fetcher.budget.spending(time.monotonic())
        assert spending.month.is_used_up
        assert spending.paused_until < time.monotonic()
        # A probe half an hour later, or the next month if that is sooner.
        assert 0 < fetcher.wait_seconds <= 1_800

    async def test_rate_limit_comes_from_the_body_if_there_are_no_headers(
        self, server: Server, fetcher: Fetcher
    ) -> None:
        figures = {"limit": 30, "remaining": 29, "reset": 1_800_000_030}
        meta = {**META, "rate_limit": figures}
        data: dict[str, object] = {"results": {}}
        server.handler = replying(encoded({"data": data, "meta": meta}))

        answer = await fetcher.fetch()

        assert answer.rate_limit == RateLimit(30, 29, 1_800_000_030)
        statuses = set(answer.response.answers.values())
        assert statuses == {Status.MISSING}
        spending = fetcher.budget.spending(time.monotonic())
        assert spending.limit_per_minute == 30

    @pytest.mark.parametrize(
        "wrong",
        [
            "",
            "many",
            "-1",
            "1e9",
            # `str.isdigit` accepts a superscript two, and `int` does not.
            "\u00b2",
            # More digits than a time in seconds can have.
            "9" * 400,
        ],
    )
    async def test_headers_that_are_not_numbers_are_ignored(
        self, server: Server, fetcher: Fetcher, wrong: str
    ) -> None:
        headers = {
            "X-RateLimit-Limit": wrong,
            "X-RateLimit-Remaining": wrong,
            "X-RateLimit-Reset": wrong,
        }
        server.handler = replying(headers=headers)

        answer = await fetcher.fetch()

        assert answer.rate_limit == RateLimit()
        assert fetcher.wait_seconds == 0

    @pytest.mark.parametrize(
        ("status", "body"),
        [
            (200, LEVELS),
            (429, b""),
            (503, b"<html/>"),
            (401, refusal("UNAUTHORIZED")),
        ],
        ids=str,
    )
    async def test_it_learns_the_figures_of_any_reply(
        self, server: Server, fetcher: Fetcher, status: int, body: bytes
    ) -> None:
        # The window ends 20 seconds after `Date`, by the server's clock.
        headers = {
            "Date": "Fri, 15 Jan 2027 08:00:00 GMT",
            "X-RateLimit-Remaining": "0",
            "X-RateLimit-Reset": "1800000020",
        }
        server.handler = replying(body, status, headers)

        try:
            await fetcher.fetch()
        except UpstreamError:
            assert status != 200

        assert 0 < fetcher.wait_seconds <= 20

    @pytest.mark.parametrize("ahead_seconds", [-3600, 3600])
    async def test_a_wrong_timestamp_in_the_body_gives_way_to_the_date(
        self, server: Server, fetcher: Fetcher, ahead_seconds: int
    ) -> None:
        now = datetime.now(UTC)
        wrong = now + timedelta(seconds=ahead_seconds)
        meta = {**META, "timestamp": wrong.isoformat()}
        body = encoded({"data": {"results": {}}, "meta": meta})
        headers = {
            "Date": format_datetime(now, usegmt=True),
            "X-RateLimit-Remaining": "0",
            "X-RateLimit-Reset": str(int(now.timestamp()) + 20),
        }
        server.handler = replying(body, headers=headers)

        await fetcher.fetch()

        assert 0 < fetcher.wait_seconds <= 21

    async def test_it_learns_nothing_from_the_copy_of_a_cache(
        self, server: Server
    ) -> None:
        now = 1_000.0

        def clock() -> float:
            return now

        upstream = upstream_at(server.url)
        key = ApiKey(upstream)
        budget = Budget(None, clock)
        client = Client(upstream, key, budget, clock)
        fetcher = Fetcher(client, key, budget)
        limits = []
        are_copies = []
        for limit, seconds in [("30", 0.0), ("40", 0.5), ("50", 0.6), ("60", 9.0)]:
            # A timestamp in whole seconds may be the same for a second.
            now += seconds
            server.handler = replying(headers={"X-RateLimit-Limit": limit})
            answer = await fetcher.fetch()
            are_copies.append(answer.is_copy)
            limits.append(budget.spending(now).limit_per_minute)

        assert limits == [30, 40, 40, 40]
        assert are_copies == [False, False, True, True]

        # A server whose clock stands still does send responses of its own.
        body = LEVELS.replace(b'"req-1"', b'"req-2"')
        server.handler = replying(body, headers={"X-RateLimit-Limit": "70"})
        answer = await fetcher.fetch()
        await client.close()
        assert not answer.is_copy
        assert budget.spending(now).limit_per_minute == 70


# The id in the body, and the header's value if there is one.
REQUEST_IDS: Final = {
    # These could forge lines of a log or control a terminal.
    "lines": ("a\r\nX-Forged: 1\n\n", None),
    "nul": ("a\0b", None),
    "long": ("x" * 2**19, None),
    "separators": ("a\u2028b\u202e\x85\x1b[2J", None),
    # Python decodes these to surrogates, which Avro's UTF-8 cannot hold.
    "header with bytes that are not ASCII": ("b", b"a\xff\xe9\x80"),
    "header with UTF-8": ("b", "ä€".encode()),
    "header that is long": ("b", b"y" * 4_000),
}


@pytest.mark.parametrize("status", [200, 404])
@pytest.mark.parametrize(
    ("in_body", "header"),
    REQUEST_IDS.values(),
    ids=REQUEST_IDS,
)
async def test_request_id_of_any_kind_is_short_and_can_be_encoded(
    in_body: str, header: bytes | None, status: int
) -> None:
    reply = reply_with_request_id(status, in_body, header)
    async with raw_server(reply) as url, fetching(upstream_at(url)) as fetcher:
        if status == 200:
            answer = await fetcher.fetch()
            request_id = answer.response.meta.request_id
        else:
            error = await fetcher.fail()
            assert isinstance(error, NothingFound)
            request_id = error.request_id

    assert request_id
    assert len(request_id) <= 200
    assert request_id.encode()


def reply_with_request_id(status: int, in_body: str, header: bytes | None) -> bytes:
    """Return levels (200) or a refusal, as bytes that a library would refuse to send."""
    body = refusal("NOT_FOUND", request_id=in_body)
    if status == 200:
        meta = {"request_id": in_body}
        data: dict[str, object] = {"results": {"BTCUSDT": {}}}
        body = encoded({"data": data, "meta": meta})

    lines = [
        b"HTTP/1.1 %d X" % status,
        b"Content-Length: %d" % len(body),
    ]
    if header is not None:
        lines.append(b"X-Request-ID: %b" % header)
    head = b"\r\n".join(lines)
    return head + b"\r\n\r\n" + body
