"""`gex-connector health`: ask the worker of this machine if it is alive, or ready."""

from __future__ import annotations

import http.client
import os
import sys
from http import HTTPStatus
from typing import TYPE_CHECKING, Final

from connector.config.load import load_http
from connector.config.secrets import printable
from connector.errors import UsageError
from connector.tools.report import EXIT_OTHER

if TYPE_CHECKING:
    import argparse

    from connector.config.listen import Address

_TIMEOUT_SECONDS: Final = 4.0

_LOOPBACK: Final = "127.0.0.1"
_LOOPBACK_IPV6: Final = "::1"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options of the command."""
    parser.add_argument(
        "--ready",
        action="store_true",
        help="ask if it is ready, instead of alive",
    )


def run(options: argparse.Namespace) -> int:
    """Return 0 if the worker answers that it is well, else print why not and return 1.

    Raises:
        ConfigError: The configuration is invalid.
        UsageError: The worker chose its port itself.
    """
    settings = load_http(options.config, os.environ)
    # A worker serves the same on all of its addresses.
    address, *_ = settings.addresses
    if address.port == 0:
        raise UsageError(
            f"health: http.listen is {settings.listen}, and only the log has the port "
            "that was chosen; set a port"
        )
    path = "/health/ready" if options.ready else "/health/live"
    problem = _problem(address, path)
    if problem is None:
        return 0
    sys.stderr.write(f"{printable(problem)}\n")
    return EXIT_OTHER


def _problem(address: Address, path: str) -> str | None:
    """Return why the worker is not well, or None if it is."""
    errors = []
    for host in _hosts(address):
        connection = http.client.HTTPConnection(
            host, address.port, timeout=_TIMEOUT_SECONDS
        )
        try:
            connection.request("GET", path)
            with connection.getresponse() as response:
                answer = response.read().decode(errors="replace")
        except (OSError, ValueError, http.client.HTTPException) as error:
            errors.append(f"no worker answers on {host}, port {address.port}: {error}")
            continue
        finally:
            connection.close()
        return None if response.status == HTTPStatus.OK else answer
    return "; ".join(errors)


def _hosts(address: Address) -> tuple[str, ...]:
    """Return the hosts to try."""
    if address.is_every_of_ipv6:
        # Which of them answers depends on the other addresses and on the kernel.
        return (_LOOPBACK, _LOOPBACK_IPV6)
    if address.is_every:
        return (_LOOPBACK,)
    return (address.host,)
