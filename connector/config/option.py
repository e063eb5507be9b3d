"""An option, as the annotation of a field in `model` declares it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any, Final, get_args, get_origin

import msgspec
from msgspec import Meta

from connector.config.secrets import ClientSettings, Secret
from connector.core.diff import Threshold

if TYPE_CHECKING:
    from collections.abc import Callable

# Options of the feed `all`, which exists if one of these variables is set.
SHORT_VARIABLES: Final = {
    "feeds.symbols": "GEX_SYMBOLS",
    "feeds.keep_lower_case": "GEX_KEEP_LOWER_CASE",
    "feeds.include": "GEX_INCLUDE",
    "feeds.exchanges": "GEX_EXCHANGES",
    "feeds.positioning": "GEX_POSITIONING",
}

_TYPE_NAMES: Final[dict[Any, str]] = {
    Secret: "str",
    ClientSettings: "table of str, int, float or bool",
    tuple[str, ...]: "list of str",
    dict[str, Threshold]: "table of numbers",
    str | None: "str",
}


@dataclass(frozen=True)
class Option:
    """The part of an annotation that Python's types cannot express.

    `help` goes into docs/reference/configuration.md. `check` takes a value of the right type
    and returns it cleaned, or raises InvalidValue. For client settings it checks the name of
    each one.
    """

    help: str
    check: Callable[[Any], Any] | None = None


@dataclass(frozen=True)
class DeclaredOption:
    """A key of a table. `key` is its full name, such as `kafka.shards`."""

    key: str
    type: Any
    """The type without its annotations: `str`, `Secret`, `tuple[str, ...]`."""

    annotation: Any
    """The type with its bounds, as msgspec converts to it."""

    help: str
    check: Callable[[Any], Any] | None
    default: Any
    is_required: bool

    @property
    def variable(self) -> str | None:
        """The environment variable that sets the option. None if it needs the file."""
        if self.key in SHORT_VARIABLES:
            return SHORT_VARIABLES[self.key]
        table, _, name = self.key.partition(".")
        if table == "feeds":
            return None
        return f"GEX_{table}__{name}".upper()

    @property
    def expected(self) -> str:
        """The type and bounds in words, such as `int > 0, <= 1000`."""
        return describe_type(self.annotation)


def declared_options(
    table: str, struct: type[msgspec.Struct]
) -> dict[str, DeclaredOption]:
    """Return the options of a table by their names."""
    options = {}
    for field in msgspec.structs.fields(struct):
        # Every field is Annotated[type, ..., Option(...)]; a field without an Option is a defect.
        plain_type, *annotations = get_args(field.type)
        (option,) = [item for item in annotations if isinstance(item, Option)]
        options[field.name] = DeclaredOption(
            key=f"{table}.{field.name}",
            type=plain_type,
            annotation=field.type,
            help=option.help,
            check=option.check,
            default=field.default,
            is_required=field.required,
        )
    return options


def describe_type(annotation: Any) -> str:
    """Return an annotated type and its bounds in words."""
    plain_type, *annotations = get_args(annotation)
    # An optional number has its bounds inside: Annotated[Annotated[int, Meta(...)] | None, ...].
    for member in get_args(plain_type):
        if get_origin(member) is Annotated:
            return describe_type(member)

    bounds = []
    for meta in annotations:
        if isinstance(meta, Meta):
            bounds += _describe_bounds(meta)
    name = _TYPE_NAMES.get(plain_type) or plain_type.__name__
    return f"{name} {', '.join(bounds)}".strip()


def _describe_bounds(meta: Meta) -> list[str]:
    bounds = {
        ">": meta.gt,
        ">=": meta.ge,
        "<=": meta.le,
    }
    described = [
        f"{sign} {bound}" for sign, bound in bounds.items() if bound is not None
    ]
    if meta.min_length is not None:
        described.append(f"with at least {meta.min_length} item")
    return described
