"""Check of `gex-connector check` that a worker can listen on `http.listen`."""

from __future__ import annotations

import asyncio
import errno
import ipaddress
import socket
from typing import TYPE_CHECKING, Protocol

from connector.errors import EXIT_CONFIG
from connector.web.server import both_families_socket

if TYPE_CHECKING:
    from collections.abc import Iterable

    from connector.config.listen import Address
    from connector.config.model import Http
    from connector.tools.report import Report


class _Closable(Protocol):
    """A server or a socket."""

    def close(self) -> None:
        """Stop listening."""


async def check_listen(http: Http, report: Report) -> None:
    """Listen on every address as a worker does, for a moment."""
    is_alone = len(http.addresses) == 1
    # One address can cover another, so all stay open until the last one is tried.
    opened: dict[Address, _Closable] = {}
    for address in http.addresses:
        try:
            opened[address] = await _listen(address, is_alone=is_alone)
        except (OSError, UnicodeError) as error:  # the latter for a name like "a..b"
            _report_error(address, error, opened, report)
        else:
            report.ok("listen", f"{address} is free")
    for listener in opened.values():
        listener.close()


def _report_error(
    address: Address, error: Exception, opened: Iterable[Address], report: Report
) -> None:
    is_in_use = isinstance(error, OSError) and error.errno == errno.EADDRINUSE
    rivals = []
    if is_in_use:
        rivals = [str(other) for other in opened if _overlap(address, other)]
    if rivals:
        report.fail(
            "listen",
            f"cannot listen on {address} as well as on {', '.join(rivals)}: they overlap; "
            "leave one of them out of http.listen",
            EXIT_CONFIG,
        )
    elif is_in_use:
        report.warn(
            "listen",
            f"{address} is in use, maybe by a worker that runs here; one more worker needs "
            "another http.listen, or port 0",
        )
    else:
        report.fail(
            "listen",
            f"cannot listen on {address}: {error}; set http.listen to an address of this "
            "machine",
            EXIT_CONFIG,
        )


def _overlap(one: Address, other: Address) -> bool:
    """Return True if a program cannot listen on both."""
    if one.port != other.port:
        return False
    for ip in _ips(one):
        for other_ip in _ips(other):
            is_same = ip == other_ip or ip.is_unspecified or other_ip.is_unspecified
            if ip.version == other_ip.version and is_same:
                return True
    return False


def _ips(address: Address) -> list[ipaddress.IPv4Address | ipaddress.IPv6Address]:
    found = socket.getaddrinfo(address.host, address.port, type=socket.SOCK_STREAM)
    return [ipaddress.ip_address(place[0]) for *_, place in found]


async def _listen(address: Address, *, is_alone: bool) -> _Closable:
    if is_alone and address.is_every_of_ipv6:
        return both_families_socket(address.port)
    loop = asyncio.get_running_loop()
    return await loop.create_server(asyncio.Protocol, address.host, address.port)
