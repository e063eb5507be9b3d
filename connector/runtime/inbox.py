"""Observations that wait to be committed to one shard."""

from __future__ import annotations

from collections import Counter
from itertools import chain
from typing import TYPE_CHECKING, Final

from msgspec.structs import replace

from connector.core.model import Observation, Value
from connector.core.transition import REASON_ASKED

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    from connector.core.model import Event, State
    from connector.core.transition import Transition
    from connector.kafka.shard_log import Writer
    from connector.runtime.clock import Clock

# Observations kept per symbol. Further ones collapse, so that memory stays bounded.
MAX_WAITING: Final = 8


class Work(Value, frozen=True):
    """The contents of one transaction: observations in order per symbol."""

    observations: tuple[Observation, ...] = ()

    @property
    def symbols(self) -> set[str]:
        """The symbols of all observations."""
        return {observation.symbol for observation in self.observations}


class Attempt(Value, frozen=True):
    """A transaction: the work, and the events and states that came of it."""

    work: Work
    events: tuple[Event, ...] = ()
    states: Mapping[str, State] = {}

    @classmethod
    def of(cls, work: Work, transitions: Iterable[Transition]) -> Attempt:
        """Collect the events, and the last state of each symbol."""
        events = []
        states = {}
        for transition in transitions:
            if transition.event is not None:
                events.append(transition.event)
            if transition.state is not None:
                states[transition.state.symbol] = transition.state
        return cls(work, tuple(events), states)

    def __bool__(self) -> bool:
        """Return False if there is nothing to write."""
        return bool(self.events or self.states)

    @property
    def uncounted(self) -> dict[str, int]:
        """The collapsed observations of each symbol that none of the events counts."""
        counts = Counter[str]()
        for observation in self.work.observations:
            counts[observation.symbol] += observation.collapsed
        for event in self.events:
            counts[event.symbol] -= event.collapsed_observations
        return dict(+counts)

    @property
    def unobserved(self) -> list[State]:
        """The states that neither an observation nor a requested snapshot has caused."""
        caused = self.work.symbols
        for event in self.events:
            if event.reason == REASON_ASKED:
                caused.add(event.symbol)
        return [state for state in self.states.values() if state.symbol not in caused]

    def was_committed(self, restored: Mapping[str, State]) -> bool:
        """Return True if a restore shows that this attempt was committed.

        That holds only for a restore by the worker that made the attempt, before another one
        has written. A transaction without states leaves no trace, so it counts as failed.
        """
        if not self.states:
            return False
        for symbol, state in self.states.items():
            found = restored.get(symbol)
            if found is None:
                return False
            # A refresh without an event keeps the sequence, but not the moment.
            is_same_event = found.sequence == state.sequence
            if not is_same_event or found.observed_at != state.observed_at:
                return False
        return True


class Inbox:
    """Collects observations while a transaction is in progress or Kafka is away.

    It outlives the shard's assignments: observations that wait when the group takes the
    shard away are published if this worker gets it back before another one has written.
    `last_writer` wrote the last record as of the last opening.

    If somebody sets our clock, the times of what waits are corrected.
    """

    def __init__(self, on_collapsed: Callable[[], None], clock: Clock) -> None:
        """`on_collapsed` is called for each observation that a newer one replaces."""
        self.last_writer: Writer | None = None
        self._observations: dict[str, list[Observation]] = {}
        self._attempt: Attempt | None = None
        self._isolated: set[str] = set()
        self._uncounted = Counter[str]()
        self._on_collapsed = on_collapsed
        self._clock = clock
        self._ahead = clock.ahead
        """`Clock.ahead` by which the times of what waits are told."""
        self._taken_ahead = self._ahead
        """The same for what was taken last."""

    def __bool__(self) -> bool:
        return bool(self._observations or self._attempt)

    def add(self, observation: Observation) -> None:
        """Add an observation. If too many wait, it collapses with the last one."""
        self._follow_clock()
        waiting = self._observations.setdefault(observation.symbol, [])
        if len(waiting) >= MAX_WAITING:
            last = waiting.pop()
            collapsed = observation.collapsed + last.collapsed + 1
            # An overtaken answer must not displace another: it would be dropped later.
            is_overtaken = _is_overtaken(observation, [*waiting, last])
            survivor = last if is_overtaken else observation
            observation = replace(survivor, collapsed=collapsed)
            self._on_collapsed()
        waiting.append(observation)

    def take(self) -> Work:
        """Take everything, except for isolated symbols: each of those comes alone, later."""
        self._follow_clock()
        self._taken_ahead = self._ahead
        waiting = list(self._observations)
        taken = [symbol for symbol in waiting if symbol not in self._isolated]
        # Only isolated symbols are left: try one, so that a refusal names the culprit.
        if not taken:
            taken = waiting[:1]
        self._isolated.difference_update(taken)

        observations = []
        for symbol in taken:
            observations += self._take_observations(symbol)
        return Work(tuple(observations))

    def committed(self, attempt: Attempt) -> None:
        """Take note of the collapsed observations that no event of an attempt counts.

        A value that came and went while Kafka was away leaves no difference to publish. The
        next event of its symbol counts it, so that consumers can tell that some are left out.
        """
        self._uncounted.update(attempt.uncounted)

    def isolate(self, work: Work, *, alone: bool) -> int:
        """Isolate the symbols of work that the broker will never take.

        A record of one of them is refused, but the broker does not say which. Work that was
        `alone` in its transaction is given up. Return the number of observations given up.
        """
        self._isolated |= work.symbols
        if alone:
            return len(work.observations)
        self._put_back(work)
        return 0

    def keep(self, attempt: Attempt) -> None:
        """Keep an attempt until a restore shows if it was committed."""
        self._attempt = attempt

    def settle(self, restored: Mapping[str, State]) -> Attempt | None:
        """Return the attempt if it was committed; otherwise its work waits again.

        The work goes before everything that came meanwhile.
        """
        attempt, self._attempt = self._attempt, None
        if attempt is None:
            return None
        if attempt.was_committed(restored):
            self.committed(attempt)
            return attempt
        self._put_back(attempt.work)
        return None

    def clear(self) -> int:
        """Forget everything. Return the number of observations that were lost."""
        lost = sum(len(waiting) for waiting in self._observations.values())
        if self._attempt is not None:
            lost += len(self._attempt.work.observations)
        self._observations = {}
        self._attempt = None
        self._uncounted.clear()
        return lost

    def _take_observations(self, symbol: str) -> list[Observation]:
        """Take the observations of a symbol. The first one counts the uncounted ones, too."""
        waiting = self._observations.pop(symbol, [])
        if waiting:
            uncounted = self._uncounted.pop(symbol, 0)
            waiting[0] = waiting[0].with_collapsed(uncounted)
        return waiting

    def _put_back(self, work: Work) -> None:
        self._follow_clock()
        step = self._clock.step_since(self._taken_ahead)
        returned = [
            self._corrected(observation, step) for observation in work.observations
        ]
        # Add everything again in order of arrival, within the bounds.
        newer = list(chain.from_iterable(self._observations.values()))
        self._observations = {}
        for observation in (*returned, *newer):
            self.add(observation)

    def _follow_clock(self) -> None:
        """Correct the times of everything that waits if our clock was set."""
        step = self._clock.step_since(self._ahead)
        if step:
            for symbol, waiting in self._observations.items():
                corrected = [
                    self._corrected(observation, step) for observation in waiting
                ]
                self._observations[symbol] = corrected
        # While nothing waits, also by less than a step: NTP slews our clock all the time.
        if step or not self._observations:
            self._ahead = self._clock.ahead

    def _corrected(self, observation: Observation, step: int) -> Observation:
        """Return an observation as if our clock had been set before it was made."""
        if not step:
            return observation
        observed_at = observation.observed_at + step
        return replace(
            observation,
            observed_at=observed_at,
            upstream_at=self._clock.upstream(observed_at),
        )


def _is_overtaken(observation: Observation, waiting: Iterable[Observation]) -> bool:
    """Return True if levels of a newer refresh wait already."""
    if observation.entry is None or observation.entry.computed_at is None:
        return False
    for other in waiting:
        if other.entry is None or other.entry.computed_at is None:
            continue
        if other.entry.computed_at > observation.entry.computed_at:
            return True
    return False
