"""The shards of this worker, and the callbacks of its consumer group."""

from __future__ import annotations

import asyncio
import logging
import time
from collections import Counter
from functools import partial
from typing import TYPE_CHECKING, Final, Protocol

from connector.errors import ConnectorError
from connector.runtime.loop_watch import LoopWatch

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Iterable, Sequence

    from connector.kafka.names import ShardId
    from connector.runtime.ports import ShardObserver
    from connector.runtime.shard import Shard
    from connector.runtime.supervisor import Supervisor

_log = logging.getLogger(__name__)

# Time for revoked shards to finish their transactions. Until then the group waits.
CLOSE_SECONDS: Final = 10


class ShardPoller(Protocol):
    """Polls the symbols of shards. Implemented by the poller."""

    def cover(self, shards: Iterable[Shard]) -> None:
        """Poll the symbols of these shards and no others."""


class Shards:
    """Every shard that is configured, and which of them are assigned to this worker.

    The group calls `assigned`, `revoked`, `lost`, `can_serve` and `failed` from its own
    thread. They hand over to the event loop, on which everything else is called.
    """

    def __init__(
        self,
        poller: ShardPoller,
        observer: ShardObserver,
        supervisor: Supervisor,
        used_fraction: Callable[[], float],
    ) -> None:
        self.owned: dict[ShardId, Shard] = {}
        """The shards that are assigned to this worker."""
        self._configured: dict[ShardId, Shard] = {}
        self._poller = poller
        self._observer = observer
        self._supervisor = supervisor
        self._used_fraction = used_fraction
        self._loop = asyncio.get_running_loop()
        self._loop_watch = LoopWatch(self._loop)
        self.is_clock_wrong: Callable[[], bool] = lambda: False
        """Return True if our clock is wrong. Called from the group's thread."""
        self._stands_by = False

    def add(self, shard: Shard) -> None:
        """Add a configured shard. It is served once it is assigned."""
        self._configured[shard.id] = shard
        self._supervisor.watch(shard.run())

    # --- called from the group's thread ---

    def assigned(self, shards: list[ShardId]) -> None:
        """Open shards: they belong to this worker."""
        self._call_in_order(self._assign, shards)

    def revoked(self, shards: list[ShardId]) -> None:
        """Close shards. They go to another worker as soon as this call returns."""
        if self._loop_watch.has_stalled:
            # Nobody would close them. Their next owner fences them.
            self.lost(shards)
            return
        # Block the group's thread: returning gives the shards away.
        self._wait(self.close(shards, CLOSE_SECONDS), shards)

    def lost(self, shards: list[ShardId]) -> None:
        """Abandon shards: they already belong to others."""
        self._call_in_order(self._lose, shards)

    def can_serve(self) -> bool:
        """Return False if no shard can be served: the loop is stuck, or our clock wrong."""
        return self._loop_watch.look() and not self.is_clock_wrong()

    def failed(self, error: Exception) -> None:
        """Stop the worker: the group's thread has ended."""
        if isinstance(error, ConnectorError):
            stop = partial(self._supervisor.fail, str(error), error.exit_code)
        else:
            stop = partial(
                self._supervisor.fail_by_defect, "the group's thread ended", error
            )
        self._loop.call_soon_threadsafe(stop)

    def _call_in_order(
        self, call: Callable[[list[ShardId]], None], shards: list[ShardId]
    ) -> None:
        """Make a call on the event loop, after the calls that the group made before.

        `revoked` starts a coroutine, which takes two turns of the loop. A call that takes
        one turn could overtake it if the loop was busy: an assignment would come before the
        revocation that precedes it, and the shard would stay closed.
        """
        self._loop.call_soon_threadsafe(self._loop.call_soon, call, shards)

    # --- called on the event loop ---

    async def close(self, shards: Iterable[ShardId], timeout_seconds: float) -> None:
        """Close shards, and abandon those that are not done in time."""
        closing = []
        for shard_id in shards:
            # The group may revoke a shard that was closed by the stop of the worker.
            if shard_id in self.owned:
                closing.append(self.owned.pop(shard_id))
        if not closing:
            return

        # Ask before the first shard is given up: the budget shrinks with each of them.
        used_fraction = self._used_fraction()
        began_at = time.monotonic()
        for shard in closing:
            shard.close(used_fraction)

        waits = [asyncio.create_task(shard.wait_closed()) for shard in closing]
        await asyncio.wait(waits, timeout=timeout_seconds)
        for wait in waits:
            wait.cancel()

        seconds = round(time.monotonic() - began_at, 3)
        for shard in closing:
            # The group's thread stops waiting after a while. A shard that it has assigned
            # again since then has a new assignment, which must not be abandoned.
            if shard.id not in self.owned:
                # Does nothing if the shard is closed. The next owner fences the others.
                shard.abandon()
            fields = {"shard": str(shard.id), "seconds": seconds}
            _log.info("shard handed over", extra=fields)
        self.update_polling()

    def update_polling(self) -> None:
        """Poll the symbols of those shards that are open or will be again in a moment."""
        polled = [shard for shard in self.owned.values() if shard.is_polled]
        self._poller.cover(polled)

        open_shards: Counter[str] = Counter()
        for shard in self.owned.values():
            if shard.is_open:
                open_shards[shard.id.feed] += 1
        # Feeds without an open shard are reported, too, or their last count would stay.
        feeds = {shard_id.feed for shard_id in self._configured}
        for feed in feeds:
            self._observer.shards_owned(feed, open_shards[feed])

    def tick(self) -> None:
        """Let shards look for stale levels. Call once a second."""
        waiting = 0
        for shard in self.owned.values():
            shard.tick()
            waiting += shard.waiting
        self._observer.queue_length(waiting)

    def why_not_ready(self) -> list[str]:
        """Return each reason against being ready."""
        reasons = []
        for shard in self.owned.values():
            reason = shard.why_not_ready()
            if reason is not None:
                reasons.append(reason)
        return reasons

    def _assign(self, shards: Sequence[ShardId]) -> None:
        for shard_id in shards:
            shard = self._configured.get(shard_id)
            # More partitions than shards would move symbols between them.
            if shard is None:
                feeds = [known.feed for known in self._configured]
                self._supervisor.fail(
                    f"{shard_id} was assigned, but kafka.shards is "
                    f"{feeds.count(shard_id.feed)}; partitions have been added to the topic"
                )
                return

            _log.info(
                "shard assigned",
                extra={"shard": str(shard_id), "symbols": len(shard.symbols)},
            )
            # Owned first: opening the shard updates the polling of all owned shards.
            self.owned[shard_id] = shard
            shard.assign()

        # The group also calls with no shards, and after each rebalance.
        stands_by = not self.owned
        if stands_by and not self._stands_by:
            _log.info("standing by: every shard is another worker's")
        self._stands_by = stands_by

    def _lose(self, shards: Sequence[ShardId]) -> None:
        for shard_id in shards:
            shard = self.owned.pop(shard_id, None)
            if shard is not None:
                shard.abandon()
                _log.warning("shard lost", extra={"shard": str(shard_id)})
        self.update_polling()

    def _wait(
        self, closing: Coroutine[None, None, None], shards: Sequence[ShardId]
    ) -> None:
        closed = asyncio.run_coroutine_threadsafe(closing, self._loop)
        try:
            # `close` has its own time-out. This one is for an event loop that hangs.
            closed.result(CLOSE_SECONDS + 1)
        except TimeoutError:
            _log.warning(
                "shards not closed in time; their next owner fences them",
                extra={"shards": len(shards)},
            )
