"""When a fault strikes.

A fault is a table `{fault, for_seconds, symbols, count, probability, ...parameters}`; a script adds `at_seconds`, from
the start. Without `for_seconds` it lasts until it is cleared. With `symbols` it strikes requests for at least one
of them and, where it spoils entries, only theirs; without, it spoils every entry, or only the first (`ONE_ENTRY`).
"""

from __future__ import annotations

import inspect
import random
import tomllib
from typing import TYPE_CHECKING, Annotated, Any, Final

import msgspec
from msgspec import Meta

from connector.devkit.simulator.levels import micros
from connector.devkit.simulator.reply import FAULTS

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

FINITE: Final = Annotated[float, Meta(ge=-1e9, le=1e9)]
FOR_EVER: Final = 1_000_000_000  # times, or seconds
ONE_ENTRY: Final = frozenset({"nan", "duplicate_keys", "wrong_types"})


class Fault(msgspec.Struct, kw_only=True):
    """A row of a script; its parameters are fields of a subtype. `from_at` and `until_at` are set when it is armed."""

    fault: str
    at_seconds: Annotated[float, Meta(ge=0, le=1e9)] = 0.0
    for_seconds: Annotated[float, Meta(gt=0, le=1e9)] = FOR_EVER
    symbols: tuple[str, ...] = ()
    count: Annotated[int, Meta(gt=0)] = FOR_EVER
    probability: Annotated[float, Meta(ge=0, le=1)] = 1.0
    from_at: int = 0
    until_at: int = 0

    @property
    def parameters(self) -> dict[str, Any]:
        """What its function in `FAULTS` is given."""
        return {
            name: getattr(self, name)
            for name in self.__struct_fields__
            if name not in Fault.__struct_fields__
        }

    def targets(self, symbols: Iterable[str]) -> list[str]:
        """Those of the symbols that it spoils."""
        if self.symbols:
            return [symbol for symbol in symbols if symbol in self.symbols]
        return list(symbols)[: 1 if self.fault in ONE_ENTRY else None]

    def active(self, at: int) -> bool:
        """True where it is in force at that moment."""
        return self.from_at <= at < self.until_at and self.count > 0


def parse_fault(table: Any, now: int) -> Fault:
    """A fault, armed; ValueError names what is known where something is not."""
    known = ", ".join(FAULTS)
    try:
        kind = kind_of(msgspec.convert(table, Fault).fault)
        known = ", ".join(
            f"{one.name} ({one.type})" for one in msgspec.structs.fields(kind)
        )
        fault: Fault = msgspec.convert(table, kind)
    except (KeyError, msgspec.ValidationError) as error:
        raise ValueError(f"fault {table}: {error}; known are {known}") from error
    if fault.fault == "freeze" and (fault.count < FOR_EVER or fault.probability < 1):
        raise ValueError(
            "fault freeze stops the market, not responses: it has no count and no probability"
        )
    fault.from_at = now + micros(fault.at_seconds)
    fault.until_at = fault.from_at + micros(fault.for_seconds)
    return fault


def kind_of(name: str) -> Any:
    """`Fault` with the keyword-only parameters of a function in `FAULTS`, of their annotation's or default's type."""
    fields = []
    for one in inspect.signature(FAULTS[name], eval_str=True).parameters.values():
        if one.kind is one.KEYWORD_ONLY:
            kind = type(one.default) if one.annotation is one.empty else one.annotation
            fields.append((one.name, FINITE if kind is float else kind, one.default))
    return msgspec.defstruct(
        name, fields, bases=(Fault,), kw_only=True, forbid_unknown_fields=True
    )


def read_script(path: Path) -> list[dict[str, Any]]:
    """The tables `[[faults]]` of a TOML file; ValueError or OSError where there are none to read."""
    tables: list[dict[str, Any]] = tomllib.loads(path.read_text("utf-8")).get(
        "faults", []
    )
    if not tables:
        raise ValueError(f"{path}: a script is a list of [[faults]] tables")
    return tables


class Faults:
    """The faults that were armed; chance is seeded."""

    def __init__(self, seed: int) -> None:
        self._all: list[Fault] = []
        self._random = random.Random(seed)  # noqa: S311 - repeatable on purpose

    def add(self, tables: list[dict[str, Any]], now: int) -> None:
        """Arm the faults of a script, all or none; ValueError says what is wrong."""
        added = [parse_fault(table, now) for table in tables]
        self._all = sorted(
            [*self._all, *added], key=lambda fault: list(FAULTS).index(fault.fault)
        )

    def clear(self, now: int) -> None:
        """Disarm all. What a freeze has suppressed stays so."""
        self._all = [fault for fault in self._all if fault.fault == "freeze"]
        for freeze in self._all:
            freeze.until_at = min(freeze.until_at, now)

    def active(self, now: int) -> list[str]:
        """The names of those in force."""
        return [fault.fault for fault in self._all if fault.active(now)]

    def frozen(self, symbol: str, at: int) -> bool:
        """True where this symbol is not computed at that moment, past or present."""
        return any(
            one.fault == "freeze" and one.active(at) and one.targets([symbol])
            for one in self._all
        )

    def draw(self, now: int, symbols: list[str]) -> list[Fault]:
        """Those that strike a request for `symbols`, their counts lowered, in the order of `FAULTS`."""
        struck = []
        for fault in self._all:
            concerned = (
                fault.fault != "freeze" and fault.active(now) and fault.targets(symbols)
            )
            if concerned and self._random.random() < fault.probability:
                fault.count -= 1
                struck.append(fault)
        return struck
