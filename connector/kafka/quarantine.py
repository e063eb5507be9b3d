"""The topic of rejected entries, as they came.

Entries are written beside the transactions of the shards, by a producer of their own. So
a quarantine topic that is deleted, forbidden or unavailable holds up no event.
"""

from __future__ import annotations

import logging
import time
from functools import partial
from typing import TYPE_CHECKING, Final

import confluent_kafka as ck
from msgspec.structs import replace

from connector.core.model import Value
from connector.kafka.errors import kafka_error, new_client, serve_callbacks, translate
from connector.logs import Bounded

if TYPE_CHECKING:
    from collections.abc import Callable

    from connector.kafka.clients import Clients
    from connector.kafka.names import Topics

_log = logging.getLogger(__name__)

# Cut, so that no response of the upstream can exceed the record limit.
_MAX_RECORD_BYTES: Final = 64 * 1024

# Enough to see the fault of an entry that is in no topic.
_MAX_LOGGED_BYTES: Final = 2_000

# The upstream may repeat a bad entry with every answer: one line a minute is enough.
_LOG_INTERVAL_SECONDS: Final = 60

_CLOSE_SECONDS: Final = 3
# librdkafka gives the entries back at once. This only bounds the wait for it.
_PURGE_SECONDS: Final = 1


class Quarantined(Value, frozen=True):
    """A rejected entry: its symbol, the bytes as they came, and the reason."""

    symbol: str
    raw: bytes
    reason: str
    message: str
    observed_at: int
    request_id: str | None


class Quarantine:
    """Writes rejected entries, and logs each of them with the outcome.

    No call raises, and only `close` blocks. `on_failed` is called for each entry that could
    not be written. Make one call at a time.
    """

    def __init__(
        self, clients: Clients, topics: Topics, on_failed: Callable[[], object]
    ) -> None:
        """Raises ConfigError if librdkafka refuses the settings."""
        self._topic = topics.quarantine
        self._on_failed = on_failed
        self._bounded = Bounded(_LOG_INTERVAL_SECONDS, time.monotonic)
        self._producer = new_client(ck.Producer, clients.quarantine_producer())

    def add(self, feed: str, entry: Quarantined) -> None:
        """Write an entry soon."""
        origin = f"{feed}/{entry.symbol}/{entry.request_id or ''}"
        headers: list[tuple[str, str | bytes | None]] = [
            ("what", "entry"),
            ("where", origin),
            ("why", f"{entry.reason}: {entry.message}"),
            ("size", str(len(entry.raw))),
        ]
        # Entries may be large, and thousands may wait: keep what the log would show of them.
        kept = replace(entry, raw=entry.raw[:_MAX_LOGGED_BYTES])
        try:
            self._producer.produce(
                self._topic,
                entry.raw[:_MAX_RECORD_BYTES],
                entry.symbol.encode(),
                on_delivery=partial(self._on_delivery, feed, kept),
                timestamp=entry.observed_at // 1000,
                headers=headers,
            )
        except BufferError:
            # Kafka has been away for so long that no more entries may wait.
            self._report_failure(feed, entry, "too many entries wait for Kafka")
        except ck.KafkaException as exception:
            # librdkafka may know already that the topic does not exist.
            self._fail(feed, entry, kafka_error(exception))

    def serve_callbacks(self) -> None:
        """Learn what became of the entries. Call every second."""
        serve_callbacks(self._producer)

    def close(self) -> None:
        """Wait a few seconds for the entries that are not written yet, and log the others."""
        left = self._producer.flush(_CLOSE_SECONDS)
        if left:
            self._producer.purge()
            self._producer.flush(_PURGE_SECONDS)

    def _on_delivery(
        self, feed: str, entry: Quarantined, error: ck.KafkaError | None, _: ck.Message
    ) -> None:
        if error is not None:
            self._fail(feed, entry, error)
            return
        suppressed = self._bounded.admit((feed, entry.symbol, entry.reason))
        if suppressed is not None:
            fields = _fields(feed, entry, suppressed)
            _log.warning("entry quarantined", extra=fields)

    def _fail(self, feed: str, entry: Quarantined, error: ck.KafkaError) -> None:
        reason = translate(error, f"writing to topic {self._topic}")
        self._report_failure(feed, entry, str(reason))

    def _report_failure(self, feed: str, entry: Quarantined, error: str) -> None:
        self._on_failed()
        suppressed = self._bounded.admit((feed, entry.symbol, entry.reason, error))
        if suppressed is None:
            return
        # The log is the only place that still has the entry.
        text = entry.raw[:_MAX_LOGGED_BYTES].decode(errors="replace")
        fields = _fields(feed, entry, suppressed)
        fields |= {"error": error, "entry": text}
        _log.error("cannot quarantine an entry", extra=fields)


def _fields(feed: str, entry: Quarantined, suppressed: int) -> dict[str, object]:
    return {
        "feed": feed,
        "symbol": entry.symbol,
        "request_id": entry.request_id,
        "reason": entry.reason,
        "fault": entry.message,
        "not_logged_before": suppressed,
    }
