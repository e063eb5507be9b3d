"""The HTTP listener: metrics, health probes, limits and errors, over real HTTP on loopback."""

from __future__ import annotations

import asyncio
import logging
import threading
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

import aiohttp
import pytest
import pytest_asyncio
from aiohttp import web
from prometheus_client.openmetrics import parser as openmetrics

from connector.errors import ConfigError
from connector.runtime.health import Health
from connector.schedule.batches import Batch
from connector.schedule.scheduler import Purpose
from connector.telemetry.metrics import Metrics
from connector.telemetry.observer import MetricsObserver
from connector.web.server import BODY_BYTES, REQUEST_SECONDS, Listener

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

LOOPBACK = "127.0.0.1"
PATHS = ("/metrics", "/health/live", "/health/ready")


class Worker:
    """The parts of a worker that the listener uses."""

    def __init__(self) -> None:
        self.seconds = 0.0
        self.reasons: list[str] = []
        self.scrape_threads: list[int] = []
        self.metrics = Metrics(["all"], self._progressed_at)
        self.observer = MetricsObserver(self.metrics)
        self.health = Health(lambda: self.seconds, lambda: 0)
        self.health.require(lambda: self.reasons)

    def _progressed_at(self) -> dict[str, int]:
        self.scrape_threads.append(threading.get_ident())
        return {}

    def listener(
        self, *routes: web.AbstractRouteDef, request_seconds: float = REQUEST_SECONDS
    ) -> Listener:
        return Listener(self.metrics, self.health, LOOPBACK, 0, routes, request_seconds)


@pytest.fixture
def worker() -> Worker:
    return Worker()


@pytest_asyncio.fixture
async def url(worker: Worker) -> AsyncIterator[str]:
    listener = worker.listener()
    await listener.start()
    yield listener.url
    await listener.stop()


@pytest_asyncio.fixture
async def client() -> AsyncIterator[aiohttp.ClientSession]:
    async with aiohttp.ClientSession() as session:
        yield session


async def raw(url: str, request: bytes) -> bytes:
    """Return all the server sends until it closes the connection."""
    port = int(url.rpartition(":")[2])
    reader, writer = await asyncio.open_connection(LOOPBACK, port)
    writer.write(request)
    answer = await reader.read()
    writer.close()
    return answer


@asynccontextmanager
async def serving(
    worker: Worker,
    *routes: web.AbstractRouteDef,
    request_seconds: float = REQUEST_SECONDS,
) -> AsyncIterator[str]:
    """Serve further routes, and yield the listener's URL."""
    listener = worker.listener(*routes, request_seconds=request_seconds)
    await listener.start()
    yield listener.url
    await listener.stop()


async def expect_probe(
    client: aiohttp.ClientSession, url: str, status: int, reasons: list[str]
) -> None:
    async with client.get(url) as response:
        assert response.status == status
        assert response.content_type == "application/json"
        assert await response.json() == {"ok": not reasons, "reasons": reasons}


async def test_a_scraper_gets_openmetrics(
    worker: Worker, url: str, client: aiohttp.ClientSession
) -> None:
    batch = Batch("all", ("BTCUSDT",))
    for _ in range(7):
        worker.observer.request_sent(batch, Purpose.EXPECTED)
    preferred = "application/openmetrics-text;version=1.0.0;q=0.5"
    accept = f"{preferred},text/plain;version=0.0.4;q=0.3"
    async with client.get(f"{url}/metrics", headers={"Accept": accept}) as response:
        content_type = response.headers["Content-Type"]
        text = await response.text()
    assert response.status == 200
    assert content_type == "application/openmetrics-text; version=1.0.0; charset=utf-8"
    parser: Any = openmetrics
    values = []
    for family in parser.text_string_to_metric_families(text):
        for sample in family.samples:
            if sample.name == "gex_symbols_requested_total":
                values.append(sample.value)
    assert values == [7]


async def test_a_browser_gets_metrics_as_plain_text(
    url: str, client: aiohttp.ClientSession
) -> None:
    headers = {"Accept": "text/html,*/*;q=0.8"}
    async with client.get(f"{url}/metrics", headers=headers) as response:
        content_type = response.headers["Content-Type"]
        text = await response.text()
    assert content_type == "text/plain; version=0.0.4; charset=utf-8"
    assert "# TYPE gex_events_total counter" in text


async def test_metrics_are_rendered_outside_the_event_loop(
    worker: Worker, url: str, client: aiohttp.ClientSession
) -> None:
    threads = worker.scrape_threads
    await (await client.get(f"{url}/metrics")).read()
    await (await client.get(f"{url}/metrics")).read()
    assert len(threads) == 2
    assert threading.get_ident() not in threads


async def test_a_stalled_loop_fails_the_liveness_probe_only(
    worker: Worker, url: str, client: aiohttp.ClientSession
) -> None:
    worker.health.register("poll", 30)
    await expect_probe(client, f"{url}/health/live", 200, [])
    worker.seconds = 31
    reason = "loop poll has made no progress for 31.0 s, its limit is 30 s"
    await expect_probe(client, f"{url}/health/live", 503, [reason])
    await expect_probe(client, f"{url}/health/ready", 200, [])


async def test_a_missing_requirement_fails_the_readiness_probe_only(
    worker: Worker, url: str, client: aiohttp.ClientSession
) -> None:
    await expect_probe(client, f"{url}/health/ready", 200, [])
    worker.reasons = ["shard all/0 is not open"]
    await expect_probe(client, f"{url}/health/ready", 503, worker.reasons)
    await expect_probe(client, f"{url}/health/live", 200, [])


async def test_further_routes_are_served(
    worker: Worker, client: aiohttp.ClientSession
) -> None:
    async def extra(request: web.Request) -> web.Response:
        return web.json_response(dict(request.match_info))

    async with (
        serving(worker, web.post("/api/symbols/{symbol}", extra)) as url,
        client.post(f"{url}/api/symbols/BTCUSDT") as response,
    ):
        assert await response.json() == {"symbol": "BTCUSDT"}
        assert "Server" not in response.headers


@pytest.mark.parametrize("path", PATHS)
async def test_a_path_can_be_read_only(
    path: str, url: str, client: aiohttp.ClientSession
) -> None:
    async with client.head(url + path) as response:
        assert response.status == 200
    async with client.post(url + path, data=b"x" * 100_000) as response:
        assert response.status == 405
    async with client.delete(url + path) as response:
        assert response.status == 405


@pytest.mark.parametrize(
    "path", ["/metrics/", "/health", "/favicon.ico", "/..%2f..%2fetc/passwd", "/status"]
)
async def test_other_paths_are_not_found(
    path: str, url: str, client: aiohttp.ClientSession
) -> None:
    async with client.get(url + path) as response:
        assert response.status == 404


@pytest.mark.parametrize("path", [*PATHS, "/nowhere"])
async def test_headers_do_not_name_the_server(
    path: str, url: str, client: aiohttp.ClientSession
) -> None:
    async with client.get(url + path) as response:
        assert "Server" not in response.headers


async def test_requests_are_not_logged(
    url: str, client: aiohttp.ClientSession, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    await (await client.get(f"{url}/metrics")).read()
    assert caplog.records == []


async def test_a_defect_is_logged_and_not_shown(
    worker: Worker, client: aiohttp.ClientSession, caplog: pytest.LogCaptureFixture
) -> None:
    async def faulty(_: web.Request) -> web.Response:
        raise ValueError("inner workings")

    async with (
        serving(worker, web.get("/faulty", faulty)) as url,
        client.get(f"{url}/faulty") as response,
    ):
        assert response.status == 500
        assert "inner workings" not in await response.text()
    assert [record.name for record in caplog.records] == ["connector.web.server"]
    assert "inner workings" in caplog.text


async def test_a_slow_request_is_ended(worker: Worker) -> None:
    async def slow(request: web.Request) -> web.Response:
        return web.Response(body=await request.read())

    request = (
        b"POST /slow HTTP/1.1\r\n"
        b"Host: a\r\n"
        b"Content-Length: 5\r\n"
        b"Connection: close\r\n"
        b"\r\n"
        b"12"  # the rest of the body never comes
    )
    async with serving(worker, web.post("/slow", slow), request_seconds=0.05) as url:
        answer = await raw(url, request)
    assert answer.startswith(b"HTTP/1.1 408 ")


async def test_a_handlers_own_timeout_is_a_defect(
    worker: Worker, client: aiohttp.ClientSession
) -> None:
    async def impatient(_: web.Request) -> web.Response:
        raise TimeoutError

    async with (
        serving(worker, web.get("/impatient", impatient)) as url,
        client.get(f"{url}/impatient") as response,
    ):
        assert response.status == 504


@pytest.mark.parametrize(
    ("size", "status"),
    [
        (BODY_BYTES, 200),
        (BODY_BYTES + 1, 413),
    ],
)
async def test_a_large_body_is_refused(
    size: int, status: int, worker: Worker, client: aiohttp.ClientSession
) -> None:
    async def echo(request: web.Request) -> web.Response:
        return web.Response(body=await request.read())

    async with (
        serving(worker, web.post("/echo", echo)) as url,
        client.post(f"{url}/echo", data=b"x" * size) as response,
    ):
        assert response.status == status


async def test_an_address_in_use_is_a_configuration_error(
    worker: Worker, url: str
) -> None:
    port = int(url.rpartition(":")[2])
    with pytest.raises(ConfigError) as caught:
        await Listener(worker.metrics, worker.health, LOOPBACK, port).start()
    [fault] = caught.value.faults
    assert fault.startswith(f"http.listen: cannot listen on {url}: ")
    assert "address already in use" in fault


@pytest.mark.parametrize("host", ["192.0.2.1", "a..b"])
async def test_an_address_of_another_machine_is_a_configuration_error(
    host: str, worker: Worker
) -> None:
    message = rf"^http\.listen: cannot listen on http://{host}:9464: "
    with pytest.raises(ConfigError, match=message):
        await Listener(worker.metrics, worker.health, host, 9464).start()


async def test_the_url_has_the_chosen_port_and_brackets_ipv6(
    worker: Worker, url: str
) -> None:
    assert url.startswith("http://127.0.0.1:")
    assert not url.endswith(":0")
    ipv6 = Listener(worker.metrics, worker.health, "::1", 9464)
    assert ipv6.url == "http://[::1]:9464"


async def test_a_stopped_listener_does_not_answer_and_can_be_stopped_again(
    worker: Worker, client: aiohttp.ClientSession
) -> None:
    listener = worker.listener()
    await listener.start()
    await listener.stop()
    await listener.stop()
    with pytest.raises(aiohttp.ClientConnectorError):
        await client.get(listener.url)


async def test_a_listener_that_never_started_can_be_stopped(worker: Worker) -> None:
    await worker.listener().stop()
