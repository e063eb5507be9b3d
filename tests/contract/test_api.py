"""The API and the page over real HTTP: who may, what is answered, and that openapi.json says so."""

from __future__ import annotations

import asyncio
import json
import logging
import math
import re
import socket
from concurrent.futures import ThreadPoolExecutor
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
from connector.web import api as runtime_api
from connector.web.api import Api
from connector.web.events import EVENTS_KEPT, MAX_STREAMS
from connector.web.server import BODY_BYTES, REQUEST_SECONDS, Listener
from connector.web.views import WorkerView as Shown
from tests.support.memory_log import MemoryLog

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable


TOKEN = "0123456789abcdef"
BEARER = {"Authorization": f"Bearer {TOKEN}"}
ME = Source("test", "group", "worker")
DOCUMENT = json.loads(
    (files("connector.web") / "page" / "openapi.json").read_text("utf-8")
)
FEEDS = '[[feeds]]\nname = "a"\nsymbols = ["BTC", "ETH"]\n[[feeds]]\nname = "b"\nsymbols = ["BTC", "SOL"]\n'
SNAPSHOT, LEVEL = "/api/symbols/{symbol}/snapshot", "/api/log-level"


class Stack:
    """What listens, with feed `a` in its hands and feed `b` in nobody's."""

    def __init__(
        self, folder: Any, request_seconds: float = REQUEST_SECONDS, **variables: str
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
        self.log, self.health, self.metrics = (
            MemoryLog(),
            Health(lambda: 0.0, lambda: 0),
            Metrics(["a", "b"]),
        )
        self.pool = ThreadPoolExecutor(2)
        shards: dict[ShardId, Shard] = {}
        self.status = Shown(
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


async def until(true: Callable[[], object]) -> None:
    async with asyncio.timeout(10):
        while not true():  # noqa: ASYNC110 -- what is waited for tells nobody
            await asyncio.sleep(0.005)


def event(number: int, section: str = "zones") -> Event:
    given = {
        "kind": Kind.CHANGED,
        "status": Status.LIVE,
        "reason": None,
        "computed_at": 1,
        "previous_computed_at": 1,
    }
    more = {
        "changed_levels": (),
        "changed_sections": (section,),
        "collapsed_observations": 0,
        "source": ME,
    }
    last = {
        "before": None,
        "after": None,
        "feed": "a",
        "symbol": "ETH",
        "observed_at": 1,
    }
    return Event(event_id=f"a/ETH/{number}", sequence=number, **given, **more, **last)  # type: ignore[arg-type]


@pytest_asyncio.fixture
async def stack(tmp_path: Any) -> AsyncIterator[Stack]:
    made = Stack(tmp_path, GEX_HTTP__TOKEN=TOKEN)
    await made.start()
    yield made
    await made.stop()


@pytest_asyncio.fixture
async def client() -> AsyncIterator[aiohttp.ClientSession]:
    async with aiohttp.ClientSession() as session:
        yield session


def checked(path: str, method: str, status: int, body: Any) -> Any:
    """The body, once openapi.json has it so."""
    answers = DOCUMENT["paths"][path][method]["responses"]
    assert str(status) in answers, (
        f"{method} {path} answers {status}, which is not described"
    )
    [content] = answers[str(status)]["content"].values()
    schema = {**content["schema"], "components": DOCUMENT["components"]}
    jsonschema.Draft202012Validator(schema).validate(body)
    return body


async def asked(
    stack: Stack,
    client: aiohttp.ClientSession,
    symbol: str,
    query: str = "",
    **more: Any,
) -> Any:
    url = f"{stack.url}/api/symbols/{symbol}/snapshot{query}"
    async with client.post(url, headers=BEARER, **more) as response:
        return response.status, checked(
            SNAPSHOT, "post", response.status, await response.json(content_type=None)
        )


def test_the_document_describes_the_routes_and_nothing_else(stack: Stack) -> None:
    routes = {(route.path, route.method.lower()) for route in stack.api.routes()} - {
        ("/status", "get")
    }
    assert routes == {
        (path, method) for path, item in DOCUMENT["paths"].items() for method in item
    }
    for path, item in DOCUMENT["paths"].items():
        for operation in item.values():
            named = {
                one["name"]
                for one in operation.get("parameters", ())
                if one["in"] == "path"
            }
            assert named == set(re.findall(r"{(\w+)}", path))
            assert operation["summary"]


def test_the_document_is_openapi_3_1_whose_references_lead_somewhere() -> None:
    assert DOCUMENT["openapi"].startswith("3.1.")
    schemas = DOCUMENT["components"]["schemas"]
    for schema in schemas.values():
        jsonschema.Draft202012Validator.check_schema(schema)
    used = set(re.findall(r'"#/components/schemas/(\w+)"', json.dumps(DOCUMENT)))
    assert used == set(schemas)


async def test_the_document_is_served_as_it_is(
    stack: Stack, client: aiohttp.ClientSession
) -> None:
    async with client.get(f"{stack.url}/api/openapi.json") as response:
        assert (response.status, await response.json()) == (200, DOCUMENT)


async def test_status_and_schedule_are_as_described_also_while_the_worker_starts(
    stack: Stack, client: aiohttp.ClientSession
) -> None:
    await stack.see("BTC", b'{"spot_price": 1}')
    async with client.get(f"{stack.url}/api/status") as response:
        body = checked("/api/status", "get", response.status, await response.json())
    async with client.get(f"{stack.url}/api/schedule") as response:
        assert (
            checked("/api/schedule", "get", response.status, await response.json())
            == {}
        )
    assert (body["worker"]["ready"], body["worker"]["reasons"]) == (False, ["starting"])
    rows = {(row["feed"], row["symbol"]): row for row in body["symbols"]}
    assert (rows["a", "BTC"]["status"], rows["a", "BTC"]["sequence"]) == ("LIVE", 1)
    assert rows["a", "BTC"]["changed_at"] == stack.log.events[0].observed_at
    assert (rows["a", "ETH"]["owned"], rows["a", "ETH"]["status"]) == (True, None)
    assert (rows["b", "BTC"]["owned"], rows["b", "BTC"]["status"]) == (False, None)


async def test_however_many_ask_the_status_is_put_together_once(
    stack: Stack, client: aiohttp.ClientSession
) -> None:
    stack.status._cached_at, stack.status._cached_status = math.inf, b'{"kept": true}'
    async with client.get(f"{stack.url}/api/status") as response:
        assert await response.json() == {"kept": True}


async def test_a_snapshot_is_one_event_with_the_next_sequence(
    stack: Stack, client: aiohttp.ClientSession
) -> None:
    await stack.see("BTC", b'{"spot_price": 1}')
    assert await asked(stack, client, "btc", "?feed=a") == (
        200,
        {"event_id": "a/BTC/2", "sequence": 2},
    )
    assert [(one.kind, one.sequence, one.reason) for one in stack.log.events] == [
        (Kind.SNAPSHOT, 1, None),
        (Kind.SNAPSHOT, 2, "asked"),
    ]


async def test_why_there_is_no_snapshot_is_said(
    stack: Stack, client: aiohttp.ClientSession
) -> None:
    status, body = await asked(stack, client, "ETH")
    assert (status, body["detail"]) == (
        409,
        "no snapshot: the symbol has not been observed yet",
    )
    await stack.see("ETH", Status.MISSING)
    status, body = await asked(stack, client, "ETH")
    assert (status, body["detail"]) == (
        409,
        "no snapshot: there are no levels to publish; it is MISSING",
    )
    status, body = await asked(stack, client, "SOL")
    assert (status, body["owner"]) == (409, None)
    status, body = await asked(stack, client, "BTC")
    assert (status, body["detail"]) == (
        400,
        "symbol 'BTC' is in several feeds; add ?feed=a|b",
    )
    status, body = await asked(stack, client, "BTC", data=b"{}")
    assert (status, body["detail"]) == (
        400,
        "unexpected request body; this request takes none",
    )


async def test_a_snapshot_that_is_not_committed_in_time_is_on_its_way_and_stays_one(
    stack: Stack, client: aiohttp.ClientSession, monkeypatch: pytest.MonkeyPatch
) -> None:
    await stack.see("BTC", b'{"spot_price": 1}')
    monkeypatch.setattr(runtime_api, "COMMIT_WAIT_SECONDS", 0.05)
    going_on = asyncio.Event()
    commit = stack.shard._publisher._commit

    async def hanging(*args: Any) -> None:
        await going_on.wait()
        await commit(*args)

    monkeypatch.setattr(stack.shard._publisher, "_commit", hanging)
    nothing = {"event_id": None, "sequence": None}
    assert await asked(stack, client, "BTC", "?feed=a") == (202, nothing)
    assert await asked(stack, client, "BTC", "?feed=a") == (202, nothing)
    going_on.set()
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
async def test_a_symbol_that_is_none_is_not_found_and_cut_short(
    symbol: str, stack: Stack, client: aiohttp.ClientSession
) -> None:
    async with client.post(
        f"{stack.url}/api/symbols/{symbol}/snapshot",
        headers=BEARER,
        allow_redirects=False,
    ) as response:
        body = checked(
            SNAPSHOT, "post", response.status, await response.json(content_type=None)
        )
        assert (
            response.status,
            len(body["detail"]) < 200,
            body["detail"].isascii(),
        ) == (404, True, True)
        assert "Set-Cookie" not in response.headers


async def test_the_log_level_is_set(
    stack: Stack, client: aiohttp.ClientSession
) -> None:
    ours = logging.getLogger("connector")
    ours.setLevel("INFO")
    async with client.put(
        stack.url + LEVEL, headers=BEARER, json={"level": "ERROR"}
    ) as response:
        body = checked(LEVEL, "put", response.status, await response.json())
        assert (response.status, body) == (200, {"level": "ERROR", "before": "INFO"})
    assert ours.level == logging.ERROR
    ours.setLevel("NOTSET")


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
async def test_a_level_that_is_none_changes_nothing(
    body: bytes, stack: Stack, client: aiohttp.ClientSession
) -> None:
    before = logging.getLogger("connector").level
    headers = {**BEARER, "Content-Type": "application/json"}
    async with client.put(stack.url + LEVEL, headers=headers, data=body) as response:
        assert response.status == 400
        checked(LEVEL, "put", 400, await response.json(content_type=None))
    assert logging.getLogger("connector").level == before


async def test_a_body_of_another_type_or_too_large_is_refused(
    stack: Stack, client: aiohttp.ClientSession
) -> None:
    async with client.put(
        stack.url + LEVEL, headers=BEARER, data='{"level": "DEBUG"}'
    ) as response:
        checked(LEVEL, "put", response.status, await response.json(content_type=None))
        assert response.status == 415
    headers = {**BEARER, "Content-Type": "application/json"}
    for method, path in (("put", LEVEL), ("post", "/api/symbols/BTC/snapshot")):
        async with client.request(
            method, stack.url + path, headers=headers, data=b" " * (BODY_BYTES + 1)
        ) as response:
            assert (response.status, response.content_type) == (
                413,
                "application/problem+json",
            )


@pytest.mark.parametrize(
    "given",
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
async def test_what_changes_something_needs_the_token(
    given: str,
    stack: Stack,
    client: aiohttp.ClientSession,
    caplog: pytest.LogCaptureFixture,
) -> None:
    for method, path in (("put", LEVEL), ("post", "/api/symbols/BTC/snapshot")):
        async with client.request(
            method, stack.url + path, headers={"Authorization": given}
        ) as response:
            assert (response.status, response.headers["WWW-Authenticate"]) == (
                401,
                "Bearer",
            )
            body = checked(LEVEL, "put", 401, await response.json(content_type=None))
    assert TOKEN not in str(body) + caplog.text


async def test_without_a_token_nothing_can_be_changed_and_the_way_out_is_said(
    tmp_path: Any, client: aiohttp.ClientSession
) -> None:
    stack = Stack(tmp_path)
    await stack.start()
    for given in ("", "Bearer", "Bearer x"):
        async with client.put(
            stack.url + LEVEL, headers={"Authorization": given}
        ) as response:
            body = checked(
                LEVEL, "put", response.status, await response.json(content_type=None)
            )
            assert (response.status, "http.token_file" in body["detail"]) == (403, True)
    await stack.stop()


async def test_beyond_this_machine_everything_but_metrics_probes_and_the_empty_page_needs_the_token(
    tmp_path: Any, client: aiohttp.ClientSession
) -> None:
    stack = Stack(tmp_path, GEX_HTTP__LISTEN="0.0.0.0:0", GEX_HTTP__TOKEN=TOKEN)
    await stack.start()
    host = {"Host": "gex.example.com"}
    for path in ("/api/openapi.json", "/api/status", "/api/schedule", "/api/events"):
        async with client.get(stack.url + path, headers=host) as response:
            checked(
                path, "get", response.status, await response.json(content_type=None)
            )
            assert response.status == 401
        async with client.get(stack.url + path, headers={**host, **BEARER}) as response:
            assert response.status == 200
    for path in ("/metrics", "/health/live", "/status"):
        async with client.get(stack.url + path, headers=host) as response:
            assert response.status == 200
            assert (path == "/metrics") == ("BTC" in await response.text())
    await stack.stop()


@pytest.mark.parametrize(
    "host",
    ["evil.example", "evil.example:9464", "localhost.evil.example", "1.2.3.4", "[", ""],
)
async def test_on_loopback_another_name_is_another_site(
    host: str, stack: Stack, client: aiohttp.ClientSession
) -> None:
    """A name of theirs that leads to us would make their page one of ours (DNS rebinding)."""
    for path in ("/status", "/api/status", "/api/events"):
        async with client.get(stack.url + path, headers={"Host": host}) as response:
            assert (response.status, response.content_type) == (
                421,
                "application/problem+json",
            )
    async with client.put(
        stack.url + LEVEL, headers={"Host": host, **BEARER}, json={"level": "DEBUG"}
    ) as response:
        assert response.status == 421


@pytest.mark.parametrize(
    "host", ["localhost", "localhost:1", "127.0.0.1:9464", "[::1]:9464", "LOCALHOST"]
)
async def test_on_loopback_our_own_names_are_answered(
    host: str, stack: Stack, client: aiohttp.ClientSession
) -> None:
    async with client.get(
        f"{stack.url}/api/status", headers={"Host": host}
    ) as response:
        assert response.status == 200


@pytest.mark.parametrize("site", ["cross-site", "same-site"])
async def test_pages_of_other_sites_may_link_to_the_page_and_ask_for_nothing(
    site: str, stack: Stack, client: aiohttp.ClientSession
) -> None:
    async with client.get(
        f"{stack.url}/api/events", headers={"Sec-Fetch-Site": site}
    ) as response:
        checked(
            "/api/events",
            "get",
            response.status,
            await response.json(content_type=None),
        )
        assert response.status == 403
    async with client.get(
        f"{stack.url}/status", headers={"Sec-Fetch-Site": site}
    ) as response:
        assert response.status == 200
        assert not [
            name
            for name in response.headers
            if name.lower().startswith("access-control-")
        ]
    async with client.options(
        stack.url + LEVEL, headers={"Origin": "http://evil.example"}
    ) as response:
        assert response.status == 405


async def test_every_error_has_one_shape(
    stack: Stack, client: aiohttp.ClientSession
) -> None:
    schema = {**DOCUMENT["components"]["schemas"]["Problem"]}
    for method, path, status in (
        ("get", "/api/nowhere", 404),
        ("delete", "/api/status", 405),
        ("get", LEVEL, 405),
    ):
        async with client.request(method, stack.url + path) as response:
            assert (response.status, response.content_type) == (
                status,
                "application/problem+json",
            )
            body = await response.json(content_type=None)
            jsonschema.Draft202012Validator(schema).validate(body)
            assert (body["status"], response.headers.get("Allow") is None) == (
                status,
                status == 404,
            )


async def test_the_page_runs_its_own_script_and_nothing_else(
    stack: Stack, client: aiohttp.ClientSession
) -> None:
    async with client.get(f"{stack.url}/status") as response:
        policy, page = (
            response.headers["Content-Security-Policy"],
            await response.text(),
        )
    assert policy.startswith("default-src 'none'; connect-src 'self'; ")
    assert "unsafe" not in policy
    assert len(re.findall(r"'sha256-[\w+/]{43}='", policy)) == 2
    assert not re.findall(
        r'<[^>]+ (?:on\w+|style|src)=|href="(?!data:,")|innerHTML|https?://', page
    )


async def read_events(response: aiohttp.ClientResponse, count: int) -> list[Any]:
    found: list[Any] = []
    async with asyncio.timeout(10):
        while len(found) < count:
            line = await response.content.readline()
            if line.startswith(b"data: "):
                found.append(checked("/api/events", "get", 200, json.loads(line[6:])))
    return found


async def test_events_come_as_they_are_committed_and_go_on_where_a_reader_left(
    stack: Stack, client: aiohttp.ClientSession
) -> None:
    await stack.see("BTC", b'{"spot_price": 1}')
    async with client.get(f"{stack.url}/api/events") as response:
        assert response.content_type == "text/event-stream"
        first = await read_events(response, 1)
        await stack.see("BTC", b'{"spot_price": 1, "all_expiry": {"hvl": 2}}')
        second = await read_events(response, 1)
    assert [one["event_id"] for one in first + second] == ["a/BTC/1", "a/BTC/2"]
    assert second[0]["changed_levels"] == [
        {"path": "all_expiry.hvl", "before": None, "after": 2}
    ]
    async with client.get(
        f"{stack.url}/api/events", headers={"Last-Event-ID": "a/BTC/1"}
    ) as response:
        assert await read_events(response, 1) == second
    async with client.get(
        f"{stack.url}/api/events", headers={"Last-Event-ID": "a/BTC/999"}
    ) as response:
        assert await read_events(response, 2) == first + second


async def test_only_the_last_events_are_kept(
    stack: Stack, client: aiohttp.ClientSession
) -> None:
    for number in range(1, EVENTS_KEPT + 51):
        stack.status.published(event(number))
    async with client.get(f"{stack.url}/api/events") as response:
        found = await read_events(response, EVENTS_KEPT)
    assert [one["sequence"] for one in found] == list(range(51, EVENTS_KEPT + 51))


async def test_there_is_room_for_some_readers_and_whoever_leaves_makes_room(
    stack: Stack,
) -> None:
    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)) as client:
        readers = [
            await client.get(f"{stack.url}/api/events") for _ in range(MAX_STREAMS)
        ]
        async with client.get(f"{stack.url}/api/events") as response:
            checked(
                "/api/events",
                "get",
                response.status,
                await response.json(content_type=None),
            )
            assert (response.status, response.headers["Retry-After"]) == (503, "10")
        readers[0].close()
        await until(lambda: stack.api.streams.open == MAX_STREAMS - 1)
        async with client.get(f"{stack.url}/api/events") as response:
            assert response.status == 200
        for reader in readers:
            reader.close()
        await until(lambda: stack.api.streams.open == 0)


async def test_a_reader_that_takes_nothing_is_dropped(stack: Stack) -> None:
    slow = socket.socket()
    slow.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    slow.setblocking(False)
    loop = asyncio.get_running_loop()
    await loop.sock_connect(slow, ("127.0.0.1", int(stack.url.rpartition(":")[2])))
    await loop.sock_sendall(
        slow, b"GET /api/events HTTP/1.1\r\nHost: localhost\r\n\r\n"
    )
    await until(lambda: stack.api.streams.open == 1)
    for number in range(1, EVENTS_KEPT + 1):
        stack.status.published(event(number, "x" * 200_000))
    server = stack.listener._runner.server
    await until(
        lambda: (
            stack.api.streams.open == 0
            and server is not None
            and not server.connections
        )
    )
    slow.close()


async def test_a_reader_that_missed_what_is_no_longer_kept_is_told_to_come_again(
    stack: Stack, client: aiohttp.ClientSession
) -> None:
    stack.status.published(event(1))
    async with client.get(f"{stack.url}/api/events") as response:
        assert len(await read_events(response, 1)) == 1
        for number in range(2, EVENTS_KEPT + 3):
            stack.status.published(event(number))
        assert (await response.content.read()).strip() == b""


@pytest.mark.parametrize("request_seconds", [0.05, 3600])
async def test_a_stop_waits_for_no_reader_and_no_time_limit_of_requests_ends_one(
    request_seconds: float, tmp_path: Any, client: aiohttp.ClientSession
) -> None:
    stack, loop = Stack(tmp_path, request_seconds), asyncio.get_running_loop()
    await stack.start()
    async with client.get(f"{stack.url}/api/events") as response:
        began = loop.time()
        await until(lambda: loop.time() > began + 0.1)
        stack.status.published(event(1))
        assert len(await read_events(response, 1)) == 1
        async with asyncio.timeout(30):
            await stack.stop()
        assert (await response.content.read()).strip() == b""
