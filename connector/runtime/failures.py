"""Reacts to checks that failed."""

from __future__ import annotations

import logging
import time
from typing import TYPE_CHECKING, Final

from connector.errors import KeyRefused, RateLimited, RequestRefused
from connector.logs import Bounded
from connector.schedule.checks import SLOW_RETRY_SECONDS

if TYPE_CHECKING:
    from connector.errors import UpstreamError
    from connector.runtime.ports import RequestObserver
    from connector.schedule.batches import Batch
    from connector.schedule.scheduler import Schedule
    from connector.upstream.budget import Budget

_log = logging.getLogger(__name__)

_LOG_INTERVAL_SECONDS: Final = 60


class Failures:
    """Holds the schedule as an error demands, and logs each kind once a minute."""

    def __init__(
        self, schedule: Schedule, budget: Budget, observer: RequestObserver
    ) -> None:
        self.key_refused = False
        """True while the upstream refuses the API key."""
        self.is_probing = False
        """The last check was refused for a reason that concerns all of them.

        One request at a time is enough to find out if that is over.
        """
        self._schedule = schedule
        self._budget = budget
        self._observer = observer
        self._bounded = Bounded(_LOG_INTERVAL_SECONDS, time.monotonic)
        self._is_failing = False

    def check_failed(self, batch: Batch, error: UpstreamError) -> None:
        """Hold all checks if the error concerns all of them, and log it."""
        now = time.monotonic()
        self.is_probing = isinstance(error, KeyRefused | RateLimited)
        if isinstance(error, KeyRefused):
            self._set_key_refused(refused=True)
            self._schedule.pause_for_key(now + SLOW_RETRY_SECONDS)
        elif isinstance(error, RequestRefused):
            # The symbols were refused, so the key was not.
            self._key_accepted()
        # The client has told the budget what the server said about a pause.
        self._schedule.pause(self._budget.spending(now).paused_until)
        self._log(batch, error)

    def check_answered(self) -> None:
        """Note that a check succeeded."""
        self.is_probing = False
        self._key_accepted()
        if self._is_failing:
            self._is_failing = False
            _log.info("the upstream answers again")

    def forget_key_refusal(self) -> None:
        """Assume that the key is valid.

        A standby sends no requests, so it would never find out, and never be ready.
        """
        self._set_key_refused(refused=False)

    def _key_accepted(self) -> None:
        if self.key_refused:
            _log.info("the API key is accepted again")
            self._set_key_refused(refused=False)

    def _set_key_refused(self, *, refused: bool) -> None:
        self.key_refused = refused
        self._observer.key_refused(refused=refused)

    def _log(self, batch: Batch, error: UpstreamError) -> None:
        suppressed = self._bounded.admit(error.outcome)
        if suppressed is None:
            return
        # The recovery of a key is logged in _key_accepted. A refused symbol does not recover.
        if not isinstance(error, KeyRefused | RequestRefused):
            self._is_failing = True
        level = logging.ERROR if isinstance(error, KeyRefused) else logging.WARNING
        fields = {
            "error": str(error),
            "feed": batch.feed,
            "symbols": ",".join(batch.symbols),
            "request_id": error.request_id,
            "not_logged_before": suppressed,
        }
        _log.log(level, "a check failed: %s", error.outcome, extra=fields)
