"""Print reference pages: `python -m connector.devkit.reference PAGE > FILE`."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Final

from connector.devkit.reference.asyncapi import asyncapi_reference
from connector.devkit.reference.configuration import configuration_reference
from connector.devkit.reference.events import events_reference
from connector.devkit.reference.metrics import metrics_reference
from connector.devkit.reference.openapi import openapi_reference
from connector.devkit.reference.schemas import schemas_reference
from connector.devkit.reference.simulator import simulator_reference

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

# `make docs` writes each page to its file.
PAGES: Final[Mapping[str, Callable[[], str]]] = {
    "asyncapi": asyncapi_reference,
    "configuration": configuration_reference,
    "events": events_reference,
    "metrics": metrics_reference,
    "openapi": openapi_reference,
    "schemas": schemas_reference,
    "simulator": simulator_reference,
}

_EXIT_USAGE: Final = 2


def main(names: list[str]) -> int:
    """Print the named pages. Return 2 if no page or an unknown page is named."""
    unknown = set(names) - PAGES.keys()
    if not names or unknown:
        pages = "|".join(PAGES)
        sys.stderr.write(f"usage: python -m connector.devkit.reference {pages}\n")
        return _EXIT_USAGE

    sys.stdout.write("\n".join(PAGES[name]() for name in names))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
