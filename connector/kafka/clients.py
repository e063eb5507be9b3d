"""The settings of each kind of client.

Exactly-once publishing rests on some of them. Those come last in each dictionary, so
that no configured setting overrides them. Names and meanings: librdkafka's
CONFIGURATION.md.
"""

from __future__ import annotations

import logging
import re
import time
from typing import TYPE_CHECKING, Any, Final

from connector.kafka.reachability import Reachability
from connector.kafka.tokens import Tokens
from connector.logs import Bounded

if TYPE_CHECKING:
    from collections.abc import Callable

    from confluent_kafka import KafkaError

    from connector.config.model import Kafka

Settings = dict[str, Any]

# A dead worker's shards wait this long for their next owner.
SESSION_TIMEOUT_SECONDS: Final = 6

# Longer than closing the shards, which happens inside `poll`.
MAX_POLL_INTERVAL_SECONDS: Final = 60

# Members learn of a rebalance with a heartbeat: a clean hand-over takes about one.
_HEARTBEAT_MS: Final = 1000

# librdkafka's default of 10 s would lengthen every outage of a broker.
_RECONNECT_BACKOFF_MAX_MS: Final = 2_000
# A new producer makes its second connection, the one that stays, only after half of this.
#
# For producers only: while no broker can be reached, a consumer connects again after half of
# this, 70 times a second instead of 20, and takes 5 % of a core.
_PRODUCER_RECONNECT_BACKOFF_MS: Final = 20
_STATISTICS_INTERVAL_SECONDS: Final = 10

# Brokers report the end of a partition after this wait. The default is 500.
_FETCH_WAIT_MAX_MS: Final = 20

# Eight symbols a transaction under load take 14 ms instead of 46.
_RETRY_BACKOFF_MS: Final = 5

# A successor does not wait for it: it fences the producer. Brokers may allow less.
_TRANSACTION_TIMEOUT_MS: Final = 60_000

# librdkafka believes for this long that a topic it cannot find was just created. With its
# default of 30 s, a transaction with a deleted topic times out before that.
_TOPIC_PROPAGATION_MS: Final = 5_000

# Rejected entries wait this long for Kafka, in at most this much memory.
_QUARANTINE_TIMEOUT_MS: Final = 300_000
_QUARANTINE_QUEUE_KIB: Final = 8 * 1024
# Small entries take a kilobyte each, which librdkafka does not count.
_QUARANTINE_QUEUE_MESSAGES: Final = 10_000
_QUARANTINE_METADATA_MS: Final = 10_000

# A broker takes milliseconds. This leaves time for a pause of its garbage collector.
PROBE_TIMEOUT_SECONDS: Final = 3

# Settings that only a member of a group has.
_GROUP_ONLY: Final = frozenset(
    {
        "group.protocol",
        "session.timeout.ms",
        "heartbeat.interval.ms",
        "max.poll.interval.ms",
    }
)

# Consumers warn about them.
_PRODUCER_ONLY: Final = frozenset({"transaction.timeout.ms"})

_MANUAL_COMMIT: Final[Settings] = {
    "enable.auto.commit": False,
    "enable.auto.offset.store": False,
}

_LOG_INTERVAL_SECONDS: Final = 60
_NAMES_AND_NUMBERS: Final = re.compile(r"\[.*?\]|\d+")
# librdkafka's name of such lines.
_CONNECTION_FAILED: Final = "FAIL "

_connector_log = logging.getLogger("connector")


class Clients:
    """Makes the settings of every client from one configuration.

    `on_error(name)` is called with librdkafka's name of each error it reports.
    `on_statistics(json)` is called by the group's consumer every ten seconds. Both run
    in the thread that polls the client.
    """

    def __init__(
        self,
        kafka: Kafka,
        on_error: Callable[[str], None] = lambda _: None,
        on_statistics: Callable[[str], None] | None = None,
    ) -> None:
        """Raises ConfigError if the function of `kafka.oauth_cb` cannot be imported."""
        self._kafka = kafka
        self._on_error = on_error
        self._on_statistics = on_statistics
        self._tokens: Tokens | None = None
        if kafka.oauth_cb is not None:
            self._tokens = Tokens(kafka.oauth_cb)
        self.reachability = Reachability()

    @property
    def last_error(self) -> KafkaError | None:
        """The error that explains why no broker answers, None if one has answered since."""
        return self.reachability.last_error

    @property
    def servers(self) -> str:
        """The bootstrap servers."""
        return self._kafka.bootstrap_servers

    def admin(self) -> Settings:
        """Return the settings for topics and metadata."""
        return self._common("admin", _GROUP_ONLY)

    def group(self) -> Settings:
        """Return the settings of the consumer that learns which shards are ours."""
        settings: Settings = {
            "max.poll.interval.ms": MAX_POLL_INTERVAL_SECONDS * 1000,
        }
        if self._on_statistics is not None:
            settings["statistics.interval.ms"] = _STATISTICS_INTERVAL_SECONDS * 1000
            settings["stats_cb"] = self._on_statistics

        # With `group.protocol=consumer` (KIP-848) the brokers decide about sessions, and
        # librdkafka refuses these settings, ours as well as configured ones.
        if self._kafka.client.get("group.protocol") == "consumer":
            settings |= self._common("group", _PRODUCER_ONLY)
        else:
            settings["session.timeout.ms"] = SESSION_TIMEOUT_SECONDS * 1000
            settings["heartbeat.interval.ms"] = _HEARTBEAT_MS
            settings |= self._common("group", _PRODUCER_ONLY)
            settings["partition.assignment.strategy"] = "cooperative-sticky"

        # There is no `group.instance.id`: with one, a worker that stops would not leave
        # the group, and its shards would wait for a session time-out.
        settings |= _MANUAL_COMMIT
        settings["group.id"] = self._kafka.group_id
        settings["error_cb"] = self._report
        return settings

    def reader(self, isolation: str) -> Settings:
        """Return the settings of a consumer that assigns itself partitions to read."""
        return {
            "fetch.wait.max.ms": _FETCH_WAIT_MAX_MS,
            **self._common(f"reader-{isolation}", _GROUP_ONLY | _PRODUCER_ONLY),
            **_MANUAL_COMMIT,
            "enable.partition.eof": True,
            "isolation.level": isolation,
            "auto.offset.reset": "error",
            # librdkafka requires a group, which this consumer never joins.
            "group.id": self._kafka.group_id,
            # Looking for a deleted topic must not create it.
            "allow.auto.create.topics": False,
        }

    def follower(self) -> Settings:
        """Return the settings of a consumer that reads all the time."""
        return {**self.reader("read_committed"), "error_cb": self._report}

    def probe(self) -> Settings:
        """Return the settings of a consumer that only asks for metadata."""
        return {
            **self._common("probe", _GROUP_ONLY | _PRODUCER_ONLY),
            **_MANUAL_COMMIT,
            # librdkafka requires a group, which this consumer never joins.
            "group.id": self._kafka.group_id,
            "allow.auto.create.topics": False,
            # It then leaves a broker that hangs, so that the next question goes to another.
            "socket.timeout.ms": PROBE_TIMEOUT_SECONDS * 1000,
            "error_cb": self._report,
        }

    def producer(self, transactional_id: str, *, in_batches: bool = True) -> Settings:
        """Return the settings of a shard's producer.

        Its transactional id fences the shard's previous owners. Unless it may send records
        `in_batches`, each record is a batch of its own.
        """
        settings = {
            # A commit flushes: waiting for a fuller batch would only delay it.
            "linger.ms": 0,
            "reconnect.backoff.ms": _PRODUCER_RECONNECT_BACKOFF_MS,
            "retry.backoff.ms": _RETRY_BACKOFF_MS,
            "topic.metadata.propagation.max.ms": _TOPIC_PROPAGATION_MS,
            "transaction.timeout.ms": _TRANSACTION_TIMEOUT_MS,
            **self._common(f"shard-{transactional_id}", _GROUP_ONLY),
            # Exactly-once publishing rests on the following.
            "transactional.id": transactional_id,
            "enable.idempotence": True,
            "acks": "all",
            "partitioner": "murmur2_random",
        }
        if not in_batches:
            settings["batch.num.messages"] = 1
        return settings

    def quarantine_producer(self) -> Settings:
        """Return the settings of the producer of rejected entries."""
        return {
            # Short, so that an operator who creates the topic again waits for nothing.
            "topic.metadata.refresh.interval.ms": _QUARANTINE_METADATA_MS,
            "topic.metadata.propagation.max.ms": _TOPIC_PROPAGATION_MS,
            **self._common("quarantine", _GROUP_ONLY),
            "message.timeout.ms": _QUARANTINE_TIMEOUT_MS,
            "queue.buffering.max.kbytes": _QUARANTINE_QUEUE_KIB,
            "queue.buffering.max.messages": _QUARANTINE_QUEUE_MESSAGES,
            "acks": "all",
            "partitioner": "murmur2_random",
        }

    def _common(self, role: str, foreign: frozenset[str]) -> Settings:
        """Return the settings of every client, without the configured `foreign` ones."""
        settings: Settings = {
            "client.id": f"gex-connector-{role}",
            "reconnect.backoff.max.ms": _RECONNECT_BACKOFF_MAX_MS,
        }
        for name, value in self._kafka.client.items():
            if name not in foreign:
                settings[name] = value
        if self._kafka.sasl_password:
            settings["sasl.password"] = self._kafka.sasl_password.reveal()
        if self._tokens is not None:
            settings["oauth_cb"] = self._tokens
        settings["bootstrap.servers"] = self._kafka.bootstrap_servers
        settings["logger"] = _logger()
        settings["error_cb"] = self._report_of_idle
        return settings

    def _report(self, error: KafkaError) -> None:
        """Note an error of a client that is always in use."""
        self.reachability.failed(error)
        self._on_error(error.name())

    def _report_of_idle(self, error: KafkaError) -> None:
        """Note an error of a client that may be idle for hours."""
        self.reachability.failed(error, is_in_use=False)
        self._on_error(error.name())


class _FewLines(logging.Filter):
    """Suppress lines that say the same: each client logs every attempt to connect."""

    def __init__(self) -> None:
        super().__init__()
        self._bounded = Bounded(_LOG_INTERVAL_SECONDS, time.monotonic)

    def filter(self, record: logging.LogRecord) -> bool:
        message = record.getMessage()
        # Each of these comes as an error, too: see `Reachability`.
        if message.startswith(_CONNECTION_FAILED):
            return _connector_log.isEnabledFor(logging.DEBUG)
        # Clients, threads and brokers differ in names and numbers.
        same_for_all = _NAMES_AND_NUMBERS.sub("", message)
        return self._bounded.admit(same_for_all) is not None


def _logger() -> logging.Logger:
    logger = logging.getLogger("librdkafka")
    has_filter = any(isinstance(known, _FewLines) for known in logger.filters)
    if not has_filter:
        logger.addFilter(_FewLines())
    return logger
