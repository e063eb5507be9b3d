"""Tells systemd about the worker (`Type=notify`), as sd_notify(3) describes."""

from __future__ import annotations

import socket
from contextlib import suppress
from typing import TYPE_CHECKING, Final

from connector.config.secrets import printable

if TYPE_CHECKING:
    from connector.runtime.health import Health

_READY: Final = "ready"


class ServiceManager:
    """Sends the state of the worker to systemd, or to nobody if systemd did not start it."""

    def __init__(self, address: str | None, health: Health) -> None:
        """`address` is the content of NOTIFY_SOCKET: a path, or a name that begins with @."""
        self._health = health
        self._status = ""
        self._address = address or ""
        if self._address.startswith("@"):
            # Linux spells an abstract name with a null byte.
            self._address = "\0" + self._address[1:]

    def started(self) -> None:
        """Report that the start is over. From now on systemd expects a report a minute."""
        self._send("READY=1")

    def tick(self) -> None:
        """Report that the worker lives, unless it has stalled, and if it is ready."""
        if not self._address:
            return
        if not self._health.why_not_live():
            self._send("WATCHDOG=1")
        status = "; ".join(self._health.why_not_ready()) or _READY
        if status != self._status:
            self._status = status
            # A line break would begin another report.
            self._send(f"STATUS={printable(status)}")

    def stopping(self) -> None:
        """Report that the worker stops because it was asked to, or has failed."""
        self._send("STOPPING=1")

    def _send(self, assignment: str) -> None:
        if not self._address:
            return
        # Without systemd, or without a free descriptor, there is nobody to tell.
        with (
            suppress(OSError),
            socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sender,
        ):
            # Never wait for systemd.
            sender.setblocking(False)
            sender.sendto(assignment.encode(errors="replace"), self._address)
