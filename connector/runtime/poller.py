"""Asks the upstream when the schedule says so, and hands each symbol's answer to the shard that owns it."""

from __future__ import annotations

import asyncio
import logging
import random
import time
from typing import TYPE_CHECKING, Final

from msgspec.structs import replace

from connector.core.batches import Batch, Batches
from connector.core.model import MICROS, Status
from connector.core.schedule import SLOW_RETRY_SECONDS, Outcome, Plan, Schedule
from connector.errors import KeyRefused, NothingFound, RateLimited, RequestRefused, UpstreamError
from connector.logs import Bounded
from connector.runtime.tools import Seen
from connector.source.client import Ask

if TYPE_CHECKING:
    from collections.abc import Iterable

    from connector.config import Config
    from connector.core.model import Source
    from connector.runtime.clock import Clock
    from connector.runtime.health import Health
    from connector.runtime.metrics import Metrics
    from connector.runtime.shard import Shard
    from connector.source.client import Answer, Client
    from connector.source.key import ApiKey
    from connector.source.limits import Limiter

_log = logging.getLogger(__name__)

LOOP: Final = "poller"
_LOOP_LIMIT_SECONDS: Final = 30
_LONGEST_SLEEP_SECONDS: Final = 1.0
_LOG_EVERY_SECONDS: Final = 60


class Poller:
    """One task that waits for the next check, and one task a request; one request a batch at a time."""

    def __init__(
        self, config: Config, upstream: tuple[Client, ApiKey, Limiter], tools: tuple[Metrics, Clock, Health], me: Source
    ) -> None:
        self._client, self._key, self._limiter = upstream
        self._metrics, self._clock, self._health = tools
        self._me = me
        self._feeds = {feed.name: feed for feed in config.feeds}
        self._configured = sum(len(feed.symbols) for feed in config.feeds)
        self._batches = {feed.name: Batches(feed.name) for feed in config.feeds}
        plan = config.schedule
        self._schedule = Schedule(
            Plan(plan.target_delay_seconds, plan.min_interval_seconds, plan.max_interval_seconds), random.random
        )
        self._owners: dict[tuple[str, str], Shard] = {}
        self._changed = asyncio.Event()
        self._in_flight = 0
        self._bounded = Bounded(_LOG_EVERY_SECONDS, time.monotonic)
        self._failing = False
        self.key_refused = False

    def cover(self, shards: Iterable[Shard]) -> None:
        """Ask for the symbols of these shards from now on, and for no others."""
        self._owners = {(shard.id.feed, symbol): shard for shard in shards for symbol in shard.symbols}
        for feed, batches in self._batches.items():
            batches.own(symbol for name, symbol in self._owners if name == feed)
        self._limiter.share = len(self._owners) / self._configured
        self._replan()

    async def run(self) -> None:
        """Until cancelled. Requests under way are cancelled with it."""
        self._health.register(LOOP, _LOOP_LIMIT_SECONDS)
        try:
            async with asyncio.TaskGroup() as checks:
                while True:
                    self._health.progress(LOOP)
                    batch = await self._next()
                    if batch is not None:
                        self._schedule.started(batch)
                        self._in_flight += 1
                        checks.create_task(self._check(batch))
        finally:
            self._health.unregister(LOOP)

    def key_changed(self) -> None:
        """Another key may be accepted: do not wait any longer."""
        _log.info("the API key has changed")
        self._schedule.release_for_key(time.monotonic())
        self._changed.set()

    async def _next(self) -> Batch | None:
        """The batch whose time has come, or None to look again."""
        probing = self.key_refused and self._in_flight  # one request is enough to see whether the key is accepted
        planned = None if probing else self._schedule.next()
        wait = _LONGEST_SLEEP_SECONDS if planned is None else planned[0] - time.monotonic()
        if planned is not None and wait <= 0:
            return planned[1]
        self._changed.clear()
        try:
            async with asyncio.timeout(min(wait, _LONGEST_SLEEP_SECONDS)):
                await self._changed.wait()
        except TimeoutError:
            pass
        return None

    async def _check(self, batch: Batch) -> None:
        feed = self._feeds[batch.feed]
        await self._client.permit()
        started_at, sent_at, outcome, label = time.monotonic(), self._clock.now(), Outcome.ANSWERED, "ok"
        for symbol in batch.symbols:
            self._metrics.symbol(batch.feed, symbol).requested += 1
        try:
            answer = await self._client.check(Ask(batch.symbols, feed.exchanges, feed.include))
        except UpstreamError as error:
            # A refused key holds all checks, and says nothing about this one.
            label, outcome = error.outcome, Outcome.ANSWERED if isinstance(error, KeyRefused) else Outcome.FAILED
            self._failed(batch, error, sent_at)
        else:
            self._answered(batch, answer)
        now = time.monotonic()
        self._in_flight -= 1
        self._metrics.request_finished(label, now - started_at)
        self._schedule.finished(batch, outcome, started_at, now)
        self._changed.set()

    def _answered(self, batch: Batch, answer: Answer) -> None:
        meta, response = answer.response.meta, answer.response
        if meta.server_at is not None:
            self._clock.learn(answer.sent_at, answer.received_at, meta.server_at)
            self._metrics.clock_correction(self._clock.correction / MICROS)
        reset = answer.rate_limit.reset_at_seconds
        self._metrics.rate_limit(
            answer.rate_limit.limit, answer.rate_limit.remaining, None if reset is None else round(reset * MICROS)
        )
        self._accepted()
        if self._failing:
            self._failing = False
            _log.info("the upstream answers again")
        for kind in response.inconsistencies:
            self._metrics.inconsistent(kind)
        self._batches[batch.feed].answered(batch.symbols)
        source = replace(self._me, request_id=meta.request_id, exchanges=meta.exchanges)
        seen = Seen(answer.sent_at, answer.received_at, self._clock.upstream(answer.received_at), source)
        for symbol, what in response.answers.items():
            self._hand_over(batch.feed, symbol, what, seen)
        self._replan()

    def _hand_over(self, feed: str, symbol: str, answer: bytes | Status, seen: Seen, reason: str | None = None) -> None:
        stats = self._metrics.symbol(feed, symbol)
        if answer is Status.MISSING:
            stats.missing += 1
        elif answer is Status.INVALID:
            stats.invalid += 1
        else:
            stats.served += 1
        owner = self._owners.get((feed, symbol))
        if owner is not None:
            owner.see(symbol, answer, seen, reason)

    def _failed(self, batch: Batch, error: UpstreamError, sent_at: int) -> None:
        now = time.monotonic()
        if isinstance(error, KeyRefused):
            self.key_refused = True
            self._metrics.key_refused(True)
            self._schedule.hold_for_key(now + SLOW_RETRY_SECONDS)
        elif isinstance(error, RateLimited):
            self._schedule.hold(now + (error.retry_after_seconds or self._schedule.interval_seconds))
        elif isinstance(error, RequestRefused):
            self._refused(batch, error, sent_at)
        elif error.retry_after_seconds:
            self._schedule.hold(now + error.retry_after_seconds)
        level = logging.ERROR if isinstance(error, KeyRefused) else logging.WARNING
        suppressed = self._bounded.admit(error.outcome)
        if suppressed is not None:
            # The end of a refusal is told elsewhere, or there is none.
            self._failing |= not isinstance(error, KeyRefused | RequestRefused)
            where = {"feed": batch.feed, "symbols": ",".join(batch.symbols), "request_id": error.request_id}
            extra = {"error": str(error), **where, "not_logged_before": suppressed}
            _log.log(level, "a check failed: %s", error.outcome, extra=extra)

    def _refused(self, batch: Batch, error: RequestRefused, sent_at: int) -> None:
        """404: nothing is there for any of them. Else one of them is the culprit: halve until it stands alone."""
        batches, now = self._batches[batch.feed], self._clock.now()
        self._accepted()
        cold = isinstance(error, NothingFound)
        if not cold:
            batches.refused(batch.symbols)
        status = Status.MISSING if cold else Status.INVALID if len(batch.symbols) == 1 else None
        if status is not None:
            seen = Seen(sent_at, now, self._clock.upstream(now), replace(self._me, request_id=error.request_id))
            for symbol in batch.symbols:
                self._hand_over(batch.feed, symbol, status, seen, "refused")
        self._replan()

    def _accepted(self) -> None:
        """The key is good."""
        if self.key_refused:
            _log.info("the API key is accepted again")
            self.key_refused = False
            self._metrics.key_refused(False)

    def _replan(self) -> None:
        self._schedule.budget_per_minute = self._limiter.limit
        self._schedule.cover([batch for batches in self._batches.values() for batch in batches.all()], time.monotonic())
        self._changed.set()
