"""Kafka's errors as ours, in one place."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Final, TypeVar

import confluent_kafka as ck

from connector import errors

if TYPE_CHECKING:
    from collections.abc import Callable

    from connector.kafka.clients import Settings

_T = TypeVar("_T")
_FENCED: Final = {
    ck.KafkaError._FENCED,  # noqa: SLF001 -- librdkafka's own codes are named so
    ck.KafkaError.INVALID_PRODUCER_EPOCH,
    ck.KafkaError.PRODUCER_FENCED,
}
_DENIED: Final = {
    ck.KafkaError.TOPIC_AUTHORIZATION_FAILED,
    ck.KafkaError.CLUSTER_AUTHORIZATION_FAILED,
    ck.KafkaError.GROUP_AUTHORIZATION_FAILED,
    ck.KafkaError.TRANSACTIONAL_ID_AUTHORIZATION_FAILED,
}
_UNPUBLISHABLE: Final = {
    ck.KafkaError.MSG_SIZE_TOO_LARGE,
    ck.KafkaError.INVALID_RECORD,
    ck.KafkaError.INVALID_TIMESTAMP,
}
_UNREACHABLE: Final = "check that the broker runs, its address, and security.protocol and ssl.* in kafka.client"
_REMEDIES: Final = {
    ck.KafkaError.TOPIC_AUTHORIZATION_FAILED: "grant the missing right on the topic (README, Rights)",
    ck.KafkaError.CLUSTER_AUTHORIZATION_FAILED: "grant the missing right on the cluster (README, Rights)",
    ck.KafkaError.GROUP_AUTHORIZATION_FAILED: "grant READ on the group (README, Rights)",
    ck.KafkaError.TRANSACTIONAL_ID_AUTHORIZATION_FAILED: "grant WRITE on the transactional ids (README, Rights)",
    ck.KafkaError.SASL_AUTHENTICATION_FAILED: "check sasl.mechanism, sasl.username and sasl.password",
    ck.KafkaError._AUTHENTICATION: "check sasl.mechanism, sasl.username and sasl.password",  # noqa: SLF001 -- as above
    ck.KafkaError._SSL: "check security.protocol and ssl.* in kafka.client",  # noqa: SLF001 -- as above
    ck.KafkaError._RESOLVE: "check kafka.bootstrap_servers",  # noqa: SLF001 -- as above
    ck.KafkaError._TRANSPORT: _UNREACHABLE,  # noqa: SLF001 -- as above
    ck.KafkaError._ALL_BROKERS_DOWN: _UNREACHABLE,  # noqa: SLF001 -- as above
    ck.KafkaError.INVALID_REPLICATION_FACTOR: "set kafka.replication_factor to what the cluster has brokers for",
}


def translate(
    error: ck.KafkaError, doing: str, last_error: ck.KafkaError | None = None
) -> errors.KafkaError:
    """Our error for one of librdkafka's; `last_error` is what its client reported besides, if anything."""
    if error.code() in _FENCED:
        return errors.ShardFenced(f"{doing}: {error.str()}")
    cause = error if last_error is None or error.code() in _DENIED else last_error
    remedy = _REMEDIES.get(cause.code()) or _REMEDIES.get(error.code())
    parts = [
        f"{doing}: {error.name()}: {error.str()}",
        last_error and last_error.str(),
        remedy,
    ]
    kind = errors.KafkaUnavailable
    if error.code() in _DENIED:
        kind = errors.AccessDenied
    said = "; ".join(part for part in parts if part)
    return errors.Unpublishable(said) if error.code() in _UNPUBLISHABLE else kind(said)


def new_client(kind: Callable[[Settings], _T], settings: Settings) -> _T:
    """A client. Raises ConfigError where librdkafka refuses a setting."""
    try:
        return kind(settings)
    except (ck.KafkaException, TypeError, ValueError) as error:
        said = (
            kafka_error(error).str()
            if isinstance(error, ck.KafkaException)
            else str(error)
        )
        raise errors.ConfigError([f"kafka.client: {said}"]) from None


def kafka_error(exception: ck.KafkaException) -> ck.KafkaError:
    """The error inside librdkafka's exception."""
    error: ck.KafkaError = exception.args[0]
    return error


def retry_retriable(
    call: Callable[[], None], seconds: float, stopped: Callable[[], bool]
) -> None:
    """Call again while the error says that this may help, for so long. Raises the last `KafkaException`."""
    deadline = time.monotonic() + seconds
    while True:
        try:
            return call()
        except ck.KafkaException as exception:
            if (
                not kafka_error(exception).retriable()
                or time.monotonic() >= deadline
                or stopped()
            ):
                raise
