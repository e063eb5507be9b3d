"""Decodes the values of both topics, in both framings.

A value that a connector wrote but this client cannot read is an error, never skipped:
skipping it would be a gap that nobody sees.
"""

from __future__ import annotations

import io
import json
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Final, TypeVar

import fastavro
import fastavro.schema
import msgspec

from connector.client.errors import RegistryError, SchemaError
from connector.core.model import Event, State
from connector.errors import ShardCorrupt
from connector.kafka.avro import EVENT, STATE, SingleObject, plain, schema

if TYPE_CHECKING:
    from collections.abc import Iterator

    from connector.client.registry import Registry

_CONFLUENT_MAGIC: Final = 0
_CONFLUENT_PREFIX_BYTES: Final = 5
_SINGLE_OBJECT_MARKER: Final = b"\xc3\x01"
_SINGLE_OBJECT_PREFIX_BYTES: Final = 10
_MAX_ERROR_CHARACTERS: Final = 200
_UPDATE: Final = (
    "update gex-levels-connector on this machine, which brings the new schemas"
)

_T = TypeVar("_T", Event, State)


class ValueDecoder:
    """Decodes events and states of any schema that is compatible with this version's."""

    def __init__(self, registry: Registry | None) -> None:
        self._registry = registry
        self._known = SingleObject()
        self._readers = {Event: plain(schema(EVENT)), State: plain(schema(STATE))}
        self._writers: dict[bytes, Any] = {}
        # msgspec 0.22 crashes (SIGSEGV) if two threads are the first to use a type.
        for kind in (Event, State):
            msgspec.json.Decoder(kind)

    def event(self, value: bytes) -> Event:
        """Return the event that a value of `changes` holds.

        Raises SchemaError, RegistryError.
        """
        return self._decode(value, Event)

    def state(self, value: bytes) -> State:
        """Return the state that a value of `current` holds.

        Raises SchemaError, RegistryError.
        """
        return self._decode(value, State)

    def _decode(self, value: bytes, kind: type[_T]) -> _T:
        size = _CONFLUENT_PREFIX_BYTES
        if value[:2] == _SINGLE_OBJECT_MARKER:
            size = _SINGLE_OBJECT_PREFIX_BYTES
        prefix = value[:size]
        if prefix not in self._writers:
            self._writers[prefix] = self._writer(value, prefix)
        writer = self._writers[prefix]
        ours = self._readers[kind]
        # Resolving a schema to itself would double the cost of decoding.
        reader = None if writer == ours else ours
        content = io.BytesIO(value[size:])
        try:
            decoded = fastavro.schemaless_reader(content, writer, reader)
            return msgspec.convert(decoded, kind)
        except (
            EOFError,
            ValueError,
            IndexError,
            TypeError,
            fastavro.read.SchemaResolutionError,
        ) as error:
            # msgspec's ValidationError is a ValueError, too.
            problem = f"the value of {len(value)} bytes is damaged"
            remedy = (
                "report it, and start the program again, which begins with the present "
                "states"
            )
            # fastavro compares two schemas only while it decodes.
            if reader is not None:
                problem = "it is of a newer major version, or damaged"
                remedy = _UPDATE
            raise SchemaError(
                f"{_name(prefix)} does not give the {kind.__name__} that this client "
                f"knows ({_cut(error)}): {problem}; {remedy}"
            ) from None

    def _writer(self, value: bytes, prefix: bytes) -> Any:
        """Return the schema that a value was written with."""
        if value[:1] == bytes([_CONFLUENT_MAGIC]) and len(prefix) == (
            _CONFLUENT_PREFIX_BYTES
        ):
            return self._from_registry(int.from_bytes(prefix[1:], "big"))
        try:
            found, _ = self._known.written_with(value)
        except ShardCorrupt:
            raise SchemaError(
                f"{_name(prefix)} is none of this client's schemas; {_UPDATE}"
            ) from None
        return plain(found)

    def _from_registry(self, schema_id: int) -> Any:
        if self._registry is None:
            raise SchemaError(
                f"schema {schema_id} is in a schema registry, with the other schemas of "
                "the connector; pass `registry`, its URL"
            )
        text = self._registry.schema(schema_id)
        try:
            return plain(json.loads(text))
        except (
            AttributeError,
            KeyError,
            RecursionError,
            TypeError,
            ValueError,
            fastavro.schema.SchemaParseException,
        ) as error:
            raise SchemaError(
                f"schema {schema_id} in {self._registry.url} is no Avro schema "
                f"({_cut(error)}); is it the registry that the connector uses?"
            ) from None


def _name(prefix: bytes) -> str:
    """Return the name of a schema in messages."""
    if prefix[:1] == bytes([_CONFLUENT_MAGIC]):
        return f"schema {int.from_bytes(prefix[1:], 'big')} of the registry"
    return f"the schema with fingerprint {prefix[2:].hex() or prefix.hex()}"


def _cut(error: Exception) -> str:
    # The text may hold a whole schema.
    return str(error)[:_MAX_ERROR_CHARACTERS]


@contextmanager
def located(place: str) -> Iterator[None]:
    """Add the place of a record to the error of decoding it."""
    try:
        yield
    except SchemaError as error:
        raise SchemaError(f"{place}: {error}") from None
    except RegistryError as error:
        raise RegistryError(f"{place}: {error}") from None
