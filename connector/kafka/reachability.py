"""Says in the log when Kafka cannot be reached, and when it can be reached again."""

from __future__ import annotations

import logging
import threading
import time
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Final

from confluent_kafka import KafkaError

from connector.logs import Bounded

if TYPE_CHECKING:
    from collections.abc import Callable

_log = logging.getLogger(__name__)

_ALL_BROKERS_DOWN: Final = KafkaError._ALL_BROKERS_DOWN  # noqa: SLF001 -- librdkafka's name
# An outage, or a failing broker, is named again after this time.
_REPEAT_SECONDS: Final = 60
# If all brokers are away, librdkafka says so right after the error of the last one.
_PATIENCE_SECONDS: Final = 1


class Reachability:
    """Makes one line of the errors of all clients, brokers and attempts to connect.

    Every method may be called from any thread.
    """

    def __init__(self, clock: Callable[[], float] = time.time) -> None:
        """`clock` returns seconds since the epoch."""
        self.unreachable_since: float | None = None
        """When the brokers of a client were last reached, None while they can be."""
        self._clock = clock
        self._lock = threading.Lock()
        self._bounded = Bounded(_REPEAT_SECONDS, clock)
        self._failing_since: float | None = None
        self._error = ""
        self._reported_at = 0.0
        self._unreported: tuple[float, KafkaError] | None = None

    def failed(self, error: KafkaError) -> None:
        """Note an error that a client reports. Log it if no broker is left."""
        if error.fatal():
            # A fenced producer, most often, which its shard reports.
            return
        with self._lock:
            now = self._clock()
            if self._failing_since is None:
                self._failing_since = now
            if error.code() != _ALL_BROKERS_DOWN:
                self._error = error.str()
                self._unreported = now, error
            elif self.unreachable_since is None:
                # It names no cause. The errors before it do.
                self._error = self._error or error.str()
                self.unreachable_since = self._failing_since
                self._report("Kafka is unreachable", now)

    def reached(self) -> None:
        """Note that a broker has answered."""
        # Called with every commit, so look without the lock first.
        if self._failing_since is None:
            return
        with self._lock:
            since = self.unreachable_since
            self.unreachable_since = None
            self._failing_since = None
            self._error = ""
            if since is not None:
                # It was part of the outage.
                self._unreported = None
        if since is not None:
            fields = {"unreachable_seconds": round(self._clock() - since, 1)}
            _log.warning("Kafka is reachable again", extra=fields)

    def tick(self) -> None:
        """Log what is due. Call it once a second."""
        with self._lock:
            now = self._clock()
            if self.unreachable_since is not None:
                self._unreported = None
                if now - self._reported_at >= _REPEAT_SECONDS:
                    self._report("Kafka is still unreachable", now)
            elif self._unreported is not None:
                self._report_broker(now)

    def _report(self, message: str, now: float) -> None:
        self._reported_at = now
        since = datetime.fromtimestamp(self.unreachable_since or now, UTC)
        fields = {"since": f"{since:%Y-%m-%dT%H:%M:%SZ}", "error": self._error}
        _log.error(message, extra=fields)

    def _report_broker(self, now: float) -> None:
        """Log the failure of one broker of several, which the others survive."""
        if self._unreported is None:
            return
        failed_at, error = self._unreported
        if now - failed_at < _PATIENCE_SECONDS:
            return
        self._unreported = None
        if self._bounded.admit(error.code()) is not None:
            fields = {"error": error.str()}
            _log.warning("a connection to Kafka failed", extra=fields)
