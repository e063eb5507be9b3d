"""Invariant 4: never more requests than the budget, whatever happens.

The estimate of the use by other programs is in `test_other_clients.py`.
"""

from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from connector.core.decode import RateLimit
from connector.upstream.budget import Budget, TakenOverShare
from connector.upstream.budget.budget import DEFAULT_LIMIT_PER_MINUTE
from tests.support.budget_simulation import (
    EPOCH,
    Key,
    Request,
    SimulatedGroup,
    SimulatedWorker,
    Timeline,
    answer,
    answer_without_limit,
    arrivals,
    available,
    in_minute_from,
    limit_of,
    most_in_a_minute,
    send,
    start_allowed,
    wait_seconds,
)
from tests.support.profiles import cases

examples = cases(200)
seeds = st.integers(0, 2**32)

# The count changes around a minute, so try such lengths and pauses often.
typical_seconds = st.sampled_from([0.0, 0.1, 5.0, 59.5, 60.0, 70.0])
request_seconds = typical_seconds | st.floats(0, 90)
counted_after_part = st.floats(0, 1)
any_request = st.builds(Request, request_seconds, counted_after_part)
requests_of_any_length = st.lists(any_request, min_size=1, max_size=40)
typical_pauses = st.sampled_from([0.0, 0.0, 0.0, 1.0, 30.0, 60.0])
any_pause = typical_pauses | st.floats(0, 70)
pauses_between = st.lists(any_pause, min_size=1, max_size=10)

small_numbers = st.none() | st.integers(-9, 9)
any_figures = st.builds(
    RateLimit,
    small_numbers,
    small_numbers,
    st.none() | st.floats(EPOCH - 99, EPOCH + 99),
)


class TestSlidingMinute:
    @examples
    @given(requests_of_any_length, pauses_between, st.integers(1, 7))
    def test_no_sliding_minute_of_the_server_holds_more_than_the_budget(
        self, requests: list[Request], pauses: list[float], limit: int
    ) -> None:
        counted = arrivals(Budget(limit), requests, pauses)
        assert most_in_a_minute(counted) <= limit

    @examples
    @given(requests_of_any_length, st.integers(1, 20), st.floats(0.01, 1))
    def test_no_sliding_minute_holds_more_than_a_share_of_the_budget(
        self, requests: list[Request], limit: int, share: float
    ) -> None:
        budget = Budget(limit)
        budget.set_share(share)
        counted = arrivals(budget, requests, [0.0])
        assert most_in_a_minute(counted) <= max(limit * share, 1)

    def test_whole_budget_can_be_used_at_once_and_again_a_minute_after_the_answers(
        self,
    ) -> None:
        budget = Budget(3)
        assert start_allowed(budget, 100.0) == 3
        for _ in range(3):
            budget.end(102.0)
        assert wait_seconds(budget, 110.0) == pytest.approx(52.0)
        assert wait_seconds(budget, 162.0) == 0

    def test_wait_ends_when_enough_requests_are_a_minute_old(self) -> None:
        budget = Budget(None)
        answer(budget, None, 0.0, 0.0, limit=2)
        answer(budget, None, 0.0, 10.0, limit=2)
        assert wait_seconds(budget, 20.0) == pytest.approx(40.0)
        answer(budget, None, 0.0, 20.0, limit=1)
        assert wait_seconds(budget, 20.0) == pytest.approx(60.0)

    def test_with_all_requests_in_flight_the_wait_is_unknown(self) -> None:
        budget = Budget(1)
        permit = budget.start(0.0)
        assert wait_seconds(budget, 0.0) == 1
        assert wait_seconds(budget, 500.0) == 1
        budget.end(500.0)
        budget.learn(permit, RateLimit(), EPOCH + 500, 500.0)
        assert wait_seconds(budget, 500.0) == 60

    def test_requests_of_the_last_minute_and_those_in_flight_are_counted(self) -> None:
        budget = Budget(None)
        budget.start(0.0)
        send(budget, 3, 0.0)
        assert budget.spending(59.0).sent_last_minute == 4
        assert budget.spending(60.0).sent_last_minute == 1

    def test_memory_is_bounded(self) -> None:
        budget = Budget(None)
        for now in range(1_000):
            answer(budget, 30, 1.0, now)
            budget.spending(now)
        # Two minutes of requests, and a window for each of the last answers.
        sent = budget._sent
        assert len(sent._ended_last_minute) + len(sent._ended_earlier) <= 121
        assert len(budget._windows._windows) <= 61
        assert len(budget._others._windows) <= 61

    def test_most_of_the_limit_is_planned_with(self) -> None:
        budget = Budget(100)
        assert budget.spending(0.0).planned_per_minute == pytest.approx(90)
        budget.set_share(0.0)
        assert budget.spending(0.0).planned_per_minute == pytest.approx(0.9)


class TestLimit:
    @pytest.mark.parametrize(
        ("cap", "from_server", "limit"),
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
    def test_server_sets_the_limit_and_the_configuration_caps_it(
        self, cap: int | None, from_server: int | None, limit: int
    ) -> None:
        budget = Budget(cap)
        answer(budget, None, 0.0, 0.0, limit=from_server)
        assert limit_of(budget, 0.0) == available(budget, 0.0) == limit

    def test_limit_follows_the_server_and_stays_if_an_answer_has_none(self) -> None:
        budget = Budget(60)
        for from_server, limit in (
            (30, 30),
            (None, 30),
            (120, 60),
            (None, 60),
        ):
            answer(budget, None, 0.0, 0.0, limit=from_server)
            assert limit_of(budget, 0.0) == limit

    @examples
    @given(st.lists(any_figures))
    def test_server_never_raises_the_cap_and_never_stops_us_for_good(
        self, answers: list[RateLimit]
    ) -> None:
        budget = Budget(5)
        for figures in answers:
            permit = budget.start(0.0)
            budget.end(0.0)
            budget.learn(permit, figures, EPOCH, 0.0)
            assert 1 <= limit_of(budget, 0.0) <= 5
        assert wait_seconds(budget, 60.0) == 0
        counted = arrivals(budget, [Request()] * 12, [0.0])
        assert most_in_a_minute(counted) <= 5


class TestRemaining:
    def test_nothing_starts_while_nothing_remains(self) -> None:
        budget = Budget(None)
        answer_without_limit(budget, 0, 12.5, 100.0)
        assert wait_seconds(budget, 100.0) == pytest.approx(12.5)
        assert wait_seconds(budget, 112.0) == pytest.approx(0.5)
        assert wait_seconds(budget, 112.5) == 0

    def test_requests_started_since_reduce_it(self) -> None:
        budget = Budget(None)
        answer_without_limit(budget, 2, 30.0, 0.0)
        assert start_allowed(budget, 1.0) == 2

    @examples
    @given(st.integers(0, 5), st.lists(st.booleans(), max_size=12))
    def test_it_is_never_exceeded_before_the_reset_with_or_without_answers(
        self, remaining: int, with_figures: list[bool]
    ) -> None:
        budget = Budget(None)
        answer_without_limit(budget, remaining, 30.0, 0.0)
        started = 0
        for has_figures in with_figures:
            if wait_seconds(budget, 1.0) > 0:
                break
            started += 1
            left = remaining - started if has_figures else None
            answer_without_limit(budget, left, 29.0, 1.0)
        assert started == min(remaining, len(with_figures))

    @pytest.mark.parametrize("reset_differs_by", [0.0, 2.0, -2.0])
    def test_overtaken_answer_does_not_raise_it(self, reset_differs_by: float) -> None:
        budget = Budget(None)
        # The server answers `early` first, but we receive `late` first.
        early = budget.start(0.0)
        late = budget.start(0.0)
        reset = EPOCH + 30
        late_figures = RateLimit(None, 1, reset)
        early_figures = RateLimit(None, 2, reset + reset_differs_by)
        for permit, figures in ((late, late_figures), (early, early_figures)):
            budget.end(1.0)
            budget.learn(permit, figures, EPOCH + 1, 1.0)
        assert wait_seconds(budget, 1.0) > 0

    def test_server_may_count_a_request_in_flight_after_it_wrote_the_figure(
        self,
    ) -> None:
        budget = Budget(None)
        budget.start(0.0)
        answer_without_limit(budget, 3, 30.0, 1.0)
        assert start_allowed(budget, 1.0) == 2

    def test_figure_includes_requests_that_had_ended_before(self) -> None:
        budget = Budget(None)
        send(budget, 5, 0.0)
        answer_without_limit(budget, 3, 30.0, 1.0)
        assert start_allowed(budget, 1.0) == 3

    def test_late_answer_of_the_previous_minute_does_not_reduce_this_one(self) -> None:
        budget = Budget(None)
        late = budget.start(0.0)
        answer_without_limit(budget, 50, 59.0, 1.0)
        budget.end(2.0)
        budget.learn(late, RateLimit(None, 0, EPOCH), EPOCH - 1, 2.0)
        assert wait_seconds(budget, 3.0) == 0

    @pytest.mark.parametrize(
        ("resets_in", "wait"),
        [
            (-5.0, 0.0),
            (0.0, 0.0),
            (3600.0, 60.0),
        ],
    )
    def test_reset_is_believed_for_a_minute_at_most(
        self, resets_in: float, wait: float
    ) -> None:
        budget = Budget(None)
        answer_without_limit(budget, 0, resets_in, 0.0)
        assert wait_seconds(budget, 0.0) == wait

    def test_later_of_two_estimates_of_a_reset_counts(self) -> None:
        budget = Budget(None)
        for server_at in (EPOCH + 10, EPOCH + 12):
            permit = budget.start(10.0)
            budget.end(10.0)
            budget.learn(permit, RateLimit(None, 0, EPOCH + 60), server_at, 10.0)
        assert wait_seconds(budget, 10.0) == 50

    @pytest.mark.parametrize(
        "figures",
        [
            RateLimit(None, 0, None),
            RateLimit(None, None, EPOCH + 50),
        ],
    )
    def test_incomplete_figures_stop_nothing(self, figures: RateLimit) -> None:
        budget = Budget(None)
        permit = budget.start(0.0)
        budget.end(0.0)
        budget.learn(permit, figures, EPOCH, 0.0)
        assert wait_seconds(budget, 0.0) == 0

    @examples
    @given(
        seeds,
        st.integers(2, 10),
        st.integers(0, 10),
        st.floats(0, 59.9),
        st.floats(0.1, 12),
    )
    def test_alone_with_the_key_nothing_is_refused_after_the_first_answer(
        self, seed: int, limit: int, used_before: int, start: float, max_seconds: float
    ) -> None:
        """Requests may take long, and be counted and answered in any order."""
        chance = random.Random(seed)
        timeline = Timeline()
        key = Key(limit)
        key.accepted[0] = min(used_before, limit)
        worker = SimulatedWorker(timeline, key, chance, max_seconds)
        worker.gap = lambda _: chance.choice([0.0, 0.0, 0.1, 3.0])

        # The first answer shows the earlier use of the key.
        worker.send(start)
        timeline.run(worker.last_end)
        worker.refused.clear()

        timeline.at(worker.last_end, worker.poll)
        timeline.run(start + 200)
        assert worker.refused == []
        assert len(worker.accepted) >= limit


class TestPause:
    def test_nothing_starts_before_the_end_of_the_longest(self) -> None:
        budget = Budget(None)
        budget.pause(15.0)
        budget.pause(12.0)
        assert wait_seconds(budget, 10.0) == 5
        assert wait_seconds(budget, 15.0) == 0
        assert budget.spending(10.0).paused_until == 15.0

    def test_it_runs_at_the_same_time_as_another_wait(self) -> None:
        budget = Budget(1)
        send(budget, 1, 0.0)
        budget.pause(5.0)
        assert wait_seconds(budget, 0.0) == 60
        budget.pause(70.0)
        assert wait_seconds(budget, 0.0) == 70


class TestShares:
    @examples
    @given(st.integers(1, 60), st.integers(1, 8))
    def test_shares_do_not_add_up_to_more_than_the_whole(
        self, limit: int, workers: int
    ) -> None:
        limits = []
        for _ in range(workers):
            budget = Budget(limit)
            budget.set_share(1 / workers)
            limits.append(limit_of(budget, 0.0))
        assert sum(limits) <= max(limit, workers)
        assert limits == [max(limit // workers, 1)] * workers

    def test_worker_without_a_share_sends_nothing(self) -> None:
        budget = Budget(None)
        budget.set_share(0.0)
        assert wait_seconds(budget, 0.0) > 0
        budget.set_share(0.5, [TakenOverShare(0.5, 2, 60.0)])
        budget.set_share(0.0)
        assert wait_seconds(budget, 0.0) > 0

    def test_first_requests_go_at_once_and_the_rest_when_the_previous_use_is_over(
        self,
    ) -> None:
        budget = Budget(None)
        budget.set_share(0.5, [TakenOverShare(0.5, 4, 130.0)])
        assert start_allowed(budget, 100.0) == 4
        assert start_allowed(budget, 129.9) == 0
        assert start_allowed(budget, 130.0) == 30 - 4

    def test_take_over_leaves_the_share_owned_before(self) -> None:
        budget = Budget(None)
        budget.set_share(0.25)
        budget.set_share(1.0, [TakenOverShare(0.75, 3, 60.0)])
        assert start_allowed(budget, 1.0) == 15 + 3

    def test_take_overs_end_one_by_one(self) -> None:
        budget = Budget(None)
        first = TakenOverShare(0.5, 1, 20.0)
        second = TakenOverShare(0.5, 1, 40.0)
        budget.set_share(1.0, [first, second])
        assert start_allowed(budget, 0.0) == 2
        assert start_allowed(budget, 20.0) == 31 - 2
        assert start_allowed(budget, 40.0) == 60 - 31

    def test_finished_take_over_leaves_the_whole_share(self) -> None:
        budget = Budget(None)
        budget.set_share(0.5, [TakenOverShare(0.5, 1, 100.0)])
        assert start_allowed(budget, 100.0) == 30

    def test_first_requests_are_no_more_than_the_share(self) -> None:
        budget = Budget(4)
        budget.set_share(0.5, [TakenOverShare(0.5, 3, 60.0)])
        assert start_allowed(budget, 0.0) == 2

    def test_share_shrinks_at_once(self) -> None:
        budget = Budget(None)
        budget.set_share(1.0)
        send(budget, 20, 0.0)
        budget.set_share(1 / 3)
        assert wait_seconds(budget, 1.0) == pytest.approx(59.0)

    def test_lost_batches_take_along_their_previous_use(self) -> None:
        budget = Budget(None)
        kept = TakenOverShare(0.25, 1, 60.0)
        lost = TakenOverShare(0.25, 1, 60.0)
        budget.set_share(0.75, [kept, lost])
        assert limit_of(budget, 0.0) == 15 + 2
        budget.set_share(0.5, [kept])
        assert limit_of(budget, 0.0) == 15 + 1

        # Only the shard that was taken over is left.
        budget.set_share(0.25, [kept])
        assert limit_of(budget, 0.0) == 1
        assert limit_of(budget, 60.0) == 15

    def test_use_by_previous_owners_is_passed_on_and_fades(self) -> None:
        budget = Budget(None)
        budget.set_share(1.0, [TakenOverShare(0.5, 4, 160.0)])
        send(budget, 3, 100.0)
        used = []
        for now in (100.0, 130.0, 159.0, 160.0):
            requests = 60 * budget.spending(now).used_fraction
            used.append(round(requests, 1))
        assert used == [33, 18, 3.5, 0]

    @examples
    @given(st.integers(0, 60), st.integers(1, 6), st.booleans())
    def test_successors_of_a_worker_have_together_the_rest_of_its_budget(
        self, sent: int, successors: int, dies: bool
    ) -> None:
        """The worker dies, or keeps a part like theirs."""
        before = Budget(None)
        before.set_share(1.0)
        send(before, sent, 0.0)
        used_fraction = before.spending(1.0).used_fraction

        # All of them start as many requests as they may, at the same moment.
        workers = successors if dies else successors + 1
        share = 1 / workers
        sending = []
        for _ in range(successors):
            budget = Budget(None)
            taken_over = TakenOverShare(share * used_fraction, 0, 61.0)
            budget.set_share(share, [taken_over])
            sending.append(budget)
        if not dies:
            before.set_share(share)
            sending.append(before)
        more = sum(start_allowed(budget, 1.0) for budget in sending)
        assert sent + more <= 60

    def test_shards_that_change_hands_often_do_not_use_up_the_budget_by_it(
        self,
    ) -> None:
        """Each worker has the key for ten seconds and sends twice."""
        used_fraction = 0.0
        limits = []
        for turn in range(30):
            now = 10.0 * turn
            budget = Budget(None)
            budget.set_share(1.0, [TakenOverShare(used_fraction, 1, now + 60)])
            limits.append(limit_of(budget, now))
            send(budget, 2, now + 5)
            used_fraction = budget.spending(now + 10).used_fraction
        assert min(limits) > 40

    def test_share_of_less_than_a_request_is_one_request(self) -> None:
        budget = Budget(None)
        budget.set_share(0.001)
        assert start_allowed(budget, 0.0) == 1

    @examples
    @given(seeds, st.integers(0, 1), st.floats(0, 8))
    def test_hand_overs_and_deaths_never_exceed_the_budget_and_the_first_requests(
        self, seed: int, first_requests: int, max_seconds: float
    ) -> None:
        group = SimulatedGroup(random.Random(seed), first_requests, max_seconds)
        group.run(240.0)
        counted: list[float] = []
        for worker in group.workers:
            counted.extend(worker.accepted)
        for start in counted:
            allowed = group.budget_per_minute
            for take_over in group.take_overs:
                if take_over.at < start + 60 and start < take_over.until:
                    allowed += take_over.first_requests
            assert in_minute_from(start, counted) <= allowed
        assert len(counted) > group.budget_per_minute
