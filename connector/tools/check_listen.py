"""Check of `gex-connector check` that a worker can listen on `http.listen`."""

from __future__ import annotations

import asyncio
import errno
from typing import TYPE_CHECKING

from connector.errors import EXIT_CONFIG

if TYPE_CHECKING:
    from connector.config.model import Http
    from connector.tools.report import Report


async def check_listen(http: Http, report: Report) -> None:
    """Bind the address as a worker does, but accept no connections."""
    loop = asyncio.get_running_loop()
    try:
        server = await loop.create_server(
            asyncio.Protocol, http.host, http.port, start_serving=False
        )
    except (OSError, UnicodeError) as error:  # the latter for a name like "a..b"
        if isinstance(error, OSError) and error.errno == errno.EADDRINUSE:
            report.warn(
                "listen",
                f"{http.listen} is in use, maybe by a worker that runs here; one more "
                "worker needs another http.listen, or port 0",
            )
            return
        report.fail(
            "listen",
            f"cannot listen on {http.listen}: {error}; set http.listen to an address "
            "of this machine",
            EXIT_CONFIG,
        )
        return
    server.close()
    report.ok("listen", f"{http.listen} is free")
