"""Options out of a TOML file and an environment.

Both become one flat table, as `kafka.client.linger.ms` → value and origin. Each value is then converted to what its
struct declares, and every fault is kept.
"""

from __future__ import annotations

import difflib
import json
import re
import tomllib
from contextlib import suppress
from typing import (
    TYPE_CHECKING,
    Annotated,
    Any,
    Final,
    NamedTuple,
    TypeVar,
    get_args,
    get_origin,
)

import msgspec
from msgspec import Meta, Struct

from connector.config.secrets import (
    ClientSettings,
    Secret,
    Setting,
    printable,
    quote,
    redact,
    shape,
)
from connector.config.values import InvalidValue
from connector.core.diff import NUMBER_PATHS, Threshold
from connector.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

S = TypeVar("S", bound=Struct)

_WORDS: Final[dict[Any, str]] = {
    Secret: "str, never shown",
    ClientSettings: "table of str, int, float or bool",
    tuple[str, ...]: "list of str",
    dict[str, Threshold]: "table of numbers",
    str | None: "str",
}

SHORT: Final = {
    "feeds.symbols": "GEX_SYMBOLS",
    "feeds.include": "GEX_INCLUDE",
    "feeds.exchanges": "GEX_EXCHANGES",
}
"""Options of the feed called `all`, and the variables that make it."""

THRESHOLD_PATHS: Final = (
    *dict.fromkeys(path.partition(".")[0] for path in NUMBER_PATHS if "." in path),
    *NUMBER_PATHS,
)
"""What a threshold can be given for: all the numbers of a section, or one number."""

_LIMITS: Final[dict[str, Any]] = {
    f"feeds.thresholds.{path}.{limit}": Annotated[float, Meta(ge=0, le=10**12)]
    for path in THRESHOLD_PATHS
    for limit in Threshold.__struct_fields__
}
_MIN_KEY_CHARACTERS: Final = 8
"""A key shorter than this is none, and masking it would make the faults unreadable."""


class RawOption(NamedTuple):
    """A value, where it came from, and whether it is a variable's text, which may stand for another type."""

    value: object
    origin: str
    text: bool = False


class Reader:
    """What was given, and the faults found in it so far. Raises ConfigError where the file cannot be read."""

    def __init__(
        self,
        path: Path | None,
        environ: Mapping[str, str],
        structs: Mapping[str, type[Struct]],
    ) -> None:
        self.faults: list[str] = []
        self.given = _of_file(path) | _of_environment(environ)
        declared = [
            (name, field)
            for name, struct in structs.items()
            for field in msgspec.structs.fields(struct)
        ]
        self._kinds = _LIMITS | {
            f"{name}.{field.name}": field.type for name, field in declared
        }
        for key, given in self.given.items():
            if key in structs:
                self.fault(key, "expected a table")
            elif self._kind(key) is None:
                close = difflib.get_close_matches(
                    key[:100], self._kinds, n=1, cutoff=0.0
                )[0]
                self.fault(
                    key,
                    f"unknown, did you mean {variable(close) if given.text else close}?",
                )

    def fault(self, path: str, problem: str) -> None:
        """Keep what is wrong with an option, with the shape of what was given, and where."""
        kind, given = self._kind(path), self.given.get(path, RawOption(None, "default"))
        hide = (
            kind is None
            or kind.__origin__ in {Secret, ClientSettings}
            or path.endswith("url")
        )
        found = "not given" if given.value is None else shape(given.value, hide=hide)
        where = quote(path) if kind is None or ".client." in path else path
        self.faults.append(f"{where}: {found}; {problem}; from {given.origin}")

    def build(self, label: str, struct: type[S]) -> S | None:
        """The struct out of what was given under `label`, or None where something was wrong with it."""
        faults, values = len(self.faults), dict[str, Any]()
        for path, given in self.given.items():
            kind, key = self._kind(path), path.removeprefix(f"{label}.")
            if kind is not None and key != path:
                try:
                    _put(values, key, _converted(kind, key, given))
                except InvalidValue as bad:
                    self.fault(path, str(bad))
        for field in msgspec.structs.fields(struct):
            path = f"{label}.{field.name}"
            if field.required and path not in self.given:
                self.fault(path, f"expected {expected(field.type)} ({variable(path)})")
        if len(self.faults) > faults:
            return None
        return msgspec.convert(values, struct, dec_hook=lambda kind, value: kind(value))

    def error(self) -> ConfigError:
        """The faults, each on one line, and the API key in none."""
        key = str(self.given.get("upstream.api_key", RawOption("", "")).value).strip()
        secrets = [key] if len(key) >= _MIN_KEY_CHARACTERS else []
        return ConfigError([printable(redact(fault, secrets)) for fault in self.faults])

    def _kind(self, path: str) -> Any:
        """The annotation of an option, None where there is none. Any option of a client has the client's."""
        path = re.sub(r"^feeds\[\d+\]", "feeds", path)
        return self._kinds.get(re.sub(r"\.client\..+", ".client", path))


def variable(path: str) -> str:
    """The variable that overrides an option."""
    return SHORT.get(path) or f"GEX_{path.replace('.', '__', 1)}".upper()


def expected(kind: Any) -> str:
    """Type and bounds of an option in words, from its annotation."""
    kind = next(
        (one for one in get_args(kind.__origin__) if get_origin(one) is Annotated), kind
    )  # it or None
    bounds = [
        f"{sign} {bound}"
        for meta in kind.__metadata__
        if isinstance(meta, Meta)
        for sign, bound in (
            (">", meta.gt),
            (">=", meta.ge),
            ("<=", meta.le),
            ("of length >=", meta.min_length),
        )
        if bound is not None
    ]
    return f"{_WORDS.get(kind.__origin__) or kind.__origin__.__name__} {', '.join(bounds)}".strip()


def _of_file(path: Path | None) -> dict[str, RawOption]:
    try:
        document = {} if path is None else tomllib.loads(path.read_text("utf-8-sig"))
        return {key: RawOption(value, str(path)) for key, value in _leaves(document)}
    except (OSError, ValueError, RecursionError) as error:
        raise ConfigError(
            [
                printable(
                    f"'{path}': no TOML that can be read: {getattr(error, 'strerror', error)}"
                )
            ]
        ) from None


def _of_environment(environ: Mapping[str, str]) -> dict[str, RawOption]:
    services = [
        name.removesuffix("SERVICE_HOST")
        for name in environ
        if name.endswith("SERVICE_HOST")
    ]
    kubernetes = tuple(
        f"{service}{what}" for service in services for what in ("SERVICE_", "PORT")
    )
    options = {name: option for option, name in SHORT.items()}
    found: dict[str, RawOption] = {}
    for name, text in sorted(environ.items()):
        if not text or not name.startswith("GEX_") or name.startswith(kubernetes):
            continue
        section, _, key = name.removeprefix("GEX_").lower().partition("__")
        if key.startswith(
            "client__"
        ):  # options of clients have dots where variables have underscores
            key = key.replace("__", "_").replace("_", ".")
        path = options.get(name) or f"{section}.{key}".rstrip(".")
        leaves = [(path, text)]
        with suppress(ValueError, RecursionError):
            leaves = (
                [*_leaves({path: json.loads(text)})]
                if path.endswith(".client")
                else leaves
            )
        found |= {
            key: RawOption(value, f"environment {name}", text=True)
            for key, value in leaves
        }
    return found


def _leaves(table: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Every value that is no table by its dotted path; `feeds[0]` is the first table of a list."""
    for name, value in table.items():
        path = f"{prefix}{name}"
        if (
            isinstance(value, list)
            and value
            and not prefix
            and all(isinstance(one, dict) for one in value)
        ):
            yield from _leaves(
                {f"{path}[{index}]": one for index, one in enumerate(value)}
            )
        elif isinstance(value, dict):
            yield from _leaves(value, f"{path}.")
        else:
            yield path, value


def _put(values: dict[str, Any], key: str, value: object) -> None:
    """Where the struct has it: `linger.ms` in `client`, `absolute` in `odte.hvl` in `thresholds`."""
    field, _, inner = key.partition(".")
    path, _, limit = inner.rpartition(".")
    if not inner:
        values[field] = value
    elif field == "client":
        values.setdefault(field, {})[inner] = value
    else:
        values.setdefault(field, {}).setdefault(path, {})[limit] = value


def _converted(kind: Any, key: str, given: RawOption) -> Any:
    """What the struct's field takes. Raises InvalidValue."""
    raw, plain = given.value, kind.__origin__
    check: Any = next(filter(callable, kind.__metadata__), lambda value: value)
    try:
        if given.text and isinstance(raw, str):
            raw.encode()
            raw = raw.split(",") if plain == tuple[str, ...] else raw.strip()
        as_given = {
            Secret: str,
            ClientSettings: Setting if "." in key else dict[str, Setting],
        }.get(plain, kind)
        value = msgspec.convert(raw, as_given, strict=not given.text)
    except (msgspec.ValidationError, UnicodeEncodeError):
        raise InvalidValue(f"expected {expected(kind)}") from None
    return (
        check(key.partition(".")[2], value) if plain is ClientSettings else check(value)
    )
