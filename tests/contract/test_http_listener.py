"""The listener, over real HTTP on loopback."""

from __future__ import annotations

import asyncio
import logging
import threading
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
OURS = ("/metrics", "/health/live", "/health/ready")


class Worker:
    """A worker as the listener sees it."""

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
    """Everything that comes back until the server hangs up."""
    reader, writer = await asyncio.open_connection(
        LOOPBACK, int(url.rpartition(":")[2])
    )
    writer.write(request)
    answer = await reader.read()
    writer.close()
    return answer


async def test_metrics_are_openmetrics_for_a_scraper(
    worker: Worker, url: str, client: aiohttp.ClientSession
) -> None:
    batch = Batch("all", ("BTCUSDT",))
    for _ in range(7):
        worker.observer.request_sent(batch, Purpose.EXPECTED)
    accept = "application/openmetrics-text;version=1.0.0;q=0.5,text/plain;version=0.0.4;q=0.3"
    async with client.get(f"{url}/metrics", headers={"Accept": accept}) as response:
        assert response.status == 200
        assert (
            response.headers["Content-Type"]
            == "application/openmetrics-text; version=1.0.0; charset=utf-8"
        )
        text = await response.text()
    parser: Any = openmetrics
    samples = [
        s
        for family in parser.text_string_to_metric_families(text)
        for s in family.samples
    ]
    assert [s.value for s in samples if s.name == "gex_symbols_requested_total"] == [7]


async def test_metrics_are_plain_text_for_a_browser(
    url: str, client: aiohttp.ClientSession
) -> None:
    async with client.get(
        f"{url}/metrics", headers={"Accept": "text/html,*/*;q=0.8"}
    ) as response:
        assert (
            response.headers["Content-Type"]
            == "text/plain; version=0.0.4; charset=utf-8"
        )
        assert "# TYPE gex_events_total counter" in await response.text()


async def test_metrics_are_rendered_outside_the_event_loop(
    worker: Worker, url: str, client: aiohttp.ClientSession
) -> None:
    threads = worker.scrape_threads
    await (await client.get(f"{url}/metrics")).read()
    await (await client.get(f"{url}/metrics")).read()
    assert len(threads) == 2
    assert threading.get_ident() not in threads


async def test_a_stalled_loop_fails_live_and_nothing_else(
    worker: Worker, url: str, client: aiohttp.ClientSession
) -> None:
    worker.health.register("poll", 30)
    async with client.get(f"{url}/health/live") as response:
        assert (response.status, await response.json()) == (
            200,
            {"ok": True, "reasons": []},
        )
    worker.seconds = 31
    async with client.get(f"{url}/health/live") as response:
        assert (response.status, response.content_type) == (503, "application/json")
        reason = "loop poll has made no progress for 31.0 s, its limit is 30 s"
        assert await response.json() == {"ok": False, "reasons": [reason]}
    async with client.get(f"{url}/health/ready") as response:
        assert response.status == 200


async def test_what_is_missing_fails_ready_and_not_live(
    worker: Worker, url: str, client: aiohttp.ClientSession
) -> None:
    async with client.get(f"{url}/health/ready") as response:
        assert (response.status, await response.json()) == (
            200,
            {"ok": True, "reasons": []},
        )
    worker.reasons = ["shard all/0 is not open"]
    async with client.get(f"{url}/health/ready") as response:
        assert (response.status, await response.json()) == (
            503,
            {"ok": False, "reasons": worker.reasons},
        )
    async with client.get(f"{url}/health/live") as response:
        assert response.status == 200


async def test_routes_are_served_beside_our_own(
    worker: Worker, client: aiohttp.ClientSession
) -> None:
    async def extra(request: web.Request) -> web.Response:
        return web.json_response(dict(request.match_info))

    listener = worker.listener(web.post("/api/symbols/{symbol}", extra))
    await listener.start()
    async with client.post(f"{listener.url}/api/symbols/BTCUSDT") as response:
        assert await response.json() == {"symbol": "BTCUSDT"}
        assert "Server" not in response.headers
    await listener.stop()


@pytest.mark.parametrize("path", OURS)
async def test_a_page_can_be_read_and_nothing_else(
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
async def test_anything_else_is_not_found(
    path: str, url: str, client: aiohttp.ClientSession
) -> None:
    async with client.get(url + path) as response:
        assert response.status == 404


@pytest.mark.parametrize("path", [*OURS, "/nowhere"])
async def test_headers_tell_nothing_of_the_server(
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


async def test_a_fault_of_ours_is_logged_and_not_told(
    worker: Worker, client: aiohttp.ClientSession, caplog: pytest.LogCaptureFixture
) -> None:
    async def faulty(_: web.Request) -> web.Response:
        raise ValueError("inner workings")

    listener = worker.listener(web.get("/faulty", faulty))
    await listener.start()
    async with client.get(f"{listener.url}/faulty") as response:
        assert response.status == 500
        assert "inner workings" not in await response.text()
    await listener.stop()
    assert [record.name for record in caplog.records] == ["connector.web.server"]
    assert "inner workings" in caplog.text


async def test_a_request_that_takes_too_long_is_ended(
    worker: Worker, client: aiohttp.ClientSession
) -> None:
    async def slow(request: web.Request) -> web.Response:
        return web.Response(body=await request.read())

    listener = worker.listener(web.post("/slow", slow), request_seconds=0.05)
    await listener.start()
    head = b"POST /slow HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\nConnection: close\r\n\r\n"
    assert (await raw(listener.url, head + b"12")).startswith(b"HTTP/1.1 408 ")
    await listener.stop()


async def test_a_time_out_of_a_handlers_own_is_a_fault_of_ours(
    worker: Worker, client: aiohttp.ClientSession
) -> None:
    async def impatient(_: web.Request) -> web.Response:
        raise TimeoutError

    listener = worker.listener(web.get("/impatient", impatient))
    await listener.start()
    async with client.get(f"{listener.url}/impatient") as response:
        assert response.status == 504
    await listener.stop()


async def test_a_body_that_is_too_large_is_refused(
    worker: Worker, client: aiohttp.ClientSession
) -> None:
    async def echo(request: web.Request) -> web.Response:
        return web.Response(body=await request.read())

    listener = worker.listener(web.post("/echo", echo))
    await listener.start()
    async with client.post(f"{listener.url}/echo", data=b"x" * BODY_BYTES) as response:
        assert response.status == 200
    async with client.post(
        f"{listener.url}/echo", data=b"x" * (BODY_BYTES + 1)
    ) as response:
        assert response.status == 413
    await listener.stop()


async def test_an_address_that_is_taken_is_an_error_of_the_configuration(
    worker: Worker, url: str
) -> None:
    port = int(url.rpartition(":")[2])
    with pytest.raises(ConfigError) as caught:
        await Listener(worker.metrics, worker.health, LOOPBACK, port).start()
    [fault] = caught.value.faults
    assert fault.startswith(f"http.listen: cannot listen on {url}: ")
    assert "address already in use" in fault


@pytest.mark.parametrize("host", ["192.0.2.1", "a..b"])
async def test_an_address_that_is_not_ours_is_an_error_of_the_configuration(
    host: str, worker: Worker
) -> None:
    with pytest.raises(
        ConfigError, match=rf"^http\.listen: cannot listen on http://{host}:9464: "
    ):
        await Listener(worker.metrics, worker.health, host, 9464).start()


async def test_the_url_names_the_port_that_was_taken_and_brackets_ipv6(
    worker: Worker, url: str
) -> None:
    assert url.startswith("http://127.0.0.1:")
    assert not url.endswith(":0")
    assert (
        Listener(worker.metrics, worker.health, "::1", 9464).url == "http://[::1]:9464"
    )


async def test_after_stopping_nobody_answers_and_stopping_twice_is_harmless(
    worker: Worker, client: aiohttp.ClientSession
) -> None:
    listener = worker.listener()
    await listener.start()
    await listener.stop()
    await listener.stop()
    with pytest.raises(aiohttp.ClientConnectorError):
        await client.get(listener.url)


async def test_stopping_what_never_started_is_harmless(worker: Worker) -> None:
    await worker.listener().stop()
