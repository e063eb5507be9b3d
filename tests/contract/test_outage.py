"""In an outage a worker asks the vendor's `/health`, against the simulated API."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from typing import TYPE_CHECKING

import pytest

from connector.devkit.simulator.server import Simulator
from connector.devkit.simulator.settings import Settings
from connector.errors import (
    BadResponse,
    Intercepted,
    RateLimited,
    RequestRefused,
    UpstreamError,
    UpstreamUnavailable,
)
from connector.runtime.outage import Outage, OutageLook
from tests.support.upstream_server import KEY, fetching, upstream_at

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from tests.support.upstream_server import Fetcher

UNAVAILABLE = UpstreamUnavailable("HTTP 503")
HEALTHY = "the vendor says it is healthy: look at the network in between"
NOT_HEALTHY = "the vendor says it is not healthy: wait, or ask the vendor"
NO_ANSWER = "/health does not answer either: look at the network first"


class Bench:
    """An outage, the look at it, and the simulated API that is asked."""

    def __init__(self, simulator: Simulator, fetcher: Fetcher) -> None:
        self.simulator = simulator
        self.fetcher = fetcher
        self.outage = Outage()
        self.waits: list[float] = []
        self.is_waiting = asyncio.Event()
        self.look_again = asyncio.Event()
        self.outage_look = OutageLook(fetcher.client, self.outage, self.sleep)

    async def sleep(self, seconds: float) -> None:
        """Note a wait, and end it when the test says so."""
        self.waits.append(seconds)
        self.is_waiting.set()
        await self.look_again.wait()
        self.look_again.clear()

    async def until_looked(self) -> None:
        """Wait until the loop has looked, and waits."""
        await self.is_waiting.wait()
        self.is_waiting.clear()

    def fail(self, times: int = 3, error: UpstreamError = UNAVAILABLE) -> None:
        for _ in range(times):
            self.outage.check_failed(error)

    def looks(self) -> int:
        """Return how often `/health` was asked."""
        asked: dict[str, int] = self.simulator.stats()["requests_by_endpoint"]
        return asked.get("health", 0)


@pytest.fixture
async def bench(caplog: pytest.LogCaptureFixture) -> AsyncIterator[Bench]:
    caplog.set_level(logging.INFO, logger="connector")
    async with (
        Simulator(Settings(keys=(KEY,))) as simulator,
        fetching(upstream_at(simulator.url)) as fetcher,
    ):
        bench = Bench(simulator, fetcher)
        running = asyncio.create_task(bench.outage_look.run())
        yield bench
        running.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await running


@pytest.mark.parametrize(
    ("health", "explanation"),
    [("ok", HEALTHY), ("degraded", NOT_HEALTHY), ("unhealthy", NOT_HEALTHY)],
)
async def test_the_vendor_says_whose_trouble_it_is(
    bench: Bench, caplog: pytest.LogCaptureFixture, health: str, explanation: str
) -> None:
    bench.simulator.change(health=health)

    bench.fail()
    await bench.until_looked()

    assert bench.outage.explanation == explanation
    (record,) = caplog.records
    assert record.getMessage() == f"checks fail; {explanation}"
    assert vars(record)["health"] == health


@pytest.mark.parametrize("health", ["ok", "unhealthy"])
async def test_an_error_of_the_api_itself_is_never_blamed_on_the_network(
    bench: Bench, caplog: pytest.LogCaptureFixture, health: str
) -> None:
    bench.simulator.change(health=health)
    error = UpstreamUnavailable("HTTP 503: UPSTREAM_ERROR", status=503)
    error.is_from_api = True

    bench.fail(error=error)
    await bench.until_looked()

    (record,) = caplog.records
    assert record.getMessage() == (
        "checks fail; the API itself answers with the error: wait, or ask the vendor"
    )
    assert bench.outage.explanation is not None
    assert "network" not in bench.outage.explanation


async def test_no_answer_at_all_points_to_the_network(
    bench: Bench, caplog: pytest.LogCaptureFixture
) -> None:
    await bench.simulator.stop()

    bench.fail()
    await bench.until_looked()

    assert bench.outage.explanation == NO_ANSWER
    (record,) = caplog.records
    assert "onnect" in vars(record)["health"]


async def test_the_look_costs_nothing_of_the_budget(bench: Bench) -> None:
    bench.fail()
    await bench.until_looked()

    spending = bench.fetcher.budget.spending(asyncio.get_running_loop().time())
    assert spending.sent_last_minute == 0
    assert bench.fetcher.client.requests_sent == 1


async def test_an_outage_is_looked_at_rarely_while_it_lasts(bench: Bench) -> None:
    bench.simulator.change(health="ok")
    bench.fail()
    await bench.until_looked()
    bench.fail(100)
    assert bench.looks() == 1

    bench.simulator.change(health="unhealthy")
    bench.look_again.set()
    await bench.until_looked()

    assert bench.looks() == 2
    assert bench.outage.explanation == NOT_HEALTHY
    assert bench.waits == [600, 600]


async def test_outages_that_come_and_go_ask_no_more_often(bench: Bench) -> None:
    for _ in range(10):
        bench.fail()
        await asyncio.sleep(0)
        bench.outage.end()
    bench.fail()
    await bench.until_looked()

    # All of them, as no test lets a wait end.
    assert bench.looks() == 1


async def test_an_answer_ends_an_outage(bench: Bench) -> None:
    bench.fail()
    await bench.until_looked()

    bench.outage.end()

    assert bench.outage.explanation is None
    bench.fail(2)
    assert not bench.outage.began.is_set()


async def test_an_outage_that_is_over_before_the_look_is_not_logged(
    bench: Bench, caplog: pytest.LogCaptureFixture
) -> None:
    await bench.outage_look.look()

    assert bench.outage.explanation is None
    assert caplog.records == []


@pytest.mark.parametrize(
    "error", [BadResponse("HTTP 200: empty"), Intercepted("HTTP 403"), UNAVAILABLE]
)
async def test_answers_that_are_not_of_the_api_are_an_outage(
    error: UpstreamError,
) -> None:
    outage = Outage()
    for _ in range(3):
        assert not outage.began.is_set()
        outage.check_failed(error)
    assert outage.began.is_set()


@pytest.mark.parametrize("error", [RateLimited("HTTP 429"), RequestRefused("HTTP 422")])
async def test_a_refusal_of_the_api_is_no_outage(error: UpstreamError) -> None:
    outage = Outage()
    for failure in (UNAVAILABLE, UNAVAILABLE, error, UNAVAILABLE, UNAVAILABLE):
        outage.check_failed(failure)
    assert not outage.began.is_set()
