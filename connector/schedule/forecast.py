"""When a symbol's next refreshes are to be expected, learnt from the moments of its last ones. Pure.

Moments are seconds of our monotonic clock. A refresh is computed at a moment that the upstream tells exactly, and can
be seen some lag later. Upstreams keep time in different ways: on a grid, where jitter does not add up, or by sleeping
after work, where it does. Both are a filter of phase and period with other gains (alpha-beta filters, with a growing
memory first and a fading one then: Morrison, *Introduction to Sequential Smoothing and Prediction*, 1969), so a few of
them run side by side, and the one that lately predicted best is believed. What it got wrong is the distribution.
"""

from __future__ import annotations

from collections import deque
from math import floor
from typing import Final

import msgspec

from connector.schedule.error_distribution import ErrorDistribution, shape_of
from connector.schedule.inspection import Point

# What the upstream documents; believed until two refreshes were seen.
USUAL_PERIOD_SECONDS: Final = 30.0

_LEAST_PERIOD_SECONDS: Final = 0.25

# Of phase and period: a grid, something between, a sleep after work.
_GAINS: Final = ((0.1, 0.0025), (0.4, 0.03), (1.0, 0.03))

# Errors of a filter that make its distribution.
_KEPT: Final = 64

# Errors, in periods, that stand in until there are enough real ones.
_GUESSED: Final = (-0.15, -0.08, -0.03, 0.0, 0.03, 0.08, 0.15)

_ENOUGH: Final = 4

_LOSS_MEMORY: Final = 25
# Another filter is believed when its loss is so much of the old one's.
_BETTER: Final = 0.9

# Losses: what a filter follows of an error at most, once it has settled. More is a
# surprise.
_HELD: Final = 5.0

_LEAST_HELD_SECONDS: Final = 0.02

# Of a period: what is no surprise, and what makes two intervals the same.
_ALIKE: Final = 0.05

# Of an error: how far another may be off to be the same.
_AGREE: Final = 0.3

# Refreshes after which a filter has settled.
_SETTLED: Final = 4

# Part of the refreshes that are left out, before it is known; and how fast it is
# learnt.
_SKIPPED: Final = 0.02

# More is an outage.
_MOST_SKIPPED_AT_ONCE: Final = 2

# Of a curve; where a period is so short, what is left of it says nothing.
_MOST_POINTS: Final = 1000


class _Track(msgspec.Struct):
    """A filter: where the last refresh should have been, how far apart they are, and what it got wrong lately."""

    alpha: float
    beta: float
    level: float
    period: float
    seen: int = 0
    loss: float = 0.0
    errors: deque[float] = msgspec.field(default_factory=lambda: deque(maxlen=_KEPT))
    is_guessed: bool = True

    def expected(self, steps: int) -> float:
        return self.level + steps * self.period

    def begin(self, at: float, period: float, seen: int) -> None:
        self.level, self.period, self.seen = (
            at,
            max(period, _LEAST_PERIOD_SECONDS),
            seen,
        )

    def guess(self) -> None:
        self.errors.extend(part * self.period for part in _GUESSED)

    def learn(self, at: float, lag: float, steps: int, held: float) -> None:
        """Follow a refresh at `at`, `steps` periods after the last; an error counts as `held` at most."""
        if self.is_guessed and len(self.errors) == len(_GUESSED) + _ENOUGH:
            self.is_guessed = False
            for _ in _GUESSED:
                self.errors.popleft()
        level = self.expected(steps)
        error = at - level
        self.errors.append(error + lag)
        self.seen += 1
        k = self.seen
        self.loss += max(1 / _LOSS_MEMORY, 1 / k) * (
            min(abs(error), self.period / 4) - self.loss
        )
        followed = error if k <= _SETTLED else min(max(error, -held), held)
        if self.alpha == 1:
            self.level = at
            self.period += max(self.beta, 1 / k) * followed / steps
        else:
            self.level = (
                level
                + max(self.alpha, 2 * (2 * k + 1) / ((k + 1) * (k + 2))) * followed
            )
            self.period += max(self.beta, 6 / ((k + 1) * (k + 2))) * followed / steps
        self.period = max(self.period, _LEAST_PERIOD_SECONDS)


class Forecast:
    """One symbol, asked for since `begun_at`: feed it every refresh seen, and ask how many to expect by when."""

    def __init__(self, begun_at: float) -> None:
        self.last: float | None = None
        self._begun_at = begun_at
        self._skipped = _SKIPPED
        self._tracks: list[_Track] = []
        self._best = 0
        self._surprise: tuple[float, float] | None = None
        self._shape: ErrorDistribution | None = None
        self._is_stale = self._has_rhythm = False

    @property
    def period(self) -> float | None:
        """Seconds between refreshes; None before two were seen."""
        return self._tracks[self._best].period if self._has_rhythm else None

    @property
    def phase(self) -> float | None:
        """A moment about which a refresh falls; None before two were seen."""
        return self._tracks[self._best].level if self._has_rhythm else None

    @property
    def jitter(self) -> float | None:
        """Standard deviation of the next refresh's moment, were it normal, in seconds; None before two were seen."""
        return self._errors().deviation if self._has_rhythm else None

    def learn(self, at: float, lag: float, unseen_since: float) -> None:
        """A refresh at `at` became visible `lag` later; a check sent at `unseen_since` did not show it yet."""
        if self.last is None:
            self._tracks = [
                _Track(alpha, beta, at, USUAL_PERIOD_SECONDS) for alpha, beta in _GAINS
            ]
        elif not self._has_rhythm:
            interval = at - self.last
            if interval <= 0:  # a clock was set
                self.last = at
                return
            self._has_rhythm = True
            steps = self._steps(interval, at - unseen_since)
            for track in self._tracks:
                track.begin(at, interval / steps, 1)
                track.guess()
        else:
            interval = at - self.last
            self._follow(
                at, lag, self._steps(interval, at - unseen_since), unseen_since
            )
        if self.last is not None:
            best = min(
                range(len(self._tracks)), key=lambda index: self._tracks[index].loss
            )
            if self._tracks[best].loss < _BETTER * self._tracks[self._best].loss:
                self._best = best
            self._is_stale = True
        self.last = at

    def _errors(self) -> ErrorDistribution:
        """What the believed filter gets wrong, made when it is asked for: of a symbol that is only followed, never."""
        if self._shape is None or self._is_stale:
            track, self._is_stale = self._tracks[self._best], False
            self._shape = shape_of(list(track.errors), track.period / 2)
        return self._shape

    def _steps(self, interval: float, hidden: float) -> int:
        """How many periods an interval has. None can have been hidden where checks looked until just before its end."""
        track = self._tracks[self._best]
        if track.seen < _SETTLED - 1 and hidden < interval / 2:
            return 1
        return max(1, round(interval / track.period))

    def _follow(self, at: float, lag: float, steps: int, unseen_since: float) -> None:
        track, interval = self._tracks[self._best], at - (self.last or at)
        held = max(_HELD * track.loss, _LEAST_HELD_SECONDS)
        error = at - track.expected(steps)
        period = track.period
        # What a check has looked for in vain was skipped; others may have been there, unseen.
        looked = (unseen_since - track.level) / period - _ALIKE
        skipped = min(max(int(looked), 0), steps - 1, _MOST_SKIPPED_AT_ONCE)
        self._skipped += _SKIPPED * (skipped - (skipped + 1) * self._skipped)
        for other in self._tracks:
            other.learn(at, lag, steps, held)
        if abs(error) <= max(held, _ALIKE * period):
            self._surprise = None
            return
        before, self._surprise = self._surprise, (error, interval)
        if before is None:
            return
        if steps == 1 and abs(before[1] - interval) < _ALIKE * interval:
            self._restart(at, interval)
        elif abs(before[0] - error) < _AGREE * abs(error):
            self._restart(at, period)

    def _restart(self, at: float, period: float) -> None:
        """Two surprises that agree: another period, or another phase."""
        self._surprise = None
        for track in self._tracks:
            track.begin(at, period, _SETTLED - 1)
            for _ in range(2):  # these two are explained
                track.errors.pop()

    def is_lost(self, now: float) -> bool:
        """Nothing is known of a rhythm, or the refresh after the last is long overdue."""
        return (
            not self._has_rhythm
            or now > self._tracks[self._best].expected(2) + self._errors().at[-1]
        )

    def settled_by(self, since: float) -> float:
        """When the next refresh after `since` should be there, but for a late one."""
        if not self._has_rhythm:
            return since
        track = self._tracks[self._best]
        end = track.expected(1) + self._errors().latest
        return end + max(floor((since - end) / track.period) + 1, 0) * track.period

    def curve(self, since: float, until: float) -> list[Point]:
        """Refreshes to expect, given that a check sent at `since` brought nothing new.

        Each period brings one, but for some that are skipped. The longer none came, the less is expected of a period,
        and the more of any moment.
        """
        if not self._has_rhythm:
            rate = 1 / max(USUAL_PERIOD_SECONDS, since - self._begun_at)
            return [Point(since, 0.0, 0.0), Point(until, (until - since) * rate, 0.0)]
        track, shape, happens, background = (
            self._tracks[self._best],
            self._errors(),
            1 - self._skipped,
            0.0,
        )
        center = track.expected(1)
        behind = since - center - shape.at[-1]
        if behind > 0:
            missed = int(behind / track.period) + 1
            center += missed * track.period
            happens /= 1 + missed / 2
            background = happens / track.period
        curve, total = [Point(since, 0.0, 0.0)], 0.0
        while center + shape.at[0] < until and len(curve) < _MOST_POINTS:
            gone = shape.below(since - center)
            weight = happens / max(1 - happens * gone, 1e-9)
            if gone:
                curve[0] = Point(since, 0.0, weight * (1 - gone))
            for error, mass in zip(shape.at, shape.mass, strict=True):
                at = center + error
                if at > curve[-1].at:
                    expected = (
                        total + weight * (mass - gone) + background * (at - since)
                    )
                    curve.append(Point(at, expected, weight * (1 - mass)))
            total += weight * (1 - gone)
            center += track.period
        if curve[-1].at < until:
            curve.append(Point(until, total + background * (until - since), 0.0))
        return curve
