"""What a check may cost: one price for all batches, so that a request is spent where it buys most. Pure."""

from __future__ import annotations

from math import exp, sqrt
from typing import Final

import msgspec

_MEMORY: Final = (100.0, 20)
"""How far back checks count: so many seconds, and as many as this many checks of the budget take."""

_BOUNDS: Final = (1e-3, 1e9)
_LEAST_MEAN_SECONDS: Final = 1e-6

_RELIED_ON: Final = 0.25
"""Of what is remembered, where the price is another by far."""

_DEAREST: Final = 2.0
"""Target delays of all the symbols of a check."""


class Price(msgspec.Struct):
    """The price of a check in symbol-seconds of delay.

    Checks a minute fall with the square root of the price, and delays grow with it (Keller, *Management Science*
    21(3), 1974). So what the last checks would have cost and expected at a price of one says which price keeps to a
    budget, and which one meets a target; it is followed as the law holds only nearly.
    """

    target_delay_seconds: float
    value: float = 1.0
    _memory: float = _MEMORY[0]
    _at: float = float("-inf")
    _seconds: float = 0.0
    _checks: float = 0.0
    _expected: float = 0.0
    _delay: float = 0.0

    def begin(
        self, now: float, checks_per_second: float, expected_per_second: float
    ) -> None:
        """Suppose so many checks a second at a price of one, for so many refreshes, until it is known better."""
        self._at, self._seconds = now, self._memory
        self._checks = checks_per_second * self._memory
        self._expected = expected_per_second * self._memory
        self._delay = self._checks

    def doubt(self) -> None:
        """The price has moved far from those at which the last checks were made: rely on new ones soon."""
        self._weigh(_RELIED_ON)

    def grow(self, ratio: float) -> None:
        """There is so many times as much to check as before."""
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
        """Learn from a check that was expected to show this many refreshes, with this much delay together.

        `wanted_checks`: how many would have been made in its place, had none to wait for its turn. The price follows
        from the checks that are wanted: those that are made keep to the budget at any price.
        """
        fade = exp(min(self._at - now, 0.0) / self._memory)
        self._at, root = max(now, self._at), sqrt(max(self.value, _BOUNDS[0]))
        self._seconds = self._seconds * fade + self._memory * (1 - fade)
        self._checks = self._checks * fade + root * wanted_checks
        self._expected = self._expected * fade + expected
        self._delay = self._delay * fade + delay / root

    def settle(self, budget_per_minute: float, symbols_per_check: float) -> None:
        """As low as the target needs, but not below what the budget allows.

        Nothing, where the target is 0 and the budget is ample. However easily the target is met, a check costs no more
        than a few times what its symbols may wait together: else a refresh would be left out now and then, and the mean
        still be met.
        """
        self._memory = max(_MEMORY[0], _MEMORY[1] * 60 / max(budget_per_minute, 1e-9))
        affordable = 60 * self._checks / max(self._seconds * budget_per_minute, 1e-9)
        mean = self._delay / self._expected if self._expected else 0.0
        wished = self.target_delay_seconds / max(mean, _LEAST_MEAN_SECONDS)
        dearest = _DEAREST * self.target_delay_seconds * symbols_per_check
        self.value = min(
            max(affordable**2, min(wished**2, dearest), _BOUNDS[0]), _BOUNDS[1]
        )
        if not self.target_delay_seconds and affordable**2 <= _BOUNDS[0]:
            self.value = 0.0
