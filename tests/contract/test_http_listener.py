"""The HTTP listener: metrics, health probes, limits and errors, over real HTTP on loopback."""

from __future__ import annotations

import asyncio
import logging
import socket
import threading
from contextlib import asynccontextmanager, suppress
from typing import TYPE_CHECKING, Any

import aiohttp
import pytest
from aiohttp import web
from prometheus_client.openmetrics import parser as openmetrics

from connector.config.listen import Address
from connector.errors import ConfigError
from connector.runtime.health import Health
from connector.schedule.batches import Batch
from connector.schedule.checks import Purpose
from connector.telemetry.metrics import Metrics
from connector.telemetry.observer import MetricsObserver
from connector.web.server import (
    BODY_BYTES,
    MAX_CONNECTIONS,
    REQUEST_SECONDS,
    Listener,
)
from tests.support.processes import wait_until

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

LOOPBACK = "127.0.0.1"
# The documented port, for listeners that are never bound. Others get a free port.
DEFAULT_PORT = 9464
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

    # The metrics call this once per scrape, in the thread that renders them.
    def _progressed_at(self) -> dict[str, int]:
        self.scrape_threads.append(threading.get_ident())
        return {}

    def listener(
        self,
        *routes: web.AbstractRouteDef,
        host: str = LOOPBACK,
        port: int = 0,
        request_seconds: float = REQUEST_SECONDS,
    ) -> Listener:
        """Return a listener that has not been started."""
        addresses = [Address(host, port)]
        return Listener(self.metrics, self.health, addresses, routes, request_seconds)


@pytest.fixture
def worker() -> Worker:
    return Worker()


@pytest.fixture
async def url(worker: Worker) -> AsyncIterator[str]:
    """Start the worker's listener, and return its URL."""
    async with serving(worker) as started:
        yield started


def port_of(url: str) -> int:
    _, _, port = url.rpartition(":")
    return int(port)


async def raw(url: str, request: bytes) -> bytes:
    """Return all the server sends until it closes the connection."""
    reader, writer = await asyncio.open_connection(LOOPBACK, port_of(url))
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
    try:
        yield listener.urls[0]
    finally:
        await listener.stop()


async def expect_probe(
    client: aiohttp.ClientSession,
    url: str,
    status: int,
    reasons: list[str],
) -> None:
    """Assert the status and the body of a probe; without reasons it passes."""
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

    # The header of Prometheus 2.x.
    preferred = "application/openmetrics-text;version=1.0.0;q=0.5"
    headers = {"Accept": f"{preferred},text/plain;version=0.0.4;q=0.3"}
    async with client.get(f"{url}/metrics", headers=headers) as response:
        content_type = response.headers["Content-Type"]
        text = await response.text()

    assert response.status == 200
    assert content_type == "application/openmetrics-text; version=1.0.0; charset=utf-8"
    # Strict, as Prometheus' own parser is. It has no types.
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

    # A browser would download OpenMetrics as a file.
    assert content_type == "text/plain; version=0.0.4; charset=utf-8"
    assert "# TYPE gex_events_total counter" in text


async def test_metrics_are_rendered_outside_the_event_loop(
    worker: Worker, url: str, client: aiohttp.ClientSession
) -> None:
    # Rendering takes some milliseconds, in which the loop could not send a request on time.
    for _ in range(2):
        async with client.get(f"{url}/metrics") as response:
            await response.read()

    threads = worker.scrape_threads
    assert len(threads) == 2
    assert threading.get_ident() not in threads


async def test_a_stalled_loop_fails_the_liveness_probe_only(
    worker: Worker, url: str, client: aiohttp.ClientSession
) -> None:
    worker.health.register("poll", 30)
    await expect_probe(client, f"{url}/health/live", 200, [])

    worker.seconds = 31

    # Only a restart helps a stalled loop, and readiness does not lead to one.
    reason = "loop poll has made no progress for 31.0 s, its limit is 30 s"
    await expect_probe(client, f"{url}/health/live", 503, [reason])
    await expect_probe(client, f"{url}/health/ready", 200, [])


async def test_a_missing_requirement_fails_the_readiness_probe_only(
    worker: Worker, url: str, client: aiohttp.ClientSession
) -> None:
    await expect_probe(client, f"{url}/health/ready", 200, [])

    worker.reasons = ["shard all/0 is not open"]

    # A restart would not open a shard that another worker still owns.
    await expect_probe(client, f"{url}/health/ready", 503, worker.reasons)
    await expect_probe(client, f"{url}/health/live", 200, [])


async def test_further_routes_are_served(
    worker: Worker, client: aiohttp.ClientSession
) -> None:
    async def extra(request: web.Request) -> web.Response:
        return web.json_response(dict(request.match_info))

    route = web.post("/api/symbols/{symbol}", extra)
    async with (
        serving(worker, route) as url,
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

    # The body of a refused request is left unread.
    body = b"x" * 100_000
    async with client.post(url + path, data=body) as response:
        assert response.status == 405
    async with client.delete(url + path) as response:
        assert response.status == 405


@pytest.mark.parametrize(
    "path",
    [
        "/metrics/",
        "/health",
        # Browsers ask for this one without being told to.
        "/favicon.ico",
        "/..%2f..%2fetc/passwd",
        # The status page is a further route, which this listener does not have.
        "/status",
    ],
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
    # The versions of Python and aiohttp tell an attacker which holes are open.
    async with client.get(url + path) as response:
        assert "Server" not in response.headers


async def test_requests_are_not_logged(
    url: str, client: aiohttp.ClientSession, caplog: pytest.LogCaptureFixture
) -> None:
    # Probes and scrapes come every few seconds and would fill the log.
    caplog.set_level(logging.INFO)

    async with client.get(f"{url}/metrics") as response:
        await response.read()

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

    # Our logger only: aiohttp would log the same traceback again.
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
    route = web.post("/slow", slow)
    async with serving(worker, route, request_seconds=0.05) as url:
        answer = await raw(url, request)

    assert answer.startswith(b"HTTP/1.1 408 ")


async def test_a_client_that_does_not_read_is_disconnected(worker: Worker) -> None:
    # More than the kernel's buffers take.
    body = bytes(20_000_000)
    transports = []

    async def large(request: web.Request) -> web.Response:
        transports.append(request.transport)
        return web.Response(body=body)

    def is_closing() -> bool:
        return any(found is None or found.is_closing() for found in transports)

    route = web.get("/large", large)
    async with serving(worker, route, request_seconds=0.05) as url:
        with socket.create_connection((LOOPBACK, port_of(url))) as client:
            client.sendall(b"GET /large HTTP/1.1\r\nHost: a\r\n\r\n")
            await asyncio.to_thread(wait_until, is_closing, "the connection is closed")


async def test_a_handlers_own_timeout_is_a_defect(
    worker: Worker, client: aiohttp.ClientSession
) -> None:
    # The listener's time limit raises TimeoutError too, and answers 408.
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

    body = b"x" * size
    async with (
        serving(worker, web.post("/echo", echo)) as url,
        client.post(f"{url}/echo", data=body) as response,
    ):
        assert response.status == status


async def test_the_oldest_of_too_many_connections_are_closed(
    url: str, caplog: pytest.LogCaptureFixture
) -> None:
    connections = []
    for _ in range(MAX_CONNECTIONS + 20):
        # None of them ever sends a request.
        connections.append(await asyncio.open_connection(LOOPBACK, port_of(url)))

    for reader, _ in connections[:20]:
        assert await reader.read() == b""
    reader, writer = connections[-1]
    writer.write(b"GET /health/live HTTP/1.1\r\nHost: x\r\n\r\n")
    assert await reader.readline() == b"HTTP/1.1 200 OK\r\n"
    assert "too many HTTP connections; closing the oldest" in caplog.text
    for _, writer in connections:
        writer.close()
        with suppress(ConnectionError):
            await writer.wait_closed()


async def test_an_address_in_use_is_a_configuration_error(
    worker: Worker, url: str
) -> None:
    second = worker.listener(port=port_of(url))

    with pytest.raises(ConfigError) as caught:
        await second.start()

    [fault] = caught.value.faults
    assert fault.startswith(f"http.listen: cannot listen on {url}: ")
    assert "address already in use" in fault
    assert fault.endswith("; set another address, or port 0 for any free port")


@pytest.mark.parametrize("host", ["192.0.2.1", "a..b"])
async def test_an_address_of_another_machine_is_a_configuration_error(
    host: str, worker: Worker
) -> None:
    # An address for documentation (RFC 5737), and a name that DNS forbids.
    listener = worker.listener(host=host, port=DEFAULT_PORT)

    message = rf"^http\.listen: cannot listen on http://{host}:9464: "
    with pytest.raises(ConfigError, match=message):
        await listener.start()


async def test_the_url_has_the_chosen_port_and_brackets_ipv6(
    worker: Worker, url: str
) -> None:
    # Configured is port 0, so the system chose one.
    assert url.startswith("http://127.0.0.1:")
    assert not url.endswith(":0")

    ipv6 = worker.listener(host="::1", port=DEFAULT_PORT)
    assert ipv6.urls == ["http://[::1]:9464"]


async def test_a_stopped_listener_does_not_answer_and_can_be_stopped_again(
    worker: Worker, client: aiohttp.ClientSession
) -> None:
    listener = worker.listener()
    await listener.start()

    await listener.stop()
    await listener.stop()

    with pytest.raises(aiohttp.ClientConnectorError):
        await client.get(listener.urls[0])


async def test_a_listener_that_never_started_can_be_stopped(worker: Worker) -> None:
    # The shutdown stops every part, also when a part before this one failed to start.
    await worker.listener().stop()
