"""Client-side CPU of one request: the client as used, what it is made of, and what else there is, in one run."""

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

    Get = Callable[[], Awaitable[object]]

AS_USED: Final = "connector: budget, request, envelope"
BARE: Final = "aiohttp, bare"
_AT_ONCE: Final = 50
_KEY: Final = {"X-API-Key": DEFAULT_KEY, "accept-encoding": "gzip"}


async def requests(upstream: Upstream, name: str, rounds: int) -> dict[str, float]:
    """CPU of one request for eight symbols, µs, by client: the least of so many rounds, in which they take turns."""
    url = f"{upstream.base_url}/multi/gex/levels?symbols={','.join(SYMBOLS)}&include={','.join(INCLUDED[name])}"
    spent: dict[str, list[float]] = {}
    async with AsyncExitStack() as stack:
        clients: dict[str, Get] = {
            "httpx": _httpx(
                await stack.enter_async_context(
                    httpx.AsyncClient(transport=httpx.AsyncHTTPTransport())
                ),
                url,
            ),
            "httpx over aiohttp": _httpx(
                await stack.enter_async_context(
                    httpx.AsyncClient(transport=AiohttpTransport())
                ),
                url,
            ),
            BARE: _aiohttp(
                await stack.enter_async_context(
                    aiohttp.ClientSession(auto_decompress=False)
                ),
                url,
            ),
            AS_USED: _as_used(stack, upstream, name),
        }
        for one in range(rounds + 1):
            for client, get in clients.items():
                micros = await _cpu_micros(get)
                if one:  # the first round connects
                    spent.setdefault(client, []).append(micros)
    return {client: min(values) for client, values in spent.items()}


async def _cpu_micros(get: Get) -> float:
    started = time.process_time_ns()
    for _ in range(_AT_ONCE):
        await get()
    return (time.process_time_ns() - started) / 1000 / _AT_ONCE


def _httpx(client: httpx.AsyncClient, url: str) -> Get:
    async def get() -> bytes:
        async with client.stream("GET", url, headers=_KEY) as response:
            return b"".join([chunk async for chunk in response.aiter_raw()])

    return get


def _aiohttp(session: aiohttp.ClientSession, url: str) -> Get:
    async def get() -> bytes:
        async with session.get(url, headers=_KEY) as response:
            return await response.read()

    return get


def _as_used(stack: AsyncExitStack, upstream: Upstream, name: str) -> Get:
    settings = Settings(base_url=upstream.base_url, api_key=Secret(DEFAULT_KEY))
    budget = Budget(UNLIMITED)
    client = Client(settings, ApiKey(settings), budget)
    stack.push_async_callback(client.close)
    levels = LevelsRequest(SYMBOLS, (), INCLUDED[name])

    async def get() -> object:
        async with budget.request() as permit:
            return await client.fetch_levels(levels, permit)

    return get
