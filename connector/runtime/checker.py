"""Sends the requests of checks, and passes on their outcomes."""

from __future__ import annotations

import logging
import time
from collections import Counter
from typing import TYPE_CHECKING

from connector.core.model import Status
from connector.core.venues import require_venues
from connector.errors import (
    NothingFound,
    NotRouted,
    RequestRefused,
    UpstreamError,
    WrongVenues,
)
from connector.runtime.next_checks import NextChecks
from connector.runtime.responses import Responses
from connector.schedule.checks import Outcome

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from connector.runtime.coverage import Coverage, Key
    from connector.runtime.failures import Failures
    from connector.runtime.ports import PollerContext
    from connector.schedule.batches import Batch
    from connector.schedule.checks import Purpose
    from connector.schedule.scheduler import Schedule
    from connector.schedule.symbols import ComputedTimes
    from connector.upstream.budget import Permit
    from connector.upstream.client import Client, LevelsAnswer


_log = logging.getLogger(__name__)


class Checker:
    """Checks one batch per call, and tells shards, schedule and observers the outcome."""

    def __init__(
        self,
        client: Client,
        schedule: Schedule,
        coverage: Coverage,
        failures: Failures,
        context: PollerContext,
        replan: Callable[[], None],
    ) -> None:
        """`replan` is called when a response has changed the batches."""
        self.responses = Responses(coverage, context)
        self.next_checks = NextChecks(schedule, context.clock, context.observer)
        self._client = client
        self._schedule = schedule
        self._coverage = coverage
        self._failures = failures
        self._observer = context.observer
        self._replan = replan
        self._on_the_way: Counter[Key] = Counter()
        """By symbol, the requests that wait for their answers."""

    def defer(self, batch: Batch) -> None:
        """End a check without a request. It is planned again if the batch still exists."""
        now = time.monotonic()
        # It counts as sent although nothing was, as it does in the budget.
        self._schedule.finish_check(batch, Outcome.DEFERRED, sent_at=now, now=now)

    async def send(self, batch: Batch, purpose: Purpose, permit: Permit) -> None:
        """Send a request, and handle its response or error."""
        self._observer.request_sent(batch, purpose)
        keys = [(batch.feed, symbol) for symbol in batch.symbols]
        self._on_the_way.update(keys)
        try:
            await self._send(batch, purpose, permit)
        finally:
            self._on_the_way.subtract(keys)

    def is_asked(self, feed: str, symbol: str) -> bool:
        """Return True while a request for a symbol waits for its answer."""
        return self._on_the_way[feed, symbol] > 0

    async def _send(self, batch: Batch, purpose: Purpose, permit: Permit) -> None:
        sent_at = time.monotonic()
        outcome = Outcome.ANSWERED
        label = "ok"
        computed_times: ComputedTimes | None = None
        try:
            request = self._coverage.request_for(batch)
            answer = await self._client.fetch_levels(request, permit)
            require_venues(request.exchanges, answer.response.meta)
        except UpstreamError as error:
            label = error.outcome
            outcome = self._handle_error(batch, error, sent_at)
        else:
            computed_times = self._handle_answer(batch, answer, sent_at)
            if computed_times is None:
                outcome = Outcome.UNCONFIRMED

        now = time.monotonic()
        self._observer.request_finished(label, now - sent_at)
        refreshes = self._schedule.finish_check(
            batch, outcome, sent_at=sent_at, now=now, times=computed_times
        )
        for refresh in refreshes:
            self._observer.refresh_found(now - refresh.since)
        self.next_checks.report(batch)
        if _log.isEnabledFor(logging.DEBUG):
            delays = [now - refresh.since for refresh in refreshes]
            _log_check(batch, purpose, label, sent_at, delays)

    def _handle_answer(
        self, batch: Batch, answer: LevelsAnswer, sent_at: float
    ) -> ComputedTimes | None:
        """Pass on an answer.

        Return the moments when its levels were computed, or None if the answer waits until
        others confirm the upstream's clock.
        """
        self._failures.check_answered(batch)
        # The upstream accepted these symbols, so a halved batch can be merged again.
        batches_changed = self._coverage.answered(batch)
        computed_times = self.responses.accept(batch, answer, sent_at)
        if computed_times is not None:
            self._seed_history(batch, computed_times)
        if batches_changed:
            self._replan()
        return computed_times

    def _seed_history(self, batch: Batch, times: ComputedTimes) -> None:
        """Teach the schedule the refreshes that earlier owners of the shards saw.

        Only an answer tells by how much the upstream's clock is off. Before it, a refresh of
        the past could seem to come in minutes.
        """
        for symbol in batch.symbols:
            forecast = self._schedule.forecast(batch.feed, symbol)
            if forecast is None or forecast.last is not None:
                continue
            shard = self._coverage.owner(batch.feed, symbol)
            # The shard may have been lost while the request was under way.
            state = None if shard is None else shard.state_of(symbol)
            if state is not None:
                self._schedule.seed_history(
                    batch.feed,
                    symbol,
                    state.recent_computed_at,
                    times.upstream_minus_monotonic_seconds,
                )

    def _handle_error(
        self, batch: Batch, error: UpstreamError, sent_at: float
    ) -> Outcome:
        """Handle a failed request. Return the outcome that the schedule reacts to."""
        self._failures.check_failed(batch, error)
        # The shards may have been lost while the request was under way. No later check would
        # take back what this one has noted.
        self._failures.keep_only(self._coverage.symbols)
        if isinstance(error, RequestRefused):
            self._handle_refusal(batch, error, sent_at)
        elif isinstance(error, WrongVenues):
            self._observer.venues_not_applied(batch.feed)
        # An error that concerns every batch says nothing about this one.
        is_probing = self._failures.is_probing
        return Outcome.DEFERRED if is_probing else Outcome.FAILED

    def _handle_refusal(
        self, batch: Batch, error: RequestRefused, sent_at: float
    ) -> None:
        """Give the symbols of a refused request their status, or narrow them down.

        A 404 means that the upstream has no levels of any symbol. Any other refusal is due
        to one symbol: the batch is halved until that symbol stands alone. It is invalid if
        the API said so, and not if a web framework in front of it did.
        """
        status = None
        if isinstance(error, NothingFound):
            status = Status.MISSING
        else:
            self._coverage.refused(batch)
            is_alone = len(batch.symbols) == 1
            if is_alone and not isinstance(error, NotRouted):
                status = Status.INVALID
        if status is not None:
            self.responses.accept_refusal(batch, status, error.request_id, sent_at)
        self._replan()


def _log_check(
    batch: Batch,
    purpose: Purpose,
    outcome: str,
    sent_at: float,
    refresh_delays: Sequence[float],
) -> None:
    """Log why a request was made, and its outcome.

    `refresh_delays` tells of each refresh in it for how long it may have been there.
    """
    fields: dict[str, object] = {
        "feed": batch.feed,
        "symbols": ",".join(batch.symbols),
        "purpose": purpose,
        "outcome": outcome,
        "seconds": round(time.monotonic() - sent_at, 3),
        "refreshes": len(refresh_delays),
    }
    if refresh_delays:
        fields["refresh_delay_seconds"] = round(max(refresh_delays), 3)
    _log.debug("request finished", extra=fields)
