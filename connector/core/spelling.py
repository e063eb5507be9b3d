"""Find a symbol in a response that spells it in another way."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Collection

# A part of a name says too little if it is shorter than the shortest base currencies.
_MIN_PART_CHARACTERS: Final = 3


def in_another_case(symbol: str, names: Collection[str]) -> str | None:
    """Return the name that differs from the symbol in upper and lower case only."""
    folded = symbol.casefold()
    for name in names:
        if name.casefold() == folded:
            return name
    return None


def in_other_words(symbol: str, names: Collection[str], *, similar: bool) -> str | None:
    """Return the name with the letters and digits of the symbol, such as `BTC-USDT`.

    With `similar`, a name also counts if one of the two contains the other, as in
    `kPEPEUSDT` and `PEPEUSDT`.
    """
    wanted = _letters(symbol)
    candidate = None
    for name in names:
        found = _letters(name)
        if found == wanted:
            return name
        is_long_enough = min(len(found), len(wanted)) >= _MIN_PART_CHARACTERS
        contains_other = found in wanted or wanted in found
        if similar and is_long_enough and contains_other:
            candidate = name
    return candidate


def _letters(name: str) -> str:
    """Return the letters and digits of a name, in lower case."""
    return "".join(filter(str.isalnum, name.casefold()))
