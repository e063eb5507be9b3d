"""Find the model behind a symbol's levels, in its entry or in the metadata of the response.

The API calls the model `positioning`. If the requested model cannot be computed, a symbol
falls back to another one, and every signed level may jump without a move of the market. The
vendor does not document how a bundle with several models is described. So the entry is read
first, then `meta.extra`, which may hold one text for the response or one for each symbol.
"""

from __future__ import annotations

from itertools import islice
from typing import TYPE_CHECKING, Any, Final

from connector.core import spelling
from connector.core.model import Value

if TYPE_CHECKING:
    from collections.abc import Mapping

# Models and reasons go into every record and into labels of metrics, so a server must not be
# able to inflate them. The longest known one has 28 characters.
_MAX_CHARACTERS: Final = 64

# Bounds the search for a symbol in another case. A response has 8 symbols.
_MAX_NAMES_COMPARED: Final = 100

# The only model that the API falls back from, and its default.
_FLOW: Final = "flow"


class Positioning(Value, frozen=True):
    """The model behind a symbol's levels, and the reason for a fallback to it.

    Both are None if the API does not name them.
    """

    model: str | None = None
    fallback_reason: str | None = None


UNNAMED: Final = Positioning()


class ResponseModels(Value, frozen=True):
    """The models that `meta.extra` names, as one text or by symbol."""

    model: str | Mapping[str, Any] | None = None
    requested: str = _FLOW
    fallback_reason: str | Mapping[str, Any] | None = None

    @classmethod
    def of(cls, extra: Any) -> ResponseModels:
        """Read `meta.extra`. Values of an unexpected type count as absent."""
        if not isinstance(extra, dict):
            return NO_MODELS
        return cls(
            model=_text_or_object(extra.get("positioning")),
            requested=name_or_none(extra.get("positioning_requested")) or _FLOW,
            fallback_reason=_text_or_object(extra.get("positioning_fallback_reason")),
        )

    def complete(self, symbol: str, named: Positioning) -> Positioning:
        """Add the parts that a symbol's own entry does not name."""
        model = named.model or _for_symbol(self.model, symbol)
        reason = named.fallback_reason
        # One text for the response is the reason of the symbols that fell back, and says
        # nothing about the others.
        is_for_all = isinstance(self.fallback_reason, str)
        if reason is None and not (is_for_all and model == self.requested):
            reason = _for_symbol(self.fallback_reason, symbol)
        return Positioning(model, reason)


NO_MODELS: Final = ResponseModels()


def name_or_none(value: Any) -> str | None:
    """Return a name of the API, cut if it is long, or None if the value is not a name."""
    if not isinstance(value, str):
        return None
    return value[:_MAX_CHARACTERS] or None


def _text_or_object(value: Any) -> str | Mapping[str, Any] | None:
    return value if isinstance(value, dict) else name_or_none(value)


def _for_symbol(value: str | Mapping[str, Any] | None, symbol: str) -> str | None:
    if value is None or isinstance(value, str):
        return value
    name = symbol
    if symbol not in value:
        # Servers write symbols in another case, here as in `results`.
        names = list(islice(value, _MAX_NAMES_COMPARED))
        name = spelling.in_another_case(symbol, names) or symbol
    return name_or_none(value.get(name))
