"""A worker looks at its start if limits permit the threads and files of all shards."""

from __future__ import annotations

import resource
import threading
from typing import TYPE_CHECKING

import pytest

from connector.config.load import load
from connector.errors import EXIT_CONFIG
from connector.runtime import process_limits, threads
from connector.tools.check_process import check_process
from connector.tools.report import Report

if TYPE_CHECKING:
    from pathlib import Path

VARIABLES = {
    "GEX_UPSTREAM__API_KEY": "bq_live_" + "0" * 32,
    "GEX_SYMBOLS": "BTCUSDT",
    "GEX_KAFKA__SHARDS": "8",
}


@pytest.fixture(autouse=True)
def no_container(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Ignore the limits under which the tests run."""
    monkeypatch.setattr(threads, "_CGROUPS", tmp_path)
    monkeypatch.setattr(threads, "_limits_of_user", list)


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


def test_check_starts_no_threads_beside_a_worker(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def start(_: threading.Thread) -> None:
        pytest.fail("a thread was started")

    monkeypatch.setattr(threading.Thread, "start", start)

    code, _ = checked(capsys)

    assert code == 0


def test_too_small_a_limit_of_threads_is_named_with_both_numbers(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    limit = threads._Limit(60, "`ulimit -u`")
    monkeypatch.setattr(threads, "_limits_of_user", lambda: [limit])

    code, line = checked(capsys)

    assert code == EXIT_CONFIG
    assert "a limit permits only 60 threads (`ulimit -u`), but a worker" in line


def test_every_client_and_executor_is_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    counts: list[int] = []
    monkeypatch.setattr(process_limits, "require_threads", counts.append)
    monkeypatch.setattr(process_limits.os, "cpu_count", lambda: 2)

    process_limits.require_process_limits(load(None, VARIABLES))

    # With one broker, each of 8 shards and 12 other clients has four threads. 18 wait for
    # calls, 6 are asyncio's own, and there are 3 others.
    assert counts == [20 * 4 + 18 + 6 + 3]
