"""`gex-connector` on a machine whose name server never answers.

Names that end in `.invalid` are looked up for as long as the process lives.
"""

from __future__ import annotations

import socket
import threading
from typing import Any

from connector import cli

_look_up = socket.getaddrinfo


def _hang(host: Any, *arguments: Any, **options: Any) -> Any:
    if isinstance(host, str) and host.endswith(".invalid"):
        threading.Event().wait()
    return _look_up(host, *arguments, **options)


if __name__ == "__main__":
    socket.getaddrinfo = _hang
    cli.main()
