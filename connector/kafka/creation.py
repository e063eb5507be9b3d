"""Creates topics, also on clusters that refuse some of their settings.

Managed clusters often do not let users set `min.cleanable.dirty.ratio`, for example.
Some answer POLICY_VIOLATION, others INVALID_CONFIG, as for a setting that does not exist.
"""

from __future__ import annotations

from concurrent.futures import TimeoutError as FutureTimeoutError
from typing import TYPE_CHECKING, Final

import confluent_kafka as ck
from confluent_kafka.admin import NewTopic
from msgspec.structs import replace

from connector.core.model import Value
from connector.errors import AccessDenied, KafkaError, KafkaUnavailable, SetupError
from connector.kafka.errors import kafka_error, translate

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from confluent_kafka.admin import AdminClient

    from connector.kafka.admin import TopicSpec

_REQUEST_SECONDS: Final = 10
# Longer than the request: a future that never completes has been seen.
_FUTURE_SECONDS: Final = 2 * _REQUEST_SECONDS

_REFUSED_SETTING: Final = {
    ck.KafkaError.INVALID_CONFIG,
    ck.KafkaError.POLICY_VIOLATION,
}

Errors = dict[str, ck.KafkaError | None]


class Creation(Value, frozen=True):
    """The outcome for one topic.

    `spec` has the settings that were tried last, and `left_out` the optional ones that
    the cluster refuses. `error` is None if the topic was created or existed before.
    """

    spec: TopicSpec
    left_out: dict[str, str]
    error: KafkaError | None
    existed: bool


class TopicCreator:
    """Creates topics, or only asks the cluster if it would create them.

    `servers` are the bootstrap servers, for the command in error messages.
    """

    def __init__(
        self,
        admin: AdminClient,
        servers: str,
        replication_factor: int,
        *,
        validate_only: bool = False,
    ) -> None:
        self._admin = admin
        self._servers = servers
        self._replication_factor = replication_factor
        self._validate_only = validate_only

    def create(self, specs: Iterable[TopicSpec]) -> list[Creation]:
        """Create topics, without the optional settings that the cluster refuses.

        Raises KafkaUnavailable if the cluster does not answer.
        """
        tried = {spec.name: spec for spec in specs}
        errors = self._request(list(tried.values()), validate_only=self._validate_only)

        refused = [spec for spec in tried.values() if _is_refused(errors[spec.name])]
        left_out: dict[str, dict[str, str]] = {name: {} for name in tried}
        if refused:
            fitting = self._without_refused_settings(refused)
            errors |= self._request(fitting, validate_only=self._validate_only)
            for spec in fitting:
                wanted = tried[spec.name].config
                left_out[spec.name] = _difference(wanted, spec.config)
                tried[spec.name] = spec

        creations = []
        for name, spec in tried.items():
            error = errors[name]
            existed = _is_about_existing(error)
            failure = None
            if error is not None and not existed:
                failure = self._failure(spec, error)
            creations.append(Creation(spec, left_out[name], failure, existed))
        return creations

    def command(self, spec: TopicSpec) -> str:
        """Return the command that creates a topic by hand."""
        words = [f"kafka-topics --bootstrap-server {self._servers} --create"]
        words.append(f"--topic {spec.name} --partitions {spec.partitions}")
        # Without the option, the brokers' default applies, as with -1.
        if self._replication_factor > 0:
            words.append(f"--replication-factor {self._replication_factor}")
        for name, value in spec.config.items():
            words.append(f"--config {name}={value}")
        return " ".join(words)

    def _without_refused_settings(self, specs: Sequence[TopicSpec]) -> list[TopicSpec]:
        """Return the specs without the optional settings that the cluster refuses.

        Each one is tried alone, because the cluster need not say which it refuses.
        """
        accepted = {spec.name: _needed(spec) for spec in specs}
        for name in sorted({name for spec in specs for name in spec.optional}):
            trials = []
            for spec in specs:
                if name in spec.optional:
                    config = {**_needed(spec), name: spec.config[name]}
                    trials.append(replace(spec, config=config))
            errors = self._request(trials, validate_only=True)
            for trial in trials:
                if not _is_refused(errors[trial.name]):
                    accepted[trial.name][name] = trial.config[name]
        return [replace(spec, config=accepted[spec.name]) for spec in specs]

    def _request(self, specs: Sequence[TopicSpec], *, validate_only: bool) -> Errors:
        """Request the creation of topics, and return the error of each by its name."""
        new_topics = [
            NewTopic(
                spec.name, spec.partitions, self._replication_factor, config=spec.config
            )
            for spec in specs
        ]
        futures = self._admin.create_topics(
            new_topics,
            validate_only=validate_only,
            request_timeout=_REQUEST_SECONDS,
            operation_timeout=_REQUEST_SECONDS,
        )
        errors: Errors = {}
        for name, future in futures.items():
            try:
                future.result(timeout=_FUTURE_SECONDS)
            except ck.KafkaException as exception:
                errors[name] = kafka_error(exception)
            except FutureTimeoutError:
                raise KafkaUnavailable(
                    f"creating topic {name}: no answer within {_FUTURE_SECONDS} s"
                ) from None
            else:
                errors[name] = None
        return errors

    def _failure(self, spec: TopicSpec, error: ck.KafkaError) -> KafkaError:
        """Return the error to raise, with the command if it may help."""
        action = f"creating topic {spec.name}"
        failure = translate(error, action)
        by_hand = f"create it by hand: {self.command(spec)}"
        if _is_refused(error):
            return SetupError(
                f"{action}: {error.name()}: {error.str()}; change the setting in "
                f"[kafka.topic], or {by_hand}"
            )
        if isinstance(failure, AccessDenied):
            return AccessDenied(f"{failure}, or {by_hand}")
        return failure


def combined(failures: Sequence[KafkaError]) -> KafkaError:
    """Return one error for several topics. It is retried if one of them may be."""
    message = "\n".join(str(failure) for failure in failures)
    for failure in failures:
        if isinstance(failure, KafkaUnavailable):
            return type(failure)(message)
    return SetupError(message)


def _needed(spec: TopicSpec) -> dict[str, str]:
    return {
        name: value for name, value in spec.config.items() if name not in spec.optional
    }


def _difference(wanted: dict[str, str], given: dict[str, str]) -> dict[str, str]:
    return {name: value for name, value in wanted.items() if name not in given}


def _is_refused(error: ck.KafkaError | None) -> bool:
    return error is not None and error.code() in _REFUSED_SETTING


def _is_about_existing(error: ck.KafkaError | None) -> bool:
    # Another worker may have been faster.
    return error is not None and error.code() == ck.KafkaError.TOPIC_ALREADY_EXISTS
