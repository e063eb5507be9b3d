"""Known vulnerabilities in what requirements/dev.txt pins, run.txt among it: `python -m tests.support.audit`.

Fails where one is known. Where the database of them does not answer, or not for a package, it says so in words, and
fails with `--strict`: not to have looked is not to have found nothing. Other arguments go to pip-audit.
"""

from __future__ import annotations

import json
import subprocess
import sys
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Sequence

COMMAND = (
    "pip_audit",
    "--format=json",
    "--disable-pip",
    "--require-hashes",
    "--progress-spinner=off",
    "--timeout=10",
)
"""--disable-pip: the pins are complete, so nothing is resolved or fetched but what is known of each."""

PINS = "requirements/dev.txt"


def main(arguments: Sequence[str]) -> int:
    given = [argument for argument in arguments if argument != "--strict"]
    command = [sys.executable, "-m", *COMMAND, "-r", PINS, *given]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    lines, known, looked = verdict(done.stdout, done.stderr)
    sys.stdout.write("".join(f"audit: {line}\n" for line in lines))
    return 1 if known or ("--strict" in arguments and not looked) else 0


def verdict(report: str, complaint: str) -> tuple[list[str], bool, bool]:
    """What to say of pip-audit's report, whether anything is known, and whether every package was looked up."""
    try:
        packages: list[dict[str, Any]] = json.loads(report)["dependencies"]
    except (ValueError, KeyError):
        packages = []
    if not packages:
        why = (complaint.strip().splitlines() or ["no report"])[-1][:200]
        return [f"NOT DONE, nothing was looked up: {why}"], False, False
    skipped = [package["name"] for package in packages if "skip_reason" in package]
    lines = [
        f"{package['name']} {package['version']}: {found['id']}, fixed in {', '.join(found['fix_versions']) or 'none'}"
        for package in packages
        for found in package.get("vulns", ())
    ]
    known = bool(lines)
    if skipped:
        named = ", ".join(skipped[:5])
        lines.append(
            f"NOT DONE for {len(skipped)} of {len(packages)} packages, nothing is known of {named}, ..."
        )
    elif not known:
        lines.append(f"nothing is known against {len(packages)} packages")
    return lines, known, not skipped


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
