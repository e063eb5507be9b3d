"""The venue filter of a request, and whether a response applied it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from connector.errors import WrongVenues

if TYPE_CHECKING:
    from collections.abc import Collection

    from connector.core.decode import ResponseMeta

# Contract 2.10. The vendor adds more from time to time, so other names are allowed.
VENUES: Final = (
    "deribit",
    "bybit",
    "okx",
    "binance",
    "derive",
    "thalex",
    "delta_india",
    "delta",
)


def unknown_venues(names: Collection[str]) -> list[str]:
    """Return the names that contract 2.10 does not have."""
    return [name for name in names if name not in VENUES]


def require_venues(requested: Collection[str], meta: ResponseMeta) -> None:
    """Accept a response that was computed for the requested venues; none means all.

    A server that does not say which venues it used is believed: contract 2.0 has no such
    field.

    Raises:
        WrongVenues: The levels are those of other venues.
    """
    applied = meta.venue_filter
    if applied is None:
        return
    wanted = frozenset(name.lower() for name in requested)
    if applied == wanted:
        return
    # Without a filter, a server may list all its venues or say "all" instead of null. A few
    # known names, however, are another feed's filter: a cache ignores the query.
    is_other_filter = applied < frozenset(VENUES)
    if not wanted and not is_other_filter:
        return
    raise WrongVenues(
        f"the response is for other venues: requested {_shown(wanted)}, "
        f"meta.exchanges_filtered is {_shown(applied)}",
        request_id=meta.request_id,
    )


def _shown(venues: frozenset[str]) -> str:
    return ", ".join(sorted(venues)) or "all venues (no filter)"
