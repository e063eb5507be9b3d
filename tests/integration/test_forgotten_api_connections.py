"""A NAT between a worker and the API that silently forgets an idle connection."""

from __future__ import annotations

import asyncio
import ctypes
import socket
import struct
from typing import TYPE_CHECKING

import aiohttp

from connector.upstream import connections
from tests.support.upstream_server import fetching, running_server, upstream_at

if TYPE_CHECKING:
    import pytest

    from tests.support.upstream_server import Fetcher, Server

# From asm-generic/socket.h and linux/filter.h: an instruction that keeps 0 bytes of a packet.
_SO_ATTACH_FILTER = 26
_KEEP_NOTHING = struct.pack("HBBI", 0x06, 0, 0, 0)

# Far longer than the connection takes to fail. A test that fails waits for so long.
TIMEOUT_SECONDS = 60


def forget(server: Server) -> None:
    """Let the kernel drop what comes on the last request's connection, before TCP sees it.

    The client is not told. A proxy would not do: its own TCP acknowledges what it drops.
    """
    transport = server.requests[-1].transport
    assert transport is not None
    connection: socket.socket = transport.get_extra_info("socket")
    program = ctypes.create_string_buffer(_KEEP_NOTHING, len(_KEEP_NOTHING))
    # The struct sock_fprog: the number of instructions and their address.
    filter_ = struct.pack("HP", 1, ctypes.addressof(program))
    connection.setsockopt(socket.SOL_SOCKET, _SO_ATTACH_FILTER, filter_)


async def until_closed(fetcher: Fetcher) -> None:
    """Wait until the client has closed its only connection, which is idle."""
    transport = fetcher.client._sender._connections._pool.transport
    assert isinstance(transport.client, aiohttp.ClientSession)
    assert transport.client.connector is not None
    ((connection, _),) = next(iter(transport.client.connector._conns.values()))
    closed = connection.closed
    assert closed is not None
    await asyncio.wait([closed], timeout=TIMEOUT_SECONDS)
    assert closed.done()


async def test_a_request_on_a_forgotten_connection_fails_long_before_its_timeout() -> (
    None
):
    async with running_server() as server:
        upstream = upstream_at(server.url, timeout_seconds=TIMEOUT_SECONDS)
        async with fetching(upstream) as fetcher:
            await fetcher.fetch()
            forget(server)

            error = await fetcher.fail()
            assert "no response within" not in str(error)
            # It was not repeated behind the budget's back.
            assert len(server.requests) == 1

            await fetcher.fetch()
            assert len(server.requests) == 2


async def test_a_forgotten_connection_is_closed_while_nobody_needs_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(connections, "PROBE_AFTER_SECONDS", 1)
    monkeypatch.setattr(connections, "PROBE_INTERVAL_SECONDS", 1)
    async with running_server() as server:
        upstream = upstream_at(server.url, timeout_seconds=TIMEOUT_SECONDS)
        async with fetching(upstream) as fetcher:
            await fetcher.fetch()
            forget(server)
            await until_closed(fetcher)

            await fetcher.fetch()
            assert len(server.requests) == 2
