"""The budget, as the server counts it: a request counts when it arrives, at some moment between start and answer."""

from __future__ import annotations

import heapq
import itertools
import random
from collections import Counter, deque
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from connector.core.decode import RateLimit
from connector.upstream.budget import Budget, Permit, TakenOverShare
from connector.upstream.budget.budget import DEFAULT_LIMIT_PER_MINUTE
from connector.upstream.budget.units import MINUTE_SECONDS

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

quick = settings(deadline=None, derandomize=True, max_examples=200)
few = settings(deadline=None, derandomize=True, max_examples=40)

EPOCH: Final = 1_800_000_000.0
"""Unix time of the moment 0 of the tests, at which a minute of the server begins."""


@dataclass
class Key:
    """A key as the server keeps it: how many requests it accepts in its minutes, which are those of the clock."""

    limit: int
    spent: Counter[int] = field(default_factory=Counter)

    def ask(self, now: float) -> bool:
        accepted = self.spent[int(now // 60)] < self.limit
        self.spent[int(now // 60)] += accepted
        return accepted

    def says(self, now: float) -> RateLimit:
        minute = int(now // 60)
        return RateLimit(
            self.limit, self.limit - self.spent[minute], EPOCH + 60 * (minute + 1)
        )


@dataclass
class SlidingKey(Key):
    """The same for any 60 seconds. The reset is when the oldest request leaves them."""

    log: deque[float] = field(default_factory=deque)

    def ask(self, now: float) -> bool:
        self._leave(now)
        accepted = len(self.log) < self.limit
        self.log.extend([now] * accepted)
        return accepted

    def says(self, now: float) -> RateLimit:
        self._leave(now)
        return RateLimit(
            self.limit,
            self.limit - len(self.log),
            EPOCH + (self.log[0] if self.log else now) + 60,
        )

    def _leave(self, now: float) -> None:
        while self.log and self.log[0] + 60 <= now:
            self.log.popleft()


class Moments:
    """What happens, in the order of time."""

    def __init__(self) -> None:
        self._heap: list[tuple[float, int, Callable[[float], None]]] = []
        self._numbers = itertools.count()

    def at(self, moment: float, what: Callable[[float], None]) -> None:
        heapq.heappush(self._heap, (moment, next(self._numbers), what))

    def run(self, until: float) -> None:
        while self._heap and self._heap[0][0] <= until:
            moment, _, what = heapq.heappop(self._heap)
            what(moment)


class Worker:
    """Asks whenever `gap` seconds have passed and its limiter allows it, and tells it what the server says."""

    def __init__(
        self,
        moments: Moments,
        key: Key | None,
        chance: random.Random,
        slowest_seconds: float,
    ) -> None:
        self.limiter = Budget(None)
        self.accepted: list[float] = []
        self.refused: list[float] = []
        self.last_end = float("-inf")
        self.gains: dict[int, TakenOverShare] = {}
        self.alive = True
        self.gap: Callable[[float], float] = lambda now: (
            60 / self.limiter.spending(now).planned_per_minute
        )
        self._moments, self._key, self._chance, self._slowest = (
            moments,
            key,
            chance,
            slowest_seconds,
        )

    def ask(self, now: float) -> None:
        if not self.alive:
            return
        if wait := self.limiter.spending(now).wait_seconds:
            self._moments.at(now + min(wait, 0.5), self.ask)
            return
        self.send(now)
        self._moments.at(now + self.gap(now), self.ask)

    def send(self, now: float) -> None:
        permit = self.limiter.start(now)
        ends = now + self._slowest * self._chance.random()
        self.last_end = max(self.last_end, ends)
        arrives = now + (ends - now) * self._chance.random()
        self._moments.at(arrives, lambda at: self._arrives(permit, at, ends))

    def _arrives(self, permit: Permit, now: float, ends: float) -> None:
        accepted = self._key is None or self._key.ask(now)
        (self.accepted if accepted else self.refused).append(now)
        says = (
            now + (ends - now) * self._chance.random()
        )  # the figures can be of a later moment than the count
        self._moments.at(says, lambda at: self._said(permit, at, ends))

    def _said(self, permit: Permit, now: float, ends: float) -> None:
        said = self._key.says(now) if self._key else RateLimit()
        self._moments.at(ends, lambda at: self._ended(permit, said, EPOCH + now, at))

    def _ended(
        self, permit: Permit, said: RateLimit, server_at: float, now: float
    ) -> None:
        self.limiter.end(now)
        self.limiter.learn(permit, said, server_at, now)


def learned(
    limiter: Budget,
    remaining: int | None,
    resets_in: float,
    now: float,
    limit: int | None = 60,
) -> None:
    """A request that is answered at once, with these figures."""
    request = limiter.start(now)
    limiter.end(now)
    limiter.learn(
        request, RateLimit(limit, remaining, EPOCH + now + resets_in), EPOCH + now, now
    )


def left(limiter: Budget, remaining: int | None, resets_in: float, now: float) -> None:
    """The same of a server that does not say its limit, so that nothing is known of others."""
    learned(limiter, remaining, resets_in, now, limit=None)


def spend(limiter: Budget, requests: int, now: float) -> None:
    for _ in range(requests):
        limiter.start(now)
        limiter.end(now)


def allowed(limiter: Budget, now: float) -> int:
    """Start as many requests as may start; how many that were."""
    for count in range(1_000):
        if limiter.spending(now).wait_seconds:
            return count
        limiter.start(now)
    raise AssertionError("no limit")


def most_in_a_minute(moments: Iterable[float]) -> int:
    """The largest number of moments in any 60 seconds, the first of them included."""
    ordered = sorted(moments)
    return max(
        (
            sum(start <= at < start + MINUTE_SECONDS - 1e-6 for at in ordered)
            for start in ordered
        ),
        default=0,
    )


# How long a request takes, and at which part of that time the server counts it.
requests = st.lists(
    st.tuples(
        st.sampled_from([0.0, 0.1, 5.0, 59.5, 60.0, 70.0]) | st.floats(0, 90),
        st.floats(0, 1),
    ),
    min_size=1,
    max_size=40,
)
pauses = st.lists(
    st.sampled_from([0.0, 0.0, 0.0, 1.0, 30.0, 60.0]) | st.floats(0, 70),
    min_size=1,
    max_size=10,
)


def arrivals(
    limiter: Budget, wanted: Sequence[tuple[float, float]], pauses: Sequence[float]
) -> list[float]:
    """Start every request as soon as allowed after its pause; the moments at which the server counts them."""
    now, counted, answers = 0.0, list[float](), list[float]()
    for number, (takes, part) in enumerate(wanted):
        now += pauses[number % len(pauses)]
        while True:
            while answers and answers[0] <= now:
                limiter.end(heapq.heappop(answers))
            wait = limiter.spending(now).wait_seconds
            if not wait:
                break
            now = min(now + wait, answers[0]) if answers else now + wait
        limiter.start(now)
        heapq.heappush(answers, now + takes)
        counted.append(now + takes * part)
    return counted


class TestTheLog:
    @quick
    @given(requests, pauses, st.integers(1, 7))
    def test_no_sliding_minute_of_the_server_sees_more_than_the_budget(
        self, wanted: list[tuple[float, float]], pauses: list[float], budget: int
    ) -> None:
        assert most_in_a_minute(arrivals(Budget(budget), wanted, pauses)) <= budget

    @quick
    @given(requests, st.integers(1, 20), st.floats(0.01, 1))
    def test_a_share_of_the_budget_is_held_as_well(
        self, wanted: list[tuple[float, float]], budget: int, share: float
    ) -> None:
        limiter = Budget(budget)
        limiter.set_share(share)
        assert most_in_a_minute(arrivals(limiter, wanted, [0.0])) <= max(
            budget * share, 1
        )

    def test_the_whole_budget_can_be_used_at_once_and_again_a_minute_after_the_answers(
        self,
    ) -> None:
        limiter = Budget(3)
        assert allowed(limiter, 100.0) == 3
        for _ in range(3):
            limiter.end(102.0)
        assert limiter.spending(110.0).wait_seconds == pytest.approx(52.0)
        assert limiter.spending(162.0).wait_seconds == 0

    def test_a_wait_ends_when_enough_of_many_are_a_minute_old(self) -> None:
        limiter = Budget(None)
        learned(limiter, None, 0.0, 0.0, limit=2)
        learned(limiter, None, 0.0, 10.0, limit=2)
        assert limiter.spending(20.0).wait_seconds == pytest.approx(40.0)
        learned(limiter, None, 0.0, 20.0, limit=1)
        assert limiter.spending(20.0).wait_seconds == pytest.approx(60.0)

    def test_with_all_in_flight_nobody_knows_how_long_it_takes(self) -> None:
        limiter = Budget(1)
        request = limiter.start(0.0)
        assert limiter.spending(0.0).wait_seconds == 1
        assert limiter.spending(500.0).wait_seconds == 1
        limiter.end(500.0)
        limiter.learn(request, RateLimit(), EPOCH + 500, 500.0)
        assert limiter.spending(500.0).wait_seconds == 60

    def test_the_requests_of_the_last_minute_are_counted(self) -> None:
        limiter = Budget(None)
        limiter.start(0.0)
        spend(limiter, 3, 0.0)
        assert limiter.spending(59.0).sent_last_minute == 4
        assert limiter.spending(60.0).sent_last_minute == 1

    def test_it_does_not_grow(self) -> None:
        limiter = Budget(None)
        for now in range(1_000):
            learned(limiter, 30, 1.0, now)
            limiter.spending(now)
        sent, windows = limiter._sent, limiter._windows._windows
        assert len(sent._ended_last_minute) + len(sent._ended_earlier) <= 121
        assert len(windows) <= 61
        assert len(limiter._others._windows) <= 61

    def test_most_of_the_limit_is_planned_with(self) -> None:
        limiter = Budget(100)
        assert limiter.spending(0.0).planned_per_minute == pytest.approx(90)
        limiter.set_share(0.0)
        assert limiter.spending(0.0).planned_per_minute == pytest.approx(0.9)


class TestTheLimit:
    @pytest.mark.parametrize(
        ("cap", "said", "limit"),
        [
            (None, None, DEFAULT_LIMIT_PER_MINUTE),
            (None, 120, 120),
            (None, 30, 30),
            (None, 0, DEFAULT_LIMIT_PER_MINUTE),
            (None, -1, DEFAULT_LIMIT_PER_MINUTE),
            (50, None, 50),
            (100, None, 100),
            (50, 120, 50),
            (50, 30, 30),
            (50, 0, 50),
            (1, 1, 1),
        ],
    )
    def test_it_is_the_servers_word_and_ours_a_cap(
        self, cap: int | None, said: int | None, limit: int
    ) -> None:
        limiter = Budget(cap)
        learned(limiter, None, 0.0, 0.0, limit=said)
        assert (
            limiter.spending(0.0).limit_per_minute
            == limiter.spending(0.0).available_per_minute
            == limit
        )

    def test_it_follows_the_server_and_lasts_when_nothing_is_said(self) -> None:
        limiter = Budget(60)
        for said, limit in ((30, 30), (None, 30), (120, 60), (None, 60)):
            learned(limiter, None, 0.0, 0.0, limit=said)
            assert limiter.spending(0.0).limit_per_minute == limit

    @quick
    @given(
        st.lists(
            st.tuples(
                st.none() | st.integers(-9, 9),
                st.none() | st.integers(-9, 9),
                st.none() | st.floats(-99, 99),
            )
        )
    )
    def test_the_server_never_raises_the_cap_and_never_stops_us_for_good(
        self, figures: list[Any]
    ) -> None:
        limiter = Budget(5)
        for limit, remaining, resets_in in figures:
            request = limiter.start(0.0)
            limiter.end(0.0)
            reset = None if resets_in is None else EPOCH + resets_in
            limiter.learn(request, RateLimit(limit, remaining, reset), EPOCH, 0.0)
            assert 1 <= limiter.spending(0.0).limit_per_minute <= 5
        assert limiter.spending(60.0).wait_seconds == 0
        assert most_in_a_minute(arrivals(limiter, [(0.0, 0.0)] * 12, [0.0])) <= 5


class TestWhatTheServerSaysIsLeft:
    def test_nothing_is_asked_while_it_is_nothing(self) -> None:
        limiter = Budget(None)
        left(limiter, 0, 12.5, 100.0)
        assert limiter.spending(100.0).wait_seconds == pytest.approx(12.5)
        assert limiter.spending(112.0).wait_seconds == pytest.approx(0.5)
        assert limiter.spending(112.5).wait_seconds == 0

    def test_what_started_since_comes_off(self) -> None:
        limiter = Budget(None)
        left(limiter, 2, 30.0, 0.0)
        assert allowed(limiter, 1.0) == 2

    @quick
    @given(st.integers(0, 5), st.lists(st.booleans(), max_size=12))
    def test_it_is_never_exceeded_before_the_reset_answered_or_not(
        self, most: int, answered: list[bool]
    ) -> None:
        limiter = Budget(None)
        left(limiter, most, 30.0, 0.0)
        started = 0
        for with_figures in answered:
            if limiter.spending(1.0).wait_seconds:
                break
            started += 1
            left(limiter, most - started if with_figures else None, 29.0, 1.0)
        assert started == min(most, len(answered))

    @pytest.mark.parametrize("other_figure", [0.0, 2.0, -2.0])
    def test_an_answer_that_was_overtaken_does_not_raise_it(
        self, other_figure: float
    ) -> None:
        limiter = Budget(None)
        early, late = limiter.start(0.0), limiter.start(0.0)
        reset = EPOCH + 30
        for request, remaining, resets in (
            (late, 1, reset),
            (early, 2, reset + other_figure),
        ):
            limiter.end(1.0)
            limiter.learn(request, RateLimit(None, remaining, resets), EPOCH + 1, 1.0)
        assert limiter.spending(1.0).wait_seconds > 0

    def test_what_was_in_flight_may_be_counted_later_than_it_was_said(self) -> None:
        limiter = Budget(None)
        limiter.start(0.0)
        left(limiter, 3, 30.0, 1.0)
        assert allowed(limiter, 1.0) == 2

    def test_what_had_ended_before_the_request_is_in_the_figure(self) -> None:
        limiter = Budget(None)
        spend(limiter, 5, 0.0)
        left(limiter, 3, 30.0, 1.0)
        assert allowed(limiter, 1.0) == 3

    def test_an_answer_of_the_minute_before_says_nothing_about_this_one(self) -> None:
        limiter = Budget(None)
        late = limiter.start(0.0)
        left(limiter, 50, 59.0, 1.0)
        limiter.end(2.0)
        limiter.learn(late, RateLimit(None, 0, EPOCH), EPOCH - 1, 2.0)
        assert limiter.spending(3.0).wait_seconds == 0

    @pytest.mark.parametrize(
        ("given", "wait"), [(-5.0, 0.0), (0.0, 0.0), (3600.0, 60.0)]
    )
    def test_a_reset_is_believed_for_a_minute_at_most(
        self, given: float, wait: float
    ) -> None:
        limiter = Budget(None)
        left(limiter, 0, given, 0.0)
        assert limiter.spending(0.0).wait_seconds == wait

    def test_of_two_estimates_of_a_reset_the_later_counts(self) -> None:
        limiter = Budget(None)
        for server_at in (EPOCH + 10, EPOCH + 12):
            request = limiter.start(10.0)
            limiter.end(10.0)
            limiter.learn(request, RateLimit(None, 0, EPOCH + 60), server_at, 10.0)
        assert limiter.spending(10.0).wait_seconds == 50

    @pytest.mark.parametrize(
        "said", [RateLimit(None, 0, None), RateLimit(None, None, EPOCH + 50)]
    )
    def test_half_of_the_figures_hold_nothing(self, said: RateLimit) -> None:
        limiter = Budget(None)
        request = limiter.start(0.0)
        limiter.end(0.0)
        limiter.learn(request, said, EPOCH, 0.0)
        assert limiter.spending(0.0).wait_seconds == 0

    @quick
    @given(
        st.integers(0, 2**32),
        st.integers(2, 10),
        st.integers(0, 10),
        st.floats(0, 59.9),
        st.floats(0.1, 12),
    )
    def test_alone_with_the_key_nothing_is_refused_after_the_first_answer(
        self, seed: int, limit: int, spent_before: int, start: float, slowest: float
    ) -> None:
        """Whoever used it before, however long requests take, and in which order they are counted and answered."""
        chance, moments, key = random.Random(seed), Moments(), Key(limit)
        key.spent[0] = min(spent_before, limit)
        worker = Worker(moments, key, chance, slowest)
        worker.gap = lambda _: chance.choice([0.0, 0.0, 0.1, 3.0])
        worker.send(start)
        moments.run(worker.last_end)
        worker.refused.clear()
        moments.at(worker.last_end, worker.ask)
        moments.run(start + 200)
        assert worker.refused == []
        assert len(worker.accepted) >= limit


class TestHolds:
    def test_nothing_starts_before_the_end_of_the_longest(self) -> None:
        limiter = Budget(None)
        limiter.pause(15.0)
        limiter.pause(12.0)
        assert limiter.spending(10.0).wait_seconds == 5
        assert limiter.spending(15.0).wait_seconds == 0

    def test_it_adds_nothing_to_another_wait(self) -> None:
        limiter = Budget(1)
        spend(limiter, 1, 0.0)
        limiter.pause(5.0)
        assert limiter.spending(0.0).wait_seconds == 60
        limiter.pause(70.0)
        assert limiter.spending(0.0).wait_seconds == 70


class Group:
    """Workers that share a budget. Some hand batches over and some die, to others or to new ones."""

    budget = 31

    def __init__(
        self, chance: random.Random, with_first: bool, slowest_seconds: float
    ) -> None:
        self.everybody: list[Worker] = []
        self.gains: list[tuple[float, float, int]] = []
        self._chance, self._with_first, self._slowest = (
            chance,
            with_first,
            slowest_seconds,
        )
        self._moments = Moments()
        self._owners = [self._worker() for _ in range(3)] * 2

    def live(self, seconds: float) -> None:
        for one in self._owners[:3]:
            one.limiter.set_share(2 / len(self._owners))
            self._moments.at(0.0, one.ask)
        for _ in range(8):
            self._moments.at(self._chance.uniform(0, seconds), self._move)
        self._moments.run(seconds)

    def _move(self, now: float) -> None:
        old, new = (
            self._chance.choice(self._owners),
            self._chance.choice([*self._owners, self._worker()]),
        )
        if old is new:
            return
        batches = [batch for batch, owner in enumerate(self._owners) if owner is old]
        if self._chance.random() < 0.3:
            old.alive = False
        else:
            batches = batches[: self._chance.randint(1, len(batches))]
        for batch in batches:
            self._owners[batch] = new
            before = old.gains.pop(batch, None)
            until = max(old.last_end + 60, before.used_until if before else now)
            new.gains[batch] = TakenOverShare(
                1 / len(self._owners), self._with_first, until
            )
            self.gains.append((now, until, self._with_first))
        for one in (old, new):
            one.limiter.set_share(
                self._owners.count(one) / len(self._owners), one.gains.values()
            )
        self._moments.at(now, new.ask)

    def _worker(self) -> Worker:
        one = Worker(self._moments, None, self._chance, self._slowest)
        one.limiter = Budget(self.budget)
        one.limiter.set_share(0.0)
        one.gap = lambda _: self._chance.choice([0.0, 0.0, 0.5, 5.0])
        self.everybody.append(one)
        return one


class TestShares:
    @quick
    @given(st.integers(1, 60), st.integers(1, 8))
    def test_they_do_not_add_up_to_more_than_the_whole(
        self, budget: int, workers: int
    ) -> None:
        budgets = [Budget(budget) for _ in range(workers)]
        for limiter in budgets:
            limiter.set_share(1 / workers)
        assert sum(
            limiter.spending(0.0).limit_per_minute for limiter in budgets
        ) <= max(budget, workers)
        assert [limiter.spending(0.0).limit_per_minute for limiter in budgets] == [
            max(budget // workers, 1)
        ] * workers

    def test_who_owns_nothing_asks_nothing(self) -> None:
        limiter = Budget(None)
        limiter.set_share(0.0)
        assert limiter.spending(0.0).wait_seconds > 0
        limiter.set_share(0.5, [TakenOverShare(0.5, 2, 60.0)])
        limiter.set_share(0.0)
        assert limiter.spending(0.0).wait_seconds > 0

    def test_at_the_start_the_first_requests_go_at_once_and_the_rest_when_the_owner_before_is_forgotten(
        self,
    ) -> None:
        limiter = Budget(None)
        limiter.set_share(0.5, [TakenOverShare(0.5, 4, 130.0)])
        assert allowed(limiter, 100.0) == 4
        assert allowed(limiter, 129.9) == 0
        assert allowed(limiter, 130.0) == 30 - 4

    def test_a_gain_leaves_what_was_ours_before(self) -> None:
        limiter = Budget(None)
        limiter.set_share(0.25)
        limiter.set_share(1.0, [TakenOverShare(0.75, 3, 60.0)])
        assert allowed(limiter, 1.0) == 15 + 3

    def test_gains_are_over_one_by_one(self) -> None:
        limiter = Budget(None)
        limiter.set_share(
            1.0, [TakenOverShare(0.5, 1, 20.0), TakenOverShare(0.5, 1, 40.0)]
        )
        assert [allowed(limiter, now) for now in (0.0, 20.0, 40.0)] == [
            2,
            31 - 2,
            60 - 31,
        ]

    def test_where_nothing_was_spent_all_of_it_may_go(self) -> None:
        limiter = Budget(None)
        limiter.set_share(0.5, [TakenOverShare(0.5, 1, 100.0)])
        assert allowed(limiter, 100.0) == 30

    def test_the_first_requests_are_no_more_than_the_share(self) -> None:
        limiter = Budget(4)
        limiter.set_share(0.5, [TakenOverShare(0.5, 3, 60.0)])
        assert allowed(limiter, 0.0) == 2

    def test_a_share_that_shrinks_does_so_at_once(self) -> None:
        limiter = Budget(None)
        limiter.set_share(1.0)
        spend(limiter, 20, 0.0)
        limiter.set_share(1 / 3)
        assert limiter.spending(1.0).wait_seconds == pytest.approx(59.0)

    def test_what_is_lost_takes_along_what_was_spent_of_it(self) -> None:
        limiter, spent = (
            Budget(None),
            [TakenOverShare(0.25, 1, 60.0), TakenOverShare(0.25, 1, 60.0)],
        )
        limiter.set_share(0.75, spent)
        assert limiter.spending(0.0).limit_per_minute == 15 + 2
        limiter.set_share(0.5, spent[:1])
        assert limiter.spending(0.0).limit_per_minute == 15 + 1
        limiter.set_share(0.25, spent[:1])
        assert limiter.spending(0.0).limit_per_minute == 1
        limiter.spending(60.0)
        assert limiter.spending(60.0).limit_per_minute == 15

    def test_what_owners_before_have_spent_is_passed_on_the_less_the_longer_they_are_gone(
        self,
    ) -> None:
        limiter = Budget(None)
        limiter.set_share(1.0, [TakenOverShare(0.5, 4, 160.0)])
        spend(limiter, 3, 100.0)
        assert [
            round(60 * limiter.spending(now).used_fraction, 1)
            for now in (100.0, 130.0, 159.0, 160.0)
        ] == [33, 18, 3.5, 0]

    @quick
    @given(st.integers(0, 60), st.integers(1, 6), st.booleans())
    def test_the_heirs_of_a_worker_have_together_what_it_left(
        self, spent: int, heirs: int, dies: bool
    ) -> None:
        """It dies, or goes on with a part like theirs."""
        before = Budget(None)
        before.set_share(1.0)
        spend(before, spent, 0.0)
        share, told = 1 / (heirs + (not dies)), before.spending(1.0).used_fraction
        budgets = [Budget(None) for _ in range(heirs)]
        for limiter in budgets:
            limiter.set_share(share, [TakenOverShare(share * told, 0, 61.0)])
        before.set_share(share * (not dies))
        more = sum(
            allowed(limiter, 1.0) for limiter in (*budgets, *([] if dies else [before]))
        )
        assert spent + more <= 60

    def test_shards_that_change_hands_often_do_not_use_up_the_budget_by_it(
        self,
    ) -> None:
        """Each worker has the key for ten seconds and asks twice."""
        told, limits = 0.0, []
        for turn in range(30):
            limiter, now = Budget(None), 10.0 * turn
            limiter.set_share(1.0, [TakenOverShare(told, 1, now + 60)])
            limits.append(limiter.spending(now).limit_per_minute)
            spend(limiter, 2, now + 5)
            told = limiter.spending(now + 10).used_fraction
        assert min(limits) > 40

    def test_a_share_of_less_than_a_request_is_one(self) -> None:
        limiter = Budget(None)
        limiter.set_share(0.001)
        assert allowed(limiter, 0.0) == 1

    @quick
    @given(st.integers(0, 2**32), st.booleans(), st.floats(0, 8))
    def test_hand_overs_and_deaths_never_bring_more_than_the_budget_and_first_requests(
        self, seed: int, with_first: bool, slowest: float
    ) -> None:
        """Workers hand batches over and die, and their successors know of them when their last answer came."""
        group = Group(random.Random(seed), with_first, slowest)
        group.live(240.0)
        counted = sorted(moment for one in group.everybody for moment in one.accepted)
        for start in counted:
            minute = sum(start <= moment < start + 60 - 1e-6 for moment in counted)
            first = sum(
                first
                for gained, until, first in group.gains
                if gained < start + 60 and start < until
            )
            assert minute <= group.budget + first
        assert len(counted) > group.budget


EVEN: Final = [
    minute * 60 + 1.5 * number for minute in range(7) for number in range(40)
]


def bursts(second: float) -> list[float]:
    return [
        minute * 60 + second + number / 100
        for minute in range(7)
        for number in range(40)
    ]


OTHERS: Final = {
    "evenly": EVEN,
    "first": bursts(0.5),
    "midst": bursts(30),
    "last": bursts(52),
}


class TestOthersWithTheSameKey:
    @pytest.mark.parametrize("kind", [Key, SlidingKey])
    @pytest.mark.parametrize("how", OTHERS)
    @few
    @given(st.integers(0, 2**32), st.floats(0, 2))
    def test_once_they_are_known_nobody_is_refused_anything_and_we_have_what_is_left(
        self, kind: type[Key], how: str, seed: int, start: float
    ) -> None:
        chance, moments, key = random.Random(seed), Moments(), kind(60)
        worker, refused = Worker(moments, key, chance, 1.0), list[float]()
        worker.limiter.set_share(1.0)

        def other(now: float) -> None:
            if not key.ask(now):
                refused.append(now)

        for moment in OTHERS[how]:
            moments.at(moment, other)
        moments.at(start, worker.ask)
        moments.run(420)
        # Of a burst that was seen in its midst, nobody knows in the next minutes how much it wanted.
        known = start + (60 if how in {"evenly", "first"} else 180)
        assert [moment for moment in refused + worker.refused if moment > known] == []
        ours = sum(120 < moment <= 420 for moment in worker.accepted)
        assert ours >= (5 * 15 if how == "evenly" else 5 * 11)

    @quick
    @given(st.integers(0, 2**32), st.floats(0, 60), st.floats(0, 30))
    def test_two_that_start_at_any_second_of_a_minute_refuse_each_other_nothing_after_a_minute(
        self, seed: int, start: float, later: float
    ) -> None:
        """The other asks evenly from `start` on, we from `later` seconds after it on."""
        chance, moments, key = random.Random(seed), Moments(), Key(60)
        worker, refused, begun = (
            Worker(moments, key, chance, 1.0),
            list[float](),
            start + later,
        )
        worker.limiter.set_share(1.0)
        for number in range(280):
            moments.at(
                start + 1.5 * number,
                lambda now: None if key.ask(now) else refused.append(now),
            )
        moments.at(begun, worker.ask)
        moments.run(420)
        assert [
            moment for moment in refused + worker.refused if moment > begun + 60
        ] == []
        assert sum(moment > 180 for moment in worker.accepted) >= 4 * 12

    @pytest.mark.parametrize("kind", [Key, SlidingKey])
    @few
    @given(st.integers(0, 2**32), st.integers(2, 4), st.booleans())
    def test_siblings_are_no_strangers_however_they_use_their_shares(
        self, kind: type[Key], seed: int, workers: int, wild: bool
    ) -> None:
        chance, moments, key = random.Random(seed), Moments(), kind(60)
        siblings = [Worker(moments, key, chance, 2.0) for _ in range(workers)]
        for one in siblings:
            one.limiter.set_share(1 / workers)
            if wild:
                one.gap = lambda _: chance.choice([0.0, 0.0, 1.0, 20.0])
            moments.at(chance.uniform(0, 30), one.ask)
        for until in range(10, 200, 10):
            moments.run(until)
            assert [
                one.limiter.spending(until).other_clients_per_minute for one in siblings
            ] == [0] * workers
            assert [
                one.limiter.spending(until).limit_per_minute for one in siblings
            ] == [60 // workers] * workers
        assert not any(one.refused for one in siblings)

    @pytest.mark.parametrize("kind", [Key, SlidingKey])
    @few
    @given(st.integers(0, 2**32), st.integers(2, 3))
    def test_siblings_make_room_together(
        self, kind: type[Key], seed: int, workers: int
    ) -> None:
        chance, moments, key = random.Random(seed), Moments(), kind(60)
        siblings, refused = (
            [Worker(moments, key, chance, 1.0) for _ in range(workers)],
            list[float](),
        )
        for moment in EVEN:
            moments.at(
                moment, lambda now: None if key.ask(now) else refused.append(now)
            )
        for one in siblings:
            one.limiter.set_share(1 / workers)
            moments.at(chance.uniform(0, 3), one.ask)
        moments.run(420)
        assert len([moment for moment in refused if moment > 120]) <= 3
        ours = sum(moment > 180 for one in siblings for moment in one.accepted)
        assert 4 * 9 <= ours <= 4 * 21

    def test_what_a_window_shows_is_left_to_them_and_one_more(self) -> None:
        limiter = Budget(None)
        learned(limiter, 44, 30.0, 0.0)
        assert (
            limiter.spending(0.0).other_clients_per_minute,
            limiter.spending(0.0).available_per_minute,
            limiter.spending(0.0).limit_per_minute,
        ) == (
            15,
            44,
            44,
        )
        learned(limiter, 33, 20.1, 9.9)
        assert (
            limiter.spending(9.9).other_clients_per_minute,
            limiter.spending(9.9).available_per_minute,
        ) == (25, 34)

    def test_until_a_whole_window_is_over_they_are_taken_to_go_on_at_their_pace(
        self,
    ) -> None:
        limiter, figures = Budget(None), []
        # They ask every two seconds and we every ten, in the latter half of a window and in a whole one.
        for now, remaining in (
            (30.0, 44),
            (40.0, 38),
            (50.0, 32),
            (70.0, 54),
            (80.0, 48),
            (100.0, 36),
            (119.9, 24),
        ):
            learned(limiter, remaining, 60 - now % 60, now)
            figures.append(limiter.spending(now).other_clients_per_minute)
        assert figures == [15, 36, 33, 33, 36, 34, 34]
        learned(limiter, 54, 50.0, 130.0)
        learned(limiter, 34, 40.0, 140.0)
        assert limiter.spending(140.0).other_clients_per_minute == 33, (
            "later nobody's burst is taken for a pace"
        )

    def test_a_burst_in_the_first_minute_leaves_us_a_quarter(self) -> None:
        limiter = Budget(None)
        learned(limiter, 59, 50.0, 10.0)
        learned(limiter, 18, 30.0, 30.0)
        assert (
            limiter.spending(30.0).other_clients_per_minute,
            limiter.spending(30.0).available_per_minute,
        ) == (45, 14)

    def test_one_of_theirs_is_enough_for_that(self) -> None:
        limiter = Budget(None)
        learned(limiter, 58, 30.0, 0.0)
        assert (
            limiter.spending(0.0).other_clients_per_minute,
            limiter.spending(0.0).available_per_minute,
        ) == (1, 58)

    def test_a_window_that_is_said_to_be_over_was_seen_to_its_end(self) -> None:
        limiter = Budget(None)
        learned(limiter, 39, -30.0, 0.0)
        assert limiter.spending(0.0).other_clients_per_minute == 20

    def test_our_own_are_none_of_theirs_where_they_may_be_of_the_window(self) -> None:
        limiter = Budget(None)
        spend(limiter, 5, 97.0)
        spend(limiter, 7, 98.5)
        limiter.start(50.0)
        learned(limiter, 40, 30.0, 130.0)
        assert limiter.spending(130.0).other_clients_per_minute == 20 - 7 - 1 - 1

    def test_our_own_are_known_for_longer_than_a_minute(self) -> None:
        limiter = Budget(None)
        request = limiter.start(0.0)
        spend(limiter, 7, 0.0)
        limiter.end(70.0)
        limiter.learn(request, RateLimit(60, 40, EPOCH + 60.0), EPOCH + 1.0, 70.0)
        assert limiter.spending(70.0).other_clients_per_minute == 20 - 7 - 1
        request = limiter.start(121.0)
        limiter.end(121.0)
        limiter.learn(request, RateLimit(60, 40, EPOCH + 121.0), EPOCH + 121.0, 121.0)
        assert limiter.spending(121.0).other_clients_per_minute == 20 - 1 - 1

    def test_a_cap_below_what_they_leave_stays(self) -> None:
        limiter = Budget(30)
        learned(limiter, 39, 30.0, 0.0)
        assert (
            limiter.spending(0.0).other_clients_per_minute,
            limiter.spending(0.0).available_per_minute,
        ) == (20, 30)
        learned(limiter, 18, 30.0, 0.0)
        assert (
            limiter.spending(0.0).other_clients_per_minute,
            limiter.spending(0.0).available_per_minute,
        ) == (40, 19)

    def test_they_are_remembered_through_the_next_window_and_forgotten_after_it(
        self,
    ) -> None:
        limiter = Budget(None)
        learned(limiter, 19, 1.0, 59.0)
        learned(limiter, 59, 59.0, 61.0)
        figures = []
        for now in (61.0, 119.9, 120.0):
            limiter.spending(now)
            figures.append(limiter.spending(now).other_clients_per_minute)
        assert figures == [41, 41, 0]

    def test_after_a_pause_nothing_is_known_of_them(self) -> None:
        limiter = Budget(None)
        learned(limiter, 39, 30.0, 0.0)
        learned(limiter, 59, 60.0, 200.0)
        assert limiter.spending(200.0).other_clients_per_minute == 0

    @pytest.mark.parametrize(
        ("seen_seconds", "foreign"),
        [(5.0, 36), (30.0, 36), (45.0, 24), (50.0, 22), (60.0, 18)],
        ids=str,
    )
    def test_what_was_not_seen_of_a_window_is_taken_to_be_like_the_rest_but_for_half_at_most(
        self, seen_seconds: float, foreign: int
    ) -> None:
        limiter = Budget(None)
        learned(limiter, 60 - 18 - 1, 60 - seen_seconds, seen_seconds)
        assert limiter.spending(seen_seconds).other_clients_per_minute == (
            18 if seen_seconds < 60 else foreign
        )
        limiter.spending(60.0)
        assert limiter.spending(60.0).other_clients_per_minute == foreign

    def test_a_window_is_seen_until_its_last_answer(self) -> None:
        limiter = Budget(None)
        learned(limiter, 60 - 18 - 1, 50.0, 10.0)
        learned(limiter, 60 - 18 - 2, 0.0, 60.0)
        limiter.spending(60.0)
        assert limiter.spending(60.0).other_clients_per_minute == 18

    @pytest.mark.parametrize(
        ("foreign", "left_to_them"), [(7, 40), (29, 40), (30, 40), (45, 50), (59, 60)]
    )
    def test_where_the_key_was_used_up_they_are_left_more_than_they_had(
        self, foreign: int, left_to_them: int
    ) -> None:
        limiter = Budget(None)
        spend(limiter, 60 - foreign - 1, 0.0)
        learned(limiter, 0, 30.0, 1.0)
        assert limiter.spending(1.0).other_clients_per_minute == left_to_them
        assert limiter.spending(1.0).available_per_minute == max(
            60 - left_to_them - 1, 1
        )

    def test_a_key_used_up_by_us_and_few_others_is_no_reason_to_yield(self) -> None:
        limiter = Budget(None)
        spend(limiter, 53, 0.0)
        learned(limiter, 0, 30.0, 1.0)
        assert limiter.spending(1.0).other_clients_per_minute == 6

    def test_figures_of_more_than_a_minute_say_nothing_about_others(self) -> None:
        limiter = Budget(None)
        learned(limiter, 10, 3600.0, 0.0)
        assert limiter.spending(0.0).other_clients_per_minute == 0
        learned(limiter, 10, 62.0, 0.0)
        assert limiter.spending(0.0).other_clients_per_minute > 0

    def test_what_is_left_of_an_unknown_limit_says_nothing_about_others(self) -> None:
        limiter = Budget(50)
        learned(limiter, 10, 30.0, 0.0, limit=None)
        assert (
            limiter.spending(0.0).other_clients_per_minute,
            limiter.spending(0.0).available_per_minute,
        ) == (0, 50)

    def test_what_siblings_may_use_is_not_foreign(self) -> None:
        limiter = Budget(None)
        limiter.set_share(0.25)
        learned(limiter, 60 - 45 - 1, 30.0, 0.0)
        assert limiter.spending(0.0).other_clients_per_minute == 0
        learned(limiter, 60 - 45 - 2 - 3, 30.0, 0.0)
        assert limiter.spending(0.0).other_clients_per_minute == 3

    def test_what_siblings_may_use_of_a_cap_is_not_foreign(self) -> None:
        limiter = Budget(20)
        limiter.set_share(0.25)
        learned(limiter, 60 - 18 - 1, 30.0, 0.0)
        assert limiter.spending(0.0).other_clients_per_minute == 3

    def test_what_the_owner_before_spent_is_not_foreign(self) -> None:
        limiter = Budget(None)
        limiter.set_share(1.0, [TakenOverShare(1.0, 1, 60.0)])
        learned(limiter, 0, 30.0, 0.0)
        limiter.spending(30.0)
        assert limiter.spending(30.0).other_clients_per_minute == 0

    def test_nor_is_it_where_there_were_others_before(self) -> None:
        limiter = Budget(None)
        learned(limiter, 39, 30.0, 0.0)
        limiter.set_share(1.0, [TakenOverShare(1.0, 1, 61.0)])
        learned(limiter, 15, 60.0, 31.0)
        assert limiter.spending(31.0).other_clients_per_minute == 40, (
            "twice what half a window showed"
        )

    def test_siblings_are_taken_to_yield_as_we_do_where_there_are_others(self) -> None:
        limiter = Budget(None)
        limiter.set_share(0.5)
        learned(limiter, 60 - 1 - 30 - 20, 3.0, 57.0)
        assert limiter.spending(57.0).other_clients_per_minute == 20
        learned(limiter, 60 - 1 - 31, 30.0, 90.0)  # one is ours, one a sibling's
        assert limiter.spending(90.0).other_clients_per_minute == 30
