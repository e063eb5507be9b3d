"""The exceptions of the connector, in one tree.

::

    exception                       meaning                              retry
    ------------------------------  -----------------------------------  ---------------------------
    ConnectorError
    ├── ConfigError                 the configuration; exit 2            no
    ├── UsageError                  arguments of a command; exit 2       no
    ├── UpstreamError               a check brought no observations
    │   ├── KeyRefused              401                                  when the key changes, or
    │   │                                                                after a long wait
    │   ├── PlanRefused             403 of the API: the plan is too low  after a long wait
    │   ├── RequestRefused          400, 422: our request is wrong       no, not unchanged
    │   │   ├── NothingFound        404: no data for any symbol          at the next check
    │   │   └── NotRouted           400, 404, 405 of a web framework     yes, in smaller batches
    │   ├── RateLimited             429: the minute is used up           when the server allows it
    │   ├── QuotaExhausted          429: the month is used up            rarely, until it ends
    │   ├── WrongVenues             levels of other venues than asked    yes, back off
    │   ├── Intercepted             4xx that is not the API's            yes, back off
    │   ├── UpstreamUnavailable     5xx, no connection, time-outs        yes, back off
    │   └── BadResponse             not a response of the API            yes, back off
    ├── EntryError                  one symbol's entry is bad data       no: quarantine it, go on
    └── KafkaError                  Kafka or the schema registry
        ├── KafkaUnavailable        not usable at the moment             yes, back off; exit 3 if it
        │   │                                                            lasts through the start
        │   └── AccessDenied        a permission is missing              yes: it may be granted
        ├── SetupError              a topic, permission, credential      no; exit 3
        │                           or schema does not fit
        ├── Unpublishable           the broker refuses a record          no: give it up, go on
        │   └── TimeRefused         because of its time                  yes, if our clock is wrong:
        │                                                                once it is right
        ├── ShardFenced             another worker opened the shard      open the shard again, if
        │                                                                it is still assigned to us
        └── ShardCorrupt            a record of ours that this version   no; exit 4
                                    cannot use, or no record of ours

No message contains the API key, nor a value from outside at full length.
"""

from __future__ import annotations

# The configuration or an argument is not valid. A restart does not help.
EXIT_CONFIG = 2

# Kafka or the schema registry was not usable in time, or does not fit. A restart may
# help.
EXIT_KAFKA = 3

# A topic holds a record of another version, or the connector has a defect.
EXIT_FATAL = 4

# Everything is in order, but a new process is needed: Kafka's credentials were replaced.
EXIT_RESTART = 5


class ConnectorError(Exception):
    """Base of the tree. `exit_code` is the exit status of a process that ends with it."""

    exit_code = EXIT_FATAL


class ConfigError(ConnectorError):
    """The configuration has faults. `faults` lists all of them, one line each."""

    exit_code = EXIT_CONFIG

    def __init__(self, faults: list[str]) -> None:
        self.faults = faults
        super().__init__("\n".join(faults))


class UsageError(ConnectorError):
    """The arguments of a command do not fit."""

    exit_code = EXIT_CONFIG


class UpstreamError(ConnectorError):
    """A check brought no observations.

    `outcome` is the label of `gex_upstream_request_duration_seconds`. `retry_after_seconds` is the
    server's request to wait, if it made one. `request_id` identifies the request to the vendor's
    support. `is_from_api` is True if the body is the API's own error, not that of a gateway,
    proxy or firewall on the way.
    """

    outcome = "error"

    def __init__(
        self,
        message: str,
        *,
        status: int | None = None,
        request_id: str | None = None,
        retry_after_seconds: float | None = None,
    ) -> None:
        self.status = status
        self.is_from_api = False
        self.request_id = request_id
        self.retry_after_seconds = retry_after_seconds
        super().__init__(message)


class KeyRefused(UpstreamError):
    """401: the API key is not accepted. Retry when it changes, or after a long wait."""

    outcome = "key_refused"


class PlanRefused(UpstreamError):
    """403 (FORBIDDEN) of the API: the key is good, but the user's plan does not permit this.

    Another key of the same user does not help. Retry after a long wait.
    """

    outcome = "plan_refused"


class Intercepted(UpstreamError):
    """403, 404, 451 and the like, but not from the API: a firewall or proxy answered.

    Such an answer says nothing about the key, the plan or the symbols. Back off and retry.
    """

    outcome = "intercepted"


class WrongVenues(UpstreamError):
    """A response with levels of other venues than requested. Nothing in it is published.

    The API ignores names it does not know, and a cache may ignore the filter. Back off and
    retry.
    """

    outcome = "wrong_venues"


class RequestRefused(UpstreamError):
    """400 or 422: a symbol, `include` or `exchanges` is not accepted. Do not retry unchanged."""

    outcome = "refused"


class NothingFound(RequestRefused):
    """404 (NOT_FOUND): the server has no data for any of the symbols. Retry at the next check."""


class NotRouted(RequestRefused):
    """400, 404 or 405 with a web framework's `{"detail": ...}`, not the API's envelope.

    The API's own code never saw the request. A symbol may be the cause, so smaller batches
    are tried; but none of them is invalid because of it.
    """

    outcome = "not_routed"


class RateLimited(UpstreamError):
    """429: the requests of this minute are used up. Retry when the server allows it."""

    outcome = "rate_limited"


class QuotaExhausted(UpstreamError):
    """429: the requests of this month are used up. Stop, and show the vendor's message."""

    outcome = "quota_exhausted"


class UpstreamUnavailable(UpstreamError):
    """5xx, no connection, or a time-out. Back off and retry."""

    outcome = "unavailable"


class BadResponse(UpstreamError):
    """The body is HTML, empty, truncated, too large or a redirect. Back off and retry."""

    outcome = "bad_response"


class EntryError(ConnectorError):
    """An entry cannot be used: quarantine it, and go on with the other symbols.

    `reason` is the label of `gex_quarantined_total`.
    """

    def __init__(self, reason: str, message: str) -> None:
        self.reason = reason
        super().__init__(message)


class KafkaError(ConnectorError):
    """Kafka or the schema registry failed."""

    exit_code = EXIT_KAFKA


class KafkaUnavailable(KafkaError):
    """Kafka or the registry is not usable at the moment. Back off and retry."""


class UnusableFile(KafkaUnavailable):
    """A certificate or key cannot be used now. Retry: somebody may be replacing it."""


class AccessDenied(KafkaUnavailable):
    """A permission is missing. Retry: an administrator may grant it."""


class Unpublishable(KafkaError):
    """The broker refuses a record because of its content, and would refuse it again."""


class TimeRefused(Unpublishable):
    """The broker refuses the time of a record: too far from its own clock.

    Most often our clock is wrong. Then the record is published once that is right.
    """


class SetupError(KafkaError):
    """A topic, permission, credential or schema does not fit. The message says how to fix it."""


class ShardFenced(KafkaError):
    """Another worker has opened the shard. Our state of it is stale and must be dropped."""


class ShardCorrupt(KafkaError):
    """A value is not ours, or of another version of ours, or damaged.

    Readers skip it and say so. It ends a worker only if a connector wrote it: going on
    would publish over the work of a newer version.
    """

    exit_code = EXIT_FATAL
