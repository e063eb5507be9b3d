"""How much CPU the schedule takes: `python -m tests.bench.schedule.speed`. Decisions a second of CPU, one core."""

from __future__ import annotations

import time
from random import Random
from typing import TYPE_CHECKING, Final

from connector.schedule.batches import Batch
from connector.schedule.forecast import Forecast
from connector.schedule.scheduler import ComputedTimes, Outcome, Plan, Schedule

if TYPE_CHECKING:
    from collections.abc import Callable

PERIOD: Final = 30.0
JITTER: Final = 0.3
MICROS: Final = 1_000_000
_BATCHES: Final = (1, 10, 100)
_SYMBOLS: Final = (1, 4, 8)
_HISTORY: Final = (4, 16, 64, 1000)


def main() -> None:
    print("which batch is next, and when; a second of CPU")
    for batches in _BATCHES:
        schedule, _ = learnt(batches, 8)
        print(
            f"  {batches:4} batches of 8          {per_second(schedule.next, 200_000):12,.0f}"
        )
    print("a check started and finished, nothing planned (target 0), nothing new")
    print(f"     1 batch  of 8          {per_second(*unplanned()):12,.0f}")
    print("a check started and finished: what was learnt, and the next one planned")
    for symbols in _SYMBOLS:
        print(f"     1 batch  of {symbols}          {played(symbols):12,.0f}")
    print("a refresh learnt, by how many were before")
    for history in _HISTORY:
        print(f"  {history:4} refreshes            {refreshes(history):12,.0f}")


def per_second(call: Callable[[], object], times: int) -> float:
    """Calls a second of CPU."""
    started = time.process_time()
    for _ in range(times):
        call()
    return times / (time.process_time() - started)


def learnt(batches: int, symbols: int) -> tuple[Schedule, list[Batch]]:
    """A schedule that has seen an hour of refreshes, each symbol's at its own phase."""
    chance = Random(1)
    schedule = Schedule(Plan(), chance.random)
    schedule.set_budget(60.0 * batches, 0.0)
    made = [
        Batch("all", tuple(f"S{batch}-{n}" for n in range(symbols)))
        for batch in range(batches)
    ]
    schedule.set_batches(made, 3600.0)
    for batch in made:
        for symbol in batch.symbols:
            phase = chance.uniform(0, PERIOD)
            moments = [phase + PERIOD * k + chance.gauss(0, JITTER) for k in range(119)]
            schedule.seed_history(
                "all", symbol, [round(at * MICROS) for at in moments], 0.0
            )
    return schedule, made


def unplanned() -> tuple[Callable[[], object], int]:
    schedule = Schedule(
        Plan(target_delay_seconds=0, min_interval_seconds=0.001), Random(1).random
    )
    schedule.set_budget(1e6, 0.0)
    batch = Batch("all", tuple(f"S{n}" for n in range(8)))
    schedule.set_batches([batch], 0.0)
    dates = ComputedTimes(dict.fromkeys(batch.symbols, MICROS), 0.0)

    def check() -> None:
        upcoming = schedule.next()
        if upcoming is not None:
            schedule.start_check(batch, upcoming[0])
            schedule.finish_check(
                batch, Outcome.ANSWERED, upcoming[0], upcoming[0] + 0.001, dates
            )

    return check, 50_000


def played(symbols: int) -> float:
    """Checks a second of CPU, of refreshes at their own phases, at default settings."""
    schedule, (batch,) = learnt(1, symbols)
    chance = Random(2)
    due = {symbol: 3600.0 + chance.uniform(0, PERIOD) for symbol in batch.symbols}
    last = dict.fromkeys(batch.symbols, MICROS)
    spent, checks, now = 0.0, 0, 3600.0
    while checks < 3_000:
        started = time.process_time()
        upcoming = schedule.next()
        assert upcoming is not None
        now = max(now, upcoming[0])
        schedule.start_check(batch, now)
        spent += time.process_time() - started
        for symbol, at in due.items():
            if at <= now:
                last[symbol], due[symbol] = (
                    round(at * MICROS),
                    at + PERIOD + chance.gauss(0, JITTER),
                )
        started = time.process_time()
        schedule.finish_check(
            batch, Outcome.ANSWERED, now, now + 0.01, ComputedTimes(last, 0.0)
        )
        spent += time.process_time() - started
        checks += 1
    return checks / spent


def refreshes(history: int) -> float:
    """Refreshes a second of CPU that one symbol learns, its curve included."""
    chance, forecast = Random(3), Forecast(0.0)
    moments = [PERIOD * k + chance.gauss(0, JITTER) for k in range(history + 2_000)]
    for at in moments[:history]:
        forecast.learn(at, 0.0, at - 1)
    started = time.process_time()
    for at in moments[history:]:
        forecast.learn(at, 0.0, at - 1)
        forecast.curve(at, at + PERIOD)
    return 2_000 / (time.process_time() - started)


if __name__ == "__main__":
    main()
