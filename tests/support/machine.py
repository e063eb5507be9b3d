"""A machine with systemd, in a container."""

from __future__ import annotations

import contextlib
import subprocess
import uuid
from typing import TYPE_CHECKING

from tests.support.deployment import output
from tests.support.processes import start, wait_until

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.support.processes import Program

_SYSTEMD = "/usr/lib/systemd/systemd"


class Machine:
    """A machine that has started. It shares the network with this one."""

    def __init__(self, process_1: str) -> None:
        self._enter = ("nsenter", "--target", process_1, "--all")

    def ask(self, *command: str) -> str:
        """Run a command that must succeed, and return what it printed."""
        return output(*self._enter, *command)

    def status(self, *command: str) -> int:
        """Run a command, and return its exit status."""
        done = subprocess.run(
            [*self._enter, *command], capture_output=True, check=False
        )
        return done.returncode

    def properties(self, unit: str, *names: str) -> dict[str, str]:
        """Return properties of a unit."""
        text = self.ask("systemctl", "show", f"--property={','.join(names)}", unit)
        found = {}
        for line in text.splitlines():
            name, _, value = line.partition("=")
            found[name] = value
        return found

    def log(self, unit: str) -> str:
        """Return the journal of a unit."""
        return self.ask("journalctl", "--no-pager", "--unit", unit)


@contextlib.contextmanager
def started(folder: Path) -> Iterator[Machine]:
    """Start systemd on the files of a folder, and stop it at the end of the block."""
    command = [
        *("systemd-nspawn", "--quiet", f"--directory={folder}"),
        f"--machine=gex-{uuid.uuid4().hex[:8]}",
        # This machine need not run systemd.
        *("--register=no", "--keep-unit", "--console=pipe"),
        _SYSTEMD,
    ]
    with start(command) as nspawn:

        def process_1() -> str:
            return _child(nspawn, _SYSTEMD)

        machine = Machine(wait_until(process_1, "systemd is started", nspawn))

        def is_running() -> bool:
            return machine.status("systemctl", "is-system-running") == 0

        wait_until(is_running, "the machine is running", nspawn)
        yield machine
        nspawn.terminate()


def _child(program: Program, path: str) -> str:
    """Return the id of the child that runs a program, or an empty text."""
    pids = subprocess.run(
        ["pgrep", "--parent", str(program.pid), "--full", f"^{path}"],
        capture_output=True,
        text=True,
        check=False,
    )
    return pids.stdout.strip()
