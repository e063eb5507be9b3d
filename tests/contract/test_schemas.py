"""The schemas are documented, of one style, and compatible with every release."""

from __future__ import annotations

import io
import itertools
import json
import random
import re
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

import fastavro
import pytest
from fastavro.read import SchemaResolutionError
from fastavro.schema import fingerprint, load_schema, to_parsing_canonical_form
from fastavro.utils import generate_many

from connector.kafka.avro import SingleObject

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

FOLDER = Path(__file__).parents[2] / "schemas"
FILES = sorted(FOLDER.glob("*.avsc"))
RELEASES = sorted((FOLDER / "released").glob("*"))
NAMESPACE = "gex.levels"
# The types that have a topic of their own.
RECORDS = ("LevelsEvent", "LevelsState")
# Enough for every member of every union and enumeration to be drawn.
SAMPLES = 60

Schema = Any


def types_in(schema: Schema) -> Iterator[Schema]:
    """Return the schema and every type inside it, references as their names."""
    yield schema
    for part in parts_of(schema):
        yield from types_in(part)


def parts_of(schema: Schema) -> list[Schema]:
    """Return the types directly inside a type."""
    # A union is a list.
    if isinstance(schema, list):
        return schema
    # A reference to another type, or a primitive type.
    if not isinstance(schema, dict):
        return []
    parts = []
    for field in schema.get("fields", ()):
        parts.append(field["type"])
    # An array has items, a map has values.
    for key in ("items", "values"):
        if key in schema:
            parts.append(schema[key])
    return parts


def all_types() -> list[Schema]:
    found: list[Schema] = []
    for file in FILES:
        found += types_in(json.loads(file.read_text(encoding="utf-8")))
    return found


def named_types() -> list[Schema]:
    """Return every record and every enumeration."""
    found = []
    for part in all_types():
        if isinstance(part, dict) and "name" in part:
            found.append(part)
    return found


def all_fields() -> list[tuple[str, Schema]]:
    """Return every field, with the name of its record."""
    found = []
    for record in named_types():
        for field in record.get("fields", ()):
            found.append((record["name"], field))
    return found


def test_every_file_is_named_after_its_type() -> None:
    # fastavro looks a referenced type up under this name.
    names = {file.name for file in FILES}
    for name in RECORDS:
        assert f"{NAMESPACE}.{name}.avsc" in names
    for file in FILES:
        name = json.loads(file.read_text(encoding="utf-8"))["name"]
        assert file.name == f"{NAMESPACE}.{name}.avsc"


def test_everything_is_documented() -> None:
    # A registry shows these texts to the people who read our topics.
    for part in named_types():
        text = part.get("doc", "")
        assert text.endswith("."), part["name"]
    for record, field in all_fields():
        text = field.get("doc", "")
        assert text.endswith("."), f"{record}.{field['name']}"


def test_names_are_of_one_style() -> None:
    for part in named_types():
        assert part["namespace"] == NAMESPACE
        assert re.fullmatch(r"([A-Z][a-z]+)+", part["name"])
        for symbol in part.get("symbols", ()):
            assert re.fullmatch(r"[A-Z]+", symbol)
    for _, field in all_fields():
        assert re.fullmatch(r"[a-z]+(_[a-z0-9]+)*", field["name"])

    names = [part["name"] for part in named_types()]
    assert len(set(names)) == len(names)


def test_a_union_is_of_null_and_one_type_with_null_as_its_default() -> None:
    # Code generators make an optional value of such a union, and `Object` of others. Avro
    # takes a default for the first type of a union only.
    for record, field in all_fields():
        union = field["type"]
        if isinstance(union, list):
            place = f"{record}.{field['name']}"
            assert len(union) == 2, place
            assert union[0] == "null", place
            assert field["default"] is None, place


def test_no_number_loses_digits() -> None:
    # Avro's float has 32 bits: 64250.55 would become 64250.55078125.
    for part in all_types():
        assert part != "float"


def test_every_moment_is_in_microseconds() -> None:
    for _, field in all_fields():
        if field["name"].endswith("_at"):
            # Look into a union with null, and into an array.
            inner = field["type"]
            if isinstance(inner, list):
                inner = inner[-1]
            if inner["type"] == "array":
                inner = inner["items"]
            assert inner == {"type": "long", "logicalType": "timestamp-micros"}


def misreadings(writer: Schema, reader: Schema) -> list[str]:
    """Return the errors of a reader with one schema in values of the other.

    The schemas are compatible if there are none.
    """
    # fastavro draws its samples from the global generator.
    random.seed(1)
    found = []
    for datum in generate_many(writer, SAMPLES):
        out = io.BytesIO()
        fastavro.schemaless_writer(out, writer, datum)

        # The datum itself is not as a reader sees it: moments become dates, for instance.
        out.seek(0)
        written = fastavro.schemaless_reader(out, writer, None)
        out.seek(0)
        try:
            read = fastavro.schemaless_reader(out, writer, reader)
        except (SchemaResolutionError, EOFError, IndexError, ValueError) as error:
            found.append(f"{type(error).__name__}: {error}")
        else:
            found += differences(written, read)
    return found


def differences(written: Any, read: Any) -> list[str]:
    """Return the disagreements in the fields that both sides know."""
    pairs: list[tuple[Any, Any]] = []
    if isinstance(written, dict) and isinstance(read, dict):
        # A field that only one side knows is allowed.
        for key in written.keys() & read.keys():
            pairs.append((written[key], read[key]))
    elif isinstance(written, list) and isinstance(read, list):
        pairs = list(zip(written, read, strict=True))
    elif written != read:
        return [f"{written!r} is read as {read!r}"]

    found = []
    for inner_written, inner_read in pairs:
        found += differences(inner_written, inner_read)
    return found


def paths(schema: Schema) -> set[str]:
    """Return every field of every record. None may be removed from a released schema."""
    found = set()
    for part in types_in(schema):
        if isinstance(part, dict):
            for field in part.get("fields", ()):
                found.add(f"{part['name']}.{field['name']}")
    return found


def faults_between(old: Schema, new: Schema) -> list[str]:
    """Return the reasons why one of two versions cannot replace the other."""
    faults = sorted(paths(old) - paths(new))
    # Consumers and producers are upgraded in any order.
    faults += misreadings(old, new)
    faults += misreadings(new, old)
    return faults


def load(folder: Path, name: str) -> Schema:
    return load_schema(str(folder / f"{NAMESPACE}.{name}.avsc"))


def faults_in(folder: Path, name: str) -> list[str]:
    """Compare every two versions in a folder of schemas: those released, and the next."""
    # Not only neighbours: a topic holds records of all versions.
    versions = []
    for release in sorted((folder / "released").iterdir()):
        versions.append(load(release, name))
    versions.append(load(folder, name))

    faults = []
    for old, new in itertools.combinations_with_replacement(versions, 2):
        faults += faults_between(old, new)
    return faults


@pytest.mark.parametrize("name", RECORDS)
def test_every_two_versions_read_each_other(name: str) -> None:
    assert faults_in(FOLDER, name) == []


@pytest.mark.parametrize("release", RELEASES, ids=lambda release: release.name)
def test_a_release_is_complete(release: Path) -> None:
    # A type that is in its own folder is not taken from a later version.
    for name in RECORDS:
        assert (release / f"{NAMESPACE}.{name}.avsc").is_file()
    assert {file.name for file in release.iterdir()} <= {file.name for file in FILES}


@pytest.mark.parametrize("name", RECORDS)
@pytest.mark.parametrize("release", RELEASES, ids=lambda release: release.name)
def test_a_value_of_a_release_is_understood_without_a_registry(
    release: Path, name: str
) -> None:
    released = load(release, name)
    canonical = to_parsing_canonical_form(released)
    value = b"\xc3\x01" + bytes.fromhex(fingerprint(canonical, "CRC-64-AVRO"))

    found, _ = SingleObject().written_with(value)

    assert to_parsing_canonical_form(found) == canonical


# Changes that a registry with FULL_TRANSITIVE would refuse as well.
def without_field(schema: Schema) -> None:
    schema["fields"].remove(field_of(schema, "reason"))


def renamed_field(schema: Schema) -> None:
    field_of(schema, "feed")["name"] = "stream"


def other_type(schema: Schema) -> None:
    field_of(schema, "collapsed_observations")["type"] = "long"


def no_default(schema: Schema) -> None:
    added = {"name": "added", "type": "string"}
    schema["fields"].append(added)


def new_symbol(schema: Schema) -> None:
    field_of(schema, "kind")["type"]["symbols"].append("NEWS")


def new_field(schema: Schema) -> None:
    added = {"name": "added", "type": ["null", "string"], "default": None}
    # In the middle: readers match fields by name, not by position.
    schema["fields"].insert(3, added)


def field_of(schema: Schema, name: str) -> Schema:
    for field in schema["fields"]:
        if field["name"] == name:
            return field
    raise KeyError(name)


def changed_folder(tmp_path: Path, change: Callable[[Schema], None]) -> Path:
    """Copy all schemas, and change the next version of the event."""
    folder = tmp_path / "schemas"
    shutil.copytree(FOLDER, folder)
    file = folder / f"{NAMESPACE}.LevelsEvent.avsc"
    schema = json.loads(file.read_text(encoding="utf-8"))
    change(schema)
    file.write_text(json.dumps(schema), encoding="utf-8")
    return folder


@pytest.mark.parametrize(
    "change", [without_field, renamed_field, other_type, no_default, new_symbol]
)
def test_a_change_that_breaks_a_reader_of_a_release_is_found(
    tmp_path: Path, change: Callable[[Schema], None]
) -> None:
    assert faults_in(changed_folder(tmp_path, change), "LevelsEvent")


def test_a_new_field_with_a_default_breaks_no_reader(tmp_path: Path) -> None:
    assert faults_in(changed_folder(tmp_path, new_field), "LevelsEvent") == []
