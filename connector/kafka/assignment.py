"""Which shards are ours: a consumer group on the compacted topics, used for assignment only.

Its messages are never read: every partition is paused as soon as it is assigned. It runs in a thread of its own,
since librdkafka calls back only from inside `poll`.
"""

from __future__ import annotations

import logging
import threading
import time
from typing import TYPE_CHECKING, Final, Protocol

import confluent_kafka as ck

from connector.errors import KafkaError, KafkaUnavailable
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
_REPORT_SECONDS: Final = 60
_LOOK_SECONDS: Final = 30


class Listener(Protocol):
    """What is told of the assignment, from the group's thread."""

    def assigned(self, shards: list[ShardId]) -> None:
        """These are ours from now on."""

    def revoked(self, shards: list[ShardId]) -> None:
        """These go to another worker as soon as this call returns: finish them."""

    def lost(self, shards: list[ShardId]) -> None:
        """These belong to others already."""

    def failed(self, error: Exception) -> None:
        """Membership has ended by a defect."""


class Group:
    """Membership in the group. `topics` maps each compacted topic to its feed; `polled` is called at every turn.

    Raises ConfigError where librdkafka refuses the settings.
    """

    def __init__(
        self,
        settings: Settings,
        topics: Mapping[str, str],
        listener: Listener,
        polled: Callable[[], None],
    ) -> None:
        self._settings = settings
        self._topics = topics
        self._listener = listener
        self._polled = polled
        self._stopping = threading.Event()
        self._answered = threading.Event()
        self._last_error: KafkaError | None = None
        self.absent: list[str] = []
        self._bounded = Bounded(_REPORT_SECONDS, time.monotonic)
        self._thread = threading.Thread(target=self._run, name="group", daemon=True)
        self._consumer = new_client(ck.Consumer, settings)

    @property
    def joined(self) -> bool:
        """Whether the group has told us what is ours, be it nothing, and has not thrown us out since."""
        return self._answered.is_set()

    def start(self) -> None:
        """Begin to join."""
        self._thread.start()

    def wait_joined(self) -> None:
        """Wait a while for the group's first word. Raises KafkaUnavailable where there was none."""
        if not self._answered.wait(_FIRST_JOIN_SECONDS):
            raise self._last_error or KafkaUnavailable(
                "joining the group: no answer yet"
            )

    def stop(self, timeout_seconds: float) -> bool:
        """Leave, which hands our shards over at once. False where that was not done in time."""
        self._stopping.set()
        if self._thread.ident is not None:
            self._thread.join(timeout_seconds)
        return not self._thread.is_alive()

    def _run(self) -> None:
        try:
            while not self._stopping.is_set():
                try:
                    self._poll(self._consumer)
                except ck.KafkaException as exception:
                    self._report(kafka_error(exception))
                self._consumer.close()
                self._answered.clear()
                if not self._stopping.wait(_RETRY_SECONDS):
                    self._consumer = new_client(ck.Consumer, self._settings)
        except Exception as error:  # noqa: BLE001 -- the thread's outermost loop: whoever waits for it is told
            self._listener.failed(error)

    def _poll(self, consumer: ck.Consumer) -> None:
        consumer.subscribe(
            list(self._topics),
            on_assign=self._on_assign,
            on_revoke=self._on_revoke,
            on_lost=self._on_lost,
        )
        looked_at = time.monotonic()
        while not self._stopping.is_set():
            self._turn(consumer)
            if time.monotonic() - looked_at > _LOOK_SECONDS:
                self._look(consumer)
                looked_at = time.monotonic()
        # Leaving while the first join is under way would leave its shards dark for a session time-out.
        for _ in range(int(_FIRST_JOIN_SECONDS / _POLL_SECONDS)):
            if self._answered.is_set():
                break
            self._turn(consumer)

    def _turn(self, consumer: ck.Consumer) -> None:
        message = consumer.poll(_POLL_SECONDS)
        self._polled()
        if message is not None and (error := message.error()) is not None:
            self._report(error)

    def _look(self, consumer: ck.Consumer) -> None:
        """Whether the topics are still there: a group on topics that are gone is a quiet one."""
        try:
            present = consumer.list_topics(timeout=_FIRST_JOIN_SECONDS).topics
        except ck.KafkaException:
            return  # the broker is away, which others notice
        self.absent = sorted(self._topics.keys() - present.keys())
        if self.absent:
            _log.error(
                "topics are gone; a restart makes them anew",
                extra={"topics": ", ".join(self.absent)},
            )

    def _report(self, error: ck.KafkaError) -> None:
        self._last_error = translate(error, "being a member of the group")
        if self._bounded.admit(error.code()) is not None:
            _log.warning(
                "the group is in trouble", extra={"error": str(self._last_error)}
            )

    def _on_assign(
        self, consumer: ck.Consumer, partitions: list[ck.TopicPartition]
    ) -> None:
        for partition in partitions:
            partition.offset = ck.OFFSET_END
        consumer.incremental_assign(partitions)
        if partitions:
            consumer.pause(partitions)
        self._listener.assigned(self._shards(partitions))
        self._answered.set()

    def _on_revoke(
        self, consumer: ck.Consumer, partitions: list[ck.TopicPartition]
    ) -> None:
        self._listener.revoked(self._shards(partitions))
        consumer.incremental_unassign(partitions)

    def _on_lost(
        self, consumer: ck.Consumer, partitions: list[ck.TopicPartition]
    ) -> None:
        self._answered.clear()
        self._listener.lost(self._shards(partitions))
        consumer.incremental_unassign(partitions)

    def _shards(self, partitions: list[ck.TopicPartition]) -> list[ShardId]:
        return [
            ShardId(self._topics[partition.topic], partition.partition)
            for partition in partitions
        ]
