"""The check that a process may start the threads that it will need."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING

import pytest

from connector.errors import ConfigError
from connector.runtime import threads
from connector.runtime.threads import (
    compare_threads,
    require_threads,
    thread_fault,
)

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture
def cgroups(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return an empty folder in the place of the system's cgroups. The user has no limit."""
    monkeypatch.setattr(threads, "_CGROUPS", tmp_path / "cgroup")
    monkeypatch.setattr(threads, "_OWN_CGROUPS", tmp_path / "own")
    monkeypatch.setattr(threads, "_limits_of_user", list)
    return tmp_path


def set_limit(cgroups: Path, folder: str, limit: str) -> None:
    path = cgroups / "cgroup" / folder
    path.mkdir(parents=True, exist_ok=True)
    (path / "pids.max").write_text(f"{limit}\n")


def test_threads_that_a_process_may_start_are_no_fault_and_end(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    started: list[threading.Thread] = []
    start = threading.Thread.start

    def start_and_record(thread: threading.Thread) -> None:
        started.append(thread)
        start(thread)

    monkeypatch.setattr(threading.Thread, "start", start_and_record)
    require_threads(20)
    assert len(started) == 20
    assert not any(thread.is_alive() for thread in started)


def test_too_few_threads_are_a_fault_that_names_both_numbers(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    started: list[threading.Thread] = []
    start = threading.Thread.start

    def start_one_of_five(thread: threading.Thread) -> None:
        if len(started) == 5:
            raise RuntimeError("can't start new thread")
        started.append(thread)
        start(thread)

    monkeypatch.setattr(threading.Thread, "start", start_one_of_five)
    with pytest.raises(ConfigError, match=r"permits only 5 more .* may need 39;"):
        require_threads(39)
    assert not any(thread.is_alive() for thread in started)


V2 = "0::/system.slice/gex.service\n"
V1 = "9:name=systemd:/\n8:pids:/docker/f00\n7:cpu,cpuacct:/docker/f00\n0::/\n"


@pytest.mark.parametrize(
    ("own", "limited"),
    [
        (V2, "system.slice/gex.service"),
        # The limit of a cgroup holds for those below it, too.
        (V2, "system.slice"),
        # A container of version 2 sees its own cgroup as the root.
        ("0::/\n", ""),
        (V1, "pids/docker/f00"),
        (V1, "pids/docker"),
        # A container of version 1 may see the path of its host.
        (V1, "pids"),
    ],
)
def test_the_limits_of_both_versions_of_cgroups_are_compared(
    cgroups: Path, own: str, limited: str
) -> None:
    (cgroups / "own").write_text(own)
    set_limit(cgroups, limited, "30")

    compare_threads(30)
    with pytest.raises(
        ConfigError, match=r"only 30 threads \(.*pids.max\), .* need 31;"
    ):
        compare_threads(31)


def test_cgroups_without_a_limit_are_no_fault(cgroups: Path) -> None:
    compare_threads(1_000_000)
    (cgroups / "own").write_text(V1)
    set_limit(cgroups, "pids/docker/f00", "max")
    # That of another controller.
    set_limit(cgroups, "cpu,cpuacct/docker/f00", "1")
    compare_threads(1_000_000)


def test_a_thread_that_cannot_be_started_names_limit_and_remedy(cgroups: Path) -> None:
    error = RuntimeError("can't start new thread")
    without_limit = thread_fault(error)
    assert without_limit is not None
    assert "TasksMax" in without_limit

    (cgroups / "own").write_text(V2)
    set_limit(cgroups, "system.slice/gex.service", "30")
    fault = thread_fault(error)
    assert fault is not None
    assert "gex.service/pids.max is 30" in fault

    # As a group of tasks raises it.
    assert thread_fault(ExceptionGroup("polling", [error, error])) == fault

    assert thread_fault(RuntimeError("something else")) is None
    assert thread_fault(ExceptionGroup("polling", [error, ValueError()])) is None
    assert thread_fault(ValueError("can't start new thread")) is None
