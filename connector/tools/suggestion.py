"""Suggests the symbol that a person may have meant."""

from __future__ import annotations

import difflib
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Collection

_MAX_SUGGESTIONS: Final = 3


def did_you_mean(symbol: str, known: Collection[str]) -> str:
    """Return the end of a message, with the most similar symbols. Empty if none is similar."""
    close = difflib.get_close_matches(symbol, sorted(known), n=_MAX_SUGGESTIONS)
    if not close:
        return ""
    return f"; did you mean {' or '.join(close)}?"
