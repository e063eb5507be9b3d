"""The fingerprint of a feed's request, which tells levels that are not comparable."""

from __future__ import annotations

import pytest
from msgspec.structs import replace

from connector.app.rules import rules_of
from connector.config.model import Feed

FEED = Feed(
    name="all",
    symbols=("BTCUSDT",),
    exchanges=("okx", "bybit"),
    include=("ranked", "zones"),
    positioning="flow",
)


def fingerprint(**changes: object) -> str:
    """Return the fingerprint of `FEED` with other values in some of its options."""
    return rules_of(replace(FEED, **changes)).request_fingerprint


@pytest.mark.parametrize(
    "change",
    [
        {"exchanges": ("okx",)},
        {"include": ("ranked",)},
        {"positioning": "std"},
        # The default of the API may change, so that it is a request of its own.
        {"positioning": None},
    ],
    ids=str,
)
def test_every_parameter_of_the_request_is_in_the_fingerprint(
    change: dict[str, object],
) -> None:
    assert fingerprint(**change) != fingerprint()


@pytest.mark.parametrize(
    "change",
    [
        {"exchanges": ("bybit", "okx")},
        {"include": ("zones", "ranked")},
        {"symbols": ("BTCUSDT", "ETHUSDT")},
        {"ignore": ()},
        {"stale_after_seconds": 30.0},
    ],
    ids=str,
)
def test_the_order_of_names_and_other_options_are_not_in_the_fingerprint(
    change: dict[str, object],
) -> None:
    assert fingerprint(**change) == fingerprint()
