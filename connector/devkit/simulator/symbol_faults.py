"""Faults of a symbol, which change its place or its entry in the reply."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Final, Literal

import msgspec

from connector.devkit.simulator.entry_faults import shifted
from connector.devkit.simulator.levels import (
    Content,
    canonical_content,
    hashed_content,
)
from connector.devkit.simulator.reply import (
    Reply,  # noqa: TC001 -- `faults.type_of` resolves annotations at run time
)

if TYPE_CHECKING:
    from collections.abc import Callable

Contradiction = Literal[
    "missing_and_invalid", "served_and_missing", "served_and_invalid"
]
Spelling = Literal["lower", "dash", "mixed"]

_QUOTE_CURRENCY: Final = "USDT"


def two_nodes(
    reply: Reply, symbol: str, *, step: float = 1.0, seconds: float = 0.0
) -> None:
    """Let two nodes answer in turn: every second answer has `hvl` a step higher.

    With `seconds`, its `computed_at` is older by as much.
    """
    content = reply.results[symbol]
    is_first_node = reply.turn % 2 == 0
    if is_first_node or content is None:
        return
    entry = json.loads(content.raw)
    try:
        entry["all_expiry"]["hvl"] += step
    except (KeyError, TypeError):
        # Another fault has spoilt it already.
        return
    if seconds:
        entry = shifted(entry, seconds=-seconds)
    reply.results[symbol] = canonical_content(entry)


def duplicate_keys(
    reply: Reply, symbol: str, *, variant: Literal["entry", "results"] = "entry"
) -> None:
    """Repeat keys of the entry, or the symbol within `results`."""
    content = reply.results[symbol]
    if content is None:
        return
    if variant == "results":
        name = msgspec.json.encode(symbol)
        twice = b"%b,%b:%b" % (content.raw, name, content.raw)
        reply.results[symbol] = Content(twice, content.shown)
    elif content.raw.startswith(b"{"):
        first = b'{"spot_price":1.0,"computed_at":"2001-01-01T00:00:00Z",'
        raw = first + content.raw[1:]
        reply.results[symbol] = hashed_content(raw, content.shown.computed_at)


def missing(reply: Reply, symbol: str) -> None:
    """List the symbol as `missing`, with a null in `results`."""
    reply.move(symbol, "missing")


def invalid(reply: Reply, symbol: str) -> None:
    """List the symbol as `invalid`."""
    reply.move(symbol, "invalid")


def null_not_listed(reply: Reply, symbol: str) -> None:
    """Send a null in `results`, and the symbol in none of the lists."""
    reply.move(symbol)


def absent(reply: Reply, symbol: str) -> None:
    """Leave the symbol out of `results` and of every list."""
    reply.move(symbol)
    del reply.results[symbol]
    reply.data["requested"].remove(symbol)


def both_lists(
    reply: Reply, symbol: str, *, variant: Contradiction = "missing_and_invalid"
) -> None:
    """List the symbol in two lists that contradict each other."""
    reply.move(symbol, *variant.split("_and_"))


def renamed(
    reply: Reply, symbol: str, *, variant: Spelling = "lower", lists: bool = True
) -> None:
    """Key `results` by `btcusdt`, `BTC-USDT` or `bTCUSDT`; with `lists`, the lists too."""
    name = _spelling(symbol, variant)
    results = {}
    for key, content in reply.results.items():
        results[name if key == symbol else key] = content
    # The document refers to this dictionary.
    reply.results.clear()
    reply.results.update(results)
    if not lists:
        return
    for listed in ("requested", "served", "missing", "invalid"):
        names = reply.data[listed]
        reply.data[listed] = [name if one == symbol else one for one in names]


def _spelling(symbol: str, variant: Spelling) -> str:
    if variant == "lower":
        return symbol.lower()
    if variant == "mixed":
        return symbol[:1].lower() + symbol[1:]
    base = symbol.removesuffix(_QUOTE_CURRENCY)
    return f"{base}-{_QUOTE_CURRENCY}"


# In the order in which they can be combined: a renamed symbol is not found any more.
ON_SYMBOL: Final[dict[str, Callable[..., None]]] = {
    "two_nodes": two_nodes,
    "duplicate_keys": duplicate_keys,
    "missing": missing,
    "invalid": invalid,
    "null_not_listed": null_not_listed,
    "absent": absent,
    "both_lists": both_lists,
    "renamed": renamed,
}
