"""Every fault with its parameters and its effect, for documentation and `--list-faults`."""

from __future__ import annotations

import inspect
import json
from typing import TYPE_CHECKING, Any, NamedTuple

from connector.devkit.simulator.catalogue import FAULTS
from connector.devkit.simulator.hints import describe_hint

if TYPE_CHECKING:
    from collections.abc import Callable


class ListedFault(NamedTuple):
    """A fault as it is listed: `parameters` has each one's values and default."""

    name: str
    parameters: str
    effect: str


def listed_faults(mark: str = "") -> list[ListedFault]:
    """Return all faults, in the order in which they are applied.

    `mark` stands before and after names and values: a backtick for documentation.
    """
    found = []
    for name, function in FAULTS.items():
        words = (inspect.getdoc(function) or "").split()
        effect = " ".join(words)
        if not mark:
            effect = effect.replace("`", "")
        found.append(ListedFault(name, _parameters(function, mark), effect))
    return found


def fault_table() -> str:
    """Return the list as text for a terminal: a line per fault, its parameters below it."""
    width = max(len(name) for name in FAULTS)
    lines = []
    for fault in listed_faults():
        lines.append(f"{fault.name:<{width}}  {fault.effect}")
        if fault.parameters:
            lines.append(f"{'':<{width}}  parameters: {fault.parameters}")
    return "\n".join(lines)


def _parameters(function: Callable[..., Any], mark: str) -> str:
    shown = []
    for parameter in inspect.signature(function, eval_str=True).parameters.values():
        if parameter.kind is not parameter.KEYWORD_ONLY:
            continue
        default = json.dumps(parameter.default)
        choices = describe_hint(parameter.annotation, mark)
        shown.append(f"{mark}{parameter.name}{mark} ({choices}; {mark}{default}{mark})")
    return ", ".join(shown)
