"""What can go wrong with an answer: every fault by name, its parameters, and when it strikes.

A fault is a table `{fault, for_seconds, symbols, count, probability, ...parameters}`; a script adds `at_seconds`, from
the start. Without `for_seconds` it lasts until it is cleared. With `symbols` it strikes requests for at least one
of them and, where it spoils entries, only theirs; without, it spoils every entry, or only the first (`ONE_ENTRY`).
"""

from __future__ import annotations

import math
import random
import tomllib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any, Final

import msgspec

from connector.simulator.market import micros

if TYPE_CHECKING:
    from pathlib import Path

ERRORS: Final = {
    "400": ("VALIDATION_ERROR", "The request is not valid."),
    "401": ("UNAUTHORIZED", "Missing or unknown API key."),
    "403": ("FORBIDDEN", "The plan of this key does not include this endpoint."),
    "404": ("NOT_FOUND", "There is no cached data for what was asked."),
    "422": ("VALIDATION_ERROR", "The request is not valid."),
    "429": ("RATE_LIMIT_EXCEEDED", "Too many requests."),
    "500": ("INTERNAL_ERROR", "Something went wrong."),
    "502": ("UPSTREAM_ERROR", "A data source did not answer."),
    "503": ("UPSTREAM_ERROR", "A data source is not available."),
    "504": ("UPSTREAM_ERROR", "A data source did not answer in time."),
}
# Parameters with their defaults; of a tuple, which lists the choices, the first. Durations are in seconds.
INSTEAD: Final[dict[str, dict[str, Any]]] = {
    **{status: {} for status in ERRORS},
    "429": {"retry_after_seconds": 30.0},
    "hang": {"seconds": 3600.0},
    "drop": {},
    "html": {"status": 502},
    "empty": {"status": 200},
    "truncated": {},
    "redirect": {"location": "https://login.example/"},
    "huge": {"megabytes": 20},
    "gzip_bomb": {"megabytes": 256},
    "deep": {"depth": 100_000},
}
DATA: Final[dict[str, dict[str, Any]]] = {
    "nan": {},
    "duplicate_keys": {"variant": ("entry", "results")},
    "wrong_types": {"variant": ("level", "section", "entry")},
    "null_levels": {},
    "unknown_field": {},
    "computed_at": {"variant": ("absent", "null", "garbage", "future", "older"), "seconds": 3600.0},
    "missing": {},
    "invalid": {},
    "absent": {},
    "null_not_listed": {},
    "both_lists": {"variant": ("missing_and_invalid", "served_and_missing", "served_and_invalid")},
    "extra_symbol": {"symbol": "EXTRAUSDT"},
    "success_false": {},
    "flat": {},
    "docs_example": {},
    "clock_step": {"seconds": 3600.0},
}
FAULTS: Final[dict[str, dict[str, Any]]] = {**INSTEAD, **DATA, "slow": {"seconds": 2.0}, "freeze": {}}
ONE_ENTRY: Final = frozenset({"nan", "duplicate_keys", "wrong_types"})


class When(msgspec.Struct, frozen=True):
    """The part of a fault's table that every fault has."""

    at_seconds: Annotated[float, msgspec.Meta(ge=0)] = 0.0
    for_seconds: Annotated[float, msgspec.Meta(gt=0)] | None = None
    symbols: tuple[str, ...] = ()
    count: Annotated[int, msgspec.Meta(gt=0)] | None = None
    probability: Annotated[float, msgspec.Meta(ge=0, le=1)] = 1.0


@dataclass(slots=True)
class Fault:
    """A fault, checked. `left` is the number of responses it may still strike."""

    name: str
    parameters: dict[str, Any]
    symbols: frozenset[str] | None
    from_at: int
    until_at: float
    left: float
    probability: float


def parse_fault(table: dict[str, Any], start_at: int) -> Fault:
    """A fault from its table, `at_seconds` after `start_at`; ValueError names what is known where something is not."""
    name = str(table.get("fault"))
    if name not in FAULTS:
        raise ValueError(f"unknown fault {name!r}; known are {', '.join(FAULTS)}")
    common = {key: value for key, value in table.items() if key in When.__struct_fields__}
    given = {key: value for key, value in table.items() if key not in When.__struct_fields__ and key != "fault"}
    try:
        when = msgspec.convert(common, When)
    except msgspec.ValidationError as error:
        raise ValueError(f"fault {name}: {error}") from error
    if name == "freeze" and (when.count is not None or when.probability < 1):
        raise ValueError("fault freeze stops the market, not responses: it has no count and no probability")
    from_at = start_at + micros(when.at_seconds)
    return Fault(
        name=name,
        parameters=_parameters(name, given),
        symbols=frozenset(when.symbols) or None,
        from_at=from_at,
        until_at=math.inf if when.for_seconds is None else from_at + micros(when.for_seconds),
        left=math.inf if when.count is None else when.count,
        probability=when.probability,
    )


def read_script(path: Path) -> list[dict[str, Any]]:
    """The tables `[[faults]]` of a TOML file; ValueError or OSError where there are none to read."""
    tables = tomllib.loads(path.read_text("utf-8")).get("faults")
    if not isinstance(tables, list) or not all(isinstance(table, dict) for table in tables):
        raise ValueError(f"{path}: a script is a list of [[faults]] tables")
    return tables


def _parameters(name: str, given: dict[str, Any]) -> dict[str, Any]:
    known = FAULTS[name]
    if unknown := given.keys() - known.keys():
        takes = ", ".join((*known, *When.__struct_fields__))
        raise ValueError(f"fault {name} does not know {', '.join(sorted(unknown))}; known are {takes}")
    found = {}
    for key, default in known.items():
        value: Any = given.get(key, default[0] if isinstance(default, tuple) else default)
        if isinstance(default, tuple):
            fits = value in default
        elif isinstance(default, str):
            fits = isinstance(value, str)
        else:
            fits = isinstance(value, (int, type(default))) and not isinstance(value, bool) and abs(value) < math.inf
        if not fits:
            raise ValueError(f"fault {name}: {key} cannot be {value!r} (default {default!r})")
        found[key] = value
    return found


class Faults:
    """The faults that are or will be active; chance is seeded."""

    def __init__(self, seed: int) -> None:
        self._all: list[Fault] = []
        self._random = random.Random(seed)  # noqa: S311 - repeatable on purpose

    def add(self, fault: Fault) -> None:
        """Arm a fault."""
        self._all.append(fault)

    def clear(self) -> None:
        """Disarm all."""
        self._all.clear()

    def active(self, now: int) -> list[Fault]:
        """Those in force; what is over is forgotten."""
        if not self._all:
            return []
        self._all = [fault for fault in self._all if fault.until_at > now and fault.left > 0]
        return [fault for fault in self._all if fault.from_at <= now]

    def draw(self, now: int, symbols: list[str]) -> list[Fault]:
        """Those that strike a request for `symbols`, their counts lowered."""
        struck = []
        for fault in self.active(now):
            concerned = fault.symbols is None or not fault.symbols.isdisjoint(symbols)
            if fault.name != "freeze" and concerned and self._random.random() < fault.probability:
                fault.left -= 1
                struck.append(fault)
        return struck
