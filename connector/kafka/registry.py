"""Framing with a Confluent Schema Registry, one subject per topic.

Needs the extra `[registry]`. A schema is looked up once: afterwards the registry may be
down.
"""

from __future__ import annotations

import json
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Final

import fastavro.schema
import httpx2
from confluent_kafka.schema_registry import Schema as RegistrySchema
from confluent_kafka.schema_registry import SchemaRegistryClient, SchemaRegistryError

from connector.errors import KafkaUnavailable, SetupError, ShardCorrupt
from connector.kafka.avro import schema

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from connector.kafka.spliced_encoding import Schema

_TIMEOUT_SECONDS: Final = 10
_PREFIX_BYTES: Final = 5
_MAX_ERROR_CHARACTERS: Final = 300

_INCOMPATIBLE: Final = (
    "our schema is incompatible with the registered one: another version or program wrote "
    "the topic; use another kafka.topic_prefix"
)

_NOT_FOUND: Final = 404
_CONFLICT: Final = 409
_REFUSED: Final = (401, 403)


class Registry:
    """Framing with a registry. `prepare` every topic before writing to it."""

    def __init__(self, url: str, client: Mapping[str, Any]) -> None:
        # Callers retry: the client's own retries would only hide an outage.
        settings = {"timeout": _TIMEOUT_SECONDS, "max.retries": 0, **client, "url": url}
        try:
            self._client = SchemaRegistryClient(settings)
        except (ValueError, TypeError) as error:
            raise SetupError(f"schema_registry.client: {error}") from None
        self._prefixes: dict[tuple[str, str], bytes] = {}
        self._schemas: dict[bytes, Schema] = {}

    def prepare(self, topic: str, name: str) -> None:
        """Register schema `name` under the subject `<topic>-value` if it is missing.

        Raises:
            SetupError: the registry refuses the schema, or refuses us.
            KafkaUnavailable: the registry does not answer.
        """
        subject, definition = _subject(topic, name)
        with _translating(subject):
            schema_id = self._schema_id(subject, definition)
            if schema_id is None:
                schema_id = self._client.register_schema(subject, definition)
        # Confluent's wire format: magic byte 0, then the id.
        self._prefixes[topic, name] = b"\x00" + schema_id.to_bytes(4, "big")

    def has_schema(self, topic: str, name: str) -> bool:
        """Return True if schema `name` is registered, False if it would fit.

        Raises SetupError if it would not fit, and as `prepare` does.
        """
        subject, definition = _subject(topic, name)
        with _translating(subject):
            if self._schema_id(subject, definition) is not None:
                return True
            fits = self._fits(subject, definition)
        if not fits:
            raise SetupError(f"{subject}: {_INCOMPATIBLE}")
        return False

    def has_subject(self, topic: str) -> bool:
        """Return True if any schema of a topic's values is registered.

        Raises as `prepare` does.
        """
        subject = f"{topic}-value"
        with _translating(subject):
            try:
                return bool(self._client.get_versions(subject))
            except SchemaRegistryError as error:
                if error.http_status_code != _NOT_FOUND:
                    raise
                return False

    def compatibility(self) -> str:
        """Return the level of subjects without a level of their own.

        Raises SetupError, KafkaUnavailable.
        """
        with _translating("compatibility"):
            return self._client.get_compatibility()

    def close(self) -> None:
        """Close the connections."""
        self._client.close()

    def prefix(self, topic: str, name: str) -> bytes:
        """Return a zero byte and the schema's id."""
        return self._prefixes[topic, name]

    def written_with(self, value: bytes) -> tuple[Schema, int]:
        """Return the schema with the value's id. Raises ShardCorrupt, KafkaUnavailable."""
        prefix = value[:_PREFIX_BYTES]
        if len(prefix) < _PREFIX_BYTES or prefix[0] != 0:
            raise ShardCorrupt(
                f"a value begins with {prefix.hex()}, expected 00 and the id of a "
                "schema in the registry; was the topic written without a registry, "
                "or by another program?"
            )
        if prefix not in self._schemas:
            schema_id = int.from_bytes(prefix[1:], "big")
            self._schemas[prefix] = self._fetch(schema_id)
        return self._schemas[prefix], _PREFIX_BYTES

    def _fetch(self, schema_id: int) -> Schema:
        with _translating(f"schema {schema_id}"):
            try:
                text = self._client.get_schema(schema_id).schema_str
            except SchemaRegistryError as error:
                if error.http_status_code != _NOT_FOUND:
                    raise
                raise ShardCorrupt(
                    f"the schema registry does not know schema {schema_id}"
                ) from None
        try:
            document = json.loads(text or "null")
            parsed: Schema = fastavro.schema.parse_schema(document, _force=True)
        except (ValueError, TypeError, fastavro.schema.SchemaParseException) as error:
            reason = str(error)[:_MAX_ERROR_CHARACTERS]
            raise ShardCorrupt(
                f"cannot parse schema {schema_id} of the schema registry: {reason}"
            ) from None
        return parsed

    def _schema_id(self, subject: str, definition: RegistrySchema) -> int | None:
        """Return the id of a registered schema, None if it is not registered."""
        try:
            found = self._client.lookup_schema(subject, definition)
        except SchemaRegistryError as error:
            if error.http_status_code != _NOT_FOUND:
                raise
            return None
        return found.schema_id

    def _fits(self, subject: str, definition: RegistrySchema) -> bool:
        try:
            return self._client.test_compatibility(subject, definition)
        except SchemaRegistryError as error:
            if error.http_status_code != _NOT_FOUND:
                raise
            # A new subject takes any schema.
            return True


def _subject(topic: str, name: str) -> tuple[str, RegistrySchema]:
    return f"{topic}-value", RegistrySchema(json.dumps(schema(name)), "AVRO")


@contextmanager
def _translating(action: str) -> Iterator[None]:
    """Raise the connector's error for the registry's. `action` begins the message."""
    try:
        yield
    except SchemaRegistryError as error:
        raise _translate(error, action) from None
    except (httpx2.HTTPError, OSError) as error:
        raise KafkaUnavailable(
            f"the schema registry does not answer: {error}"
        ) from None


def _translate(
    error: SchemaRegistryError, action: str
) -> SetupError | KafkaUnavailable:
    status = error.http_status_code
    reason = str(error.error_message)[:_MAX_ERROR_CHARACTERS]
    if status == _CONFLICT:
        return SetupError(f"{action}: {_INCOMPATIBLE} (registry: {reason})")
    if status in _REFUSED:
        return SetupError(
            f"{action}: the schema registry refuses us ({status}): {reason}; "
            "check schema_registry.client"
        )
    return KafkaUnavailable(f"{action}: the schema registry answers {status}: {reason}")
