"""Keep requests to the budget. Pure.

The price of a check selects the requests that save most (price.py), and the pace spreads
them over time (pace.py).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from connector.schedule.checks import SLOW_RETRY_SECONDS
from connector.schedule.forecast import USUAL_PERIOD_SECONDS
from connector.schedule.pace import Pace
from connector.schedule.price import Price

if TYPE_CHECKING:
    from collections.abc import Sequence

    from connector.schedule.batches import Batch
    from connector.schedule.inspection import Check

# Requests a minute until a budget is set: nine tenths of the limit of the upstream's
# smallest plan.
_USUAL_BUDGET_PER_MINUTE: Final = 54.0

# Keeps the time between two requests finite.
_MIN_BUDGET_PER_MINUTE: Final = 0.01

# A round of all batches is not planned at less than a request a minute.
_MIN_ROUND_BUDGET: Final = 1.0

# Plans are made again when a new budget moves the price by this factor, up or down.
_REPLAN_PRICE_RATIO: Final = 1.25

# Beyond this factor, the last checks say little about the new price.
_DOUBT_PRICE_RATIO: Final = 4.0

# All refused symbols together take this part of the budget at most. If many are refused,
# their tries become rarer, up to an hour.
_REFUSED_FRACTION: Final = 0.1
_MAX_SLOW_RETRY_SECONDS: Final = 3600


class BudgetControl:
    """The budget in requests a minute, and the price and pace that follow from it.

    `refused_count` is the number of refused batches. `fixed_price` replaces the price for
    measurements.
    """

    def __init__(
        self, target_delay_seconds: float, fixed_price: float | None = None
    ) -> None:
        self._price = Price(target_delay_seconds)
        self._fixed_price = fixed_price
        if fixed_price is not None:
            self._price.value = fixed_price
        self._budget = _USUAL_BUDGET_PER_MINUTE
        self._pace = Pace.of(_USUAL_BUDGET_PER_MINUTE)
        self._batch_count = 0
        self.refused_count = 0
        self._symbol_count = 0

    @property
    def price(self) -> float:
        """The price of a check, in symbol-seconds of delay."""
        return self._price.value

    @property
    def budget_per_minute(self) -> float:
        """Requests a minute that may be planned."""
        return self._budget

    @property
    def ready_at(self) -> float:
        """The moment from which the pace allows a request."""
        return self._pace.ready_at

    @property
    def request_seconds(self) -> float:
        """Seconds between requests if the budget is spent evenly."""
        return 60 / self._budget

    @property
    def round_seconds(self) -> float:
        """Seconds in which the budget allows one check of each batch.

        Refused batches do not count, since a part of the budget is set aside for them.
        """
        return 60 * self._healthy_count / max(self._budget, _MIN_ROUND_BUDGET)

    @property
    def _healthy_count(self) -> int:
        return self._batch_count - self.refused_count

    def slow_retry_seconds(self, refused_count: int) -> float:
        """Return the interval between tries of a symbol if this many are refused."""
        evenly = refused_count * self.request_seconds / _REFUSED_FRACTION
        return min(max(SLOW_RETRY_SECONDS, evenly), _MAX_SLOW_RETRY_SECONDS)

    def set_budget(self, budget_per_minute: float, now: float) -> bool:
        """Follow another budget from now on. Return True if the price moves much."""
        budget_per_minute = max(budget_per_minute, _MIN_BUDGET_PER_MINUTE)
        if budget_per_minute == self._budget:
            return False
        self._budget = budget_per_minute
        self._set_pace(now)
        before = self.price
        self._settle()

        lowest = before / _DOUBT_PRICE_RATIO
        highest = before * _DOUBT_PRICE_RATIO
        if before and not lowest < self.price < highest:
            self._price.doubt()
        lowest = before / _REPLAN_PRICE_RATIO
        highest = before * _REPLAN_PRICE_RATIO
        return not lowest < self.price < highest

    def set_batches(self, batches: Sequence[Batch], now: float) -> None:
        """Let the price follow a change of the batches, before checks show its effect."""
        symbols_before = self._symbol_count
        self._batch_count = len(batches)
        self.refused_count = sum(batch.refused for batch in batches)
        self._symbol_count = sum(len(batch.symbols) for batch in batches)
        if symbols_before:
            self._price.grow(max(self._symbol_count, 1) / symbols_before)
        else:
            self._begin_price(batches, now)
        self._settle()
        self._set_pace(now)

    def start_request(self, now: float) -> None:
        """Take a request that starts now out of the pace."""
        self._pace.take(now)

    def record_check(
        self, sent_at: float, check: Check | None, wanted_checks: float
    ) -> None:
        """Let the price learn from a check that was sent, and from its plan if it had one."""
        expected = 0.0
        delay = 0.0
        if check is not None:
            expected = check.expected
            delay = check.delay
        self._price.checked(sent_at, expected, delay, wanted_checks)
        self._settle()

    def _begin_price(self, batches: Sequence[Batch], now: float) -> None:
        checks_per_second = 0.0
        expected_per_second = 0.0
        for batch in batches:
            rate = len(batch.symbols) / USUAL_PERIOD_SECONDS
            expected_per_second += rate
            # Keller's rate of checks (price.py) at a price of one, for random refreshes.
            checks_per_second += (rate / 2) ** 0.5
        self._price.begin(now, checks_per_second, expected_per_second)

    def _set_pace(self, now: float) -> None:
        """Let the pace follow the budget, and whether it is enough for the batches."""
        # Refused symbols are tried rarely, on a part of the budget of their own.
        round_seconds = self._healthy_count * self.request_seconds
        is_starved = round_seconds > USUAL_PERIOD_SECONDS
        self._pace.set_budget(self._budget, now, is_starved=is_starved)

    def _settle(self) -> None:
        """Let the price follow the budget and the last checks, unless it is fixed."""
        if self._fixed_price is not None:
            return
        symbols_per_check = self._symbol_count / max(self._batch_count, 1)
        self._price.settle(self._budget, symbols_per_check)
