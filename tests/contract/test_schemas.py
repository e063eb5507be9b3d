"""The schemas: readable, of one style, and compatible with every version that was ever released."""

from __future__ import annotations

import copy
import io
import itertools
import json
import random
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

import fastavro
import pytest
from fastavro.read import SchemaResolutionError
from fastavro.schema import load_schema
from fastavro.utils import generate_many

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

FOLDER = Path(__file__).parents[2] / "schemas"
FILES = sorted(FOLDER.glob("*.avsc"))
RELEASES = sorted((FOLDER / "released").glob("*"))
NAMESPACE = "gex.levels"
TOP = ("LevelsEvent", "LevelsState")
SAMPLES = 60

Schema = Any


def types_in(schema: Schema) -> Iterator[Schema]:
    """The schema and every type inside it, references as their names."""
    yield schema
    if isinstance(schema, list):
        inner = schema
    elif isinstance(schema, dict):
        inner = [field["type"] for field in schema.get("fields", ())]
        inner += [schema[key] for key in ("items", "values") if key in schema]
    else:
        inner = []
    for part in inner:
        yield from types_in(part)


def all_types() -> list[Schema]:
    return [
        part
        for file in FILES
        for part in types_in(json.loads(file.read_text(encoding="utf-8")))
    ]


def named() -> list[Schema]:
    return [part for part in all_types() if isinstance(part, dict) and "name" in part]


def fields() -> list[tuple[str, Schema]]:
    return [
        (record["name"], field)
        for record in named()
        for field in record.get("fields", ())
    ]


def test_every_file_is_called_as_its_type() -> None:
    assert {file.name for file in FILES} >= {f"{NAMESPACE}.{name}.avsc" for name in TOP}
    for file in FILES:
        assert (
            file.name
            == f"{NAMESPACE}.{json.loads(file.read_text(encoding='utf-8'))['name']}.avsc"
        )


def test_everything_is_documented() -> None:
    assert [
        part["name"] for part in named() if not part.get("doc", "").endswith(".")
    ] == []
    assert [
        (record, field["name"])
        for record, field in fields()
        if not field.get("doc", "").endswith(".")
    ] == []


def test_names_are_of_one_style() -> None:
    for part in named():
        assert part["namespace"] == NAMESPACE
        assert re.fullmatch(r"([A-Z][a-z]+)+", part["name"])
        assert all(
            re.fullmatch(r"[A-Z]+", symbol) for symbol in part.get("symbols", ())
        )
    for _, field in fields():
        assert re.fullmatch(r"[a-z]+(_[a-z0-9]+)*", field["name"])
    assert len({part["name"] for part in named()}) == len(named())


def test_a_union_is_null_or_something_and_null_by_default() -> None:
    for record, field in fields():
        if isinstance(field["type"], list):
            assert len(field["type"]) == 2, (record, field["name"])
            assert field["type"][0] == "null", (record, field["name"])
            assert field["default"] is None, (record, field["name"])


def test_no_number_loses_digits() -> None:
    assert "float" not in [part for part in all_types() if isinstance(part, str)]


def test_every_moment_is_in_microseconds() -> None:
    for _, field in fields():
        if field["name"].endswith("_at"):
            inner = field["type"]
            if isinstance(inner, list):
                inner = inner[-1]
            if inner["type"] == "array":
                inner = inner["items"]
            assert inner == {"type": "long", "logicalType": "timestamp-micros"}


def differences(writer: Schema, reader: Schema) -> list[str]:
    """What a reader with one schema gets wrong of what was written with the other; nothing: they are compatible."""
    random.seed(1)  # fastavro makes its samples with it
    found = []
    for datum in generate_many(writer, SAMPLES):
        out = io.BytesIO()
        fastavro.schemaless_writer(out, writer, datum)
        out.seek(0)
        written = fastavro.schemaless_reader(out, writer, None)
        out.seek(0)
        try:
            found += lost(written, fastavro.schemaless_reader(out, writer, reader))
        except (SchemaResolutionError, EOFError, IndexError, ValueError) as error:
            found.append(f"{type(error).__name__}: {error}")
    return found


def lost(written: Any, read: Any) -> list[str]:
    """Fields that both sides know and that do not agree."""
    if isinstance(written, dict) and isinstance(read, dict):
        return [
            text
            for key in written.keys() & read.keys()
            for text in lost(written[key], read[key])
        ]
    if isinstance(written, list) and isinstance(read, list):
        return [
            text for pair in zip(written, read, strict=True) for text in lost(*pair)
        ]
    return [] if written == read else [f"{written!r} is read as {read!r}"]


def paths(schema: Schema) -> set[str]:
    """Every field of every record, which may never go."""
    records = [
        part for part in types_in(schema) if isinstance(part, dict) and "fields" in part
    ]
    return {
        f"{record['name']}.{field['name']}"
        for record in records
        for field in record["fields"]
    }


def incompatible(old: Schema, new: Schema) -> bool:
    return bool(
        paths(old) - paths(new) or differences(old, new) or differences(new, old)
    )


def load(folder: Path, name: str) -> Schema:
    return load_schema(str(folder / f"{NAMESPACE}.{name}.avsc"))


@pytest.mark.parametrize("name", TOP)
def test_every_two_versions_read_each_other(name: str) -> None:
    versions = [load(folder, name) for folder in (*RELEASES, FOLDER)]
    for old, new in itertools.combinations_with_replacement(versions, 2):
        assert not differences(old, new)
        assert not differences(new, old)
        assert not paths(old) - paths(new)


def without_field(schema: Schema) -> None:
    schema["fields"] = [
        field for field in schema["fields"] if field["name"] != "reason"
    ]


def renamed_field(schema: Schema) -> None:
    field(schema, "feed")["name"] = "stream"


def other_type(schema: Schema) -> None:
    field(schema, "collapsed_observations")["type"] = "long"


def no_default(schema: Schema) -> None:
    schema["fields"].append({"name": "added", "type": "string"})


def new_symbol(schema: Schema) -> None:
    field(schema, "kind")["type"]["symbols"].append("NEWS")


def field(schema: Schema, name: str) -> Schema:
    return next(field for field in schema["fields"] if field["name"] == name)


@pytest.mark.parametrize(
    "change", [without_field, renamed_field, other_type, no_default, new_symbol]
)
def test_a_change_that_breaks_somebody_is_found(
    change: Callable[[Schema], None],
) -> None:
    now = load(FOLDER, "LevelsEvent")
    changed = copy.deepcopy(now)
    change(changed)
    assert incompatible(now, changed)


def test_a_new_field_with_a_default_breaks_nobody() -> None:
    now = load(FOLDER, "LevelsEvent")
    changed = copy.deepcopy(now)
    changed["fields"].insert(
        3, {"name": "added", "type": ["null", "string"], "default": None}
    )
    assert not incompatible(now, changed)
