"""A request for levels: its parameters, and the reason to refuse it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import msgspec

from connector.devkit.simulator.settings import EXCHANGES, INCLUDES, OLD_EXCHANGES

if TYPE_CHECKING:
    from collections.abc import Mapping

    from connector.devkit.simulator.reply import Refusal
    from connector.devkit.simulator.settings import Settings

MAX_SYMBOLS: Final = 8
POSITIONINGS: Final = ("flow", "std")


class Asked(msgspec.Struct, frozen=True):
    """The parameters of a request for levels, each value once and in order."""

    symbols: list[str]
    include: list[str]
    exchanges: list[str]
    positioning: str = ""

    @property
    def known_exchanges(self) -> list[str]:
        """The venue filter without unknown names, which the API ignores."""
        return [name for name in self.exchanges if name in EXCHANGES]


def parse_query(query: Mapping[str, str]) -> Asked:
    """Return the parameters of a query."""
    return Asked(
        symbols=_names(query, "symbols"),
        include=_names(query, "include"),
        exchanges=_names(query, "exchanges"),
        positioning=query.get("positioning", "").strip(),
    )


def refusal_of(asked: Asked, settings: Settings) -> Refusal | None:
    """Return the error that a request deserves, if any."""
    if settings.is_old:
        return _refusal_of_old_contract(asked)
    return _refusal_of_symbols(asked, settings) or _refusal_of_options(asked, settings)


def _refusal_of_symbols(asked: Asked, settings: Settings) -> Refusal | None:
    if not asked.symbols and "no_symbol" in settings.errors:
        return _invalid("symbols", "missing", "Field required")

    if len(asked.symbols) > MAX_SYMBOLS and "nine_symbols" in settings.errors:
        return {"status": "400", "message": f"At most {MAX_SYMBOLS} symbols"}

    is_unsupported = not set(asked.symbols) & set(settings.symbols)
    if asked.symbols and is_unsupported and "only_invalid" in settings.errors:
        names = ", ".join(asked.symbols)
        return {"status": "404", "message": f"No data for {names}"}
    return None


def _refusal_of_options(asked: Asked, settings: Settings) -> Refusal | None:
    if not set(asked.include) <= set(INCLUDES) and "include" in settings.errors:
        expected = f"Input should be one of {', '.join(INCLUDES)}"
        return _invalid("include", "enum", expected)

    is_known = asked.positioning in {"", *POSITIONINGS}
    if not is_known and "positioning" in settings.errors:
        expected = f"Input should be one of {', '.join(POSITIONINGS)}"
        return _invalid("positioning", "enum", expected)
    return None


def _refusal_of_old_contract(asked: Asked) -> Refusal | None:
    if not 1 <= len(asked.symbols) <= MAX_SYMBOLS:
        message = f"1 to {MAX_SYMBOLS} symbols are required"
        errors = [{"field": "symbols", "message": message}]
        return {"status": "400", "details": {"errors": errors}}

    errors = _unknown_values("include", asked.include, INCLUDES)
    errors += _unknown_values("exchanges", asked.exchanges, OLD_EXCHANGES)
    if errors:
        return {"status": "422", "details": {"errors": errors}}
    return None


def _invalid(parameter: str, kind: str, message: str) -> Refusal:
    location = ["query", parameter]
    error: dict[str, Any] = {"type": kind, "loc": location, "msg": message}
    return {
        "status": "422",
        "message": "Invalid request parameters",
        "details": {"errors": [error]},
    }


def _unknown_values(
    field: str, values: list[str], known: tuple[str, ...]
) -> list[dict[str, str]]:
    errors = []
    for value in values:
        if value not in known:
            message = f"unknown value {value!r}; known are {', '.join(known)}"
            errors.append({"field": field, "message": message})
    return errors


def _names(query: Mapping[str, str], parameter: str) -> list[str]:
    """Return the values of a comma-separated parameter, each once, in order."""
    # A dictionary keeps the order, which a set would lose.
    names = {}
    for part in query.get(parameter, "").split(","):
        name = part.strip()
        if name:
            names[name] = True
    return list(names)
