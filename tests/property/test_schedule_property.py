"""Invariants of a schedule, for any calls and any answers of the upstream."""

from __future__ import annotations

from typing import Final

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from connector.core.model import MICROS
from connector.schedule.batches import Batch
from connector.schedule.checks import (
    SLOW_RETRY_SECONDS,
    CheckSettings,
    Outcome,
    Purpose,
)
from connector.schedule.scheduler import Schedule
from connector.schedule.symbols import ComputedTimes

many = settings(deadline=None, derandomize=True, max_examples=300)
few = settings(deadline=None, derandomize=True, max_examples=20)

SYMBOLS: Final = "ABCDE"
GROUPINGS: Final = (
    ("AB", "CD", "E"),
    ("ABCDE",),
    ("A", "B", "C", "D", "E"),
    ("AC", "BD"),
    ("CD", "E"),
    (),
)
REFUSED: Final = Batch("f", ("D",), refused=True)


class Driven:
    """A schedule, and a model of it as its callers know it."""

    def __init__(self, data: st.DataObject) -> None:
        self.data = data
        self.settings = CheckSettings(
            data.draw(st.floats(0.05, 20)),
            data.draw(st.floats(0.1, 2)),
            data.draw(st.floats(2, 600)),
        )
        self.schedule = Schedule(
            self.settings, lambda: data.draw(st.floats(0, 1, exclude_max=True))
        )
        self.now = data.draw(st.sampled_from([0.0, 1e5]))
        self.ahead = data.draw(st.sampled_from([0.0, 1.8e9]))
        self.computed_at = dict.fromkeys(SYMBOLS, 0)
        self.batches: set[Batch] = set()
        self.in_flight: dict[Batch, float] = {}
        self.paused_until = float("-inf")
        self.paused_for_key_until = float("-inf")

    def cover(self) -> None:
        batches = [
            Batch("f", tuple(symbols))
            for symbols in self.data.draw(st.sampled_from(GROUPINGS))
        ]
        if self.data.draw(st.booleans()):
            batches.append(REFUSED)
        self.batches = set(batches)
        self.schedule.set_batches(batches, self.now)

    def start(self) -> None:
        planned = self.schedule.next()
        if planned is None:
            return
        self.now = max(self.now, planned[0])
        assert planned[1] in self.batches
        assert planned[1] not in self.in_flight
        purpose = self.schedule.start_check(planned[1], self.now)
        assert (purpose is Purpose.REFUSED) == planned[1].refused
        self.in_flight[planned[1]] = self.now

    def end(self) -> None:
        if not self.in_flight:
            return
        batch = self.data.draw(
            st.sampled_from(
                sorted(self.in_flight, key=lambda one: (one.symbols, one.refused))
            )
        )
        outcome = self.data.draw(st.sampled_from([Outcome.ANSWERED, *Outcome]))
        sent = self.in_flight.pop(batch)
        dates: ComputedTimes | None = None
        if outcome is Outcome.ANSWERED and self.data.draw(st.integers(0, 9)):
            told = ((symbol, self.date(symbol)) for symbol in batch.symbols)
            dates = ComputedTimes(
                {symbol: moment for symbol, moment in told if moment is not None},
                self.offset(),
            )
        for refresh in self.schedule.finish_check(
            batch, outcome, sent, self.now, dates
        ):
            assert refresh.symbol in batch.symbols
            assert refresh.since <= sent
        at = self.schedule.next_check_at(batch)
        if at is not None and outcome is Outcome.ANSWERED:
            assert at >= min(self.now, sent + self.settings.min_interval_seconds)
            longest = max(
                self.settings.max_interval_seconds,
                # A month may allow a request in some hours. Two rounds of five batches.
                120 * 5 / self.schedule.budget_per_minute,
            )
            # Tries of refused symbols wait for the budget as well.
            longest = (
                max(longest, 3600) if batch.refused else longest + SLOW_RETRY_SECONDS
            )
            pause_ends_at = max(self.paused_until, self.paused_for_key_until)
            assert at <= max(
                self.now + longest,
                pause_ends_at,
            )

    def date(self, symbol: str) -> int | None:
        """Return the symbol's last refresh, as an upstream may report it."""
        before = self.computed_at[symbol]
        moved = self.data.draw(
            st.sampled_from([None, 0, 0, 1, 1_000, -1, -30 * MICROS, 10**15])
            | st.integers(1, 200 * MICROS)
        )
        if moved is None:
            return None
        if moved > 200 * MICROS or moved <= 0:
            return before + moved
        latest = round((self.now + self.ahead) * MICROS)
        self.computed_at[symbol] = (
            before + moved if self.data.draw(st.booleans()) else max(latest - moved, 0)
        )
        return self.computed_at[symbol]

    def offset(self) -> float:
        return self.ahead + self.data.draw(
            st.sampled_from([0.0, 0.0, 0.0, 0.3, -40.0, 3_600.0])
        )

    def wait(self) -> None:
        self.now += self.data.draw(st.floats(0, 5) | st.floats(0, 4_000))

    def pause(self) -> None:
        until = self.now + self.data.draw(st.floats(0, 100))
        self.schedule.pause(until)
        self.paused_until = max(self.paused_until, until)

    def refuse_key(self) -> None:
        self.paused_for_key_until = self.now + 60
        self.schedule.pause_for_key(self.paused_for_key_until)

    def accept_key(self) -> None:
        # Whatever the server told the previous key is void, too.
        self.paused_until = float("-inf")
        self.paused_for_key_until = float("-inf")
        self.schedule.resume_with_new_key(self.now)

    def set_budget(self) -> None:
        self.schedule.set_budget(
            self.data.draw(st.sampled_from([0.0, 0.5, 1.0, 6.0, 54.0, 6_000.0])),
            self.now,
        )

    def seed_history(self) -> None:
        moments = self.data.draw(
            st.lists(st.integers(1, 10**9), max_size=8, unique=True).map(sorted)
        )
        self.schedule.seed_history(
            "f", self.data.draw(st.sampled_from(SYMBOLS)), moments, self.ahead
        )

    def check(self) -> None:
        planned = self.schedule.next()
        assert (planned is None) == (not self.batches - self.in_flight.keys())
        if planned is not None:
            assert planned[1] in self.batches
            assert planned[1] not in self.in_flight
            assert planned[0] >= max(self.paused_until, self.paused_for_key_until)
            assert planned[0] < self.now + 1e6
        for batch in self.batches:
            assert (self.schedule.next_check_at(batch) is None) == (
                batch in self.in_flight
            )
        assert 0 < self.schedule.price <= 1e9
        assert abs(self.schedule.lag_seconds) < 1e12


ACTS: Final = (
    *[Driven.start] * 6,
    *[Driven.end] * 6,
    Driven.wait,
    Driven.cover,
    Driven.pause,
    Driven.refuse_key,
    Driven.accept_key,
    Driven.set_budget,
    Driven.seed_history,
)


@pytest.mark.timeout(60)
@many
@given(st.data())
def test_a_schedule_goes_on_and_never_checks_a_batch_twice_at_once(
    data: st.DataObject,
) -> None:
    driven = Driven(data)
    driven.cover()
    for act in data.draw(st.lists(st.sampled_from(ACTS), min_size=1, max_size=40)):
        act(driven)
        driven.check()


@few
@given(
    st.lists(
        st.tuples(st.floats(1, 120), st.floats(0, 2), st.floats(0, 30)),
        min_size=1,
        max_size=6,
    ),
    st.floats(3, 60),
    st.integers(0, 1_000),
)
def test_the_budget_is_kept_for_any_rhythms(
    rhythms: list[tuple[float, float, float]], budget: float, seed: int
) -> None:
    """Count the second ten minutes, and any ten seconds after the first checks."""
    schedule = Schedule(CheckSettings(0.05), lambda: 0.5)
    now = 0.0
    sent = 0
    paced: list[float] = []
    schedule.set_budget(budget, 0.0)
    batches = {
        Batch("f", (f"S{place}",)): rhythm for place, rhythm in enumerate(rhythms)
    }
    schedule.set_batches(list(batches), 0.0)
    while True:
        planned = schedule.next()
        if planned is None or planned[0] >= 1_200:
            break
        batch = planned[1]
        now = max(now, planned[0])
        if now >= 600:
            sent += 1
        if schedule.start_check(batch, now) is not Purpose.FIRST:
            paced.append(now)
        period, jitter, phase = batches[batch]
        count = int((now + phase) / period)
        at = count * period - phase + jitter * ((count * 7 + seed) % 10) / 10
        dates = {batch.symbols[0]: round(at * MICROS)} if 0 < at <= now else {}
        schedule.finish_check(
            batch, Outcome.ANSWERED, now, now, ComputedTimes(dates, 0.0)
        )
    assert sent <= budget * 10 * 1.25 + 2
    most_in_ten_seconds = budget / 6 + max(8, budget / 9) + 1
    for place, moment in enumerate(paced):
        window = [at for at in paced[place : place + 60] if at < moment + 10]
        assert len(window) <= most_in_ten_seconds
