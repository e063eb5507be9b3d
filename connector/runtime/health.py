"""Alive and ready, and if not, why. Pure: both clocks are passed in."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable


@dataclass(slots=True)
class _Loop:
    limit_seconds: float
    monotonic_at: float
    at: int


class Health:
    """What the probes ask. Every method may be called from any thread.

    Live means that each registered loop made progress within its own limit, and nothing else: what is outside
    this process (upstream, key, Kafka) must never get it killed. Ready means that every check that is required
    has nothing to say; before the first one is required, the worker is starting.
    """

    def __init__(self, monotonic: Callable[[], float], wall: Callable[[], int]) -> None:
        """`monotonic` in seconds, `wall` in microseconds since the Unix epoch."""
        self._monotonic = monotonic
        self._wall = wall
        self._loops: dict[str, _Loop] = {}
        self._checks: list[Callable[[], Iterable[str]]] = []

    def register(self, loop: str, limit_seconds: float) -> None:
        """From now on the loop must make progress at least every `limit_seconds`."""
        self._loops[loop] = _Loop(limit_seconds, self._monotonic(), self._wall())

    def unregister(self, loop: str) -> None:
        """The loop has ended as it should."""
        self._loops.pop(loop, None)

    def progress(self, loop: str) -> None:
        """The loop did something, or woke with nothing to do. Ignored for one that is not registered (any more)."""
        if (found := self._loops.get(loop)) is not None:
            found.monotonic_at, found.at = self._monotonic(), self._wall()

    def require(self, check: Callable[[], Iterable[str]]) -> None:
        """Ready only while `check()` gives no reason against it."""
        self._checks.append(check)

    def why_not_live(self) -> list[str]:
        """The loops that have stalled; empty: live."""
        loops, now = self._loops.copy(), self._monotonic()
        silent = [
            (name, now - loop.monotonic_at, loop.limit_seconds)
            for name, loop in loops.items()
        ]
        return [
            f"loop {name} has made no progress for {seconds:.1f} s, its limit is {limit:g} s"
            for name, seconds, limit in silent
            if seconds > limit
        ]

    def why_not_ready(self) -> list[str]:
        """Every reason of every check; empty: ready."""
        return (
            [reason for check in self._checks for reason in check()]
            if self._checks
            else ["starting"]
        )

    def progressed_at(self) -> dict[str, int]:
        """When each loop last made progress, in microseconds since the Unix epoch."""
        return {name: loop.at for name, loop in self._loops.copy().items()}
