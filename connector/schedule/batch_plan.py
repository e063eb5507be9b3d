"""The plan of one batch: the moment of its next check, and the reason. Pure."""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

from connector.schedule.checks import Purpose

if TYPE_CHECKING:
    from connector.schedule.averages import Averages
    from connector.schedule.batches import Batch
    from connector.schedule.inspection import Check
    from connector.schedule.symbols import Symbol


class BatchPlan(msgspec.Struct):
    """The next check of a batch, and its last ones.

    `at` is when the next check is due, None while a request is in flight. `wanted_at` is
    the best moment for it, before it has to wait for a pause or the pace. `check` is what
    the plan expects, None if there is none. `sent_at` is when the last request was sent,
    None before the first. `failures` counts the checks that failed in a row.
    """

    batch: Batch
    symbols: list[Symbol]
    averages: Averages
    at: float | None = None
    wanted_at: float = float("-inf")
    purpose: Purpose = Purpose.FIRST
    check: Check | None = None
    sent_at: float | None = None
    failures: int = 0

    @property
    def follows_forecast(self) -> bool:
        """True if the next check waits for a moment that the forecasts suggest."""
        if self.at is None:
            return False
        return self.purpose in {Purpose.EXPECTED, Purpose.SEARCH}

    @property
    def waits_for_pace(self) -> bool:
        """False for a first check, since nothing is known before it.

        The checks after it make up for it.
        """
        return self.purpose is not Purpose.FIRST

    def set_next(self, at: float, purpose: Purpose) -> None:
        """Set the moment of the next check."""
        self.at = at
        self.wanted_at = at
        self.purpose = purpose

    def start(self, paused_until: float) -> None:
        """Note that the request is in flight. It was not wanted before the pause ended."""
        if self.at is not None:
            # The price learns from waits for the pace, but not from pauses.
            self.wanted_at = max(self.wanted_at, paused_until)
        self.at = None

    def record_sent(self, sent_at: float, price: float) -> Check | None:
        """Add a check that was sent to the averages. Return its plan, None without one.

        A search has no plan: it looks for refreshes that may never come, so it tells
        nothing about delays.
        """
        check = self.check
        if self.purpose is Purpose.SEARCH:
            check = None
        self.check = None
        if self.sent_at is not None:
            interval = sent_at - self.sent_at
            waited = min(max(sent_at - self.wanted_at, 0.0), interval)
            self.averages.add_interval(interval, waited)
            if check is not None and price:
                self.averages.add_plan(check, self.sent_at, price)
        self.sent_at = sent_at
        return check
