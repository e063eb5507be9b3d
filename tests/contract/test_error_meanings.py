"""The meaning of refusals: the key, the plan, the minute, the month, or something in between.

The example bodies are those of the vendor's contract 2.10.
"""

from __future__ import annotations

import gzip
import json
import time
from typing import TYPE_CHECKING, Any

import pytest

from connector.config.model import Upstream
from connector.config.secrets import Secret
from connector.core.entry import decode_entry
from connector.errors import (
    BadResponse,
    Intercepted,
    KeyRefused,
    NothingFound,
    NotRouted,
    PlanRefused,
    QuotaExhausted,
    RateLimited,
    RequestRefused,
    UpstreamError,
    UpstreamUnavailable,
)
from connector.upstream import connections
from connector.upstream.api_key import ApiKey
from connector.upstream.budget import Budget
from connector.upstream.client import Client
from tests.support.upstream_server import (
    JSON,
    KEY,
    LEVELS,
    OTHER_KEY,
    Fetcher,
    Server,
    fetching,
    refusal,
    replying,
    running_server,
)

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from aiohttp import web

FIREWALL_PAGE = (
    b"<html><head><title>Access\n denied</title></head><body>Ray 1</body></html>"
)
LEGAL_NOTICE = b'{"code": 0, "msg": "not available in your region"}'
QUOTA_LEFT = {"X-Quota-Remaining": "812"}
QUOTA_USED_UP = {"X-Quota-Remaining": "0"}


@pytest.fixture
async def server() -> AsyncIterator[Server]:
    async with running_server() as running:
        yield running


@pytest.fixture
async def fetcher(server: Server) -> AsyncIterator[Fetcher]:
    upstream = Upstream(base_url=server.url, api_key=Secret(KEY), timeout_seconds=20)
    async with fetching(upstream) as created:
        yield created


def with_key_file(server: Server, key_file: Path) -> Upstream:
    """Write the key to a file, and return settings whose key can change there."""
    key_file.write_text(KEY)
    return Upstream(
        base_url=server.url, api_key=Secret(KEY), api_key_file=str(key_file)
    )


class TestMeaning:
    @pytest.mark.parametrize(
        ("status", "body", "headers", "kind"),
        [
            (401, refusal("UNAUTHORIZED"), {}, KeyRefused),
            (403, refusal("FORBIDDEN"), {}, PlanRefused),
            (403, refusal("SOMETHING_NEW"), {}, PlanRefused),
            (404, refusal("NOT_FOUND"), {}, NothingFound),
            (429, refusal("RATE_LIMIT_EXCEEDED"), {}, RateLimited),
            (429, refusal("RATE_LIMIT_EXCEEDED"), QUOTA_LEFT, RateLimited),
            (429, refusal("RATE_LIMIT_EXCEEDED"), QUOTA_USED_UP, QuotaExhausted),
            # A 200 may be the last request of the month: that is no error yet.
            (503, refusal("UPSTREAM_ERROR"), QUOTA_USED_UP, UpstreamUnavailable),
        ],
    )
    async def test_the_code_in_the_envelope_decides(
        self,
        server: Server,
        fetcher: Fetcher,
        status: int,
        body: bytes,
        headers: dict[str, str],
        kind: type[UpstreamError],
    ) -> None:
        server.handler = replying(body, status, {**JSON, **headers})
        error = await fetcher.fail()
        assert type(error) is kind

    @pytest.mark.parametrize(
        ("status", "body", "reason"),
        [
            (403, FIREWALL_PAGE, "Access denied"),
            (404, FIREWALL_PAGE, "Access denied"),
            (451, LEGAL_NOTICE, "not available in your region"),
            (407, b"", "HTTP 407"),
            (403, LEVELS, "the body holds levels"),
        ],
    )
    async def test_an_answer_of_something_in_between_shows_its_reason(
        self, server: Server, fetcher: Fetcher, status: int, body: bytes, reason: str
    ) -> None:
        server.handler = replying(body, status, {"Retry-After": "900"})
        error = await fetcher.fail()

        assert type(error) is Intercepted
        assert reason in str(error)
        # Only the API may make us wait: one request in ten may meet the firewall.
        assert fetcher.wait_seconds == 0

    @pytest.mark.parametrize(
        ("status", "detail", "reason"),
        [
            (422, [{"loc": ["query", "symbols"], "msg": "bad symbol"}], "bad symbol"),
            (404, "Not Found", "Not Found"),
            (405, "Method Not Allowed", "Method Not Allowed"),
        ],
    )
    async def test_a_frameworks_refusal_is_one_of_the_request(
        self, server: Server, fetcher: Fetcher, status: int, detail: Any, reason: str
    ) -> None:
        body = json.dumps({"detail": detail}).encode()
        server.handler = replying(body, status, JSON)
        error = await fetcher.fail()

        assert isinstance(error, RequestRefused)
        assert reason in str(error)
        # A 404 of the framework says nothing about our symbols: none is invalid for it.
        assert isinstance(error, NotRouted) == (status != 422)

    async def test_a_problem_document_of_a_gateway_refuses_no_symbols(
        self, server: Server, fetcher: Fetcher
    ) -> None:
        problem = {"type": "about:blank", "status": 404, "detail": "no route"}
        server.handler = replying(json.dumps(problem).encode(), 404, JSON)
        error = await fetcher.fail()
        assert type(error) is Intercepted
        assert "no route" in str(error)

    @pytest.mark.parametrize("escape", ["\\u{:04x}", "\\u{:04X}"])
    async def test_a_body_hides_the_key_even_if_it_is_escaped(
        self, server: Server, fetcher: Fetcher, escape: str
    ) -> None:
        # Escaped in JSON, the key is not found in the raw body.
        escaped = "".join(escape.format(ord(char)) for char in KEY)
        halfway = KEY[:20] + escaped[6 * 20 :]
        entry = f'{{"spot_price": 1, "positioning": "{escaped}", "note": "{halfway}"}}'
        meta = f'{{"request_id": "{halfway}", "exchanges_filtered": ["{escaped}"]}}'
        body = f'{{"results": {{"BTCUSDT": {entry}}}, "meta": {meta}}}'
        server.handler = replying(body.encode())
        answer = await fetcher.fetch()

        raw = answer.response.answers["BTCUSDT"]
        assert isinstance(raw, bytes)
        decoded = decode_entry(raw, answer.received_at)
        assert KEY not in f"{decoded} {answer.response.meta}"

    async def test_escapes_other_than_the_keys_stay(
        self, server: Server, fetcher: Fetcher
    ) -> None:
        entry = rb'{"spot_price": 1, "note": "bq_live_\u0030 \/"}'
        server.handler = replying(b'{"results": {"BTCUSDT": ' + entry + b"}}")
        answer = await fetcher.fetch()
        assert answer.response.answers["BTCUSDT"] == entry

    @pytest.mark.parametrize(
        "page",
        [
            b"<title>" * 2_300,
            b"(<title></titl)" * 1_200,
            b"<title",
            b"</title>",
            b"<title>unfinished",
        ],
    )
    async def test_a_page_without_a_readable_title_shows_its_status(
        self, server: Server, fetcher: Fetcher, page: bytes
    ) -> None:
        server.handler = replying(page, 403)
        error = await fetcher.fail()
        assert "HTTP 403" in str(error)

    async def test_the_reason_of_an_intercepted_request_hides_the_key(
        self, server: Server, fetcher: Fetcher
    ) -> None:
        page = f"<title>{KEY} is blocked</title>".encode()
        server.handler = replying(page, 403)
        error = await fetcher.fail()
        assert KEY not in str(error)


class TestRetryAfter:
    @pytest.mark.parametrize(
        ("header", "in_body", "expected"),
        [("30000", 30, 30), ("7", 30, 7), ("30000", None, 3600)],
    )
    async def test_the_smaller_wait_counts(
        self,
        server: Server,
        fetcher: Fetcher,
        header: str,
        in_body: int | None,
        expected: float,
    ) -> None:
        details = {"retry_after_seconds": in_body}
        body = refusal("RATE_LIMIT_EXCEEDED", details=details)
        server.handler = replying(body, 429, {"Retry-After": header})
        error = await fetcher.fail()
        assert error.retry_after_seconds == expected

    @pytest.mark.parametrize(
        "headers",
        [
            {"Retry-After": "30"},
            {"X-RateLimit-Remaining": "0", "X-RateLimit-Reset": "{in_30_s}"},
            QUOTA_USED_UP,
        ],
        ids=["told to wait", "the minute is used up", "the month is used up"],
    )
    async def test_another_key_is_tried_at_once(
        self, server: Server, fetcher: Fetcher, headers: dict[str, str]
    ) -> None:
        in_30_s = int(time.time()) + 30
        filled = {}
        for name, value in headers.items():
            filled[name] = value.format(in_30_s=in_30_s)
        server.handler = replying(b"", 429, filled)
        await fetcher.fail()
        assert fetcher.wait_seconds > 0

        # Limits are per user, and the new key may be another user's.
        fetcher.budget.resume_with_new_key()

        assert fetcher.wait_seconds == 0

    async def test_a_late_refusal_of_the_previous_key_does_not_stop_the_new_one(
        self, server: Server, tmp_path: Path
    ) -> None:
        key_file = tmp_path / "key"
        upstream = with_key_file(server, key_file)

        async with fetching(upstream) as fetcher:

            async def rotate_then_refuse(request: web.Request) -> web.StreamResponse:
                # The key is replaced while the request is on its way.
                key_file.write_text("bq_live_" + "n" * 32)
                assert fetcher.key.refresh()
                refuse = replying(b"", 429, {"Retry-After": "3600"})
                return await refuse(request)

            server.handler = rotate_then_refuse
            error = await fetcher.fail()

            assert type(error) is UpstreamUnavailable
            assert fetcher.wait_seconds == 0

    async def test_the_previous_keys_month_does_not_hold_the_new_one(
        self, server: Server, tmp_path: Path
    ) -> None:
        key_file = tmp_path / "key"
        upstream = with_key_file(server, key_file)

        async with fetching(upstream) as fetcher:

            async def rotate_then_answer(request: web.Request) -> web.StreamResponse:
                key_file.write_text(OTHER_KEY)
                assert fetcher.key.refresh()
                fetcher.budget.resume_with_new_key()
                # The last request of the month of the previous key's user.
                return await replying(LEVELS, 200, QUOTA_USED_UP)(request)

            server.handler = rotate_then_answer
            await fetcher.fetch()

            assert fetcher.wait_seconds == 0


class TestContentEncoding:
    @pytest.mark.parametrize(
        ("body", "encoding"),
        [
            (LEVELS, "gzip"),
            (LEVELS, "br"),
            (LEVELS, "utf-8"),
            (gzip.compress(LEVELS), "gzip, identity"),
            (gzip.compress(LEVELS), "utf-8, gzip"),
            (gzip.compress(LEVELS[:100]) + gzip.compress(LEVELS[100:]), "gzip"),
            (gzip.compress(gzip.compress(LEVELS)), "gzip, gzip"),
            # A proxy unpacked one layer and left the header.
            (gzip.compress(LEVELS), "gzip, gzip"),
        ],
        ids=[
            "plain under gzip",
            "plain under br",
            "a character set",
            "with identity",
            "with a character set",
            "two members",
            "twice",
            "once instead of twice",
        ],
    )
    async def test_levels_are_read_whatever_the_header_calls_them(
        self, server: Server, fetcher: Fetcher, body: bytes, encoding: str
    ) -> None:
        server.handler = replying(body, headers={"Content-Encoding": encoding})
        answer = await fetcher.fetch()
        assert answer.response.answers["ETHUSDT"] == b"{}"

    async def test_a_body_of_very_many_members_is_rejected(
        self, server: Server, fetcher: Fetcher
    ) -> None:
        # Each member costs a copy of the rest, and 20 bytes are enough for one.
        body = gzip.compress(b"") * 1_000
        server.handler = replying(body, headers={"Content-Encoding": "gzip"})
        error = await fetcher.fail()
        assert type(error) is BadResponse
        assert "gzip members" in str(error)

    async def test_only_a_few_layers_are_unpacked(
        self, server: Server, fetcher: Fetcher
    ) -> None:
        body = LEVELS
        for _ in range(6):
            body = gzip.compress(body)
        encoding = ", ".join(["gzip"] * 6)
        server.handler = replying(body, headers={"Content-Encoding": encoding})
        assert type(await fetcher.fail()) is BadResponse


class TestConnections:
    """A name may have moved while the server at the old address still answers."""

    async def test_failures_in_a_row_lead_to_a_new_connection(
        self, server: Server, fetcher: Fetcher
    ) -> None:
        server.handler = replying(b"", 503)
        for _ in range(connections.MAX_FAILURES_IN_A_ROW + 1):
            await fetcher.fail()

        used = [id(request.transport) for request in server.requests]
        *before, after = used
        assert len(set(before)) == 1
        assert after not in before

    async def test_copies_in_a_row_lead_to_a_new_connection(
        self, server: Server
    ) -> None:
        now = 0.0

        def clock() -> float:
            return now

        upstream = Upstream(base_url=server.url, api_key=Secret(KEY))
        key = ApiKey(upstream)
        budget = Budget(None, clock)
        client = Client(upstream, key, budget, clock)
        fetcher = Fetcher(client, key, budget)
        used = []
        # The first answer may be fresh. The same one after it is a copy.
        for _ in range(1 + connections.MAX_FAILURES_IN_A_ROW + 1):
            await fetcher.fetch()
            used.append(server.requests[-1].get_extra_info("peername"))
            now += 10
        await client.close()

        *before, after = used
        assert len(set(before)) == 1
        assert after not in before

    async def test_a_refused_request_is_no_failure_of_the_connection(
        self, server: Server, fetcher: Fetcher
    ) -> None:
        server.handler = replying(refusal("VALIDATION_ERROR"), 422)
        for _ in range(connections.MAX_FAILURES_IN_A_ROW + 1):
            await fetcher.fail()
        assert len({id(request.transport) for request in server.requests}) == 1
