"""Faults and the moments at which they strike.

A fault is a table `{fault, for_seconds, symbols, count, probability, endpoint,
...parameters}`. It strikes requests for levels, unless it names another endpoint. A script
adds `at_seconds`, counted from its start. Without `for_seconds` a fault lasts until
it is cleared. With `symbols` it strikes requests for at least one of them, and spoils only
their entries; without, it spoils every entry, or only the first (`FIRST_ENTRY_ONLY`).
"""

from __future__ import annotations

import inspect
import random
import tomllib
from typing import TYPE_CHECKING, Annotated, Any, Final, Literal

import msgspec
from msgspec import Meta

from connector.devkit.simulator.catalogue import FAULTS
from connector.devkit.simulator.hints import describe_hint
from connector.devkit.simulator.levels import micros

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

# Parameters of this type reach arithmetic with moments, which infinity would break.
FINITE: Final = Annotated[float, Meta(ge=-1e9, le=1e9)]

# Times, or seconds: longer than any run.
UNLIMITED: Final = 1_000_000_000

Endpoint = Literal[
    "levels", "symbols", "status", "meta", "changelog", "health", "openapi.json"
]

FRONT_FAULTS: Final = frozenset({"cached"})
FIRST_ENTRY_ONLY: Final = frozenset({"nan", "duplicate_keys", "wrong_types"})


class Fault(msgspec.Struct, kw_only=True):
    """A fault of a script. Subtypes add its parameters as fields.

    Arming it sets `from_at` and `until_at`, in microseconds since the epoch.
    """

    fault: str
    at_seconds: Annotated[float, Meta(ge=0, le=1e9)] = 0.0
    for_seconds: Annotated[float, Meta(gt=0, le=1e9)] = UNLIMITED
    symbols: tuple[str, ...] = ()
    count: Annotated[int, Meta(gt=0)] = UNLIMITED
    probability: Annotated[float, Meta(ge=0, le=1)] = 1.0
    endpoint: Endpoint = "levels"
    from_at: int = 0
    until_at: int = 0

    @property
    def parameters(self) -> dict[str, Any]:
        """Keyword arguments of the fault's function in `FAULTS`."""
        own = set(self.__struct_fields__) - set(Fault.__struct_fields__)
        return {name: getattr(self, name) for name in own}

    def targets(self, symbols: Iterable[str]) -> list[str]:
        """Return the symbols whose entries it spoils."""
        if self.symbols:
            return [symbol for symbol in symbols if symbol in self.symbols]
        targets = list(symbols)
        if self.fault in FIRST_ENTRY_ONLY:
            return targets[:1]
        return targets

    def is_active(self, at: int) -> bool:
        """Return True if the fault is in force at that moment."""
        return self.from_at <= at < self.until_at and self.count > 0


def parse_fault(table: Any, now: int) -> Fault:
    """Return an armed fault. Raises ValueError with the known names if one is unknown."""
    known = ", ".join(FAULTS)
    try:
        name = msgspec.convert(table, Fault).fault
        fault_type = type_of(name)
        fields = msgspec.structs.fields(fault_type)
        # A table cannot set the two moments: arming it does.
        known = ", ".join(
            f"{field.name} ({describe_hint(field.type)})"
            for field in fields
            if field.name not in {"from_at", "until_at"}
        )
        fault: Fault = msgspec.convert(table, fault_type)
    except (KeyError, msgspec.ValidationError) as error:
        raise ValueError(f"fault {table}: {error}; known are {known}") from error

    is_limited = fault.count < UNLIMITED or fault.probability < 1
    if fault.fault == "freeze" and is_limited:
        raise ValueError(
            "fault freeze stops the market, not responses: "
            "it takes no count and no probability"
        )
    fault.from_at = now + micros(fault.at_seconds)
    fault.until_at = fault.from_at + micros(fault.for_seconds)
    return fault


def type_of(name: str) -> Any:
    """Return `Fault` with the parameters of a function in `FAULTS`. Raises KeyError.

    The keyword-only parameters become fields, typed by annotation or by their default.
    """
    fields = []
    signature = inspect.signature(FAULTS[name], eval_str=True)
    for parameter in signature.parameters.values():
        if parameter.kind is not parameter.KEYWORD_ONLY:
            continue
        kind = parameter.annotation
        if kind is parameter.empty:
            kind = type(parameter.default)
        if kind is float:
            kind = FINITE
        fields.append((parameter.name, kind, parameter.default))
    return msgspec.defstruct(
        name, fields, bases=(Fault,), kw_only=True, forbid_unknown_fields=True
    )


def read_script(path: Path) -> list[dict[str, Any]]:
    """Return the tables `[[faults]]` of a TOML file. Raises ValueError and OSError."""
    script = tomllib.loads(path.read_text("utf-8"))
    tables: list[dict[str, Any]] = script.get("faults", [])
    if not tables:
        raise ValueError(f"{path}: expected a list of [[faults]] tables")
    return tables


class Faults:
    """The armed faults, with seeded chance."""

    def __init__(self, seed: int) -> None:
        self._armed: list[Fault] = []
        self._random = random.Random(seed)  # noqa: S311 -- repeatable on purpose

    def add(self, tables: list[dict[str, Any]], now: int) -> None:
        """Arm the faults of a script, all or none. Raises ValueError."""
        # The order of `FAULTS` is the order in which faults can be combined.
        order = list(FAULTS)
        added = [parse_fault(table, now) for table in tables]
        self._armed += added
        self._armed.sort(key=lambda fault: order.index(fault.fault))

    def clear(self, now: int) -> None:
        """Disarm all faults. Refreshes that a freeze has suppressed stay suppressed."""
        # `is_frozen` asks about the past, so keep freezes and end them.
        self._armed = [fault for fault in self._armed if fault.fault == "freeze"]
        for freeze in self._armed:
            freeze.until_at = min(freeze.until_at, now)

    def active(self, now: int) -> list[str]:
        """Return the names of the faults in force."""
        return [fault.fault for fault in self._armed if fault.is_active(now)]

    def is_frozen(self, symbol: str, at: int) -> bool:
        """Return True if a symbol is not computed at a moment, past or present."""
        for fault in self._armed:
            is_freezing = fault.fault == "freeze" and fault.is_active(at)
            if is_freezing and fault.targets([symbol]):
                return True
        return False

    def draw(
        self,
        now: int,
        symbols: list[str],
        endpoint: str = "levels",
        *,
        in_front: bool = False,
    ) -> list[Fault]:
        """Return the faults that strike a request, in order, and count them down.

        The faults in front of the service are drawn apart: it may never get the request.
        """
        struck = []
        for fault in self._armed:
            if fault.fault == "freeze" or not fault.is_active(now):
                continue
            is_in_front = fault.fault in FRONT_FAULTS
            if fault.endpoint != endpoint or is_in_front != in_front:
                continue
            if fault.symbols and not fault.targets(symbols):
                continue
            if self._random.random() < fault.probability:
                fault.count -= 1
                struck.append(fault)
        return struck
