"""Look up known vulnerabilities of every pinned package: `python -m tests.support.audit`.

Reads requirements/dev.txt, which contains the packages of run.txt. Exits with 1 if a
vulnerability is known. If the database does not answer, completely or for some package,
prints so; `--strict` makes that a failure too. Other arguments go to pip-audit.
"""

from __future__ import annotations

import json
import subprocess
import sys
from typing import TYPE_CHECKING, Any

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
    command = [sys.executable, "-m", *COMMAND, "-r", PINS, *passed_on]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    lines, vulnerable, complete = verdict(done.stdout, done.stderr)
    for line in lines:
        sys.stdout.write(f"audit: {line}\n")
    failed = vulnerable or (strict and not complete)
    return int(failed)


def verdict(report: str, complaint: str) -> tuple[list[str], bool, bool]:
    """Read pip-audit's report and its standard error.

    Returns the lines to print, whether a vulnerability is known, and whether every package
    was looked up.
    """
    try:
        packages: list[dict[str, Any]] = json.loads(report)["dependencies"]
    except (ValueError, KeyError):
        packages = []
    if not packages:
        complaints = complaint.strip().splitlines() or ["no report"]
        reason = complaints[-1][:200]
        return [f"NOT DONE, nothing was looked up: {reason}"], False, False
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
    return lines, vulnerable, not skipped


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
