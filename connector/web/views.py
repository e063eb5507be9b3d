"""What the status page and the API show of this worker. It reads, and changes nothing."""

from __future__ import annotations

import asyncio
import time
from collections import deque
from math import floor, inf
from typing import TYPE_CHECKING, Any, Final

import msgspec

from connector.core.model import MICROS
from connector.errors import KafkaError
from connector.kafka.names import ShardId, partition_of
from connector.schedule.scheduler import Purpose

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from concurrent.futures import Executor

    from connector.config.model import Config
    from connector.core.model import Event, Source
    from connector.kafka.members import Member
    from connector.runtime.clock import Clock
    from connector.runtime.health import Health
    from connector.runtime.poller import Poller
    from connector.runtime.shard import Shard
    from connector.schedule.forecast import Forecast
    from connector.schedule.scheduler import PlannedCheck, Schedule
    from connector.telemetry.metrics import Metrics
    from connector.upstream.budget.limiter import Limiter

RECENT_EVENTS: Final = 100
GROUP_SECONDS: Final = 10.0
"""How old the page's members of the group may be.

Each question starts a process, which costs 0.15 s of CPU: at this pace 1.5 % of a core while somebody looks.
"""

OWNER_SECONDS: Final = 2.0
"""How old the members may be when a request asks for a shard's owner. Bounds the processes that requests can start."""

_KEPT_SECONDS: Final = 0.5
"""However many ask, all of it is put together this often; with thousands of symbols more rarely by as much."""

_OF_EVENT: Final = (
    *(
        "event_id",
        "feed",
        "symbol",
        "sequence",
        "kind",
        "status",
        "reason",
        "computed_at",
        "observed_at",
    ),
    *("changed_levels", "changed_sections"),
)
_WHY: Final = {
    Purpose.FIRST: "its present state is not known yet",
    Purpose.SEARCH: "no rhythm is known, or the next refresh is long overdue",
    Purpose.RETRY: "the check before brought nothing",
    Purpose.REFUSED: "the upstream refuses this symbol; it is tried seldom",
}


class EventFeed:
    """The last events of this worker, without their levels. `news` is set, and replaced, when one is added."""

    def __init__(self) -> None:
        self.news = asyncio.Event()
        self.added = 0
        self._lines: deque[dict[str, Any]] = deque(maxlen=RECENT_EVENTS)

    def add(self, event: Event) -> None:
        """It was committed."""
        self._lines.append({name: getattr(event, name) for name in _OF_EVENT})
        self.added += 1
        news, self.news = self.news, asyncio.Event()
        news.set()

    def since(self, added: int) -> list[dict[str, Any]]:
        """What was added after the first so many, as far as it is kept."""
        return list(self._lines)[max(len(self._lines) - (self.added - added), 0) :]

    def place_of(self, event_id: str | None) -> int:
        """How many had been added with this one; with none that is kept, where it is not."""
        found = (
            index
            for index, line in enumerate(self._lines, 1)
            if line["event_id"] == event_id
        )
        return self.added - len(self._lines) + next(found, 0)


class LiveView:
    """What a worker has once it has started. `ask_group` blocks, and raises KafkaError."""

    def __init__(
        self,
        poller: Poller,
        limiter: Limiter,
        ask_group: Callable[[], tuple[Member, ...]],
        pool: Executor,
    ) -> None:
        self.poller, self.limiter = poller, limiter
        self.members: tuple[Member, ...] | None = None
        self.error: str | None = None
        self._ask_group, self._pool = ask_group, pool
        self._asking: asyncio.Task[None] | None = None
        self._asked_at = -inf

    def look(self, seconds: float = GROUP_SECONDS) -> asyncio.Task[None] | None:
        """Ask for the members in the background, one question at a time, if the last answer is `seconds` old."""
        if self._asking is None and time.monotonic() >= self._asked_at + seconds:
            self._asking = asyncio.create_task(self._ask())
        return self._asking

    async def _ask(self) -> None:
        try:
            self.members = await asyncio.get_running_loop().run_in_executor(
                self._pool, self._ask_group
            )
            self.error = None
        except KafkaError as error:
            self.members, self.error = None, str(error)
        finally:
            self._asked_at, self._asking = time.monotonic(), None


class WorkerView:
    """The answers to `GET /api/status` and `/api/schedule`. Moments are microseconds since the epoch."""

    def __init__(
        self,
        config: Config,
        me: Source,
        tools: tuple[Health, Clock, Metrics],
        shards: Mapping[ShardId, tuple[Shard, object]],
    ) -> None:
        """`shards` are those of the worker, as it goes on changing them."""
        self._config, self._me, self._shards = config, me, shards
        self._health, self._clock, self._metrics = tools
        self._started_at = time.monotonic()
        self._changed_at: dict[tuple[str, str], int] = {}
        self._kept: tuple[float, bytes] = (-inf, b"")
        self.recent = EventFeed()
        self.working: LiveView | None = None
        """None while the worker starts."""
        self.where = {
            (feed.name, symbol): ShardId(
                feed.name, partition_of(symbol, config.kafka.shards)
            )
            for feed in config.feeds
            for symbol in feed.symbols
        }
        """Every symbol that is configured, and the shard it belongs to."""

    def published(self, event: Event) -> None:
        """It was committed."""
        self.recent.add(event)
        self._changed_at[event.feed, event.symbol] = event.observed_at

    def shard(self, shard: ShardId) -> Shard | None:
        """It, where it is ours."""
        owned = self._shards.get(shard)
        return None if owned is None else owned[0]

    async def owner_of(self, shard: ShardId) -> str | None:
        """The name of the worker that has a shard, as the group said lately; None where that cannot be known."""
        if self.working is None:
            return None
        if (asking := self.working.look(OWNER_SECONDS)) is not None:
            await asyncio.shield(asking)
        return next(
            (
                member.name
                for member in self.working.members or ()
                if shard in member.shards
            ),
            None,
        )

    def everything(self) -> bytes:
        """The state of this worker and of all symbols, as JSON."""
        now = time.monotonic()
        if now > self._kept[0] + _KEPT_SECONDS * max(len(self.where) / 1000, 1):
            self._kept = (now, msgspec.json.encode(self._everything(now)))
        return self._kept[1]

    def schedule(self) -> bytes:
        """Each batch's next check, and why it is when it is, as JSON; empty while the worker starts."""
        return msgspec.json.encode(
            {} if self.working is None else self._schedule(self.working)
        )

    def _everything(self, now: float) -> dict[str, Any]:
        at, reasons = self._clock.now(), self._health.why_not_ready()
        worker = {
            "name": self._me.worker,
            "version": self._me.version,
            "uptime_seconds": round(now - self._started_at, 3),
            "ready": not reasons,
            "reasons": reasons,
            "shards": [
                {"shard": str(id_), "open": one.is_open}
                for id_, (one, _) in sorted(self._shards.items())
            ],
            "shards_configured": self._config.kafka.shards * len(self._config.feeds),
        }
        return {
            "at": at,
            "upstream_at": self._clock.upstream(at),
            "worker": worker,
            "budget": None if self.working is None else _budget(self.working, now),
            "group": self._group(),
            "symbols": [
                self._symbol(feed, symbol, shard)
                for (feed, symbol), shard in self.where.items()
            ],
        }

    def _group(self) -> dict[str, Any]:
        members, error = None, None
        if self.working is not None:
            self.working.look()
            members, error = self.working.members, self.working.error
        shown = members and [
            {
                "name": one.name,
                "host": one.host,
                "me": one.name == self._me.worker,
                "shards": list(map(str, one.shards)),
            }
            for one in members
        ]
        return {"id": self._me.group, "members": shown, "error": error}

    def _symbol(self, feed: str, symbol: str, shard: ShardId) -> dict[str, Any]:
        """What only its owner knows is None elsewhere."""
        owner = self.shard(shard)
        stats = None if owner is None else self._metrics.symbol(feed, symbol)
        state = None if owner is None else owner.state_of(symbol)
        return {
            "feed": feed,
            "symbol": symbol,
            "shard": str(shard),
            "owned": owner is not None,
            "status": stats and stats.status,
            "sequence": state and state.sequence,
            "computed_at": stats and stats.computed_at,
            "observed_at": stats and stats.observed_at,
            "changed_at": owner
            and (
                self._changed_at.get((feed, symbol))
                or (state and state.event_computed_at)
            ),
            "next_check_at": stats and stats.next_check_at,
        }

    def _schedule(self, working: LiveView) -> dict[str, Any]:
        schedule, now = working.poller.schedule, time.monotonic()
        ahead = self._clock.now() - round(now * MICROS)

        def moment(at: float | None) -> int | None:
            return None if at is None else round(at * MICROS) + ahead

        def batch(place: PlannedCheck) -> dict[str, Any]:
            feed, symbols = place.batch.feed, place.batch.symbols
            return {
                "feed": feed,
                "next_check_at": moment(schedule.next_check_at(place.batch)),
                "purpose": place.purpose,
                "why": self._why(place, schedule, now),
                "failures": place.failures,
                "expected_refreshes": place.check and place.check.expected,
                "expected_delay_seconds": place.check and place.check.delay,
                "symbols": [
                    {
                        "symbol": one,
                        **_rhythm(schedule.forecast(feed, one), now, moment),
                    }
                    for one in symbols
                ],
            }

        server, key = (
            moment(until) if until > now else None for until in schedule.held_until
        )
        return {
            "at": moment(now),
            "price_seconds": schedule.price,
            "target_delay_seconds": self._config.schedule.target_delay_seconds,
            "budget_per_minute": schedule.budget_per_minute,
            "budget_wait_seconds": working.limiter.wait_seconds(now),
            "visibility_lag_seconds": schedule.lag_seconds,
            "held_until": server,
            "key_refused_until": key,
            "batches": [batch(place) for place in schedule.planned_checks()],
        }

    def _why(self, place: PlannedCheck, schedule: Schedule, now: float) -> str:
        server, key = schedule.held_until
        if place.at is None:
            return "a request is under way"
        if max(place.at, now) < key:
            return "the upstream refuses the API key; it is tried again then, or when the key changes"
        if max(place.at, now) < server:
            return "the upstream said not to ask before"
        owners = [
            self.shard(self.where[place.batch.feed, symbol])
            for symbol in place.batch.symbols
        ]
        if all(owner is None or owner.is_stuck for owner in owners):
            return "Kafka takes nothing; it is asked for now and then, for the metrics"
        if place.purpose is not Purpose.EXPECTED:
            return _WHY[place.purpose] + (
                f", {place.failures} in a row" if place.failures else ""
            )
        return (
            f"{place.check.expected:.2f} refreshes should be there by then, late by {place.check.delay:.2f} s in all: "
            f"the plan that costs least where a check costs {schedule.price:.2f} s of delay"
            if place.check
            else "its symbols were packed anew, and planned for then before"
        )


def _budget(working: LiveView, now: float) -> dict[str, Any]:
    limiter, said = working.limiter, working.poller.rate_limit
    spent, limit = limiter.requests_last_minute(now), limiter.limit
    return {
        "spent_last_minute": spent,
        "limit_per_minute": limit,
        "left": max(limit - spent, 0),
        "foreign_per_minute": limiter.foreign_per_minute,
        "price_seconds": working.poller.schedule.price,
        "key_refused": working.poller.key_refused,
        "upstream_limit": said.limit,
        "upstream_remaining": said.remaining,
        "upstream_reset_at": None
        if said.reset_at_seconds is None
        else round(said.reset_at_seconds * MICROS),
    }


def _rhythm(
    forecast: Forecast | None, now: float, moment: Callable[[float | None], int | None]
) -> dict[str, Any]:
    """What was learnt of a symbol, and when its next refresh is expected."""
    if (
        forecast is None
        or (period := forecast.period) is None
        or (phase := forecast.phase) is None
    ):
        return {"period_seconds": None, "spread_seconds": None, "expected_at": None}
    expected = phase + period * max(floor((now - phase) / period), 1)
    return {
        "period_seconds": period,
        "spread_seconds": forecast.jitter,
        "expected_at": moment(expected),
    }
