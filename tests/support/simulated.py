"""A simulator in the test's own process, with a clock that only the test moves."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, Any

import httpx

from connector.devkit.simulator.server import Simulator
from connector.devkit.simulator.settings import DEFAULT_KEY, Settings

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

# 2027-01-15T08:00:00Z: a whole minute, in the middle of a month.
EPOCH = 1_800_000_000
LEVELS = "/multi/gex/levels"
STEADY: dict[str, Any] = {"jitter_seconds": 0.0, "phase": "together"}


class Clock:
    """Unix time that passes only when a test says so."""

    def __init__(self) -> None:
        self.seconds = float(EPOCH)

    def __call__(self) -> float:
        return self.seconds


class Simulated:
    """A running simulator, its clock, and an HTTP client with a valid key."""

    def __init__(self, simulator: Simulator, clock: Clock) -> None:
        self.simulator = simulator
        self.clock = clock
        self.http = httpx.AsyncClient(
            headers={"X-API-Key": DEFAULT_KEY}, trust_env=False, timeout=60
        )

    async def levels(
        self, symbols: str = "BTCUSDT,ETHUSDT", key: str = DEFAULT_KEY, **query: str
    ) -> httpx.Response:
        """Ask for levels."""
        return await self.http.get(
            self.simulator.url + LEVELS,
            params={"symbols": symbols, **query},
            headers={"X-API-Key": key},
        )

    async def get(self, endpoint: str) -> httpx.Response:
        """Ask another endpoint."""
        return await self.http.get(f"{self.simulator.url}/{endpoint}")

    async def control(self, resource: str, order: Any) -> httpx.Response:
        """Send an order to `/_control`."""
        root = self.simulator.url.removesuffix("/v2")
        return await self.http.post(f"{root}/_control/{resource}", json=order)

    def fault(self, fault: str, **parameters: Any) -> None:
        """Clear all faults and arm one."""
        self.simulator.clear_faults()
        self.simulator.add_fault(fault, **parameters)


@contextlib.asynccontextmanager
async def simulated(**settings: Any) -> AsyncIterator[Simulated]:
    """Run a simulator whose refreshes come at moments that a test can calculate."""
    clock = Clock()
    chosen = Settings().changed(STEADY | settings)
    async with Simulator(chosen, clock) as simulator:
        client = Simulated(simulator, clock)
        async with client.http:
            yield client
