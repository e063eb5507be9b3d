"""Notices, from another thread, that the event loop is stuck in a call."""

from __future__ import annotations

import logging
import os
import sys
import threading
import time
import traceback
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Final

from connector.errors import EXIT_FATAL

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Callable

_log = logging.getLogger(__name__)

# Far longer than any call of ours, also on a loaded machine.
STALL_SECONDS: Final = 10
# A loop that is stuck for so long does not come back. A supervisor restarts the process.
HOPELESS_SECONDS: Final = 60

# A frozen process or machine stops the watching thread as well. Its sleep is not counted.
_MAX_STEP_SECONDS: Final = 1.0
# The innermost calls of the event loop's thread, as shown in the log.
_SHOWN_CALLS: Final = 8


class LoopWatch:
    """Asks the event loop for a sign of life. Create it on the loop.

    `look` is called from one other thread, all the time.
    """

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        clock: Callable[[], float] = time.monotonic,
        end_process: Callable[[], None] | None = None,
    ) -> None:
        self.has_stalled = False
        """True while the loop has given no sign of life for STALL_SECONDS."""
        self._loop = loop
        self._loop_thread = threading.get_ident()
        self._clock = clock
        self._end_process = end_process or _end_process
        self._answered = threading.Event()
        self._answered.set()
        self._looked_at = clock()
        self._silent_seconds = 0.0

    def look(self) -> bool:
        """Return False if the event loop is stuck. End the process if it stays so."""
        if self._loop.is_closed():
            # The worker has ended, and this thread will soon.
            return True
        now = self._clock()
        step_seconds = min(now - self._looked_at, _MAX_STEP_SECONDS)
        self._looked_at = now
        if self._answered.is_set():
            self._ask_again()
            return True

        self._silent_seconds += step_seconds
        if self._silent_seconds >= STALL_SECONDS and not self.has_stalled:
            self.has_stalled = True
            fields = {"stuck_in": self._stuck_in()}
            _log.critical("the event loop is stuck; leaving the group", extra=fields)
        if self._silent_seconds >= HOPELESS_SECONDS:
            _log.critical("the event loop stays stuck; ending the process")
            self._end_process()
        return not self.has_stalled

    def _ask_again(self) -> None:
        if self.has_stalled:
            fields = {"seconds": round(self._silent_seconds, 1)}
            _log.warning("the event loop goes on", extra=fields)
        self.has_stalled = False
        self._silent_seconds = 0.0
        self._answered.clear()
        # The loop may be closed at any moment.
        with suppress(RuntimeError):
            self._loop.call_soon_threadsafe(self._answered.set)

    def _stuck_in(self) -> str:
        """Return the innermost calls of the loop's thread, the last one first."""
        frame = sys._current_frames().get(self._loop_thread)  # noqa: SLF001 -- documented
        calls = []
        for call in reversed(traceback.extract_stack(frame, _SHOWN_CALLS)):
            calls.append(f"{Path(call.filename).name}:{call.lineno} {call.name}")
        return " < ".join(calls)


def _end_process() -> None:
    # Write the log first: `os._exit` flushes nothing.
    logging.shutdown()
    os._exit(EXIT_FATAL)
