"""Faults that the service acts on, because a spoilt reply would be too late.

The functions declare the parameters; the reply stays as it is.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, Literal

from connector.devkit.simulator.reply import (
    Reply,  # noqa: TC001 -- `faults.type_of` resolves annotations at run time
)

if TYPE_CHECKING:
    from collections.abc import Callable

Echo = Literal["null", "absent", "other"]


def freeze(_: Reply) -> None:
    """Stop refreshing; takes no count and no probability."""


def cached(_: Reply, *, headers: Literal["stored", "fresh"] = "stored") -> None:
    """Serve the first answer to each request again, byte by byte, outside the budgets.

    With `fresh` headers, only the body is an old copy.
    """


def flow_fallback(
    _: Reply,
    *,
    reason: str = "flow_tape_empty",
    equal_numbers: bool = False,
    in_turn: bool = False,
) -> None:
    """Show `std` where `flow` is asked for, with or without the numbers of `flow`.

    With `in_turn`, only every second answer does, as if two nodes answered in turn.
    """


def filter_ignored(_: Reply, *, variant: Echo = "null") -> None:
    """Serve all venues despite a filter.

    `meta.exchanges_filtered` is null, absent, or names another venue.
    """


ON_SERVICE: Final[dict[str, Callable[..., None]]] = {
    "freeze": freeze,
    "cached": cached,
    "flow_fallback": flow_fallback,
    "filter_ignored": filter_ignored,
}
