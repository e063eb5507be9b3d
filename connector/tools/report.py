"""Findings of `gex-connector check`: printed as they come, or as JSON at the end."""

from __future__ import annotations

import sys
from typing import Final

import msgspec

from connector.config.secrets import printable, redact
from connector.errors import EXIT_CONFIG, EXIT_FATAL, EXIT_KAFKA

EXIT_OTHER: Final = 1

# A worker reads its configuration first, then connects to Kafka, then restores. The exit
# status of `check` is that of the first failure which a worker would meet.
_EXIT_ORDER: Final = (EXIT_CONFIG, EXIT_KAFKA, EXIT_FATAL, EXIT_OTHER)


class Report:
    """Print findings and remember which failed. Known secrets are masked.

    With `as_json`, nothing is printed before the end: one object then has all findings.
    """

    def __init__(self, *, as_json: bool = False) -> None:
        self.secrets: tuple[str, ...] = ()
        self._as_json = as_json
        self._findings: list[dict[str, str]] = []
        self._failed: set[int] = set()

    @property
    def exit_code(self) -> int:
        """Return 0 if nothing failed, else the status a worker would end with."""
        for code in _EXIT_ORDER:
            if code in self._failed:
                return code
        return 0

    def ok(self, item: str, finding: str) -> None:
        """Report that a worker will find this as it should be."""
        self._print("ok", item, finding)

    def warn(self, item: str, finding: str) -> None:
        """Report a problem that a worker can run with, or a check that was not made."""
        self._print("warn", item, finding)

    def fail(self, item: str, finding: str, exit_code: int = EXIT_OTHER) -> None:
        """Report a problem that ends a worker, or keeps it from publishing."""
        self._failed.add(exit_code)
        self._print("FAIL", item, finding)

    def end(self, requests_sent: int) -> None:
        """Print the last line, or all of the report as JSON."""
        if self._as_json:
            report = {
                "exit_status": self.exit_code,
                "requests_sent": requests_sent,
                "findings": self._findings,
            }
            text = msgspec.json.encode(report).decode()
        else:
            text = f"{requests_sent} request(s) sent upstream; nothing was changed"
        sys.stdout.write(f"{text}\n")
        sys.stdout.flush()

    def _print(self, mark: str, item: str, finding: str) -> None:
        for line in finding.splitlines():
            text = printable(redact(line, self.secrets))
            if self._as_json:
                found = {"result": mark.lower(), "item": item, "finding": text}
                self._findings.append(found)
            else:
                sys.stdout.write(f"{mark:<4}  {item:<13}  {text}\n")
        sys.stdout.flush()
