"""Events and states as Avro values, and back.

With a schema registry a value is framed as Confluent's clients do: a zero byte, the
schema's id (four bytes, big endian), the datum. Without a registry it is an Avro
single-object encoding: C3 01, the CRC-64-AVRO fingerprint of the schema (eight bytes,
little endian), the datum (Avro specification, "Single object encoding").
"""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any, Final, Protocol

import fastavro
import fastavro.schema
import msgspec

from connector.core.model import Event, State
from connector.errors import ShardCorrupt
from connector.kafka.spliced_encoding import (
    LevelsEncoder,
    Schema,
    SplicedEncoder,
    without_last_two,
)

EVENT: Final = "LevelsEvent"
STATE: Final = "LevelsState"
_NAMESPACE: Final = "gex.levels"
_MAX_ERROR_CHARACTERS: Final = 200

# The marker, and with the fingerprint the whole prefix.
_SINGLE_OBJECT: Final = b"\xc3\x01"
_SINGLE_OBJECT_PREFIX_BYTES: Final = 10

# The last two fields are levels, which are encoded on their own.
_EVENT_HEAD: Final = Event.__struct_fields__[:-2]
_STATE_HEAD: Final = State.__struct_fields__[:-2]


def schema(name: str) -> Schema:
    """Return one of `schemas/*.avsc` with the types that it refers to put in."""
    return _load(_schemas_folder() / f"{_NAMESPACE}.{name}.avsc")


def _schemas_folder() -> Path:
    """Return `schemas`, which an installed package has inside."""
    package = Path(__file__).parent.parent
    installed = package / "schemas"
    return installed if installed.is_dir() else package.parent / "schemas"


def _load(path: Path) -> Schema:
    return fastavro.schema.load_schema(str(path), _write_hint=False)


class Framing(Protocol):
    """A way for a value to name the schema that it was written with."""

    def prepare(self, topic: str, name: str) -> None:
        """Make schema `name` known for `topic`, before anything is written to it.

        Raises SetupError, KafkaUnavailable.
        """

    def prefix(self, topic: str, name: str) -> bytes:
        """Return the bytes before a datum of schema `name` in `topic`."""

    def written_with(self, value: bytes) -> tuple[Schema, int]:
        """Return the schema of a value, and where its datum begins.

        Raises ShardCorrupt, KafkaUnavailable.
        """


class SingleObject:
    """Framing without a registry: by the fingerprint of the schema.

    It knows the schemas of this version and of released versions.
    """

    def __init__(self) -> None:
        self._schemas: dict[bytes, Schema] = {}
        self._prefixes: dict[str, bytes] = {}
        folder = _schemas_folder()
        for name in (EVENT, STATE):
            self._prefixes[name] = self._learn(schema(name))
            for path in folder.glob(f"released/*/{_NAMESPACE}.{name}.avsc"):
                self._learn(_load(path))

    def prepare(self, topic: str, name: str) -> None:
        """Do nothing: readers find the schema in the schemas folder."""

    def prefix(self, topic: str, name: str) -> bytes:  # noqa: ARG002 -- the same in every topic
        """Return the marker and the fingerprint."""
        return self._prefixes[name]

    def written_with(self, value: bytes) -> tuple[Schema, int]:
        """Return the schema with the value's fingerprint. Raises ShardCorrupt."""
        prefix = value[:_SINGLE_OBJECT_PREFIX_BYTES]
        found = self._schemas.get(prefix)
        if found is None:
            raise ShardCorrupt(
                f"a value begins with {prefix.hex()}, which is no schema of this "
                "version or an older one; was the topic written with a schema "
                "registry, by a newer version or by another program?"
            )
        return found, _SINGLE_OBJECT_PREFIX_BYTES

    def _learn(self, known: Schema) -> bytes:
        canonical = fastavro.schema.to_parsing_canonical_form(known)
        # Its hexadecimal digits are in the order of the bytes on the wire.
        fingerprint = fastavro.schema.fingerprint(canonical, "CRC-64-AVRO")
        prefix = _SINGLE_OBJECT + bytes.fromhex(fingerprint)
        self._schemas[prefix] = known
        return prefix


class Codec:
    """Encodes and decodes events and states.

    Each shard has its own: not safe for concurrent use.
    """

    def __init__(self, framing: Framing) -> None:
        self._framing = framing
        event, state = schema(EVENT), schema(STATE)

        levels = LevelsEncoder(fastavro.parse_schema(schema("Levels")))
        event_head = without_last_two(event, ("before", "after"))
        state_head = without_last_two(state, ("levels", "published"))
        self._event_encoder = SplicedEncoder(plain(event_head), levels)
        self._state_encoder = SplicedEncoder(plain(state_head), levels)

        self._readers = {EVENT: plain(event), STATE: plain(state)}
        self._writers: dict[bytes, Schema] = {}

        # msgspec 0.22 crashes (SIGSEGV) if two threads are the first to use a type.
        for kind in (Event, State):
            msgspec.json.Decoder(kind)

    def encode_event(self, topic: str, event: Event) -> bytes:
        """Return the value of a record of `changes`."""
        head = {name: getattr(event, name) for name in _EVENT_HEAD}
        changed = [msgspec.structs.asdict(change) for change in event.changed_levels]
        head["changed_levels"] = changed
        head["source"] = msgspec.structs.asdict(event.source)
        prefix = self._framing.prefix(topic, EVENT)
        return self._event_encoder.encode(
            prefix, head, event.symbol, event.before, event.after
        )

    def encode_state(self, topic: str, state: State) -> bytes:
        """Return the value of a record of `current`."""
        head = {name: getattr(state, name) for name in _STATE_HEAD}
        head["source"] = msgspec.structs.asdict(state.source)
        prefix = self._framing.prefix(topic, STATE)
        return self._state_encoder.encode(
            prefix, head, state.symbol, state.levels, state.published
        )

    def decode_event(self, value: bytes) -> Event:
        """Decode an event of this or of a compatible schema. Raises ShardCorrupt."""
        return msgspec.convert(self._decode(value, EVENT), Event)

    def decode_state(self, value: bytes) -> State:
        """Decode a state of this or of a compatible schema. Raises ShardCorrupt."""
        return msgspec.convert(self._decode(value, STATE), State)

    def _decode(self, value: bytes, name: str) -> Any:
        written, start = self._framing.written_with(value)
        prefix = value[:start]
        writer: Any = self._writers.get(prefix)
        if writer is None:
            writer = self._writers[prefix] = plain(written)

        # Resolving a schema to itself would double the cost of decoding.
        ours = self._readers[name]
        reader = None if writer == ours else ours
        try:
            return fastavro.schemaless_reader(io.BytesIO(value[start:]), writer, reader)
        except (
            EOFError,
            ValueError,
            IndexError,
            fastavro.read.SchemaResolutionError,
        ) as error:
            # The text may hold a whole schema.
            reason = str(error)[:_MAX_ERROR_CHARACTERS]
            raise ShardCorrupt(
                f"a value of {len(value)} bytes is no {name}: {reason}; if another version "
                "wrote the topic, use another kafka.topic_prefix"
            ) from None


def plain(full: Schema) -> Schema:
    """Return the schema without logical types, so that moments stay integers."""
    without = _without_logical_types(full)
    # fastavro keeps named types in the schema that it parsed: give it a copy.
    plain: Schema = fastavro.parse_schema(json.loads(json.dumps(without)), _force=True)
    return plain


def _without_logical_types(part: Any) -> Any:
    if isinstance(part, list):
        return [_without_logical_types(item) for item in part]
    if not isinstance(part, dict):
        return part
    without = {}
    for key, value in part.items():
        # Keys with two underscores are fastavro's own marks.
        if key != "logicalType" and not key.startswith("__"):
            without[key] = _without_logical_types(value)
    return without
