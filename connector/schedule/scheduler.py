"""Decide when to check each batch of symbols. Pure.

A check is worth its request when it saves enough delay, and "enough" is one price for all
batches (see price.py). For each batch, the forecasts of its symbols say when refreshes are
likely (forecast.py), and the plan finds the best moment at that price (inspection.py). A
pace spreads the requests if the budget binds (pace.py).

Moments are seconds of a monotonic clock. The caller passes them in, and the source of
random numbers as well.
"""

from __future__ import annotations

from enum import StrEnum
from math import sqrt
from typing import TYPE_CHECKING, Final

import msgspec

from connector.core.model import Value
from connector.schedule.forecast import USUAL_PERIOD_SECONDS
from connector.schedule.inspection import Check, next_check
from connector.schedule.pace import Pace
from connector.schedule.price import Price
from connector.schedule.symbols import ComputedTimes, Refresh, Symbol, Symbols

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from connector.schedule.batches import Batch
    from connector.schedule.forecast import Forecast

# Interval between tries of a refused key or a refused symbol. It is longer if many symbols
# are refused.
SLOW_RETRY_SECONDS: Final = 60

_MAX_SLOW_RETRY_SECONDS: Final = 3600

# Doublings of the wait after failures: up to 32 s, about one refresh, so that recovery
# is noticed soon.
_MAX_DOUBLINGS: Final = 5

# Plans are made again when a new budget moves the price by this factor, up or down.
_REPLAN_PRICE_RATIO: Final = 1.25

# Beyond this factor, the last checks say little about the new price.
_DOUBT_PRICE_RATIO: Final = 4.0

# Requests a minute until a budget is set: nine tenths of the limit of the upstream's
# smallest plan.
_USUAL_BUDGET: Final = 54.0

# Weight of the last check in a batch's averages.
_SMOOTHING: Final = 0.1

# Wanted checks that count for one check that had to wait, however long it waited. More
# would let the price overshoot.
_MAX_WANTED_CHECKS: Final = 10.0

# A plan replaces even distances if its estimated delay is below this part of theirs.
# Estimates are optimistic. Measured with 8 symbols, each with its own phase and a
# deviation of a fifth of the period: a plan claims to save 5 % and saves nothing.
_EVEN_DELAY_RATIO: Final = 0.9

_MIN_BUDGET: Final = 0.01
_MIN_HORIZON_SECONDS: Final = 1.0

# How far a plan looks ahead, in average intervals between the batch's checks. It always
# looks past the next refresh.
_HORIZON_INTERVALS: Final = 4


class Plan(Value, frozen=True):
    """The settings of a schedule: the target delay and the bounds of an interval."""

    target_delay_seconds: float = 0.4
    min_interval_seconds: float = 0.25
    max_interval_seconds: float = 60


class Outcome(StrEnum):
    """The outcome of a check, as far as the next check depends on it."""

    ANSWERED = "answered"
    FAILED = "failed"
    """No answer, for a reason that concerns this batch: back off."""

    DEFERRED = "held"
    """No answer, for a reason that pauses all batches: due when the pause is over."""


class Purpose(StrEnum):
    """The reason for a check."""

    FIRST = "first"
    """The current state is unknown, after a start or a take-over."""

    EXPECTED = "expected"
    """A refresh is expected."""

    SEARCH = "search"
    """No rhythm is known, or it was lost."""

    RETRY = "retry"
    """The previous check failed."""

    REFUSED = "refused"
    """The upstream refuses this symbol. It is requested alone and rarely."""


class PlannedCheck(Value, frozen=True):
    """The next check of a batch, for display.

    `at` is when it is due, without pauses of all batches. It is None while a request is in
    flight. `check` is what the plan expects, None if there was no plan. `failures` counts
    the checks that failed in a row.
    """

    batch: Batch
    at: float | None
    purpose: Purpose
    check: Check | None
    failures: int


class _Slot(msgspec.Struct):
    """The plan of one batch, and averages of its last checks.

    `at` is when the next check is due, None while a request is in flight. `wanted_at` is
    the best moment for it, before it has to wait for a pause or the pace.

    The averages are in seconds. `interval` lies between two checks, and `wait` is the part
    of it for which a wanted check had to wait. `gap` is the interval that the plans wanted,
    at a price of one. `delay` is the total delay of refreshes that a plan expected, and
    `even_delay` that of checks at even distances.
    """

    symbols: list[Symbol]
    at: float | None = None
    purpose: Purpose = Purpose.FIRST
    check: Check | None = None
    sent_at: float | None = None
    interval: float = 1.0
    failures: int = 0
    wanted_at: float = float("-inf")
    wait: float = 0.0
    gap: float = 0.0
    delay: float = 0.0
    even_delay: float = 0.0

    def plan(self, at: float, purpose: Purpose) -> None:
        """Set the moment of the next check."""
        self.at = self.wanted_at = at
        self.purpose = purpose

    @property
    def is_starved(self) -> bool:
        """True if refreshes come more often than checks.

        The averages of the last checks are then too old to act on.
        """
        return self.interval > USUAL_PERIOD_SECONDS

    @property
    def wanted_checks(self) -> float:
        """Checks that the plans wanted for each that was sent.

        There are more than one while checks have to wait for their turn.
        """
        if self.is_starved:
            return 1.0
        unhindered = max(self.interval - self.wait, self.interval / _MAX_WANTED_CHECKS)
        return self.interval / unhindered

    def follow(self, sent_at: float, price: float) -> None:
        """Update the averages with a check sent at this moment.

        `self.sent_at` is still that of the check before.
        """
        before = sent_at if self.sent_at is None else self.sent_at
        self.interval += _SMOOTHING * (sent_at - before - self.interval)
        waited = min(max(sent_at - self.wanted_at, 0.0), sent_at - before)
        self.wait += _SMOOTHING * (waited - self.wait)
        is_search = self.purpose is Purpose.SEARCH
        if self.check is None or is_search or not price:
            return
        gap = max(self.check.at - before, 0.0)
        weight = _SMOOTHING if self.gap else 1.0
        self.gap += weight * (gap / sqrt(price) - self.gap)
        self.delay += _SMOOTHING * (self.check.delay - self.delay)
        even_delay = self.check.expected * gap / 2
        self.even_delay += _SMOOTHING * (even_delay - self.even_delay)

    def preferred_at(self, planned_at: float, price: float) -> float:
        """Return `planned_at`, or an even distance from the last check.

        Even distances are better if refreshes come at almost any moment: plans then save
        less than they claim, and make the longest delays longer.
        """
        saves_enough = self.delay <= _EVEN_DELAY_RATIO * self.even_delay
        if self.sent_at is None or saves_enough or self.is_starved:
            return planned_at
        return self.sent_at + self.gap * sqrt(price)


class Schedule:
    """Decides which batch to check next, and when.

    The price of a check is the lowest that keeps to the budget, but not lower than the
    target delay needs. `fixed_price` overrides it for measurements.
    """

    def __init__(self, plan: Plan, chance: Callable[[], float]) -> None:
        self._plan = plan
        self._chance = chance
        self._slots: dict[Batch, _Slot] = {}
        self._symbols = Symbols()
        self._in_flight: set[Batch] = set()
        self._paused_until = float("-inf")
        self._paused_for_key_until = float("-inf")
        self._price = Price(plan.target_delay_seconds)
        self._budget = _USUAL_BUDGET
        self._pace = Pace.of(_USUAL_BUDGET)
        self.fixed_price: float | None = None

    @property
    def price(self) -> float:
        """The price of a check, in symbol-seconds of delay."""
        return self._price.value

    @property
    def lag_seconds(self) -> float:
        """The estimated time until a computed refresh is visible.

        It includes the error of the upstream's clock as we estimate it.
        """
        return self._symbols.lag_seconds

    def set_batches(self, batches: Sequence[Batch], now: float) -> None:
        """Set the batches to check.

        A batch that was there before keeps its plan. A symbol keeps its forecast even if it
        moves to another batch.
        """
        if self._slots.keys() == set(batches):
            return
        slots_before = self._slots
        due_before = self._due_by_symbol()
        self._slots = {}
        self._symbols.set_batches(batches, now)

        # First checks follow each other, so that a start is not a burst.
        first_at = now
        for batch in batches:
            if batch in slots_before:
                self._slots[batch] = slots_before[batch]
                continue
            slot = self._slots[batch] = self._new_slot(batch, len(batches))
            if batch in self._in_flight:
                continue
            due = []
            for symbol in batch.symbols:
                if (batch.feed, symbol) in due_before:
                    due.append(due_before[batch.feed, symbol])
            if batch.refused:
                slot.plan(now + self._slow_retry_seconds(), Purpose.REFUSED)
            elif any(known.checked_at is None for known in slot.symbols):
                slot.plan(first_at, Purpose.FIRST)
                first_at += min(self._plan.min_interval_seconds, 60 / self._budget)
            elif due:
                # New plans for hundreds of batches at once would block the event loop.
                slot.plan(min(due), Purpose.EXPECTED)
            else:
                self._replan(slot, now, now)

        symbols_before = sum(len(slot.symbols) for slot in slots_before.values())
        self._adapt_price(batches, symbols_before, now)

    @property
    def budget_per_minute(self) -> float:
        """Requests a minute that may be planned."""
        return self._budget

    def set_budget(self, budget_per_minute: float, now: float) -> None:
        """Plan with this budget from now on. Replan if the price moves much."""
        budget_per_minute = max(budget_per_minute, _MIN_BUDGET)
        if budget_per_minute == self._budget:
            return
        self._pace.set_budget(budget_per_minute, now)
        before = self.price
        self._budget = budget_per_minute
        self._settle()
        if before:
            ratio = self.price / before
            if not 1 / _DOUBT_PRICE_RATIO < ratio < _DOUBT_PRICE_RATIO:
                self._price.doubt()
        if not before / _REPLAN_PRICE_RATIO < self.price < before * _REPLAN_PRICE_RATIO:
            for slot in self._slots.values():
                if slot.at is not None and slot.purpose in {
                    Purpose.EXPECTED,
                    Purpose.SEARCH,
                }:
                    self._replan(slot, now, now)

    @property
    def paused_until(self) -> tuple[float, float]:
        """The ends of the two pauses: by the server's request, and for a refused key."""
        return self._paused_until, self._paused_for_key_until

    def planned_checks(self) -> list[PlannedCheck]:
        """Return the next check of every batch, for display."""
        return [
            PlannedCheck(batch, slot.at, slot.purpose, slot.check, slot.failures)
            for batch, slot in self._slots.items()
        ]

    def next_check_at(self, batch: Batch) -> float | None:
        """Return when the batch is checked next, None while its request is in flight."""
        slot = self._slots.get(batch)
        if slot is None or slot.at is None:
            return None
        return self._may_start_at(slot, slot.at)

    def last_sent_at(self, batch: Batch) -> float | None:
        """Return when the batch's last request was sent, None before the first."""
        slot = self._slots.get(batch)
        return None if slot is None else slot.sent_at

    def reschedule(self, batch: Batch, at: float) -> None:
        """Move the batch's next check to this moment, unless its request is in flight."""
        slot = self._slots.get(batch)
        if slot is not None and slot.at is not None:
            slot.plan(at, slot.purpose)

    def seed_history(
        self,
        feed: str,
        symbol: str,
        computed_at: Sequence[int],
        upstream_minus_monotonic_seconds: float,
    ) -> None:
        """Learn a symbol's rhythm from refreshes that others found, oldest first."""
        self._symbols.seed_history(
            feed, symbol, computed_at, upstream_minus_monotonic_seconds
        )

    def has_batch(self, batch: Batch) -> bool:
        """Return True if this is one of the batches to check."""
        return batch in self._slots

    def next(self) -> tuple[float, Batch] | None:
        """Return the moment of the next check and its batch, None if none is planned."""
        earliest: tuple[float, float] | None = None
        chosen: Batch | None = None
        for batch, slot in self._slots.items():
            if slot.at is None:
                continue
            # If batches wait for the same token, choose the one that was due first.
            key = self._may_start_at(slot, slot.at), slot.at
            if earliest is None or key < earliest:
                earliest, chosen = key, batch
        if earliest is None or chosen is None:
            return None
        return earliest[0], chosen

    def start_check(self, batch: Batch, now: float) -> Purpose:
        """Note that the batch's request is in flight, and return its purpose.

        The batch is not checked again until `finish_check`.
        """
        self._in_flight.add(batch)
        self._pace.take(now)
        slot = self._slots[batch]
        if slot.at is not None:
            # The price learns from waits for the pace, but not from pauses.
            slot.wanted_at = max(slot.wanted_at, *self.paused_until)
        slot.at = None
        return slot.purpose

    def finish_check(
        self,
        batch: Batch,
        outcome: Outcome,
        sent_at: float,
        now: float,
        times: ComputedTimes | None = None,
    ) -> list[Refresh]:
        """Plan the batch's next check, now that its request has ended.

        Returns the refreshes that the answer showed, except the first of a symbol. Failures
        back off exponentially with full jitter (AWS Architecture Blog, *Exponential Backoff
        And Jitter*, 2015).
        """
        self._in_flight.discard(batch)
        slot = self._slots.get(batch)
        if slot is None:
            # Meanwhile its symbols have moved to other batches, or to another worker.
            if outcome is not Outcome.ANSWERED:
                return []
            return self._symbols.learn(batch, sent_at, now, times)

        self._account(slot, sent_at)
        if batch.refused:
            slot.plan(now + self._slow_retry_seconds(), Purpose.REFUSED)
            return []
        if outcome is Outcome.DEFERRED:
            slot.plan(now, Purpose.RETRY)
            return []
        if outcome is Outcome.FAILED:
            slot.failures += 1
            doublings = min(slot.failures, _MAX_DOUBLINGS)
            ceiling = min(self._plan.max_interval_seconds, 2.0**doublings)
            wait = max(self._plan.min_interval_seconds, self._chance() * ceiling)
            slot.plan(now + wait, Purpose.RETRY)
            return []

        slot.failures = 0
        found = self._symbols.learn(batch, sent_at, now, times)
        self._replan(slot, sent_at, now)
        return found

    def is_paused(self, now: float) -> bool:
        """Return True while no batch may be checked."""
        return now < max(self.paused_until)

    def pause(self, until: float) -> None:
        """Check no batch before this moment, at the server's request."""
        self._paused_until = max(self._paused_until, until)

    def pause_for_key(self, until: float) -> None:
        """Check no batch before this moment, unless the refused key changes."""
        self._paused_for_key_until = until

    def resume_with_new_key(self, now: float) -> None:
        """End the pause for the refused key, and make every batch due."""
        self._paused_for_key_until = float("-inf")
        for slot in self._slots.values():
            if slot.at is not None:
                slot.plan(min(slot.at, now), slot.purpose)

    def forecast(self, feed: str, symbol: str) -> Forecast | None:
        """Return the forecast of a symbol's refreshes, None for an unknown symbol."""
        return self._symbols.forecast(feed, symbol)

    def _due_by_symbol(self) -> dict[tuple[str, str], float]:
        """Return when each symbol is due, except those with a request in flight."""
        due = {}
        for batch, slot in self._slots.items():
            if slot.at is None:
                continue
            for symbol in batch.symbols:
                due[batch.feed, symbol] = slot.at
        return due

    def _new_slot(self, batch: Batch, batch_count: int) -> _Slot:
        slot = _Slot(self._symbols.of(batch))
        slot.interval = 60 * batch_count / self._budget
        return slot

    def _adapt_price(
        self, batches: Sequence[Batch], symbols_before: int, now: float
    ) -> None:
        """Let the price follow a change of the symbols, before checks show its effect."""
        if symbols_before:
            self._price.grow(max(len(self._symbols), 1) / symbols_before)
        else:
            rates = [len(batch.symbols) / USUAL_PERIOD_SECONDS for batch in batches]
            # Keller's rate of checks for refreshes at random moments, at a price of one.
            checks = [(rate / 2) ** 0.5 for rate in rates]
            self._price.begin(now, sum(checks), sum(rates))
        self._settle()

    def _settle(self) -> None:
        if self.fixed_price is not None:
            self._price.value = self.fixed_price
            return
        symbols_per_check = len(self._symbols) / max(len(self._slots), 1)
        self._price.settle(self._budget, symbols_per_check)

    def _may_start_at(self, slot: _Slot, at: float) -> float:
        """Return when a check planned for `at` may start: after pauses, and at the pace.

        A first check does not wait for the pace, since nothing is known before it. The
        checks after it make up for it.
        """
        at = max(at, *self.paused_until)
        if slot.purpose is Purpose.FIRST:
            return at
        return max(at, self._pace.ready_at)

    def _account(self, slot: _Slot, sent_at: float) -> None:
        """Let the price and the batch's averages learn from a check that was sent."""
        if slot.sent_at is not None:
            slot.follow(sent_at, self.price)
        slot.sent_at = sent_at
        check = slot.check
        slot.check = None
        # A search looks for refreshes that may never come: it tells nothing about delays.
        if check is None or slot.purpose is Purpose.SEARCH:
            check = Check(sent_at, 0.0, 0.0)
        self._price.checked(sent_at, check.expected, check.delay, slot.wanted_checks)
        self._settle()

    def _slow_retry_seconds(self) -> float:
        """Return the interval between tries of a refused symbol.

        All refused symbols together take a tenth of the budget at most.
        """
        refused = sum(batch.refused for batch in self._slots)
        wait = max(SLOW_RETRY_SECONDS, 600 * refused / self._budget)
        return min(wait, _MAX_SLOW_RETRY_SECONDS)

    def _replan(self, slot: _Slot, start: float, now: float) -> None:
        """Plan the batch's next check.

        The plan begins at `start`, when the last check was sent, or now.
        """
        earliest = now
        last_at = start
        if slot.sent_at is not None:
            earliest = max(now, slot.sent_at + self._plan.min_interval_seconds)
            last_at = slot.sent_at
        if not self.price:
            slot.plan(earliest, Purpose.EXPECTED)
            return

        # A scarce budget allows one check per batch and round. Allow a wait of two rounds.
        round_seconds = 60 * len(self._slots) / max(self._budget, 1)
        longest = max(self._plan.max_interval_seconds, 2 * round_seconds)
        ceiling = max(last_at + longest, earliest + _MIN_HORIZON_SECONDS)
        settled = min(known.forecast.settled_by(start) for known in slot.symbols)
        end = min(max(start + _HORIZON_INTERVALS * slot.interval, settled), ceiling)
        curves = [
            known.forecast.curve(known.checked_at or start, end)
            for known in slot.symbols
        ]
        slot.check = next_check(curves, self.price, start, end)

        lost = all(known.forecast.is_lost(start) for known in slot.symbols)
        preferred_at = slot.check.at
        if not lost:
            preferred_at = slot.preferred_at(slot.check.at, self.price)
        wanted_at = max(preferred_at, earliest)
        at = wanted_at
        if wanted_at < self._pace.ready_at < end:
            # The pace makes this check late: find the next good moment instead.
            at = next_check(curves, self.price, self._pace.ready_at, end).at
        slot.plan(at, Purpose.SEARCH if lost else Purpose.EXPECTED)
        slot.wanted_at = wanted_at
