"""Framing with a Confluent Schema Registry, one subject per topic.

Needs the extra `[registry]`. A schema is looked up once: afterwards the registry may be
down. A worker looks up at its start everything that a take-over may need.
"""

from __future__ import annotations

import json
import logging
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Final

import fastavro.schema

from connector.errors import AccessDenied, SetupError, ShardCorrupt
from connector.kafka.avro import schema
from connector.kafka.registry_client import INCOMPATIBLE, RegistryClient

if TYPE_CHECKING:
    from collections.abc import Mapping

    from connector.kafka.spliced_encoding import Schema

_log = logging.getLogger(__name__)

_PREFIX_BYTES: Final = 5
_MAX_ERROR_CHARACTERS: Final = 300

# A registry also has schemas of other kinds. fastavro does not check JSON Schema's form.
_PARSE_ERRORS: Final = (
    AttributeError,
    KeyError,
    RecursionError,
    TypeError,
    ValueError,
    fastavro.schema.SchemaParseException,
)


class Registry:
    """Framing with a registry. `prepare` every topic before writing to it."""

    def __init__(
        self, url: str, client: Mapping[str, Any], proxy: str | None = None
    ) -> None:
        """`proxy` is the URL of a proxy, None to connect directly. Raises ConfigError."""
        self._client = RegistryClient(url, client, proxy)
        self._prefixes: dict[tuple[str, str], bytes] = {}
        self._schemas: dict[bytes, Schema] = {}

    def prepare(self, topic: str, name: str) -> None:
        """Register schema `name` under the subject `<topic>-value` if it is missing.

        Also look up the other schemas of the subject. A record of any version can then be
        read while the registry is down.

        Raises:
            SetupError: the registry refuses the schema.
            KafkaUnavailable: the registry does not answer, or refuses us (AccessDenied).
        """
        subject, definition = f"{topic}-value", schema(name)
        schema_id = self._client.find(subject, definition)
        if schema_id is None:
            schema_id = self._client.register(subject, definition)
        prefix = _prefix(schema_id)
        self._prefixes[topic, name] = prefix
        self._schemas[prefix] = definition
        self._learn_versions(subject)

    def has_schema(self, topic: str, name: str) -> bool:
        """Return True if schema `name` is registered, False if we can register it.

        Raises SetupError if it would not fit, AccessDenied without the right to register
        it, and as `prepare` does.
        """
        subject, definition = f"{topic}-value", schema(name)
        if self._client.find(subject, definition) is not None:
            return True
        # A worker registers without asking, so it does not need the right to ask.
        with suppress(AccessDenied):
            if not self._client.fits(subject, definition):
                raise SetupError(f"{subject}: {INCOMPATIBLE}")
        self._client.require_right_to_register(subject)
        return False

    def has_subject(self, topic: str) -> bool:
        """Return True if any schema of a topic's values is known to be registered.

        Raises as `prepare` does.
        """
        try:
            return bool(self._client.versions(f"{topic}-value"))
        except AccessDenied:
            # No worker needs the right to list them.
            return False

    def compatibility(self) -> str | None:
        """Return the level of subjects without a level of their own.

        None if the registry does not tell us, which no worker needs. Raises
        KafkaUnavailable.
        """
        try:
            return self._client.compatibility()
        except AccessDenied:
            return None

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
            self._schemas[prefix] = self._fetch(int.from_bytes(prefix[1:], "big"))
        return self._schemas[prefix], _PREFIX_BYTES

    def _learn_versions(self, subject: str) -> None:
        """Look up the schemas of other versions of the connector in a subject."""
        try:
            versions = self._client.versions(subject)
            if len(versions) == 1:
                # It is ours, which was found a moment ago.
                return
            for version in versions:
                schema_id, text = self._client.version(subject, version)
                prefix = _prefix(schema_id)
                if prefix not in self._schemas:
                    self._schemas[prefix] = _parse(schema_id, text)
        except (AccessDenied, ShardCorrupt) as error:
            # They are needed only if a record was written with them. Then they are
            # looked up again.
            fields = {"subject": subject, "error": str(error)}
            _log.debug("cannot look up all versions of a schema", extra=fields)

    def _fetch(self, schema_id: int) -> Schema:
        text = self._client.text(schema_id)
        if text is None:
            raise ShardCorrupt(f"the schema registry does not know schema {schema_id}")
        return _parse(schema_id, text)


def _prefix(schema_id: int) -> bytes:
    """Return the start of a value in Confluent's wire format: magic byte 0, then the id."""
    return b"\x00" + schema_id.to_bytes(4, "big")


def _parse(schema_id: int, text: str) -> Schema:
    try:
        parsed: Schema = fastavro.schema.parse_schema(json.loads(text), _force=True)
    except _PARSE_ERRORS as error:
        reason = str(error)[:_MAX_ERROR_CHARACTERS]
        raise ShardCorrupt(
            f"cannot parse schema {schema_id} of the schema registry: {reason}"
        ) from None
    return parsed
