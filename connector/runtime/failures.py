"""Reacts to checks that failed."""

from __future__ import annotations

import logging
import time
from typing import TYPE_CHECKING, Final

from connector.core.transition import (
    REASON_BUDGET,
    REASON_NO_ANSWER,
    REASON_VENUES,
)
from connector.errors import (
    KeyRefused,
    PlanRefused,
    QuotaExhausted,
    RateLimited,
    RequestRefused,
    WrongVenues,
)
from connector.logs import Bounded
from connector.runtime.clock import Clock
from connector.runtime.failing_checks import FailingChecks
from connector.runtime.outage import Outage
from connector.schedule.checks import SLOW_RETRY_SECONDS

if TYPE_CHECKING:
    from collections.abc import Collection

    from connector.errors import UpstreamError
    from connector.runtime.ports import RequestObserver
    from connector.schedule.batches import Batch
    from connector.schedule.scheduler import Schedule
    from connector.upstream.budget import Budget

_log = logging.getLogger(__name__)

_LOG_INTERVAL_SECONDS: Final = 60

# These concern every check. Until they are over, one request at a time probes.
_CONCERN_ALL_CHECKS: Final = (KeyRefused, PlanRefused, RateLimited, QuotaExhausted)
# An administrator has to act.
_SEVERE: Final = (KeyRefused, PlanRefused, QuotaExhausted, WrongVenues)
# Their ends have log messages of their own, or none: a refused symbol does not recover.
_NOT_AN_OUTAGE: Final = (KeyRefused, PlanRefused, RequestRefused)


class Failures:
    """Pauses the schedule as an error demands, and logs each kind once a minute."""

    def __init__(
        self, schedule: Schedule, budget: Budget, observer: RequestObserver
    ) -> None:
        self.key_refused = False
        """True while the upstream refuses the API key."""
        self.plan_refused = False
        """True while the upstream accepts the key, but refuses the user's plan."""
        self.quota_message: str | None = None
        """The vendor's message since the requests of the month are used up."""
        self.outage = Outage()
        self.failing_checks = FailingChecks(Clock.now)
        self.is_probing = False
        """The last check was refused for a reason that concerns all of them.

        One request at a time is enough to find out if that is over.
        """
        self._schedule = schedule
        self._budget = budget
        self._observer = observer
        self._bounded = Bounded(_LOG_INTERVAL_SECONDS, time.monotonic)
        self._failing: dict[str, set[str]] = {}
        """By feed, the symbols whose last check failed."""
        self._silent: dict[tuple[str, str], str] = {}
        """Why a symbol's last check brought no answer, as the reason of an event."""

    def check_failed(self, batch: Batch, error: UpstreamError) -> None:
        """Pause all checks if the error concerns all of them, and log it."""
        now = time.monotonic()
        self.is_probing = isinstance(error, _CONCERN_ALL_CHECKS)
        self.outage.check_failed(error)
        self.failing_checks.failed(batch, error)
        if isinstance(error, KeyRefused):
            self._set_key_refused(refused=True)
            # The server looks at the plan only after it has accepted the key.
            self._set_plan_refused(refused=False)
            self._schedule.pause_for_key(now + SLOW_RETRY_SECONDS)
        elif isinstance(error, PlanRefused):
            # The plan of a key is only looked up once the key is accepted.
            self._key_accepted()
            self._set_plan_refused(refused=True)
            self._schedule.pause_for_key(now + SLOW_RETRY_SECONDS)
        elif isinstance(error, RequestRefused | WrongVenues):
            # The parameters were at fault, so key and plan were not.
            self._key_accepted()
            self._plan_accepted()
        self._note_silence(batch, error)
        # The client has told the budget what the server said about a pause.
        paused_until = self._budget.spending(now).paused_until
        self._schedule.pause(paused_until)
        if not isinstance(error, _NOT_AN_OUTAGE):
            failing = self._failing.setdefault(batch.feed, set())
            failing.update(batch.symbols)
        elif isinstance(error, RequestRefused):
            # The upstream did answer, if not with levels.
            self._answered(batch)

        # A probe's refusal is no news.
        is_known = self.quota_message is not None
        if isinstance(error, QuotaExhausted):
            # Only the budget of an accepted key and plan is looked up.
            self._key_accepted()
            self._plan_accepted()
            self.quota_message = str(error)
            if is_known:
                return
        self._log_error(batch, error, paused_until - now)

    def check_answered(self, batch: Batch) -> None:
        """Note that a check succeeded."""
        self.is_probing = False
        self.outage.end()
        self.failing_checks.answered(batch)
        self._key_accepted()
        self._plan_accepted()
        self.quota_message = None
        for symbol in batch.symbols:
            self._silent.pop((batch.feed, symbol), None)
        self._answered(batch)

    def silence_reason(self, feed: str, symbol: str) -> str | None:
        """Return why a symbol's last check failed, as the reason of an event, or None."""
        return self._silent.get((feed, symbol))

    def keep_only(self, covered: Collection[tuple[str, str]]) -> None:
        """Forget symbols that others poll now: their next answer never comes here.

        A worker without symbols is a standby, which forgets refusals as well.
        """
        if not covered:
            self.forget_refusals()
        self.failing_checks.keep_only(covered)
        for key in list(self._silent):
            if key not in covered:
                del self._silent[key]
        for feed, symbols in list(self._failing.items()):
            kept = {symbol for symbol in symbols if (feed, symbol) in covered}
            if kept:
                self._failing[feed] = kept
            else:
                del self._failing[feed]

    def _note_silence(self, batch: Batch, error: UpstreamError) -> None:
        if isinstance(error, KeyRefused | PlanRefused | QuotaExhausted):
            # States of their own, which say nothing about these symbols.
            return
        reason = REASON_NO_ANSWER
        if isinstance(error, RateLimited):
            reason = REASON_BUDGET
        elif isinstance(error, WrongVenues):
            reason = REASON_VENUES
        for symbol in batch.symbols:
            self._silent[batch.feed, symbol] = reason

    def forget_refusals(self) -> None:
        """Assume that key and plan are accepted, and that there is no outage.

        A standby sends no requests, so it would never find out, and never be ready.
        """
        self.outage.end()
        self._set_key_refused(refused=False)
        self._set_plan_refused(refused=False)

    def forget_quota(self) -> None:
        """Note that the month may have requests again: log the next refusal."""
        self.quota_message = None

    def _answered(self, batch: Batch) -> None:
        failing = self._failing.get(batch.feed)
        if failing is None:
            return
        failing.difference_update(batch.symbols)
        if not failing:
            del self._failing[batch.feed]
            _log.info("the upstream answers again", extra={"feed": batch.feed})

    def _key_accepted(self) -> None:
        if self.key_refused:
            _log.info("the API key is accepted again")
            self._set_key_refused(refused=False)

    def _plan_accepted(self) -> None:
        if self.plan_refused:
            _log.info("the plan is accepted again")
            self._set_plan_refused(refused=False)

    def _set_key_refused(self, *, refused: bool) -> None:
        self.key_refused = refused
        self._observer.key_refused(refused=refused)

    def _set_plan_refused(self, *, refused: bool) -> None:
        self.plan_refused = refused
        self._observer.plan_refused(refused=refused)

    def _log_error(
        self, batch: Batch, error: UpstreamError, pause_seconds: float
    ) -> None:
        # Each feed and text has a minute of its own, so a flood hides no other error.
        text = _without_numbers(str(error))
        suppressed = self._bounded.admit((error.outcome, batch.feed, text))
        if suppressed is None:
            return
        level = logging.ERROR if isinstance(error, _SEVERE) else logging.WARNING
        fields: dict[str, object] = {
            "error": str(error),
            "feed": batch.feed,
            "symbols": ",".join(batch.symbols),
            "request_id": error.request_id,
            "not_logged_before": suppressed,
        }
        if pause_seconds > 0:
            fields["all_checks_pause_seconds"] = round(pause_seconds, 1)
        _log.log(level, "a check failed: %s", error.outcome, extra=fields)


def _without_numbers(text: str) -> str:
    """Mask the words with digits: waits, sizes and ids differ each time."""
    words = []
    for word in text.split():
        has_digit = any(char.isdigit() for char in word)
        words.append("#" if has_digit else word)
    return " ".join(words)
