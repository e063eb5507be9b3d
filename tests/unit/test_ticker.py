"""Calls that may block are made beside the event loop."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor

from connector.runtime.ticker import InBackground

PATIENCE_SECONDS = 60


def test_a_call_that_blocks_is_neither_awaited_nor_repeated() -> None:
    calls = threading.Semaphore(0)
    may_return = threading.Event()

    def call() -> None:
        calls.release()
        may_return.wait(PATIENCE_SECONDS)

    with ThreadPoolExecutor(4) as executor:
        in_background = InBackground(call, executor)
        in_background()
        assert calls.acquire(timeout=PATIENCE_SECONDS)
        in_background()
        in_background()
        may_return.set()
    # The executor has ended, so that every call has begun.
    assert not calls.acquire(blocking=False)


def test_a_call_is_made_again_once_the_previous_one_has_returned() -> None:
    calls = threading.Semaphore(0)
    with ThreadPoolExecutor(1) as executor:
        in_background = InBackground(calls.release, executor)
        for _ in range(2):
            in_background()
            assert calls.acquire(timeout=PATIENCE_SECONDS)
            # The only thread is free again.
            executor.submit(int).result(PATIENCE_SECONDS)
