"""Invariants of a schedule, for any calls and any answers of the upstream."""

from __future__ import annotations

from typing import Final

from hypothesis import given
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
from connector.schedule.symbols import ComputedTimes, Refresh
from tests.support.profiles import cases

many = cases(300)
few = cases(20)

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

NEVER: Final = float("-inf")

# A scarce budget allows one check of each batch in two rounds. There are five batches at
# most, so two rounds are ten minutes at a request a minute.
TWO_ROUNDS_REQUEST_SECONDS: Final = 2 * 5 * 60

# The longest wait of a refused symbol for its next try.
MAX_SLOW_RETRY_SECONDS: Final = 3_600

# A refresh is this much later than the one before, at most. Later ones are nonsense.
MAX_STEP: Final = 200 * MICROS

# Steps from one refresh to the next: none, the same, one that others overtook, nonsense.
ODD_STEPS: Final = (None, 0, 0, 1, 1_000, -1, -30 * MICROS, 10**15)

BUDGETS: Final = (0.0, 0.5, 1.0, 6.0, 54.0, 6_000.0)

# Errors of our estimate of the upstream's clock, in seconds.
CLOCK_ERRORS: Final = (0.0, 0.0, 0.0, 0.3, -40.0, 3_600.0)

any_settings = st.builds(
    CheckSettings,
    target_delay_seconds=st.floats(0.05, 20),
    min_interval_seconds=st.floats(0.1, 2),
    max_interval_seconds=st.floats(2, 600),
)
below_one = st.floats(0, 1, exclude_max=True)
steps = st.sampled_from(ODD_STEPS) | st.integers(1, MAX_STEP)
# Most checks are answered.
outcomes = st.sampled_from([Outcome.ANSWERED, *Outcome])
waits = st.floats(0, 5) | st.floats(0, 4_000)
histories = st.lists(st.integers(1, 10**9), max_size=8, unique=True).map(sorted)


def place(batch: Batch) -> tuple[tuple[str, ...], bool]:
    """Return the key by which batches are put in an order."""
    return batch.symbols, batch.refused


class Driven:
    """A schedule, and a model of it as its callers know it.

    `looked_at` is when the last check was sent that was answered with anything but a copy,
    for each symbol.
    """

    def __init__(self, data: st.DataObject) -> None:
        self.draw = data.draw
        self.settings = self.draw(any_settings)
        self.schedule = Schedule(self.settings, lambda: self.draw(below_one))
        self.now = self.draw(st.sampled_from([0.0, 1e5]))
        self.ahead = self.draw(st.sampled_from([0.0, 1.8e9]))
        self.computed_at = dict.fromkeys(SYMBOLS, 0)
        self.looked_at: dict[str, float] = {}
        self.batches: set[Batch] = set()
        self.in_flight: dict[Batch, float] = {}
        self.paused_until = NEVER
        self.paused_for_key_until = NEVER

    # --- acts ---

    def cover(self) -> None:
        batches = []
        for symbols in self.draw(st.sampled_from(GROUPINGS)):
            batches.append(Batch("f", tuple(symbols)))
        if self.draw(st.booleans()):
            batches.append(REFUSED)
        self.batches = set(batches)
        self.schedule.set_batches(batches, self.now)

        # The schedule forgets all other symbols.
        for symbol in self.looked_at.keys() - self.symbols:
            del self.looked_at[symbol]

    def start(self) -> None:
        planned = self.schedule.next()
        if planned is None:
            return
        at, batch = planned
        assert batch in self.batches
        assert batch not in self.in_flight
        self.now = max(self.now, at)
        purpose = self.schedule.start_check(batch, self.now)
        assert (purpose is Purpose.REFUSED) == batch.refused
        self.in_flight[batch] = self.now

    def end(self) -> None:
        if not self.in_flight:
            return
        # Answers come in any order.
        batch = self.draw(st.sampled_from(sorted(self.in_flight, key=place)))
        outcome = self.draw(outcomes)
        sent = self.in_flight.pop(batch)
        times: ComputedTimes | None = None
        if outcome is Outcome.ANSWERED and self.draw(st.integers(0, 9)):
            times = self.computed_times(batch)
        found = self.schedule.finish_check(batch, outcome, sent, self.now, times)

        self.check_found(batch, found)
        if outcome is Outcome.ANSWERED:
            self.note_answer(batch, sent, times)
            self.check_next(batch, sent)

    def wait(self) -> None:
        self.now += self.draw(waits)

    def pause(self) -> None:
        until = self.now + self.draw(st.floats(0, 100))
        self.schedule.pause(until)
        self.paused_until = max(self.paused_until, until)

    def refuse_key(self) -> None:
        self.paused_for_key_until = self.now + 60
        self.schedule.pause_for_key(self.paused_for_key_until)

    def accept_key(self) -> None:
        # The server asked the user of the previous key to wait.
        self.paused_until = NEVER
        self.paused_for_key_until = NEVER
        self.schedule.resume_with_new_key(self.now)

    def set_budget(self) -> None:
        budget_per_minute = self.draw(st.sampled_from(BUDGETS))
        self.schedule.set_budget(budget_per_minute, self.now)

    def seed_history(self) -> None:
        moments = self.draw(histories)
        symbol = self.draw(st.sampled_from(SYMBOLS))
        self.schedule.seed_history("f", symbol, moments, self.ahead)

    # --- answers ---

    def computed_times(self, batch: Batch) -> ComputedTimes:
        computed_at = {}
        for symbol in batch.symbols:
            moment = self.refresh(symbol)
            if moment is not None:
                computed_at[symbol] = moment
        offset = self.ahead + self.draw(st.sampled_from(CLOCK_ERRORS))
        is_copy = self.draw(st.integers(0, 4)) == 4
        return ComputedTimes(computed_at, offset, is_copy)

    def refresh(self, symbol: str) -> int | None:
        """Return the symbol's last refresh, as an upstream may report it."""
        before = self.computed_at[symbol]
        step = self.draw(steps)
        if step is None:
            return None
        if step <= 0 or step > MAX_STEP:
            return before + step

        # A usual step from the refresh before, or back from now.
        latest = round((self.now + self.ahead) * MICROS)
        is_next = self.draw(st.booleans())
        self.computed_at[symbol] = before + step if is_next else max(latest - step, 0)
        return self.computed_at[symbol]

    # --- invariants ---

    def check_found(self, batch: Batch, found: list[Refresh]) -> None:
        symbols = [refresh.symbol for refresh in found]
        assert len(set(symbols)) == len(symbols)
        assert set(symbols) <= set(batch.symbols)
        for refresh in found:
            assert refresh.since == self.looked_at[refresh.symbol]
            assert refresh.since <= self.now

    def note_answer(
        self, batch: Batch, sent: float, times: ComputedTimes | None
    ) -> None:
        if times is not None and times.is_copy:
            return
        for symbol in self.symbols.intersection(batch.symbols):
            # Another check of the symbol may be sent later and answered earlier.
            before = self.looked_at.get(symbol, sent)
            self.looked_at[symbol] = max(before, sent)

    def check_next(self, batch: Batch, sent: float) -> None:
        """Check the bounds of the check after one that was answered."""
        at = self.schedule.next_check_at(batch)
        if at is None:
            return
        assert at >= min(self.now, sent + self.settings.min_interval_seconds)

        two_rounds = TWO_ROUNDS_REQUEST_SECONDS / self.schedule.budget_per_minute
        longest = max(self.settings.max_interval_seconds, two_rounds)
        if batch.refused:
            longest = max(longest, MAX_SLOW_RETRY_SECONDS)
        else:
            # Tries of refused symbols wait for the budget as well.
            longest += SLOW_RETRY_SECONDS
        assert at <= max(self.now + longest, self.pause_ends_at)

    def check(self) -> None:
        waiting = self.batches - self.in_flight.keys()
        planned = self.schedule.next()
        assert (planned is None) == (not waiting)
        if planned is not None:
            at, batch = planned
            assert batch in waiting
            assert self.pause_ends_at <= at < self.now + 1e6
        for batch in self.batches:
            has_moment = self.schedule.next_check_at(batch) is not None
            assert has_moment == (batch in waiting)
        assert 0 < self.schedule.price <= 1e9
        assert abs(self.schedule.lag_seconds) < 1e12

    @property
    def symbols(self) -> set[str]:
        """The symbols of all batches."""
        found: set[str] = set()
        for batch in self.batches:
            found.update(batch.symbols)
        return found

    @property
    def pause_ends_at(self) -> float:
        return max(self.paused_until, self.paused_for_key_until)


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


@many
@given(st.data())
def test_a_schedule_goes_on_and_never_checks_a_batch_twice_at_once(
    data: st.DataObject,
) -> None:
    driven = Driven(data)
    driven.cover()
    acts = st.lists(st.sampled_from(ACTS), min_size=1, max_size=40)
    for act in data.draw(acts):
        act(driven)
        driven.check()


# --- the budget ---

# A rhythm: its period, its jitter, and its phase, in seconds.
Rhythm = tuple[float, float, float]

any_rhythm = st.tuples(st.floats(1, 120), st.floats(0, 2), st.floats(0, 30))
any_rhythms = st.lists(any_rhythm, min_size=1, max_size=6)

LEARNT_AFTER_SECONDS: Final = 600
END_SECONDS: Final = 1_200


def last_refresh(rhythm: Rhythm, seed: int, now: float) -> float:
    """Return the last moment of a rhythm, which may lie a little in the future."""
    period, jitter, phase = rhythm
    count = int((now + phase) / period)
    tenths = (count * 7 + seed) % 10
    return count * period - phase + jitter * tenths / 10


@few
@given(any_rhythms, st.floats(3, 60), st.integers(0, 1_000))
def test_the_budget_is_kept_for_any_rhythms(
    rhythms: list[Rhythm], budget: float, seed: int
) -> None:
    """Count the second ten minutes, and any ten seconds after the first checks."""
    rhythm_of = {}
    for number, rhythm in enumerate(rhythms):
        rhythm_of[Batch("f", (f"S{number}",))] = rhythm
    schedule = Schedule(CheckSettings(target_delay_seconds=0.05), lambda: 0.5)
    schedule.set_budget(budget, 0.0)
    schedule.set_batches(list(rhythm_of), 0.0)

    now = 0.0
    sent = 0
    paced: list[float] = []
    while True:
        planned = schedule.next()
        assert planned is not None
        at, batch = planned
        if at >= END_SECONDS:
            break
        now = max(now, at)
        if now >= LEARNT_AFTER_SECONDS:
            sent += 1
        if schedule.start_check(batch, now) is not Purpose.FIRST:
            paced.append(now)
        computed_at = {}
        refreshed_at = last_refresh(rhythm_of[batch], seed, now)
        if 0 < refreshed_at <= now:
            computed_at[batch.symbols[0]] = round(refreshed_at * MICROS)
        times = ComputedTimes(computed_at, 0.0)
        schedule.finish_check(batch, Outcome.ANSWERED, now, now, times)

    minutes = (END_SECONDS - LEARNT_AFTER_SECONDS) / 60
    assert sent <= budget * minutes * 1.25 + 2
    most_in_ten_seconds = budget / 6 + max(8, budget / 9) + 1
    for first, moment in enumerate(paced):
        # Sixty checks always last longer than ten seconds, so do not look further.
        following = paced[first : first + 60]
        window = [at for at in following if at < moment + 10]
        assert len(window) <= most_in_ten_seconds
