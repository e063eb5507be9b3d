"""The API and the status page over real HTTP: rules of access, answers, and their description."""

from __future__ import annotations

import asyncio
import json
import logging
import math
import re
import socket
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from importlib.resources import files
from typing import TYPE_CHECKING, Any

import aiohttp
import jsonschema  # type: ignore[import-untyped]  # it has no stubs
import pytest
import pytest_asyncio

from connector.config.load import load
from connector.core.model import Event, Kind, Source, Status
from connector.core.transition import FeedRules
from connector.kafka.names import ShardId
from connector.runtime.clock import Clock
from connector.runtime.health import Health
from connector.runtime.ports import AnswerTimes, ShardContext, ShardSpec
from connector.runtime.shard import Shard
from connector.runtime.startup import StartupDeadline
from connector.telemetry.metrics import Metrics
from connector.telemetry.observer import MetricsObserver
from connector.web import api as web_api
from connector.web.api import Api
from connector.web.events import EVENTS_KEPT, MAX_STREAMS
from connector.web.server import BODY_BYTES, REQUEST_SECONDS, Listener
from connector.web.views import WorkerView
from tests.support.memory_log import MemoryLog

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Mapping
    from pathlib import Path

TOKEN = "0123456789abcdef"
BEARER = {"Authorization": f"Bearer {TOKEN}"}
ME = Source("test", "group", "worker")
DOCUMENT = json.loads(
    (files("connector.web") / "page" / "openapi.json").read_text("utf-8")
)
SCHEMAS = DOCUMENT["components"]["schemas"]
FEEDS = """\
[[feeds]]
name = "a"
symbols = ["BTC", "ETH"]

[[feeds]]
name = "b"
symbols = ["BTC", "SOL"]
"""
PAGE = "/status"
STATUS = "/api/status"
SCHEDULE = "/api/schedule"
EVENTS = "/api/events"
OPENAPI = "/api/openapi.json"
SNAPSHOT = "/api/symbols/{symbol}/snapshot"
LOG_LEVEL = "/api/log-level"
PROBLEM_TYPE = "application/problem+json"


class Stack:
    """A listening worker that owns feed `a`; nobody owns feed `b`."""

    def __init__(
        self, folder: Path, request_seconds: float = REQUEST_SECONDS, **variables: str
    ) -> None:
        path = folder / "config.toml"
        path.write_text(FEEDS)
        config = load(
            path,
            {
                "GEX_UPSTREAM__API_KEY": "demo-key",
                "GEX_HTTP__LISTEN": "127.0.0.1:0",
                **variables,
            },
        )
        self.log = MemoryLog()
        self.health = Health(lambda: 0.0, lambda: 0)
        self.metrics = Metrics(["a", "b"])
        self.pool = ThreadPoolExecutor(2)
        shards: dict[ShardId, Shard] = {}
        self.status = WorkerView(
            config,
            ME,
            health=self.health,
            clock=Clock(),
            shards=shards,
        )
        context = ShardContext(
            MetricsObserver(self.metrics),
            Clock(),
            self.pool,
            ME,
            grace_seconds=math.inf,
            polling_changed=lambda: None,
            startup=StartupDeadline(math.inf),
            published=self.status.published,
        )
        symbols = frozenset({"BTC", "ETH"})
        spec = ShardSpec(ShardId("a", 0), FeedRules("a"), symbols)
        self.shard = Shard(spec, lambda: self.log, context)
        shards[self.shard.id] = self.shard
        self.api = Api(config.http, self.status, write_seconds=0.3)
        self.listener = Listener(
            self.metrics,
            self.health,
            "127.0.0.1",
            0,
            self.api.routes(),
            request_seconds,
        )

    async def start(self) -> None:
        self.running = asyncio.create_task(self.shard.run())
        self.shard.assign()
        await self.listener.start()
        await until(lambda: self.shard.is_open)

    async def stop(self) -> None:
        self.shard.close()
        await self.shard.wait_closed()
        self.running.cancel()
        self.api.close()
        await self.listener.stop()
        await asyncio.wait([self.running])
        self.pool.shutdown()

    async def see(self, symbol: str, answer: bytes | Status) -> None:
        now, before = Clock.now(), self.status.recent.position
        self.shard.observe(symbol, answer, AnswerTimes(math.inf, now, now, ME))
        await until(lambda: self.status.recent.position > before)

    @property
    def url(self) -> str:
        return self.listener.url


async def until(condition: Callable[[], object]) -> None:
    async with asyncio.timeout(10):
        while not condition():  # noqa: ASYNC110 -- nothing signals the condition
            await asyncio.sleep(0.005)


def event(number: int, section: str = "zones") -> Event:
    return Event(
        event_id=f"a/ETH/{number}",
        feed="a",
        symbol="ETH",
        sequence=number,
        kind=Kind.CHANGED,
        status=Status.LIVE,
        reason=None,
        computed_at=1,
        previous_computed_at=1,
        observed_at=1,
        changed_levels=(),
        changed_sections=(section,),
        collapsed_observations=0,
        source=ME,
        before=None,
        after=None,
    )


@dataclass(frozen=True)
class Answer:
    """An answer whose body is as openapi.json describes it."""

    status: int
    body: Any
    headers: Mapping[str, str]

    @property
    def detail(self) -> str:
        return str(self.body["detail"])


class Caller:
    """Sends requests to the stack's API and checks the answers against openapi.json."""

    def __init__(self, url: str, session: aiohttp.ClientSession) -> None:
        self.url = url
        self.session = session

    async def send(
        self,
        method: str,
        path: str,
        *,
        operation: str | None = None,
        **options: Any,
    ) -> Answer:
        """Send a request, and check its answer against the description.

        `operation` is the path's template, if it has one.
        """
        url = self.url + path
        async with self.session.request(method, url, **options) as response:
            body = await response.json(content_type=None)
            checked(operation or path, method, response.status, body)
            return Answer(response.status, body, response.headers)

    async def get(self, path: str, headers: Mapping[str, str] | None = None) -> Answer:
        return await self.send("get", path, headers=headers)

    async def put_level(
        self, headers: Mapping[str, str] = BEARER, **options: Any
    ) -> Answer:
        return await self.send("put", LOG_LEVEL, headers=headers, **options)

    async def request_snapshot(
        self, symbol: str, headers: Mapping[str, str] = BEARER, **options: Any
    ) -> Answer:
        """Request a snapshot. `symbol` may have a query behind it."""
        name, _, query = symbol.partition("?")
        path = SNAPSHOT.replace("{symbol}", name) + (f"?{query}" if query else "")
        return await self.send(
            "post",
            path,
            operation=SNAPSHOT,
            headers=headers,
            allow_redirects=False,
            **options,
        )


def checked(path: str, method: str, status: int, body: Any) -> Any:
    """Return the body if openapi.json describes it, otherwise fail."""
    answers = DOCUMENT["paths"][path][method]["responses"]
    assert str(status) in answers, f"{method} {path}: status {status} is not described"
    [content] = answers[str(status)]["content"].values()
    schema = {**content["schema"], "components": DOCUMENT["components"]}
    jsonschema.Draft202012Validator(schema).validate(body)
    return body


@pytest_asyncio.fixture
async def stack(tmp_path: Path) -> AsyncIterator[Stack]:
    stack = Stack(tmp_path, GEX_HTTP__TOKEN=TOKEN)
    await stack.start()
    yield stack
    await stack.stop()


@pytest_asyncio.fixture
async def client() -> AsyncIterator[aiohttp.ClientSession]:
    async with aiohttp.ClientSession() as session:
        yield session


@pytest.fixture
def caller(stack: Stack, client: aiohttp.ClientSession) -> Caller:
    return Caller(stack.url, client)


# The document


def test_the_document_describes_exactly_the_routes(stack: Stack) -> None:
    routes = set()
    for route in stack.api.routes():
        routes.add((route.path, route.method.lower()))
    described = {(PAGE, "get")}
    for path, item in DOCUMENT["paths"].items():
        described |= {(path, method) for method in item}
    assert routes == described


def test_the_document_describes_every_parameter_of_a_path() -> None:
    for path, item in DOCUMENT["paths"].items():
        for operation in item.values():
            parameters = operation.get("parameters", ())
            named = {one["name"] for one in parameters if one["in"] == "path"}
            assert named == set(re.findall(r"{(\w+)}", path))
            assert operation["summary"]


def test_the_document_is_openapi_3_1_and_its_references_exist() -> None:
    assert DOCUMENT["openapi"].startswith("3.1.")
    for schema in SCHEMAS.values():
        jsonschema.Draft202012Validator.check_schema(schema)
    used = re.findall(r'"#/components/schemas/(\w+)"', json.dumps(DOCUMENT))
    assert set(used) == set(SCHEMAS)


async def test_the_document_is_served_unchanged(caller: Caller) -> None:
    answer = await caller.get(OPENAPI)
    assert (answer.status, answer.body) == (200, DOCUMENT)


# Status and schedule


async def test_the_schedule_is_empty_while_the_worker_starts(caller: Caller) -> None:
    answer = await caller.get(SCHEDULE)
    assert (answer.status, answer.body) == (200, {})


async def test_the_status_shows_all_symbols_while_the_worker_starts(
    stack: Stack, caller: Caller
) -> None:
    await stack.see("BTC", b'{"spot_price": 1}')
    body = (await caller.get(STATUS)).body
    assert body["worker"]["ready"] is False
    assert body["worker"]["reasons"] == ["starting"]

    rows = {}
    for row in body["symbols"]:
        rows[row["feed"], row["symbol"]] = row
    seen = rows["a", "BTC"]
    not_seen = rows["a", "ETH"]
    not_owned = rows["b", "BTC"]
    assert seen["status"] == "LIVE"
    assert seen["sequence"] == 1
    assert seen["changed_at"] == stack.log.events[0].observed_at
    assert not_seen["owned"] is True
    assert not_seen["status"] is None
    assert not_owned["owned"] is False
    assert not_owned["status"] is None


async def test_readers_share_one_encoded_status(
    stack: Stack, client: aiohttp.ClientSession
) -> None:
    stack.status._cached_at = math.inf
    stack.status._cached_status = b'{"kept": true}'
    async with client.get(stack.url + STATUS) as response:
        assert await response.json() == {"kept": True}


# Snapshots


async def test_a_snapshot_is_one_event_with_the_next_sequence(
    stack: Stack, caller: Caller
) -> None:
    await stack.see("BTC", b'{"spot_price": 1}')
    answer = await caller.request_snapshot("btc?feed=a")
    assert answer.status == 200
    assert answer.body == {"event_id": "a/BTC/2", "sequence": 2}
    first, second = stack.log.events
    assert first.kind == Kind.SNAPSHOT
    assert first.sequence == 1
    assert first.reason is None
    assert second.kind == Kind.SNAPSHOT
    assert second.sequence == 2
    assert second.reason == "asked"


async def test_a_refused_snapshot_has_a_reason(stack: Stack, caller: Caller) -> None:
    answer = await caller.request_snapshot("ETH")
    assert answer.status == 409
    assert answer.detail == "no snapshot: the symbol has not been observed yet"

    await stack.see("ETH", Status.MISSING)
    answer = await caller.request_snapshot("ETH")
    assert answer.status == 409
    assert answer.detail == "no snapshot: there are no levels to publish; it is MISSING"

    answer = await caller.request_snapshot("SOL")
    assert (answer.status, answer.body["owner"]) == (409, None)

    answer = await caller.request_snapshot("BTC")
    assert answer.status == 400
    assert answer.detail == "symbol 'BTC' is in several feeds; add ?feed=a|b"

    answer = await caller.request_snapshot("BTC", data=b"{}")
    assert answer.status == 400
    assert answer.detail == "unexpected request body; this request takes none"


async def test_requests_share_a_snapshot_that_is_not_committed_in_time(
    stack: Stack, caller: Caller, monkeypatch: pytest.MonkeyPatch
) -> None:
    await stack.see("BTC", b'{"spot_price": 1}')
    monkeypatch.setattr(web_api, "COMMIT_WAIT_SECONDS", 0.05)
    may_commit = asyncio.Event()
    commit = stack.shard._publisher._commit

    async def hanging(*args: Any) -> None:
        await may_commit.wait()
        await commit(*args)

    monkeypatch.setattr(stack.shard._publisher, "_commit", hanging)
    for _ in range(2):
        answer = await caller.request_snapshot("BTC?feed=a")
        assert answer.status == 202
        assert answer.body == {"event_id": None, "sequence": None}

    may_commit.set()
    await until(lambda: len(stack.log.events) == 2)
    await until(lambda: not stack.shard._snapshots)
    assert len(stack.log.events) == 2


@pytest.mark.parametrize(
    "symbol",
    [
        "NONE",
        "..%2f..%2fetc%2fpasswd",
        "%3Cscript%3E",
        "BTC%00",
        "%F0%9F%92%A5",
        "A" * 4000,
        "a%0d%0aSet-Cookie:%20x",
    ],
)
async def test_an_unknown_symbol_is_not_found_and_escaped(
    symbol: str, caller: Caller
) -> None:
    answer = await caller.request_snapshot(symbol)
    assert answer.status == 404
    assert len(answer.detail) < 200
    assert answer.detail.isascii()
    assert "Set-Cookie" not in answer.headers


# The log level


async def test_the_log_level_is_set(caller: Caller) -> None:
    logger = logging.getLogger("connector")
    logger.setLevel("INFO")
    answer = await caller.put_level(json={"level": "ERROR"})
    assert answer.status == 200
    assert answer.body == {"level": "ERROR", "before": "INFO"}
    assert logger.level == logging.ERROR
    logger.setLevel("NOTSET")


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"DEBUG",
        b'"DEBUG"',
        b'{"level": "TRACE"}',
        b'{"level": "DEBUG", "more": 1}',
        b"[" * 60_000,
        b"\xff",
    ],
)
async def test_an_unknown_level_changes_nothing(body: bytes, caller: Caller) -> None:
    before = logging.getLogger("connector").level
    headers = {**BEARER, "Content-Type": "application/json"}
    answer = await caller.put_level(headers, data=body)
    assert answer.status == 400
    assert logging.getLogger("connector").level == before


async def test_a_body_of_another_type_is_refused(caller: Caller) -> None:
    answer = await caller.put_level(data='{"level": "DEBUG"}')
    assert answer.status == 415


async def test_a_large_body_is_refused(caller: Caller) -> None:
    headers = {**BEARER, "Content-Type": "application/json"}
    body = b" " * (BODY_BYTES + 1)
    for answer in (
        await caller.put_level(headers, data=body),
        await caller.request_snapshot("BTC", headers, data=body),
    ):
        assert answer.status == 413
        assert answer.headers["Content-Type"].startswith(PROBLEM_TYPE)


# Access


@pytest.mark.parametrize(
    "authorization",
    [
        "",
        TOKEN,
        f"Basic {TOKEN}",
        "Bearer",
        "Bearer wrong",
        f"Bearer {TOKEN}x",
        "Bearer é",
    ],
)
async def test_changes_need_the_token(
    authorization: str, caller: Caller, caplog: pytest.LogCaptureFixture
) -> None:
    headers = {"Authorization": authorization}
    for answer in (
        await caller.put_level(headers),
        await caller.request_snapshot("BTC", headers),
    ):
        assert answer.status == 401
        assert answer.headers["WWW-Authenticate"] == "Bearer"
        assert TOKEN not in str(answer.body)
    assert TOKEN not in caplog.text


async def test_without_a_token_changes_are_refused_with_a_remedy(
    tmp_path: Path, client: aiohttp.ClientSession
) -> None:
    stack = Stack(tmp_path)
    await stack.start()
    caller = Caller(stack.url, client)
    for authorization in ("", "Bearer", "Bearer x"):
        answer = await caller.put_level({"Authorization": authorization})
        assert answer.status == 403
        assert "http.token_file" in answer.detail
    await stack.stop()


async def test_off_loopback_the_api_needs_the_token(
    tmp_path: Path, client: aiohttp.ClientSession
) -> None:
    stack = Stack(tmp_path, GEX_HTTP__LISTEN="0.0.0.0:0", GEX_HTTP__TOKEN=TOKEN)
    await stack.start()
    caller = Caller(stack.url, client)
    host = {"Host": "gex.example.com"}
    for path in (OPENAPI, STATUS, SCHEDULE, EVENTS):
        assert (await caller.get(path, host)).status == 401
        headers = {**host, **BEARER}
        async with client.get(stack.url + path, headers=headers) as response:
            assert response.status == 200
    await stack.stop()


async def test_off_loopback_metrics_probes_and_the_empty_page_need_no_token(
    tmp_path: Path, client: aiohttp.ClientSession
) -> None:
    stack = Stack(tmp_path, GEX_HTTP__LISTEN="0.0.0.0:0", GEX_HTTP__TOKEN=TOKEN)
    await stack.start()
    host = {"Host": "gex.example.com"}
    for path in ("/metrics", "/health/live", PAGE):
        async with client.get(stack.url + path, headers=host) as response:
            assert response.status == 200
            assert (path == "/metrics") == ("BTC" in await response.text())
    await stack.stop()


@pytest.mark.parametrize(
    "host",
    ["evil.example", "evil.example:9464", "localhost.evil.example", "1.2.3.4", "[", ""],
)
async def test_on_loopback_another_host_name_is_refused(
    host: str, stack: Stack, client: aiohttp.ClientSession
) -> None:
    """DNS rebinding: another site's name that resolves to us would make its pages ours."""
    headers = {"Host": host}
    for path in (PAGE, STATUS, EVENTS):
        async with client.get(stack.url + path, headers=headers) as response:
            assert response.status == 421
            assert response.content_type == PROBLEM_TYPE
    headers |= BEARER
    level = {"level": "DEBUG"}
    async with client.put(
        stack.url + LOG_LEVEL, headers=headers, json=level
    ) as response:
        assert response.status == 421


@pytest.mark.parametrize(
    "host", ["localhost", "localhost:1", "127.0.0.1:9464", "[::1]:9464", "LOCALHOST"]
)
async def test_on_loopback_this_machines_names_are_accepted(
    host: str, caller: Caller
) -> None:
    assert (await caller.get(STATUS, {"Host": host})).status == 200


@pytest.mark.parametrize("site", ["cross-site", "same-site"])
async def test_pages_of_other_sites_get_no_data(site: str, caller: Caller) -> None:
    assert (await caller.get(EVENTS, {"Sec-Fetch-Site": site})).status == 403


@pytest.mark.parametrize("site", ["cross-site", "same-site"])
async def test_pages_of_other_sites_may_link_to_the_page(
    site: str, stack: Stack, client: aiohttp.ClientSession
) -> None:
    headers = {"Sec-Fetch-Site": site}
    async with client.get(stack.url + PAGE, headers=headers) as response:
        assert response.status == 200
        names = [name.lower() for name in response.headers]
    assert not any(name.startswith("access-control-") for name in names)


async def test_a_preflight_request_is_refused(
    stack: Stack, client: aiohttp.ClientSession
) -> None:
    origin = {"Origin": "http://evil.example"}
    async with client.options(stack.url + LOG_LEVEL, headers=origin) as response:
        assert response.status == 405


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("get", "/api/nowhere", 404),
        ("delete", STATUS, 405),
        ("get", LOG_LEVEL, 405),
    ],
)
async def test_every_error_is_problem_details(
    method: str, path: str, status: int, stack: Stack, client: aiohttp.ClientSession
) -> None:
    async with client.request(method, stack.url + path) as response:
        body = await response.json(content_type=None)
    assert (response.status, response.content_type) == (status, PROBLEM_TYPE)
    jsonschema.Draft202012Validator(SCHEMAS["Problem"]).validate(body)
    assert body["status"] == status
    assert ("Allow" in response.headers) == (status == 405)


async def test_the_page_runs_its_own_script_only(
    stack: Stack, client: aiohttp.ClientSession
) -> None:
    async with client.get(stack.url + PAGE) as response:
        policy = response.headers["Content-Security-Policy"]
        page = await response.text()
    assert policy.startswith("default-src 'none'; connect-src 'self'; ")
    assert "unsafe" not in policy
    assert len(re.findall(r"'sha256-[\w+/]{43}='", policy)) == 2
    forbidden = r'<[^>]+ (?:on\w+|style|src)=|href="(?!data:,")|innerHTML|https?://'
    assert not re.findall(forbidden, page)


# The stream of events


async def read_events(response: aiohttp.ClientResponse, count: int) -> list[Any]:
    found: list[Any] = []
    async with asyncio.timeout(10):
        while len(found) < count:
            line = await response.content.readline()
            if line.startswith(b"data: "):
                body = json.loads(line.removeprefix(b"data: "))
                found.append(checked(EVENTS, "get", 200, body))
    return found


async def test_events_are_streamed_as_they_are_committed(
    stack: Stack, client: aiohttp.ClientSession
) -> None:
    await stack.see("BTC", b'{"spot_price": 1}')
    async with client.get(stack.url + EVENTS) as response:
        assert response.content_type == "text/event-stream"
        first = await read_events(response, 1)
        await stack.see("BTC", b'{"spot_price": 1, "all_expiry": {"hvl": 2}}')
        second = await read_events(response, 1)
    assert [one["event_id"] for one in first + second] == ["a/BTC/1", "a/BTC/2"]
    change = {"path": "all_expiry.hvl", "before": None, "after": 2}
    assert second[0]["changed_levels"] == [change]


@pytest.mark.parametrize(
    ("last_event_id", "sequences"),
    [
        ("a/ETH/1", [2]),
        # A sequence that does not exist: the reader gets everything.
        ("a/ETH/999", [1, 2]),
    ],
)
async def test_a_reader_continues_after_the_last_event_it_has(
    last_event_id: str,
    sequences: list[int],
    stack: Stack,
    client: aiohttp.ClientSession,
) -> None:
    stack.status.published(event(1))
    stack.status.published(event(2))
    headers = {"Last-Event-ID": last_event_id}
    async with client.get(stack.url + EVENTS, headers=headers) as response:
        found = await read_events(response, len(sequences))
    assert [one["sequence"] for one in found] == sequences


async def test_only_the_last_events_are_kept(
    stack: Stack, client: aiohttp.ClientSession
) -> None:
    for number in range(1, EVENTS_KEPT + 51):
        stack.status.published(event(number))
    async with client.get(stack.url + EVENTS) as response:
        found = await read_events(response, EVENTS_KEPT)
    sequences = [one["sequence"] for one in found]
    assert sequences == list(range(51, EVENTS_KEPT + 51))


async def test_the_number_of_readers_is_limited(stack: Stack) -> None:
    connector = aiohttp.TCPConnector(limit=0)
    async with aiohttp.ClientSession(connector=connector) as client:
        readers = [await client.get(stack.url + EVENTS) for _ in range(MAX_STREAMS)]
        refused = await Caller(stack.url, client).get(EVENTS)
        assert (refused.status, refused.headers["Retry-After"]) == (503, "10")

        # A reader that leaves makes room for another one.
        readers[0].close()
        await until(lambda: stack.api.streams.open == MAX_STREAMS - 1)
        async with client.get(stack.url + EVENTS) as response:
            assert response.status == 200
        for reader in readers:
            reader.close()
        await until(lambda: stack.api.streams.open == 0)


async def test_a_reader_that_accepts_no_data_is_disconnected(stack: Stack) -> None:
    slow = socket.socket()
    slow.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    slow.setblocking(False)
    loop = asyncio.get_running_loop()
    port = int(stack.url.rpartition(":")[2])
    await loop.sock_connect(slow, ("127.0.0.1", port))
    request = f"GET {EVENTS} HTTP/1.1\r\nHost: localhost\r\n\r\n"
    await loop.sock_sendall(slow, request.encode())
    await until(lambda: stack.api.streams.open == 1)
    for number in range(1, EVENTS_KEPT + 1):
        stack.status.published(event(number, "x" * 200_000))
    server = stack.listener._runner.server
    assert server is not None
    await until(lambda: stack.api.streams.open == 0 and not server.connections)
    slow.close()


async def test_a_reader_that_missed_events_must_reconnect(
    stack: Stack, client: aiohttp.ClientSession
) -> None:
    stack.status.published(event(1))
    async with client.get(stack.url + EVENTS) as response:
        assert len(await read_events(response, 1)) == 1
        for number in range(2, EVENTS_KEPT + 3):
            stack.status.published(event(number))
        assert (await response.content.read()).strip() == b""


@pytest.mark.parametrize("request_seconds", [0.05, 3600])
async def test_only_a_stop_ends_a_stream_whatever_the_time_limit_of_requests(
    request_seconds: float, tmp_path: Path, client: aiohttp.ClientSession
) -> None:
    stack = Stack(tmp_path, request_seconds)
    loop = asyncio.get_running_loop()
    await stack.start()
    async with client.get(stack.url + EVENTS) as response:
        started_at = loop.time()
        await until(lambda: loop.time() > started_at + 0.1)
        stack.status.published(event(1))
        assert len(await read_events(response, 1)) == 1
        async with asyncio.timeout(30):
            await stack.stop()
        assert (await response.content.read()).strip() == b""
