"""Average the last checks of a batch. Pure."""

from __future__ import annotations

from math import sqrt
from typing import TYPE_CHECKING, Final

import msgspec

from connector.schedule.forecast import USUAL_PERIOD_SECONDS

if TYPE_CHECKING:
    from connector.schedule.inspection import Check

# Weight of the last check.
_SMOOTHING: Final = 0.1

# Wanted checks that count for one check that had to wait, however long it waited. More
# would let the price overshoot.
_MAX_WANTED_CHECKS: Final = 10.0

# A plan replaces even distances if its estimated delay is below this part of theirs.
# Estimates are optimistic. Measured with 8 symbols, each with its own phase and a
# deviation of a fifth of the period: a plan claims to save 5 % and saves nothing.
_EVEN_DELAY_RATIO: Final = 0.9


class Averages(msgspec.Struct):
    """Averages of a batch's last checks, in seconds.

    `interval` lies between two checks, and `wait` is the part of it for which a wanted
    check had to wait. `gap` is the interval that the plans wanted, at a price of one.
    `delay` is the total delay of refreshes that a plan expected, and `even_delay` that of
    checks at even distances.
    """

    interval: float
    wait: float = 0.0
    gap: float = 0.0
    delay: float = 0.0
    even_delay: float = 0.0

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

    @property
    def are_plans_better(self) -> bool:
        """True if planned checks save clearly more delay than checks at even distances.

        They save less than they claim if refreshes come at almost any moment, and make the
        longest delays longer.
        """
        saves_enough = self.delay <= _EVEN_DELAY_RATIO * self.even_delay
        return saves_enough or self.is_starved

    def even_gap(self, price: float) -> float:
        """Return the interval of checks at even distances, at this price."""
        return self.gap * sqrt(price)

    def add_interval(self, interval: float, wait: float) -> None:
        """Add the interval before a check, of which the check waited `wait` for its turn."""
        self.interval += _SMOOTHING * (interval - self.interval)
        self.wait += _SMOOTHING * (wait - self.wait)

    def add_plan(self, check: Check, previous_at: float, price: float) -> None:
        """Add a check as it was planned at this price. `previous_at` is the check before."""
        gap = max(check.at - previous_at, 0.0)
        weight = _SMOOTHING if self.gap else 1.0
        self.gap += weight * (gap / sqrt(price) - self.gap)
        self.delay += _SMOOTHING * (check.delay - self.delay)
        even_delay = check.expected * gap / 2
        self.even_delay += _SMOOTHING * (even_delay - self.even_delay)
