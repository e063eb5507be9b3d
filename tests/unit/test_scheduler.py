"""The schedule of checks, against simulated upstreams in virtual time and call by call."""

from __future__ import annotations

import heapq
from dataclasses import dataclass, field
from itertools import pairwise
from random import Random
from statistics import mean
from typing import TYPE_CHECKING

import pytest

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
from tests.bench.schedule.burst import ROW, compare
from tests.bench.schedule.policies import fixed_mean

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

PLENTY = 60_000.0
# The server reads its levels in the middle of a request.
REQUEST_SECONDS = 0.05


def grid(
    period: float = 30.0,
    jitter: float = 0.3,
    phase: float = 7.0,
    seed: int = 1,
    hours: float = 2,
) -> list[float]:
    """Return the moments of a symbol's refreshes."""
    chance = Random(seed)
    moments = []
    for number in range(int(hours * 3_600 / period)):
        at = phase + number * period + chance.gauss(0, jitter)
        moments.append(max(at, 0.1 + number / 1_000))
    return moments


@dataclass
class World:
    """An upstream and a schedule that checks it, in virtual time.

    `lag` is the time until a refresh is visible. `ahead` is the upstream's clock minus
    ours, and `believed` our estimate of it. `delays` are pairs for each refresh that was
    found or overtaken: when it was visible, and the seconds until a check showed it.
    """

    schedule: Schedule
    refreshes: Mapping[str, Sequence[float]]
    batches: Sequence[Batch]
    lag: float = 0.0
    ahead: Callable[[float], float] = lambda _: 0.0
    believed: Callable[[float], float] = lambda _: 0.0
    outcome: Callable[[Batch, float], Outcome] = lambda _, __: Outcome.ANSWERED
    now: float = 0.0
    sent: list[tuple[float, Batch]] = field(default_factory=list)
    delays: list[tuple[float, float]] = field(default_factory=list)
    _flying: list[tuple[float, int, Batch, float]] = field(default_factory=list)
    _seen: dict[str, int] = field(default_factory=dict)

    def cover(self, batches: Sequence[Batch]) -> None:
        self.batches = batches
        self.schedule.set_batches(batches, self.now)

    def run(self, until: float) -> World:
        if not self.sent:
            self.schedule.set_batches(self.batches, self.now)
        while True:
            planned = self.schedule.next()
            if self._flying and (
                planned is None or self._flying[0][0] <= max(planned[0], self.now)
            ):
                self._answer(*heapq.heappop(self._flying))
            elif planned is None or max(planned[0], self.now) >= until:
                self.now = until
                return self
            else:
                self.now = max(planned[0], self.now)
                batch = planned[1]
                assert all(batch != flying for _, _, flying, _ in self._flying)
                self.schedule.start_check(batch, self.now)
                self.sent.append((self.now, batch))
                heapq.heappush(
                    self._flying,
                    (self.now + REQUEST_SECONDS, len(self.sent), batch, self.now),
                )

    def _answer(self, ends: float, _: int, batch: Batch, sent: float) -> None:
        self.now = ends
        outcome = self.outcome(batch, sent)
        if outcome is not Outcome.ANSWERED:
            self.schedule.finish_check(batch, outcome, sent, ends)
            return
        dates = {}
        for symbol in batch.symbols:
            moments = self.refreshes.get(symbol, ())
            visible = sum(at + self.lag <= sent + REQUEST_SECONDS / 2 for at in moments)
            if visible:
                at = moments[visible - 1]
                dates[symbol] = round((at + self.ahead(at)) * MICROS)
            for at in moments[self._seen.get(symbol, 0) : visible]:
                self.delays.append((at + self.lag, ends - at - self.lag))
            self._seen[symbol] = max(visible, self._seen.get(symbol, 0))
        self.schedule.finish_check(
            batch,
            Outcome.ANSWERED,
            sent,
            ends,
            ComputedTimes(dates, self.believed(ends)),
        )

    def delay(self, start: float, end: float = float("inf")) -> float:
        return mean(late for at, late in self.delays if start <= at < end)

    def checks(self, start: float, end: float = float("inf")) -> int:
        return len([at for at, _ in self.sent if start <= at < end])


def schedule(
    budget: float = PLENTY, chance: float = 0.5, settings: CheckSettings | None = None
) -> Schedule:
    made = Schedule(settings or CheckSettings(), lambda: chance)
    made.set_budget(budget, 0.0)
    return made


def world(
    refreshes: Mapping[str, Sequence[float]],
    size: int = 8,
    budget: float = 54.0,
    settings: CheckSettings | None = None,
) -> World:
    """Return a world in which `size` symbols share a batch."""
    symbols = sorted(refreshes)
    batches = [
        Batch("f", tuple(symbols[at : at + size]))
        for at in range(0, len(symbols), size)
    ]
    return World(schedule(budget, settings=settings), refreshes, batches)


def together(
    symbols: Iterable[str] = "ABCD", period: float = 30.0, jitter: float = 0.3
) -> dict[str, list[float]]:
    moments = grid(period, jitter)
    return dict.fromkeys(symbols, moments)


def own_phases(
    symbols: Iterable[str] = "ABCD", period: float = 30.0, jitter: float = 0.3
) -> dict[str, list[float]]:
    refreshes = {}
    for number, symbol in enumerate(symbols):
        phase = 3 + 7.3 * number % period
        refreshes[symbol] = grid(period, jitter, phase, seed=number)
    return refreshes


def test_refreshes_at_the_same_time_are_seen_within_the_target() -> None:
    source = world(together()).run(3_600)
    assert 0.2 < source.delay(600) < 0.55
    assert source.checks(600) / 50 < 6


def test_refreshes_at_different_times_are_seen_within_the_target() -> None:
    source = world(own_phases()).run(3_600)
    assert 0.2 < source.delay(600) < 0.55
    assert source.checks(600) / 50 < 20


@pytest.mark.parametrize(("target", "most"), [(1.5, 9.0), (0.4, 20.0), (0.15, 54.0)])
def test_a_longer_target_delay_costs_fewer_checks(target: float, most: float) -> None:
    source = world(own_phases(), settings=CheckSettings(target)).run(3_600)
    assert source.delay(600) < target * 1.35
    assert source.checks(600) / 50 <= most


@pytest.mark.parametrize("period", [5.0, 10.0, 60.0])
def test_any_period_is_followed(period: float) -> None:
    source = world(together("AB", period)).run(3_600)
    assert source.delay(900) < 0.6
    assert source.checks(900) < 2_700 / period * 3


@pytest.mark.parametrize("budget", [3.0, 10.0, 30.0])
@pytest.mark.parametrize("count", [4, 24])
def test_a_budget_is_kept(budget: float, count: int) -> None:
    names = [f"S{number:02d}" for number in range(count)]
    source = world(
        own_phases(names), size=4, budget=budget, settings=CheckSettings(0.05)
    ).run(3_600)
    for start in range(600, 3_600, 600):
        assert source.checks(start, start + 600) <= budget * 10 * 1.15 + 1
    assert source.checks(600) >= budget * 50 * 0.6


def test_the_first_minutes_keep_to_the_budget_except_for_first_checks() -> None:
    names = [f"S{number:02d}" for number in range(40)]
    source = world(own_phases(names), budget=20).run(600)
    assert source.checks(0) <= 5 + 20 * 10 * 1.25


@pytest.mark.parametrize("limit", [30.0, 60.0, 120.0])
@pytest.mark.parametrize("start", [0.0, 240.0])
def test_a_budget_that_binds_is_spread_and_sees_no_less_than_a_fixed_poller(
    limit: float, start: float
) -> None:
    """Compare with eight symbols, 5 s ± 1 s, under the hard limit of a sliding minute."""
    end = start + 240
    pairs = [compare(ROW, seed, limit, start, end) for seed in (1, 2, 3, 4)]
    for ours, fixed in pairs:
        even = limit / 6
        assert 0.5 * even <= ours.least_per_bin
        assert ours.most_per_bin <= 1.3 * even
        assert ours.requests >= 0.84 * limit * 4
        assert ours.worst < 1 + 1.5 * 60 / limit
        assert ours.seen >= 0.99 * fixed.seen

    # Over all phases, a fixed poller's mean is half an interval. Chance moves ours by 2 %.
    fixed_delay = mean(fixed_mean(ours.requests / 4, 1) for ours, _ in pairs)
    assert mean(ours.mean for ours, _ in pairs) <= 1.03 * fixed_delay
    assert mean(ours.p95 for ours, _ in pairs) <= 1.03 * 1.9 * fixed_delay


def test_a_budget_that_is_scarcer_than_refreshes_is_kept_and_spent_evenly() -> None:
    names = [f"S{number:02d}" for number in range(32)]
    source = world(own_phases(names), budget=4).run(7_000)
    assert source.checks(3_400, 7_000) <= 4 * 60 * 1.1
    counts = [
        sum(at > 3_400 and sent == batch for at, sent in source.sent)
        for batch in source.batches
    ]
    assert min(counts) > 0.5 * max(counts)
    assert source.checks(3_400, 7_000) < 4 * 120, "less than one check a refresh"


def test_no_batch_is_checked_faster_than_the_shortest_interval() -> None:
    source = world(
        own_phases("ABCD", 5.0),
        size=2,
        budget=PLENTY,
        settings=CheckSettings(0.01, 0.4),
    ).run(100)
    for batch in source.batches:
        moments = [at for at, sent in source.sent if sent == batch]
        assert all(later - sooner >= 0.4 - 1e-9 for sooner, later in pairwise(moments))
        assert len(moments) > 50


def test_no_batch_waits_longer_than_the_longest_interval_if_the_budget_allows_it() -> (
    None
):
    source = world(
        {"A": [5.0, 35.0, 65.0]}, settings=CheckSettings(max_interval_seconds=20)
    ).run(7_200)
    moments = [at for at, _ in source.sent]
    assert all(later - sooner <= 20.5 for sooner, later in pairwise(moments))


@pytest.mark.parametrize("lag", [0.5, 1.5])
def test_the_visibility_lag_is_learnt(lag: float) -> None:
    source = world(together())
    source.lag = lag
    source.run(5_400)
    assert source.schedule.lag_seconds == pytest.approx(lag, abs=0.3)
    assert source.delay(1_800) < 0.6
    assert source.checks(1_800) / 60 < 6


@pytest.mark.parametrize("wrong", [-2.0, 3.0])
def test_a_wrong_estimate_of_the_upstreams_clock_does_no_harm(wrong: float) -> None:
    source = world(together())
    source.ahead = lambda _: wrong
    source.run(5_400)
    assert source.schedule.lag_seconds == pytest.approx(-wrong, abs=0.3)
    assert source.delay(1_800) < 0.6
    assert source.checks(1_800) / 60 < 6


@pytest.mark.parametrize("ahead", [2.7, 1e6, 1.8e9])
def test_a_known_offset_of_the_upstreams_clock_changes_nothing(ahead: float) -> None:
    source = world(together()).run(1_800)
    plain = world(together())
    plain.ahead = plain.believed = lambda _: ahead
    plain.run(1_800)
    assert plain.checks(0) == pytest.approx(source.checks(0), rel=0.05)
    assert plain.delay(600) == pytest.approx(source.delay(600), rel=0.15)


@pytest.mark.parametrize("step", [-5.0, 20.0, 300.0])
def test_the_schedule_recovers_from_a_known_step_of_the_upstreams_clock(
    step: float,
) -> None:
    source = world(together())
    source.ahead = source.believed = lambda at: 0.0 if at < 1_800 else step
    source.run(4_000)
    assert source.delay(2_400) < 0.55
    assert source.checks(2_400) / (1_600 / 60) < 6


@pytest.mark.parametrize("step", [-2.0, 2.0])
def test_the_schedule_recovers_from_an_unknown_step_of_the_upstreams_clock(
    step: float,
) -> None:
    source = world(together())
    source.ahead = lambda at: 0.0 if at < 1_800 else step
    source.run(6_000)
    assert source.delay(3_600) < 0.6


@pytest.mark.parametrize("count", [1, 2])
def test_a_symbol_that_is_never_refreshed_is_checked_less_and_less(count: int) -> None:
    """Checks of such a symbol do not help to meet the target, however many there are."""
    source = world({f"S{number}": [] for number in range(count)}, size=1).run(7_200)
    assert source.checks(0, 60) > 3 * count
    minutes = [source.checks(start, start + 600) / 10 for start in (600, 3_600, 6_600)]
    assert minutes == sorted(minutes, reverse=True)
    assert minutes[1] < 10 * count
    for batch in source.batches:
        moments = [at for at, sent in source.sent if sent == batch]
        assert max(later - sooner for sooner, later in pairwise(moments)) < 61


def test_a_search_for_silent_symbols_does_not_take_the_whole_budget() -> None:
    """A closed market means hours without a refresh."""
    moments = [at for at in grid() if at < 1_800]
    source = world(dict.fromkeys("ABCD", moments)).run(7_200)
    assert source.checks(5_400) / 30 < 20


def test_a_symbol_that_is_never_refreshed_does_not_delay_the_others() -> None:
    source = world({**together("ABC"), "D": []}).run(3_600)
    assert source.delay(1_200) < 0.55
    assert source.checks(1_200) / 40 < 8


def test_refreshes_are_soon_seen_again_after_an_outage_of_ten_minutes() -> None:
    moments = [at for at in grid() if not 1_800 <= at < 2_400]
    source = world(dict.fromkeys("ABCD", moments)).run(3_600)
    assert source.delay(2_400, 2_460) < 20
    assert source.delay(2_520) < 0.7
    assert source.checks(1_800, 2_400) < 54 * 10


def test_a_new_period_is_followed() -> None:
    before = [at for at in grid() if at < 1_800]
    after = [at + 1_800 for at in grid(20.0, seed=5)]
    source = world(dict.fromkeys("ABCD", before + after)).run(3_600)
    assert source.delay(2_000) < 0.7


def test_the_history_of_a_predecessor_improves_the_first_checks() -> None:
    refreshes = own_phases("AB")
    after = {
        symbol: [at for at in moments if at >= 1_000]
        for symbol, moments in refreshes.items()
    }
    delays = []
    for known in (True, False):
        source = world(refreshes)
        source.now = 1_000.0
        source.schedule.set_batches(source.batches, 1_000.0)
        source.ahead = source.believed = lambda _: 50.0
        for symbol, moments in refreshes.items():
            history = [round((at + 50) * MICROS) for at in moments if at < 1_000][-16:]
            source.schedule.seed_history("f", symbol, history if known else (), 50.0)
        source.run(1_065)
        found = sum(at >= 1_000 for at, _ in source.delays)
        assert found >= sum(at < 1_060 for moments in after.values() for at in moments)
        delays.append((source.delay(1_000), source.checks(1_000)))
    assert delays[0][0] < 0.8
    assert delays[0][1] < delays[1][1]
    assert delays[0][0] < delays[1][0]


def test_a_seeded_history_does_not_replace_observed_refreshes() -> None:
    source = world(together("A")).run(600)
    forecast = source.schedule.forecast("f", "A")
    assert forecast is not None
    before = forecast.last
    source.schedule.seed_history("f", "A", [MICROS, 2 * MICROS], 0.0)
    source.schedule.seed_history("f", "unknown", [MICROS, 2 * MICROS], 0.0)
    assert forecast.last == before
    assert source.schedule.forecast("f", "unknown") is None


def test_a_seeded_refresh_is_not_found_again() -> None:
    one = schedule()
    one.set_batches([batch("A")], 100.0)
    one.seed_history("f", "A", [30 * MICROS, 60 * MICROS, 90 * MICROS], 0.0)
    one.start_check(batch("A"), 100.0)
    times = ComputedTimes({"A": 90 * MICROS}, 0.0)
    found = one.finish_check(batch("A"), Outcome.ANSWERED, 100.0, 100.1, times)
    assert found == []
    forecast = one.forecast("f", "A")
    assert forecast is not None
    assert forecast.last == 90
    assert forecast.period == pytest.approx(30)
    assert 105 < moment(one) < 125


def test_a_refresh_is_found_once_but_not_by_the_first_check_of_a_symbol() -> None:
    one = schedule()
    one.set_batches([Batch("f", ("A", "B"))], 0.0)
    pair = Batch("f", ("A", "B"))
    found = []
    for sent, dates in (
        (0.0, {"A": MICROS}),
        (10.0, {"A": MICROS, "B": 9 * MICROS}),
        (20.0, {"A": 19 * MICROS, "B": 8 * MICROS, "C": MICROS}),
        (30.0, {}),
        (40.0, {"A": 39 * MICROS}),
    ):
        one.start_check(pair, sent)
        refreshes = one.finish_check(
            pair, Outcome.ANSWERED, sent, sent + 0.1, ComputedTimes(dates, 0.0)
        )
        found.append([(refresh.symbol, refresh.since) for refresh in refreshes])
    assert found == [[], [("B", 0.0)], [("A", 10.0)], [], [("A", 30.0)]]


@pytest.mark.parametrize(
    ("overtaken_dates", "found_by_overtaken"),
    [
        # The overtaken request reached the upstream last, and shows the refresh.
        ({"A": 9 * MICROS}, [Refresh("A", 5.0)]),
        ({}, []),
    ],
)
def test_a_refresh_became_visible_after_the_last_check_that_did_not_show_it(
    overtaken_dates: dict[str, int], found_by_overtaken: list[Refresh]
) -> None:
    """The answer to a request is overtaken by one that was sent after a regrouping."""
    pair = Batch("f", ("A", "B"))
    one = covering("A")
    check(one, "A", Outcome.ANSWERED, 0.0, 0.1)
    one.start_check(batch("A"), 3.0)
    one.set_batches([pair], 4.0)
    one.start_check(pair, 5.0)
    times = ComputedTimes({}, 0.0)
    assert one.finish_check(pair, Outcome.ANSWERED, 5.0, 8.0, times) == []

    times = ComputedTimes(overtaken_dates, 0.0)
    overtaken = one.finish_check(batch("A"), Outcome.ANSWERED, 3.0, 10.0, times)
    assert overtaken == found_by_overtaken

    one.start_check(pair, 20.0)
    times = ComputedTimes({"A": 19 * MICROS}, 0.0)
    found = one.finish_check(pair, Outcome.ANSWERED, 20.0, 20.1, times)
    assert found == [Refresh("A", 5.0)]


def test_symbols_keep_their_forecasts_when_they_change_batches() -> None:
    source = world(own_phases(), size=2).run(1_800)
    known = {symbol: source.schedule.forecast("f", symbol) for symbol in "ABCD"}
    source.cover([Batch("f", ("A", "C")), Batch("f", ("B", "D"))])
    assert {symbol: source.schedule.forecast("f", symbol) for symbol in "ABCD"} == known
    source.run(1_900)
    assert source.delay(1_800) < 0.8
    assert source.checks(1_800) < 60


def test_a_new_grouping_does_not_check_everything_at_once() -> None:
    """Symbols with a known state need no first check."""
    source = world(together(), size=2).run(1_810)
    source.cover([Batch("f", ("A", "C")), Batch("f", ("B", "D"))])
    assert moment(source.schedule) > 1_820


def test_a_symbol_that_was_removed_and_added_again_is_unknown() -> None:
    source = world(together("AB"), size=1).run(600)
    source.cover([batch("A")])
    assert source.schedule.forecast("f", "B") is None
    source.cover([batch("A"), batch("B")])
    forecast = source.schedule.forecast("f", "B")
    assert forecast is not None
    assert forecast.period is None
    assert moment(source.schedule) == 600


def test_a_larger_budget_replans_waiting_checks() -> None:
    names = [f"S{number:02d}" for number in range(16)]
    source = world(own_phases(names), budget=2).run(3_600)
    assert source.checks(3_000) <= 2 * 10 * 1.3
    before = [source.schedule.next_check_at(one) for one in source.batches]
    source.schedule.set_budget(40, source.now)
    after = [source.schedule.next_check_at(one) for one in source.batches]
    assert all(
        sooner is None or later is None or sooner <= later
        for later, sooner in zip(before, after, strict=True)
    )
    assert before != after
    assert moment(source.schedule) >= source.now
    source.run(3_900)
    assert source.checks(3_660) > 4 * 10


@pytest.mark.parametrize("at", [14.0, 16.0, 20.0])
def test_a_larger_budget_ends_the_wait_for_another_symbol_of_the_batch(
    at: float,
) -> None:
    """A is visible since 10, and was to be checked together with B at 22."""
    source = world(
        {"A": grid(30, 0.1, 10, 1), "B": grid(30, 0.1, 22, 2)},
        budget=1.8,
        settings=CheckSettings(0.05),
    )
    source.run(3_600 + at)
    (only,) = source.batches
    before = source.schedule.next_check_at(only)
    assert before is not None
    assert before > 3_621
    assert source.checks(3_600) == 0
    source.schedule.set_budget(PLENTY, source.now)
    after = source.schedule.next_check_at(only)
    assert after is not None
    assert source.now <= after < source.now + 1


def test_a_smaller_budget_raises_the_price_at_once() -> None:
    source = world(own_phases(), budget=20, settings=CheckSettings(0.05)).run(3_600)
    before = source.schedule.price
    source.schedule.set_budget(5, source.now)
    assert source.schedule.budget_per_minute == 5
    assert source.schedule.price == pytest.approx(16 * before, rel=0.05)
    source.run(4_200)
    assert source.checks(3_600) <= 5 * 10 * 1.6
    source.run(5_400)
    assert source.checks(4_200) <= 5 * 20 * 1.1


def test_the_same_budget_again_changes_no_plan() -> None:
    source = world(own_phases(), budget=20).run(600)
    before = moment(source.schedule)
    source.schedule.set_budget(20, source.now)
    source.schedule.set_budget(20.5, source.now)
    assert moment(source.schedule) == before


def test_the_price_follows_the_number_of_symbols_at_once() -> None:
    source = world(
        own_phases("ABCDEFGH"), size=1, budget=10, settings=CheckSettings(0.05)
    )
    batches = source.batches
    source.batches = batches[:4]
    source.run(3_600)
    before = source.schedule.price
    source.cover(batches)
    assert source.schedule.price == pytest.approx(4 * before, rel=0.1)
    source.cover(batches[:4])
    assert source.schedule.price == pytest.approx(before, rel=0.1)


# --- call by call ---


def batch(name: str, *, refused: bool = False) -> Batch:
    return Batch("f", (name,), refused)


def covering(
    *names: str, chance: float = 0.5, settings: CheckSettings | None = None
) -> Schedule:
    made = schedule(chance=chance, settings=settings)
    made.set_batches([batch(name) for name in names], 0.0)
    return made


def moment(schedule: Schedule) -> float:
    planned = schedule.next()
    assert planned is not None
    return planned[0]


def check(
    schedule: Schedule, name: str, outcome: Outcome, sent: float, now: float
) -> None:
    schedule.start_check(batch(name), sent)
    schedule.finish_check(batch(name), outcome, sent, now)


def test_without_batches_no_check_is_planned() -> None:
    one = covering()
    assert one.next() is None
    one.set_batches([batch("A")], 5.0)
    assert moment(one) == 5.0
    assert one.next_check_at(batch("A")) == 5.0
    assert one.next_check_at(batch("B")) is None


@pytest.mark.parametrize(("budget", "pause"), [(20.0, 2.0), (120.0, 0.5)])
def test_first_checks_are_spread_no_more_than_the_budget_requires(
    budget: float, pause: float
) -> None:
    one = schedule(budget=budget, settings=CheckSettings(min_interval_seconds=2))
    one.set_batches([batch(name) for name in "ABCDEFGH"], 0.0)
    first = []
    for _ in range(8):
        planned = one.next()
        assert planned is not None
        first.append(planned[0])
        assert one.start_check(planned[1], planned[0]) is Purpose.FIRST
    assert one.next() is None
    assert first == [pause * number for number in range(8)]


def test_a_regrouped_batch_is_checked_when_the_first_of_its_symbols_was_due() -> None:
    one = covering("A", "B")
    for name, sent in (("A", 0.0), ("B", 10.0)):
        one.start_check(batch(name), sent)
        times = ComputedTimes({name: int(sent * 1e6) + 1}, 0.0)
        one.finish_check(batch(name), Outcome.ANSWERED, sent, sent, times)
    due = [one.next_check_at(batch(name)) for name in "AB"]
    pair = Batch("f", ("A", "B"), False)
    one.set_batches([pair], 20.0)
    assert one.next_check_at(pair) == min(at for at in due if at is not None)


def test_each_check_has_its_purpose() -> None:
    one = covering("A", "B")
    one.set_batches([batch("A"), batch("B", refused=True)], 0.0)
    assert one.start_check(batch("A"), 0.0) is Purpose.FIRST
    one.finish_check(batch("A"), Outcome.ANSWERED, 0.0, 0.1)
    assert one.start_check(batch("A"), 1.0) is Purpose.SEARCH
    one.finish_check(batch("A"), Outcome.FAILED, 1.0, 1.1)
    assert one.start_check(batch("A"), 2.0) is Purpose.RETRY
    for sent in (10.0, 40.0, 70.0):
        times = ComputedTimes({"A": round((sent - 1) * MICROS)}, 0.0)
        one.finish_check(batch("A"), Outcome.ANSWERED, sent, sent, times)
    assert one.start_check(batch("A"), 80.0) is Purpose.EXPECTED
    one.finish_check(batch("A"), Outcome.DEFERRED, 80.0, 80.0)
    assert one.start_check(batch("A"), 81.0) is Purpose.RETRY
    assert one.start_check(batch("B", refused=True), 81.0) is Purpose.REFUSED


def test_a_batch_in_flight_is_not_started_again() -> None:
    one = covering("A")
    one.start_check(batch("A"), 0.0)
    assert one.next() is None
    assert one.next_check_at(batch("A")) is None
    one.set_batches([batch("A")], 100.0)
    one.set_budget(1.0, 100.0)
    one.resume_with_new_key(100.0)
    assert one.next() is None
    one.finish_check(batch("A"), Outcome.ANSWERED, 0.0, 100.0)
    assert moment(one) >= 100.0


def test_a_batch_removed_and_added_again_in_flight_is_not_started_again() -> None:
    one = covering("A", "B")
    one.start_check(batch("A"), 0.0)
    one.set_batches([batch("B")], 1.0)
    one.set_batches([batch("A"), batch("B")], 2.0)
    one.start_check(batch("B"), 2.0)
    assert one.next() is None
    one.finish_check(batch("A"), Outcome.ANSWERED, 0.0, 3.0)
    planned = one.next()
    assert planned is not None
    assert planned[1] == batch("A")


def test_a_batch_removed_in_flight_is_forgotten_when_its_request_ends() -> None:
    one = covering("A")
    one.start_check(batch("A"), 0.0)
    one.set_batches([], 1.0)
    assert one.finish_check(batch("A"), Outcome.FAILED, 0.0, 2.0) == []
    assert one.next() is None
    one.set_batches([batch("A")], 3.0)
    assert moment(one) == 3.0


def test_failures_back_off_with_full_jitter() -> None:
    waits = []
    for chance in (0.0, 0.25, 0.5, 0.75):
        one = covering("A", chance=chance)
        for _ in range(10):
            check(one, "A", Outcome.FAILED, 0.0, 0.0)
        waits.append(moment(one))
    assert waits == [0.25, 8, 16, 24]


def test_each_failure_doubles_the_longest_wait() -> None:
    one = covering("A", chance=1.0)
    waits = []
    for _ in range(8):
        check(one, "A", Outcome.FAILED, 5.0, 10.0)
        waits.append(moment(one) - 10)
    assert waits == [2, 4, 8, 16, 32, 32, 32, 32]


def test_a_batch_that_backs_off_does_not_delay_the_others() -> None:
    source = world(own_phases("AB"), size=1)
    source.outcome = lambda one, _: (
        Outcome.FAILED if one == batch("A") else Outcome.ANSWERED
    )
    source.schedule = schedule(54.0, chance=0.9)
    source.run(1_800)
    assert sum(one == batch("A") for _, one in source.sent) < 1_800 / 25
    assert source.delay(600) < 0.6


@pytest.mark.parametrize("refused", [False, True])
def test_thousands_of_failures_do_not_make_the_wait_overflow(refused: bool) -> None:
    one = schedule()
    only = batch("A", refused=refused)
    one.set_batches([only], 0.0)
    for _ in range(5_000):
        one.start_check(only, 0.0)
        one.finish_check(only, Outcome.FAILED, 0.0, 0.0)
    assert moment(one) <= 60


def test_an_answer_ends_the_back_off() -> None:
    one = covering("A", chance=0.99)
    for outcome in (*[Outcome.FAILED] * 9, Outcome.ANSWERED, Outcome.FAILED):
        check(one, "A", outcome, 100.0, 100.1)
    assert moment(one) <= 100.1 + 2


def test_a_deferred_check_is_due_as_soon_as_the_pause_ends() -> None:
    one = covering("A", chance=0.99)
    for _ in range(5):
        check(one, "A", Outcome.DEFERRED, 10.0, 10.1)
    assert moment(one) == 10.1
    one.pause(50.0)
    assert moment(one) == 50.0
    check(one, "A", Outcome.FAILED, 50.0, 50.1)
    assert moment(one) <= 52.1, "a deferred check does not count as a failure"


def test_a_refused_symbol_is_tried_rarely() -> None:
    one = schedule(chance=0.0)
    only = batch("A", refused=True)
    moments = []
    one.set_batches([only], 0.0)
    for outcome in (Outcome.FAILED, Outcome.DEFERRED, Outcome.ANSWERED, Outcome.FAILED):
        now = moment(one)
        moments.append(now)
        one.start_check(only, now)
        one.finish_check(only, outcome, now, now + 1)
    assert moments == [
        SLOW_RETRY_SECONDS + number * (SLOW_RETRY_SECONDS + 1) for number in range(4)
    ]


def test_a_pause_delays_every_batch_until_it_ends() -> None:
    one = covering("A", "B")
    one.pause(50.0)
    assert moment(one) == one.next_check_at(batch("A")) == 50.0
    one.pause(20.0)
    assert moment(one) == 50.0
    one.set_batches([batch("A"), batch("B"), batch("C")], 10.0)
    assert moment(one) == 50.0
    check(one, "A", Outcome.ANSWERED, 0.0, 10.0)
    assert moment(one) == 50.0


def test_a_new_key_ends_the_pause_for_the_key_and_makes_every_batch_due() -> None:
    one = covering("A", "B")
    check(one, "A", Outcome.ANSWERED, 0.0, 0.1)
    check(one, "B", Outcome.ANSWERED, 0.0, 0.1)
    one.pause_for_key(50.0)
    assert moment(one) == one.next_check_at(batch("A")) == 50.0
    one.resume_with_new_key(0.2)
    assert moment(one) == 0.2
    assert one.next_check_at(batch("A")) == 0.2
    assert one.next_check_at(batch("B")) == 0.2


def test_a_new_key_ends_every_pause() -> None:
    one = covering("A")
    one.pause(50.0)
    one.pause_for_key(60.0)

    # The server asked the user of the previous key to wait.
    one.resume_with_new_key(1.0)
    assert moment(one) == 0.0


def test_a_batch_that_stays_keeps_its_plan() -> None:
    one = covering("A")
    check(one, "A", Outcome.ANSWERED, 0.0, 0.1)
    planned = moment(one)
    one.set_batches([batch("A")], 0.2)
    assert moment(one) == planned
    one.set_batches([batch("A"), batch("B")], 0.3)
    assert one.next_check_at(batch("A")) == planned


def test_a_slow_answer_does_not_make_two_checks_at_once() -> None:
    one = covering("A")
    check(one, "A", Outcome.ANSWERED, 0.0, 30.0)
    assert moment(one) >= 30.0


def test_the_price_can_be_fixed_for_measurements() -> None:
    one = Schedule(CheckSettings(), lambda: 0.5, fixed_price=7.0)
    one.set_batches([batch("A")], 0.0)
    check(one, "A", Outcome.ANSWERED, 0.0, 0.1)
    one.set_budget(1.0, 0.2)
    assert one.price == 7


def test_many_refused_symbols_take_a_tenth_of_the_budget_at_most() -> None:
    schedule = Schedule(CheckSettings(), lambda: 0.5)
    schedule.set_budget(54, 0.0)
    refused = [Batch("f", (f"R{number:02d}",), refused=True) for number in range(60)]
    schedule.set_batches([Batch("f", ("A",)), *refused], 0.0)
    checks_of_refused = 0
    now = 0.0
    while now < 3_600:
        planned = schedule.next()
        assert planned is not None
        now = max(planned[0], now)
        if planned[1].refused:
            checks_of_refused += 1
        schedule.start_check(planned[1], now)
        schedule.finish_check(planned[1], Outcome.ANSWERED, now, now + 0.01)
    assert checks_of_refused <= 60 * 5.4 * 1.2


def test_a_target_of_zero_keeps_the_budget_and_its_delay_is_that_of_a_target_near_it() -> (
    None
):
    free = world(own_phases(), budget=54, settings=CheckSettings(0.0)).run(3_600)
    near = world(own_phases(), budget=54, settings=CheckSettings(0.001)).run(3_600)
    assert free.checks(600) <= 54 * 50 * 1.1
    assert free.delay(600) <= near.delay(600) * 1.2


def test_an_answer_is_learnt_even_if_its_batch_was_regrouped_meanwhile() -> None:
    schedule = Schedule(CheckSettings(), lambda: 0.5)
    schedule.set_batches([Batch("f", ("A", "B"))], 0.0)
    schedule.start_check(Batch("f", ("A", "B")), 0.5)
    schedule.set_batches([Batch("f", ("A",)), Batch("f", ("B",))], 1.0)
    schedule.finish_check(
        Batch("f", ("A", "B")),
        Outcome.ANSWERED,
        0.5,
        1.5,
        ComputedTimes({"A": 1_000_000}, 0.0),
    )
    known = schedule.forecast("f", "A")
    assert known is not None
    assert known.last == 1.0


def test_refused_symbols_that_are_found_one_by_one_share_a_part_of_the_budget() -> None:
    one = covering("A")
    one.set_budget(54.0, 0.0)
    batches = [batch("A")]
    # Halving finds refused symbols one at a time, and each is a batch of its own.
    for index in range(100):
        refused = Batch("all", (f"X{index}",), refused=True)
        batches.append(refused)
        one.set_batches(batches, 0.0)

    first_minutes = 0
    for refused in batches[1:]:
        due_at = one.next_check_at(refused)
        assert due_at is not None
        first_minutes += due_at < 120
    # A tenth of 54 requests a minute, and not one minute for all of them.
    assert first_minutes <= 12


def test_refused_symbols_do_not_lengthen_the_longest_wait_of_the_others() -> None:
    one = schedule(budget=1.0)
    refused = [batch(name, refused=True) for name in "RSTUV"]
    one.set_batches([batch("A"), *refused], 0.0)
    check(one, "A", Outcome.ANSWERED, 0.0, 0.1)
    due_at = one.next_check_at(batch("A"))
    assert due_at is not None
    # Two rounds of one batch, at a request a minute.
    assert due_at <= 120
