"""Symbols as a person types them on the command line."""

from __future__ import annotations

import pytest

from connector.config.values import symbols_typed


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("BTCUSDT", ("BTCUSDT",)),
        ("btcusdt", ("btcusdt", "BTCUSDT")),
        # The argument BTC\u20ac where the locale is ASCII, and bytes that are no text at all.
        ("BTC\udce2\udc82\udcac", ("BTC\u20ac",)),
        ("BTC\udcff", ("BTC\ufffd",)),
    ],
)
def test_a_symbol_can_always_be_encoded(text: str, expected: tuple[str, ...]) -> None:
    assert symbols_typed(text) == expected
    assert all(symbol.encode() for symbol in expected)
