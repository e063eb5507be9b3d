"""The comparison of the venues in a response with those of the request."""

from __future__ import annotations

import pytest

from connector.core.decode import ResponseMeta
from connector.core.venues import VENUES, require_venues, unknown_venues
from connector.errors import WrongVenues

# No filter was applied: `meta.exchanges_filtered` is null or empty.
NO_FILTER: frozenset[str] = frozenset()


def meta(venue_filter: frozenset[str] | None) -> ResponseMeta:
    return ResponseMeta(request_id="req-1", venue_filter=venue_filter)


@pytest.mark.parametrize(
    ("requested", "applied"),
    [
        ((), NO_FILTER),
        (("okx", "bybit"), {"bybit", "okx"}),
        (("OKX",), {"okx"}),
        (VENUES, set(VENUES)),
        # A name of a later contract, which the server knows.
        (("new",), {"new"}),
        # Without a filter, some servers may name all venues, also later ones.
        ((), set(VENUES)),
        ((), {*VENUES, "new"}),
        ((), {"all"}),
    ],
)
def test_levels_of_the_requested_venues_are_accepted(
    requested: tuple[str, ...], applied: set[str]
) -> None:
    require_venues(requested, meta(frozenset(applied)))


@pytest.mark.parametrize("requested", [(), ("okx",)])
def test_a_server_that_does_not_name_its_filter_is_believed(
    requested: tuple[str, ...],
) -> None:
    # Contract 2.0 has no `exchanges_filtered`.
    require_venues(requested, meta(None))


@pytest.mark.parametrize(
    ("requested", "applied", "shown"),
    [
        (("okx",), set(), "requested okx, meta.exchanges_filtered is all venues"),
        (("okx",), {"bybit"}, "requested okx, meta.exchanges_filtered is bybit"),
        # The server does not know one of the names, so the levels are of fewer venues.
        (("okx", "new"), {"okx"}, "requested new, okx, meta.exchanges_filtered is okx"),
        (("okx",), {"okx", "bybit"}, "is bybit, okx"),
        # A cache that ignores the query gives one feed the answer to another.
        (
            (),
            {"okx"},
            "requested all venues (no filter), meta.exchanges_filtered is okx",
        ),
    ],
)
def test_levels_of_other_venues_are_refused(
    requested: tuple[str, ...], applied: set[str], shown: str
) -> None:
    with pytest.raises(WrongVenues, match="other venues") as caught:
        require_venues(requested, meta(frozenset(applied)))

    assert shown in str(caught.value)
    assert caught.value.request_id == "req-1"


def test_names_beyond_the_known_contract_are_found() -> None:
    assert unknown_venues(VENUES) == []
    assert unknown_venues(("okx", "binanse")) == ["binanse"]
