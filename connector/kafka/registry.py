"""Confluent Schema Registry: registers our schemas, one subject per topic, and finds those others wrote with.

Needs the extra `[registry]`. What was looked up once is kept: a registry that is down later does no harm.
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
from connector.kafka.avro import Schema, schema

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

_TIMEOUT_SECONDS: Final = 10
_HEADER_BYTES: Final = 5
_NOT_FOUND: Final = 404
_CONFLICT: Final = 409
_REFUSED: Final = (401, 403)


class Registry:
    """Framing with a registry. `prepare` every topic before anything is written to it."""

    def __init__(self, url: str, client: Mapping[str, Any]) -> None:
        self._url = url
        settings = {"timeout": _TIMEOUT_SECONDS, "max.retries": 0, **client, "url": url}
        try:
            self._client = SchemaRegistryClient(settings)
        except (ValueError, TypeError) as error:
            raise SetupError(f"schema_registry.client: {error}") from None
        self._prefixes: dict[tuple[str, str], bytes] = {}
        self._schemas: dict[bytes, Schema] = {}

    def prepare(self, topic: str, name: str) -> None:
        """Register schema `name` under the subject `<topic>-value`, where it is not there yet.

        Raises:
            SetupError: the registry refuses it, or us.
            KafkaUnavailable: the registry does not answer.
        """
        subject, definition = _subject(topic, name)
        with self._explaining(subject):
            known = self._known(subject, definition) or self._client.register_schema(
                subject, definition
            )
        self._prefixes[topic, name] = b"\x00" + int(known or 0).to_bytes(4, "big")

    def examine(self, topic: str, name: str) -> str | None:
        """What `prepare` will find, changing nothing: None where the schema is there. Raises as `prepare` does."""
        subject, definition = _subject(topic, name)
        with self._explaining(subject):
            if self._known(subject, definition) is not None:
                return None
            try:
                fits = self._client.test_compatibility(subject, definition)
            except SchemaRegistryError as error:
                if error.http_status_code != _NOT_FOUND:
                    raise
                fits = True  # there is no such subject yet
        if not fits:
            raise SetupError(
                f"{subject}: the schema registry finds our schema incompatible with the one it has"
            )
        return f"{subject} will be registered"

    def compatibility(self) -> str:
        """The level that holds where a subject has none of its own. Raises SetupError, KafkaUnavailable."""
        with self._explaining("compatibility"):
            return self._client.get_compatibility()

    def close(self) -> None:
        """Let go of the connections."""
        self._client.close()

    def prefix(self, topic: str, name: str) -> bytes:
        """A zero byte and the schema's id."""
        return self._prefixes[topic, name]

    def written_with(self, value: bytes) -> tuple[Schema, int]:
        """By the id, asked of the registry once. Raises `ShardCorrupt` or `KafkaUnavailable`."""
        prefix = value[:_HEADER_BYTES]
        if len(prefix) < _HEADER_BYTES or prefix[0] != 0:
            raise ShardCorrupt(
                f"a value begins with {prefix.hex()}, which is not how values are framed with a schema registry; was "
                "the topic written without one, or by another program?"
            )
        if prefix not in self._schemas:
            self._schemas[prefix] = self._fetch(int.from_bytes(prefix[1:], "big"))
        return self._schemas[prefix], _HEADER_BYTES

    def _fetch(self, schema_id: int) -> Schema:
        with self._explaining(f"schema {schema_id}"):
            try:
                text = self._client.get_schema(schema_id).schema_str
            except SchemaRegistryError as error:
                if error.http_status_code == _NOT_FOUND:
                    raise ShardCorrupt(
                        f"the schema registry does not know schema {schema_id}"
                    ) from None
                raise
        try:
            parsed: Schema = fastavro.schema.parse_schema(
                json.loads(text or "null"), _force=True
            )
        except (ValueError, TypeError, fastavro.schema.SchemaParseException) as error:
            raise ShardCorrupt(
                f"schema {schema_id} of the schema registry is none: {str(error)[:200]}"
            ) from None
        return parsed

    def _known(self, subject: str, definition: RegistrySchema) -> int | None:
        try:
            return int(self._client.lookup_schema(subject, definition).schema_id or 0)
        except SchemaRegistryError as error:
            if error.http_status_code != _NOT_FOUND:
                raise
            return None

    @contextmanager
    def _explaining(self, what: str) -> Iterator[None]:
        try:
            yield
        except SchemaRegistryError as error:
            raise self._explained(error, what) from None
        except (httpx2.HTTPError, OSError) as error:
            raise KafkaUnavailable(
                f"the schema registry does not answer: {error}"
            ) from None

    def _explained(
        self, error: SchemaRegistryError, what: str
    ) -> SetupError | KafkaUnavailable:
        said = str(error.error_message)[:300]
        if error.http_status_code == _CONFLICT:
            return SetupError(
                f"{what}: the schema registry finds our schema incompatible with the one it has: {said}"
            )
        if error.http_status_code in _REFUSED:
            return SetupError(
                f"{what}: the schema registry refuses us ({error.http_status_code}): {said}"
            )
        return KafkaUnavailable(
            f"{what}: the schema registry answers {error.http_status_code}: {said}"
        )


def _subject(topic: str, name: str) -> tuple[str, RegistrySchema]:
    return f"{topic}-value", RegistrySchema(json.dumps(schema(name)), "AVRO")
