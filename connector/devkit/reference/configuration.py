"""Write `docs/configuration.md` from the configuration structs."""

from __future__ import annotations

from typing import Final

import msgspec

from connector.config.model import IGNORE_PATHS, REFUSED, SECTIONS
from connector.config.options import THRESHOLD_PATHS, expected, variable

_INTRODUCTION: Final = """\
# Configuration

<!-- Generated from connector/config/model.py. -->

`gex-connector run --config FILE.toml`. An environment variable overrides the file, and the file overrides the
default. An empty variable counts as unset. Separate the items of a list in a variable with commas. Unknown keys and
variables are errors. All errors are reported at once (exit status 2).

`GEX_SYMBOLS`, with `GEX_INCLUDE` and `GEX_EXCHANGES`, defines one feed called `all`, which replaces every `[[feeds]]`
table of the file. Set a single client option with a variable such as `GEX_KAFKA__CLIENT__SASL_PASSWORD` (for
`sasl.password`), or several as a JSON object: `GEX_SCHEMA_REGISTRY__CLIENT={"timeout": 5}`. In JSON, write numbers
as numbers.

`api_key` and `api_key_file` exclude each other. If the file sets one and the environment the other, the environment
wins.

Durations are in seconds. Relative paths start at the working directory."""

_TABLE_HEAD: Final = """\
| key | type | default | variable | meaning |
|---|---|---|---|---|"""


def configuration_reference() -> str:
    """Return the content of `docs/configuration.md`."""
    parts = [_INTRODUCTION]
    parts += [_section(name, struct) for name, struct in SECTIONS.items()]
    parts.append(_paths())
    parts.append(_refused_client_options())
    return "\n\n".join(parts) + "\n"


def _section(name: str, struct: type[msgspec.Struct]) -> str:
    # A TOML array of tables has double brackets.
    title = "[[feeds]]" if name == "feeds" else f"[{name}]"
    rows = [_row(name, field) for field in msgspec.structs.fields(struct)]
    table = "\n".join([_TABLE_HEAD, *rows])
    return f"## `{title}`\n\n{struct.__doc__}\n\n{table}"


def _row(section: str, field: msgspec.structs.FieldInfo) -> str:
    meaning = field.type.__metadata__[-1]
    cells = [
        f"`{field.name}`",
        expected(field.type),
        _default(field),
        _variable(section, field.name),
        meaning,
    ]
    return "| " + " | ".join(cells) + " |"


def _default(field: msgspec.structs.FieldInfo) -> str:
    if field.required:
        return "required"

    default = None if field.default is msgspec.NODEFAULT else field.default
    if isinstance(default, tuple):
        default = ", ".join(default)

    # `False` is a value worth showing; an empty list or table is not.
    shown = default is False or bool(default)
    return f"`{default}`" if shown else "none"


def _variable(section: str, key: str) -> str:
    name = variable(f"{section}.{key}")
    # A table in a list has no variable, except through the short names.
    if name.startswith("GEX_FEEDS__"):
        return ""
    return f"`{name}`"


def _paths() -> str:
    lines = []
    for path in IGNORE_PATHS:
        note = "" if path in THRESHOLD_PATHS else " (`ignore` only)"
        lines.append(f"- `{path}`{note}")

    paths = "\n".join(lines)
    return f"## Paths\n\nUse these paths in `ignore` and `thresholds`:\n\n{paths}"


def _refused_client_options() -> str:
    lines = []
    for reason, options in REFUSED.items():
        names = ", ".join(f"`{option}`" for option in options)
        lines.append(f"- {names}: {reason}")

    refused = "\n".join(lines)
    return f"## Options refused in `[kafka.client]`\n\n{refused}"
