"""Every error that is ours, one tree.

::

    ConnectorError
    ├── ConfigError                 the configuration; exit 2
    ├── UpstreamError               a check that brought no observations
    │   ├── KeyRefused              401, 403: stop, try again slowly
    │   ├── RequestRefused          400, 422: our request; never repeated unchanged
    │   │   └── NothingFound        404: nothing is cached for any of the symbols
    │   ├── RateLimited             429: wait as told
    │   ├── UpstreamUnavailable     5xx, no connection, time-outs: back off
    │   └── BadResponse             an answer that is no response of the API: back off
    ├── EntryError                  one symbol's entry: to quarantine, the others go on
    └── KafkaError                  anything of Kafka or the registry
        ├── KafkaUnavailable        waiting may cure it: back off (exit 3 while starting)
        │   └── AccessDenied        a right is missing
        ├── SetupError              a topic, right or schema that does not fit; exit 3
        ├── Unpublishable           the broker refuses what a record holds: it is given up, and the shard goes on
        ├── ShardFenced             another worker has opened the shard since
        └── ShardCorrupt            what no waiting cures; exit 4

No message holds the API key, and none holds a value that came from outside at full length.
"""

from __future__ import annotations

EXIT_CONFIG = 2
EXIT_KAFKA = 3
EXIT_FATAL = 4


class ConnectorError(Exception):
    """Base of the tree. `exit_code` is the status of a process that dies of it."""

    exit_code = EXIT_FATAL


class ConfigError(ConnectorError):
    """Every fault of the configuration at once, one line each."""

    exit_code = EXIT_CONFIG

    def __init__(self, faults: list[str]) -> None:
        self.faults = faults
        super().__init__("\n".join(faults))


class UpstreamError(ConnectorError):
    """A check without observations.

    `outcome` is the label of `gex_upstream_request_duration_seconds`; `retry_after_seconds` is what the server
    asked for, where it did; `request_id` is the upstream's, for its support.
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
        self.request_id = request_id
        self.retry_after_seconds = retry_after_seconds
        super().__init__(message)


class KeyRefused(UpstreamError):
    """401 or 403: polling with this key stops until it changes or a long wait is over."""

    outcome = "key_refused"


class RequestRefused(UpstreamError):
    """400 or 422: a symbol, `include` or `exchanges` of ours is not accepted."""

    outcome = "refused"


class NothingFound(RequestRefused):
    """404, NOT_FOUND: a cold cache; not asked again at once."""


class RateLimited(UpstreamError):
    """429: over the quota."""

    outcome = "rate_limited"


class UpstreamUnavailable(UpstreamError):
    """5xx, no connection, or nothing within the time-out."""

    outcome = "unavailable"


class BadResponse(UpstreamError):
    """A body that is no response of the API: HTML, empty, cut off, too large, a redirect."""

    outcome = "bad_response"


class EntryError(ConnectorError):
    """One symbol's entry cannot be used. `reason` is the label of `gex_quarantined_total`."""

    def __init__(self, reason: str, message: str) -> None:
        self.reason = reason
        super().__init__(message)


class KafkaError(ConnectorError):
    """Anything of Kafka or the schema registry."""

    exit_code = EXIT_KAFKA


class KafkaUnavailable(KafkaError):
    """Waiting may cure it."""


class AccessDenied(KafkaUnavailable):
    """A right is missing; somebody may grant it."""


class Unpublishable(KafkaError):
    """The broker refuses what a record holds: the same record again would be refused again."""


class SetupError(KafkaError):
    """A topic, a right, a credential or a schema that does not fit; the message says the way out."""


class ShardFenced(KafkaError):
    """Another worker opened the shard after us: what we hold of it is worth nothing."""


class ShardCorrupt(KafkaError):
    """What a shard's topic holds cannot be ours, and no waiting changes that."""

    exit_code = EXIT_FATAL
