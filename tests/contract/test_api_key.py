"""The API key is rotated while we run, and is never shown (invariant 8)."""

from __future__ import annotations

import asyncio
import os
import ssl
import sys
from typing import TYPE_CHECKING, Final

import pytest
import trustme
from aiohttp import web

from connector.config.model import Upstream
from connector.config.secrets import Secret
from connector.upstream.api_key import ApiKey
from tests.support.levels import encoded
from tests.support.upstream_server import (
    KEY,
    META,
    OTHER_KEY,
    Fetcher,
    Server,
    assert_hidden,
    fetching,
    refusal,
    replying,
    running_server,
)

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path


@pytest.fixture
async def server() -> AsyncIterator[Server]:
    async with running_server() as running:
        yield running


@pytest.fixture
async def fetcher(server: Server) -> AsyncIterator[Fetcher]:
    upstream = Upstream(base_url=server.url, api_key=Secret(KEY))
    async with fetching(upstream) as created:
        yield created


def key_in_file(file: Path) -> ApiKey:
    """Return the key as after the start: the file had it when it was configured."""
    file.write_text(KEY)
    return ApiKey(Upstream(api_key=Secret(KEY), api_key_file=str(file)))


Reply = tuple[int, bytes, dict[str, str]]

# Replies that repeat the key: status, body and headers. "Cut" means that our limits for
# texts from outside fall within the key, so that only a part of it is left to find.
ECHOES: Final[dict[str, Reply]] = {
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


class TestSecrecy:
    @pytest.mark.parametrize(("status", "body", "headers"), ECHOES.values(), ids=ECHOES)
    async def test_key_that_the_server_repeats_is_not_in_the_error(
        self,
        server: Server,
        fetcher: Fetcher,
        status: int,
        body: bytes,
        headers: dict[str, str],
    ) -> None:
        server.handler = replying(body, status, headers)
        error = await fetcher.fail()
        assert_hidden(error, error.request_id)

    async def test_key_that_the_server_repeats_is_not_in_the_answer(
        self, server: Server, fetcher: Fetcher
    ) -> None:
        meta = {**META, "request_id": KEY, "exchanges_filtered": [KEY]}
        results = {"BTCUSDT": {"echo": KEY}}
        body = encoded({"data": {"results": results}, "meta": meta})
        server.handler = replying(body)
        assert_hidden(await fetcher.fetch())

    async def test_key_that_was_rotated_during_the_request_is_not_in_the_error(
        self, server: Server, tmp_path: Path
    ) -> None:
        file = tmp_path / "key"
        file.write_text(KEY)
        upstream = Upstream(
            base_url=server.url, api_key=Secret(KEY), api_key_file=str(file)
        )
        async with fetching(upstream) as fetcher:
            # By the time of the reply, the current key is another one.
            async def rotate_and_repeat(request: web.Request) -> web.StreamResponse:
                file.write_text(f"{OTHER_KEY}\n\n")
                assert fetcher.key.refresh()
                body = refusal(
                    "UNAUTHORIZED", f"bad key {request.headers['X-API-Key']}"
                )
                return web.Response(body=body, status=401)

            server.handler = rotate_and_repeat
            assert_hidden(await fetcher.fail())

    def test_key_is_not_in_the_text_of_its_holder(self) -> None:
        key = ApiKey(Upstream(api_key=Secret(KEY)))
        assert_hidden(key, key.secret, vars(key))


class TestRotation:
    async def test_next_request_has_the_key_that_the_file_has_now(
        self, server: Server, tmp_path: Path
    ) -> None:
        file = tmp_path / "key"
        file.write_text(KEY)
        new = tmp_path / "new"
        upstream = Upstream(
            base_url=server.url, api_key=Secret(KEY), api_key_file=str(file)
        )
        async with fetching(upstream) as fetcher:
            assert not fetcher.key.refresh()
            await fetcher.fetch()

            # Replace the file atomically, as tools that rotate secrets do.
            new.write_text(f"  {OTHER_KEY}\n")
            new.replace(file)
            assert fetcher.key.refresh()
            assert not fetcher.key.refresh()
            await fetcher.fetch()
        sent = [request.headers["X-API-Key"] for request in server.requests]
        assert sent == [KEY, OTHER_KEY]

    @pytest.mark.parametrize(
        "content",
        ["", " \n", "two words", "x" * 5_000, "\x00\x01"],
        ids=["empty", "blank", "words", "long", "bin"],
    )
    def test_file_without_a_key_changes_nothing_until_it_has_one(
        self, tmp_path: Path, content: str
    ) -> None:
        file = tmp_path / "key"
        key = key_in_file(file)
        file.write_text(content)
        assert not key.refresh()
        file.unlink()
        assert not key.refresh()
        assert key.secret == Secret(KEY)
        file.write_text(OTHER_KEY)
        assert key.refresh()
        assert key.secret == Secret(OTHER_KEY)

    def test_file_written_again_with_the_same_key_is_not_a_change(
        self, tmp_path: Path
    ) -> None:
        file = tmp_path / "key"
        key = key_in_file(file)
        file.write_text(f"{KEY}\n")
        assert not key.refresh()

    def test_file_without_a_key_is_logged_once(
        self, tmp_path: Path, caplog: pytest.LogCaptureFixture
    ) -> None:
        file = tmp_path / "key"
        key = key_in_file(file)
        file.write_text("")
        for _ in range(3):
            assert not key.refresh()
        assert key.secret == Secret(KEY)
        assert [record.message for record in caplog.records] == [
            "cannot read API key file; keeping the previous key"
        ]

    def test_key_rotated_between_configuration_and_start_is_found(
        self, tmp_path: Path
    ) -> None:
        file = tmp_path / "key"
        key = key_in_file(file)
        file.write_text(OTHER_KEY)
        assert key.refresh()
        assert key.secret == Secret(OTHER_KEY)

    def test_without_a_file_the_key_never_changes(self) -> None:
        key = ApiKey(Upstream(api_key=Secret(KEY)))
        assert not key.refresh()


# OpenSSL reads SSL_CERT_FILE once per process, so the client runs in its own.
FETCH: Final = """
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
    ("name", "is_trusted", "output"),
    [
        ("127.0.0.1", True, "['ETHUSDT']"),
        ("127.0.0.1", False, "certificate verify failed"),
        ("api.example.com", True, "certificate is not valid for '127.0.0.1'"),
    ],
    ids=["private authority", "unknown authority", "another name"],
)
async def test_server_with_a_wrong_certificate_receives_nothing(
    name: str, is_trusted: bool, output: str, tmp_path: Path
) -> None:
    authority = trustme.CA()
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    authority.issue_cert(name).configure_cert(context)
    authority.cert_pem.write_to_path(tmp_path / "authority.pem")
    variables = dict(os.environ)
    if is_trusted:
        variables["SSL_CERT_FILE"] = str(tmp_path / "authority.pem")
    async with running_server(context) as server:
        client = await asyncio.create_subprocess_exec(
            sys.executable,
            "-W",
            "ignore",
            "-c",
            FETCH,
            server.url,
            env=variables,
            stdout=asyncio.subprocess.PIPE,
        )
        stdout, _ = await client.communicate()
    assert output in stdout.decode()
    assert len(server.requests) == (1 if output == "['ETHUSDT']" else 0)
