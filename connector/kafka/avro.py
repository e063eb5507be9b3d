"""Events and states as Avro, and back.

With a schema registry a value is framed as Confluent's clients do: a zero byte, the schema's id (four bytes, big
endian), the datum. Without one it is an Avro single-object encoding: C3 01, the CRC-64-AVRO fingerprint of the
schema (eight bytes, little endian), the datum (Avro specification, "Single object encoding").
"""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Protocol

import fastavro
import fastavro.schema
import msgspec

from connector.core.model import Event, Levels, Ranked, Row, State
from connector.errors import ShardCorrupt

if TYPE_CHECKING:
    from collections.abc import Mapping

_NAMESPACE: Final = "gex.levels"
_SINGLE_OBJECT: Final = b"\xc3\x01"
_NULL, _LEVELS = b"\x00", b"\x02"
_MEMO_SIZE: Final = 3
"""Encoded `Levels` kept per symbol: last seen, last published, and the one that is to be."""

Schema = Any
"""A schema as JSON has it, or as fastavro parsed it."""


def schema(name: str) -> Schema:
    """One of `schemas/*.avsc` with the types it refers to put in, as a registry takes it."""
    return _load(_folder() / f"{_NAMESPACE}.{name}.avsc")


def _folder() -> Path:
    here = Path(__file__).parent.parent
    return next(
        path for path in (here / "schemas", here.parent / "schemas") if path.is_dir()
    )


def _load(path: Path) -> Schema:
    return fastavro.schema.load_schema(str(path), _write_hint=False)


EVENT: Final = "LevelsEvent"
STATE: Final = "LevelsState"
_MOMENT: Final = "computed_at"


class Framing(Protocol):
    """How a value says which schema it was written with."""

    def prepare(self, topic: str, name: str) -> None:
        """Make schema `name` known for `topic`, before it is written to. Raises SetupError, KafkaUnavailable."""

    def prefix(self, topic: str, name: str) -> bytes:
        """What precedes a datum of schema `name` in `topic`."""

    def written_with(self, value: bytes) -> tuple[Schema, int]:
        """The schema of a value, and where its datum begins. Raises `ShardCorrupt`."""


class SingleObject:
    """Framing without a registry: knows the schemas of this version and of those released before."""

    def __init__(self) -> None:
        self._schemas: dict[bytes, Schema] = {}
        self._prefixes = {name: self._learn(schema(name)) for name in (EVENT, STATE)}
        for name in (EVENT, STATE):
            for path in _folder().glob(f"released/*/{_NAMESPACE}.{name}.avsc"):
                self._learn(_load(path))

    def _learn(self, known: Schema) -> bytes:
        """The marker and the fingerprint, whose hexadecimal digits fastavro has in the order of the bytes."""
        canonical = fastavro.schema.to_parsing_canonical_form(known)
        prefix = _SINGLE_OBJECT + bytes.fromhex(
            fastavro.schema.fingerprint(canonical, "CRC-64-AVRO")
        )
        self._schemas[prefix] = known
        return prefix

    def prepare(self, topic: str, name: str) -> None:
        """Nothing to do."""

    def prefix(self, topic: str, name: str) -> bytes:  # noqa: ARG002 -- the same in every topic
        """The marker and the fingerprint."""
        return self._prefixes[name]

    def written_with(self, value: bytes) -> tuple[Schema, int]:
        """By the fingerprint. Raises `ShardCorrupt` for one that is not of this version."""
        found = self._schemas.get(value[:10])
        if found is None:
            raise ShardCorrupt(
                f"a value begins with {value[:10].hex()}, which is no schema of this version or one before; was the "
                "topic written with a schema registry, by a newer version or by another program?"
            )
        return found, 10


class Codec:
    """Encodes events and states, and decodes them.

    The levels of a symbol are encoded once: an event's `after` is the state's `levels`, and the next event's
    `before`. One for each shard: not safe for concurrent use.
    """

    def __init__(self, framing: Framing) -> None:
        self._framing = framing
        event, state = schema(EVENT), schema(STATE)
        self._event, self._state = (
            _head(event, ("before", "after")),
            _head(state, ("levels", "published")),
        )
        self._levels = fastavro.parse_schema(schema("Levels"))
        self._readers = {EVENT: _plain(event), STATE: _plain(state)}
        self._writers: dict[str, Schema] = {}
        self._moments: dict[bytes, Schema] = {}
        self._memo: dict[str, list[tuple[Levels, bytes]]] = {}
        for kind in (
            Event,
            State,
        ):  # msgspec 0.22 dies (SIGSEGV) where two threads are the first to use a type
            msgspec.json.Decoder(kind)

    def event(self, topic: str, event: Event) -> bytes:
        """The value of a record of `changes`."""
        head = {name: getattr(event, name) for name in _EVENT_HEAD}
        head["changed_levels"] = [
            msgspec.structs.asdict(change) for change in event.changed_levels
        ]
        head["source"] = msgspec.structs.asdict(event.source)
        prefix = self._framing.prefix(topic, EVENT)
        return self._join(
            prefix, self._event, head, (event.symbol, event.before, event.after)
        )

    def state(self, topic: str, state: State) -> bytes:
        """The value of a record of `current`."""
        head = {name: getattr(state, name) for name in _STATE_HEAD}
        head["source"] = msgspec.structs.asdict(state.source)
        prefix = self._framing.prefix(topic, STATE)
        return self._join(
            prefix, self._state, head, (state.symbol, state.levels, state.published)
        )

    def decode_event(self, value: bytes) -> Event:
        """An event, of this version's schema or of one that resolves to it. Raises `ShardCorrupt`."""
        return msgspec.convert(self._decode(value, EVENT), Event)

    def decode_state(self, value: bytes) -> State:
        """A state, of this version's schema or of one that resolves to it. Raises `ShardCorrupt`."""
        return msgspec.convert(self._decode(value, STATE), State)

    def computed_at(self, value: bytes, symbol: str) -> int | None:
        """That of a symbol's state, without decoding the rest, which costs 20 times as much.

        Raises:
            ShardCorrupt: what is read is damaged, or another symbol's.
        """
        written, start = self._framing.written_with(value)
        key = value[:start]
        schema = self._moments.get(key)
        if schema is None:
            fields = written.get("fields", []) if isinstance(written, dict) else []
            names = [field["name"] for field in fields]
            if _MOMENT not in names or "symbol" not in names[: names.index(_MOMENT)]:
                raise ShardCorrupt(
                    f"a value of {len(value)} bytes is no {STATE}: its schema has no symbol and {_MOMENT}"
                )
            schema = _plain(
                {**written, "fields": written["fields"][: names.index(_MOMENT) + 1]}
            )
            self._moments[key] = schema
        head = _read(value, start, STATE, schema)
        if head["symbol"] != symbol:
            raise ShardCorrupt(
                f"a value of {len(value)} bytes is the {STATE} of another symbol than {symbol}"
            )
        found: int | None = head[_MOMENT]
        return found

    def _join(
        self,
        prefix: bytes,
        head_schema: Schema,
        head: Mapping[str, Any],
        tail: tuple[str, Levels | None, Levels | None],
    ) -> bytes:
        out = io.BytesIO()
        out.write(prefix)
        fastavro.schemaless_writer(out, head_schema, head, strict=True)
        symbol, *both = tail
        for levels in both:
            out.write(
                _NULL if levels is None else _LEVELS + self._encoded(symbol, levels)
            )
        return out.getvalue()

    def _encoded(self, symbol: str, levels: Levels) -> bytes:
        memo = self._memo.setdefault(symbol, [])
        for known, encoded in memo:
            if known is levels:
                return encoded
        out = io.BytesIO()
        fastavro.schemaless_writer(out, self._levels, _as_dict(levels), strict=True)
        memo.append((levels, out.getvalue()))
        del memo[:-_MEMO_SIZE]
        return out.getvalue()

    def _decode(self, value: bytes, name: str) -> Any:
        written, start = self._framing.written_with(value)
        key = value[:start].hex()
        writer: Any = self._writers.get(key) or self._writers.setdefault(
            key, _plain(written)
        )
        reader = self._readers[name]
        # Resolving a schema to itself would double what decoding costs.
        return _read(value, start, name, writer, None if writer == reader else reader)


def _read(value: bytes, start: int, name: str, writer: Any, reader: Any = None) -> Any:
    try:
        return fastavro.schemaless_reader(io.BytesIO(value[start:]), writer, reader)
    except (
        EOFError,
        ValueError,
        IndexError,
        fastavro.read.SchemaResolutionError,
    ) as error:
        raise ShardCorrupt(
            f"a value of {len(value)} bytes is no {name}: {error}"
        ) from None


_EVENT_HEAD: Final = Event.__struct_fields__[:-2]
_STATE_HEAD: Final = State.__struct_fields__[:-2]


def _as_dict(levels: Levels) -> dict[str, Any]:
    """The levels as fastavro takes them. Naming the branch of each union halves what encoding costs."""

    def number(value: float | None) -> tuple[str, float] | None:
        return None if value is None else ("double", value)

    def section(values: msgspec.Struct) -> dict[str, Any]:
        return {
            name: number(value)
            for name, value in msgspec.structs.asdict(values).items()
        }

    def rows(given: tuple[Row, ...] | None) -> tuple[str, list[dict[str, Any]]] | None:
        return (
            None
            if given is None
            else (
                "array",
                [{"strike": number(row.strike), "json": row.json} for row in given],
            )
        )

    return {
        "spot_price": number(levels.spot_price),
        "all_expiry": section(levels.all_expiry),
        "odte": section(levels.odte),
        "max_pain": section(levels.max_pain),
        "expected_move": section(levels.expected_move),
        "ranked": {
            name: rows(getattr(levels.ranked, name))
            for name in Ranked.__struct_fields__
        },
        "zones": rows(levels.zones),
        "extra": levels.extra,
    }


def _head(full: Schema, tail: tuple[str, str]) -> Schema:
    """The record without its last two fields, which are encoded apart: Avro writes fields one after another."""
    names = tuple(field["name"] for field in full["fields"][-2:])
    if names != tail:
        raise ValueError(
            f"the last fields of {full['name']} are {names}, expected {tail}"
        )
    return _plain({**full, "fields": full["fields"][:-2]})


def _plain(full: Schema) -> Schema:
    """The same without logical types, so that moments are read as the integers they are written as."""

    def without(part: Any) -> Any:
        if isinstance(part, dict):
            return {
                key: without(value)
                for key, value in part.items()
                if not key.startswith("__") and key != "logicalType"
            }
        return [without(item) for item in part] if isinstance(part, list) else part

    plain: Schema = fastavro.parse_schema(
        json.loads(json.dumps(without(full))), _force=True
    )
    return plain
