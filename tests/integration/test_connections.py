"""Connections to the upstream are replaced without cutting requests in progress."""

from __future__ import annotations

import httpx

from connector.upstream.connections import MAX_AGE_SECONDS, Connections
from tests.support.upstream_server import running_server


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


async def test_an_old_connection_is_replaced_once_its_requests_are_done() -> None:
    clock = Clock()
    connections = Connections(clock)
    async with running_server() as server:
        async with connections.lend() as old:
            clock.now = MAX_AGE_SECONDS + 1
            async with connections.lend() as new:
                assert new is not old

            # The first request began before its connection was old, and still works.
            request = httpx.Request("GET", f"{server.url}/multi/gex/levels")
            response = await old.transport.handle_async_request(request)
            assert response.status_code == httpx.codes.OK
            await response.aclose()

        async with connections.lend() as latest:
            assert latest is new
    await connections.close()


async def test_young_connections_are_kept() -> None:
    clock = Clock()
    connections = Connections(clock)
    async with connections.lend() as first:
        pass
    clock.now = MAX_AGE_SECONDS - 1
    async with connections.lend() as second:
        assert second is first
    await connections.close()
