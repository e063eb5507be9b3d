"""Install pinned packages with pip, and show on a terminal how many it has collected.

Usage: `.venv/bin/python requirements/install.py requirements/dev.txt`.
"""

import re
import subprocess
import sys
from pathlib import Path

PIP = [sys.executable, "-m", "pip", "--disable-pip-version-check", "install"]
# pip writes such a line for each package, before it installs them all at the end.
COLLECTED = ("Collecting ", "Requirement already satisfied: ", "Ignoring ")


def main(file: str) -> int:
    """Install the packages of a file. Return pip's exit status."""
    total = len(re.findall(r"^\S+==", Path(file).read_text("utf-8"), re.MULTILINE))
    print(f"installing {total} packages, which takes a minute or two ...", flush=True)
    command = [*PIP, "--require-hashes", "-r", file]
    collected = 0
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as pip:  # noqa: S603 -- pip
        for line in pip.stdout or ():
            if line.startswith(COLLECTED):
                collected += 1
                show(f"  {collected} of {total} packages collected")
            elif line.startswith("Installing collected packages"):
                show("  all packages collected; installing them", end="\n")
    return pip.returncode


def show(progress: str, end: str = "") -> None:
    """Replace the line of the terminal. Elsewhere, only the first line is written."""
    if sys.stdout.isatty():
        print(f"\r\x1b[K{progress}", end=end, flush=True)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
