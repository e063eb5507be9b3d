"""The best moments to look, by dynamic programming over what a batch's refreshes are expected to be. Pure.

A check costs a price, in symbol-seconds of delay. Barlow, Hunter and Proschan (*J. SIAM* 11(4), 1963) give the optimal
sequence for one unknown moment, Keller (*Management Science* 21(3), 1974) its density for many checks. With few checks
and several symbols the sequence is a shortest path through candidate moments, which lie so close that the delay
between two of them is a small part of the price.
"""

from __future__ import annotations

from itertools import pairwise
from math import inf, sqrt
from typing import TYPE_CHECKING, Final, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

# Between two candidates delay adds up to one such part of the price, or less.
_FINENESS: Final = 24

_MAX_CANDIDATES: Final = 160
_LEAST_RATE: Final = 1e-9
_LEAST_STEP_SECONDS: Final = 1e-6
# Where refreshes come so much more slowly than since the last candidate, there is one:
# most have come.
_SLOWED: Final = 0.3

# Refreshes that such a candidate must be good for.
_LEAST_EXPECTED: Final = 0.02

# What the check at the end of a plan costs, in prices: it is not known how much of it
# is for what comes then.
_LAST_CHECK: Final = 0.5


class Point(NamedTuple):
    """A corner of a symbol's curve: so many refreshes are expected until `at`.

    `left`: the chance that one that was due before is still to come.
    """

    at: float
    expected: float
    left: float


class Check(NamedTuple):
    """The next check: how many refreshes it is expected to show, and their delays together, in seconds."""

    at: float
    expected: float
    delay: float


class _Candidate(NamedTuple):
    """A moment for a check. `waited`: delays of all until then, if nothing is checked before, in symbol-seconds.

    `due`: the chance that any of those that were due before is still to come; `left`: how many are.
    """

    at: float
    expected: float
    waited: float
    due: float
    left: float


def next_check(
    curves: Sequence[Sequence[Point]], price: float, start: float, end: float
) -> Check:
    """The first check of the best plan from `start`, when one was made, to `end`.

    A curve is one symbol's: straight lines between its points, from the last check that showed it on.
    """
    candidates = _candidates(curves, price / _FINENESS, start, end)
    last = len(candidates) - 1
    onward = [0.0] * (last + 1)
    choice = last
    for here in range(last - 1, -1, -1):
        at, seen, waited, due, left = candidates[here]
        best = inf
        for there in range(here + 1, last + 1):
            candidate = candidates[there]
            delay = candidate.waited - waited - seen * (candidate.at - at)
            if delay >= best:
                break  # and it only grows
            # A check is left out where all that it is for was seen by the one before.
            expected = candidate.expected - seen
            needed = due if expected <= left else 1 - (1 - due) * left / expected
            cost = (
                delay
                + price * (needed if there < last else _LAST_CHECK * needed)
                + onward[there]
            )
            if cost < best:
                best, choice = cost, there
        onward[here] = best
    chosen = candidates[choice]
    return Check(chosen.at, chosen.expected, chosen.waited)


def _candidates(
    curves: Sequence[Sequence[Point]], fine: float, start: float, end: float
) -> list[_Candidate]:
    """Where delay has added up to `fine` since the candidate before, and where most have come; the start and the end.

    The start twice, where something came between the check before it and now.
    """
    found = [_Candidate(start, 0.0, 0.0, 1.0, 0.0)]
    expected = waited = top = 0.0
    at, seen, waited_before = start, 0.0, 0.0  # of the candidate before
    for begin, stop, rate, lefts in _stretches(curves, end):
        now = begin
        if now < start:
            expected += rate * (min(stop, start) - now)
            now = start
            if stop >= start and expected > _LEAST_EXPECTED:
                found.append(_candidate(start, expected, 0.0, lefts))
                seen = expected
        top = max(top, rate)
        while now < stop:
            fresh = expected - seen
            room = fine - (waited - waited_before - seen * (now - at))
            slowed = rate < _SLOWED * top and fresh > _LEAST_EXPECTED
            if now > at and (room <= 0 or slowed) and len(found) < _MAX_CANDIDATES:
                at, seen, waited_before, top = now, expected, waited, rate
                found.append(_candidate(at, seen, waited, lefts))
                fresh, room = 0.0, fine
            step = stop - now
            if rate > _LEAST_RATE and room > 0 and len(found) < _MAX_CANDIDATES:
                step = min(
                    step,
                    (sqrt(fresh * fresh + 2 * rate * room) - fresh) / rate
                    + _LEAST_STEP_SECONDS,
                )
            waited += step * (expected + rate * step / 2)
            expected += rate * step
            now += step
    found.append(_Candidate(end, expected, waited, 1.0, 0.0))
    return found


def _candidate(
    at: float, expected: float, waited: float, lefts: list[float]
) -> _Candidate:
    closed = 1.0
    for left in lefts:
        closed *= 1 - left
    return _Candidate(at, expected, waited, 1 - closed, sum(lefts))


def _stretches(
    curves: Sequence[Sequence[Point]], end: float
) -> Iterator[tuple[float, float, float, list[float]]]:
    """Between two corners of any curve: from, to, refreshes a second, and what is `left` of each curve."""
    corners = [
        (
            before.at,
            index,
            (after.expected - before.expected) / (after.at - before.at),
            before.left,
        )
        for index, curve in enumerate(curves)
        for before, after in pairwise(curve)
        if before.at < end
    ]
    corners.sort()
    corners.append((end, 0, 0.0, 0.0))
    rates, lefts = [0.0] * len(curves), [0.0] * len(curves)
    for (begin, index, rate, left), (stop, *_) in pairwise(corners):
        rates[index], lefts[index] = rate, left
        if stop > begin:
            yield begin, stop, sum(rates), lefts
