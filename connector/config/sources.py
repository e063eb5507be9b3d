"""Read the raw configuration from the file and the environment, as nested dictionaries.

Each value keeps its origin. Both sources have the same form, so that one can override the other:
a table holds options, and an option is a value or, for client settings and thresholds, a dictionary
whose names are joined by dots: `[kafka.client] sasl.username` becomes `sasl.username` in `client`.

A value in place of a table is a mistake. It is kept under the empty name, so that it is reported
together with all other faults.
"""

from __future__ import annotations

import json
import tomllib
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from connector.config.option import SHORT_VARIABLES
from connector.config.secrets import printable
from connector.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path


class RawOption(NamedTuple):
    """A value before it is checked, and its origin.

    The value of an environment variable is text, which may stand for another type.
    """

    value: Any
    origin: str
    is_from_environment: bool = False


# Options of the tables that are tables of settings themselves.
_OPTIONS_WITH_SETTINGS: Final = frozenset({"client", "topic"})

Table = dict[str, RawOption | dict[str, RawOption]]
# The tables by name. `feeds` is a list of tables, unless variables make the only feed.
Tables = dict[str, Table | list[Table]]


def read_file(path: Path | None) -> Tables:
    """Return the tables of a TOML file. Raises ConfigError if it cannot be read."""
    if path is None:
        return {}

    origin = str(path)
    tables: Tables = {}
    try:
        # Editors on Windows may add a byte order mark, which TOML does not allow.
        document = tomllib.loads(path.read_text("utf-8-sig"))
        for name, value in document.items():
            if isinstance(value, dict):
                tables[name] = _table(value, origin)
            elif _is_list_of_tables(value) and name == "feeds":
                tables[name] = [_table(feed, origin) for feed in value]
            else:
                tables[name] = {"": RawOption(value, origin)}
    except OSError as error:
        fault = f"'{path}': cannot be read: {reason_of(error)}"
        raise ConfigError([printable(fault)]) from None
    # Keys joined by thousands of dots exceed the recursion limit, here or within tomllib.
    except (ValueError, RecursionError) as error:
        fault = f"'{path}': cannot be read as TOML: {reason_of(error)}"
        raise ConfigError([printable(fault)]) from None
    return tables


def read_environment(environ: Mapping[str, str]) -> Tables:
    """Return the tables that the variables `GEX_*` make. An empty variable counts as not set."""
    ignored = _kubernetes_prefixes(environ)
    tables: dict[str, Table] = {}

    # Sorted, so that a variable for one client setting follows, and overrides, the one for all.
    for variable, text in sorted(environ.items()):
        is_ours = variable.startswith("GEX_") and not variable.startswith(ignored)
        if not text or not is_ours:
            continue
        raw = RawOption(text, f"environment {variable}", is_from_environment=True)
        table_name, name = _place_of(variable)
        _put(tables.setdefault(table_name, {}), name, raw)
    return dict(tables)


def merge(base: Tables, override: Tables) -> Tables:
    """Return `base` with every table, option and client setting that `override` has."""
    merged: Tables = dict(base)
    for name, table in override.items():
        below = base.get(name)
        if isinstance(table, dict) and isinstance(below, dict):
            merged[name] = _merge_tables(below, table)
        else:
            merged[name] = table
    return merged


def reason_of(error: Exception) -> str:
    """Return the message of an error, without the number and path that an OSError adds."""
    return getattr(error, "strerror", None) or str(error)


def _merge_tables(base: Table, override: Table) -> Table:
    merged: Table = dict(base)
    for name, option in override.items():
        below = base.get(name)
        # Client settings are merged one by one, all other options as a whole.
        if isinstance(option, dict) and isinstance(below, dict):
            merged[name] = below | option
        else:
            merged[name] = option
    return merged


def _table(document: dict[str, Any], origin: str) -> Table:
    table: Table = {}
    for name, value in document.items():
        if isinstance(value, dict):
            table[name] = dict(_dotted(value, RawOption(None, origin)))
        else:
            table[name] = RawOption(value, origin)
    return table


def _dotted(
    document: dict[str, Any], template: RawOption, prefix: str = ""
) -> Iterator[tuple[str, RawOption]]:
    """Yield every value of a nested dictionary by its dotted name, as a copy of `template`."""
    for name, value in document.items():
        if isinstance(value, dict):
            yield from _dotted(value, template, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", template._replace(value=value)


def _is_list_of_tables(value: Any) -> bool:
    if not isinstance(value, list) or not value:
        return False
    return all(isinstance(item, dict) for item in value)


def _place_of(variable: str) -> tuple[str, str]:
    """Return the table and the name of the option that a variable sets."""
    for key, short in SHORT_VARIABLES.items():
        if variable == short:
            table, _, name = key.partition(".")
            return table, name
    # The first double underscore ends the name of the table: names have single ones.
    table, _, name = variable.removeprefix("GEX_").lower().partition("__")
    return table, name


def _put(table: Table, name: str, raw: RawOption) -> None:
    """Add a variable to its table: an option, one of its settings, or all of them as JSON."""
    option, _, setting_in_variable = name.partition("__")
    if option not in _OPTIONS_WITH_SETTINGS:
        table[name] = raw
    elif setting_in_variable:
        # Settings have dots in their names; variables cannot.
        setting = setting_in_variable.replace("__", "_").replace("_", ".")
        settings = table.setdefault(option, {})
        if isinstance(settings, dict):
            settings[setting] = raw
    else:
        from_json = _settings_from_json(raw)
        # Text that is not a JSON object is kept as a mistake, beside settings of other variables.
        table[name] = {"": raw} if from_json is None else from_json


def _settings_from_json(raw: RawOption) -> dict[str, RawOption] | None:
    try:
        document = json.loads(raw.value)
        if not isinstance(document, dict):
            return None
        return dict(_dotted(document, raw))
    except (ValueError, RecursionError):
        return None


def _kubernetes_prefixes(environ: Mapping[str, str]) -> tuple[str, ...]:
    """Return the prefixes of the variables that Kubernetes sets for each service.

    A service called `gex-connector` would otherwise look like options of ours.
    """
    prefixes = []
    for variable in environ:
        if variable.endswith("SERVICE_HOST"):
            service = variable.removesuffix("SERVICE_HOST")
            prefixes += [f"{service}SERVICE_", f"{service}PORT"]
    return tuple(prefixes)
