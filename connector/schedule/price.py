"""Set the price of a check. Pure.

All batches pay the same price, so that each request goes where it saves most. A check is
worth sending when it saves at least its price, in symbol-seconds of delay.

With many checks, their rate falls with the square root of the price, and the mean delay
grows with it (Keller, *Management Science* 21(3), 1974). The law also gives the cost of any
check at a price of one, so the last checks show which price keeps to a budget and which one
meets a target. The law is only approximate: the price follows new checks as they come.
"""

from __future__ import annotations

from math import exp, sqrt
from typing import Final

import msgspec

# Checks fade from memory over 100 s, or over the time of 20 checks where a budget allows fewer.
_MEMORY_SECONDS: Final = 100.0
_MEMORY_CHECKS: Final = 20

_MIN_PRICE: Final = 1e-3
_MAX_PRICE: Final = 1e9
_MIN_MEAN_SECONDS: Final = 1e-6
_MIN_BUDGET: Final = 1e-9

# Fraction of the memory that is kept when the price has moved far.
_KEPT_WHEN_IN_DOUBT: Final = 0.25

# Highest price for the target, in target delays of all symbols of a check.
_MAX_PRICE_IN_TARGETS: Final = 2.0


class Price(msgspec.Struct):
    """The price of a check in symbol-seconds of delay.

    The memory holds, with fading weights, the seconds that passed, the checks that were
    wanted at a price of one, the refreshes that checks were expected to show, and their
    delays at a price of one.
    """

    target_delay_seconds: float
    value: float = 1.0
    _memory: float = _MEMORY_SECONDS
    _at: float = float("-inf")
    _seconds: float = 0.0
    _checks: float = 0.0
    _expected: float = 0.0
    _delay: float = 0.0

    def begin(
        self, now: float, checks_per_second: float, expected_per_second: float
    ) -> None:
        """Assume these rates at a price of one until checks have been made."""
        self._at = now
        self._seconds = self._memory
        self._checks = checks_per_second * self._memory
        self._expected = expected_per_second * self._memory
        self._delay = self._checks

    def doubt(self) -> None:
        """Rely on new checks soon: the price is far from those at which the last ones were made."""
        self._weigh(_KEPT_WHEN_IN_DOUBT)

    def grow(self, ratio: float) -> None:
        """Take the load as multiplied by `ratio` from now on."""
        self._weigh(ratio)
        self._seconds /= ratio

    def _weigh(self, factor: float) -> None:
        self._seconds *= factor
        self._checks *= factor
        self._expected *= factor
        self._delay *= factor

    def checked(
        self, now: float, expected: float, delay: float, wanted_checks: float = 1.0
    ) -> None:
        """Learn from a check that was expected to show some refreshes, with some delay in all.

        `wanted_checks` is the number of checks that would have been made in its place if
        none had to wait for its turn. The price follows from the wanted checks, since those
        that are made keep to the budget at any price.
        """
        fade = exp(min(self._at - now, 0.0) / self._memory)
        root = sqrt(max(self.value, _MIN_PRICE))
        self._at = max(now, self._at)
        self._seconds = self._seconds * fade + self._memory * (1 - fade)
        self._checks = self._checks * fade + root * wanted_checks
        self._expected = self._expected * fade + expected
        self._delay = self._delay * fade + delay / root

    def settle(self, budget_per_minute: float, symbols_per_check: float) -> None:
        """Set the price that meets the target, or a higher one if the budget needs it.

        The price is 0 if the target is 0 and the budget is ample. Even if the target is met
        easily, a check costs no more than a few times the delay that its symbols may have.
        Otherwise a refresh would be left out now and then while the mean is still met.
        """
        budget = max(budget_per_minute, _MIN_BUDGET)
        self._memory = max(_MEMORY_SECONDS, _MEMORY_CHECKS * 60 / budget)

        for_budget = self._price_for_budget(budget_per_minute)
        if not self.target_delay_seconds and for_budget <= _MIN_PRICE:
            self.value = 0.0
            return

        # Each need has its price, and the highest meets all. A second budget would be
        # another need.
        for_target = self._price_for_target(symbols_per_check)
        self.value = min(max(for_budget, for_target, _MIN_PRICE), _MAX_PRICE)

    def _price_for_budget(self, budget_per_minute: float) -> float:
        """Return the price at which the checks keep to this budget."""
        affordable_checks = max(self._seconds * budget_per_minute, _MIN_BUDGET)
        root = 60 * self._checks / affordable_checks
        return root**2

    def _price_for_target(self, symbols_per_check: float) -> float:
        """Return the highest price at which the mean delay meets the target."""
        mean_delay = 0.0
        if self._expected:
            mean_delay = self._delay / self._expected
        root = self.target_delay_seconds / max(mean_delay, _MIN_MEAN_SECONDS)
        highest = _MAX_PRICE_IN_TARGETS * self.target_delay_seconds * symbols_per_check
        return min(root**2, highest)
