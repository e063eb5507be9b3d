"""Pages of `docs/` that say what the code says: `python -m connector.reference PAGE > docs/PAGE.md`."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any, Final

import msgspec

from connector.checks import IGNORE_PATHS, REFUSED, THRESHOLD_PATHS
from connector.config import FEED_VARIABLES, SECTIONS, Feed
from connector.hidden import ClientSettings, Secret
from connector.options import expected, variable

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

_HEAD: Final = f"""\
# Configuration

<!-- Generated from connector/config.py. -->

`gex-connector --config FILE.toml`. Every key of a `[section]` is overridden by a variable of the environment,
`GEX_<SECTION>__<KEY>`; a list is separated by commas there. Then comes the file, then the default. An empty variable
counts as not set. Keys and variables that are not known are faults, and all faults are reported at once (exit 2).

{", ".join(f"`{name}`" for name in FEED_VARIABLES)} make one feed called `all`, in place of every `[[feeds]]` of the
file. Client settings: `GEX_KAFKA__CLIENT` is a JSON object in place of the table of the file, and
`GEX_KAFKA__CLIENT__SASL_PASSWORD` is its option `sasl.password`; the same for `GEX_SCHEMA_REGISTRY__CLIENT`.

`api_key` and `api_key_file` exclude each other; of one in the file and one in the environment the latter is taken.

Lengths of time are in seconds. A relative path is taken from the working directory."""


def configuration() -> str:
    """`docs/configuration.md`: every key, from the structs of `config`."""
    parts = [_HEAD]
    structs: dict[str, type[msgspec.Struct]] = {"upstream": SECTIONS["upstream"], "feeds": Feed, **SECTIONS}
    for name, struct in structs.items():
        title = "`[[feeds]]`" if struct is Feed else f"`[{name}]`"
        rows = [_row(name, field) for field in msgspec.structs.fields(struct)]
        head = "| key | type | default | variable | meaning |\n|---|---|---|---|---|"
        parts.append(f"## {title}\n\n{struct.__doc__}\n\n" + "\n".join([head, *rows]))
    paths = "\n".join(f"- `{path}`{'' if path in THRESHOLD_PATHS else ' (`ignore` only)'}" for path in IGNORE_PATHS)
    parts.append(f"## Paths\n\nFor `ignore` and `thresholds`:\n\n{paths}")
    refused = "\n".join(f"- `{name}`: {reason}" for name, reason in REFUSED.items())
    parts.append(f"## Refused in `[kafka.client]`\n\n{refused}\n- `*_cb`: it takes a function")
    return "\n\n".join(parts) + "\n"


PAGES: Final[Mapping[str, Callable[[], str]]] = {"configuration": configuration}
"""By name of the file in `docs/`, without its ending."""


def main(names: list[str]) -> int:
    """Write the pages of these names to standard output. Status 2 where there is none of a name."""
    unknown = [name for name in names if name not in PAGES]
    if unknown or not names:
        sys.stderr.write(f"usage: python -m connector.reference {'|'.join(PAGES)}\n")
        return 2
    sys.stdout.write("\n".join(PAGES[name]() for name in names))
    return 0


def _row(section: str, field: msgspec.structs.FieldInfo) -> str:
    override = f"`{variable(section, field.name)}`" if section in SECTIONS else ""
    meaning = field.type.__metadata__[0].description
    return f"| `{field.name}` | {expected(field.type)} | {_default(field)} | {override} | {meaning} |"


def _default(field: msgspec.structs.FieldInfo) -> str:
    if field.required:
        return "none: must be given" if field.type.__origin__ is not Secret else "none: here or in a file"
    value: Any = field.default_factory() if field.default is msgspec.NODEFAULT else field.default
    if value is None or value in ((), {}, ClientSettings()):
        return "none"
    if isinstance(value, tuple):
        return ", ".join(f"`{one}`" for one in value)
    return f"`{value}`"


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
