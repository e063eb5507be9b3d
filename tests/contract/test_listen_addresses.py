"""The listener and `gex-connector health` on addresses of both families."""

from __future__ import annotations

import asyncio
import os
import socket
import sys
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

import pytest

from connector.config.model import Http
from connector.devkit.loopback_ports import free_port
from connector.runtime.health import Health
from connector.telemetry.metrics import Metrics
from connector.web.server import Listener

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

LOOPBACK = "127.0.0.1"
LOOPBACK_IPV6 = "::1"


def loopbacks() -> list[str]:
    """Return the loopback addresses of this machine. It may have no IPv6."""
    found = []
    for host in (LOOPBACK, LOOPBACK_IPV6):
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        try:
            with socket.create_server((host, 0), family=family):
                found.append(host)
        except OSError:
            continue
    return found


@asynccontextmanager
async def worker(listen: str, *reasons: str) -> AsyncIterator[Listener]:
    """Listen as a worker does. `reasons`: why it is not ready."""
    metrics = Metrics(["all"], dict)
    health = Health(lambda: 0, lambda: 0)
    health.require(lambda: list(reasons))
    listener = Listener(metrics, health, Http(listen=listen).addresses)
    await listener.start()
    try:
        yield listener
    finally:
        await listener.stop()


async def can_connect(host: str, port: int) -> bool:
    try:
        _, writer = await asyncio.open_connection(host, port)
    except OSError:
        return False
    writer.close()
    return True


async def connectable(hosts: list[str], port: int) -> list[str]:
    """Return the hosts that take a connection."""
    return [host for host in hosts if await can_connect(host, port)]


def port_of(url: str) -> int:
    _, _, port = url.rpartition(":")
    return int(port)


async def test_every_address_of_ipv6_takes_connections_over_both_families() -> None:
    hosts = loopbacks()
    # A port of the system's choice could be another program's in the end.
    async with worker(f"[::]:{free_port()}") as listener:
        [url] = listener.urls
        assert await connectable(hosts, port_of(url)) == hosts

    assert url.startswith("http://[::]:")
    assert await connectable(hosts, port_of(url)) == []


async def test_a_kernel_without_ipv6_gets_every_address_of_ipv4(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(socket, "has_dualstack_ipv6", lambda: False)

    async with worker("[::]:0") as listener:
        [url] = listener.urls
        assert await can_connect(LOOPBACK, port_of(url))


async def test_several_addresses_are_all_served() -> None:
    # With one port, since `[::]` beside other addresses takes IPv6 only.
    listens = ["127.0.0.1:0", "127.0.0.2:0"]
    if LOOPBACK_IPV6 in loopbacks():
        listens.append("[::]:0")

    async with worker(",".join(listens)) as listener:
        assert len(listener.urls) == len(listens)
        for listen, url in zip(listens, listener.urls, strict=True):
            host = listen.rpartition(":")[0].strip("[]")
            connected = LOOPBACK_IPV6 if host == "::" else host
            assert await can_connect(connected, port_of(url))


async def health(
    listen: str, *arguments: str, variables: dict[str, str] | None = None
) -> tuple[int | None, str]:
    """Run `gex-connector health`. Return its exit status and everything it printed."""
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "connector",
        "health",
        *arguments,
        env={**os.environ, "GEX_HTTP__LISTEN": listen, **(variables or {})},
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    output, _ = await process.communicate()
    return process.returncode, output.decode()


@pytest.mark.parametrize(
    "pattern",
    [
        "127.0.0.1:{}",
        "127.0.0.2:{}",
        "localhost:{}",
        "0.0.0.0:{}",
        "[::]:{}",
        "127.0.0.2:{0},127.0.0.1:{0}",
    ],
)
async def test_health_asks_where_the_worker_listens(pattern: str) -> None:
    listen = pattern.format(free_port())
    async with worker(listen):
        assert await health(listen) == (0, "")
        assert await health(listen, "--ready") == (0, "")

    status, output = await health(listen)
    assert status == 1
    assert "no worker answers on" in output


async def test_health_says_why_a_worker_is_not_ready() -> None:
    listen = f"127.0.0.1:{free_port()}"
    async with worker(listen, "the group has not been joined yet"):
        assert await health(listen) == (0, "")
        status, output = await health(listen, "--ready")

    assert status == 1
    assert "the group has not been joined yet" in output


async def test_health_cannot_know_a_port_that_the_system_chose() -> None:
    status, output = await health("127.0.0.1:0")

    assert status == 2
    assert "set a port" in output


async def test_health_needs_no_other_setting_than_the_address() -> None:
    # A worker has a key and symbols. The check must not fail on their account.
    variables = {"GEX_UPSTREAM__API_KEY_FILE": "/nonexistent/key"}
    listen = f"127.0.0.1:{free_port()}"
    async with worker(listen):
        assert await health(listen, variables=variables) == (0, "")
