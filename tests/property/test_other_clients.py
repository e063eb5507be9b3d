"""The estimate of the use of our key by other programs, and the room we leave them."""

from __future__ import annotations

import random
from typing import TYPE_CHECKING, Final

import pytest
from hypothesis import given
from hypothesis import strategies as st

from connector.core.decode import RateLimit
from connector.upstream.budget import Budget, TakenOverShare
from tests.support.budget_simulation import (
    EPOCH,
    Key,
    SimulatedWorker,
    SlidingKey,
    Timeline,
    answer,
    available,
    limit_of,
    other_clients,
    send,
)
from tests.support.profiles import cases

if TYPE_CHECKING:
    from collections.abc import Iterable

examples = cases(200)
few_examples = cases(40)
seeds = st.integers(0, 2**32)

# The other program sends 40 requests a minute, in each of seven minutes.
EVENLY: Final = [1.5 * number for number in range(7 * 40)]

# Of 2,500 seeds, 16 saw a refusal after a minute. We had begun in the last 3 s of a minute.
LATE_IN_MINUTE_SECONDS: Final = 5.0


def bursts(second: float) -> list[float]:
    """Return moments from this second of each minute on, all within 0.4 s."""
    moments: list[float] = []
    for minute in range(7):
        begins_at = minute * 60 + second
        moments.extend(begins_at + number / 100 for number in range(40))
    return moments


PATTERNS: Final = {
    "evenly": EVENLY,
    "first": bursts(0.5),
    "middle": bursts(30),
    "last": bursts(52),
}


class OtherProgram:
    """A program that sends requests at fixed moments, whatever the server answers."""

    def __init__(self, timeline: Timeline, key: Key, moments: Iterable[float]) -> None:
        self.refused: list[float] = []
        self._key = key
        for moment in moments:
            timeline.at(moment, self._send)

    def _send(self, now: float) -> None:
        if not self._key.request(now):
            self.refused.append(now)


def run_with_other_program(
    seed: int, start: float, begin: float
) -> tuple[SimulatedWorker, OtherProgram]:
    """Run for seven minutes. The other program starts at `start`, and we at `begin`."""
    timeline = Timeline()
    key = Key(60)
    worker = SimulatedWorker(timeline, key, random.Random(seed), 1.0)
    worker.budget.set_share(1.0)
    other = OtherProgram(timeline, key, [start + moment for moment in EVENLY])
    timeline.at(begin, worker.poll)
    timeline.run(420)
    return worker, other


def settled_after(begin: float) -> float:
    """Return the moment after which two programs refuse each other nothing.

    That is a minute after we began. If we begin in the last seconds of a minute, our answers
    of that minute show too little of the other program, and the estimate after it can be a
    few requests too low: then it is the end of the second whole minute.
    """
    minute_ends_at = 60 * (begin // 60 + 1)
    begins_late = begin >= minute_ends_at - LATE_IN_MINUTE_SECONDS
    if begins_late:
        return minute_ends_at + 120
    return begin + 60


def count_after(start: float, moments: Iterable[float]) -> int:
    return sum(moment > start for moment in moments)


class TestSharedKey:
    @pytest.mark.parametrize("kind", [Key, SlidingKey])
    @pytest.mark.parametrize("pattern", PATTERNS)
    @few_examples
    @given(seeds, st.floats(0, 2))
    def test_once_others_are_known_nobody_is_refused_and_we_use_the_rest(
        self, kind: type[Key], pattern: str, seed: int, start: float
    ) -> None:
        timeline = Timeline()
        key = kind(60)
        worker = SimulatedWorker(timeline, key, random.Random(seed), 1.0)
        worker.budget.set_share(1.0)
        other = OtherProgram(timeline, key, PATTERNS[pattern])
        timeline.at(start, worker.poll)
        timeline.run(420)

        # If a burst was seen in its middle, its size stays unknown for some minutes.
        known_at = start + (60 if pattern in {"evenly", "first"} else 180)
        assert count_after(known_at, other.refused) == 0
        assert count_after(known_at, worker.refused) == 0
        in_five_minutes = count_after(120, worker.accepted)
        assert in_five_minutes >= 5 * (15 if pattern == "evenly" else 11)

    @examples
    @given(seeds, st.floats(0, 60), st.floats(0, 30))
    def test_two_programs_soon_refuse_each_other_nothing(
        self, seed: int, start: float, later: float
    ) -> None:
        """The other one starts at any second of a minute, and we some seconds later."""
        begin = start + later

        worker, other = run_with_other_program(seed, start, begin)

        settled_at = settled_after(begin)
        assert count_after(settled_at, other.refused) == 0
        assert count_after(settled_at, worker.refused) == 0
        assert count_after(180, worker.accepted) >= 4 * 12

    @examples
    @given(seeds, st.floats(45, 60), st.floats(55, 60))
    def test_if_we_begin_late_in_a_minute_few_are_refused_in_the_next_two(
        self, seed: int, start: float, begin: float
    ) -> None:
        begin = max(start, begin)

        worker, other = run_with_other_program(seed, start, begin)

        refused = [*other.refused, *worker.refused]
        assert count_after(begin + 60, refused) <= 5

    @pytest.mark.parametrize("kind", [Key, SlidingKey])
    @few_examples
    @given(seeds, st.integers(2, 4), st.booleans())
    def test_siblings_are_not_taken_for_others_however_they_use_their_shares(
        self, kind: type[Key], seed: int, workers: int, irregular: bool
    ) -> None:
        chance = random.Random(seed)
        timeline = Timeline()
        key = kind(60)
        siblings = []
        for _ in range(workers):
            worker = SimulatedWorker(timeline, key, chance, 2.0)
            worker.budget.set_share(1 / workers)
            if irregular:
                worker.gap = lambda _: chance.choice([0.0, 0.0, 1.0, 20.0])
            timeline.at(chance.uniform(0, 30), worker.poll)
            siblings.append(worker)
        for now in range(10, 200, 10):
            timeline.run(now)
            for worker in siblings:
                assert other_clients(worker.budget, now) == 0
                assert limit_of(worker.budget, now) == 60 // workers
        assert not any(worker.refused for worker in siblings)

    @pytest.mark.parametrize("kind", [Key, SlidingKey])
    @few_examples
    @given(seeds, st.integers(2, 3))
    def test_siblings_make_room_together(
        self, kind: type[Key], seed: int, workers: int
    ) -> None:
        chance = random.Random(seed)
        timeline = Timeline()
        key = kind(60)
        other = OtherProgram(timeline, key, EVENLY)
        siblings = []
        for _ in range(workers):
            worker = SimulatedWorker(timeline, key, chance, 1.0)
            worker.budget.set_share(1 / workers)
            timeline.at(chance.uniform(0, 3), worker.poll)
            siblings.append(worker)
        timeline.run(420)
        assert count_after(120, other.refused) <= 3
        ours = sum(count_after(180, worker.accepted) for worker in siblings)
        assert 4 * 9 <= ours <= 4 * 21


class TestEstimate:
    def test_requests_seen_in_a_window_and_one_more_are_left_to_others(self) -> None:
        budget = Budget(None)
        answer(budget, 44, 30.0, 0.0)
        assert other_clients(budget, 0.0) == 15
        assert available(budget, 0.0) == limit_of(budget, 0.0) == 44
        answer(budget, 33, 20.1, 9.9)
        assert other_clients(budget, 9.9) == 25
        assert available(budget, 9.9) == 34

    def test_until_a_whole_window_is_over_others_are_assumed_to_keep_their_pace(
        self,
    ) -> None:
        """They send every two seconds and we every ten, from half a window on."""
        budget = Budget(None)
        figures = []
        for now, remaining in (
            (30.0, 44),
            (40.0, 38),
            (50.0, 32),
            (70.0, 54),
            (80.0, 48),
            (100.0, 36),
            (119.9, 24),
        ):
            answer(budget, remaining, 60 - now % 60, now)
            figures.append(other_clients(budget, now))
        assert figures == [15, 36, 33, 33, 36, 34, 34]

        # Later a burst is not taken for a pace.
        answer(budget, 54, 50.0, 130.0)
        answer(budget, 34, 40.0, 140.0)
        assert other_clients(budget, 140.0) == 33

    @pytest.mark.parametrize("rounding", [0.0, 2.0, -2.0])
    def test_resets_that_differ_by_rounding_are_of_the_same_window(
        self, rounding: float
    ) -> None:
        budget = Budget(None)
        answer(budget, 44, 30.0, 30.0)
        answer(budget, 38, 20.0 + rounding, 40.0)

        # Two answers in a window show a pace, a single one does not.
        assert other_clients(budget, 40.0) >= 36

    def test_burst_in_the_first_minute_leaves_us_a_quarter(self) -> None:
        budget = Budget(None)
        answer(budget, 59, 50.0, 10.0)
        answer(budget, 18, 30.0, 30.0)
        assert other_clients(budget, 30.0) == 45
        assert available(budget, 30.0) == 14

    def test_single_request_of_others_is_enough_for_a_margin(self) -> None:
        budget = Budget(None)
        answer(budget, 58, 30.0, 0.0)

        # One request for them, and one that nobody plans with.
        assert other_clients(budget, 0.0) == 1
        assert available(budget, 0.0) == 58

    def test_window_whose_reset_is_past_was_seen_to_its_end(self) -> None:
        budget = Budget(None)
        answer(budget, 39, -30.0, 0.0)
        assert other_clients(budget, 0.0) == 20

    def test_our_requests_that_may_be_of_the_window_are_not_of_others(self) -> None:
        budget = Budget(None)
        # The window begins at 100, give or take the two seconds of rounding.
        send(budget, 5, 97.0)
        send(budget, 7, 98.5)
        budget.start(50.0)
        answer(budget, 40, 30.0, 130.0)
        assert other_clients(budget, 130.0) == 20 - 7 - 1 - 1

    def test_our_requests_are_known_for_longer_than_a_minute(self) -> None:
        budget = Budget(None)
        permit = budget.start(0.0)
        send(budget, 7, 0.0)
        budget.end(70.0)
        figures = RateLimit(60, 40, EPOCH + 60.0)
        budget.learn(permit, figures, EPOCH + 1.0, 70.0)
        assert other_clients(budget, 70.0) == 20 - 7 - 1
        permit = budget.start(121.0)
        budget.end(121.0)
        figures = RateLimit(60, 40, EPOCH + 121.0)
        budget.learn(permit, figures, EPOCH + 121.0, 121.0)
        assert other_clients(budget, 121.0) == 20 - 1 - 1

    def test_cap_below_the_rest_stays(self) -> None:
        budget = Budget(30)
        answer(budget, 39, 30.0, 0.0)
        assert other_clients(budget, 0.0) == 20
        assert available(budget, 0.0) == 30
        answer(budget, 18, 30.0, 0.0)
        assert other_clients(budget, 0.0) == 40
        assert available(budget, 0.0) == 19

    def test_others_are_remembered_through_the_next_window(self) -> None:
        budget = Budget(None)
        answer(budget, 19, 1.0, 59.0)
        answer(budget, 59, 59.0, 61.0)
        assert other_clients(budget, 61.0) == 41
        assert other_clients(budget, 119.9) == 41
        assert other_clients(budget, 120.0) == 0

    def test_after_a_break_nothing_is_known_of_others(self) -> None:
        budget = Budget(None)
        answer(budget, 39, 30.0, 0.0)
        answer(budget, 59, 60.0, 200.0)
        assert other_clients(budget, 200.0) == 0

    @pytest.mark.parametrize(
        ("seen_seconds", "estimate"),
        [
            (5.0, 36),
            (30.0, 36),
            (45.0, 24),
            (50.0, 22),
            (60.0, 18),
        ],
        ids=str,
    )
    def test_unseen_end_of_a_window_is_like_the_rest_but_for_half_at_most(
        self, seen_seconds: float, estimate: int
    ) -> None:
        budget = Budget(None)
        answer(budget, 60 - 18 - 1, 60 - seen_seconds, seen_seconds)
        assert other_clients(budget, seen_seconds) == 18
        assert other_clients(budget, 60.0) == estimate

    def test_window_is_seen_until_its_last_answer(self) -> None:
        budget = Budget(None)
        answer(budget, 60 - 18 - 1, 50.0, 10.0)
        answer(budget, 60 - 18 - 2, 0.0, 60.0)
        assert other_clients(budget, 60.0) == 18

    @pytest.mark.parametrize(
        ("others", "left_to_them"),
        [
            (7, 40),
            (29, 40),
            (30, 40),
            (45, 50),
            (59, 60),
        ],
    )
    def test_if_the_key_was_used_up_others_are_left_more_than_they_had(
        self, others: int, left_to_them: int
    ) -> None:
        budget = Budget(None)
        send(budget, 60 - others - 1, 0.0)
        answer(budget, 0, 30.0, 1.0)
        assert other_clients(budget, 1.0) == left_to_them
        assert available(budget, 1.0) == max(60 - left_to_them - 1, 1)

    def test_key_used_up_mostly_by_us_is_no_reason_to_yield(self) -> None:
        budget = Budget(None)
        # Ours are 54 and theirs 6: a tenth of the limit is left to chance anyway.
        send(budget, 53, 0.0)
        answer(budget, 0, 30.0, 1.0)
        assert other_clients(budget, 1.0) == 6

    def test_figures_of_more_than_a_minute_say_nothing_about_others(self) -> None:
        budget = Budget(None)
        answer(budget, 10, 3600.0, 0.0)
        assert other_clients(budget, 0.0) == 0

        # A minute, if the reset is rounded.
        answer(budget, 10, 62.0, 0.0)
        assert other_clients(budget, 0.0) > 0

    def test_remainder_of_an_unknown_limit_says_nothing_about_others(self) -> None:
        budget = Budget(50)
        answer(budget, 10, 30.0, 0.0, limit=None)
        assert other_clients(budget, 0.0) == 0
        assert available(budget, 0.0) == 50


class TestSiblings:
    def test_requests_that_siblings_may_send_are_not_of_others(self) -> None:
        budget = Budget(None)
        budget.set_share(0.25)
        answer(budget, 60 - 45 - 1, 30.0, 0.0)
        assert other_clients(budget, 0.0) == 0
        answer(budget, 60 - 45 - 2 - 3, 30.0, 0.0)
        assert other_clients(budget, 0.0) == 3

    def test_requests_that_siblings_may_send_of_a_cap_are_not_of_others(self) -> None:
        # Siblings have the same configuration, and so the same cap.
        budget = Budget(20)
        budget.set_share(0.25)
        answer(budget, 60 - 18 - 1, 30.0, 0.0)
        assert other_clients(budget, 0.0) == 3

    def test_use_by_the_previous_owner_is_not_of_others(self) -> None:
        budget = Budget(None)
        budget.set_share(1.0, [TakenOverShare(1.0, 1, 60.0)])
        answer(budget, 0, 30.0, 0.0)
        assert other_clients(budget, 30.0) == 0

    def test_previous_owner_is_not_of_others_even_if_there_were_some(self) -> None:
        budget = Budget(None)
        answer(budget, 39, 30.0, 0.0)
        budget.set_share(1.0, [TakenOverShare(1.0, 1, 61.0)])
        answer(budget, 15, 60.0, 31.0)

        # Twice the number that half a window showed.
        assert other_clients(budget, 31.0) == 40

    def test_siblings_are_assumed_to_yield_as_we_do_if_there_are_others(self) -> None:
        budget = Budget(None)
        budget.set_share(0.5)
        answer(budget, 60 - 1 - 30 - 20, 3.0, 57.0)
        assert other_clients(budget, 57.0) == 20

        # One request is ours, and one a sibling's.
        answer(budget, 60 - 1 - 31, 30.0, 90.0)
        assert other_clients(budget, 90.0) == 30
