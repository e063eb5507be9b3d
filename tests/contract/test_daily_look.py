"""A look at the vendor's reports about its service, against the simulated API."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from typing import TYPE_CHECKING

import pytest

from connector.config.model import Feed
from connector.devkit.simulator.server import Simulator
from connector.devkit.simulator.settings import Settings
from connector.runtime import daily_look
from connector.runtime.daily_look import DailyLook
from connector.telemetry.metrics import Metrics
from connector.telemetry.observer import MetricsObserver
from connector.upstream.service import read_health
from tests.support.upstream_server import (
    KEY,
    fetching,
    replying,
    running_server,
    upstream_at,
)

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from tests.support.upstream_server import Fetcher

TROUBLE = "the vendor reports trouble with its service"
BREAKING = "the vendor's API has a breaking release"
FEED = Feed(name="all", symbols=("BTCUSDT", "ETHUSDT"))


class Bench:
    """A look, the simulated API it looks at, and the metrics it sets."""

    def __init__(self, simulator: Simulator, fetcher: Fetcher) -> None:
        self.simulator = simulator
        self.fetcher = fetcher
        self.metrics = Metrics(["all"])
        self.is_polling = True
        self.waits: list[float] = []
        self.last_wait = 4
        self.is_waiting = asyncio.Event()
        self.daily = DailyLook(
            fetcher.client,
            fetcher.budget,
            [FEED],
            MetricsObserver(self.metrics),
            is_polling=lambda: self.is_polling,
            sleep=self.sleep,
        )

    async def sleep(self, seconds: float) -> None:
        """Note a wait, and stay in the last one."""
        self.waits.append(seconds)
        if len(self.waits) == self.last_wait:
            self.is_waiting.set()
            await asyncio.Event().wait()

    async def run(self, until: int = 4) -> list[float]:
        """Run until a number of waits have begun, and return them."""
        self.last_wait = until
        running = asyncio.create_task(self.daily.run())
        await self.is_waiting.wait()
        running.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await running
        return self.waits

    def metric(self, name: str, **labels: str) -> float | None:
        return self.metrics.registry.get_sample_value(name, labels)

    def asked(self) -> dict[str, int]:
        """Return how often each endpoint was asked."""
        found: dict[str, int] = self.simulator.stats()["requests_by_endpoint"]
        return found


@pytest.fixture
async def bench(caplog: pytest.LogCaptureFixture) -> AsyncIterator[Bench]:
    caplog.set_level(logging.INFO, logger="connector")
    async with (
        Simulator(Settings(keys=(KEY,))) as simulator,
        fetching(upstream_at(simulator.url)) as fetcher,
    ):
        yield Bench(simulator, fetcher)


def records(caplog: pytest.LogCaptureFixture, message: str) -> list[logging.LogRecord]:
    return [record for record in caplog.records if record.getMessage() == message]


async def test_a_look_shows_the_version_and_costs_two_requests_of_the_budget(
    bench: Bench, caplog: pytest.LogCaptureFixture
) -> None:
    assert bench.metric("gex_upstream_breaking_release") is None

    assert await bench.daily.look()

    assert bench.metric("gex_upstream_version_info", version="2.10") == 1
    assert bench.metric("gex_upstream_breaking_release") == 0
    assert bench.asked() == {"health": 1, "status": 1, "changelog": 1}
    spending = bench.fetcher.budget.spending(asyncio.get_running_loop().time())
    assert spending.sent_last_minute == 2
    assert records(caplog, TROUBLE) == []


async def test_a_breaking_release_is_logged_once_and_stays_in_the_metric(
    bench: Bench, caplog: pytest.LogCaptureFixture
) -> None:
    await bench.daily.look()
    assert records(caplog, BREAKING) == []
    bench.simulator.change(version="2.11", is_breaking=True)

    await bench.daily.look()
    await bench.daily.look()

    (record,) = records(caplog, BREAKING)
    assert vars(record)["version"] == "2.11"
    assert vars(record)["known_contract"] == "2.10"
    assert bench.metric("gex_upstream_breaking_release") == 1
    assert bench.metric("gex_upstream_version_info", version="2.11") == 1
    assert bench.metric("gex_upstream_version_info", version="2.10") is None


async def test_trouble_on_the_vendors_side_is_logged(
    bench: Bench, caplog: pytest.LogCaptureFixture
) -> None:
    bench.simulator.change(health="degraded", venues_off=["derive"])

    await bench.daily.look()

    (record,) = records(caplog, TROUBLE)
    assert vars(record)["health"] == "degraded"
    assert vars(record)["venues_off"] == "derive (chain, tape off)"


async def test_contract_2_0_has_no_changelog_and_needs_none(bench: Bench) -> None:
    bench.simulator.change(contract="2.0")

    assert await bench.daily.look()

    assert bench.metric("gex_upstream_breaking_release") == 0


async def test_a_look_that_fails_says_what_health_said(
    bench: Bench, caplog: pytest.LogCaptureFixture
) -> None:
    bench.simulator.change(health="unhealthy")
    bench.simulator.add_fault("503", endpoint="status", count=1)

    assert not await bench.daily.look()

    (record,) = records(caplog, "cannot look at the vendor's service")
    assert "HTTP 503" in vars(record)["error"]
    assert vars(record)["health"] == "unhealthy"
    # It is no report: the metric is still unknown.
    assert bench.metric("gex_upstream_breaking_release") is None


async def test_a_look_gives_up_if_the_budget_allows_no_request(
    bench: Bench, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(daily_look, "_PERMIT_SECONDS", 0.05)
    bench.fetcher.budget.pause(float("inf"))

    assert not await bench.daily.look()

    (record,) = records(caplog, "cannot look at the vendor's service")
    assert vars(record)["error"] == "the budget allows no request"
    assert bench.asked() == {"health": 1}


async def test_the_key_is_not_sent_to_health() -> None:
    async with running_server() as server, fetching(upstream_at(server.url)) as fetcher:
        server.handler = replying(b'{"status": "ok"}')

        assert read_health(await fetcher.client.fetch_health()) == "ok"

    (request,) = server.requests
    assert request.path == "/health"
    assert "X-API-Key" not in request.headers


async def test_a_look_comes_a_minute_after_the_start_and_then_once_a_day(
    bench: Bench,
) -> None:
    bench.simulator.add_fault("503", endpoint="changelog", count=2)

    waits = await bench.run()

    # The first looks fail, so the next ones come after an hour, and after two.
    assert waits == [60, 3600, 7200, 86_400]


async def test_a_report_that_always_fails_is_asked_for_once_a_day_at_last(
    bench: Bench,
) -> None:
    bench.simulator.add_fault("503", endpoint="status")

    waits = await bench.run(until=8)

    assert waits == [60, 3600, 7200, 14_400, 28_800, 57_600, 86_400, 86_400]


async def test_a_standby_does_not_look(bench: Bench) -> None:
    bench.is_polling = False

    waits = await bench.run()

    assert waits == [60, 60, 60, 60]
    assert bench.asked() == {}
