"""The files with Kafka's credentials, which may be replaced while the worker runs.

librdkafka reads certificates when a client is created, and never again. So new credentials
need new clients. They are tried first: a wrong password or a half-written file must not end
a worker whose connections are in order.
"""

from __future__ import annotations

import hashlib
import logging
from pathlib import Path
from typing import TYPE_CHECKING, Final

import confluent_kafka as ck
from msgspec.structs import replace

from connector.config.certificates import file_of
from connector.config.load import read_password_file
from connector.errors import ConfigError, ConnectorError
from connector.kafka.clients import Clients
from connector.kafka.errors import (
    kafka_error,
    new_client,
    serve_callbacks,
    translate,
)

if TYPE_CHECKING:
    from connector.config.model import Kafka

_log = logging.getLogger(__name__)

_DOING: Final = "trying the new credentials"
_TRIAL_SECONDS: Final = 10

# The digest of each file, by its path.
_Digests = dict[str, bytes]


class Credentials:
    """The files that the client settings name, and the file of the password.

    Folders are not watched. Use it from one thread at a time.
    """

    def __init__(self, kafka: Kafka, topic: str) -> None:
        """`topic` is one that we may describe. It need not exist."""
        self._kafka = kafka
        self._topic = topic
        self._refused: _Digests | None = None
        self._in_use = _digests(kafka) or {}
        if kafka.sasl_password_file is not None:
            # The file may have changed since the configuration was read.
            password = kafka.sasl_password.reveal()
            self._in_use[kafka.sasl_password_file] = _digest(password.encode())

    def are_replaced(self) -> bool:
        """Return True if the files hold new credentials that Kafka accepts. Blocks.

        Never raises: files may be in the middle of a rotation, and Kafka may accept the
        new credentials later.
        """
        found = _digests(self._kafka)
        if found is None or found == self._in_use:
            return False
        try:
            self._try()
        except ConnectorError as error:
            # Later trials of the same files fail for the same reason, most often.
            level = logging.DEBUG if found == self._refused else logging.ERROR
            self._refused = found
            _log.log(
                level,
                "cannot use the new credentials of Kafka yet; keeping the previous ones",
                extra={"error": str(error)},
            )
            return False
        return True

    def _try(self) -> None:
        """Connect with the credentials in the files. Raises ConnectorError."""
        kafka = self._kafka
        if kafka.sasl_password_file is not None:
            password = read_password_file(kafka.sasl_password_file)
            kafka = replace(kafka, sasl_password=password)
        reported: list[ck.KafkaError] = []
        # Failures of a trial are no outage.
        settings = {**Clients(kafka).probe(), "error_cb": reported.append}
        consumer = new_client(ck.Consumer, settings)
        try:
            consumer.list_topics(self._topic, timeout=_TRIAL_SECONDS)
        except ck.KafkaException as exception:
            # The reason comes by callback: the call itself knows only that it timed out.
            serve_callbacks(consumer)
            causes = [error for error in reported if not _names_no_cause(error)]
            cause = causes[-1] if causes else None
            raise translate(kafka_error(exception), _DOING, cause) from None
        finally:
            consumer.close()


def _names_no_cause(error: ck.KafkaError) -> bool:
    return error.code() == ck.KafkaError._ALL_BROKERS_DOWN  # noqa: SLF001 -- librdkafka's name


def _digests(kafka: Kafka) -> _Digests | None:
    """Return the digests of all files, None if one of them cannot be read at the moment."""
    digests = {}
    try:
        for name, value in kafka.client.items():
            file = file_of(name, value)
            if file is not None and not Path(file).is_dir():
                digests[file] = _digest(Path(file).read_bytes())
        if kafka.sasl_password_file is not None:
            password = read_password_file(kafka.sasl_password_file).reveal()
            digests[kafka.sasl_password_file] = _digest(password.encode())
    except (OSError, ConfigError) as error:
        _log.debug("cannot read a file of credentials", extra={"error": str(error)})
        return None
    return digests


def _digest(content: bytes) -> bytes:
    return hashlib.sha256(content).digest()
