"""The schedule of checks, call by call.

Simulations over hours are in `test_schedule_in_virtual_time.py`.
"""

from __future__ import annotations

import pytest
from msgspec.structs import replace

from connector.core.model import MICROS
from connector.schedule.batches import Batch
from connector.schedule.checks import (
    SLOW_RETRY_SECONDS,
    CheckSettings,
    Outcome,
    Purpose,
)
from connector.schedule.scheduler import Schedule
from connector.schedule.symbols import ComputedTimes, Refresh
from tests.support.schedule_world import (
    create_schedule,
    next_at,
    next_check,
    numbered,
)

A = Batch("f", ("A",))
B = Batch("f", ("B",))
C = Batch("f", ("C",))
PAIR = Batch("f", ("A", "B"))


def refused(symbol: str) -> Batch:
    """Return the batch of a symbol that the upstream refuses."""
    return Batch("f", (symbol,), refused=True)


def covering(*batches: Batch, chance: float = 0.5) -> Schedule:
    """Return a schedule of these batches, from the moment 0 on."""
    schedule = create_schedule(chance=chance)
    schedule.set_batches(batches, 0.0)
    return schedule


def computed(**seconds: float) -> ComputedTimes:
    """Return the moments of an answer, from an upstream whose clock is ours."""
    computed_at = {}
    for symbol, at in seconds.items():
        computed_at[symbol] = round(at * MICROS)
    return ComputedTimes(computed_at, 0.0)


def check(
    schedule: Schedule,
    batch: Batch,
    sent_at: float,
    now: float | None = None,
    outcome: Outcome = Outcome.ANSWERED,
    times: ComputedTimes | None = None,
) -> list[Refresh]:
    """Check a batch. The request ends at once, unless `now` says when."""
    if now is None:
        now = sent_at
    schedule.start_check(batch, sent_at)
    return schedule.finish_check(batch, outcome, sent_at, now, times)


def due_at(schedule: Schedule, batch: Batch) -> float:
    """Return the moment of a batch's next check."""
    at = schedule.next_check_at(batch)
    assert at is not None
    return at


def last_refresh(schedule: Schedule, symbol: str) -> float | None:
    """Return the last refresh that a symbol's forecast has learnt."""
    forecast = schedule.forecast("f", symbol)
    assert forecast is not None
    return forecast.last


# --- first checks ---


def test_without_batches_no_check_is_planned() -> None:
    schedule = covering()
    assert schedule.next() is None
    schedule.set_batches([A], 5.0)
    assert next_at(schedule) == 5.0
    assert schedule.next_check_at(A) == 5.0
    assert schedule.next_check_at(B) is None


@pytest.mark.parametrize(("budget", "pause"), [(20.0, 2.0), (120.0, 0.5)])
def test_first_checks_are_spread_no_more_than_the_budget_requires(
    budget: float, pause: float
) -> None:
    settings = CheckSettings(min_interval_seconds=2)
    schedule = create_schedule(budget, settings=settings)
    schedule.set_batches([Batch("f", (name,)) for name in "ABCDEFGH"], 0.0)
    moments = []
    for _ in range(8):
        at, batch = next_check(schedule)
        moments.append(at)
        assert schedule.start_check(batch, at) is Purpose.FIRST
    assert schedule.next() is None
    assert moments == [pause * number for number in range(8)]


def test_each_check_has_its_purpose() -> None:
    schedule = covering(A, refused("B"))
    assert schedule.start_check(A, 0.0) is Purpose.FIRST
    schedule.finish_check(A, Outcome.ANSWERED, 0.0, 0.1)
    assert schedule.start_check(A, 1.0) is Purpose.SEARCH
    schedule.finish_check(A, Outcome.FAILED, 1.0, 1.1)
    assert schedule.start_check(A, 2.0) is Purpose.RETRY

    # Three refreshes make a rhythm.
    for sent_at in (10.0, 40.0, 70.0):
        times = computed(A=sent_at - 1)
        schedule.finish_check(A, Outcome.ANSWERED, sent_at, sent_at, times)
    assert schedule.start_check(A, 80.0) is Purpose.EXPECTED
    schedule.finish_check(A, Outcome.DEFERRED, 80.0, 80.0)
    assert schedule.start_check(A, 81.0) is Purpose.RETRY
    assert schedule.start_check(refused("B"), 81.0) is Purpose.REFUSED


# --- refreshes ---


def test_a_seeded_refresh_is_not_found_again() -> None:
    schedule = create_schedule()
    schedule.set_batches([A], 100.0)
    history = [30 * MICROS, 60 * MICROS, 90 * MICROS]
    schedule.seed_history("f", "A", history, 0.0)
    assert check(schedule, A, 100.0, now=100.1, times=computed(A=90)) == []
    forecast = schedule.forecast("f", "A")
    assert forecast is not None
    assert forecast.last == 90
    assert forecast.period == pytest.approx(30)
    assert 105 < next_at(schedule) < 125


def after_history(*refreshes_at: int) -> Schedule:
    """Return a schedule that knows these refreshes of A from others, and has seen one at 99."""
    schedule = create_schedule()
    schedule.set_batches([A], 100.0)
    history = [at * MICROS for at in refreshes_at]
    schedule.seed_history("f", "A", history, 0.0)
    check(schedule, A, 100.0, now=100.1, times=computed(A=99))
    return schedule


# Nobody knows how often the symbol was refreshed in between.
@pytest.mark.parametrize("history", [(64,), (34, 64)])
def test_an_outage_between_two_refreshes_is_no_period(history: tuple[int, ...]) -> None:
    schedule = after_history(*history)
    forecast = schedule.forecast("f", "A")
    assert forecast is not None
    assert forecast.period is None
    assert schedule.start_check(A, 101.0) is Purpose.SEARCH


@pytest.mark.parametrize("history", [(60, 95, 96), (60, 61, 62, 97)])
def test_an_outage_in_a_history_does_not_lengthen_the_period(
    history: tuple[int, ...],
) -> None:
    forecast = after_history(*history).forecast("f", "A")
    assert forecast is not None
    assert forecast.period == pytest.approx(1, abs=0.1)


def test_a_refresh_is_found_once_but_not_by_the_first_check_of_a_symbol() -> None:
    schedule = covering(PAIR)

    def found(sent_at: float, times: ComputedTimes) -> list[Refresh]:
        return check(schedule, PAIR, sent_at, now=sent_at + 0.1, times=times)

    assert found(0.0, computed(A=1)) == []
    assert found(10.0, computed(A=1, B=9)) == [Refresh("B", 0.0)]
    # B is older than before, and nobody asked for C.
    assert found(20.0, computed(A=19, B=8, C=1)) == [Refresh("A", 10.0)]
    assert found(30.0, computed()) == []
    assert found(40.0, computed(A=39)) == [Refresh("A", 30.0)]


def test_a_copy_does_not_show_that_no_refresh_came_since() -> None:
    schedule = covering(A)
    check(schedule, A, 1.0, times=computed(A=0.0))
    # A cache serves the same answer, although the upstream may have a newer one.
    check(schedule, A, 40.0, times=replace(computed(A=0.0), is_copy=True))

    found = check(schedule, A, 50.0, times=computed(A=30.0))

    assert found == [Refresh("A", 1.0)]


@pytest.mark.parametrize(
    ("overtaken_times", "found_by_overtaken"),
    [
        # The overtaken request reached the upstream last, and shows the refresh.
        (computed(A=9), [Refresh("A", 5.0)]),
        (computed(), []),
    ],
)
def test_a_refresh_became_visible_after_the_last_check_that_did_not_show_it(
    overtaken_times: ComputedTimes, found_by_overtaken: list[Refresh]
) -> None:
    """The answer to a request is overtaken by one that was sent after a regrouping."""
    schedule = covering(A)
    check(schedule, A, 0.0)
    schedule.start_check(A, 3.0)
    schedule.set_batches([PAIR], 4.0)
    assert check(schedule, PAIR, 5.0, now=8.0, times=computed()) == []

    found = schedule.finish_check(A, Outcome.ANSWERED, 3.0, 10.0, overtaken_times)
    assert found == found_by_overtaken
    found = check(schedule, PAIR, 20.0, times=computed(A=19))
    assert found == [Refresh("A", 5.0)]


# --- changes of the batches ---


def test_a_regrouped_batch_is_checked_when_the_first_of_its_symbols_was_due() -> None:
    schedule = covering(A, B)
    check(schedule, A, 0.0, times=computed(A=0.000_001))
    check(schedule, B, 10.0, times=computed(B=10.000_001))
    first_due_at = min(due_at(schedule, A), due_at(schedule, B))
    schedule.set_batches([PAIR], 20.0)
    assert due_at(schedule, PAIR) == first_due_at


def test_a_batch_that_stays_keeps_its_plan() -> None:
    schedule = covering(A)
    check(schedule, A, 0.0, now=0.1)
    planned_at = next_at(schedule)
    schedule.set_batches([A], 0.2)
    assert next_at(schedule) == planned_at
    schedule.set_batches([A, B], 0.3)
    assert due_at(schedule, A) == planned_at


def test_a_batch_in_flight_is_not_started_again() -> None:
    schedule = covering(A)
    schedule.start_check(A, 0.0)
    assert schedule.next() is None
    assert schedule.next_check_at(A) is None
    schedule.set_batches([A], 100.0)
    schedule.set_budget(1.0, 100.0)
    schedule.resume_with_new_key(100.0)
    assert schedule.next() is None
    schedule.finish_check(A, Outcome.ANSWERED, 0.0, 100.0)
    assert next_at(schedule) >= 100.0


def test_a_batch_removed_and_added_again_in_flight_is_not_started_again() -> None:
    schedule = covering(A, B)
    schedule.start_check(A, 0.0)
    schedule.set_batches([B], 1.0)
    schedule.set_batches([A, B], 2.0)
    schedule.start_check(B, 2.0)
    assert schedule.next() is None
    schedule.finish_check(A, Outcome.ANSWERED, 0.0, 3.0)
    _, batch = next_check(schedule)
    assert batch == A


def test_a_batch_removed_in_flight_is_forgotten_when_its_request_ends() -> None:
    schedule = covering(A)
    schedule.start_check(A, 0.0)
    schedule.set_batches([], 1.0)
    assert schedule.finish_check(A, Outcome.FAILED, 0.0, 2.0) == []
    assert schedule.next() is None
    schedule.set_batches([A], 3.0)
    assert next_at(schedule) == 3.0


def test_an_answer_is_learnt_even_if_its_batch_was_regrouped_meanwhile() -> None:
    schedule = covering(PAIR)
    schedule.start_check(PAIR, 0.5)
    schedule.set_batches([A, B], 1.0)
    schedule.finish_check(PAIR, Outcome.ANSWERED, 0.5, 1.5, computed(A=1))
    assert last_refresh(schedule, "A") == 1.0


# --- failures ---


def test_failures_back_off_with_full_jitter() -> None:
    waits = []
    for chance in (0.0, 0.25, 0.5, 0.75):
        schedule = covering(A, chance=chance)
        for _ in range(10):
            check(schedule, A, 0.0, outcome=Outcome.FAILED)
        waits.append(next_at(schedule))
    assert waits == [0.25, 8, 16, 24]


def test_each_failure_doubles_the_longest_wait() -> None:
    schedule = covering(A, chance=1.0)
    waits = []
    for _ in range(8):
        check(schedule, A, 5.0, now=10.0, outcome=Outcome.FAILED)
        waits.append(next_at(schedule) - 10)
    assert waits == [2, 4, 8, 16, 32, 32, 32, 32]


@pytest.mark.parametrize("batch", [A, refused("A")], ids=["healthy", "refused"])
def test_thousands_of_failures_do_not_make_the_wait_overflow(batch: Batch) -> None:
    schedule = covering(batch)
    for _ in range(5_000):
        check(schedule, batch, 0.0, outcome=Outcome.FAILED)
    assert next_at(schedule) <= 60


def test_an_answer_ends_the_back_off() -> None:
    schedule = covering(A, chance=0.99)
    for _ in range(9):
        check(schedule, A, 100.0, now=100.1, outcome=Outcome.FAILED)
    check(schedule, A, 100.0, now=100.1)
    check(schedule, A, 100.0, now=100.1, outcome=Outcome.FAILED)
    assert next_at(schedule) <= 100.1 + 2


def test_a_deferred_check_is_due_as_soon_as_the_pause_ends() -> None:
    schedule = covering(A, chance=0.99)
    for _ in range(5):
        check(schedule, A, 10.0, now=10.1, outcome=Outcome.DEFERRED)
    assert next_at(schedule) == 10.1
    schedule.pause(50.0)
    assert next_at(schedule) == 50.0
    check(schedule, A, 50.0, now=50.1, outcome=Outcome.FAILED)
    assert next_at(schedule) <= 52.1, "a deferred check does not count as a failure"


def test_an_answer_that_needs_another_one_is_followed_by_it_whatever_the_pace() -> None:
    schedule = covering(A)
    schedule.set_budget(0.1, 0.0)

    check(schedule, A, 0.0, now=0.1, outcome=Outcome.UNCONFIRMED)

    # Later than a second: a cache would answer with the same timestamp.
    assert 1.1 < next_at(schedule) <= 2.0
    assert schedule.start_check(A, 2.0) is Purpose.FIRST


def test_a_slow_answer_does_not_make_two_checks_at_once() -> None:
    schedule = covering(A)
    check(schedule, A, 0.0, now=30.0)
    assert next_at(schedule) >= 30.0


# --- refused symbols ---


def test_a_refused_symbol_is_tried_rarely() -> None:
    only = refused("A")
    schedule = covering(only, chance=0.0)
    moments = []
    for outcome in (Outcome.FAILED, Outcome.DEFERRED, Outcome.ANSWERED, Outcome.FAILED):
        at = next_at(schedule)
        moments.append(at)
        # Each request takes a second.
        check(schedule, only, at, now=at + 1, outcome=outcome)
    first = SLOW_RETRY_SECONDS
    step = SLOW_RETRY_SECONDS + 1
    assert moments == [first, first + step, first + 2 * step, first + 3 * step]


def test_many_refused_symbols_take_a_tenth_of_the_budget_at_most() -> None:
    schedule = create_schedule(54)
    others = [refused(name) for name in numbered(60)]
    schedule.set_batches([A, *others], 0.0)
    checks_of_refused = 0
    now = 0.0
    while now < 3_600:
        at, batch = next_check(schedule)
        now = max(at, now)
        if batch.refused:
            checks_of_refused += 1
        check(schedule, batch, now, now=now + 0.01)
    assert checks_of_refused <= 60 * 5.4 * 1.2


def test_refused_symbols_that_are_found_one_by_one_share_a_part_of_the_budget() -> None:
    schedule = create_schedule(54)
    batches = [A]
    # Halving finds refused symbols one at a time, and each is a batch of its own.
    for name in numbered(100):
        batches.append(refused(name))
        schedule.set_batches(batches, 0.0)

    moments = [due_at(schedule, batch) for batch in batches[1:]]
    # A tenth of 54 requests a minute, and not one minute for all of them.
    assert len([at for at in moments if at < 120]) <= 12


def test_refused_symbols_do_not_lengthen_the_longest_wait_of_the_others() -> None:
    schedule = create_schedule(budget=1.0)
    others = [refused(name) for name in "RSTUV"]
    schedule.set_batches([A, *others], 0.0)
    check(schedule, A, 0.0, now=0.1)
    # Two rounds of one batch, at a request a minute.
    assert due_at(schedule, A) <= 120


# --- pauses ---


def test_a_pause_delays_every_batch_until_it_ends() -> None:
    schedule = covering(A, B)
    schedule.pause(50.0)
    assert next_at(schedule) == due_at(schedule, A) == 50.0
    schedule.pause(20.0)
    assert next_at(schedule) == 50.0
    schedule.set_batches([A, B, C], 10.0)
    assert next_at(schedule) == 50.0
    check(schedule, A, 0.0, now=10.0)
    assert next_at(schedule) == 50.0


def test_a_new_key_ends_the_pause_for_the_key_and_makes_every_batch_due() -> None:
    schedule = covering(A, B)
    check(schedule, A, 0.0, now=0.1)
    check(schedule, B, 0.0, now=0.1)
    schedule.pause_for_key(50.0)
    assert next_at(schedule) == due_at(schedule, A) == 50.0
    schedule.resume_with_new_key(0.2)
    assert next_at(schedule) == 0.2
    assert due_at(schedule, A) == 0.2
    assert due_at(schedule, B) == 0.2


def test_a_new_key_ends_every_pause() -> None:
    schedule = covering(A)
    schedule.pause(50.0)
    schedule.pause_for_key(60.0)

    # The server asked the user of the previous key to wait.
    schedule.resume_with_new_key(1.0)
    assert next_at(schedule) == 0.0


# --- price ---


def test_the_price_can_be_fixed_for_measurements() -> None:
    schedule = Schedule(CheckSettings(), lambda: 0.5, fixed_price=7.0)
    schedule.set_batches([A], 0.0)
    check(schedule, A, 0.0, now=0.1)
    schedule.set_budget(1.0, 0.2)
    assert schedule.price == 7
