"""Looks every few seconds if the topics of a feed are still the same.

librdkafka is silent if a topic is deleted. If it is created again, it goes on reading at
the old offset, in the middle of the new records. Only the topic's id tells.
"""

from __future__ import annotations

import logging
import time
from typing import TYPE_CHECKING, Any, Final

import confluent_kafka as ck
from confluent_kafka.admin import AdminClient

from connector.client.errors import TopicReplaced

if TYPE_CHECKING:
    from collections.abc import Mapping
    from concurrent.futures import Future

    from connector.client.kafka import Feed, Partition

_log = logging.getLogger("connector.client")

_INTERVAL_SECONDS: Final = 3.0
_REQUEST_SECONDS: Final = 4.0
# One broker may not know the topics for a moment after its start.
_MISSES: Final = 2
_TIMED_OUT: Final = ck.KafkaError._TIMED_OUT  # noqa: SLF001 -- librdkafka's name
_UNKNOWN_TOPIC: Final = ck.KafkaError.UNKNOWN_TOPIC_OR_PART
# librdkafka warns of every setting of consumers that an admin client has.
_ERRORS_ONLY: Final = {"log_level": 3}


class TopicLook:
    """Asks for the ids and partitions of the topics. Does not block after the start."""

    def __init__(self, feed: Feed) -> None:
        self._feed = feed
        self.admin = AdminClient({**feed.settings(), **_ERRORS_ONLY})
        self._asked: dict[str, Future[Any]] = {}
        self._asked_at = 0.0
        self._ids: dict[str, str] = {}
        self._misses: dict[str, int] = {}
        self.partitions: dict[str, int] = {}

    def begin(self, now: float, timeout_seconds: float) -> None:
        """Learn the present ids, and wait for them. Call before anything is read.

        Asks again until the time-out if a request has no answer in time.
        """
        self._ids = {}
        self._misses = {}
        deadline = time.monotonic() + timeout_seconds
        errors = self._learn(now)
        while _has_timed_out(errors) and time.monotonic() < deadline:
            errors = self._learn(now)
        for topic, error in errors.items():
            # Without an id, a new topic of the same name is noticed by a gap only.
            _log.warning("cannot ask for the id of %s: %s", topic, error)

    def _learn(self, now: float) -> dict[str, Exception]:
        """Learn the ids and partitions, and return the errors by topic."""
        self._ask(now)
        errors: dict[str, Exception] = {}
        for topic, future in self._asked.items():
            try:
                found = future.result(_REQUEST_SECONDS)
            except (ck.KafkaException, TimeoutError) as error:
                errors[topic] = error
                continue
            self._ids[topic] = str(found.topic_id)
            self.partitions[topic] = len(found.partitions)
        self._asked = {}
        return errors

    def look(self, now: float) -> list[Partition]:
        """Return the partitions that were added. Raises TopicReplaced."""
        added: list[Partition] = []
        if not self._asked:
            if now - self._asked_at > _INTERVAL_SECONDS:
                self._ask(now)
            return added
        if not all(future.done() for future in self._asked.values()):
            return added
        answers, self._asked = self._asked, {}
        for topic, future in answers.items():
            try:
                found = future.result(0)
            except ck.KafkaException as exception:
                self._miss(topic, exception.args[0])
                continue
            self._misses[topic] = 0
            self._feed.last_error = self._feed.unanswered = None
            self._compare_id(topic, str(found.topic_id))
            before = self.partitions.get(topic, len(found.partitions))
            now_there = len(found.partitions)
            self.partitions[topic] = max(before, now_there)
            added += [(topic, number) for number in range(before, now_there)]
        return added

    def _ask(self, now: float) -> None:
        self._asked_at = now
        # Runs the callbacks that wait in the client.
        self.admin.poll(0)
        topics = [self._feed.changes, self._feed.current]
        self._asked = self.admin.describe_topics(
            ck.TopicCollection(topics), request_timeout=_REQUEST_SECONDS
        )

    def _miss(self, topic: str, error: ck.KafkaError) -> None:
        if error.code() != _UNKNOWN_TOPIC:
            self._feed.unanswered = error
            return
        self._misses[topic] = self._misses.get(topic, 0) + 1
        if self._misses[topic] >= _MISSES:
            raise TopicReplaced(
                f"topic {topic} was deleted; restart the connector, which creates it, "
                'then this program, or pass on_hole="restore"'
            )

    def _compare_id(self, topic: str, found: str) -> None:
        known = self._ids.setdefault(topic, found)
        if known != found:
            raise TopicReplaced(
                f"topic {topic} was deleted and created again, so its events begin "
                "again; start again from the present states, without stored sequences, "
                'or pass on_hole="restore"'
            )


def _has_timed_out(errors: Mapping[str, Exception]) -> bool:
    for error in errors.values():
        if isinstance(error, TimeoutError) or error.args[0].code() == _TIMED_OUT:
            return True
    return False
