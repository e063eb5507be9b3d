"""Options out of a TOML file and an environment: found, converted to what a struct declares, and every fault kept."""

from __future__ import annotations

import re
import tomllib
from typing import TYPE_CHECKING, Any, Final, NamedTuple, TypeVar

import msgspec

from connector import checks
from connector.checks import Bad, closest
from connector.core.diff import Threshold
from connector.errors import ConfigError
from connector.hidden import SHOWN_CHARACTERS, ClientSettings, Secret, printable, quote, redact, shape

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

S = TypeVar("S", bound=msgspec.Struct)

MAX_FILE_BYTES: Final = 1_048_576

_REDACTED_FROM_CHARACTERS: Final = 8
"""A secret shorter than this is no key, and masking it would make the faults unreadable."""

_BEFORE_CHECKS: Final[Mapping[Any, Any]] = {
    Secret: str,
    ClientSettings: dict[str, Any],
    dict[str, Threshold]: dict[str, Any],
}
"""What a value must be before its check makes of it what the struct declares."""

_KUBERNETES: Final = re.compile(
    r"GEX_(?!\w*__)(\w+_)?"
    r"(SERVICE_HOST=.*|SERVICE_PORT(_\w+)?=\d+|PORT(_\d+_[A-Z]+)?=\w+://.*|PORT_\d+_[A-Z]+_(PROTO|PORT|ADDR)=.*)"
)
"""What Kubernetes sets in every pod beside a service whose name begins with `gex-`: none of ours."""


def expected(kind: Any) -> str:
    """Type and bounds of an option in words, from its annotation."""
    names: dict[Any, str] = {
        Secret: "str, never shown",
        ClientSettings: "table of str, int, float or bool",
        dict[str, Threshold]: "table of thresholds",
        tuple[str, ...]: "list of str",
        str | None: "str",
    }
    base, metas = getattr(kind, "__origin__", kind), getattr(kind, "__metadata__", ())
    limits = [
        f"{sign} {limit}"
        for meta in metas
        for sign, limit in ((">", meta.gt), (">=", meta.ge), ("<=", meta.le))
        if limit is not None
    ]
    return f"{names.get(base, getattr(base, '__name__', ''))} {', '.join(limits)}".strip()


CHECKS: Final[Mapping[str, Callable[[Any], Any]]] = {
    "upstream.api_key": checks.api_key,
    "upstream.base_url": checks.base_url,
    "feeds.name": checks.matching(r"[a-z0-9][a-z0-9._-]*", "a-z, 0-9, '.', '_', '-', beginning with a letter or digit"),
    "feeds.symbols": checks.symbols,
    "feeds.exchanges": checks.among(checks.EXCHANGES),
    "feeds.include": checks.among(checks.INCLUDES),
    "feeds.ignore": checks.ignored,
    "feeds.thresholds": checks.thresholds,
    "kafka.bootstrap_servers": checks.matching(
        r"[A-Za-z0-9_.:/\[\]-]+(,[A-Za-z0-9_.:/\[\]-]+)*", "host:port, several separated by commas, no blanks"
    ),
    "kafka.topic_prefix": checks.matching(
        r"[A-Za-z0-9][A-Za-z0-9._-]*", "A-Z, a-z, 0-9, '.', '_', '-', beginning with a letter or digit"
    ),
    "kafka.group_id": checks.matching(r"[\x21-\x7e]{1,200}", "1 to 200 visible ASCII characters"),
    "kafka.replication_factor": checks.replication_factor,
    "kafka.client": checks.kafka_client,
    "schema_registry.url": checks.registry_url,
    "schema_registry.client": checks.registry_client,
    "http.listen": checks.listen,
}
"""By `section.key`, for those whose type and bounds do not say it all."""


class Given(NamedTuple):
    """A value, where it came from, and whether it is a text that stands for another type."""

    value: object
    origin: str
    text: bool = False


Layers = dict[str, list[Given]]
"""By key: what was given, the strongest last. More than one only of client settings, which are merged."""


def variable(section: str, key: str) -> str:
    """The variable that overrides a key."""
    return f"GEX_{section}__{key}".upper()


class Reader:
    """Options by section, and the faults found in them so far."""

    def __init__(
        self,
        path: Path | None,
        environ: Mapping[str, str],
        sections: Mapping[str, type[msgspec.Struct]],
        shorthands: Mapping[str, str],
    ) -> None:
        self.faults: list[str] = []
        self._secrets: set[str] = set()
        self._file = quote(str(path), limit=MAX_FILE_BYTES).strip("'")
        self._document = _document(path)
        self._sections = sections
        self._environ = {name: text for name, text in environ.items() if name.startswith("GEX_")}
        self._check_variables(shorthands)
        self._check_names("", self._document, (*sections, "feeds"))

    def fault(self, key: str, found: str, problem: str, origin: str) -> None:
        """Keep one fault: the key, what was found, what is wrong with it, and where it came from."""
        self.faults.append(f"{key}: {found}; {problem}; from {origin}")

    def lines(self) -> list[str]:
        """The faults, each on one line, without any secret that was given."""
        return [printable(redact(fault, self._secrets)) for fault in self.faults]

    def given(self, section: str) -> Layers:
        """What was given of a section, the environment over the file."""
        layers = self._layers(section, self._document.get(section, {}))
        for field in msgspec.structs.fields(self._sections[section]):
            name = variable(section, field.name)
            layers |= self.variables({name: field.name})
            if _plain(field.type) is ClientSettings:
                for option in sorted(
                    one for one, text in self._environ.items() if one.startswith(f"{name}__") and text
                ):
                    settings = {option[len(name) + 2 :].lower().replace("_", "."): self._environ[option]}
                    layers.setdefault(field.name, []).append(Given(settings, f"environment {option}"))
        return layers

    def tables(self, key: str) -> dict[str, Layers]:
        """What was given of an array of tables, by `key[index]`."""
        tables = self._document.get(key, [])
        if not isinstance(tables, list):
            self.fault(key, shape(tables), f"expected an array of tables, [[{key}]]", self._file)
            return {}
        return {f"{key}[{index}]": self._layers(f"{key}[{index}]", table) for index, table in enumerate(tables)}

    def variables(self, names: Mapping[str, str]) -> Layers:
        """What the environment gives of some variables, by key. An empty variable counts as not set."""
        return {
            key: [Given(self._environ[name], f"environment {name}", text=True)]
            for name, key in names.items()
            if self._environ.get(name)
        }

    def build(self, label: str, struct: type[S], layers: Layers, *, section: str = "") -> S | None:
        """The struct, or None where something was wrong with one of its keys. No layers: already a fault."""
        before = len(self.faults)
        fields = msgspec.structs.fields(struct)
        self._check_names(label, layers, [field.name for field in fields])
        values: dict[str, Any] = {}
        for field in fields:
            for given in layers.get(field.name, ()):
                value = self._value(label, section or label, field, given)
                if isinstance(value, ClientSettings):
                    value = ClientSettings({**(values.get(field.name) or {}), **value})
                values[field.name] = value
            if field.required and field.name not in layers:
                hint = f" ({variable(label, field.name)})" if label in self._sections else ""
                self.fault(f"{label}.{field.name}", "not given", f"expected {expected(field.type)}{hint}", "default")
        complete = all(field.name in values for field in fields if field.required)
        return struct(**values) if complete and len(self.faults) == before else None

    def _value(self, label: str, section: str, field: msgspec.structs.FieldInfo, given: Given) -> Any:
        kind = _plain(field.type)
        hide = kind in {Secret, ClientSettings} or field.name.endswith("url")
        if kind is Secret and isinstance(given.value, str) and len(given.value.strip()) >= _REDACTED_FROM_CHARACTERS:
            self._secrets |= {given.value.strip(), given.value.strip()[:SHOWN_CHARACTERS]}
        try:
            return _converted(f"{section}.{field.name}", field.type, given)
        except Bad as bad:
            for problem in bad.problems:
                self.fault(f"{label}.{field.name}", shape(given.value, hide=hide), problem, given.origin)
        return None

    def _layers(self, label: str, table: object) -> Layers:
        if not isinstance(table, dict):
            self.fault(label, shape(table), "expected a table", self._file)
            return {}
        return {key: [Given(value, self._file)] for key, value in table.items()}

    def _check_names(self, label: str, given: Mapping[str, object], known: list[str] | tuple[str, ...]) -> None:
        for name in given:
            if name not in known:
                where = f"{label}.{quote(name)}".lstrip(".")
                self.fault(where, "unknown key", f"did you mean {closest(name, known)}?", self._file)

    def _check_variables(self, shorthands: Mapping[str, str]) -> None:
        known, prefixes = list(shorthands), []
        for section, struct in self._sections.items():
            for field in msgspec.structs.fields(struct):
                known.append(variable(section, field.name))
                if _plain(field.type) is ClientSettings:
                    prefixes.append(f"{known[-1]}__")
        for name in sorted(self._environ):
            ours = name in known or any(name.startswith(prefix) and name != prefix for prefix in prefixes)
            if not ours and not _KUBERNETES.fullmatch(f"{name}={self._environ[name]}"):
                self.fault(quote(name), "unknown variable", f"did you mean {closest(name, known)}?", "environment")


def _document(path: Path | None) -> dict[str, Any]:
    """The TOML file. Raises ConfigError where there is none that can be used."""
    if path is None:
        return {}
    where = quote(str(path), limit=MAX_FILE_BYTES)
    try:
        with path.open("rb") as file:
            content = file.read(MAX_FILE_BYTES + 1)
        if len(content) > MAX_FILE_BYTES:
            raise ConfigError([f"{where}: expected at most {MAX_FILE_BYTES} bytes"])
        return tomllib.loads(content.decode())
    except OSError as error:
        problem = f"not readable: {error.strerror}"
    except UnicodeDecodeError as error:
        problem = f"not UTF-8 at byte {error.start}"
    except tomllib.TOMLDecodeError as error:
        problem = f"no TOML: {error}"
    except (ValueError, RecursionError):
        problem = "no TOML that can be used: a number too long, or tables nested too deeply"
    raise ConfigError([printable(f"{where}: {problem}")])


def _plain(kind: Any) -> Any:
    """A type without its annotations."""
    return kind.__origin__ if hasattr(kind, "__metadata__") else kind


def _converted(key: str, kind: Any, given: Given) -> Any:
    """What the struct's field takes. Raises Bad."""
    if isinstance(given.value, Secret):
        return given.value
    plain = _plain(kind)
    raw = given.value
    try:
        if given.text and isinstance(raw, str):
            raw = _untexted(plain, raw)
        value = msgspec.convert(raw, _BEFORE_CHECKS.get(plain, kind), strict=not given.text)
    except (msgspec.MsgspecError, UnicodeEncodeError, RecursionError):
        raise Bad(f"expected {expected(kind)}") from None
    check = CHECKS.get(key)
    return value if check is None or value is None else check(value)


def _untexted(kind: Any, text: str) -> object:
    """A variable's text as the type it stands for. Raises MsgspecError, UnicodeEncodeError or RecursionError."""
    text.encode()
    if kind is ClientSettings:
        return msgspec.json.decode(text)
    return text.split(",") if kind == tuple[str, ...] else text.strip()
