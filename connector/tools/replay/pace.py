"""When past events happen again, and with which moments."""

from __future__ import annotations

import math
from itertools import groupby
from operator import attrgetter
from typing import TYPE_CHECKING, Final, Protocol

from msgspec.structs import replace

from connector.core.model import MICROS, Event, State, Value
from connector.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

# The word for a replay without pauses.
MAX: Final = "max"

# A replay that is late catches up with that many events in a transaction of each shard.
_MAX_EVENTS_AT_ONCE: Final = 500

# A transaction takes milliseconds, so most replays are less late than this.
_LATE_SECONDS: Final = 0.1

# Kafka's clients have callbacks to run.
_LONGEST_SLEEP_SECONDS: Final = 1.0


class Pace(Value, frozen=True):
    """The moments of a replay. It begins at `starts_at` with the moment `first_at` of the past.

    Moments are microseconds since the epoch.
    """

    first_at: int
    starts_at: int
    speed: float = 1.0

    def due_at(self, moment: int) -> int:
        """Return the moment of the replay that a moment of the past has become."""
        return self.starts_at + round((moment - self.first_at) / self.speed)

    def moved_event(self, event: Event) -> Event:
        """Return an event with the moments of the replay."""
        return replace(
            event,
            computed_at=self._moved(event.computed_at),
            previous_computed_at=self._moved(event.previous_computed_at),
            observed_at=self.due_at(event.observed_at),
        )

    def moved_state(self, state: State) -> State:
        """Return a state with the moments of the replay."""
        return replace(
            state,
            computed_at=self._moved(state.computed_at),
            event_computed_at=self._moved(state.event_computed_at),
            observed_at=self.due_at(state.observed_at),
        )

    def _moved(self, moment: int | None) -> int | None:
        return None if moment is None else self.due_at(moment)


class Publisher(Protocol):
    """A writer of events. Every call blocks."""

    def publish(self, events: Iterable[Event]) -> None:
        """Publish events, in one transaction for each shard."""

    def serve_callbacks(self) -> None:
        """Run the callbacks that wait. Call every second."""


class Clock(Protocol):
    """The time, in microseconds since the epoch."""

    def now(self) -> int:
        """Return the present moment. It never goes back."""

    def sleep(self, seconds: float) -> None:
        """Wait."""


def parse_speed(text: str) -> float:
    """Return the number in `60` or `60x`, and infinity for `max`. Raises UsageError."""
    if text == MAX:
        return math.inf
    try:
        speed = float(text.removesuffix("x"))
    except ValueError:
        speed = math.nan
    # Not a number is not greater than anything.
    if not speed > 0 or math.isinf(speed):
        raise UsageError(
            f"replay: --speed {text[:20]!r}, expected a number above 0 or {MAX}"
        )
    return speed


class Player:
    """Publishes each event when it is due.

    With `moves`, events get the moments of the replay. `published` counts them, `played_to`
    is the moment of the past that was reached, and `late_seconds` the most that an event
    came too late. `on_progress` is called after each transaction.
    """

    def __init__(
        self,
        publisher: Publisher,
        pace: Pace,
        clock: Clock,
        *,
        moves: bool = False,
        on_progress: Callable[[Player], None] = lambda _: None,
    ) -> None:
        self._publisher = publisher
        self._pace = pace
        self._clock = clock
        self._moves = moves
        self._on_progress = on_progress
        self.published = 0
        self.played_to = pace.first_at
        self.late_seconds = 0.0

    def play(self, events: Iterable[Event]) -> None:
        """Publish events in the order of time. Raises KafkaError.

        Events of one moment come from one response, and stay in one transaction.
        """
        waiting: list[Event] = []
        for moment, together in groupby(events, attrgetter("observed_at")):
            due_at = self._pace.due_at(moment)
            if self._clock.now() < due_at:
                self._publish(waiting)
                waiting = []
                self._wait_until(due_at)
            waiting += together
            if not self._is_late(due_at) or len(waiting) >= _MAX_EVENTS_AT_ONCE:
                self._publish(waiting)
                waiting = []
        self._publish(waiting)

    def _is_late(self, due_at: int) -> bool:
        """Return True if events should be published together, to catch up."""
        late_seconds = (self._clock.now() - due_at) / MICROS
        self.late_seconds = max(self.late_seconds, late_seconds)
        return late_seconds > _LATE_SECONDS or math.isinf(self._pace.speed)

    def _publish(self, events: list[Event]) -> None:
        if not events:
            return
        outgoing = events
        if self._moves:
            outgoing = [self._pace.moved_event(event) for event in events]
        self._publisher.publish(outgoing)
        self.published += len(events)
        self.played_to = events[-1].observed_at
        self._on_progress(self)

    def _wait_until(self, moment: int) -> None:
        while True:
            seconds = (moment - self._clock.now()) / MICROS
            if seconds <= 0:
                return
            self._clock.sleep(min(seconds, _LONGEST_SLEEP_SECONDS))
            self._publisher.serve_callbacks()
