"""Fixtures that several contract tests share: an upstream to be steered, and HTTP clients."""

from __future__ import annotations

from typing import TYPE_CHECKING

import aiohttp
import pytest

from tests.support.upstream_server import (
    Fetcher,
    Server,
    fetching,
    running_server,
    upstream_at,
)

if TYPE_CHECKING:
    from collections.abc import AsyncIterator


@pytest.fixture
async def server() -> AsyncIterator[Server]:
    """Run an upstream that replies as the test tells it to."""
    async with running_server() as running:
        yield running


@pytest.fixture
async def fetcher(server: Server) -> AsyncIterator[Fetcher]:
    """Create the client under test, configured for `server`."""
    # The path ends with a slash, which must not be doubled in the URL of a request.
    # The time limit is generous, so that a busy machine does not end a request.
    upstream = upstream_at(f"{server.url}/v2/", timeout_seconds=20)
    async with fetching(upstream) as created:
        yield created


@pytest.fixture
async def client() -> AsyncIterator[aiohttp.ClientSession]:
    """Open a plain HTTP client for our own listener."""
    async with aiohttp.ClientSession() as session:
        yield session
