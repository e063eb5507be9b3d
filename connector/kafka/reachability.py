"""Knows if Kafka can be reached, and says in the log when that changes."""

from __future__ import annotations

import logging
import threading
import time
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Final

from confluent_kafka import KafkaError

from connector.core.model import MICROS, Value
from connector.kafka.refusals import Refusal, refusal_of
from connector.logs import Bounded

if TYPE_CHECKING:
    from collections.abc import Callable

_log = logging.getLogger(__name__)

_ALL_BROKERS_DOWN: Final = KafkaError._ALL_BROKERS_DOWN  # noqa: SLF001 -- librdkafka's name
# The line about an outage waits this long for its cause.
_CAUSE_SECONDS: Final = 2
# An outage, or a failing broker, is named again after this time.
_REPEAT_SECONDS: Final = 60
# An outage is known by then: the probe waits for two answers, 5 s each.
_PATIENCE_SECONDS: Final = 12
# A loaded broker may be slow to answer once, and the next question goes to another one.
_SILENCES_OF_AN_OUTAGE: Final = 2


class KafkaOutage(Value, frozen=True):
    """An outage. `since` is our clock, in microseconds since the epoch.

    With a `refusal`, brokers do answer, but one side refuses to authenticate the other.
    """

    since: int
    error: str
    refusal: Refusal | None = None

    @property
    def summary(self) -> str:
        """Return the outage in a few words."""
        return "Kafka unreachable" if self.refusal is None else self.refusal.summary

    @property
    def begin(self) -> datetime:
        """Return the moment of `since`, in UTC."""
        return datetime.fromtimestamp(self.since / MICROS, UTC)


class Reachability:
    """Makes one outage of the errors of all clients, brokers and attempts to connect.

    Every method may be called from any thread.
    """

    def __init__(self, clock: Callable[[], float] = time.time) -> None:
        """`clock` returns seconds since the epoch."""
        self._clock = clock
        self._lock = threading.Lock()
        self._bounded = Bounded(_REPEAT_SECONDS, clock)
        self._failing_since: float | None = None
        self._silences = 0
        self._is_away = False
        self._error = ""
        self._last_error: KafkaError | None = None
        self._is_reported = False
        self._is_refusal_reported = False
        self._reported_at = 0.0
        self._unreported: tuple[float, KafkaError] | None = None

    @property
    def outage(self) -> KafkaOutage | None:
        """The present outage, None if a broker has answered since the last one.

        It begins with the first failure, and has the error that was reported last.
        """
        with self._lock:
            return self._outage()

    @property
    def last_error(self) -> KafkaError | None:
        """The last error, of those that name a cause. None if a broker has answered since."""
        return self._last_error

    def failed(self, error: KafkaError, *, is_in_use: bool = True) -> None:
        """Note an error that a client reports. It is an outage if no broker is left.

        Of a client that is not in use, that only means that its idle connections were
        closed, by brokers or by the network.
        """
        if error.fatal():
            # A fenced producer, most often, which its shard reports.
            return
        with self._lock:
            now = self._clock()
            if self._failing_since is None:
                self._failing_since = now
            if error.code() != _ALL_BROKERS_DOWN:
                self._last_error = error
                self._error = error.str()
                failed_at = now if self._unreported is None else self._unreported[0]
                self._unreported = failed_at, error
                # Nobody should wait for the end of an outage that is a refusal.
                is_refused = refusal_of(error) is not None
                is_news = is_refused and not self._is_refusal_reported
                if self._is_away and (is_news or not self._is_reported):
                    self._report(now)
                return
            # It names no cause, such as a wrong password. The errors before it do.
            if self._last_error is None:
                self._last_error = error
            if is_in_use:
                is_cause_known = bool(self._error)
                self._begin(
                    self._error or error.str(), now, is_cause_known=is_cause_known
                )

    def silent(self, error: str, waited_seconds: float) -> None:
        """Note that no broker has answered a question. It is an outage the second time."""
        with self._lock:
            now = self._clock()
            if self._failing_since is None:
                self._failing_since = now - waited_seconds
            self._silences += 1
            if self._silences >= _SILENCES_OF_AN_OUTAGE:
                self._begin(self._error or error, now)

    def reached(self) -> None:
        """Note that a broker has answered."""
        # Called with every commit, so look without the lock first.
        if self._failing_since is None:
            return
        with self._lock:
            outage = self._outage()
            self._failing_since = None
            self._silences = 0
            self._is_away = False
            self._is_refusal_reported = False
            self._error = ""
            self._last_error = None
            if outage is not None:
                # It was part of the outage.
                self._unreported = None
        if outage is not None and self._is_reported:
            lasted_seconds = self._clock() - outage.since / MICROS
            fields = {"unreachable_seconds": round(lasted_seconds, 1)}
            _log.warning("Kafka is reachable again", extra=fields)

    def tick(self) -> None:
        """Log what is due. Call it once a second."""
        with self._lock:
            now = self._clock()
            if self._is_away:
                self._unreported = None
                waited_seconds = now - self._reported_at
                if not self._is_reported and waited_seconds >= _CAUSE_SECONDS:
                    self._report(now)
                elif waited_seconds >= _REPEAT_SECONDS:
                    self._report(now, "Kafka is still unreachable")
            elif self._unreported is not None:
                self._report_broker(now)

    def _outage(self) -> KafkaOutage | None:
        if not self._is_away or self._failing_since is None:
            return None
        refusal = None if self._last_error is None else refusal_of(self._last_error)
        return KafkaOutage(round(self._failing_since * MICROS), self._error, refusal)

    def _begin(self, error: str, now: float, *, is_cause_known: bool = True) -> None:
        """Begin the outage, unless it has begun before."""
        if self._is_away:
            return
        self._is_away = True
        self._is_reported = False
        self._reported_at = now
        self._error = error
        # Otherwise another client tells the cause in a moment.
        if is_cause_known:
            self._report(now)

    def _report(self, now: float, message: str = "Kafka is unreachable") -> None:
        """Log the outage, by its `message` if it is no refusal."""
        self._reported_at = now
        self._is_reported = True
        outage = self._outage()
        if outage is None:
            return
        since = f"{outage.begin:%Y-%m-%dT%H:%M:%SZ}"
        fields = {"since": since, "error": outage.error}
        if outage.refusal is not None:
            self._is_refusal_reported = True
            message = outage.refusal.summary
            fields["remedy"] = outage.refusal.remedy
        _log.error(message, extra=fields)

    def _report_broker(self, now: float) -> None:
        """Log the failure of one broker of several, which the others survive."""
        if self._unreported is None:
            return
        failed_at, error = self._unreported
        if now - failed_at < _PATIENCE_SECONDS:
            return
        self._unreported = None
        refusal = refusal_of(error)
        if self._bounded.admit((error.code(), refusal)) is None:
            return
        fields = {"error": error.str()}
        if refusal is None:
            _log.warning("a connection to Kafka failed", extra=fields)
            return
        fields["remedy"] = refusal.remedy
        _log.error("a new connection failed: %s", refusal.summary, extra=fields)
