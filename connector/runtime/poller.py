"""Asks the upstream when the schedule says so, and hands each symbol's answer to the shard that owns it."""

from __future__ import annotations

import asyncio
import logging
import random
import time
from collections import Counter
from typing import TYPE_CHECKING, Final

from msgspec.structs import replace

from connector.core.decode import RateLimit
from connector.core.model import MICROS, Status
from connector.errors import (
    KeyRefused,
    NothingFound,
    RateLimited,
    RequestRefused,
    UpstreamError,
)
from connector.logs import Bounded
from connector.runtime.ports import (
    AnswerTimes,
    BudgetReport,
    NextCheck,
    ResponseReport,
)
from connector.schedule.batches import Batch, Batches
from connector.schedule.scheduler import (
    SLOW_RETRY_SECONDS,
    ComputedTimes,
    Outcome,
    Plan,
    Schedule,
)
from connector.upstream.budget import TakenOverShare
from connector.upstream.budget.share import (
    PreviousOwner,
    batches_for,
    share_of,
    used_by_previous_owner,
)
from connector.upstream.budget.units import MINUTE_SECONDS
from connector.upstream.client import LevelsRequest

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable

    from connector.config.model import Config
    from connector.core.model import Source
    from connector.kafka.names import ShardId
    from connector.runtime.clock import Clock
    from connector.runtime.health import Health
    from connector.runtime.ports import RequestObserver
    from connector.runtime.shard import Shard
    from connector.schedule.scheduler import Purpose
    from connector.upstream.api_key import ApiKey
    from connector.upstream.budget import Budget, Permit
    from connector.upstream.client import Client, LevelsAnswer

_log = logging.getLogger(__name__)

LOOP: Final = "poller"
_LOOP_LIMIT_SECONDS: Final = 30
_LONGEST_SLEEP_SECONDS: Final = 1.0
_LOG_EVERY_SECONDS: Final = 60
_REGROUP_EVERY_SECONDS: Final = 20
_STUCK_SECONDS: Final = 30
"""Between two checks of what cannot be published: about a refresh."""


class Poller:
    """One task that waits for the next check, and one task a request; one request a batch at a time."""

    def __init__(
        self,
        config: Config,
        upstream: tuple[Client, ApiKey, Budget],
        tools: tuple[RequestObserver, Clock, Health],
        me: Source,
    ) -> None:
        self._client, self._key, self._budget = upstream
        self._observer, self._clock, self._health = tools
        self._me = me
        self._feeds = {feed.name: feed for feed in config.feeds}
        self._batches = {feed.name: Batches(feed.name) for feed in config.feeds}
        plan = config.schedule
        self._schedule = Schedule(
            Plan(
                plan.target_delay_seconds,
                plan.min_interval_seconds,
                plan.max_interval_seconds,
            ),
            random.random,
        )
        self._owners: dict[tuple[str, str], Shard] = {}
        self._next_check_at: dict[tuple[str, str], int | None] = {}
        self._gains: dict[ShardId, TakenOverShare] = {}
        self._changed = asyncio.Event()
        self._postponed: set[Batch] = set()
        self._in_flight = 0
        self._probing = False
        self._regrouped_at = time.monotonic()
        self._bounded = Bounded(_LOG_EVERY_SECONDS, time.monotonic)
        self._failing = False
        self.key_refused = False
        self.rate_limit = RateLimit()
        """What the upstream said last."""

    @property
    def schedule(self) -> Schedule:
        """To be looked at."""
        return self._schedule

    def next_check_at(self, feed: str, symbol: str) -> int | None:
        """Return when a symbol is checked next (microseconds), as of its last check."""
        return self._next_check_at.get((feed, symbol))

    def cover(self, shards: Iterable[Shard]) -> None:
        """Ask for the symbols of these shards from now on, and for no others."""
        before, shards = set(self._owners), list(shards)
        self._owners = {
            (shard.id.feed, symbol): shard
            for shard in shards
            for symbol in shard.symbols
        }
        for feed, batches in self._batches.items():
            batches.own(symbol for name, symbol in self._owners if name == feed)
        gained = self._owners.keys() - before
        self._share(gained)
        if (
            not self._owners
        ):  # who stands by asks nothing, and would not hear that the key is good again
            self._key_is_refused(refused=False)
        self._replan()
        postponed, self._postponed = self._postponed, set()
        for batch in postponed:
            self._schedule.move(batch, time.monotonic())
        ahead = self._server_ahead()
        for feed, symbol in gained:
            state = self._owners[feed, symbol].state_of(symbol)
            if state is not None:
                recent = state.recent_computed_at
                self._schedule.seed_history(feed, symbol, recent, ahead)

    def _share(self, gained: Collection[tuple[str, str]]) -> None:
        """Tell the budget which part of all batches is ours, and what of it those before us may have spent."""
        sizes = {name: len(feed.symbols) for name, feed in self._feeds.items()}
        shares = {
            owner: share_of(
                [(owner.id.feed, symbol) for symbol in owner.symbols], sizes
            )
            for owner in {self._owners[key] for key in gained}
        }
        used = {
            owner: share * spent
            for owner, share in shares.items()
            if (
                spent := used_by_previous_owner(
                    _previous_owner(owner), self._clock.now(), self._me.worker
                )
            )
        }
        share, now = sum(shares.values()), time.monotonic()
        first = sum(map(batches_for, Counter(feed for feed, _ in gained).values()))
        # A worker that dies again and again has no first requests for ever.
        first = min(
            first,
            max(
                int(
                    (share - sum(used.values()))
                    * self._budget.spending(now).available_per_minute
                ),
                1,
            ),
        )
        # One that was lost and is ours again without a word of others in between has its old one.
        self._gains = {
            shard: gain for shard, gain in self._gains.items() if gain.used_until > now
        }
        for owner, spent in used.items():
            self._gains[owner.id] = TakenOverShare(
                spent, first * shares[owner] / share, now + MINUTE_SECONDS
            )
        owned = {owner.id for owner in self._owners.values()}
        self._budget.set_share(
            share_of(self._owners, sizes),
            [gain for shard, gain in self._gains.items() if shard in owned],
        )
        self._schedule.set_budget(self._budget.spending(now).planned_per_minute, now)

    async def run(self) -> None:
        """Until cancelled. Requests under way are cancelled with it."""
        self._health.register(LOOP, _LOOP_LIMIT_SECONDS)
        try:
            async with asyncio.TaskGroup() as checks:
                while True:
                    self._health.progress(LOOP)
                    batch = await self._next()
                    if batch is not None:
                        self._in_flight += 1
                        checks.create_task(
                            self._check(batch, self._schedule.started(batch))
                        )
        finally:
            self._health.unregister(LOOP)

    def key_changed(self) -> None:
        """Another key may be accepted: do not wait any longer."""
        _log.info("the API key has changed")
        self._schedule.release_for_key(time.monotonic())
        self._changed.set()

    async def _next(self) -> Batch | None:
        """The batch whose time has come, or None to look again."""
        self._set_budget()
        probing = (
            self._probing and self._in_flight
        )  # one request is enough to see whether another is accepted
        planned = None if probing else self._schedule.next()
        wait = (
            _LONGEST_SLEEP_SECONDS if planned is None else planned[0] - time.monotonic()
        )
        if planned is not None and wait <= 0:
            if (until := self._stuck_until(planned[1])) > time.monotonic():
                self._schedule.move(planned[1], until)
                self._postponed.add(planned[1])
                return None
            return planned[1]
        self._changed.clear()
        try:
            async with asyncio.timeout(min(wait, _LONGEST_SLEEP_SECONDS)):
                await self._changed.wait()
        except TimeoutError:
            pass
        return None

    def _stuck_until(self, batch: Batch) -> float:
        """Until when to leave it: what does not get to Kafka is asked for now and then, for the metrics."""
        owners = [self._owners.get((batch.feed, symbol)) for symbol in batch.symbols]
        asked_at = self._schedule.asked_at(batch)
        stuck = all(owner is None or owner.is_stuck for owner in owners)
        return asked_at + _STUCK_SECONDS if stuck and asked_at is not None else 0.0

    def _set_budget(self) -> None:
        """Pass on the budget to the schedule and the metrics."""
        now = time.monotonic()
        spending = self._budget.spending(now)
        self._schedule.set_budget(spending.planned_per_minute, now)
        self._observer.budget_changed(
            BudgetReport(
                spending.limit_per_minute,
                spending.other_clients_per_minute,
                self._schedule.price,
            )
        )
        if now - self._regrouped_at > _REGROUP_EVERY_SECONDS:
            self._regrouped_at = now
            self._regroup()

    def _regroup(self) -> None:
        """Put symbols that are refreshed together into one batch."""
        changed = False
        for feed, batches in self._batches.items():
            rhythms = {}
            for name, symbol in self._owners:
                forecast = (
                    self._schedule.forecast(name, symbol) if name == feed else None
                )
                if (
                    forecast is not None
                    and forecast.period is not None
                    and forecast.phase is not None
                ):
                    rhythms[symbol] = (forecast.period, forecast.phase)
            changed |= batches.regroup(rhythms)
        if changed:
            _log.info("batches packed anew, by when their symbols are refreshed")
            self._replan()

    async def _check(self, batch: Batch, purpose: Purpose) -> None:
        async with self._budget.request() as permit:
            now = time.monotonic()
            if self._schedule.covers(batch) and not self._schedule.is_held(now):
                await self._send(batch, purpose, permit)
                return
            # The wait was long: its symbols are others' by now, or the server wants to be left alone.
            self._in_flight -= 1
            self._schedule.finished(batch, Outcome.DEFERRED, now, now)
            self._changed.set()

    async def _send(self, batch: Batch, purpose: Purpose, permit: Permit) -> None:
        feed = self._feeds[batch.feed]
        sent, outcome, label = time.monotonic(), Outcome.ANSWERED, "ok"
        dates = None
        self._observer.request_sent(batch, purpose)
        try:
            answer = await self._client.fetch_levels(
                LevelsRequest(batch.symbols, feed.exchanges, feed.include), permit
            )
        except UpstreamError as error:
            label, self._probing = (
                error.outcome,
                isinstance(error, KeyRefused | RateLimited),
            )
            outcome = Outcome.DEFERRED if self._probing else Outcome.FAILED
            self._failed(batch, error, sent)
        else:
            self._probing = False
            dates = self._answered(batch, answer, sent)
        now = time.monotonic()
        self._in_flight -= 1
        self._observer.request_finished(label, now - sent)
        for refresh in self._schedule.finished(batch, outcome, sent, now, dates):
            self._observer.refresh_found(now - refresh.since)
        self._show(batch)
        self._changed.set()

    def _show(self, batch: Batch) -> None:
        """What has been learnt of its symbols."""
        at = self._schedule.next_check_at(batch)
        ahead = self._clock.now() - round(time.monotonic() * MICROS)
        self._observer.visibility_lag_learnt(self._schedule.lag_seconds)
        moment = None if at is None else round(at * MICROS) + ahead
        for symbol in batch.symbols:
            forecast = self._schedule.forecast(batch.feed, symbol)
            if forecast is None:
                continue
            self._next_check_at[batch.feed, symbol] = moment
            self._observer.check_planned(
                NextCheck(batch.feed, symbol, moment, forecast.period, forecast.jitter)
            )

    def _server_ahead(self) -> float:
        """The upstream's clock less our monotonic one, in seconds."""
        return self._clock.upstream(self._clock.now()) / MICROS - time.monotonic()

    def _answered(
        self, batch: Batch, answer: LevelsAnswer, asked_at: float
    ) -> ComputedTimes:
        meta, response = answer.response.meta, answer.response
        if meta.server_at is not None:
            self._clock.learn(answer.sent_at, answer.received_at, meta.server_at)
        self.rate_limit = answer.rate_limit
        self._observer.response_decoded(
            ResponseReport(
                answer.rate_limit,
                response.inconsistencies,
                self._clock.correction / MICROS,
            )
        )
        self._accepted()
        if self._failing:
            self._failing = False
            _log.info("the upstream answers again")
        changed = self._batches[batch.feed].answered(batch.symbols)
        source = replace(self._me, request_id=meta.request_id, exchanges=meta.exchanges)
        seen = AnswerTimes(
            asked_at,
            answer.received_at,
            self._clock.upstream(answer.received_at),
            source,
        )
        computed_at = {}
        for symbol, what in response.answers.items():
            moment = self._hand_over(batch.feed, symbol, what, seen)
            if moment is not None and not isinstance(what, Status):
                computed_at[symbol] = moment
        if changed:
            self._replan()
        return ComputedTimes(computed_at, self._server_ahead())

    def _hand_over(
        self,
        feed: str,
        symbol: str,
        answer: bytes | Status,
        seen: AnswerTimes,
        reason: str | None = None,
    ) -> int | None:
        """Give an answer to the shard. Return when the newest levels were computed."""
        status = answer if isinstance(answer, Status) else Status.LIVE
        self._observer.symbol_answered(feed, symbol, status)
        owner = self._owners.get((feed, symbol))
        if owner is None:
            return None
        return owner.observe(symbol, answer, seen, reason)

    def _failed(self, batch: Batch, error: UpstreamError, asked_at: float) -> None:
        now = time.monotonic()
        if isinstance(error, KeyRefused):
            self._key_is_refused(refused=True)
            self._schedule.hold_for_key(now + SLOW_RETRY_SECONDS)
        elif isinstance(error, RequestRefused):
            self._refused(batch, error, asked_at)
        self._schedule.hold(self._budget.spending(now).paused_until)
        level = logging.ERROR if isinstance(error, KeyRefused) else logging.WARNING
        suppressed = self._bounded.admit(error.outcome)
        if suppressed is not None:
            # The end of a refusal is told elsewhere, or there is none.
            self._failing |= not isinstance(error, KeyRefused | RequestRefused)
            where = {
                "feed": batch.feed,
                "symbols": ",".join(batch.symbols),
                "request_id": error.request_id,
            }
            extra = {"error": str(error), **where, "not_logged_before": suppressed}
            _log.log(level, "a check failed: %s", error.outcome, extra=extra)

    def _refused(self, batch: Batch, error: RequestRefused, asked_at: float) -> None:
        """404: nothing is there for any of them. Else one of them is the culprit: halve until it stands alone."""
        batches, now = self._batches[batch.feed], self._clock.now()
        self._accepted()
        cold = isinstance(error, NothingFound)
        if not cold:
            batches.refused(batch.symbols)
        status = (
            Status.MISSING
            if cold
            else Status.INVALID
            if len(batch.symbols) == 1
            else None
        )
        if status is not None:
            seen = AnswerTimes(
                asked_at,
                now,
                self._clock.upstream(now),
                replace(self._me, request_id=error.request_id),
            )
            for symbol in batch.symbols:
                self._hand_over(batch.feed, symbol, status, seen, "refused")
        self._replan()

    def _accepted(self) -> None:
        """The key is good."""
        if self.key_refused:
            _log.info("the API key is accepted again")
            self._key_is_refused(refused=False)

    def _key_is_refused(self, *, refused: bool) -> None:
        self.key_refused = refused
        self._observer.key_refused(refused=refused)

    def _replan(self) -> None:
        self._schedule.set_batches(
            [batch for batches in self._batches.values() for batch in batches.all()],
            time.monotonic(),
        )
        self._changed.set()


def _previous_owner(shard: Shard) -> PreviousOwner | None:
    """Return the last writer of a shard; None if its topic is empty."""
    restored = shard.restored
    if restored is None or restored.writer is None or not restored.states:
        return None
    observed_at = max(state.observed_at for state in restored.states.values())
    return PreviousOwner(restored.writer.worker, observed_at, restored.spent)
