"""The worker's state as the API shows it. Reads the worker and changes nothing in it.

Moments in answers are microseconds since the epoch.
"""

from __future__ import annotations

import asyncio
import time
from math import inf
from typing import TYPE_CHECKING, Final

import msgspec

from connector.core.model import MICROS, Levels
from connector.errors import KafkaError
from connector.kafka.names import ShardId, partition_of
from connector.runtime.clock import Clock
from connector.web import answers
from connector.web.events import EventFeed
from connector.web.levels import LevelsView
from connector.web.schedule_view import schedule_answer
from connector.web.troubles import Troubles

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from concurrent.futures import Executor

    from connector.config.model import Config
    from connector.core.model import Event, Source
    from connector.kafka.members import Member
    from connector.kafka.quarantine import Quarantined
    from connector.runtime.health import Health
    from connector.runtime.poller import Poller
    from connector.runtime.shard import Shard
    from connector.upstream.budget import Budget

# Maximum age of the group's members on the status page.
#
# Listing the members starts a process (0.1 s of CPU): 1 % of a core while a page is open.
GROUP_MAX_AGE_SECONDS: Final = 10.0

# Maximum age of the members when a request needs a shard's owner.
#
# Bounds the processes that such requests can start.
OWNER_MAX_AGE_SECONDS: Final = 2.0

# The status is encoded at most this often, however many readers ask.
_CACHE_SECONDS: Final = 0.5

# With more symbols than these the status is cached longer, in proportion.
_CACHE_SYMBOLS: Final = 1000


class StartedWorker:
    """The parts of a worker that exist once it has started.

    `list_members` blocks, and raises KafkaError; it runs in `pool`.
    """

    def __init__(
        self,
        poller: Poller,
        request_budget: Budget,
        list_members: Callable[[], tuple[Member, ...]],
        pool: Executor,
    ) -> None:
        self.poller = poller
        self.request_budget = request_budget
        self.members: tuple[Member, ...] | None = None
        """The members as Kafka last named them, None until it has answered."""

        self.members_at: int | None = None
        """When it named them, by our clock (microseconds)."""

        self.error: str | None = None
        """Why it has not answered since, None if it has."""
        self._list_members = list_members
        self._pool = pool
        self._query: asyncio.Task[None] | None = None
        self._queried_at = -inf

    def refresh_members(
        self, max_age_seconds: float = GROUP_MAX_AGE_SECONDS
    ) -> asyncio.Task[None] | None:
        """Query the members in the background if the last answer is too old.

        Return the query in progress, which callers share, or None.
        """
        is_old = time.monotonic() >= self._queried_at + max_age_seconds
        if self._query is None and is_old:
            self._query = asyncio.create_task(self._query_members())
        return self._query

    def budget(self, now: float) -> answers.Budget:
        """Return the request budget at a moment of the monotonic clock."""
        spending = self.request_budget.spending(now)
        spent = spending.sent_last_minute
        limit = spending.limit_per_minute
        upstream = self.poller.rate_limit
        month = spending.month
        return answers.Budget(
            spent_last_minute=spent,
            limit_per_minute=limit,
            left=max(limit - spent, 0),
            foreign_per_minute=spending.other_clients_per_minute,
            price_seconds=self.poller.schedule.price,
            key_refused=self.poller.key_refused,
            plan_refused=self.poller.plan_refused,
            outage=self.poller.outage.explanation,
            upstream_limit=upstream.limit,
            upstream_remaining=upstream.remaining,
            upstream_reset_at=_micros(upstream.reset_at_seconds),
            quota_exhausted=self.poller.quota_exhausted,
            quota_message=self.poller.quota_message,
            quota_limit=month.limit,
            quota_used=month.used,
            quota_remaining=month.remaining,
            quota_reset_at=_micros(month.resets_at),
            quota_projected_end_at=_micros(month.projected_end_at),
        )

    def wait_seconds(self, now: float) -> float:
        """Return the time until the budget allows a request, as far as is known."""
        return self.request_budget.spending(now).wait_seconds

    async def _query_members(self) -> None:
        loop = asyncio.get_running_loop()
        try:
            self.members = await loop.run_in_executor(self._pool, self._list_members)
            self.members_at = Clock.now()
            self.error = None
        except KafkaError as error:
            self.error = str(error)
        finally:
            self._queried_at = time.monotonic()
            self._query = None


class WorkerView:
    """The answers to `GET /api/status` and `GET /api/schedule`."""

    def __init__(
        self,
        config: Config,
        source: Source,
        *,
        health: Health,
        clock: Clock,
        shards: Mapping[ShardId, Shard],
    ) -> None:
        """`shards` are the worker's own; it keeps changing the mapping."""
        self._config = config
        self._source = source
        self._health = health
        self._clock = clock
        self._shards = shards
        self._started_at = time.monotonic()
        self._changed_at: dict[tuple[str, str], int] = {}
        self._cached_at = -inf
        self._cached_status = b""
        self.recent = EventFeed()
        self.live: StartedWorker | None = None
        """None while the worker starts."""

        self.troubles = Troubles(health, [feed.name for feed in config.feeds])
        self._quarantine = answers.Quarantine(entries=0, last=None)
        self.shard_ids = _shard_ids(config)
        """The shard of every configured symbol, by feed and symbol."""

        self.levels = LevelsView(self.shard_ids, shards=shards, clock=clock)

    def published(self, event: Event) -> None:
        """Take note of an event that was committed."""
        self.recent.add(event)
        self._changed_at[event.feed, event.symbol] = event.observed_at

    def quarantined(self, feed: str, entry: Quarantined) -> None:
        """Take note of an entry that was put into quarantine."""
        last = answers.QuarantinedEntry(
            feed=feed,
            symbol=entry.symbol,
            reason=entry.reason,
            fault=entry.message,
            observed_at=entry.observed_at,
        )
        entries = self._quarantine.entries + 1
        self._quarantine = answers.Quarantine(entries=entries, last=last)

    def owned_shard(self, shard_id: ShardId) -> Shard | None:
        """Return the shard, or None if it is another worker's."""
        return self._shards.get(shard_id)

    async def owner_of(self, shard_id: ShardId) -> str | None:
        """Return the name of the worker that owns a shard, or None if it is unknown."""
        if self.live is None:
            return None
        query = self.live.refresh_members(OWNER_MAX_AGE_SECONDS)
        if query is not None:
            # The query is shared: whoever stops waiting must not cancel it.
            await asyncio.shield(query)
        if self.live.error is not None:
            # The shard may have moved since Kafka last answered.
            return None
        for member in self.live.members or ():
            if shard_id in member.shards:
                return member.name
        return None

    def status_json(self) -> bytes:
        """Return the state of this worker and of all symbols."""
        now = time.monotonic()
        cache_seconds = _CACHE_SECONDS * max(len(self.shard_ids) / _CACHE_SYMBOLS, 1)
        if now > self._cached_at + cache_seconds:
            if self.live is not None:
                # A query in the background: the next status shows its result.
                self.live.refresh_members()
            self._cached_status = msgspec.json.encode(self._status(now))
            self._cached_at = now
        return self._cached_status

    def schedule_json(self) -> bytes:
        """Return every batch's next check and the reason for its moment."""
        if self.live is None:
            return msgspec.json.encode(answers.NotStarted())
        answer = schedule_answer(
            self.live.poller.schedule,
            self._clock,
            target_delay_seconds=self._config.schedule.target_delay_seconds,
            budget_wait_seconds=self.live.wait_seconds(time.monotonic()),
            publishes=self._publishes,
        )
        return msgspec.json.encode(answer)

    def _publishes(self, feed: str, symbol: str) -> bool:
        """Return True if this worker can publish events of the symbol now."""
        shard = self.owned_shard(self.shard_ids[feed, symbol])
        return shard is not None and not shard.is_stuck

    def _status(self, now: float) -> answers.StatusAnswer:
        at = self._clock.now()
        symbols = [
            self._symbol(feed, symbol, shard_id)
            for (feed, symbol), shard_id in self.shard_ids.items()
        ]
        poller = None if self.live is None else self.live.poller
        return answers.StatusAnswer(
            at=at,
            upstream_at=self._clock.upstream(at),
            troubles=self.troubles.now(poller, at),
            worker=self._worker(now),
            quarantine=self._quarantine,
            budget=None if self.live is None else self.live.budget(now),
            group=self._group(),
            symbols=symbols,
        )

    def _worker(self, now: float) -> answers.Worker:
        reasons = self._health.why_not_ready()
        shards = [
            answers.OwnedShard(shard=str(shard_id), open=shard.is_open)
            for shard_id, shard in sorted(self._shards.items())
        ]
        return answers.Worker(
            name=self._source.worker,
            version=self._source.version,
            uptime_seconds=round(now - self._started_at, 3),
            ready=not reasons,
            reasons=reasons,
            shards=shards,
            shards_configured=self._config.kafka.shards * len(self._config.feeds),
        )

    def _group(self) -> answers.Group:
        group_id = self._source.group
        if self.live is None:
            return answers.Group(id=group_id, members=None, as_of=None, error=None)

        members = None
        if self.live.members is not None:
            members = [self._member(member) for member in self.live.members]
        return answers.Group(
            id=group_id,
            members=members,
            as_of=self.live.members_at,
            error=self.live.error,
        )

    def _member(self, member: Member) -> answers.Member:
        return answers.Member(
            name=member.name,
            host=member.host,
            me=member.name == self._source.worker,
            shards=list(map(str, member.shards)),
        )

    def _symbol(self, feed: str, symbol: str, shard_id: ShardId) -> answers.Symbol:
        shard = self.owned_shard(shard_id)
        if shard is None:
            return answers.Symbol(
                feed=feed,
                symbol=symbol,
                shard=str(shard_id),
                owned=False,
                status=None,
                positioning=None,
                positioning_fallback_reason=None,
                sequence=None,
                computed_at=None,
                observed_at=None,
                changed_at=None,
                period_seconds=None,
                next_check_at=None,
            )

        state = shard.state_of(symbol)
        levels = Levels()
        # An absent symbol keeps its last levels, but they are not valid now.
        if state is not None and state.status.has_levels and state.levels is not None:
            levels = state.levels
        # After a restart only the restored state tells of the last event. It does not keep
        # our clock's moment, so show when the event's levels were computed.
        changed_at = self._changed_at.get((feed, symbol))
        if changed_at is None and state is not None:
            changed_at = state.event_computed_at
        next_check_at = period_seconds = None
        if self.live is not None:
            next_check_at = self.live.poller.next_check_at(feed, symbol)
            period_seconds = self.live.poller.period_seconds(feed, symbol)
        return answers.Symbol(
            feed=feed,
            symbol=symbol,
            shard=str(shard_id),
            owned=True,
            status=None if state is None else state.status,
            positioning=levels.positioning,
            positioning_fallback_reason=levels.positioning_fallback_reason,
            sequence=None if state is None else state.sequence,
            computed_at=shard.computed_at(symbol),
            observed_at=shard.observed_at(symbol),
            changed_at=changed_at,
            period_seconds=period_seconds,
            next_check_at=next_check_at,
        )


def _micros(seconds: float | None) -> int | None:
    return None if seconds is None else round(seconds * MICROS)


def _shard_ids(config: Config) -> dict[tuple[str, str], ShardId]:
    shard_ids = {}
    for feed in config.feeds:
        for symbol in feed.symbols:
            partition = partition_of(symbol, config.kafka.shards)
            shard_ids[feed.name, symbol] = ShardId(feed.name, partition)
    return shard_ids
