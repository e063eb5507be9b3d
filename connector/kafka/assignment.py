"""Membership in a consumer group, which assigns the shards to the workers.

The group's messages are never read: every partition is paused as soon as it is
assigned. The group has its own thread, because librdkafka runs its callbacks only
inside `poll`.
"""

from __future__ import annotations

import logging
import threading
import time
from typing import TYPE_CHECKING, Final, Protocol

import confluent_kafka as ck

from connector.errors import KafkaError, KafkaUnavailable, SetupError
from connector.kafka.errors import kafka_error, new_client, translate
from connector.kafka.names import ShardId
from connector.logs import Bounded

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from connector.kafka.clients import Settings

_log = logging.getLogger(__name__)

_POLL_SECONDS: Final = 0.5
_FIRST_JOIN_SECONDS: Final = 3
_RETRY_SECONDS: Final = 5
# Each kind of error is logged once in this time.
_REPORT_SECONDS: Final = 60


class Listener(Protocol):
    """Is told about the assignment, in the group's thread."""

    def assigned(self, shards: list[ShardId]) -> None:
        """Start these shards: they are ours now."""

    def revoked(self, shards: list[ShardId]) -> None:
        """Finish these shards: another worker gets them when this call returns."""

    def lost(self, shards: list[ShardId]) -> None:
        """Abandon these shards: other workers already have them."""

    def can_serve(self) -> bool:
        """Return False if no shard can be served now. Called after every poll."""

    def failed(self, error: Exception) -> None:
        """Handle the end of the membership, by a defect or because of the setup."""


class Group:
    """Membership in the group.

    `topics` maps each compacted topic to its feed. `polled` is called after each poll, and
    `answered` when a broker has answered.
    """

    def __init__(
        self,
        settings: Settings,
        topics: Mapping[str, str],
        listener: Listener,
        polled: Callable[[], None],
        answered: Callable[[], None] = lambda: None,
    ) -> None:
        """Raises ConfigError if librdkafka refuses the settings."""
        self._settings = settings
        self._topics = topics
        self._listener = listener
        self._polled = polled
        self._answered = answered
        self._stopping = threading.Event()
        self._joined = threading.Event()
        self._last_error: KafkaError | None = None
        self._bounded = Bounded(_REPORT_SECONDS, time.monotonic)
        self._thread = threading.Thread(target=self._run, name="group", daemon=True)
        self._consumer = new_client(ck.Consumer, settings)

    @property
    def joined(self) -> bool:
        """Return True if the group has assigned us shards, or none, and not expelled us."""
        return self._joined.is_set()

    def start(self) -> None:
        """Begin to join."""
        self._thread.start()

    def wait_joined(self) -> None:
        """Wait for the first assignment. Raises KafkaUnavailable if there is none."""
        if not self._joined.wait(_FIRST_JOIN_SECONDS):
            error = self._last_error
            raise error or KafkaUnavailable("joining the group: no answer yet")

    def stop(self, timeout_seconds: float) -> bool:
        """Leave the group, which hands our shards over at once.

        Returns False if that takes longer than the time-out.
        """
        self._stopping.set()
        if self._thread.ident is not None:
            self._thread.join(timeout_seconds)
        return not self._thread.is_alive()

    def _run(self) -> None:
        try:
            while not self._stopping.is_set():
                try:
                    self._follow(self._consumer)
                except ck.KafkaException as exception:
                    self._report(kafka_error(exception))

                # Leave the group. After an error, join again with a new consumer.
                self._consumer.close()
                self._joined.clear()
                self._join_again()
        except Exception as error:  # noqa: BLE001 -- the thread's outermost loop
            self._listener.failed(error)

    def _follow(self, consumer: ck.Consumer) -> None:
        """Follow the assignment until `stop`, or until no shard can be served."""
        consumer.subscribe(
            list(self._topics),
            on_assign=self._on_assign,
            on_revoke=self._on_revoke,
            on_lost=self._on_lost,
        )
        while not self._stopping.is_set():
            self._poll(consumer)
            if not self._listener.can_serve():
                return

        # A member that leaves before its first join completes leaves its shards without
        # an owner for a session time-out.
        for _ in range(int(_FIRST_JOIN_SECONDS / _POLL_SECONDS)):
            if self._joined.is_set():
                break
            self._poll(consumer)

    def _join_again(self) -> None:
        """Wait, and create a new consumer. A stop ends the wait."""
        while True:
            self._wait_to_join_again()
            if self._stopping.is_set():
                return
            try:
                self._consumer = new_client(ck.Consumer, self._settings)
            except KafkaUnavailable as error:
                # There is no token for it at the moment, or its certificate is being replaced.
                self._last_error = error
                _log.warning("cannot join the group again", extra={"error": str(error)})
            else:
                return

    def _wait_to_join_again(self) -> None:
        """Wait a moment, and until shards can be served. A stop ends the wait."""
        earliest = time.monotonic() + _RETRY_SECONDS
        while not self._stopping.wait(_POLL_SECONDS):
            self._polled()
            can_serve = self._listener.can_serve()
            if can_serve and time.monotonic() >= earliest:
                return

    def _poll(self, consumer: ck.Consumer) -> None:
        message = consumer.poll(_POLL_SECONDS)
        self._polled()
        error = None if message is None else message.error()
        if error is not None:
            self._report(error)

    def _report(self, error: ck.KafkaError) -> None:
        self._last_error = translate(error, "being a member of the group")
        # The brokers refuse every attempt until a setting changes.
        if isinstance(self._last_error, SetupError):
            raise self._last_error
        if self._bounded.admit(error.code()) is not None:
            _log.warning(
                "consumer group reports an error",
                extra={"error": str(self._last_error)},
            )

    def _on_assign(
        self, consumer: ck.Consumer, partitions: list[ck.TopicPartition]
    ) -> None:
        # Nothing is read: the shards restore their states with other consumers.
        for partition in partitions:
            partition.offset = ck.OFFSET_END
        consumer.incremental_assign(partitions)
        # Cooperative rebalances call this with an empty list, too.
        if partitions:
            consumer.pause(partitions)
        self._listener.assigned(self._shards(partitions))
        self._joined.set()
        self._answered()

    def _on_revoke(
        self, consumer: ck.Consumer, partitions: list[ck.TopicPartition]
    ) -> None:
        # The next owner starts when these are unassigned: finish them before.
        self._listener.revoked(self._shards(partitions))
        consumer.incremental_unassign(partitions)

    def _on_lost(
        self, consumer: ck.Consumer, partitions: list[ck.TopicPartition]
    ) -> None:
        # The group has expelled us: other workers may already own these.
        self._joined.clear()
        self._listener.lost(self._shards(partitions))
        consumer.incremental_unassign(partitions)

    def _shards(self, partitions: list[ck.TopicPartition]) -> list[ShardId]:
        shards = []
        for partition in partitions:
            feed = self._topics[partition.topic]
            shards.append(ShardId(feed, partition.partition))
        return shards
