"""`FAULTS`, the table of all faults, and their application to a reply."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any, Final

from connector.devkit.simulator.entry_faults import ON_ENTRY
from connector.devkit.simulator.levels import canonical_content
from connector.devkit.simulator.reply_faults import ON_REPLY
from connector.devkit.simulator.service_faults import ON_SERVICE
from connector.devkit.simulator.symbol_faults import ON_SYMBOL

if TYPE_CHECKING:
    from collections.abc import Callable

    from connector.devkit.simulator.faults import Fault
    from connector.devkit.simulator.reply import Reply

# In the order in which faults can be combined: entries first, the whole body last.
FAULTS: Final[dict[str, Callable[..., Any]]] = {
    **ON_SERVICE,
    **ON_ENTRY,
    **ON_SYMBOL,
    **ON_REPLY,
}


def apply_fault(reply: Reply, fault: Fault) -> None:
    """Apply a fault to the entries and symbols it targets, and to the reply."""
    name = fault.fault
    parameters = fault.parameters
    if name in ON_ENTRY:
        served = {}
        for symbol, content in reply.results.items():
            if content is not None:
                served[symbol] = content
        for symbol in fault.targets(served):
            entry = json.loads(served[symbol].raw)
            if _is_intact(entry):
                spoilt = ON_ENTRY[name](entry, **parameters)
                reply.results[symbol] = canonical_content(spoilt)

    if name in ON_SYMBOL:
        for symbol in fault.targets(reply.results):
            ON_SYMBOL[name](reply, symbol, **parameters)

    if name in ON_REPLY:
        ON_REPLY[name](reply, **parameters)


def _is_intact(entry: Any) -> bool:
    """Return False if an earlier fault has replaced the entry or its levels."""
    return isinstance(entry, dict) and isinstance(entry.get("all_expiry"), dict)
