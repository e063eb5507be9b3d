"""One shard in this worker's hands: opened, fed with what checks show, committed, and opened again after an error."""

from __future__ import annotations

import asyncio
import logging
import math
import random
import time
from typing import TYPE_CHECKING, Final, TypeVar, TypeVarTuple, Unpack

from msgspec.structs import replace

from connector.core.entry import decode_entry
from connector.core.model import (
    MICROS,
    Event,
    Kind,
    Moment,
    Observation,
    State,
    Status,
)
from connector.core.transition import (
    REASON_ASKED,
    FeedRules,
    Transition,
    expire,
    observe_all,
    remove,
    snapshot,
)
from connector.errors import (
    AccessDenied,
    EntryError,
    KafkaError,
    SetupError,
    ShardCorrupt,
    ShardFenced,
    Unpublishable,
)
from connector.kafka.shard_log import Quarantined, Transaction
from connector.logs import Bounded
from connector.runtime.inbox import Attempt, Inbox, Work
from connector.runtime.ports import Commit, Phase, Sighting

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from connector.kafka.names import ShardId
    from connector.kafka.shard_log import Restored
    from connector.runtime.ports import AnswerTimes, ShardContext, TransactionalLog

_T = TypeVar("_T")
_Ts = TypeVarTuple("_Ts")
_log = logging.getLogger(__name__)

CLOSE_SECONDS: Final = 10
"""How long a shard that goes to another worker may take to finish its transaction."""

_SLOW_COMMIT_SECONDS: Final = 5
_LOG_EVERY_SECONDS: Final = 60
_BACKOFF_SECONDS: Final = (0.5, 10.0)
_MAX_DOUBLINGS: Final = 10
_FENCED_SECONDS: Final = (3.0, 30.0)
"""At least two heartbeats: a zombie must hear that it lost before it opens again."""

_NOT_OURS: Final = "the shard went to another worker; the topic `changes` says whether it was published before"


class Shard:
    """Owns the state of its symbols from `run` to `close`. Everything but the log's calls is on the event loop."""

    def __init__(
        self,
        shard: ShardId,
        rules: FeedRules,
        symbols: frozenset[str],
        log: TransactionalLog,
        tools: ShardContext,
        inbox: Inbox | None = None,
    ) -> None:
        self.id = shard
        self.symbols = symbols
        # One that is empty may not stay so: what it held can be inside a commit that hangs.
        self.inbox = (
            Inbox(lambda: tools.observer.dropped(shard.feed, "collapsed"))
            if inbox is None
            else inbox
        )
        self.is_open = False
        self.is_polled = False
        self.restored: Restored | None = None
        self._rules = rules
        self._log = log
        self._tools = tools
        self._states: dict[str, State] = {}
        self._last: dict[str, bytes | Status] = {}
        self._refused: dict[str, bytes] = {}
        self._answered_at: dict[str, int] = {}
        self._asked: dict[str, asyncio.Future[Event | str]] = {}
        self._bounded = Bounded(_LOG_EVERY_SECONDS, time.monotonic)
        self._wake = asyncio.Event()
        self._closing = asyncio.Event()
        self._ticked = False
        self._gone = self._fenced = False
        self._spent: float | None = None
        self._failures = 0
        self._opened_at = self._taken_from = -math.inf
        self._publishing_since: float | None = None
        self._computed_at: dict[str, int] = {}
        self._observed_at: dict[str, int] = {}

    @property
    def waiting(self) -> int:
        """Records that wait for Kafka in the producer."""
        return self._log.waiting

    def why_not_ready(self) -> str | None:
        """What is wrong with it, if anything: not open, or a transaction that does not come to its end."""
        if not self.is_open:
            return f"shard {self.id} is not open"
        seconds = self._committing_seconds()
        return (
            f"shard {self.id} has been committing for {seconds:.0f} s"
            if seconds > _SLOW_COMMIT_SECONDS
            else None
        )

    @property
    def is_stuck(self) -> bool:
        """Whether nothing that is seen gets to Kafka now."""
        return not self.is_open or self._committing_seconds() > _SLOW_COMMIT_SECONDS

    def _committing_seconds(self) -> float:
        return (
            0.0
            if self._publishing_since is None
            else time.monotonic() - self._publishing_since
        )

    async def run(self) -> None:
        """Open, publish what comes, and again after an error, until closed.

        Raises:
            ShardCorrupt: what no waiting cures.
        """
        try:
            # Two objects of one shard would fence each other: the one before may still hang in a call.
            async with self._tools.turns[self.id]:
                while not self._closing.is_set():
                    await self._try()
                await self._in_thread(self._log.drop)
        finally:
            self._let_go()

    async def _try(self) -> None:
        try:
            await self._open()
            await self._serve()
        except (ShardCorrupt, SetupError):
            raise
        except KafkaError as error:
            if isinstance(error, AccessDenied) and self._tools.trial.failed():
                raise SetupError(str(error)) from None
            self._failures += 1
            await self._fail(error)

    def observe(
        self,
        symbol: str,
        answer: bytes | Status,
        seen: AnswerTimes,
        reason: str | None = None,
    ) -> int | None:
        """Take an answer for a symbol. Return when its newest levels were computed.

        The same answer as the last time costs next to nothing.
        """
        if not self.is_polled or seen.asked_at < self._taken_from:
            return self._computed_at.get(symbol)
        self._observed_at[symbol] = seen.at
        sighting = Sighting(self.id.feed, symbol, seen.at)
        if self._last.get(symbol) == answer and not self._may_differ(symbol):
            self._answered_at[symbol] = seen.age_at
        else:
            self._last[symbol] = answer
            if isinstance(answer, Status):
                self._answered_at[symbol] = seen.age_at
                self.inbox.add(
                    Observation(
                        symbol, answer, None, seen.at, seen.age_at, seen.source, reason
                    )
                )
            else:
                sighting = self._decode(symbol, answer, seen)
            self._wake.set()
        self._tools.observer.sighted(sighting)
        return self._computed_at.get(symbol)

    def _may_differ(self, symbol: str) -> bool:
        """Whether the same answer may mean something else now: it was of no use, or levels are fresh again."""
        state = self._states.get(symbol)
        return symbol in self._refused or (
            state is not None and state.status is Status.STALE
        )

    def ask(self, symbol: str) -> asyncio.Future[Event | str]:
        """Publish the symbol's levels again. The event once it is committed, or why there is none.

        Who asks before that is given the same one. It stays asked for as long as the shard is ours.
        """
        if (asked := self._asked.get(symbol)) is None:
            asked = self._asked[symbol] = asyncio.get_running_loop().create_future()
            if self._gone:
                self._refuse_asked(_NOT_OURS)
            self._wake.set()
        return asked

    def state_of(self, symbol: str) -> State | None:
        """What was last committed of a symbol."""
        return self._states.get(symbol)

    def computed_at(self, symbol: str) -> int | None:
        """Return when the newest levels of a symbol were computed, committed or not."""
        return self._computed_at.get(symbol)

    def observed_at(self, symbol: str) -> int | None:
        """Return when the latest answer for a symbol was complete."""
        return self._observed_at.get(symbol)

    def tick(self) -> None:
        """Once a second: levels may have become stale, and the client may have something to say."""
        if self.is_open:
            self._ticked = True
            self._wake.set()

    def lose(self) -> None:
        """The shard is another worker's already, for all we know."""
        self._log.abandon()
        self.close()
        self._let_go()

    def close(self, spent: float | None = None) -> None:
        """Take nothing more, commit what waits, end `run`.

        `spent`: the part of the budget that was used, to be said to whoever is next; of what is given up there is none.
        """
        self._spent = spent
        self._set(is_open=self.is_open, is_polled=False)
        self._closing.set()
        self._wake.set()

    def _decode(self, symbol: str, raw: bytes, seen: AnswerTimes) -> Sighting:
        sighting = Sighting(self.id.feed, symbol, seen.at)
        try:
            entry = decode_entry(raw, seen.age_at)
        except EntryError as error:
            if self._refused.get(symbol) != raw:
                self._refused[symbol] = raw
                request_id = seen.source.request_id
                self.inbox.quarantine(
                    Quarantined(
                        symbol, raw, error.reason, str(error), seen.at, request_id
                    )
                )
            return sighting
        self._refused.pop(symbol, None)
        self._answered_at[symbol] = seen.age_at
        self.inbox.add(
            Observation(symbol, Status.LIVE, entry, seen.at, seen.age_at, seen.source)
        )
        before = self._computed_at.get(symbol)
        if entry.computed_at is None or entry.computed_at <= (before or 0):
            return sighting
        self._computed_at[symbol] = entry.computed_at
        delay = (seen.age_at - entry.computed_at) / MICROS
        return replace(
            sighting,
            computed_at=entry.computed_at,
            detection_seconds=None if before is None else delay,
        )

    async def _open(self) -> None:
        restored = await self._in_thread(self._log.open)
        if self._closing.is_set():
            return
        self._tools.observer.restored(restored.records, restored.seconds)
        self.restored, self._states = restored, dict(restored.states)
        for kept in (self._last, self._refused, self._answered_at):
            kept.clear()
        self._opened_at = time.monotonic()
        writer, known, me = restored.writer, self.inbox.writer, self._tools.source
        self.inbox.writer = writer
        if writer is not None and writer.worker != me.worker and writer != known:
            # What was asked before may be older than what another worker has written.
            self._taken_from = self._opened_at
            self._forget()
            if self._fenced and writer.group != me.group:
                other = {
                    "shard": str(self.id),
                    "group": writer.group,
                    "worker": writer.worker,
                }
                _log.error(
                    "another fleet uses these topics: stop it, or give it a kafka.topic_prefix",
                    extra=other,
                )
        elif (attempt := self.inbox.settle(self._states)) is not None:
            self._report(attempt.events, attempt.work)
        for state in self._states.values():
            self._show(state)
        self._set(is_open=True, is_polled=True)
        extra = {
            "shard": str(self.id),
            "symbols": len(self._states),
            "records": restored.records,
            "end": restored.end,
        }
        last = None if writer is None else f"{writer.worker} of group {writer.group}"
        _log.info(
            "shard open",
            extra={**extra, "seconds": round(restored.seconds, 3), "last_writer": last},
        )

    async def _serve(self) -> None:
        if not self.is_open:
            return
        gone = [
            state
            for symbol, state in self._states.items()
            if symbol not in self.symbols
        ]
        now = self._tools.clock.now()
        await self._commit(
            [remove(state, now, self._tools.source, self._rules) for state in gone],
            Work(),
        )
        while True:
            self._wake.clear()
            work = self.inbox.take()
            steps = observe_all(self._states, work.seen, self._rules)
            if self._ticked:
                self._ticked = False
                steps += self._expired(
                    {observation.symbol for observation in work.seen}
                )
                self._log.serve_callbacks()
            steps += self._asked_for(steps)
            await self._commit(steps, work)
            if self._gone:
                return
            if self.inbox or self._asked:
                continue
            if self._closing.is_set():
                return
            await self._wake.wait()

    async def _commit(self, steps: list[Transition], work: Work) -> None:
        """One transaction; only after it the states are replaced."""
        for step in steps:
            if step.dropped is not None:
                self._tools.observer.dropped(self.id.feed, step.dropped)
        states = {
            step.state.symbol: step.state for step in steps if step.state is not None
        }
        events = [step.event for step in steps if step.event is not None]
        spent = self._tools.spent() if self._spent is None else self._spent
        transaction = Transaction(
            events, tuple(states.values()), work.quarantined, spent
        )
        if not transaction:
            return
        self._publishing_since = time.monotonic()
        try:
            await self._in_thread(self._log.publish, transaction)
        except KafkaError as error:
            self._tools.observer.aborted()
            if isinstance(error, Unpublishable):
                self._refuse_asked(f"the broker refused a record: {error}")
                alone = (
                    len(work.symbols | states.keys()) == 1
                )  # timers and snapshots can be the culprit, too
                for _ in range(self.inbox.refuse(work, alone=alone)):
                    self._tools.observer.dropped(self.id.feed, "unpublishable")
            else:
                self.inbox.keep(Attempt(work, tuple(events), states))
            raise
        finally:
            stuck, self._publishing_since = self.is_stuck, None
        if stuck:
            self._tools.changed()
        self._failures = 0
        self._tools.trial.passed = True
        self._states.update(states)
        self._report(events, work)
        for state in states.values():
            self._show(state)

    def _expired(self, just_seen: set[str]) -> list[Transition]:
        """What has become stale; not right after opening, when the first answer is still to come."""
        now = self._tools.clock.now()
        waiting = time.monotonic() < self._opened_at + self._tools.grace_seconds
        at = Moment(now, self._tools.clock.upstream(now))
        steps = []
        for symbol, state in self._states.items():
            answered_at = self._answered_at.get(symbol)
            if symbol in just_seen or (waiting and answered_at is None):
                continue
            step = expire(state, at, answered_at, self._tools.source, self._rules)
            if step.event is not None:
                steps.append(step)
        return steps

    def _asked_for(self, steps: Sequence[Transition]) -> list[Transition]:
        """The snapshots that were asked for, each of what these steps leave."""
        if not self._asked:
            return []
        left = {
            step.state.symbol: step.state for step in steps if step.state is not None
        }
        now = self._tools.clock.now()
        at, found = Moment(now, self._tools.clock.upstream(now)), []
        for symbol in list(self._asked):
            state = left.get(symbol) or self._states.get(symbol)
            step = snapshot(state, at, self._tools.source, self._rules)
            if step.event is not None:
                found.append(step)
            else:
                why = (
                    "nothing has been seen of it yet"
                    if state is None
                    else f"there are no levels, it is {state.status}"
                )
                self._asked.pop(symbol).set_result(why)
        return found

    def _refuse_asked(self, why: str) -> None:
        asked, self._asked = self._asked, {}
        for future in asked.values():
            future.set_result(why)

    async def _fail(self, error: KafkaError) -> None:
        """Say so, and wait before the next try. Nothing of the old state is used again."""
        fenced = self._fenced = isinstance(error, ShardFenced)
        if fenced:
            self._tools.observer.fenced()
        self._set(is_open=False, is_polled=self.is_polled and not fenced)
        least, most = _FENCED_SECONDS if fenced else _BACKOFF_SECONDS
        pause = min(
            most, least * 2 ** min(self._failures - 1, _MAX_DOUBLINGS)
        ) * random.uniform(1, 1.5)  # noqa: S311 -- jitter
        extra = {
            "shard": str(self.id),
            "error": str(error),
            "retry_in_seconds": round(pause, 1),
        }
        _log.warning(
            "another worker took the shard" if fenced else "shard closed by an error",
            extra=extra,
        )
        try:
            async with asyncio.timeout(pause):
                await self._closing.wait()
        except TimeoutError:
            return

    def _forget(self) -> None:
        """Give up what waits, and count it."""
        for _ in range(self.inbox.clear()):
            self._tools.observer.dropped(self.id.feed, "lost")
        self._refuse_asked(_NOT_OURS)

    def _let_go(self) -> None:
        """Show nothing of it any more: another object may have the shard before a hanging call of this one ends."""
        if not self._gone:
            self._set(is_open=False, is_polled=False)
            self._tools.observer.shard_changed(self.id, Phase.CLOSED, frozenset())
            self._refuse_asked(_NOT_OURS)
            self._gone = True

    def _set(self, *, is_open: bool, is_polled: bool) -> None:
        if self._gone:
            return
        changed = (is_open, is_polled) != (self.is_open, self.is_polled)
        self.is_open, self.is_polled = is_open, is_polled
        phase = Phase.OPEN if is_open else Phase.OPENING
        polled = self.symbols if is_polled else frozenset[str]()
        self._tools.observer.shard_changed(self.id, phase, polled)
        if changed:
            self._tools.changed()

    def _show(self, state: State) -> None:
        if state.computed_at is not None:
            newest = max(state.computed_at, self._computed_at.get(state.symbol, 0))
            self._computed_at[state.symbol] = newest
        self._tools.observer.state_replaced(state)

    def _report(self, events: Sequence[Event], work: Work) -> None:
        now = self._tools.clock.now()
        self._tools.observer.committed(
            Commit(
                tuple(events), work.quarantined, now, self._tools.clock.upstream(now)
            )
        )
        for event in events:
            self._tools.published(event)
            if event.reason == REASON_ASKED and event.symbol in self._asked:
                self._asked.pop(event.symbol).set_result(event)
            level = logging.DEBUG if event.kind is Kind.CHANGED else logging.INFO
            _log.log(
                level,
                "event",
                extra={
                    "event_id": event.event_id,
                    "kind": event.kind,
                    "status": event.status,
                },
            )
        for entry in work.quarantined:
            suppressed = self._bounded.admit((entry.symbol, entry.reason))
            if suppressed is not None:
                where = {
                    "feed": self.id.feed,
                    "symbol": entry.symbol,
                    "request_id": entry.request_id,
                }
                why = {
                    "reason": entry.reason,
                    "fault": entry.message,
                    "not_logged_before": suppressed,
                }
                _log.warning("entry to quarantine", extra={**where, **why})

    async def _in_thread(self, call: Callable[[Unpack[_Ts]], _T], *args: *_Ts) -> _T:
        return await asyncio.get_running_loop().run_in_executor(
            self._tools.executor, call, *args
        )
