"""Write `docs/reference/configuration.md` from the configuration structs."""

from __future__ import annotations

import inspect
from typing import TYPE_CHECKING, Final

import msgspec

from connector.config.model import IGNORE_PATHS, REFUSED, TABLES, THRESHOLD_PATHS
from connector.config.option import declared_options
from connector.config.secrets import Secret

if TYPE_CHECKING:
    from connector.config.option import DeclaredOption

_INTRODUCTION: Final = """\
# Configuration

<!-- Generated from connector/config/model.py. -->

`gex-connector run --config FILE.toml`. An environment variable overrides the file, and the file overrides the
default. An empty variable counts as unset. Separate the items of a list in a variable with commas. Unknown keys and
variables are errors. All errors are reported at once (exit status 2).

`GEX_SYMBOLS`, with `GEX_KEEP_LOWER_CASE`, `GEX_EXCHANGES`, `GEX_INCLUDE` and `GEX_POSITIONING`, defines one feed called `all`, which replaces
every `[[feeds]]` table of the file. Set a single client option with a variable such as `GEX_KAFKA__CLIENT__SASL_PASSWORD` (for
`sasl.password`), or several as a JSON object: `GEX_SCHEMA_REGISTRY__CLIENT={"timeout": 5}`. In JSON, write numbers
as numbers. `GEX_KAFKA__TOPIC` works in the same way.

`api_key` and `api_key_file` exclude each other. If the file sets one and the environment the other, the environment
wins.

Durations are in seconds. Relative paths start at the working directory."""

_TABLE_HEAD: Final = """\
| key | type | default | variable | meaning |
|---|---|---|---|---|"""


def configuration_reference() -> str:
    """Return the content of `docs/reference/configuration.md`."""
    parts = [_INTRODUCTION]
    parts += [_table(name, struct) for name, struct in TABLES.items()]
    parts.append(_paths())
    parts.append(_refused_client_options())
    return "\n\n".join(parts) + "\n"


def _table(name: str, struct: type[msgspec.Struct]) -> str:
    # A TOML array of tables has double brackets.
    title = "[[feeds]]" if name == "feeds" else f"[{name}]"
    options = declared_options(name, struct).values()
    rows = "\n".join([_TABLE_HEAD, *map(_row, options)])
    return f"## `{title}`\n\n{inspect.getdoc(struct)}\n\n{rows}"


def _row(option: DeclaredOption) -> str:
    _, _, name = option.key.partition(".")
    expected = option.expected
    if option.type is Secret:
        expected += ", never shown"
    cells = [
        f"`{name}`",
        expected,
        _default(option),
        f"`{option.variable}`" if option.variable else "",
        option.help,
    ]
    return "| " + " | ".join(cells) + " |"


def _default(option: DeclaredOption) -> str:
    if option.is_required:
        return "required"

    default = None if option.default is msgspec.NODEFAULT else option.default
    if isinstance(default, tuple):
        default = ", ".join(default)

    # `False` is a value worth showing; an empty list or table is not.
    shown = default is False or bool(default)
    return f"`{default}`" if shown else "none"


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
