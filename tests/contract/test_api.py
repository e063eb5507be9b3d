"""The API and the status page over real HTTP: rules of access, answers, and their description."""

from __future__ import annotations

import asyncio
import json
import logging
import math
import re
import socket
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from dataclasses import dataclass
from importlib.resources import files
from typing import TYPE_CHECKING, Any

import aiohttp
import jsonschema  # type: ignore[import-untyped]  # it has no stubs
import pytest

from connector.config.listen import Address
from connector.config.load import load
from connector.core.diff import DEFAULT_IGNORE, Rules
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
from connector.tools.text import json_line
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

[[feeds]]
name = "c"
symbols = ["eth"]
keep_lower_case = true
"""
PAGE = "/status"
STATUS = "/api/status"
SCHEDULE = "/api/schedule"
EVENTS = "/api/events"
LEVELS = "/api/levels"
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
        environ = {
            "GEX_UPSTREAM__API_KEY": "demo-key",
            "GEX_HTTP__LISTEN": "127.0.0.1:0",
            **variables,
        }
        config = load(path, environ)
        self.log = MemoryLog()
        self.health = Health(lambda: 0.0, lambda: 0)
        self.metrics = Metrics(["a", "b"])
        self.pool = ThreadPoolExecutor(2)
        shards: dict[ShardId, Shard] = {}
        self.status = WorkerView(
            config, ME, health=self.health, clock=Clock(), shards=shards
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
        rules = FeedRules("a", rules=Rules.of(DEFAULT_IGNORE))
        spec = ShardSpec(ShardId("a", 0), rules, symbols)
        self.shard = Shard(spec, lambda: self.log, context)
        shards[self.shard.id] = self.shard
        # Short, so that the test of a reader that accepts no data ends soon.
        self.api = Api(config.http, self.status, write_seconds=0.3)
        self.listener = Listener(
            self.metrics,
            self.health,
            [Address("127.0.0.1", 0)],
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
        # Before the listener, which waits for open streams.
        self.api.close()
        await self.listener.stop()
        await asyncio.wait([self.running])
        self.pool.shutdown()

    async def see(self, symbol: str, answer: bytes | Status) -> None:
        """Let the shard observe an answer, and wait until its event is committed."""
        before = self.status.recent.position
        self._observe(symbol, answer)
        await until(lambda: self.status.recent.position > before)

    async def see_state(self, symbol: str, answer: bytes) -> None:
        """Let the shard observe an answer without an event, and wait until it is committed."""
        before = self.log.topic.state_records
        self._observe(symbol, answer)
        await until(lambda: self.log.topic.state_records > before)

    def _observe(self, symbol: str, answer: bytes | Status) -> None:
        now = Clock.now()
        times = AnswerTimes(math.inf, now, now, ME)
        self.shard.observe(symbol, answer, times)

    @property
    def url(self) -> str:
        return self.listener.urls[0]


@asynccontextmanager
async def started(stack: Stack) -> AsyncIterator[Stack]:
    """Start a worker, and stop it at the end of the block."""
    await stack.start()
    try:
        yield stack
    finally:
        await stack.stop()


async def until(condition: Callable[[], object]) -> None:
    async with asyncio.timeout(60):
        while not condition():  # noqa: ASYNC110 -- nothing signals the condition
            await asyncio.sleep(0.005)


def event(number: int, section: str = "zones") -> Event:
    """Return an event of feed `a`; a long `section` makes it a large one."""
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

    # Every request of these tests goes through here, and so every answer is checked.
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
            template = operation or path.partition("?")[0]
            checked(template, method, response.status, body)
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
        name, question_mark, query = symbol.partition("?")
        path = SNAPSHOT.replace("{symbol}", name)
        # A redirect would hide the answer to a symbol with dots and slashes in it.
        return await self.send(
            "post",
            path + question_mark + query,
            operation=SNAPSHOT,
            headers=headers,
            allow_redirects=False,
            **options,
        )


def checked(path: str, method: str, status: int, body: Any) -> Any:
    """Return the body if openapi.json describes it, otherwise fail."""
    answers = DOCUMENT["paths"][path][method]["responses"]
    assert str(status) in answers, f"{method} {path}: status {status} is not described"
    if "content" not in answers[str(status)]:
        assert body is None
        return body
    [content] = answers[str(status)]["content"].values()
    # The schema refers to components of the whole document.
    schema = {**content["schema"], "components": DOCUMENT["components"]}
    jsonschema.Draft202012Validator(schema).validate(body)
    return body


@pytest.fixture
async def stack(tmp_path: Path) -> AsyncIterator[Stack]:
    async with started(Stack(tmp_path, GEX_HTTP__TOKEN=TOKEN)) as running:
        yield running


@pytest.fixture
async def exposed(tmp_path: Path) -> AsyncIterator[Stack]:
    """A worker that listens on every address of the machine."""
    stack = Stack(tmp_path, GEX_HTTP__LISTEN="0.0.0.0:0", GEX_HTTP__TOKEN=TOKEN)
    async with started(stack) as running:
        yield running


@pytest.fixture
def caller(stack: Stack, client: aiohttp.ClientSession) -> Caller:
    return Caller(stack.url, client)


# The document


def test_the_document_describes_exactly_the_routes(stack: Stack) -> None:
    routes = set()
    for route in stack.api.routes():
        routes.add((route.path, route.method.lower()))

    # The page is for people; the document describes the API only.
    described = {("/", "get"), (PAGE, "get")}
    for path, item in DOCUMENT["paths"].items():
        for method in item:
            described.add((path, method))
    assert routes == described


async def test_the_address_alone_leads_to_the_page(caller: Caller) -> None:
    async with caller.session.get(f"{caller.url}/") as response:
        assert response.status == 200
        assert response.url.path == PAGE


def test_the_document_describes_every_parameter_of_a_path() -> None:
    for path, item in DOCUMENT["paths"].items():
        for operation in item.values():
            named = set()
            for parameter in operation.get("parameters", ()):
                if parameter["in"] == "path":
                    named.add(parameter["name"])
            in_path = re.findall(r"{(\w+)}", path)
            assert named == set(in_path)
            assert operation["summary"]


def test_the_document_is_openapi_3_1_and_its_references_exist() -> None:
    assert DOCUMENT["openapi"].startswith("3.1.")
    for schema in SCHEMAS.values():
        jsonschema.Draft202012Validator.check_schema(schema)

    # Both directions: a reference to nothing, and a schema that nothing refers to.
    used = re.findall(r'"#/components/schemas/(\w+)"', json.dumps(DOCUMENT))
    assert set(used) == set(SCHEMAS)


async def test_the_document_is_served_unchanged(caller: Caller) -> None:
    answer = await caller.get(OPENAPI)

    assert answer.status == 200
    assert answer.body == DOCUMENT


# Status and schedule


async def test_the_schedule_is_empty_while_the_worker_starts(caller: Caller) -> None:
    answer = await caller.get(SCHEDULE)

    assert answer.status == 200
    assert answer.body == {}


async def test_the_status_shows_all_symbols_while_the_worker_starts(
    stack: Stack, caller: Caller
) -> None:
    await stack.see("BTC", b'{"spot_price": 1}')

    answer = await caller.get(STATUS)

    body = answer.body
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
    # Each reader of the page asks every second; to encode hundreds of symbols takes a while.
    stack.status._cached_at = math.inf
    stack.status._cached_status = b'{"kept": true}'

    async with client.get(stack.url + STATUS) as response:
        assert await response.json() == {"kept": True}


# Snapshots


async def test_a_snapshot_is_one_event_with_the_next_sequence(
    stack: Stack, caller: Caller
) -> None:
    await stack.see("BTC", b'{"spot_price": 1}')

    # People type symbols in lower case.
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


async def test_a_symbol_whose_namesake_differs_in_case_is_found_as_typed(
    stack: Stack, caller: Caller
) -> None:
    await stack.see("ETH", b'{"spot_price": 1}')

    # Feed `c` has the symbol in lower case, and no worker here.
    answer = await caller.request_snapshot("eth")
    assert answer.status == 409
    assert answer.detail is not None
    assert answer.detail.startswith("shard c-0 ")
    answer = await caller.request_snapshot("ETH")
    assert answer.body == {"event_id": "a/ETH/2", "sequence": 2}


async def test_a_refused_snapshot_has_a_reason(stack: Stack, caller: Caller) -> None:
    # A symbol of ours, first without an observation and then without levels.
    answer = await caller.request_snapshot("ETH")
    assert answer.status == 409
    assert answer.detail == "no snapshot: the symbol has not been observed yet"

    await stack.see("ETH", Status.MISSING)
    answer = await caller.request_snapshot("ETH")
    assert answer.status == 409
    assert answer.detail == "no snapshot: there are no levels to publish; it is MISSING"

    # A symbol of the feed that nobody owns.
    answer = await caller.request_snapshot("SOL")
    assert answer.status == 409
    assert answer.body["owner"] is None

    # A symbol in both feeds.
    answer = await caller.request_snapshot("BTC")
    assert answer.status == 400
    assert answer.detail == "symbol 'BTC' is in several feeds; add ?feed=a|b"

    # Options in the body would be ignored silently.
    answer = await caller.request_snapshot("BTC", data=b"{}")
    assert answer.status == 400
    assert answer.detail == "unexpected request body; this request takes none"


async def test_requests_share_a_snapshot_that_is_not_committed_in_time(
    stack: Stack, caller: Caller, monkeypatch: pytest.MonkeyPatch
) -> None:
    await stack.see("BTC", b'{"spot_price": 1}')
    monkeypatch.setattr(web_api, "COMMIT_WAIT_SECONDS", 0.05)

    # The commit waits until the test allows it.
    may_commit = asyncio.Event()
    commit = stack.shard._publisher._commit

    async def hanging(*args: Any) -> None:
        await may_commit.wait()
        await commit(*args)

    monkeypatch.setattr(stack.shard._publisher, "_commit", hanging)

    # An impatient user presses the button twice.
    for _ in range(2):
        answer = await caller.request_snapshot("BTC?feed=a")
        assert answer.status == 202
        assert answer.body == {"event_id": None, "sequence": None}

    may_commit.set()
    await until(lambda: len(stack.log.events) == 2)
    await until(lambda: not stack.shard._snapshots)
    # The first event is that of the observation, so there is only one snapshot.
    assert len(stack.log.events) == 2


@pytest.mark.parametrize(
    "symbol",
    [
        "NONE",
        # Attacks on the file system, on a page and on the headers, and long or odd texts.
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
    # The detail quotes the symbol.
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
    # Other tests expect the logger as it was.
    logger.setLevel("NOTSET")


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"DEBUG",
        b'"DEBUG"',
        b'{"level": "TRACE"}',
        b'{"level": "DEBUG", "more": 1}',
        # Deep enough for a RecursionError, and not UTF-8.
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
    # A form of another site can send text/plain without a preflight request, not JSON.
    answer = await caller.put_level(data='{"level": "DEBUG"}')

    assert answer.status == 415


async def test_a_large_body_is_refused(caller: Caller) -> None:
    headers = {**BEARER, "Content-Type": "application/json"}
    body = b" " * (BODY_BYTES + 1)

    level = await caller.put_level(headers, data=body)
    snapshot = await caller.request_snapshot("BTC", headers, data=body)

    for answer in (level, snapshot):
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
        # Comparing such a text in constant time raises TypeError.
        "Bearer é",
    ],
)
async def test_changes_need_the_token(
    authorization: str, caller: Caller, caplog: pytest.LogCaptureFixture
) -> None:
    headers = {"Authorization": authorization}

    level = await caller.put_level(headers)
    snapshot = await caller.request_snapshot("BTC", headers)

    for answer in (level, snapshot):
        assert answer.status == 401
        assert answer.headers["WWW-Authenticate"] == "Bearer"
        assert TOKEN not in str(answer.body)
    assert TOKEN not in caplog.text


async def test_without_a_token_changes_are_refused_with_a_remedy(
    tmp_path: Path, client: aiohttp.ClientSession
) -> None:
    async with started(Stack(tmp_path)) as stack:
        caller = Caller(stack.url, client)
        for authorization in ("", "Bearer", "Bearer x"):
            answer = await caller.put_level({"Authorization": authorization})
            assert answer.status == 403
            assert "http.token_file" in answer.detail


async def test_off_loopback_the_api_needs_the_token(
    exposed: Stack, client: aiohttp.ClientSession
) -> None:
    caller = Caller(exposed.url, client)
    for path in (OPENAPI, STATUS, SCHEDULE, LEVELS, EVENTS):
        refused = await caller.get(path, {"Host": "gex.example.com"})
        assert refused.status == 401

        # Not through the caller: the stream of events has no end to read to.
        url = exposed.url + path
        headers = {"Host": "gex.example.com", **BEARER}
        async with client.get(url, headers=headers) as response:
            assert response.status == 200


async def test_off_loopback_metrics_probes_and_the_empty_page_need_no_token(
    exposed: Stack, client: aiohttp.ClientSession
) -> None:
    host = {"Host": "gex.example.com"}
    for path in ("/metrics", "/health/live", PAGE):
        url = exposed.url + path
        async with client.get(url, headers=host) as response:
            assert response.status == 200
            text = await response.text()
            # The page gets its data from the API, with the token that the user enters.
            assert ("BTC" in text) == (path == "/metrics")


@pytest.mark.parametrize(
    "host",
    ["evil.example", "evil.example:9464", "localhost.evil.example", "1.2.3.4", "[", ""],
)
async def test_on_loopback_another_host_name_is_refused(
    host: str, stack: Stack, client: aiohttp.ClientSession
) -> None:
    # DNS rebinding: if another site's name resolved to us, its pages would become ours.
    headers = {"Host": host}
    for path in (PAGE, STATUS, LEVELS, EVENTS):
        url = stack.url + path
        async with client.get(url, headers=headers) as response:
            assert response.status == 421
            assert response.content_type == PROBLEM_TYPE

    # Not even with the token.
    url = stack.url + LOG_LEVEL
    headers |= BEARER
    level = {"level": "DEBUG"}
    async with client.put(url, headers=headers, json=level) as response:
        assert response.status == 421


@pytest.mark.parametrize(
    "host", ["localhost", "localhost:1", "127.0.0.1:9464", "[::1]:9464", "LOCALHOST"]
)
async def test_on_loopback_this_machines_names_are_accepted(
    host: str, caller: Caller
) -> None:
    answer = await caller.get(STATUS, {"Host": host})

    assert answer.status == 200


@pytest.mark.parametrize("site", ["cross-site", "same-site"])
async def test_pages_of_other_sites_get_no_data(site: str, caller: Caller) -> None:
    # Browsers add this header, and no script can change it.
    answer = await caller.get(EVENTS, {"Sec-Fetch-Site": site})

    assert answer.status == 403


@pytest.mark.parametrize("site", ["cross-site", "same-site"])
async def test_pages_of_other_sites_may_link_to_the_page(
    site: str, stack: Stack, client: aiohttp.ClientSession
) -> None:
    url = stack.url + PAGE
    headers = {"Sec-Fetch-Site": site}
    async with client.get(url, headers=headers) as response:
        assert response.status == 200
        # Without such a header, a script of the other site cannot read the page.
        for name in response.headers:
            assert not name.lower().startswith("access-control-")


async def test_a_preflight_request_is_refused(
    stack: Stack, client: aiohttp.ClientSession
) -> None:
    # Browsers send it before a PUT from another site, and give up when it is refused.
    url = stack.url + LOG_LEVEL
    origin = {"Origin": "http://evil.example"}
    async with client.options(url, headers=origin) as response:
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
    method: str,
    path: str,
    status: int,
    stack: Stack,
    client: aiohttp.ClientSession,
) -> None:
    async with client.request(method, stack.url + path) as response:
        body = await response.json(content_type=None)

    assert response.status == status
    assert response.content_type == PROBLEM_TYPE
    jsonschema.Draft202012Validator(SCHEMAS["Problem"]).validate(body)
    assert body["status"] == status
    # HTTP requires `Allow` with 405.
    assert ("Allow" in response.headers) == (status == 405)


async def test_the_page_runs_its_own_script_only(
    stack: Stack, client: aiohttp.ClientSession
) -> None:
    async with client.get(stack.url + PAGE) as response:
        policy = response.headers["Content-Security-Policy"]
        page = await response.text()

    assert policy.startswith("default-src 'none'; connect-src 'self'; ")
    assert "unsafe" not in policy
    # One hash for the script and one for the styles.
    assert len(re.findall(r"'sha256-[\w+/]{43}='", policy)) == 2
    # Handlers and styles in attributes, external files, and HTML made from data.
    forbidden = r'<[^>]+ (?:on\w+|style|src)=|href="(?!data:,")|innerHTML|https?://'
    assert not re.findall(forbidden, page)


# The stream of events


async def read_events(response: aiohttp.ClientResponse, count: int) -> list[Any]:
    """Read the next events of a stream, and check them against the description."""
    found: list[Any] = []
    async with asyncio.timeout(60):
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

    assert first[0]["event_id"] == "a/BTC/1"
    assert second[0]["event_id"] == "a/BTC/2"
    change = {"path": "all_expiry.hvl", "before": None, "after": 2}
    assert second[0]["changed_levels"] == [change]
    # The whole event, as `watch --json` prints it.
    published = [json.loads(json_line(event)) for event in stack.log.events]
    assert first + second == published
    assert second[0]["after"]["all_expiry"]["hvl"] == 2


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

    # Browsers send this header when they reconnect.
    url = stack.url + EVENTS
    headers = {"Last-Event-ID": last_event_id}
    async with client.get(url, headers=headers) as response:
        found = await read_events(response, len(sequences))

    assert sequences_of(found) == sequences


async def test_only_the_last_events_are_kept(
    stack: Stack, client: aiohttp.ClientSession
) -> None:
    for number in range(1, EVENTS_KEPT + 51):
        stack.status.published(event(number))

    async with client.get(stack.url + EVENTS) as response:
        found = await read_events(response, EVENTS_KEPT)

    last = range(51, EVENTS_KEPT + 51)
    assert sequences_of(found) == list(last)


def sequences_of(events: list[Any]) -> list[int]:
    return [body["sequence"] for body in events]


async def test_the_number_of_readers_is_limited(stack: Stack) -> None:
    # The client's own limit of connections, which is 100 by default, must not come first.
    connector = aiohttp.TCPConnector(limit=0)
    async with aiohttp.ClientSession(connector=connector) as client:
        readers = []
        for _ in range(MAX_STREAMS):
            readers.append(await client.get(stack.url + EVENTS))
        refused = await Caller(stack.url, client).get(EVENTS)
        assert refused.status == 503
        assert refused.headers["Retry-After"] == "10"

        # A reader that leaves makes room for another one.
        readers[0].close()
        await until(lambda: stack.api.streams.open == MAX_STREAMS - 1)
        async with client.get(stack.url + EVENTS) as response:
            assert response.status == 200
        for reader in readers:
            reader.close()
        await until(lambda: stack.api.streams.open == 0)


async def test_a_reader_that_accepts_no_data_is_disconnected(stack: Stack) -> None:
    # A socket with a small buffer that nobody reads from.
    slow = socket.socket()
    slow.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    slow.setblocking(False)
    loop = asyncio.get_running_loop()
    port = int(stack.url.rpartition(":")[2])
    await loop.sock_connect(slow, ("127.0.0.1", port))
    request = f"GET {EVENTS} HTTP/1.1\r\nHost: localhost\r\n\r\n"
    await loop.sock_sendall(slow, request.encode())
    await until(lambda: stack.api.streams.open == 1)

    # More than the buffers of both sockets hold, so that a write must wait.
    for number in range(1, EVENTS_KEPT + 1):
        stack.status.published(event(number, "x" * 200_000))

    # The connection goes as well: its buffer would keep the data.
    server = stack.listener._runner.server
    assert server is not None
    await until(lambda: stack.api.streams.open == 0)
    await until(lambda: not server.connections)
    slow.close()


async def test_a_reader_that_missed_events_must_reconnect(
    stack: Stack, client: aiohttp.ClientSession
) -> None:
    stack.status.published(event(1))
    async with client.get(stack.url + EVENTS) as response:
        assert len(await read_events(response, 1)) == 1

        # All at once: the stream has no turn before the first of them is dropped.
        for number in range(2, EVENTS_KEPT + 3):
            stack.status.published(event(number))

        # The stream ends. A gap inside it would go unnoticed.
        rest = await response.content.read()
        assert rest.strip() == b""


@pytest.mark.parametrize("request_seconds", [0.05, 3600])
async def test_only_a_stop_ends_a_stream_whatever_the_time_limit_of_requests(
    request_seconds: float, tmp_path: Path, client: aiohttp.ClientSession
) -> None:
    stack = Stack(tmp_path, request_seconds)
    loop = asyncio.get_running_loop()
    await stack.start()
    async with client.get(stack.url + EVENTS) as response:
        # The shorter limit is over, and the stream goes on.
        started_at = loop.time()
        await until(lambda: loop.time() > started_at + 0.1)
        stack.status.published(event(1))
        assert len(await read_events(response, 1)) == 1

        # A stop does not wait for the longer limit.
        async with asyncio.timeout(30):
            await stack.stop()
        rest = await response.content.read()
        assert rest.strip() == b""
