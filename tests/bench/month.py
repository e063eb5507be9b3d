"""Simulate schedule and budgets of a month in virtual time: `python -m tests.bench.month`.

A server counts minutes and months and refreshes each symbol every 30 s. The schedule, the
budget of the minute and that of the month are the product's own. Printed for each plan and
number of symbols: requests a minute, the mean delay of the refreshes that were seen, the
mean age of the levels, the part of the time in which they were older than 90 s, and what
was left of the month at its end.
"""

from __future__ import annotations

import argparse
import sys
from dataclasses import dataclass, field
from random import Random
from typing import Final

from connector.core.decode import Quota, RateLimit
from connector.schedule.batches import Batches
from connector.schedule.checks import CheckSettings, Outcome
from connector.schedule.scheduler import Schedule
from connector.schedule.symbols import ComputedTimes
from connector.upstream.budget import Budget, Month
from connector.upstream.budget.month import Period

# Requests a minute and a month.
PLANS: Final = {
    "Starter": (30, 10_000),
    "Standard": (60, 250_000),
    "Pro": (120, 1_000_000),
}
MONTH_SECONDS: Final = 30 * 86_400.0
STALE_SECONDS: Final = 90.0
REFRESH_SECONDS: Final = 30.0
_EPOCH: Final = 1_800_000_000.0
_ANSWER_SECONDS: Final = 0.1
# Symbols have learnt their rhythms by then.
_WARM_UP: Final = 0.1


@dataclass
class World:
    """A user's counters at the server, and the refreshes of the symbols."""

    per_minute: int
    per_month: int
    month_seconds: float
    phases: dict[str, float]
    others_per_second: float = 0.0
    used: int = 0
    minutes: dict[int, int] = field(default_factory=dict)
    refused: int = 0

    def month_used(self, now: float) -> int:
        """Return the requests of everybody in the month."""
        return self.used + int(self.others_per_second * now)

    def answer(self, now: float) -> tuple[bool, RateLimit, Quota]:
        """Count a request and return the figures of its answer."""
        minute = int(now // 60)
        spent = self.minutes.get(minute, 0)
        is_left = spent < self.per_minute and self.month_used(now) < self.per_month
        if is_left:
            self.minutes[minute] = spent = spent + 1
            self.used += 1
        else:
            self.refused += 1
        limit = RateLimit(
            self.per_minute, self.per_minute - spent, _EPOCH + 60 * (minute + 1)
        )
        used = min(self.month_used(now), self.per_month)
        return is_left, limit, Quota(self.per_month, used, self.per_month - used, None)

    def computed(self, symbol: str, now: float) -> float:
        """Return when the newest levels of a symbol were computed."""
        phase = self.phases[symbol]
        return phase + (now - phase) // REFRESH_SECONDS * REFRESH_SECONDS


@dataclass
class Figures:
    """The results of a run, from the end of the warm-up on."""

    seconds: float = 0.0
    requests: int = 0
    delays: list[float] = field(default_factory=list)
    age_seconds: float = 0.0
    stale_seconds: float = 0.0
    used: int = 0
    refused: int = 0
    sent_at: list[float] = field(default_factory=list)


def run(world: World, seconds: float, seed: int = 1) -> Figures:
    """Poll the world for some seconds of virtual time, and return what was seen."""
    now = 0.0
    chance = Random(seed)
    month = Month(
        period_of=lambda _name, _at: Period(_EPOCH, _EPOCH + world.month_seconds),
        wall_minus_monotonic=_EPOCH,
    )
    budget = Budget(None, clock=lambda: now, month=month)
    schedule = Schedule(CheckSettings(), chance.random)
    batches = Batches("all")
    batches.own(list(world.phases))
    schedule.set_batches(batches.all(), now)
    found = Figures()
    warm_at = _WARM_UP * seconds
    known: dict[str, float] = {}
    known_since: dict[str, float] = {}

    while now < seconds:
        spending = budget.spending(now)
        schedule.set_budget(spending.planned_per_minute, now)
        upcoming = schedule.next()
        if upcoming is None:
            break
        due_at, batch = upcoming
        # The poller looks at the budget every second.
        if due_at > now:
            now = min(due_at, now + 1.0)
            continue
        if spending.wait_seconds > 0:
            now += min(spending.wait_seconds, 1.0)
            continue

        schedule.start_check(batch, now)
        permit = budget.start(now)
        sent_at = now
        now += _ANSWER_SECONDS
        is_answered, limit, quota = world.answer(now)
        budget.end(now)
        budget.learn(permit, limit, _EPOCH + now, now)
        budget.learn_month(permit, quota, _EPOCH + now, now)
        found.sent_at.append(sent_at)
        if not is_answered:
            schedule.finish_check(batch, Outcome.DEFERRED, sent_at, now)
            continue
        computed_at = {}
        for symbol in batch.symbols:
            computed = world.computed(symbol, now)
            computed_at[symbol] = round((_EPOCH + computed) * 1e6)
            _note(found, symbol, computed, now, warm_at, known, known_since)
        times = ComputedTimes(computed_at, _EPOCH)
        schedule.finish_check(batch, Outcome.ANSWERED, sent_at, now, times)

    found.seconds = seconds - warm_at
    found.requests = sum(at >= warm_at for at in found.sent_at)
    found.used = world.month_used(seconds)
    found.refused = world.refused
    return found


def _note(
    found: Figures,
    symbol: str,
    computed: float,
    now: float,
    warm_at: float,
    known: dict[str, float],
    known_since: dict[str, float],
) -> None:
    """Record the age of a symbol's levels until now, and the delay of a new refresh."""
    before = known.get(symbol)
    since = known_since.get(symbol, now)
    if before is not None and since >= warm_at:
        first_age = since - before
        last_age = now - before
        found.age_seconds += (last_age**2 - first_age**2) / 2
        found.stale_seconds += max(last_age - max(first_age, STALE_SECONDS), 0.0)
        if computed > before:
            found.delays.append(now - computed)
    known[symbol] = computed
    known_since[symbol] = now


def phases(symbols: int, in_step: bool) -> dict[str, float]:
    """Return a phase for each symbol: one for all, or one of its own."""
    found = {}
    for number in range(symbols):
        own = REFRESH_SECONDS * number / symbols
        found[f"S{number:03d}USDT"] = -60.0 + (0.0 if in_step else own)
    return found


def line(name: str, symbols: int, rhythm: str, found: Figures) -> str:
    """Return a row of the table."""
    per_minute = 60 * found.requests / found.seconds
    total = found.seconds * symbols
    delay = sum(found.delays) / max(len(found.delays), 1)
    age = found.age_seconds / total
    stale = 100 * found.stale_seconds / total
    return (
        f"| {name} | {symbols} | {rhythm} | {per_minute:.2f} | {delay:.1f} | {age:.0f} "
        f"| {stale:.0f} % | {found.refused} |"
    )


def main() -> None:
    """Print the table for each plan, number of symbols and rhythm."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--hours", type=float, default=6.0)
    parser.add_argument("--symbols", type=int, nargs="+", default=[4, 8, 80])
    options = parser.parse_args()
    sys.stdout.write(
        "| plan | symbols | rhythm | requests a minute | delay of seen refreshes, s "
        "| mean age, s | older than 90 s | 429 |\n|---|---|---|---|---|---|---|---|\n"
    )
    for name, (per_minute, per_month) in PLANS.items():
        for symbols in options.symbols:
            for in_step in (True, False):
                world = World(
                    per_minute, per_month, MONTH_SECONDS, phases(symbols, in_step)
                )
                found = run(world, 3600 * options.hours)
                rhythm = "in step" if in_step else "own phases"
                sys.stdout.write(line(name, symbols, rhythm, found) + "\n")
                sys.stdout.flush()


if __name__ == "__main__":
    main()
