"""Check of `gex-connector check` that a worker can listen on `http.listen`."""

from __future__ import annotations

import asyncio
import errno
from typing import TYPE_CHECKING

from connector.errors import EXIT_CONFIG
from connector.web.server import both_families_socket

if TYPE_CHECKING:
    from connector.config.listen import Address
    from connector.config.model import Http
    from connector.tools.report import Report


async def check_listen(http: Http, report: Report) -> None:
    """Bind every address as a worker does, but accept no connections."""
    is_alone = len(http.addresses) == 1
    for address in http.addresses:
        try:
            await _bind(address, is_alone=is_alone)
        except (OSError, UnicodeError) as error:  # the latter for a name like "a..b"
            if isinstance(error, OSError) and error.errno == errno.EADDRINUSE:
                report.warn(
                    "listen",
                    f"{address} is in use, maybe by a worker that runs here; one more "
                    "worker needs another http.listen, or port 0",
                )
                continue
            report.fail(
                "listen",
                f"cannot listen on {address}: {error}; set http.listen to an address "
                "of this machine",
                EXIT_CONFIG,
            )
            continue
        report.ok("listen", f"{address} is free")


async def _bind(address: Address, *, is_alone: bool) -> None:
    if is_alone and address.is_every_of_ipv6:
        both_families_socket(address.port).close()
        return
    loop = asyncio.get_running_loop()
    server = await loop.create_server(
        asyncio.Protocol, address.host, address.port, start_serving=False
    )
    server.close()
