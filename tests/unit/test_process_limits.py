"""A worker looks at its start if limits permit the threads and files of all shards."""

from __future__ import annotations

import resource

import pytest

from connector.config.load import load
from connector.errors import EXIT_CONFIG
from connector.tools.check_process import check_process
from connector.tools.report import Report

VARIABLES = {
    "GEX_UPSTREAM__API_KEY": "bq_live_" + "0" * 32,
    "GEX_SYMBOLS": "BTCUSDT",
    "GEX_KAFKA__SHARDS": "8",
}


def checked(capsys: pytest.CaptureFixture[str]) -> tuple[int, str]:
    """Return the exit status and the line that `check` prints."""
    report = Report()
    check_process(load(None, VARIABLES), report)
    return report.exit_code, capsys.readouterr().out


# Eight shards have 114 files open, with one broker.
def test_too_few_open_files_are_named_with_both_numbers(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(resource, "getrlimit", lambda _: (100, 110))

    code, line = checked(capsys)

    assert code == EXIT_CONFIG
    assert line.startswith("FAIL  process        a limit permits only 110 open files")
    assert "may need 124; raise the limit" in line


@pytest.mark.parametrize("hard", [124, 1024, resource.RLIM_INFINITY])
def test_enough_open_files_are_no_news(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], hard: int
) -> None:
    monkeypatch.setattr(resource, "getrlimit", lambda _: (100, hard))

    assert checked(capsys) == (
        0,
        "ok    process        threads and open files suffice for all shards\n",
    )
