"""A server that counts requests, and workers that send them, in simulated time.

The server counts a request when it arrives, at some moment between its start and its
answer.
"""

from __future__ import annotations

import heapq
import itertools
from collections import Counter, deque
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final, NamedTuple

from connector.core.decode import RateLimit
from connector.upstream.budget import Budget, Permit, TakenOverShare
from connector.upstream.budget.units import MINUTE_SECONDS

if TYPE_CHECKING:
    import random
    from collections.abc import Callable, Iterable, Sequence

# Unix time of the moment 0 of the tests, at which a minute of the server begins.
EPOCH: Final = 1_800_000_000.0

# The server's minute does not include its end, but for the rounding of floats.
_ROUNDING: Final = 1e-6


class Request(NamedTuple):
    """A request that takes `seconds`. The server counts it after a part of that time."""

    seconds: float = 0.0
    counted_after_part: float = 0.0


class TakeOver(NamedTuple):
    """A batch that a worker took over. Its first requests may exceed the budget until `until`."""

    at: float
    until: float
    first_requests: int


@dataclass
class Key:
    """A key as the server keeps it: its minutes are those of the clock."""

    limit: int
    accepted: Counter[int] = field(default_factory=Counter)

    def request(self, now: float) -> bool:
        """Count a request that arrives; return False if it is refused."""
        minute = int(now // 60)
        is_accepted = self.accepted[minute] < self.limit
        if is_accepted:
            self.accepted[minute] += 1
        return is_accepted

    def figures(self, now: float) -> RateLimit:
        """Return the figures of an answer that is written now."""
        minute = int(now // 60)
        remaining = self.limit - self.accepted[minute]
        return RateLimit(self.limit, remaining, EPOCH + 60 * (minute + 1))


@dataclass
class SlidingKey(Key):
    """A key with a sliding minute. The reset is when the oldest request leaves it."""

    last_minute: deque[float] = field(default_factory=deque)

    def request(self, now: float) -> bool:
        self._forget(now)
        is_accepted = len(self.last_minute) < self.limit
        if is_accepted:
            self.last_minute.append(now)
        return is_accepted

    def figures(self, now: float) -> RateLimit:
        self._forget(now)
        remaining = self.limit - len(self.last_minute)
        oldest_at = now
        if self.last_minute:
            oldest_at = self.last_minute[0]
        return RateLimit(self.limit, remaining, EPOCH + oldest_at + 60)

    def _forget(self, now: float) -> None:
        while self.last_minute:
            forgotten_at = self.last_minute[0] + 60
            if forgotten_at > now:
                break
            self.last_minute.popleft()


class Timeline:
    """Runs callbacks in the order of their moments."""

    def __init__(self) -> None:
        self._heap: list[tuple[float, int, Callable[[float], None]]] = []
        self._numbers = itertools.count()

    def at(self, moment: float, callback: Callable[[float], None]) -> None:
        heapq.heappush(self._heap, (moment, next(self._numbers), callback))

    def run(self, until: float) -> None:
        while self._heap and self._heap[0][0] <= until:
            moment, _, callback = heapq.heappop(self._heap)
            callback(moment)


class SimulatedWorker:
    """Sends a request whenever `gap` has passed and its budget allows it.

    Its budget learns the key's figures, if there is a key. Requests take up to
    `max_seconds`.
    """

    def __init__(
        self,
        timeline: Timeline,
        key: Key | None,
        chance: random.Random,
        max_seconds: float,
    ) -> None:
        self.budget = Budget(None)
        self.accepted: list[float] = []
        self.refused: list[float] = []
        self.last_end = float("-inf")
        self.taken_over: dict[int, TakenOverShare] = {}
        self.is_alive = True
        self.gap: Callable[[float], float] = self._planned_gap
        self._timeline = timeline
        self._key = key
        self._chance = chance
        self._max_seconds = max_seconds

    def _planned_gap(self, now: float) -> float:
        return 60 / self.budget.spending(now).planned_per_minute

    def poll(self, now: float) -> None:
        """Send a request as soon as the budget allows it, and go on after the gap."""
        if not self.is_alive:
            return
        wait = self.budget.spending(now).wait_seconds
        if wait > 0:
            self._timeline.at(now + min(wait, 0.5), self.poll)
            return
        self.send(now)
        self._timeline.at(now + self.gap(now), self.poll)

    def send(self, now: float) -> None:
        permit = self.budget.start(now)
        ends_at = now + self._max_seconds * self._chance.random()
        self.last_end = max(self.last_end, ends_at)
        arrives_at = now + (ends_at - now) * self._chance.random()
        self._timeline.at(arrives_at, lambda at: self._arrive(permit, at, ends_at))

    def _arrive(self, permit: Permit, now: float, ends_at: float) -> None:
        is_accepted = self._key is None or self._key.request(now)
        moments = self.accepted if is_accepted else self.refused
        moments.append(now)

        # The figures can be of a later moment than the count.
        written_at = now + (ends_at - now) * self._chance.random()
        self._timeline.at(written_at, lambda at: self._write(permit, at, ends_at))

    def _write(self, permit: Permit, now: float, ends_at: float) -> None:
        figures = RateLimit() if self._key is None else self._key.figures(now)
        server_at = EPOCH + now
        self._timeline.at(
            ends_at, lambda at: self._receive(permit, figures, server_at, at)
        )

    def _receive(
        self, permit: Permit, figures: RateLimit, server_at: float, now: float
    ) -> None:
        self.budget.end(now)
        self.budget.learn(permit, figures, server_at, now)


class SimulatedGroup:
    """Workers that share a budget. Some hand batches over and some die.

    Their batches go to other workers or to new ones, which learn when the last answer
    of the previous owner came.
    """

    budget_per_minute = 31

    def __init__(
        self, chance: random.Random, first_requests: int, max_seconds: float
    ) -> None:
        self.workers: list[SimulatedWorker] = []
        self.take_overs: list[TakeOver] = []
        self._chance = chance
        self._first_requests = first_requests
        self._max_seconds = max_seconds
        self._timeline = Timeline()
        # Six batches, two for each of three workers.
        first = [self._new_worker() for _ in range(3)]
        self._owners = [*first, *first]

    def run(self, seconds: float) -> None:
        """Run the workers, and move batches eight times."""
        for worker in self._owners[:3]:
            worker.budget.set_share(2 / len(self._owners))
            self._timeline.at(0.0, worker.poll)
        for _ in range(8):
            moment = self._chance.uniform(0, seconds)
            self._timeline.at(moment, self._move)
        self._timeline.run(seconds)

    def _move(self, now: float) -> None:
        """Move batches from one worker to another, which may be new. The old one may die."""
        old = self._chance.choice(self._owners)
        candidates = [*self._owners, self._new_worker()]
        new = self._chance.choice(candidates)
        if old is new:
            return
        batches = [batch for batch, owner in enumerate(self._owners) if owner is old]
        if self._chance.random() < 0.3:
            old.is_alive = False
        else:
            batches = batches[: self._chance.randint(1, len(batches))]
        for batch in batches:
            self._take_over(batch, old, new, now)
        for worker in (old, new):
            share = self._owners.count(worker) / len(self._owners)
            worker.budget.set_share(share, worker.taken_over.values())
        self._timeline.at(now, new.poll)

    def _take_over(
        self, batch: int, old: SimulatedWorker, new: SimulatedWorker, now: float
    ) -> None:
        self._owners[batch] = new
        # The old worker may have taken the batch over shortly before.
        earlier_until = now
        earlier = old.taken_over.pop(batch, None)
        if earlier is not None:
            earlier_until = earlier.used_until
        used_until = max(old.last_end + 60, earlier_until)

        share = 1 / len(self._owners)
        taken_over = TakenOverShare(share, self._first_requests, used_until)
        new.taken_over[batch] = taken_over
        take_over = TakeOver(now, used_until, self._first_requests)
        self.take_overs.append(take_over)

    def _new_worker(self) -> SimulatedWorker:
        worker = SimulatedWorker(self._timeline, None, self._chance, self._max_seconds)
        worker.budget = Budget(self.budget_per_minute)
        worker.budget.set_share(0.0)
        worker.gap = lambda _: self._chance.choice([0.0, 0.0, 0.5, 5.0])
        self.workers.append(worker)
        return worker


def answer(
    budget: Budget,
    remaining: int | None,
    resets_in: float,
    now: float,
    limit: int | None = 60,
) -> None:
    """Send a request that is answered at once, with these figures."""
    permit = budget.start(now)
    budget.end(now)
    figures = RateLimit(limit, remaining, EPOCH + now + resets_in)
    budget.learn(permit, figures, EPOCH + now, now)


def answer_without_limit(
    budget: Budget, remaining: int | None, resets_in: float, now: float
) -> None:
    """Do the same for a server that names no limit: nothing is known of others then."""
    answer(budget, remaining, resets_in, now, limit=None)


def send(budget: Budget, requests: int, now: float) -> None:
    """Send requests that end at once, without figures."""
    for _ in range(requests):
        budget.start(now)
        budget.end(now)


def start_allowed(budget: Budget, now: float) -> int:
    """Start as many requests as the budget allows; return how many those were."""
    for count in range(1_000):
        if budget.spending(now).wait_seconds > 0:
            return count
        budget.start(now)
    raise AssertionError("no limit")


def wait_seconds(budget: Budget, now: float) -> float:
    return budget.spending(now).wait_seconds


def limit_of(budget: Budget, now: float) -> int:
    return budget.spending(now).limit_per_minute


def available(budget: Budget, now: float) -> int:
    return budget.spending(now).available_per_minute


def other_clients(budget: Budget, now: float) -> int:
    return budget.spending(now).other_clients_per_minute


def arrivals(
    budget: Budget, requests: Iterable[Request], pauses: Sequence[float]
) -> list[float]:
    """Start every request as soon as allowed after its pause.

    Returns the moments at which the server counts them.
    """
    now = 0.0
    counted: list[float] = []
    ends: list[float] = []
    for request, pause in zip(requests, itertools.cycle(pauses), strict=False):
        now += pause
        while True:
            while ends and ends[0] <= now:
                budget.end(heapq.heappop(ends))
            wait = budget.spending(now).wait_seconds
            if wait <= 0:
                break
            # An answer may shorten the wait.
            now += wait
            if ends:
                now = min(now, ends[0])
        budget.start(now)
        heapq.heappush(ends, now + request.seconds)
        counted.append(now + request.seconds * request.counted_after_part)
    return counted


def most_in_a_minute(moments: Iterable[float]) -> int:
    """Return the largest number of moments in any 60 seconds that begin with one."""
    ordered = sorted(moments)
    most = 0
    for start in ordered:
        most = max(most, in_minute_from(start, ordered))
    return most


def in_minute_from(start: float, moments: Iterable[float]) -> int:
    """Return the number of moments in the minute that begins at `start`."""
    end = start + MINUTE_SECONDS - _ROUNDING
    return len([moment for moment in moments if start <= moment < end])
