"""librdkafka's errors, translated to the connector's in one place."""

from __future__ import annotations

import logging
import re
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING, Final, Protocol, TypeVar

import confluent_kafka as ck

from connector import errors
from connector.kafka.refusals import refusal_of

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from connector.kafka.clients import Clients, Settings

_log = logging.getLogger(__name__)
_T = TypeVar("_T")

# librdkafka's own codes begin with an underscore.
# Another worker has opened the shard.
_FENCED: Final = {
    ck.KafkaError._FENCED,  # noqa: SLF001 -- librdkafka's name
    ck.KafkaError.INVALID_PRODUCER_EPOCH,
    ck.KafkaError.PRODUCER_FENCED,
}
# An administrator must grant a right.
_DENIED: Final = {
    ck.KafkaError.TOPIC_AUTHORIZATION_FAILED,
    ck.KafkaError.CLUSTER_AUTHORIZATION_FAILED,
    ck.KafkaError.GROUP_AUTHORIZATION_FAILED,
    ck.KafkaError.TRANSACTIONAL_ID_AUTHORIZATION_FAILED,
}
# A time-out of ours is outside the brokers' limits: only a setting helps.
_BEYOND_LIMITS: Final = {
    ck.KafkaError.INVALID_SESSION_TIMEOUT,
    ck.KafkaError.INVALID_TRANSACTION_TIMEOUT,
}
# The broker refuses the record: it would refuse it again.
_UNPUBLISHABLE: Final = {
    ck.KafkaError.MSG_SIZE_TOO_LARGE,
    ck.KafkaError.INVALID_RECORD,
}

_CHECK_ADDRESS: Final = (
    "check that the broker runs, its address, and security.protocol and ssl.* in "
    "kafka.client"
)
# librdkafka names the setting if it cannot use its file, or if key and certificate differ.
_FILE_SETTING: Final = re.compile(r"\bssl\.\w+\.location\b")
# librdkafka's words for a connection that ends during the TLS handshake, unless OpenSSL
# sees the end first. Then its own message asks the same question.
_TLS_HANDSHAKE: Final = "in state SSL_HANDSHAKE"
_CHECK_LISTENER: Final = (
    "the TLS handshake was not completed: connecting to a PLAINTEXT broker listener?"
)
_CHECK_TOPIC: Final = "check that the topic was not deleted"
_GRANT_TOPIC: Final = "grant the missing right on the topic (docs/reference/rights.md)"
_GRANT_CLUSTER: Final = (
    "grant the missing right on the cluster (docs/reference/rights.md)"
)
_GRANT_GROUP: Final = "grant READ on the group (docs/reference/rights.md)"
_GRANT_IDS: Final = "grant WRITE on the transactional ids (docs/reference/rights.md)"
_REMEDIES: Final = {
    ck.KafkaError.TOPIC_AUTHORIZATION_FAILED: _GRANT_TOPIC,
    ck.KafkaError.CLUSTER_AUTHORIZATION_FAILED: _GRANT_CLUSTER,
    ck.KafkaError.GROUP_AUTHORIZATION_FAILED: _GRANT_GROUP,
    ck.KafkaError.TRANSACTIONAL_ID_AUTHORIZATION_FAILED: _GRANT_IDS,
    ck.KafkaError._SSL: "check security.protocol and ssl.* in kafka.client",  # noqa: SLF001 -- librdkafka's name
    ck.KafkaError._RESOLVE: "check kafka.bootstrap_servers",  # noqa: SLF001 -- librdkafka's name
    ck.KafkaError._TRANSPORT: _CHECK_ADDRESS,  # noqa: SLF001 -- librdkafka's name
    ck.KafkaError._ALL_BROKERS_DOWN: _CHECK_ADDRESS,  # noqa: SLF001 -- librdkafka's name
    ck.KafkaError._AUTO_OFFSET_RESET: (  # noqa: SLF001 -- librdkafka's name
        "the records were deleted while they were read; run the command again"
    ),
    ck.KafkaError._UNKNOWN_TOPIC: _CHECK_TOPIC,  # noqa: SLF001 -- librdkafka's name
    ck.KafkaError.UNKNOWN_TOPIC_OR_PART: _CHECK_TOPIC,
    ck.KafkaError.MSG_SIZE_TOO_LARGE: (
        "raise max.message.bytes of the topic, or request fewer sections (include)"
    ),
    ck.KafkaError.INCONSISTENT_GROUP_PROTOCOL: (
        "another program is in the group kafka.group_id, with other settings: give each "
        "program a group of its own, and all workers the same group.protocol"
    ),
    ck.KafkaError.GROUP_MAX_SIZE_REACHED: (
        "stop a member of the group, or raise the brokers' group.max.size"
    ),
    ck.KafkaError.INVALID_SESSION_TIMEOUT: (
        "set session.timeout.ms in kafka.client to a value from the brokers' "
        "group.min.session.timeout.ms to their group.max.session.timeout.ms"
    ),
    ck.KafkaError.INVALID_TRANSACTION_TIMEOUT: (
        "set transaction.timeout.ms in kafka.client to at most the brokers' "
        "transaction.max.timeout.ms"
    ),
    ck.KafkaError.INVALID_TIMESTAMP: (
        "check this machine's clock, then message.timestamp.before.max.ms and "
        "message.timestamp.after.max.ms of the topic"
    ),
    ck.KafkaError.INVALID_REPLICATION_FACTOR: (
        "set kafka.replication_factor to at most the number of brokers"
    ),
}


class Pollable(Protocol):
    """A producer, a consumer that has nothing assigned, or an admin client."""

    def poll(self, timeout: float, /) -> object:
        """Run the client's callbacks."""


@contextmanager
def translating(action: str, clients: Clients | None = None) -> Iterator[None]:
    """Raise the connector's error for librdkafka's. `action` begins the message.

    With `clients`, the message also has the last error that they reported: a call that
    times out does not know that the password is wrong.
    """
    try:
        yield
    except ck.KafkaException as exception:
        last_error = None if clients is None else clients.last_error
        raise translate(kafka_error(exception), action, last_error) from None


def translate(
    error: ck.KafkaError, action: str, last_error: ck.KafkaError | None = None
) -> errors.KafkaError:
    """Return the connector's error for `error`, which happened during `action`."""
    code = error.code()
    if code in _FENCED:
        return errors.ShardFenced(f"{action}: {error.str()}")

    # A missing right or a limit needs no other explanation.
    is_explained = code in _DENIED or code in _BEYOND_LIMITS
    cause = error if last_error is None or is_explained else last_error
    refusal = refusal_of(cause)
    if refusal is not None:
        remedy: str | None = refusal.remedy
    else:
        remedy = _REMEDIES.get(cause.code()) or _REMEDIES.get(code)
    parts = [f"{action}: {error.name()}: {error.str()}"]
    if last_error is not None:
        parts.append(last_error.str())
    if _TLS_HANDSHAKE in cause.str():
        parts.append(_CHECK_LISTENER)
    if remedy is not None:
        parts.append(remedy)
    message = "; ".join(parts)

    if code == ck.KafkaError.INVALID_TIMESTAMP:
        return errors.TimeRefused(message)
    if code in _UNPUBLISHABLE:
        return errors.Unpublishable(message)
    if code in _DENIED:
        return errors.AccessDenied(message)
    if code in _BEYOND_LIMITS:
        return errors.SetupError(message)
    return errors.KafkaUnavailable(message)


def kafka_error(exception: ck.KafkaException) -> ck.KafkaError:
    """Return the error inside librdkafka's exception."""
    error: ck.KafkaError = exception.args[0]
    return error


def new_client(kind: Callable[[Settings], _T], settings: Settings) -> _T:
    """Return a new client. With `kafka.oauth_cb` this takes a second, and ten if that fails.

    Raises:
        ConfigError: librdkafka refuses a setting.
        UnusableFile: it cannot use a file that a setting names.
        KafkaUnavailable: there is no token.
    """
    try:
        return kind(settings)
    except ck.KafkaException as exception:
        error = kafka_error(exception)
    except SystemError as clash:
        # A client that got no token is destroyed after its exception was set. If that runs
        # our callback for errors, Python complains about the exception.
        if not isinstance(clash.__cause__, ck.KafkaException):
            raise
        error = kafka_error(clash.__cause__)
    except (TypeError, ValueError) as invalid:
        raise errors.ConfigError([f"kafka.client: {invalid}"]) from None

    if error.code() == ck.KafkaError.SASL_AUTHENTICATION_FAILED:
        raise translate(error, "waiting for a token")
    reason = error.str()
    if _FILE_SETTING.search(reason):
        raise errors.UnusableFile(f"kafka.client: {reason}")
    raise errors.ConfigError([f"kafka.client: {reason}"])


def serve_callbacks(*clients: Pollable) -> None:
    """Run the callbacks that wait in `clients`: errors, logs, statistics. Never raises.

    `Producer.poll` raises after a fatal error, for example after another worker fenced
    the producer. The next call that uses the producer raises that error again, where
    its caller expects it.
    """
    for client in clients:
        try:
            client.poll(0)
        except ck.KafkaException as exception:
            _log.debug(
                "client has failed", extra={"error": kafka_error(exception).str()}
            )


def retry_retriable(
    call: Callable[[], None], seconds: float, stopped: Callable[[], bool]
) -> None:
    """Call again while librdkafka says that a retry may help, for `seconds` at most.

    Raises the last KafkaException.
    """
    deadline = time.monotonic() + seconds
    while True:
        try:
            return call()
        except ck.KafkaException as exception:
            if not kafka_error(exception).retriable():
                raise
            if time.monotonic() >= deadline or stopped():
                raise
