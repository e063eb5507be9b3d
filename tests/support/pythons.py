"""Pythons to try a distribution with: the tests' own, and that of another Debian."""

from __future__ import annotations

import shutil
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from tests.support.deployment import ROOT, output

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

# Their programs look names up and verify certificates as this machine does.
_FILES_OF_THIS_MACHINE = (
    Path("/etc/hosts"),
    Path("/etc/resolv.conf"),
    Path("/etc/ssl/certs/ca-certificates.crt"),
)
_NEVER_READ = ("doc", "locale", "man")


@dataclass(frozen=True, slots=True)
class Python:
    """A Python with the packages that contract tests need, and a folder for its programs."""

    program: str
    # Where this machine finds the folder, and where the programs find it.
    folder: Path
    inside: Path
    # The command that runs another one in the folder.
    enter: tuple[str, ...]

    def output(self, *command: object, env: Mapping[str, str] | None = None) -> str:
        """Run a command that must succeed, and return its standard output."""
        return output(*self.enter, *command, env=env)

    def version(self) -> str:
        """Return the minor version, such as 3.13."""
        program = "import sys; print('%d.%d' % sys.version_info[:2])"
        return self.output(self.program, "-c", program).strip()


def own_python(folder: Path) -> Python:
    """Return the Python of the tests."""
    return Python(sys.executable, folder, folder, ("env", f"--chdir={folder}"))


def python_of_debian(suite: str, root: Path) -> Python:
    """Extract the Python of a Debian into an empty folder. Needs root and mmdebstrap."""
    # Packages are not configured: Python needs nothing more than its files.
    output(*mmdebstrap("extract", suite, root, ["base-files", "python3-venv"]))
    for file in _FILES_OF_THIS_MACHINE:
        if file.exists():
            copy = root / file.relative_to("/")
            copy.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(file, copy)

    inside = Path("/try")
    folder = root / "try"
    folder.mkdir()
    enter = ("unshare", "--mount", "--mount-proc", f"--root={root}", f"--wd={inside}")
    python = Python("/tools/bin/python", folder, inside, enter)
    python.output("/usr/bin/python3", "-m", "venv", "/tools")
    locked = shutil.copy(ROOT / "requirements" / "contract.txt", folder)
    pip = (python.program, "-m", "pip", "install", "--quiet", "--require-hashes")
    python.output(*pip, "-r", Path(locked).name)
    return python


def mmdebstrap(
    variant: str, suite: str, target: Path, packages: Sequence[str], *options: str
) -> list[str]:
    """Return the command that puts packages of a Debian into a folder or an archive."""
    excluded = []
    for folder in _NEVER_READ:
        excluded.append(f"--dpkgopt=path-exclude=/usr/share/{folder}/*")
    return [
        # Tests that run beside it wait for their own programs, and come first.
        *("nice", "-n", "5", "mmdebstrap", "--quiet", f"--variant={variant}"),
        f"--include={','.join(packages)}",
        '--aptopt=APT::Install-Recommends "false"',
        '--aptopt=Acquire::Retries "5"',
        "--dpkgopt=force-unsafe-io",
        *excluded,
        *options,
        *(suite, str(target)),
    ]
