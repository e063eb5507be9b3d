"""A viewer of every worker's status page. A look must never harm a worker."""

from __future__ import annotations

import threading
import time
from concurrent.futures import ThreadPoolExecutor
from http.client import HTTPException
from typing import TYPE_CHECKING, Self

from tests.chaos.fleet import Fleet, Life, is_frozen

if TYPE_CHECKING:
    from concurrent.futures import Future

_PAUSE_SECONDS = 1.0
# A loaded machine, a start or a freeze that has just ended explains a shorter silence.
_SILENT_SECONDS = 180.0


class Viewer:
    """Asks every worker for `/api/status` about once a second, in a thread of its own."""

    def __init__(self, fleet: Fleet) -> None:
        self._fleet = fleet
        self._stopped = threading.Event()
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="viewer")
        self._looking: Future[None] | None = None
        self._silent_since: dict[int, float] = {}
        self.answers = 0
        self.complaints: list[str] = []

    def __enter__(self) -> Self:
        self._looking = self._thread.submit(self._look)
        return self

    def __exit__(self, *_: object) -> None:
        self._stopped.set()
        self._thread.shutdown()
        # Raise the error of the thread, if it has ended by one.
        if self._looking is not None:
            self._looking.result()

    def _look(self) -> None:
        while not self._stopped.wait(_PAUSE_SECONDS):
            for life in self._fleet.running():
                self._look_at(life)

    def _look_at(self, life: Life) -> None:
        if is_frozen(life) or life.is_stuck:
            self._silent_since.pop(life.program.pid, None)
        elif _has_answered(life):
            self.answers += 1
            self._silent_since.pop(life.program.pid, None)
        elif life.program.running:
            self._note_silence(life)

    def _note_silence(self, life: Life) -> None:
        since = self._silent_since.setdefault(life.program.pid, time.monotonic())
        if time.monotonic() - since > _SILENT_SECONDS:
            self.complaints.append(
                f"slot {life.slot} ran and did not answer /api/status "
                f"for {_SILENT_SECONDS:g} s"
            )
            del self._silent_since[life.program.pid]


def _has_answered(life: Life) -> bool:
    try:
        life.program.ask("/api/status")
    except (OSError, HTTPException):
        return False
    return True
