"""Watches the tasks of a worker, and decides when and with which exit status it stops."""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING, TypeVar

from connector.errors import EXIT_FATAL, EXIT_RESTART, ConnectorError
from connector.runtime.threads import thread_fault

if TYPE_CHECKING:
    from collections.abc import Coroutine

_T = TypeVar("_T")
_log = logging.getLogger(__name__)


class Supervisor:
    """Stops the worker when it is asked to, or when one of its tasks fails."""

    def __init__(self) -> None:
        self.exit_code = 0
        self._stopping = asyncio.Event()
        self._tasks: set[asyncio.Task[None]] = set()

    @property
    def is_stopping(self) -> bool:
        """True once the worker has been asked to stop, or has failed."""
        return self._stopping.is_set()

    def stop(self) -> None:
        """Stop, as asked: the exit status is 0 unless something has failed."""
        self._stopping.set()

    def restart(self, reason: str) -> None:
        """Stop, so that the supervisor of the process starts it again."""
        if self.is_stopping:
            return
        _log.warning("ending, to be started again", extra={"reason": reason})
        self.exit_code = EXIT_RESTART
        self._stopping.set()

    def fail(self, reason: str, exit_code: int = EXIT_FATAL) -> None:
        """Stop because of an error that a retry cannot cure."""
        _log.critical("cannot go on", extra={"error": reason})
        self.exit_code = exit_code
        self._stopping.set()

    def fail_by_defect(self, reason: str, error: BaseException) -> None:
        """Stop because of an exception that nobody expects."""
        fault = thread_fault(error)
        if fault is not None:
            self.fail(fault)
            return
        _log.critical("a defect of the connector", exc_info=error)
        self.fail(f"{reason}: {type(error).__name__}: {error}")

    def watch(self, work: Coroutine[None, None, None]) -> asyncio.Task[None]:
        """Start a task that must not fail. If it does, the worker stops."""
        loop = asyncio.get_running_loop()
        task = loop.create_task(work)
        # The loop keeps only weak references to its tasks.
        self._tasks.add(task)
        task.add_done_callback(self._on_done)
        return task

    async def wait_stopped(self) -> None:
        """Wait until the worker is to stop."""
        await self._stopping.wait()

    async def until_stopped(self, work: Coroutine[None, None, _T]) -> _T | None:
        """Run a coroutine and return its result, or cancel it and return None on a stop."""
        loop = asyncio.get_running_loop()
        task = loop.create_task(work)
        stop = loop.create_task(self._stopping.wait())
        await asyncio.wait({task, stop}, return_when=asyncio.FIRST_COMPLETED)
        stop.cancel()
        # Prefer the result if both are done: it may be an error.
        if task.done():
            return task.result()
        task.cancel()
        return None

    def _on_done(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if task.cancelled():
            return
        error = task.exception()
        if isinstance(error, ConnectorError):
            self.fail(str(error), error.exit_code)
        elif error is not None:
            self.fail_by_defect("a task ended", error)
