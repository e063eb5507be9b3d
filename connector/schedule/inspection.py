"""Find the best moment for a batch's next check by dynamic programming. Pure.

A check costs a price in symbol-seconds of delay. A plan is a sequence of checks; the
best plan has the lowest sum of delays and prices. Barlow, Hunter and Proschan (*J.
SIAM* 11(4), 1963) give the optimal sequence for one unknown moment, and Keller
(*Management Science* 21(3), 1974) the density of the checks when there are many.

For few checks and several symbols, the best plan is the shortest path through candidate
moments. The candidates lie so close together that the delay between two of them is a
small part of the price.
"""

from __future__ import annotations

from itertools import pairwise
from math import inf, sqrt
from typing import TYPE_CHECKING, Final, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

# Delay between two candidates adds up to this part of the price at most.
_DELAY_STEPS_PER_PRICE: Final = 24

# Bounds the work, which grows with the square of the candidates.
_MAX_CANDIDATES: Final = 160

# Below this rate, in refreshes a second, delay grows too slowly to compute a step.
_MIN_RATE: Final = 1e-9

# Keeps rounding from stopping the steps just before the delay is reached.
_MIN_STEP_SECONDS: Final = 1e-6

# A candidate is added when the rate has fallen to this fraction of the highest since the
# last one. The end of a window, when most refreshes have come, is a good moment to check.
_SLOWED_RATE_RATIO: Final = 0.3

# Fewer expected refreshes than this do not make a candidate at such a moment.
_MIN_EXPECTED: Final = 0.02

# Price of the check at a plan's end, in prices. Part of it serves refreshes after the
# end; it is not known how much.
_LAST_CHECK_PRICES: Final = 0.5


class Point(NamedTuple):
    """A corner of a symbol's curve, which is straight between corners.

    `expected` is the number of refreshes that are expected until `at`. `pending` is the
    probability that a refresh was due before `at` and is still to come.
    """

    at: float
    expected: float
    pending: float


class Check(NamedTuple):
    """A planned check.

    `expected` is the number of refreshes it is expected to show, and `delay` the sum of
    their delays in seconds.
    """

    at: float
    expected: float
    delay: float


class _Candidate(NamedTuple):
    """A moment for a check, and what happens until then if there is no check before it.

    `expected` refreshes come and wait for `delay` symbol-seconds together.
    `any_pending` is the probability that any refresh that was due is still to come, and
    `pending` the expected number of those.
    """

    at: float
    expected: float
    delay: float
    any_pending: float
    pending: float


def next_check(
    curves: Sequence[Sequence[Point]], price: float, start: float, end: float
) -> Check:
    """Return the first check of the best plan from `start` to `end`.

    Each curve belongs to one symbol, and begins at the last check that showed it.
    """
    candidates = _candidates(curves, price / _DELAY_STEPS_PER_PRICE, start, end)
    last = len(candidates) - 1
    # The lowest cost of a plan from each candidate to the end, computed backwards.
    costs = [0.0] * (last + 1)
    best_next = last
    for here in range(last - 1, -1, -1):
        at, shown, delay_before, any_pending, pending = candidates[here]
        lowest = inf
        for there in range(here + 1, last + 1):
            candidate = candidates[there]
            delay = candidate.delay - delay_before - shown * (candidate.at - at)
            if delay >= lowest:
                # Delay only grows from here.
                break

            # A check is left out if the one before has shown all that it is for. It is
            # for the pending refreshes, and for others that come in any case.
            needed = any_pending
            expected = candidate.expected - shown
            if expected > pending:
                needed = 1 - (1 - any_pending) * pending / expected
            prices = needed
            if there == last:
                prices = _LAST_CHECK_PRICES * needed

            cost = delay + price * prices + costs[there]
            if cost < lowest:
                lowest = cost
                best_next = there
        costs[here] = lowest
    chosen = candidates[best_next]
    return Check(chosen.at, chosen.expected, chosen.delay)


def _candidates(
    curves: Sequence[Sequence[Point]], delay_step: float, start: float, end: float
) -> list[_Candidate]:
    """Return the moments to choose from, with `start` first and `end` last.

    A candidate follows the one before when `delay_step` symbol-seconds of delay have
    added up, or when most refreshes of a window have come. The start appears twice if
    refreshes came between the last check and the start, since a check at once would
    show them.
    """
    candidates = [_Candidate(start, 0.0, 0.0, 1.0, 0.0)]
    expected = delay = highest_rate = 0.0
    for begin, stop, rate, pending in _stretches(curves, end):
        now = begin
        if now < start:
            expected += rate * (min(stop, start) - now)
            now = start
            if stop >= start and expected > _MIN_EXPECTED:
                candidates.append(_candidate(start, expected, 0.0, pending))

        highest_rate = max(highest_rate, rate)
        while now < stop:
            before = candidates[-1]
            fresh = expected - before.expected
            fresh_delay = delay - before.delay - before.expected * (now - before.at)
            delay_left = delay_step - fresh_delay
            has_slowed = (
                rate < _SLOWED_RATE_RATIO * highest_rate and fresh > _MIN_EXPECTED
            )
            is_due = now > before.at and (delay_left <= 0 or has_slowed)
            if is_due and len(candidates) < _MAX_CANDIDATES:
                candidates.append(_candidate(now, expected, delay, pending))
                highest_rate = rate
                fresh = 0.0
                delay_left = delay_step

            step = stop - now
            may_add = len(candidates) < _MAX_CANDIDATES
            if rate > _MIN_RATE and delay_left > 0 and may_add:
                # Solve fresh * step + rate * step**2 / 2 = delay_left for the step.
                root = sqrt(fresh * fresh + 2 * rate * delay_left)
                step = min(step, (root - fresh) / rate + _MIN_STEP_SECONDS)
            delay += step * (expected + rate * step / 2)
            expected += rate * step
            now += step
    candidates.append(_Candidate(end, expected, delay, 1.0, 0.0))
    return candidates


def _candidate(
    at: float, expected: float, delay: float, pending: list[float]
) -> _Candidate:
    """Return a candidate. The symbols' probabilities are taken as independent."""
    none_pending = 1.0
    for probability in pending:
        none_pending *= 1 - probability
    return _Candidate(at, expected, delay, 1 - none_pending, sum(pending))


def _stretches(
    curves: Sequence[Sequence[Point]], end: float
) -> Iterator[tuple[float, float, float, list[float]]]:
    """Yield each stretch between two neighbouring corners of any curves.

    A stretch is its begin and stop, the refreshes a second of all symbols, and each
    symbol's `pending`. The list is the same for all stretches.
    """
    corners = []
    for index, curve in enumerate(curves):
        for before, after in pairwise(curve):
            if before.at >= end:
                break
            refreshes = after.expected - before.expected
            seconds = after.at - before.at
            corners.append((before.at, index, refreshes / seconds, before.pending))
    corners.sort()
    corners.append((end, 0, 0.0, 0.0))

    rates = [0.0] * len(curves)
    pending = [0.0] * len(curves)
    for corner, following in pairwise(corners):
        begin, index, rate, symbol_pending = corner
        stop = following[0]
        rates[index] = rate
        pending[index] = symbol_pending
        if stop > begin:
            yield begin, stop, sum(rates), pending
