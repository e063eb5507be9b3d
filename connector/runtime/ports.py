"""What a worker gives to each of its shards."""

from __future__ import annotations

import asyncio
import math
import time
from collections import defaultdict
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from concurrent.futures import Executor

    from connector.core.model import Event, Source
    from connector.kafka.names import ShardId
    from connector.kafka.shard_log import Restored, Transaction
    from connector.runtime.clock import Clock
    from connector.telemetry.metrics import Metrics


class TransactionalLog(Protocol):
    """What a shard needs of its log; `connector.kafka.shard.ShardLog` says what each does and raises."""

    @property
    def waiting(self) -> int: ...  # noqa: D102 -- as above
    def open(self) -> Restored: ...  # noqa: D102 -- as above
    def publish(self, transaction: Transaction) -> None: ...  # noqa: D102 -- as above
    def serve_callbacks(self) -> None: ...  # noqa: D102 -- as above
    def drop(self) -> None: ...  # noqa: D102 -- as above
    def abandon(self) -> None: ...  # noqa: D102 -- as above


@dataclass(slots=True)
class StartupDeadline:
    """Whether the start is over: rights that are missing until then end the process, later they are waited for."""

    until: float
    """Monotonic seconds."""
    passed: bool = False

    def failed(self) -> bool:
        """No transaction has been committed, and the time for it is over."""
        return not self.passed and time.monotonic() > self.until


@dataclass(frozen=True, slots=True)
class ShardContext:
    """What every shard of a worker uses.

    `source` says who writes; `grace_seconds` is how long a shard that was just opened waits for its first answer
    before it calls old levels stale.
    """

    metrics: Metrics
    clock: Clock
    executor: Executor
    source: Source
    grace_seconds: float
    changed: Callable[[], None]
    """Called when a shard begins or ceases to be polled."""
    trial: StartupDeadline = field(default_factory=lambda: StartupDeadline(math.inf))
    spent: Callable[[], float] = lambda: 0.0
    """The part of the budget that was used within a minute."""
    published: Callable[[Event], object] = lambda _: None
    """Called with every event that was committed."""
    turns: Mapping[ShardId, asyncio.Lock] = field(
        default_factory=lambda: defaultdict(asyncio.Lock)
    )
    """Held by the one object that works on a shard."""


@dataclass(frozen=True, slots=True)
class AnswerTimes:
    """When and from where an answer came: complete by our clock and by the upstream's; `asked_at` is monotonic."""

    asked_at: float
    at: int
    age_at: int
    source: Source
