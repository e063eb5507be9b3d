"""What an audit says: a vulnerability fails it, and not having looked is never taken for having found nothing."""

from __future__ import annotations

import json
from typing import Any

from tests.support.audit import verdict

CLEAN = {"name": "aiohttp", "version": "3.14.5", "vulns": []}
KNOWN = {
    "name": "h11",
    "version": "0.14.0",
    "vulns": [
        {"id": "PYSEC-1", "fix_versions": ["0.16.0"]},
        {"id": "PYSEC-2", "fix_versions": []},
    ],
}
UNKNOWN = {"name": "lz4", "skip_reason": "not found"}


def of(*packages: Any) -> tuple[list[str], bool, bool]:
    return verdict(json.dumps({"dependencies": packages, "fixes": []}), "")


def test_nothing_known_is_said_of_so_many() -> None:
    assert of(CLEAN, CLEAN) == (["nothing is known against 2 packages"], False, True)


def test_each_vulnerability_is_named_with_the_version_that_mends_it() -> None:
    assert of(CLEAN, KNOWN) == (
        ["h11 0.14.0: PYSEC-1, fixed in 0.16.0", "h11 0.14.0: PYSEC-2, fixed in none"],
        True,
        True,
    )


def test_a_package_that_was_not_looked_up_is_said_and_hides_no_vulnerability() -> None:
    lines, known, looked = of(CLEAN, UNKNOWN, KNOWN)
    assert (known, looked) == (True, False)
    assert len(lines) == 3
    assert lines[-1].startswith("NOT DONE for 1 of 3 packages, nothing is known of lz4")


def test_a_database_that_does_not_answer_is_not_done() -> None:
    for report in ("", "{}", "no json", json.dumps({"dependencies": []})):
        lines, known, looked = verdict(report, "Traceback\nConnectionError: no route")
        assert (len(lines), known, looked) == (1, False, False)
    assert verdict("", "x\nno route")[0] == [
        "NOT DONE, nothing was looked up: no route"
    ]
