"""Measure decisions a second of CPU: `python -m tests.bench.schedule.speed`."""

from __future__ import annotations

import time
from random import Random
from typing import TYPE_CHECKING, Final

from connector.schedule.batches import Batch
from connector.schedule.checks import CheckSettings, Outcome
from connector.schedule.forecast import Forecast
from connector.schedule.scheduler import Schedule
from connector.schedule.symbols import ComputedTimes

if TYPE_CHECKING:
    from collections.abc import Callable

PERIOD: Final = 30.0
JITTER: Final = 0.3
MICROS: Final = 1_000_000

# An hour of refreshes before anything is measured.
_HISTORY_SECONDS: Final = 3600.0
_HISTORY_REFRESHES: Final = 119

# Repetitions of each measurement: about a second.
_CALLS: Final = 200_000
_UNPLANNED_CHECKS: Final = 50_000
_PLAYED_CHECKS: Final = 3_000
_LEARNT_REFRESHES: Final = 2_000

# Sizes to measure.
_BATCHES: Final = (1, 10, 100)
_SYMBOLS: Final = (1, 4, 8)
_HISTORY: Final = (4, 16, 64, 1000)


def main() -> None:
    print("which batch is next, and when; a second of CPU")
    for batches in _BATCHES:
        schedule, _ = learnt(batches, 8)
        rate = per_second(schedule.next, _CALLS)
        print(f"  {batches:4} batches of 8          {rate:12,.0f}")

    print("a check started and finished, nothing planned (target 0), nothing new")
    rate = per_second(unplanned(), _UNPLANNED_CHECKS)
    print(f"     1 batch  of 8          {rate:12,.0f}")

    print("a check started and finished: its answer learnt, the next check planned")
    for symbols in _SYMBOLS:
        rate = played(symbols)
        print(f"     1 batch  of {symbols}          {rate:12,.0f}")

    print("a refresh learnt, by how many were before")
    for history in _HISTORY:
        rate = refreshes(history)
        print(f"  {history:4} refreshes            {rate:12,.0f}")


def per_second(call: Callable[[], object], times: int) -> float:
    """Return the calls a second of CPU."""
    started = time.process_time()
    for _ in range(times):
        call()
    return times / (time.process_time() - started)


def learnt(batches: int, symbols: int) -> tuple[Schedule, list[Batch]]:
    """Return a schedule that has seen an hour of refreshes, each symbol's at its own phase."""
    chance = Random(1)
    schedule = Schedule(CheckSettings(), chance.random)
    schedule.set_budget(60.0 * batches, 0.0)

    made = []
    for batch_number in range(batches):
        names = [f"S{batch_number}-{n}" for n in range(symbols)]
        made.append(Batch("all", tuple(names)))
    schedule.set_batches(made, _HISTORY_SECONDS)

    for batch in made:
        for symbol in batch.symbols:
            phase = chance.uniform(0, PERIOD)
            computed = []
            for k in range(_HISTORY_REFRESHES):
                at = phase + PERIOD * k + chance.gauss(0, JITTER)
                computed.append(round(at * MICROS))
            schedule.seed_history("all", symbol, computed, 0.0)
    return schedule, made


def unplanned() -> Callable[[], object]:
    """Return a check of a schedule without a target, whose answer holds nothing new."""
    settings = CheckSettings(target_delay_seconds=0, min_interval_seconds=0.001)
    schedule = Schedule(settings, Random(1).random)
    schedule.set_budget(1e6, 0.0)
    names = [f"S{n}" for n in range(8)]
    batch = Batch("all", tuple(names))
    schedule.set_batches([batch], 0.0)
    dates = ComputedTimes(dict.fromkeys(batch.symbols, MICROS), 0.0)

    def check() -> None:
        upcoming = schedule.next()
        if upcoming is not None:
            at, _ = upcoming
            schedule.start_check(batch, at)
            schedule.finish_check(batch, Outcome.ANSWERED, at, at + 0.001, dates)

    return check


def played(symbols: int) -> float:
    """Return the checks a second of CPU, at default settings.

    Each symbol is refreshed at its own phase.
    """
    schedule, (batch,) = learnt(1, symbols)
    chance = Random(2)
    due = {}
    for symbol in batch.symbols:
        due[symbol] = _HISTORY_SECONDS + chance.uniform(0, PERIOD)
    last = dict.fromkeys(batch.symbols, MICROS)
    spent = 0.0
    now = _HISTORY_SECONDS
    for _ in range(_PLAYED_CHECKS):
        started = time.process_time()
        upcoming = schedule.next()
        assert upcoming is not None
        now = max(now, upcoming[0])
        schedule.start_check(batch, now)
        spent += time.process_time() - started

        # Play the source. Its time does not count.
        for symbol, at in due.items():
            if at <= now:
                last[symbol] = round(at * MICROS)
                due[symbol] = at + PERIOD + chance.gauss(0, JITTER)

        started = time.process_time()
        times = ComputedTimes(last, 0.0)
        schedule.finish_check(batch, Outcome.ANSWERED, now, now + 0.01, times)
        spent += time.process_time() - started
    return _PLAYED_CHECKS / spent


def refreshes(history: int) -> float:
    """Return the refreshes a second of CPU that a symbol learns, its curve included."""
    chance = Random(3)
    forecast = Forecast(0.0)
    moments = []
    for k in range(history + _LEARNT_REFRESHES):
        moments.append(PERIOD * k + chance.gauss(0, JITTER))

    for at in moments[:history]:
        forecast.learn(at, 0.0, at - 1)

    started = time.process_time()
    for at in moments[history:]:
        forecast.learn(at, 0.0, at - 1)
        forecast.curve(at, at + PERIOD)
    return _LEARNT_REFRESHES / (time.process_time() - started)


if __name__ == "__main__":
    main()
