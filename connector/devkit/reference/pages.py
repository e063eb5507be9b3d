"""Pages of `docs/` that say what the code says: `python -m connector.devkit.reference.pages PAGE > docs/PAGE.md`."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Final

import msgspec

from connector.config.model import IGNORE_PATHS, REFUSED, SECTIONS
from connector.config.options import THRESHOLD_PATHS, expected, variable
from connector.devkit.reference.metrics import metrics_reference

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

_HEAD: Final = """\
# Configuration

<!-- Generated from connector/config/model.py. -->

`gex-connector run --config FILE.toml`. The variable of the environment wins over the file, the file over the default.
An empty variable counts as not set; lists are separated by commas there. Keys and variables that are not known are
faults, and all faults are reported at once (exit 2).

`GEX_SYMBOLS`, with `GEX_INCLUDE` and `GEX_EXCHANGES`, makes one feed called `all`, in place of every `[[feeds]]` of the
file. An option of a client is set as in `GEX_KAFKA__CLIENT__SASL_PASSWORD`, which is `sasl.password`, or with others as
a JSON object, `GEX_SCHEMA_REGISTRY__CLIENT={"timeout": 5}`, where numbers are to be numbers.

`api_key` and `api_key_file` exclude each other; of one in the file and one in the environment the latter is taken.

Lengths of time are in seconds. A relative path is taken from the working directory."""


def configuration() -> str:
    """`docs/configuration.md`: every key, from the structs of `config`."""
    parts = [_HEAD]
    for name, struct in SECTIONS.items():
        rows = [_row(name, field) for field in msgspec.structs.fields(struct)]
        head = "| key | type | default | variable | meaning |\n|---|---|---|---|---|"
        title = "`[[feeds]]`" if name == "feeds" else f"`[{name}]`"
        parts.append(f"## {title}\n\n{struct.__doc__}\n\n" + "\n".join([head, *rows]))
    paths = "\n".join(
        f"- `{path}`{'' if path in THRESHOLD_PATHS else ' (`ignore` only)'}"
        for path in IGNORE_PATHS
    )
    parts.append(f"## Paths\n\nFor `ignore` and `thresholds`:\n\n{paths}")
    refused = "\n".join(
        f"- {', '.join(f'`{name}`' for name in names)}: {why}"
        for why, names in REFUSED.items()
    )
    parts.append(f"## Refused in `[kafka.client]`\n\n{refused}")
    return "\n\n".join(parts) + "\n"


PAGES: Final[Mapping[str, Callable[[], str]]] = {
    "configuration": configuration,
    "metrics": metrics_reference,
}
"""By name of the file in `docs/`, without its ending."""


def main(names: list[str]) -> int:
    """Write the pages of these names to standard output. Status 2 where there is none of a name."""
    if not names or not PAGES.keys() >= set(names):
        sys.stderr.write(
            f"usage: python -m connector.devkit.reference.pages {'|'.join(PAGES)}\n"
        )
        return 2
    sys.stdout.write("\n".join(PAGES[name]() for name in names))
    return 0


def _row(section: str, field: msgspec.structs.FieldInfo) -> str:
    override = variable(f"{section}.{field.name}")
    override = "" if override.startswith("GEX_FEEDS__") else f"`{override}`"
    default = field.default if field.default is not msgspec.NODEFAULT else None
    shown = f"`{', '.join(default) if isinstance(default, tuple) else default}`"
    if not default and default is not False:
        shown = "must be given" if field.required else "none"
    return f"| `{field.name}` | {expected(field.type)} | {shown} | {override} | {field.type.__metadata__[-1]} |"


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
