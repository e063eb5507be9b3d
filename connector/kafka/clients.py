"""What each kind of client is told. What exactly-once rests on stands last, so that nothing overrides it.

Names and meanings: librdkafka's CONFIGURATION.md.
"""

from __future__ import annotations

import logging
import re
import time
from typing import TYPE_CHECKING, Any, Final

from connector.logs import Bounded

if TYPE_CHECKING:
    from collections.abc import Callable

    from confluent_kafka import KafkaError

    from connector.config.model import Kafka

_NUMBERS: Final = re.compile(r"\d+")
SESSION_TIMEOUT_SECONDS: Final = 6
MAX_POLL_INTERVAL_SECONDS: Final = 60
_STATISTICS_INTERVAL_SECONDS: Final = 10

_MEMBERSHIP: Final = frozenset(
    {
        "group.protocol",
        "session.timeout.ms",
        "heartbeat.interval.ms",
        "max.poll.interval.ms",
    }
)
"""Settings that only a member of a group has."""

Settings = dict[str, Any]


class Clients:
    """Makes the settings of every client from one configuration.

    `on_error(name)` is called with librdkafka's name of each error it reports, `on_statistics(json)` by the group's
    client every ten seconds; both from whatever thread polls the client.
    """

    def __init__(
        self,
        kafka: Kafka,
        on_error: Callable[[str], None] = lambda _: None,
        on_statistics: Callable[[str], None] | None = None,
    ) -> None:
        self._kafka = kafka
        self._on_error = on_error
        self._on_statistics = on_statistics
        self.last_error: KafkaError | None = None

    def admin(self) -> Settings:
        """For topics and metadata."""
        return self._common("admin")

    def group(self) -> Settings:
        """For the consumer that only learns which shards are ours."""
        classic: Settings = {
            "session.timeout.ms": SESSION_TIMEOUT_SECONDS * 1000,
            "heartbeat.interval.ms": 1000,
        }
        common = {
            "max.poll.interval.ms": MAX_POLL_INTERVAL_SECONDS * 1000,
            **self._common("group"),
        }
        if (
            common.get("group.protocol") == "consumer"
        ):  # KIP-848: these are the broker's
            common = {
                name: value for name, value in common.items() if name not in classic
            }
        else:
            common = {
                **classic,
                **common,
                "partition.assignment.strategy": "cooperative-sticky",
            }
        return {
            **common,
            **self._consumer(),
            "group.id": self._kafka.group_id,
        }

    def reader(self, isolation: str) -> Settings:
        """For a consumer that reads what it assigns itself, up to the end; it belongs to no group."""
        return {
            **self._common(f"reader-{isolation}"),
            "fetch.wait.max.ms": 20,
            **self._consumer(),
            "enable.partition.eof": True,
            "isolation.level": isolation,
            "auto.offset.reset": "error",
            "group.id": self._kafka.group_id,  # librdkafka wants one; it is never joined
        }

    def producer(self, transactional_id: str) -> Settings:
        """For a shard's producer, whose transactional id shuts out its predecessors."""
        return {
            "linger.ms": 0,
            "retry.backoff.ms": 5,
            **self._common(f"shard-{transactional_id}"),
            "transaction.timeout.ms": 60_000,  # takeover does not wait for it
            "transactional.id": transactional_id,
            "enable.idempotence": True,
            "acks": "all",
            "partitioner": "murmur2_random",
        }

    def _error(self, error: KafkaError) -> None:
        self.last_error = error
        self._on_error(error.name())

    def _consumer(self) -> Settings:
        return {"enable.auto.commit": False, "enable.auto.offset.store": False}

    def _common(self, role: str) -> Settings:
        given = {
            name: value
            for name, value in self._kafka.client.items()
            if role == "group" or name not in _MEMBERSHIP
        }
        settings: Settings = {
            "client.id": f"gex-connector-{role}",
            "reconnect.backoff.max.ms": 2_000,
            **given,
            "bootstrap.servers": self._kafka.bootstrap_servers,
            "logger": _logger(),
            "error_cb": self._error,
        }
        if self._on_statistics is not None and role == "group":
            settings |= {
                "statistics.interval.ms": _STATISTICS_INTERVAL_SECONDS * 1000,
                "stats_cb": self._on_statistics,
            }
        return settings


class _OnceAMinute(logging.Filter):
    """librdkafka says the same at every try to connect."""

    def __init__(self) -> None:
        super().__init__()
        self._bounded = Bounded(60, time.monotonic)

    def filter(self, record: logging.LogRecord) -> bool:
        return self._bounded.admit(_NUMBERS.sub("", record.getMessage())) is not None


def _logger() -> logging.Logger:
    logger = logging.getLogger("librdkafka")
    if not any(isinstance(one, _OnceAMinute) for one in logger.filters):
        logger.addFilter(_OnceAMinute())
    return logger
