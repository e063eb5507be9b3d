"""The schedule of checks against simulated upstreams, in virtual time."""

from __future__ import annotations

from itertools import pairwise
from statistics import mean
from typing import TYPE_CHECKING

import pytest

from connector.core.model import MICROS
from connector.schedule.batches import Batch
from connector.schedule.checks import CheckSettings, Outcome
from tests.bench.schedule.burst import ROW, compare
from tests.bench.schedule.policies import fixed_mean
from tests.support.schedule_world import (
    PLENTY,
    create_schedule,
    create_world,
    grid,
    next_at,
    numbered,
    own_phases,
    together,
)

if TYPE_CHECKING:
    from collections.abc import Sequence

    from tests.support.schedule_world import World

# A target that no budget of the tests can meet.
SHORT_TARGET = CheckSettings(target_delay_seconds=0.05)


def intervals(moments: Sequence[float]) -> list[float]:
    """Return the time between each moment and the next."""
    return [later - sooner for sooner, later in pairwise(moments)]


def before(end: float, moments: Sequence[float]) -> list[float]:
    return [at for at in moments if at < end]


def outside(start: float, end: float, moments: Sequence[float]) -> list[float]:
    return [at for at in moments if not start <= at < end]


def in_pairs(*pairs: str) -> list[Batch]:
    """Return batches of symbols that are a letter each."""
    return [Batch("f", tuple(pair)) for pair in pairs]


# --- delay and cost ---


def test_refreshes_at_the_same_time_are_seen_within_the_target() -> None:
    world = create_world(together()).run(3_600)
    assert 0.2 < world.mean_delay(600) < 0.55
    assert world.checks(600) / 50 < 6


def test_refreshes_at_different_times_are_seen_within_the_target() -> None:
    world = create_world(own_phases()).run(3_600)
    assert 0.2 < world.mean_delay(600) < 0.55
    assert world.checks(600) / 50 < 20


@pytest.mark.parametrize(
    ("target", "most_per_minute"), [(1.5, 9.0), (0.4, 20.0), (0.15, 54.0)]
)
def test_a_longer_target_delay_costs_fewer_checks(
    target: float, most_per_minute: float
) -> None:
    settings = CheckSettings(target_delay_seconds=target)
    world = create_world(own_phases(), settings=settings).run(3_600)
    assert world.mean_delay(600) < target * 1.35
    assert world.checks(600) / 50 <= most_per_minute


@pytest.mark.parametrize("period", [5.0, 10.0, 60.0])
def test_any_period_is_followed(period: float) -> None:
    world = create_world(together("AB", period)).run(3_600)
    assert world.mean_delay(900) < 0.6
    assert world.checks(900) < 2_700 / period * 3


def test_no_batch_is_checked_faster_than_the_shortest_interval() -> None:
    settings = CheckSettings(target_delay_seconds=0.01, min_interval_seconds=0.4)
    refreshes = own_phases("ABCD", 5.0)
    world = create_world(refreshes, size=2, budget=PLENTY, settings=settings)
    world.run(100)
    for batch in world.batches:
        moments = world.sent_for(batch)
        assert len(moments) > 50
        assert min(intervals(moments)) >= 0.4 - 1e-9


def test_no_batch_waits_longer_than_the_longest_interval_if_the_budget_allows_it() -> (
    None
):
    settings = CheckSettings(max_interval_seconds=20)
    world = create_world({"A": [5.0, 35.0, 65.0]}, settings=settings).run(7_200)
    (only,) = world.batches
    assert max(intervals(world.sent_for(only))) <= 20.5


# --- budget ---


@pytest.mark.parametrize("budget", [3.0, 10.0, 30.0])
@pytest.mark.parametrize("count", [4, 24])
def test_a_budget_is_kept(budget: float, count: int) -> None:
    refreshes = own_phases(numbered(count))
    world = create_world(refreshes, size=4, budget=budget, settings=SHORT_TARGET)
    world.run(3_600)
    for start in range(600, 3_600, 600):
        assert world.checks(start, start + 600) <= budget * 10 * 1.15 + 1
    assert world.checks(600) >= budget * 50 * 0.6


def test_the_first_minutes_keep_to_the_budget_except_for_first_checks() -> None:
    world = create_world(own_phases(numbered(40)), budget=20).run(600)
    first_checks = 5
    assert world.checks(0) <= first_checks + 20 * 10 * 1.25


@pytest.mark.parametrize("limit", [30.0, 60.0, 120.0])
@pytest.mark.parametrize("start", [0.0, 240.0])
def test_a_budget_that_binds_is_spread_and_sees_no_less_than_a_fixed_poller(
    limit: float, start: float
) -> None:
    """Compare with eight symbols, 5 s ± 1 s, under the hard limit of a sliding minute."""
    end = start + 240
    pairs = [compare(ROW, seed, limit, start, end) for seed in (1, 2, 3, 4)]
    even_per_bin = limit / 6
    for ours, fixed in pairs:
        assert ours.least_per_bin >= 0.5 * even_per_bin
        assert ours.most_per_bin <= 1.3 * even_per_bin
        assert ours.requests >= 0.84 * limit * 4
        assert ours.worst < 1 + 1.5 * 60 / limit
        assert ours.seen >= 0.99 * fixed.seen

    # Over all phases, a fixed poller's mean is half an interval. Chance moves ours by 2 %.
    fixed_delay = mean(fixed_mean(ours.requests / 4, 1) for ours, _ in pairs)
    assert mean(ours.mean for ours, _ in pairs) <= 1.03 * fixed_delay
    assert mean(ours.p95 for ours, _ in pairs) <= 1.03 * 1.9 * fixed_delay


def test_a_budget_that_is_scarcer_than_refreshes_is_kept_and_spent_evenly() -> None:
    world = create_world(own_phases(numbered(32)), budget=4).run(7_000)
    checks = world.checks(3_400, 7_000)
    assert checks <= 4 * 60 * 1.1
    assert checks < 4 * 120, "less than one check a refresh"

    counts = []
    for batch in world.batches:
        counts.append(len([at for at in world.sent_for(batch) if at > 3_400]))
    assert min(counts) > 0.5 * max(counts)


def test_a_target_of_zero_keeps_the_budget_and_its_delay_is_that_of_a_target_near_it() -> (
    None
):
    zero = CheckSettings(target_delay_seconds=0.0)
    near_zero = CheckSettings(target_delay_seconds=0.001)
    free = create_world(own_phases(), settings=zero).run(3_600)
    near = create_world(own_phases(), settings=near_zero).run(3_600)
    assert free.checks(600) <= 54 * 50 * 1.1
    assert free.mean_delay(600) <= near.mean_delay(600) * 1.2


def test_a_larger_budget_replans_waiting_checks() -> None:
    world = create_world(own_phases(numbered(16)), budget=2).run(3_600)
    schedule = world.schedule
    assert world.checks(3_000) <= 2 * 10 * 1.3

    due_before = [schedule.next_check_at(batch) for batch in world.batches]
    schedule.set_budget(40, world.now)
    due_after = [schedule.next_check_at(batch) for batch in world.batches]
    assert due_after != due_before
    for later, sooner in zip(due_before, due_after, strict=True):
        if sooner is not None and later is not None:
            assert sooner <= later
    assert next_at(schedule) >= world.now

    world.run(3_900)
    assert world.checks(3_660) > 4 * 10


@pytest.mark.parametrize("at", [14.0, 16.0, 20.0])
def test_a_larger_budget_ends_the_wait_for_another_symbol_of_the_batch(
    at: float,
) -> None:
    """A is visible since 10, and was to be checked together with B at 22."""
    refreshes = {
        "A": grid(jitter=0.1, phase=10, seed=1),
        "B": grid(jitter=0.1, phase=22, seed=2),
    }
    world = create_world(refreshes, budget=1.8, settings=SHORT_TARGET)
    world.run(3_600 + at)
    assert world.checks(3_600) == 0
    (only,) = world.batches
    due_before = world.schedule.next_check_at(only)
    assert due_before is not None
    assert due_before > 3_621

    world.schedule.set_budget(PLENTY, world.now)
    due_after = world.schedule.next_check_at(only)
    assert due_after is not None
    assert world.now <= due_after < world.now + 1


def test_a_smaller_budget_raises_the_price_at_once() -> None:
    world = create_world(own_phases(), budget=20, settings=SHORT_TARGET).run(3_600)
    price_before = world.schedule.price
    world.schedule.set_budget(5, world.now)
    assert world.schedule.budget_per_minute == 5
    assert world.schedule.price == pytest.approx(16 * price_before, rel=0.05)
    world.run(4_200)
    assert world.checks(3_600) <= 5 * 10 * 1.6
    world.run(5_400)
    assert world.checks(4_200) <= 5 * 20 * 1.1


def test_the_same_budget_again_changes_no_plan() -> None:
    world = create_world(own_phases(), budget=20).run(600)
    due_before = next_at(world.schedule)
    world.schedule.set_budget(20, world.now)
    world.schedule.set_budget(20.5, world.now)
    assert next_at(world.schedule) == due_before


def test_the_price_follows_the_number_of_symbols_at_once() -> None:
    refreshes = own_phases("ABCDEFGH")
    world = create_world(refreshes, size=1, budget=10, settings=SHORT_TARGET)
    all_batches = world.batches
    half = all_batches[:4]
    world.batches = half
    world.run(3_600)
    price_before = world.schedule.price
    world.cover(all_batches)
    assert world.schedule.price == pytest.approx(4 * price_before, rel=0.1)
    world.cover(half)
    assert world.schedule.price == pytest.approx(price_before, rel=0.1)


# --- clocks and lags ---


@pytest.mark.parametrize("lag", [0.5, 1.5])
def test_the_visibility_lag_is_learnt(lag: float) -> None:
    world = create_world(together())
    world.lag = lag
    world.run(5_400)
    assert world.schedule.lag_seconds == pytest.approx(lag, abs=0.3)
    assert world.mean_delay(1_800) < 0.6
    assert world.checks(1_800) / 60 < 6


@pytest.mark.parametrize("wrong", [-2.0, 3.0])
def test_a_wrong_estimate_of_the_upstreams_clock_does_no_harm(wrong: float) -> None:
    world = create_world(together())
    world.ahead = lambda _: wrong
    world.run(5_400)
    assert world.schedule.lag_seconds == pytest.approx(-wrong, abs=0.3)
    assert world.mean_delay(1_800) < 0.6
    assert world.checks(1_800) / 60 < 6


@pytest.mark.parametrize("ahead", [2.7, 1e6, 1.8e9])
def test_a_known_offset_of_the_upstreams_clock_changes_nothing(ahead: float) -> None:
    in_step = create_world(together()).run(1_800)
    offset = create_world(together())
    offset.ahead = lambda _: ahead
    offset.believed = offset.ahead
    offset.run(1_800)
    assert offset.checks(0) == pytest.approx(in_step.checks(0), rel=0.05)
    delay_in_step = in_step.mean_delay(600)
    assert offset.mean_delay(600) == pytest.approx(delay_in_step, rel=0.15)


@pytest.mark.parametrize("step", [-5.0, 20.0, 300.0])
def test_the_schedule_recovers_from_a_known_step_of_the_upstreams_clock(
    step: float,
) -> None:
    world = create_world(together())
    world.ahead = lambda at: 0.0 if at < 1_800 else step
    world.believed = world.ahead
    world.run(4_000)
    assert world.mean_delay(2_400) < 0.55
    assert world.checks(2_400) / (1_600 / 60) < 6


@pytest.mark.parametrize("step", [-2.0, 2.0])
def test_the_schedule_recovers_from_an_unknown_step_of_the_upstreams_clock(
    step: float,
) -> None:
    world = create_world(together())
    world.ahead = lambda at: 0.0 if at < 1_800 else step
    world.run(6_000)
    assert world.mean_delay(3_600) < 0.6


# --- silence and changes ---


@pytest.mark.parametrize("count", [1, 2])
def test_a_symbol_that_is_never_refreshed_is_checked_less_and_less(count: int) -> None:
    """Checks of such a symbol do not help to meet the target, however many there are."""
    silent: dict[str, list[float]] = {name: [] for name in numbered(count)}
    world = create_world(silent, size=1).run(7_200)
    assert world.checks(0, 60) > 3 * count
    per_minute = []
    for start in (600, 3_600, 6_600):
        per_minute.append(world.checks(start, start + 600) / 10)
    assert per_minute == sorted(per_minute, reverse=True)
    assert per_minute[1] < 10 * count
    for batch in world.batches:
        assert max(intervals(world.sent_for(batch))) < 61


def test_a_search_for_silent_symbols_does_not_take_the_whole_budget() -> None:
    """A closed market means hours without a refresh."""
    moments = before(1_800, grid())
    world = create_world(dict.fromkeys("ABCD", moments)).run(7_200)
    assert world.checks(5_400) / 30 < 20


def test_a_symbol_that_is_never_refreshed_does_not_delay_the_others() -> None:
    refreshes = together("ABC")
    refreshes["D"] = []
    world = create_world(refreshes).run(3_600)
    assert world.mean_delay(1_200) < 0.55
    assert world.checks(1_200) / 40 < 8


def test_refreshes_are_soon_seen_again_after_an_outage_of_ten_minutes() -> None:
    moments = outside(1_800, 2_400, grid())
    world = create_world(dict.fromkeys("ABCD", moments)).run(3_600)
    assert world.mean_delay(2_400, 2_460) < 20
    assert world.mean_delay(2_520) < 0.7
    assert world.checks(1_800, 2_400) < 54 * 10


def test_a_new_period_is_followed() -> None:
    moments = before(1_800, grid())
    moments += [at + 1_800 for at in grid(20.0, seed=5)]
    world = create_world(dict.fromkeys("ABCD", moments)).run(3_600)
    assert world.mean_delay(2_000) < 0.7


def test_a_batch_that_backs_off_does_not_delay_the_others() -> None:
    world = create_world(own_phases("AB"), size=1)
    failing, _ = world.batches

    def fail_one(batch: Batch) -> Outcome:
        return Outcome.FAILED if batch == failing else Outcome.ANSWERED

    world.outcome = fail_one
    world.schedule = create_schedule(54.0, chance=0.9)
    world.run(1_800)
    assert len(world.sent_for(failing)) < 1_800 / 25
    assert world.mean_delay(600) < 0.6


# --- history ---


def after_take_over(*, with_history: bool) -> World:
    """Return a world in which a worker took symbols over at 1,000 s, and ran for 65 s."""
    clock_ahead = 50.0
    refreshes = own_phases("AB")
    world = create_world(refreshes)
    world.ahead = lambda _: clock_ahead
    world.believed = world.ahead
    world.now = 1_000.0
    world.schedule.set_batches(world.batches, world.now)
    for symbol, moments in refreshes.items():
        history = []
        if with_history:
            for at in before(1_000, moments)[-16:]:
                history.append(round((at + clock_ahead) * MICROS))
        world.schedule.seed_history("f", symbol, history, clock_ahead)
    return world.run(1_065)


def test_the_history_of_a_predecessor_improves_the_first_checks() -> None:
    known = after_take_over(with_history=True)
    unknown = after_take_over(with_history=False)
    for world in (known, unknown):
        refreshed = 0
        for moments in world.refreshes.values():
            refreshed += len([at for at in moments if 1_000 <= at < 1_060])
        found = [seen for seen in world.seen if seen.visible_at >= 1_000]
        assert len(found) >= refreshed
    assert known.mean_delay(1_000) < 0.8
    assert known.mean_delay(1_000) < unknown.mean_delay(1_000)
    assert known.checks(1_000) < unknown.checks(1_000)


def test_a_seeded_history_does_not_replace_observed_refreshes() -> None:
    world = create_world(together("A")).run(600)
    forecast = world.schedule.forecast("f", "A")
    assert forecast is not None
    last_before = forecast.last
    history = [MICROS, 2 * MICROS]
    world.schedule.seed_history("f", "A", history, 0.0)
    world.schedule.seed_history("f", "unknown", history, 0.0)
    assert forecast.last == last_before
    assert world.schedule.forecast("f", "unknown") is None


# --- regrouping ---


def test_symbols_keep_their_forecasts_when_they_change_batches() -> None:
    world = create_world(own_phases(), size=2).run(1_800)
    forecasts = [world.schedule.forecast("f", symbol) for symbol in "ABCD"]
    world.cover(in_pairs("AC", "BD"))
    assert [world.schedule.forecast("f", symbol) for symbol in "ABCD"] == forecasts
    world.run(1_900)
    assert world.mean_delay(1_800) < 0.8
    assert world.checks(1_800) < 60


def test_a_new_grouping_does_not_check_everything_at_once() -> None:
    """Symbols with a known state need no first check."""
    world = create_world(together(), size=2).run(1_810)
    world.cover(in_pairs("AC", "BD"))
    assert next_at(world.schedule) > 1_820


def test_a_symbol_that_was_removed_and_added_again_is_unknown() -> None:
    world = create_world(together("AB"), size=1).run(600)
    both = world.batches
    world.cover(both[:1])
    assert world.schedule.forecast("f", "B") is None
    world.cover(both)
    forecast = world.schedule.forecast("f", "B")
    assert forecast is not None
    assert forecast.period is None
    assert next_at(world.schedule) == 600
