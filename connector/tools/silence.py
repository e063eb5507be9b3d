"""Tells a person who watches events that no connector writes any: it would be silent."""

from __future__ import annotations

import sys
import time
from typing import TYPE_CHECKING, Final

from connector.client.staleness import StalenessClock

if TYPE_CHECKING:
    from collections.abc import Callable

    from connector.core.model import State
    from connector.errors import KafkaError

# States are read for a moment at the start, the oldest first.
_FIRST_LOOK_SECONDS: Final = 5.0
_LOOK_SECONDS: Final = 1.0


class SilenceNotice:
    """Says on standard error when the states of a feed stop, and when they come again.

    `changes` alone cannot tell: levels may not change for hours. Each refresh of a symbol
    writes a state, so those tell within two of the usual periods and ten seconds.
    """

    def __init__(
        self,
        monotonic: Callable[[], float] = time.monotonic,
        wall: Callable[[], float] = time.time,
    ) -> None:
        self._monotonic = monotonic
        self._wall = wall
        self._clocks: dict[str, StalenessClock] = {}
        self._silent: set[str] = set()
        self._given_up: set[str] = set()
        self._look_at = monotonic() + _FIRST_LOOK_SECONDS

    def note(self, state: State) -> None:
        """Note a state that was written."""
        if state.feed in self._given_up:
            return
        clock = self._clocks.get(state.feed)
        if clock is None:
            clock = StalenessClock(self._monotonic, self._wall)
            self._clocks[state.feed] = clock
        clock.note(state)

    def give_up(self, feed: str, error: KafkaError) -> None:
        """Say that the silence of a feed cannot be noticed, and do not look for it."""
        self._given_up.add(feed)
        self._clocks.pop(feed, None)
        _say(f"feed {feed}: cannot tell if a connector is running: {error}")

    def look(self) -> None:
        """Say if the silence of a feed has begun or ended. Call it several times a second."""
        if self._monotonic() < self._look_at:
            return
        self._look_at = self._monotonic() + _LOOK_SECONDS
        for feed, clock in self._clocks.items():
            reason = clock.feed_overdue()
            if reason is not None and feed not in self._silent:
                self._silent.add(feed)
                _say(f"feed {feed}: {reason}. Is a connector running?")
            elif reason is None and feed in self._silent:
                self._silent.discard(feed)
                _say(f"feed {feed}: records arrive again")


def _say(text: str) -> None:
    sys.stderr.write(f"{text}\n")
    sys.stderr.flush()
