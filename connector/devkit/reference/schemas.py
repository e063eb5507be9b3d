"""Write `docs/reference/schemas.md` from the Avro schemas."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Final

_FOLDER: Final = Path(__file__).parents[3] / "schemas"
_NAMESPACE: Final = "gex.levels"
# In the order of the page: values of topics first, then the types that they refer to.
_FILES: Final = ("LevelsEvent", "LevelsState", "Levels", "Source", "Status")

_GENERATED: Final = "<!-- Generated from schemas/README.md and schemas/*.avsc. -->\n\n"
_FIELDS: Final = """
## Fields

A moment is a `long` with the logical type `timestamp-micros`: microseconds since the Unix epoch, UTC.
"""
_TABLE: Final = "\n| field | type | default | meaning |\n|---|---|---|---|\n"


def schemas_reference() -> str:
    """Return the content of `docs/reference/schemas.md`."""
    text = (_FOLDER / "README.md").read_text("utf-8")
    title, _, introduction = text.partition("\n\n")
    parts = [f"{title}\n\n", _GENERATED, introduction, _FIELDS]
    for name in _FILES:
        schema = json.loads((_FOLDER / f"{_NAMESPACE}.{name}.avsc").read_text("utf-8"))
        parts += _sections(schema)
    return "".join(parts)


def _sections(schema: dict[str, Any]) -> list[str]:
    """Return the section of a named type, and those of the types that its fields define."""
    heading = f"\n### {schema['name']}\n\n{schema['doc']}\n"
    if schema["type"] == "enum":
        symbols = ", ".join(f"`{symbol}`" for symbol in schema["symbols"])
        return [f"{heading}\nValues: {symbols}.\n"]

    rows = [_row(field) for field in schema["fields"]]
    sections = [heading + _TABLE + "".join(rows)]
    for field in schema["fields"]:
        for defined in _defined_types(field["type"]):
            sections += _sections(defined)
    return sections


def _row(field: dict[str, Any]) -> str:
    default = ""
    if "default" in field:
        default = f"`{json.dumps(field['default'])}`"
    # A `|` would begin another cell.
    meaning = field["doc"].replace("|", "\\|")
    return (
        f"| `{field['name']}` | {_type_text(field['type'])} | {default} | {meaning} |\n"
    )


def _defined_types(schema: Any) -> list[dict[str, Any]]:
    """Return the records and enums that a field's type defines in place."""
    if isinstance(schema, list):
        return [defined for branch in schema for defined in _defined_types(branch)]
    if not isinstance(schema, dict):
        return []
    if schema["type"] == "array":
        return _defined_types(schema["items"])
    return [schema] if schema["type"] in {"record", "enum"} else []


def _type_text(schema: Any) -> str:
    """Return a type in words; named types are links to their sections."""
    if isinstance(schema, list):
        branches = [_type_text(branch) for branch in schema if branch != "null"]
        return " or ".join([*branches, "null"] if "null" in schema else branches)
    if isinstance(schema, str):
        name = schema.removeprefix(f"{_NAMESPACE}.")
        return name if name == schema else _link(name)
    if schema["type"] == "array":
        return f"list of {_type_text(schema['items'])}"
    if schema["type"] in {"record", "enum"}:
        return _link(schema["name"])
    return "moment" if "logicalType" in schema else str(schema["type"])


def _link(name: str) -> str:
    return f"[{name}](#{name.lower()})"
