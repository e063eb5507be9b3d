"""Client-side CPU of one request: our client, its parts, and the alternatives."""

from __future__ import annotations

import time
from contextlib import AsyncExitStack
from typing import TYPE_CHECKING, Final

import aiohttp
import httpx
from httpx_aiohttp import AiohttpTransport

from connector.config.model import Upstream as Settings
from connector.config.secrets import Secret
from connector.devkit.simulator.settings import DEFAULT_KEY
from connector.upstream.api_key import ApiKey
from connector.upstream.budget import Budget
from connector.upstream.client import Client, LevelsRequest
from tests.bench.sample import INCLUDED, SYMBOLS
from tests.bench.stack import UNLIMITED

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from tests.bench.stack import Upstream

    # Sends a request, and reads the whole response.
    Get = Callable[[], Awaitable[object]]

AS_USED: Final = "connector: budget, request, envelope"
BARE: Final = "aiohttp, bare"

# Long enough for the clock of the process, short enough to take turns often.
_REQUESTS_PER_TURN: Final = 50

# As the connector asks: the same bytes come back to every client.
_HEADERS: Final = {"X-API-Key": DEFAULT_KEY, "accept-encoding": "gzip"}


async def requests(upstream: Upstream, name: str, rounds: int) -> dict[str, float]:
    """Return the CPU time of one request for eight symbols, in µs, by client.

    The clients take turns, so that a busy machine disturbs all alike; the round with
    the least time counts.
    """
    symbols = ",".join(SYMBOLS)
    include = ",".join(INCLUDED[name])
    query = f"symbols={symbols}&include={include}"
    url = f"{upstream.base_url}/multi/gex/levels?{query}"

    async with AsyncExitStack() as stack:
        httpx_client = httpx.AsyncClient(transport=httpx.AsyncHTTPTransport())
        over_aiohttp = httpx.AsyncClient(transport=AiohttpTransport())
        # The others are measured without decompression too.
        session = aiohttp.ClientSession(auto_decompress=False)
        for client in (httpx_client, over_aiohttp, session):
            await stack.enter_async_context(client)

        getters: dict[str, Get] = {
            "httpx": _httpx(httpx_client, url),
            "httpx over aiohttp": _httpx(over_aiohttp, url),
            BARE: _aiohttp(session, url),
            AS_USED: _as_used(stack, upstream, name),
        }

        # The first round only connects.
        for get in getters.values():
            await _cpu_micros(get)

        least: dict[str, float] = {}
        for _ in range(rounds):
            for label, get in getters.items():
                micros = await _cpu_micros(get)
                least[label] = min(micros, least.get(label, micros))
    return least


async def _cpu_micros(get: Get) -> float:
    """Return the CPU time of one request, all threads of this process included."""
    started_ns = time.process_time_ns()
    for _ in range(_REQUESTS_PER_TURN):
        await get()
    spent_ns = time.process_time_ns() - started_ns
    return spent_ns / 1000 / _REQUESTS_PER_TURN


def _httpx(client: httpx.AsyncClient, url: str) -> Get:
    async def get() -> bytes:
        async with client.stream("GET", url, headers=_HEADERS) as response:
            chunks = [chunk async for chunk in response.aiter_raw()]
            return b"".join(chunks)

    return get


def _aiohttp(session: aiohttp.ClientSession, url: str) -> Get:
    async def get() -> bytes:
        async with session.get(url, headers=_HEADERS) as response:
            return await response.read()

    return get


def _as_used(stack: AsyncExitStack, upstream: Upstream, name: str) -> Get:
    settings = Settings(base_url=upstream.base_url, api_key=Secret(DEFAULT_KEY))
    budget = Budget(UNLIMITED)
    client = Client(settings, ApiKey(settings), budget)
    stack.push_async_callback(client.close)
    request = LevelsRequest(SYMBOLS, (), INCLUDED[name])

    async def get() -> object:
        async with budget.request() as permit:
            return await client.fetch_levels(request, permit)

    return get
