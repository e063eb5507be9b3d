"""The answers to the liveness and readiness probes. Pure: both clocks are passed in."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable


@dataclass(slots=True)
class _Loop:
    """The last progress of a loop, on the monotonic and on the wall clock."""

    limit_seconds: float
    monotonic_at: float
    at: int


class Health:
    """Liveness and readiness. Every method may be called from any thread.

    Live means that each registered loop made progress within its own limit, and nothing
    else: trouble outside this process (upstream, key, Kafka) must never get it killed.
    Ready means that every required check has nothing to object. Until the first check is
    required the worker is starting.
    """

    def __init__(self, monotonic: Callable[[], float], wall: Callable[[], int]) -> None:
        """`monotonic` returns seconds, `wall` microseconds since the Unix epoch."""
        self._monotonic = monotonic
        self._wall = wall
        self._loops: dict[str, _Loop] = {}
        self._checks: list[Callable[[], Iterable[str]]] = []

    def register(self, loop: str, limit_seconds: float) -> None:
        """Expect progress of a loop at least every `limit_seconds`."""
        self._loops[loop] = _Loop(limit_seconds, self._monotonic(), self._wall())

    def unregister(self, loop: str) -> None:
        """Expect no more progress: the loop has ended as it should."""
        self._loops.pop(loop, None)

    def progress(self, loop: str) -> None:
        """Note that a loop did something, or woke up with nothing to do.

        Ignored if the loop is not registered, since one that ends may report once more.
        """
        found = self._loops.get(loop)
        if found is not None:
            found.monotonic_at = self._monotonic()
            found.at = self._wall()

    def require(self, check: Callable[[], Iterable[str]]) -> None:
        """Be ready only while `check()` returns no reason against it."""
        self._checks.append(check)

    def why_not_live(self) -> list[str]:
        """Return the loops that have stalled. The worker is live if there are none."""
        now = self._monotonic()
        reasons = []
        # A copy, since other threads register and unregister loops meanwhile.
        for name, loop in self._loops.copy().items():
            silent_seconds = now - loop.monotonic_at
            if silent_seconds > loop.limit_seconds:
                reasons.append(
                    f"loop {name} has made no progress for {silent_seconds:.1f} s, "
                    f"its limit is {loop.limit_seconds:g} s"
                )
        return reasons

    def why_not_ready(self) -> list[str]:
        """Return the reasons of every check. The worker is ready if there are none."""
        if not self._checks:
            return ["starting"]
        reasons: list[str] = []
        for check in self._checks:
            reasons += check()
        return reasons

    def progressed_at(self) -> dict[str, int]:
        """Return when each loop last made progress (microseconds since the epoch)."""
        progressed_at = {}
        for name, loop in self._loops.copy().items():
            progressed_at[name] = loop.at
        return progressed_at
