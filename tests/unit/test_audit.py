"""The audit fails for a vulnerability, and never passes a look-up that was not made."""

from __future__ import annotations

import json
from typing import Any

import pytest

from tests.support.audit import verdict

CLEAN = {"name": "aiohttp", "version": "3.14.5", "vulns": []}
VULNERABLE = {
    "name": "h11",
    "version": "0.14.0",
    "vulns": [
        {"id": "PYSEC-1", "fix_versions": ["0.16.0"]},
        {"id": "PYSEC-2", "fix_versions": []},
    ],
}
# pip-audit reports a package as skipped if its database did not answer for it.
SKIPPED = {"name": "lz4", "skip_reason": "not found"}


def audit(*packages: Any) -> tuple[list[str], bool, bool]:
    """Return the lines, whether a vulnerability is known, and whether all were looked up."""
    report = {"dependencies": packages, "fixes": []}
    return verdict(json.dumps(report), "")


def test_a_clean_audit_says_how_many_packages_were_looked_up() -> None:
    lines, is_vulnerable, is_complete = audit(CLEAN, CLEAN)

    assert lines == ["nothing is known against 2 packages"]
    assert not is_vulnerable
    assert is_complete


def test_each_vulnerability_is_named_with_the_version_that_fixes_it() -> None:
    lines, is_vulnerable, is_complete = audit(CLEAN, VULNERABLE)

    assert lines == [
        "h11 0.14.0: PYSEC-1, fixed in 0.16.0",
        "h11 0.14.0: PYSEC-2, fixed in none",
    ]
    assert is_vulnerable
    assert is_complete


def test_a_skipped_package_is_named_and_hides_no_vulnerability() -> None:
    lines, is_vulnerable, is_complete = audit(CLEAN, SKIPPED, VULNERABLE)

    assert is_vulnerable
    assert not is_complete
    # Two vulnerabilities, and the line about the skipped package at the end.
    assert len(lines) == 3
    incomplete = "NOT DONE for 1 of 3 packages, nothing is known of lz4"
    assert lines[-1].startswith(incomplete)


# Nothing was looked up, so this is no clean audit.
NO_PACKAGES = json.dumps({"dependencies": []})


@pytest.mark.parametrize("report", ["", "{}", "no json", NO_PACKAGES])
def test_an_audit_without_a_usable_report_is_not_done(report: str) -> None:
    error = "Traceback\nConnectionError: no route"

    lines, is_vulnerable, is_complete = verdict(report, error)

    assert len(lines) == 1
    assert not is_vulnerable
    assert not is_complete


def test_an_audit_that_was_not_done_quotes_the_last_line_of_the_error() -> None:
    # The last line of a Python traceback is the one with the reason.
    error = "x\nno route"

    lines, _, _ = verdict("", error)

    assert lines == ["NOT DONE, nothing was looked up: no route"]
