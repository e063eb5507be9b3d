"""Look up known vulnerabilities of every pinned package: `python -m tests.support.audit`.

Reads requirements/dev.txt, which contains the packages of run.txt. Exits with 1 if a
vulnerability is known. If the database does not answer, completely or for some package,
prints so; `--strict` makes that a failure too. Other arguments go to pip-audit.
"""

from __future__ import annotations

import json
import subprocess
import sys
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Sequence

# --disable-pip: the pins are complete, so pip-audit need not resolve anything.
COMMAND = (
    "pip_audit",
    "--format=json",
    "--disable-pip",
    "--require-hashes",
    "--progress-spinner=off",
    "--timeout=10",
)

PINS = "requirements/dev.txt"


def main(arguments: Sequence[str]) -> int:
    passed_on = list(arguments)
    strict = "--strict" in passed_on
    if strict:
        passed_on.remove("--strict")

    # Its exit status is ignored: the report says more.
    command = [sys.executable, "-m", *COMMAND]
    command += ["-r", PINS, *passed_on]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    found = verdict(done.stdout, done.stderr)
    for line in found.lines:
        sys.stdout.write(f"audit: {line}\n")

    if found.vulnerable:
        return 1
    if strict and not found.complete:
        return 1
    return 0


class Verdict(NamedTuple):
    """The lines to print, and the facts that decide the exit status.

    `complete` means that every package was looked up.
    """

    lines: list[str]
    vulnerable: bool
    complete: bool


def verdict(report: str, complaint: str) -> Verdict:
    """Read pip-audit's report and its standard error."""
    packages: list[dict[str, Any]] = []
    try:
        packages = json.loads(report)["dependencies"]
    except (ValueError, KeyError):
        # Without a connection, the report is empty.
        packages = []
    if not packages:
        complaints = complaint.strip().splitlines() or ["no report"]
        reason = complaints[-1][:200]
        line = f"NOT DONE, nothing was looked up: {reason}"
        return Verdict([line], vulnerable=False, complete=False)

    lines = []
    skipped = []
    for package in packages:
        if "skip_reason" in package:
            skipped.append(package["name"])
        for found in package.get("vulns", ()):
            pinned = f"{package['name']} {package['version']}"
            fixed_in = ", ".join(found["fix_versions"]) or "none"
            lines.append(f"{pinned}: {found['id']}, fixed in {fixed_in}")

    vulnerable = bool(lines)
    if skipped:
        missed = f"{len(skipped)} of {len(packages)} packages"
        names = ", ".join(skipped[:5])
        lines.append(f"NOT DONE for {missed}, nothing is known of {names}, ...")
    elif not vulnerable:
        lines.append(f"nothing is known against {len(packages)} packages")
    return Verdict(lines, vulnerable, complete=not skipped)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
