"""Consumer programs, run as processes."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import IO, TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

_POLL_SECONDS: Final = 0.02


@dataclass(frozen=True, slots=True)
class Program:
    """A consumer program: a command to which a case adds its options."""

    name: str
    command: tuple[str, ...]


_EXAMPLE: Final = Path(__file__).parents[2] / "examples" / "consumer.py"
PYTHON: Final = Program("python", (sys.executable, str(_EXAMPLE), "--json"))


class Run:
    """A program that runs. `patience_seconds` bounds each wait for it."""

    def __init__(
        self,
        program: Program,
        options: Sequence[str],
        files: tuple[IO[bytes], IO[bytes]],
        patience_seconds: float,
    ) -> None:
        self.program = program
        self._output, self._errors = files
        self._patience_seconds = patience_seconds
        self._process = subprocess.Popen(
            [*program.command, *options],
            stdin=subprocess.DEVNULL,
            stdout=self._output,
            stderr=self._errors,
        )

    def lines(self) -> list[str]:
        """Return the complete lines of standard output so far."""
        text = _content(self._output)
        complete, _, _ = text.rpartition("\n")
        return complete.splitlines()

    def errors(self) -> str:
        """Return its standard error so far."""
        return _content(self._errors)

    def wait(self) -> int | None:
        """Wait until the process ends, and return its exit status. None: it does not end."""
        try:
            return self._process.wait(self._patience_seconds)
        except subprocess.TimeoutExpired:
            return None

    def wait_for(self, is_done: Callable[[list[str]], bool]) -> bool:
        """Wait until its lines are as expected. False if they are not, in the end."""
        deadline = time.monotonic() + self._patience_seconds
        while not is_done(self.lines()):
            if self._process.poll() is not None:
                # It may have printed just before it ended.
                return is_done(self.lines())
            if time.monotonic() > deadline:
                return False
            time.sleep(_POLL_SECONDS)
        return True

    def freeze(self) -> None:
        """Stop the process until `thaw`."""
        self._process.send_signal(signal.SIGSTOP)

    def thaw(self) -> None:
        """Let a frozen process continue."""
        self._process.send_signal(signal.SIGCONT)

    def kill(self) -> None:
        """End the process, if it has not ended."""
        self._process.kill()
        self._process.wait()


def _content(file: IO[bytes]) -> str:
    size = os.fstat(file.fileno()).st_size
    return os.pread(file.fileno(), size, 0).decode(errors="replace")


@contextlib.contextmanager
def running(
    program: Program, options: Sequence[str], patience_seconds: float
) -> Iterator[Run]:
    """Start a program, and kill it at the end of the block."""
    with tempfile.TemporaryFile() as output, tempfile.TemporaryFile() as errors:
        run = Run(program, options, (output, errors), patience_seconds)
        try:
            yield run
        finally:
            run.kill()
