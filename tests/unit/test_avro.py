"""Events and states as Avro values, which Apache's own package reads, too.

The connector encodes with fastavro and its own splicing of levels. Apache's package is an
independent implementation, so that a misreading of the specification shows.
"""

from __future__ import annotations

import functools
import io
import json
import subprocess
import sys
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any, Final

import avro.errors
import avro.io
import avro.schema
import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from connector.core.model import (
    Event,
    Kind,
    LevelChange,
    Levels,
    RankedRow,
    Row,
    Source,
    State,
    Status,
)
from connector.errors import ShardCorrupt
from connector.kafka.avro import EVENT, STATE, Codec, SingleObject, schema
from connector.kafka.names import partition_of
from connector.kafka.registry import _parse
from tests.support.levels import ME, NOW, any_levels, at
from tests.support.profiles import cases

if TYPE_CHECKING:
    from collections.abc import Iterator

quick = cases(100)
EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
RECORDS: Final = {"LevelsEvent": Event, "LevelsState": State}
TYPES: Final = {
    "Levels": Levels,
    "Source": Source,
    "LevelChange": LevelChange,
    "RankedRow": RankedRow,
    "Row": Row,
    **RECORDS,
}
SECTIONS: Final = ("all_expiry", "odte", "max_pain", "expected_move", "ranked")

# A single-object encoding begins with a marker of two bytes and a fingerprint of eight.
MARKER: Final = b"\xc3\x01"
PREFIX_BYTES: Final = 10

# Avro strings are UTF-8, which has no lone surrogates.
texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=8)
# The upper bound is in the year 2096.
moments = st.integers(0, 4_000_000_000_000_000)
sources = st.builds(
    Source,
    version=texts,
    group=texts,
    worker=texts,
    request_id=st.none() | texts,
    exchanges=st.lists(texts, max_size=2).map(tuple),
)
floats = st.none() | st.floats(allow_nan=False, allow_infinity=False)
changes = st.builds(LevelChange, texts, floats, floats)
sequences = st.integers(1, 2**63 - 1)
events = st.builds(
    Event,
    event_id=texts,
    feed=texts,
    symbol=texts,
    sequence=sequences,
    kind=st.sampled_from(Kind),
    status=st.sampled_from(Status),
    reason=st.none() | texts,
    computed_at=st.none() | moments,
    previous_computed_at=st.none() | moments,
    observed_at=moments,
    changed_levels=st.lists(changes, max_size=3).map(tuple),
    changed_sections=st.lists(texts, max_size=3).map(tuple),
    collapsed_observations=st.integers(0, 2**31 - 1),
    source=sources,
    before=st.none() | any_levels,
    after=st.none() | any_levels,
)
states = st.builds(
    State,
    feed=texts,
    symbol=texts,
    sequence=sequences,
    status=st.sampled_from(Status),
    computed_at=st.none() | moments,
    observed_at=moments,
    request_fingerprint=texts,
    source=sources,
    event_computed_at=st.none() | moments,
    recent_computed_at=st.lists(moments, max_size=16).map(tuple),
    positioning=st.none() | texts,
    levels=st.none() | any_levels,
    published=st.none() | any_levels,
)
known_levels = st.lists(any_levels, min_size=1, max_size=6)
few_symbols = st.lists(st.sampled_from(["A", "B"]), max_size=8)


def state_of(symbol: str, **fields: Any) -> State:
    """Return a state of a symbol, with other values in some of its fields."""
    plain_fields: dict[str, Any] = {
        "feed": "f",
        "symbol": symbol,
        "sequence": 1,
        "status": Status.LIVE,
        "computed_at": None,
        "observed_at": 0,
        "request_fingerprint": "",
        "source": ME,
    }
    return State(**(plain_fields | fields))


STATE_SAMPLE = state_of(
    "BTCUSDT",
    sequence=3,
    computed_at=NOW,
    observed_at=NOW + 5,
    request_fingerprint="fp",
    recent_computed_at=(NOW - 30, NOW),
    levels=at("odte.hvl", 1.5),
)


@pytest.fixture
def codec() -> Codec:
    return new_codec()


def new_codec() -> Codec:
    return Codec(SingleObject())


# --- values ---


@functools.cache
def apaches_schema(name: str) -> Any:
    return avro.schema.parse(json.dumps(schema(name)))


def read_by_apache(value: bytes, name: str) -> Any:
    """Decode the datum after the prefix, as plain values."""
    assert value.startswith(MARKER)
    rest = io.BytesIO(value[PREFIX_BYTES:])
    reader = avro.io.DatumReader(apaches_schema(name))
    datum = reader.read(avro.io.BinaryDecoder(rest))

    # Bytes behind the datum would be read as part of nothing, and stay unnoticed.
    assert not rest.read()
    return plain(datum)


def plain(datum: Any) -> Any:
    """Return moments as microseconds, and tuples as lists."""
    if isinstance(datum, datetime):
        return (datum - EPOCH) // timedelta(microseconds=1)
    if isinstance(datum, dict):
        return {name: plain(value) for name, value in datum.items()}
    if isinstance(datum, list | tuple):
        return [plain(item) for item in datum]
    return datum


@quick
@given(events)
def test_apaches_reader_finds_in_an_event_the_values_written(event: Event) -> None:
    codec = new_codec()

    value = codec.encode_event("t", event)

    written = plain(msgspec.to_builtins(event))
    assert read_by_apache(value, EVENT) == written
    assert codec.decode_event(value) == event


@quick
@given(states)
def test_apaches_reader_finds_in_a_state_the_values_written(state: State) -> None:
    codec = new_codec()

    value = codec.encode_state("t", state)

    written = plain(msgspec.to_builtins(state))
    assert read_by_apache(value, STATE) == written
    assert codec.decode_state(value) == state


# A codec keeps the last encoded levels of each symbol: they appear in several records.
@quick
@given(known_levels, st.data())
def test_levels_encoded_before_never_show_in_another_value(
    known: list[Levels], data: st.DataObject
) -> None:
    used_before = new_codec()
    some_levels = st.none() | st.sampled_from(known)

    for symbol in data.draw(few_symbols):
        state = state_of(
            symbol,
            levels=data.draw(some_levels),
            published=data.draw(some_levels),
        )
        value = used_before.encode_state("t", state)
        assert value == new_codec().encode_state("t", state)


# --- prefixes ---


def plain_types(part: Any) -> Any:
    """Return a schema with `{"type": "long", "logicalType": ...}` as `"long"`."""
    if isinstance(part, list):
        return [plain_types(item) for item in part]
    if not isinstance(part, dict):
        return part
    if "logicalType" in part:
        return part["type"]
    return {name: plain_types(value) for name, value in part.items()}


def crc_64_avro(data: bytes) -> int:
    """Compute the fingerprint as the Java code in the Avro specification does."""
    empty = 0xC15D213AA4D7A795
    fingerprint = empty
    for byte in data:
        fingerprint ^= byte
        for _ in range(8):
            is_odd = fingerprint & 1
            fingerprint >>= 1
            if is_odd:
                fingerprint ^= empty
    return fingerprint


@pytest.mark.parametrize("name", RECORDS)
def test_a_value_begins_with_the_marker_and_the_fingerprint_of_its_schema(
    name: str,
) -> None:
    # Apache's Python package keeps {"type": "long"} in the canonical form of a logical
    # type, against the specification ([PRIMITIVES]) and Apache's Java. So it gets the
    # schema without logical types.
    without_logical_types = json.dumps(plain_types(schema(name)))
    canonical = avro.schema.parse(without_logical_types).canonical_form

    fingerprint = crc_64_avro(canonical.encode()).to_bytes(8, "little")

    apaches = avro.schema.parse(canonical).fingerprint("CRC-64-AVRO")
    assert bytes(apaches) == fingerprint
    assert SingleObject().prefix("topic", name) == MARKER + fingerprint


def test_the_reference_fingerprint_is_the_specifications() -> None:
    """The vector of `"null"` in Apache's own test file schema-tests.txt."""
    assert crc_64_avro(b'"null"') == 7_195_948_357_588_979_594


# --- schemas ---


def named(part: Any) -> dict[str, Any]:
    """Return every record and enumeration, by its name without the namespace."""
    found: dict[str, Any] = {}
    if isinstance(part, dict):
        if part.get("type") in ("record", "enum"):
            _, _, name = part["name"].rpartition(".")
            found[name] = part
        for value in part.values():
            found |= named(value)
    elif isinstance(part, list):
        for item in part:
            found |= named(item)
    return found


def field_names(definition: dict[str, Any]) -> tuple[str, ...]:
    """Return the names of a record's fields in their order."""
    return tuple(field["name"] for field in definition["fields"])


def fields_of(record: str) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield every field of a record and of the records inside, by `Record.field`."""
    for name, definition in named(schema(record)).items():
        for field in definition.get("fields", []):
            yield f"{name}.{field['name']}", field


def logical_type(part: Any) -> str | None:
    """Return the logical type of a field, of its non-null branch, or of its items."""
    if isinstance(part, list):
        return logical_type(part[-1])
    if not isinstance(part, dict):
        return None
    if part["type"] == "array":
        return logical_type(part["items"])
    return part.get("logicalType")


# The codec takes the fields from the model by their order: the last two are levels, which
# it encodes apart.
@pytest.mark.parametrize("name", TYPES)
def test_a_schema_has_the_fields_of_the_model_in_its_order(name: str) -> None:
    record = EVENT
    if name == STATE:
        record = STATE

    definition = named(schema(record))[name]

    assert field_names(definition) == TYPES[name].__struct_fields__


def test_the_sections_of_levels_have_the_fields_of_the_model_in_its_order() -> None:
    found = named(schema("Levels"))

    for section in SECTIONS:
        model = type(getattr(Levels(), section))
        definition = found[model.__name__]
        assert field_names(definition) == model.__struct_fields__


@pytest.mark.parametrize(
    ("name", "values"),
    [("Status", Status), ("Kind", Kind)],
)
def test_an_enumeration_has_the_models_values_in_its_order(
    name: str, values: type[Status | Kind]
) -> None:
    symbols = named(schema(EVENT))[name]["symbols"]

    assert symbols == [value.value for value in values]


@pytest.mark.parametrize("record", RECORDS)
def test_every_type_and_every_field_is_documented(record: str) -> None:
    for name, definition in named(schema(record)).items():
        assert definition.get("doc"), name
    for name, field in fields_of(record):
        assert len(field.get("doc", "")) > 3, name


# With the default, a newer reader reads older values that lack the field. Avro allows null
# as a default only if it is the first branch.
@pytest.mark.parametrize("record", RECORDS)
def test_a_nullable_field_has_null_first_and_as_its_default(record: str) -> None:
    for name, field in fields_of(record):
        if isinstance(field["type"], list):
            assert field["type"][0] == "null", name
            assert field["default"] is None, name


@pytest.mark.parametrize("record", RECORDS)
def test_moments_are_timestamps_in_microseconds(record: str) -> None:
    for field in schema(record)["fields"]:
        is_moment = field["name"].endswith("_at")
        is_timestamp = logical_type(field["type"]) == "timestamp-micros"
        assert is_timestamp == is_moment, field["name"]


# --- values that cannot be read ---


@pytest.mark.parametrize(
    "value",
    [
        b"",
        b"\xc3",
        b"\xc3\x01",
        # Single-object encodings with unknown fingerprints.
        b"\xc3\x01" + bytes(8),
        b"\xc3\x01" + bytes(range(80)),
        # The framing with a registry: a zero byte and the schema's id.
        b"\x00\x00\x00\x00\x01" + bytes(40),
        # JSON of another program.
        b'{"feed":"f"}',
    ],
)
def test_a_value_of_an_unknown_schema_is_corrupt(value: bytes, codec: Codec) -> None:
    for decode in (codec.decode_state, codec.decode_event):
        with pytest.raises(ShardCorrupt):
            decode(value)


def test_a_state_is_no_event(codec: Codec) -> None:
    value = codec.encode_state("t", STATE_SAMPLE)

    with pytest.raises(ShardCorrupt):
        codec.decode_event(value)


def test_a_truncated_value_is_corrupt(codec: Codec) -> None:
    value = codec.encode_state("t", STATE_SAMPLE)
    assert codec.decode_state(value) == STATE_SAMPLE

    for length in range(len(value)):
        truncated = value[:length]
        with pytest.raises(ShardCorrupt):
            codec.decode_state(truncated)


# Avro has no checksum, so a damaged value may decode to another state. It must never
# raise an error that the connector does not expect.
@cases(400)
@given(states, st.data())
def test_a_damaged_value_is_some_state_or_corrupt(
    state: State, data: st.DataObject
) -> None:
    codec = new_codec()
    value = bytearray(codec.encode_state("t", state))
    positions = st.integers(PREFIX_BYTES, len(value) - 1)
    damages = data.draw(st.integers(1, 4))
    for _ in range(damages):
        position = data.draw(positions)
        value[position] = data.draw(st.integers(0, 255))

    try:
        assert isinstance(codec.decode_state(bytes(value)), State)
    except ShardCorrupt as error:
        assert len(str(error)) < 1_000  # noqa: PT017 -- either is right


# --- partitions ---


# Consumers in Java compute a symbol's partition themselves. The hash there is signed.
@pytest.mark.parametrize(
    ("key", "java_hash"),
    [
        ("21", -973_932_308),
        ("foobar", -790_332_482),
        ("a-little-bit-long-string", -985_981_536),
        ("a-little-bit-longer-string", -1_486_304_829),
        ("lkjh234lh9fiuh90y23oiuhsafujhadof229phr9h19h89h8", -58_897_971),
        ("abc", 479_470_107),
    ],
)
def test_a_key_is_in_the_partition_that_javas_clients_choose(
    key: str, java_hash: int
) -> None:
    """Vectors of org.apache.kafka.common.utils.UtilsTest#testMurmur2."""
    positive = java_hash & 0x7FFFFFFF

    for partitions in (1, 2, 3, 6, 7, 64, 2**31 - 1):
        assert partition_of(key, partitions) == positive % partitions


# --- threads ---


# Another program may write to our topics with a schema of the same registry.
@pytest.mark.parametrize(
    "text",
    [
        '{"title": "JSON Schema", "properties": {}}',
        '{"type": "array"}',
        '{"type": "object"}',
        'syntax = "proto3"; message Other {}',
        "null",
    ],
)
def test_a_schema_of_another_kind_makes_a_value_unreadable(text: str) -> None:
    with pytest.raises(
        ShardCorrupt, match="cannot parse schema 7 of the schema registry"
    ):
        _parse(7, text)


DECODE_IN_EIGHT_THREADS: Final = """
import sys, threading
from connector.kafka.avro import Codec, SingleObject
sys.setswitchinterval(1e-6)
value = bytes.fromhex(sys.argv[1])
codecs = [Codec(SingleObject()) for _ in range(8)]
start = threading.Barrier(len(codecs))

def decode(codec):
    start.wait()
    codec.decode_state(value)

threads = [threading.Thread(target=decode, args=(codec,)) for codec in codecs]
for thread in threads:
    thread.start()
for thread in threads:
    thread.join()
"""


# msgspec 0.22 crashes if two threads are the first to use a type. Only the first use in a
# process can show it, so each case is a new process.
@pytest.mark.parametrize("process", range(8))
def test_the_first_shards_of_a_process_are_decoded_in_parallel(
    process: int, codec: Codec
) -> None:
    """Without the codec's precaution every second process dies."""
    value = codec.encode_state("topic", STATE_SAMPLE)
    command = [sys.executable, "-c", DECODE_IN_EIGHT_THREADS, value.hex()]

    done = subprocess.run(command, check=False, timeout=180)

    assert done.returncode == 0
