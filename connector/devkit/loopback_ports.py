"""Loopback ports for local servers, never the same port for two processes."""

from __future__ import annotations

import contextlib
import fcntl
import functools
import os
import secrets
import socket
from typing import TYPE_CHECKING, Final

from connector.devkit.jars import cache_folder
from connector.errors import KafkaUnavailable

if TYPE_CHECKING:
    from pathlib import Path

LOOPBACK: Final = "127.0.0.1"

# Below Linux's ephemeral range (32768-60999). An outgoing connection can then not take the
# port while the server is down, and a client that retries cannot connect to itself.
_PORTS: Final = range(20000, 32000)


def is_free(port: int) -> bool:
    """Return True if a server could listen on this loopback port now."""
    with socket.socket() as probe, contextlib.suppress(OSError):
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        probe.bind((LOOPBACK, port))
        return True
    return False


class PortClaims:
    """Ports that belong to this process until it ends.

    A server takes seconds to listen on the port that was chosen for it, and is down while
    it restarts. Meanwhile the port looks free to other processes, such as those that run
    the other test files. So each claim locks one byte of a common file: the byte at the
    port's number. The kernel releases the locks when the process ends.
    """

    def __init__(self, path: Path) -> None:
        """Use the file `path`, which is made when the first port is claimed."""
        self._path = path
        self._file: int | None = None
        # POSIX locks exclude other processes only.
        self._claimed: set[int] = set()

    def claim(self, ports: range) -> int:
        """Claim and return a random port that is free.

        Raises:
            KafkaUnavailable: if each of them is in use, or belongs to some process.
        """
        # In random order, since other processes try the same ports at the same time.
        for port in secrets.SystemRandom().sample(ports, len(ports)):
            if port in self._claimed or not self._lock(port):
                continue
            # Also if it is in use now, so that it is not tried again.
            self._claimed.add(port)
            if is_free(port):
                return port
        raise KafkaUnavailable(
            f"no free port from {ports.start} to {ports.stop - 1} of {LOOPBACK}: "
            "stop programs that listen there"
        )

    def _lock(self, port: int) -> bool:
        """Lock the port's byte. Return False if another process has."""
        try:
            if self._file is None:
                self._file = self._open()
        except OSError:
            # Whoever needs the folder reports that it cannot be used. A port is then only
            # likely to be free.
            return True
        try:
            fcntl.lockf(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB, 1, port)
        except OSError:
            return False
        return True

    def _open(self) -> int:
        self._path.parent.mkdir(parents=True, exist_ok=True)
        flags = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW
        return os.open(self._path, flags, 0o600)


@functools.cache
def _claims() -> PortClaims:
    # In the user's cache: temporary folders differ between processes, and are left empty.
    return PortClaims(cache_folder() / "ports.lock")


def free_port() -> int:
    """Return a free loopback port. No other process gets it while this one runs."""
    return _claims().claim(_PORTS)


def usual_port(port: int) -> int:
    """Return this loopback port, or a free one if a program or process has it."""
    try:
        return _claims().claim(range(port, port + 1))
    except KafkaUnavailable:
        return free_port()
