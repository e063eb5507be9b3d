"""The API key is rotated while we run, and is never shown (invariant 8)."""

from __future__ import annotations

import asyncio
import os
import ssl
import sys
from dataclasses import dataclass, field
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
    upstream_at,
)

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """A key file with the key that is configured."""
    path = tmp_path / "key"
    path.write_text(KEY)
    return path


def key_in_file(file: Path) -> ApiKey:
    """Return the key as after the start: the file had it when it was configured."""
    return ApiKey(Upstream(api_key=Secret(KEY), api_key_file=str(file)))


def rotate(key: ApiKey, file: Path) -> None:
    """Let the file have another key, and the client use it."""
    file.write_text(f"{OTHER_KEY}\n\n")
    assert key.refresh()


@dataclass(frozen=True)
class Echo:
    """A reply that repeats the key."""

    status: int
    body: bytes = b""
    headers: Mapping[str, str] = field(default_factory=dict)


def unauthorized(message: str) -> Echo:
    return Echo(401, refusal("UNAUTHORIZED", message))


def invalid(fault: object) -> Echo:
    details = {"errors": [fault]}
    return Echo(422, refusal("VALIDATION_ERROR", details=details))


# "Cut" means that our limits for texts from outside fall within the key, so that only a part
# of it is left to find and to hide.
ECHOES: Final[dict[str, Echo]] = {
    # In the fields of the API's own errors.
    "message": unauthorized(f"unknown key {KEY}"),
    "message_cut_in_the_key": unauthorized("x" * 180 + KEY),
    "message_cut_at_the_end": unauthorized("x" * 480 + KEY),
    "code": Echo(401, refusal(KEY)),
    "details": invalid({"headers": {"X-API-Key": KEY}}),
    "details_cut": invalid("y" * 170 + KEY),
    # Support asks for the request's id, so we log it and publish it.
    "request_id": Echo(503, refusal("UPSTREAM_ERROR", request_id=KEY)),
    "request_id_header": Echo(503, headers={"X-Request-ID": f"{KEY}/1"}),
    "request_id_header_cut": Echo(503, headers={"X-Request-ID": "z" * 180 + KEY}),
    # In bodies that cannot be decoded: their beginning becomes part of our error.
    "html": Echo(502, f"<html>{KEY}</html>".encode()),
    "truncated_json": Echo(
        200, f'{{"success":false,"error":{{"message":"{KEY}'.encode()
    ),
    "json_key": Echo(200, encoded({KEY: KEY})),
    "wrong_type": Echo(200, encoded({"data": KEY})),
    # In headers that an error quotes.
    "content_encoding": Echo(200, b"x", {"Content-Encoding": KEY}),
    "content_encoding_cut": Echo(200, b"x", {"Content-Encoding": "zzz" + KEY}),
    "location": Echo(302, headers={"Location": f"https://login.example/?key={KEY}"}),
    "retry_after": Echo(429, headers={"Retry-After": KEY}),
}


class TestSecrecy:
    @pytest.mark.parametrize("echo", ECHOES.values(), ids=ECHOES)
    async def test_key_that_the_server_repeats_is_not_in_the_error(
        self, server: Server, fetcher: Fetcher, echo: Echo
    ) -> None:
        server.handler = replying(echo.body, echo.status, echo.headers)

        error = await fetcher.fail()

        assert_hidden(error, error.request_id)

    async def test_key_that_the_server_repeats_is_not_in_the_answer(
        self, server: Server, fetcher: Fetcher
    ) -> None:
        # The answer's meta data are published with every event.
        meta = {**META, "request_id": KEY, "exchanges_filtered": [KEY]}
        results = {"BTCUSDT": {"echo": KEY}}
        body = encoded({"data": {"results": results}, "meta": meta})
        server.handler = replying(body)

        assert_hidden(await fetcher.fetch())

    async def test_key_that_was_rotated_during_the_request_is_not_in_the_error(
        self, server: Server, file: Path
    ) -> None:
        upstream = upstream_at(server.url, api_key_file=str(file))
        async with fetching(upstream) as fetcher:
            # By the time of the reply, the current key is another one. The reply repeats
            # the key that was sent, so hiding the current key is not enough.
            async def rotate_and_repeat(request: web.Request) -> web.StreamResponse:
                rotate(fetcher.key, file)
                sent = request.headers["X-API-Key"]
                body = refusal("UNAUTHORIZED", f"bad key {sent}")
                return web.Response(body=body, status=401)

            server.handler = rotate_and_repeat

            assert_hidden(await fetcher.fail())

    def test_key_is_not_in_the_text_of_its_holder(self) -> None:
        key = ApiKey(Upstream(api_key=Secret(KEY)))

        # Debuggers and crash reports show the attributes of objects.
        assert_hidden(key, key.secret, vars(key))


class TestRotation:
    async def test_next_request_has_the_key_that_the_file_has_now(
        self, server: Server, file: Path, tmp_path: Path
    ) -> None:
        upstream = upstream_at(server.url, api_key_file=str(file))
        async with fetching(upstream) as fetcher:
            assert not fetcher.key.refresh()
            await fetcher.fetch()

            # Replace the file atomically, as tools that rotate secrets do. The blanks are
            # those that an editor or `echo` adds.
            new = tmp_path / "new"
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
        self, file: Path, content: str
    ) -> None:
        key = key_in_file(file)

        # A tool that does not replace the file atomically truncates or removes it first.
        file.write_text(content)
        assert not key.refresh()
        file.unlink()
        assert not key.refresh()
        assert key.secret == Secret(KEY)

        file.write_text(OTHER_KEY)
        assert key.refresh()
        assert key.secret == Secret(OTHER_KEY)

    def test_file_written_again_with_the_same_key_is_not_a_change(
        self, file: Path
    ) -> None:
        key = key_in_file(file)
        file.write_text(f"{KEY}\n")

        assert not key.refresh()

    def test_file_without_a_key_is_logged_once(
        self, file: Path, caplog: pytest.LogCaptureFixture
    ) -> None:
        key = key_in_file(file)
        file.write_text("")

        # The file is read periodically: a line each time would fill the log.
        for _ in range(3):
            assert not key.refresh()

        assert key.secret == Secret(KEY)
        assert [record.message for record in caplog.records] == [
            "cannot read API key file; keeping the previous key"
        ]

    def test_key_rotated_between_configuration_and_start_is_found(
        self, file: Path
    ) -> None:
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
ANSWERED: Final = "['ETHUSDT']"


async def output_of_fetch(url: str, variables: Mapping[str, str]) -> str:
    """Fetch in a process of its own, and return its answer or its error."""
    # Python's own warnings would add lines to the output.
    command = (sys.executable, "-W", "ignore", "-c", FETCH, url)
    process = await asyncio.create_subprocess_exec(
        *command, env=variables, stdout=asyncio.subprocess.PIPE
    )
    stdout, _ = await process.communicate()
    return stdout.decode()


@pytest.mark.parametrize(
    ("name", "is_trusted", "output"),
    [
        ("127.0.0.1", True, ANSWERED),
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
        shown = await output_of_fetch(server.url, variables)

    # The key is in the request's headers, so not even one request may arrive.
    assert output in shown
    expected_requests = 0
    if output == ANSWERED:
        expected_requests = 1
    assert len(server.requests) == expected_requests
