"""The thread that restores a feed, and then follows both of its topics."""

from __future__ import annotations

import logging
import threading
from typing import TYPE_CHECKING, Final, Literal

import confluent_kafka as ck

from connector.client.errors import (
    ClientError,
    ClientStopped,
    EventsMissing,
    KafkaUnreachable,
    TopicMissing,
    TopicReplaced,
)
from connector.client.kafka import (
    assigned,
    is_end,
    offset_of,
    partition_of,
    place_of,
    value_of,
)
from connector.client.look import TopicLook
from connector.client.restore import restore
from connector.client.values import located
from connector.client.views import ViewChange
from connector.client.workers import WorkerLook

if TYPE_CHECKING:
    from collections.abc import Callable

    from connector.client.kafka import Feed
    from connector.client.store import Store
    from connector.client.values import ValueDecoder

_log = logging.getLogger("connector.client")

OnHole = Literal["raise", "restore"]

_WAIT_SECONDS: Final = 0.2
# A topic that was deleted may be created again.
_RESTORE_PAUSE_SECONDS: Final = 1.0
_HOLES: Final = (EventsMissing, TopicReplaced, TopicMissing, KafkaUnreachable)


class Follower:
    """Restores and follows a feed. Only its own thread writes to the store.

    `notify` is called in that thread with every view that was replaced, and `tick` several
    times a second.
    """

    def __init__(
        self,
        feed: Feed,
        decoder: ValueDecoder,
        store: Store,
        *,
        on_hole: OnHole,
        patience_seconds: float,
    ) -> None:
        self.notify: Callable[[ViewChange], None] = lambda _: None
        self.tick: Callable[[str | None], None] = lambda _: None
        self._feed = feed
        self._decoder = decoder
        self._store = store
        self._on_hole = on_hole
        self._patience_seconds = patience_seconds
        self._consumer = feed.consumer()
        self._look = TopicLook(feed)
        self._workers = WorkerLook(
            self._look.admin, store.last_group, lambda: store.is_stopped
        )
        self._thread = threading.Thread(
            target=self._run, name="gex-levels-client", daemon=True
        )

    def start(self, timeout_seconds: float) -> None:
        """Restore the states, then follow the topics in a thread. Raises ClientError."""
        try:
            self._restore(timeout_seconds)
        except BaseException:
            self._consumer.close()
            raise
        self._workers.start()
        self._thread.start()

    def join(self) -> None:
        """Wait for the end of the thread, which closes the consumer."""
        if self._thread is not threading.current_thread():
            self._thread.join()

    def _now(self) -> float:
        return self._store.clocks.monotonic()

    def _restore(self, timeout_seconds: float) -> None:
        self._feed.check(self._consumer, timeout_seconds)
        self._look.begin(self._now(), timeout_seconds)
        restored = restore(
            self._feed,
            self._consumer,
            self._decoder,
            lambda: self._store.is_stopped,
            start_seconds=timeout_seconds,
            patience_seconds=self._patience_seconds,
        )
        before = self._store.restore(restored)
        for symbol, view in self._store.views().items():
            if before:
                self.notify(ViewChange(before.get(symbol), view))

    def _run(self) -> None:
        try:
            while not self._store.is_stopped:
                self._follow_until_hole()
        except ClientStopped as error:
            # A callback raised. A program may have nothing else that shows the error.
            if not self._store.is_closed:
                _log.exception("the client has stopped")
            self._store.fail(error)
        except ClientError as error:
            self._store.fail(error)
        except Exception as error:  # noqa: BLE001 -- the thread's outermost loop
            _log.exception("the client has stopped")
            stopped = ClientStopped(f"the client's thread has stopped: {error!r}")
            stopped.__cause__ = error
            self._store.fail(stopped)
        finally:
            self._consumer.close()

    def _follow_until_hole(self) -> None:
        try:
            while not self._store.is_stopped:
                self._step()
        except (EventsMissing, TopicReplaced) as hole:
            if self._on_hole == "raise":
                raise
            _log.warning("restoring the states again: %s", hole)
            self._set_trouble(f"restoring the states again: {hole}")
            self._restore_again()

    def _restore_again(self) -> None:
        pause = threading.Event()
        while not self._store.is_stopped:
            try:
                self._restore(_RESTORE_PAUSE_SECONDS)
            except _HOLES as error:
                self._set_trouble(f"cannot restore the states: {error}")
                pause.wait(_RESTORE_PAUSE_SECONDS)
            else:
                return

    def _step(self) -> None:
        """Read what is there, and look if anything is wrong."""
        for message in self._feed.take(self._consumer, _WAIT_SECONDS):
            for change in self._take(message):
                self.notify(change)
        now = self._now()
        added = self._look.look(now)
        with self._store.writing() as content:
            keeper = content.views.keeper
            if not keeper.has_early:
                content.safe_positions = dict(content.positions)
            for partition in added:
                content.positions[partition] = 0
            gap = keeper.gap(now, self._patience_seconds)
        if gap is not None:
            raise EventsMissing(
                f"event {gap.expected} of {gap.symbol} has not come within "
                f"{self._patience_seconds:g} s, although {gap.seen} has; was the topic "
                f"{self._feed.changes} deleted, or have its records been?",
                {gap.symbol: gap.expected},
            )
        if added:
            beginning = dict.fromkeys(added, ck.OFFSET_BEGINNING)
            self._consumer.incremental_assign(assigned(beginning))
        self._set_trouble(self._trouble())

    def _take(self, message: ck.Message) -> list[ViewChange]:
        """Take a record, and return the views that it replaces."""
        topic, number = partition_of(message)
        is_event = topic == self._feed.changes
        changes: list[ViewChange] = []
        now = self._now()
        if is_end(message) or not self._feed.is_ours(message):
            pass
        elif is_event:
            with located(place_of(message)):
                event = self._decoder.event(value_of(message))
            with self._store.writing() as content:
                changes = content.views.take_event(event, now)
        else:
            with located(place_of(message)):
                state = self._decoder.state(value_of(message))
            with self._store.writing() as content:
                if state.sequence >= content.views.keeper.known.get(state.symbol, 0):
                    content.staleness.note(state)
                    # A connector has written it. The group may have workers of another
                    # protocol, which the look for them does not see.
                    self._workers.deserted_group = None
                changes = content.views.take_state(state, now)
        if is_event:
            after = offset_of(message) if is_end(message) else offset_of(message) + 1
            with self._store.writing() as content:
                content.positions[topic, number] = after
        return changes

    def _trouble(self) -> str | None:
        """Return why nothing arrives, None if all is well."""
        outage = self._feed.outage
        if outage is not None:
            return f"Kafka at {self._feed.bootstrap} does not answer: {outage}"
        group = self._workers.deserted_group
        if group is not None:
            return f"no connector runs: the group {group} has no members"
        return self._store.feed_overdue()

    def _set_trouble(self, trouble: str | None) -> None:
        self._store.trouble = trouble
        self.tick(trouble)
