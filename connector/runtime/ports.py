"""The values and interfaces that the runtime shares with its surroundings.

Each interface says what the runtime needs. `connector.kafka` implements the log, and
`connector.telemetry` the observers. Nothing in the runtime reads from an observer.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING, Protocol, TypeVar

from connector.core.model import Value
from connector.core.positioning import NO_MODELS
from connector.core.transition import REASON_NO_ANSWER
from connector.runtime.backoff import BACKOFF, FENCED_BACKOFF

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Collection, Mapping
    from concurrent.futures import Executor

    from connector.core.decode import RateLimit
    from connector.core.model import Event, Source, State, Status
    from connector.core.positioning import ResponseModels
    from connector.core.transition import FeedRules
    from connector.kafka.names import ShardId
    from connector.kafka.quarantine import Quarantined
    from connector.kafka.shard_log import Restored, Transaction
    from connector.runtime.backoff import Backoff
    from connector.runtime.clock import Clock
    from connector.runtime.health import Health
    from connector.runtime.startup import StartupDeadline
    from connector.schedule.batches import Batch
    from connector.schedule.checks import Purpose
    from connector.upstream.budget import MonthFigures

_T = TypeVar("_T")


async def _is_never_explained() -> bool:
    return False


class TransactionalLog(Protocol):
    """A shard's log. `connector.kafka.shard_log.ShardLog` says what each call raises."""

    @property
    def waiting(self) -> int:
        """Number of records and requests that wait in the producer."""

    def open(self, symbols: Collection[str] = ()) -> Restored:
        """Fence the predecessors and restore the state they left. Blocks.

        The configured `symbols` continue from their last event if they have no state.
        """

    def publish(self, transaction: Transaction) -> None:
        """Commit a transaction as a whole or not at all. Blocks."""

    def serve_callbacks(self) -> None:
        """Let the client report errors and deliveries."""

    def abort(self) -> None:
        """Abort an open transaction and let the producer go. Blocks."""

    def abandon(self) -> None:
        """Stop retrying the call in progress. Safe to call from any thread."""


class Phase(StrEnum):
    """The phases of a shard."""

    CLOSED = "closed"
    """Not assigned to this worker."""

    OPENING = "opening"
    """Fencing previous owners and restoring, or backing off before the next attempt."""

    OPEN = "open"
    """Restored: observations are compared and published."""

    CLOSING = "closing"
    """Revoked or lost: the last transaction is being finished."""


class Commit(Value, frozen=True):
    """A committed transaction. `at` is our clock, `upstream_at` the upstream's."""

    events: tuple[Event, ...]
    at: int
    upstream_at: int


class Sighting(Value, frozen=True):
    """An answer about a symbol that a shard accepted.

    `computed_at` is set if the answer is newer than all before it. `detection_seconds` is
    the delay of a refresh that was found, None for a symbol's first levels.
    """

    feed: str
    symbol: str
    observed_at: int
    computed_at: int | None = None
    detection_seconds: float | None = None


class ResponseReport(Value, frozen=True):
    """Facts about a response as a whole."""

    rate_limit: RateLimit
    inconsistencies: tuple[str, ...]
    clock_correction_seconds: float


class Rhythm(Protocol):
    """The learned rhythm of a symbol, in seconds. None before two refreshes were seen."""

    @property
    def period(self) -> float | None:
        """Time between two refreshes."""

    @property
    def jitter(self) -> float | None:
        """Standard deviation of the next refresh."""


class NextCheck(Value, frozen=True):
    """The moment of a symbol's next check (microseconds), and the rhythm behind it.

    Read the rhythm when somebody asks for it, not for every check: computing the jitter of
    one symbol takes about 25 µs.
    """

    feed: str
    symbol: str
    at: int | None
    rhythm: Rhythm


class BudgetReport(Value, frozen=True):
    """The requests a minute of this worker and of other clients, and a request's price.

    `month` are the figures of the month, of all workers and programs together.
    """

    limit_per_minute: int
    other_clients_per_minute: int
    price_seconds: float
    month: MonthFigures


class RequestObserver(Protocol):
    """Receives events about requests to the upstream, on the event loop."""

    def request_sent(self, batch: Batch, purpose: Purpose) -> None:
        """Called when a request leaves."""

    def request_finished(self, outcome: str, seconds: float) -> None:
        """Called when a request ended: `ok`, or the `outcome` of its UpstreamError."""

    def response_decoded(self, report: ResponseReport) -> None:
        """Called with a response."""

    def symbol_answered(self, feed: str, symbol: str, status: Status) -> None:
        """Called when a symbol was answered: LIVE for an entry, else MISSING or INVALID."""

    def venues_not_applied(self, feed: str) -> None:
        """Called with a response for other venues, from which nothing is published."""

    def other_spelling(self, feed: str, symbol: str, spelling: str) -> None:
        """Called when a symbol has no entry, but a similar name has one."""

    def contract_reported(self, version: str, *, is_breaking: bool) -> None:
        """Called with the vendor's contract, empty if unknown.

        `is_breaking` says that a breaking release is later than the one we know.
        """

    def refresh_found(self, uncertainty_seconds: float) -> None:
        """Called with a refresh, and how long it may have been visible already."""

    def visibility_lag_learnt(self, seconds: float) -> None:
        """Called with the time until computed levels are served."""

    def check_planned(self, check: NextCheck) -> None:
        """Called with a symbol's next check."""

    def budget_changed(self, budget: BudgetReport) -> None:
        """Called with the request budget."""

    def key_refused(self, *, refused: bool) -> None:
        """Called when the upstream refuses or accepts the API key."""

    def plan_refused(self, *, refused: bool) -> None:
        """Called when the upstream refuses or accepts the plan of the key's user."""


class ShardObserver(Protocol):
    """Receives events about shards, on the event loop."""

    def shard_changed(
        self, shard: ShardId, phase: Phase, polled: frozenset[str]
    ) -> None:
        """Called with a shard's phase and the symbols of it that are polled."""

    def shards_owned(self, feed: str, count: int) -> None:
        """Called with the number of open shards of a feed."""

    def queue_length(self, messages: int) -> None:
        """Called with the number of messages that wait in the producers."""

    def restored(self, shard: ShardId, restored: Restored) -> None:
        """Called when a shard's state was restored."""

    def sighted(self, sighting: Sighting) -> None:
        """Called with an answer for a symbol."""

    def orphans_found(self, symbols: Mapping[str, int]) -> None:
        """Called with the number of symbols left of each feed that is not configured."""

    def state_replaced(self, state: State) -> None:
        """Called with a state that was restored or committed."""

    def committed(self, commit: Commit) -> None:
        """Called when a transaction was committed."""

    def quarantined(self, reason: str) -> None:
        """Called with the reason why an entry could not be decoded."""

    def aborted(self) -> None:
        """Called when a transaction failed."""

    def fenced(self) -> None:
        """Called when another worker took over an open shard."""

    def dropped(self, feed: str, reason: str, count: int = 1) -> None:
        """Called when observations, or changes without one, will not be published."""


@dataclass(frozen=True, slots=True)
class ShardSpec:
    """A shard as it is configured."""

    id: ShardId
    rules: FeedRules
    symbols: frozenset[str]


@dataclass(frozen=True, slots=True)
class ShardContext:
    """The tools that all shards of a worker share.

    `source` says who writes. `grace_seconds` is how long a shard that was just opened waits
    for its first answers before it calls old levels stale.
    """

    observer: ShardObserver
    clock: Clock
    executor: Executor
    source: Source
    grace_seconds: float
    polling_changed: Callable[[], None]
    """Called when a shard begins or ceases to be open or polled."""
    startup: StartupDeadline
    used_fraction: Callable[[], float] = lambda: 0.0
    """Return the part of the request budget used within a minute, 0 to 1."""
    silence_reason: Callable[[str, str], str] = lambda _feed, _symbol: REASON_NO_ANSWER
    """Return why a feed's symbol has had no answer for long, as the reason of an event."""
    plan_keeps_fresh: Callable[[str], bool] = lambda _feed: True
    """Return False if the budget permits too few checks to keep a feed's levels fresh.

    Called with each answer.
    """
    quarantine: Callable[[str, Quarantined], object] = lambda _feed, _entry: None
    """Keep an entry that could not be decoded. Called with its feed, too."""
    published: Callable[[Event], object] = lambda _: None
    """Called with every committed event."""
    clock_explains_refusal: Callable[[], Awaitable[bool]] = _is_never_explained
    """Return True if our clock is the reason why brokers refuse the time of a record."""
    backoff: Backoff = BACKOFF
    fenced_backoff: Backoff = FENCED_BACKOFF

    async def in_thread(self, call: Callable[[], _T]) -> _T:
        """Make a blocking call in a thread of the pool."""
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self.executor, call)


@dataclass(frozen=True, slots=True)
class PollerContext:
    """The tools that the parts of the poller share. `source` is this worker."""

    observer: RequestObserver
    clock: Clock
    health: Health
    source: Source


@dataclass(frozen=True, slots=True)
class AnswerTimes:
    """The moments of an answer, and where it came from.

    `sent_at` is monotonic seconds. `at` is when the answer was complete by our clock, and
    `upstream_at` the same moment by the upstream's clock (microseconds). `models` are those
    that the response names for entries that do not name theirs. `is_copy` says that a cache
    answered with an earlier response.
    """

    sent_at: float
    at: int
    upstream_at: int
    source: Source
    models: ResponseModels = NO_MODELS
    is_copy: bool = False
