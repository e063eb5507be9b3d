"""Observations that wait to be committed to one shard."""

from __future__ import annotations

from collections import Counter
from itertools import chain
from typing import TYPE_CHECKING, Final, NamedTuple

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


class _Waiting(NamedTuple):
    """An observation, and the `Clock.ahead` that its times are based on."""

    observation: Observation
    ahead: int


class Work(Value, frozen=True):
    """The contents of one transaction: observations in order per symbol.

    `aheads` has the `Clock.ahead` that the times of each observation are based on.
    """

    observations: tuple[Observation, ...] = ()
    aheads: tuple[int, ...] = ()

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

    If somebody sets our clock, the times of waiting observations are corrected when they are
    taken.
    """

    def __init__(self, on_collapsed: Callable[[], None], clock: Clock) -> None:
        """`on_collapsed` is called for each observation that a newer one replaces."""
        self.last_writer: Writer | None = None
        self._waiting: dict[str, list[_Waiting]] = {}
        self._attempt: Attempt | None = None
        self._isolated: set[str] = set()
        self._uncounted = Counter[str]()
        self._on_collapsed = on_collapsed
        self._clock = clock

    def __bool__(self) -> bool:
        return bool(self._waiting or self._attempt)

    def add(self, observation: Observation) -> None:
        """Add an observation of now. If too many wait, it collapses with the last one."""
        self._add(_Waiting(observation, self._clock.ahead))

    def take(self) -> Work:
        """Take everything, except for isolated symbols: each of those comes alone, later."""
        waiting = list(self._waiting)
        taken = [symbol for symbol in waiting if symbol not in self._isolated]
        # Only isolated symbols are left: try one, so that a refusal names the culprit.
        if not taken:
            taken = waiting[:1]
        self._isolated.difference_update(taken)

        entries = []
        for symbol in taken:
            entries += self._take_symbol(symbol)
        # Somebody may have set a right clock wrong. The brokers are asked for the time then.
        if not self._clock.needs_witness:
            entries = [self._corrected(entry) for entry in entries]
        return Work(
            tuple(entry.observation for entry in entries),
            tuple(entry.ahead for entry in entries),
        )

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
        lost = sum(len(waiting) for waiting in self._waiting.values())
        if self._attempt is not None:
            lost += len(self._attempt.work.observations)
        self._waiting = {}
        self._attempt = None
        self._uncounted.clear()
        return lost

    def _add(self, new: _Waiting) -> None:
        waiting = self._waiting.setdefault(new.observation.symbol, [])
        if len(waiting) >= MAX_WAITING:
            last = waiting.pop()
            collapsed = new.observation.collapsed + last.observation.collapsed + 1
            # An overtaken answer must not displace another: it would be dropped later.
            is_overtaken = _is_overtaken(new, [*waiting, last])
            survivor = last if is_overtaken else new
            observation = replace(survivor.observation, collapsed=collapsed)
            new = _Waiting(observation, survivor.ahead)
            self._on_collapsed()
        waiting.append(new)

    def _take_symbol(self, symbol: str) -> list[_Waiting]:
        """Take what waits of a symbol. The first observation counts the uncounted ones, too."""
        waiting = self._waiting.pop(symbol, [])
        if waiting:
            first = waiting[0]
            uncounted = self._uncounted.pop(symbol, 0)
            observation = first.observation.with_collapsed(uncounted)
            waiting[0] = _Waiting(observation, first.ahead)
        return waiting

    def _put_back(self, work: Work) -> None:
        # Add everything again in order of arrival, within the bounds.
        pairs = zip(work.observations, work.aheads, strict=True)
        returned = [_Waiting(observation, ahead) for observation, ahead in pairs]
        newer = list(chain.from_iterable(self._waiting.values()))
        self._waiting = {}
        for entry in (*returned, *newer):
            self._add(entry)

    def _corrected(self, entry: _Waiting) -> _Waiting:
        """Return an entry as if our clock had been set before the observation."""
        step = self._clock.step_since(entry.ahead)
        if not step:
            return entry
        observed_at = entry.observation.observed_at + step
        observation = replace(
            entry.observation,
            observed_at=observed_at,
            upstream_at=self._clock.upstream(observed_at),
        )
        return _Waiting(observation, entry.ahead + step)


def _is_overtaken(new: _Waiting, waiting: Iterable[_Waiting]) -> bool:
    """Return True if levels of a newer refresh wait already."""
    observation = new.observation
    if observation.entry is None or observation.entry.computed_at is None:
        return False
    for other, _ in waiting:
        if other.entry is None or other.entry.computed_at is None:
            continue
        if other.entry.computed_at > observation.entry.computed_at:
            return True
    return False
