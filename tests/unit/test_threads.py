"""The check that a process may start the threads that it will need."""

from __future__ import annotations

import threading

import pytest

from connector.errors import ConfigError
from connector.runtime.threads import require_threads


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
