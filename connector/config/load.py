"""Load the configuration: the environment overrides the file, and the file the defaults."""

from __future__ import annotations

import difflib
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, TypeVar
from urllib.parse import urlsplit

import msgspec
from msgspec.structs import replace

from connector.config.certificates import check_client_file, faults_of_environment
from connector.config.model import (
    TABLES,
    THRESHOLD_PATHS,
    Config,
    Feed,
    Http,
    Kafka,
    SchemaRegistry,
    ThresholdValue,
    check_api_key,
    check_password,
)
from connector.config.option import DeclaredOption, declared_options, describe_type
from connector.config.proxy import proxy_from_environment
from connector.config.secrets import (
    MIN_SECRET_CHARACTERS,
    ClientSettings,
    Secret,
    Setting,
    printable,
    quote,
    quote_path,
    redact,
    shape,
)
from connector.config.sources import (
    RawOption,
    Table,
    Tables,
    merge,
    read_environment,
    read_file,
    reason_of,
)
from connector.config.values import InvalidValue, clean_symbol
from connector.core.diff import Threshold
from connector.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping

S = TypeVar("S", bound=msgspec.Struct)

_OPTIONS: Final[dict[str, dict[str, DeclaredOption]]] = {
    table: declared_options(table, struct) for table, struct in TABLES.items()
}
_THRESHOLD_KEYS: Final = tuple(
    f"{path}.{field}"
    for path in THRESHOLD_PATHS
    for field in Threshold.__struct_fields__
)
# Longer keys are cut before the search for a similar one, which takes quadratic time.
_MAX_KEY_CHARACTERS: Final = 100

_EXPECTED_SETTING: Final = "str, int, float or bool"
_EXPECTED_THRESHOLD: Final = describe_type(ThresholdValue)
_LOCAL_HOSTS: Final = frozenset({"localhost", "127.0.0.1", "::1"})


def load(path: Path | None, environ: Mapping[str, str]) -> Config:
    """Load the configuration from a TOML file (None: only defaults) and environment variables.

    docs/reference/configuration.md describes both.

    Raises:
        ConfigError: All faults at once, one line each: the key, the shape of its value, the
            expected value, and the origin.
    """
    loader = _Loader(path, environ)
    tables: dict[str, Any] = {}
    for name, struct in TABLES.items():
        # Feeds are a list of tables, unlike the others.
        if name != "feeds":
            tables[name] = loader.build(name, struct)
    feeds = loader.build_feeds()

    # Checks of several options together, whatever else is wrong with their tables.
    _check_base_url(loader)
    _check_intervals(loader)
    _check_feed_names(loader, feeds)
    _check_listen(loader)
    _check_password_is_set_once(loader)
    if loader.faults:
        raise loader.error()
    return Config(**tables, feeds=_all_built(feeds))


def load_kafka(
    path: Path | None, environ: Mapping[str, str]
) -> tuple[Kafka, SchemaRegistry]:
    """Load the parts that reading the topics needs. Raises ConfigError as `load` does."""
    loader = _Loader(path, environ)
    kafka = loader.build("kafka", Kafka)
    registry = loader.build("schema_registry", SchemaRegistry)
    _check_password_is_set_once(loader)
    if loader.faults or kafka is None or registry is None:
        raise loader.error()
    return kafka, registry


def load_http(path: Path | None, environ: Mapping[str, str]) -> Http:
    """Load where a worker listens. Raises ConfigError as `load` does."""
    loader = _Loader(path, environ)
    http = loader.build("http", Http)
    if loader.faults or http is None:
        raise loader.error()
    return http


def load_feeds(path: Path | None, environ: Mapping[str, str]) -> tuple[Feed, ...]:
    """Load the feeds, if any are configured. Raises ConfigError as `load` does."""
    loader = _Loader(path, environ)
    if not loader.is_file_read:
        raise loader.error()
    if not loader.has_feeds:
        return ()
    feeds = loader.build_feeds()
    if loader.faults:
        raise loader.error()
    return _all_built(feeds)


def read_key_file(path: str | Path) -> Secret:
    """Read the API key from a file. Raises ConfigError if the file does not hold one."""
    try:
        return _read_secret_file(path, check_api_key)
    except InvalidValue as error:
        raise ConfigError([printable(f"upstream.api_key_file: {error}")]) from None


def read_password_file(path: str | Path) -> Secret:
    """Read Kafka's password from a file. Raises ConfigError if the file does not hold one."""
    try:
        return _read_secret_file(path, check_password)
    except InvalidValue as error:
        raise ConfigError([printable(f"kafka.sasl_password_file: {error}")]) from None


def _all_built(feeds: Mapping[str, Feed | None]) -> tuple[Feed, ...]:
    return tuple(feed for feed in feeds.values() if feed is not None)


def _read_secret_file(path: str | Path, check: Callable[[Any], Any] | None) -> Secret:
    """Read a secret from a file. Raises InvalidValue, which never shows the content."""
    try:
        text = Path(path).read_text("utf-8-sig")
        if check is not None:
            text = check(text)
        return Secret(text)
    except (OSError, ValueError) as error:
        raise InvalidValue(f"{quote_path(str(path))}: {reason_of(error)}") from None


class _Loader:
    """Turns the raw tables into structs, and collects every fault on the way.

    A label names a table: `kafka`, or `feeds[0]` for the first feed of the file.
    """

    def __init__(self, path: Path | None, environ: Mapping[str, str]) -> None:
        """Read both sources. A file that cannot be read is a fault like any other."""
        self.faults = faults_of_environment(environ)
        self.is_file_read = True
        # The valid value of each option that was built, by label and name.
        self._valid: dict[tuple[str, str], Any] = {}
        try:
            file = read_file(path)
        except ConfigError as error:
            self.faults += error.faults
            self.is_file_read = False
            file = {}
        sources = (file, read_environment(environ))
        # Check before the merge, so that a misspelt key is found even if it is overridden.
        for source in sources:
            for label, table in _labelled(source):
                self._check_keys(label, table)

        merged = merge(*sources)
        self.has_feeds = "feeds" in merged
        self._tables = dict(_labelled(merged))
        self._apply_proxy_variables("upstream", "base_url", environ)
        self._apply_proxy_variables("schema_registry", "url", environ)
        self._secrets = _secret_texts(self._tables)

    def build(self, label: str, struct: type[S]) -> S | None:
        """Build the struct of a table, or return None if the table has faults."""
        faults_at_start = len(self.faults)
        is_complete = True
        table = self._tables.setdefault(label, {})
        values: dict[str, Any] = {}
        for name, option in _options_of(label).items():
            faults_before = len(self.faults)
            # First, since the file of a secret takes the place of its value.
            if option.type is Secret:
                self._resolve_secret(label, name, option)
            raw = table.get(name)
            # An empty table in place of a value counts as not set.
            is_in_file = bool(table.get(f"{name}_file"))
            if raw:
                values[name] = self._value(label, option, raw)
            elif option.is_required:
                is_complete = False
                if not is_in_file:
                    self._report_missing(label, option)
            if len(self.faults) == faults_before:
                self._valid[label, name] = values.get(name, option.default)
        if not is_complete or len(self.faults) > faults_at_start:
            return None
        return struct(**values)

    def build_feeds(self) -> dict[str, Feed | None]:
        """Build the feeds of the file, or instead the one that variables make, by their labels."""
        labels = [label for label in self._tables if _table_of(label) == "feeds"]
        if not labels:
            # Without any feed, report the missing symbols of the one that variables would make.
            labels = ["feeds"]
        if labels == ["feeds"]:
            table = self._tables.setdefault("feeds", {})
            table.setdefault("name", RawOption("all", "default"))
        feeds = {}
        for label in labels:
            feed = self.build(label, Feed)
            if feed is not None and not feed.keep_lower_case:
                symbols = tuple(clean_symbol(symbol) for symbol in feed.symbols)
                feed = replace(feed, symbols=symbols)
            feeds[label] = feed
        return feeds

    def valid(self, label: str, name: str) -> Any:
        """Return the value or the default of an option, or None if it is not known.

        It is not known if it has a fault, or if it may be in a file that cannot be read.
        """
        return self._valid.get((label, name)) if self.is_file_read else None

    def report(self, label: str, name: str, problem: str) -> None:
        """Add a fault of an option of a table."""
        option = _options_of(label)[name]
        raw = self._tables[label].get(name, RawOption(option.default, "default"))
        if isinstance(raw, RawOption):
            self._add(f"{label}.{name}", raw, problem, hide=_is_hidden(option))

    def error(self) -> ConfigError:
        """Return the faults as one error. No line shows a secret."""
        # A user may have put the key in place of another option.
        secrets = [text for text in self._secrets if len(text) >= MIN_SECRET_CHARACTERS]
        shown = []
        for fault in self.faults:
            redacted = redact(fault, secrets)
            shown.append(printable(redacted))
        return ConfigError(shown)

    def _add(self, key: str, raw: RawOption, problem: str, *, hide: bool) -> None:
        found = shape(raw.value, hide=hide)
        self.faults.append(f"{key}: {found}; {problem}; from {raw.origin}")

    def _report_missing(self, label: str, option: DeclaredOption) -> None:
        if not self.is_file_read:
            return
        _, _, name = option.key.partition(".")
        way = "set it in the file"
        # Variables cannot reach the feeds of the file.
        if option.variable is not None and label == _table_of(label):
            way = f"set it in the file of --config or by {option.variable}"
        if option.type is Secret:
            way += f", or set {label}.{name}_file"
        self.faults.append(
            f"{label}.{name}: not set; expected {option.expected}; {way}"
        )

    def _check_keys(self, label: str, table: Table) -> None:
        """Report every key that does not exist. Their values are hidden: they may be secrets."""
        for name, value in table.items():
            if not name and isinstance(value, RawOption) and _options_of(label):
                self._add(quote(label), value, "expected a table", hide=True)
                continue
            values = {"": value} if isinstance(value, RawOption) else value
            for inner, raw in values.items():
                if _exists(label, name, inner):
                    continue
                key = ".".join(part for part in (label, name, inner) if part)
                suggestion = _similar_threshold(name, inner) or _most_similar(key, raw)
                problem = f"unknown, did you mean {suggestion}?"
                self._add(quote(key), raw, problem, hide=True)

    def _apply_proxy_variables(
        self, label: str, address: str, environ: Mapping[str, str]
    ) -> None:
        """Take the proxy of an address from the usual variables, if it is not set."""
        table = self._tables.setdefault(label, {})
        raw = table.get(address) or RawOption(_OPTIONS[label][address].default, "")
        if "proxy" in table or not isinstance(raw, RawOption):
            return
        found = proxy_from_environment(str(raw.value), environ)
        if found is not None:
            variable, value = found
            origin = f"environment {variable}"
            table["proxy"] = RawOption(value, origin, is_from_environment=True)

    def _resolve_secret(self, label: str, name: str, option: DeclaredOption) -> None:
        """Replace the file of a secret by its content, if the secret is in a file."""
        table = self._tables[label]
        file_name = f"{name}_file"
        direct = table.get(name)
        file = table.get(file_name)
        if not isinstance(file, RawOption):
            return
        if isinstance(direct, RawOption):
            # The environment wins. Within one source, only one of them may be set.
            if direct.is_from_environment == file.is_from_environment:
                self.report(label, name, f"expected either this or {file_name}")
            if direct.is_from_environment or not file.is_from_environment:
                del table[file_name]
                return

        try:
            secret = _read_secret_file(str(file.value).strip(), option.check)
        except InvalidValue as error:
            self.faults.append(f"{label}.{file_name}: {error}; from {file.origin}")
            table.pop(name, None)
        else:
            table[name] = RawOption(secret.reveal(), file.origin)
            self._secrets.append(secret.reveal())

    def _value(
        self, label: str, option: DeclaredOption, raw: RawOption | dict[str, RawOption]
    ) -> Any:
        """Convert and check a value. Reports its faults; then the result is meaningless."""
        key = f"{label}.{option.key.partition('.')[2]}"
        if option.type is ClientSettings:
            return self._client_settings(key, option, raw)
        if option.type == dict[str, Threshold] and isinstance(raw, dict):
            return self._thresholds(key, raw)
        if isinstance(raw, dict):
            origin = next(iter(raw.values())).origin
            problem = f"expected {option.expected}"
            self._add(key, RawOption(raw, origin), problem, hide=True)
            return None

        # A variable holds a list as text, separated by commas.
        source = raw
        if option.type == tuple[str, ...] and raw.is_from_environment:
            source = raw._replace(value=raw.value.split(","))
        # msgspec does not know Secret: check the text, then wrap it.
        annotation = str if option.type is Secret else option.annotation
        try:
            value = _converted(source, annotation, option.expected)
            if option.check is not None:
                value = option.check(value)
        except InvalidValue as error:
            self._add(key, raw, str(error), hide=_is_hidden(option))
            return None
        return Secret(value) if option.type is Secret else value

    def _client_settings(
        self, key: str, option: DeclaredOption, raw: RawOption | dict[str, RawOption]
    ) -> ClientSettings:
        settings = ClientSettings()
        # The empty name stands for a value in place of the table.
        items = {"": raw} if isinstance(raw, RawOption) else raw
        for name, item in items.items():
            if not name:
                self._add(key, item, f"expected {option.expected}", hide=True)
                continue
            try:
                if option.check is not None:
                    option.check(name)
                settings[name] = _converted(item, Setting, _EXPECTED_SETTING)
                check_client_file(name, settings[name])
            except InvalidValue as error:
                self._add(quote(f"{key}.{name}"), item, str(error), hide=True)
        return settings

    def _thresholds(self, key: str, raw: dict[str, RawOption]) -> dict[str, Threshold]:
        by_path: dict[str, dict[str, float]] = {}
        for name, item in raw.items():
            if name not in _THRESHOLD_KEYS:
                # Reported as unknown before.
                continue
            path, _, field = name.rpartition(".")
            try:
                value = _converted(item, ThresholdValue, _EXPECTED_THRESHOLD)
            except InvalidValue as error:
                self._add(f"{key}.{name}", item, str(error), hide=False)
                continue
            by_path.setdefault(path, {})[field] = value
        return {path: Threshold(**fields) for path, fields in by_path.items()}


def _labelled(tables: Tables) -> Iterator[tuple[str, Table]]:
    """Yield each table with its label. The feeds of a file are numbered."""
    for name, table in tables.items():
        if isinstance(table, list):
            for index, feed in enumerate(table):
                yield f"{name}[{index}]", feed
        else:
            yield name, table


def _table_of(label: str) -> str:
    return label.partition("[")[0]


def _options_of(label: str) -> Mapping[str, DeclaredOption]:
    return _OPTIONS.get(_table_of(label), {})


def _exists(label: str, name: str, inner: str) -> bool:
    """Return True if a table has an option. Of thresholds, `inner` must exist too."""
    option = _options_of(label).get(name)
    if option is None:
        return False
    if option.type == dict[str, Threshold] and inner:
        return inner in _THRESHOLD_KEYS
    return True


def _similar_threshold(name: str, inner: str) -> str | None:
    """Return the key of a threshold that lacks its section, such as `hvl.absolute`."""
    if name != "thresholds" or not inner:
        return None
    for key in _THRESHOLD_KEYS:
        path, _, _ = key.rpartition(".")
        # The field may be missing as well: `hvl = 5`.
        if f".{key}".endswith(f".{inner}") or f".{path}".endswith(f".{inner}"):
            return f"feeds.thresholds.{key}"
    return None


def _most_similar(key: str, raw: RawOption) -> str:
    """Return the key, or the variable, that was probably meant."""
    known: dict[str, str] = {}
    for options in _OPTIONS.values():
        for option in options.values():
            if not raw.is_from_environment:
                known[option.key] = option.key
            elif option.variable is not None:
                known[option.key] = option.variable
    if not raw.is_from_environment:
        for threshold in _THRESHOLD_KEYS:
            known[f"feeds.thresholds.{threshold}"] = f"feeds.thresholds.{threshold}"
    shortened = key[:_MAX_KEY_CHARACTERS]
    # Without a cutoff there is always a closest key.
    (closest,) = difflib.get_close_matches(shortened, known, n=1, cutoff=0.0)
    return known[closest]


def _is_hidden(option: DeclaredOption) -> bool:
    # A URL may hold a password, which is one of the faults that a URL can have.
    return option.type in {Secret, ClientSettings} or option.key.endswith("url")


def _secret_texts(tables: Mapping[str, Table]) -> list[str]:
    """Return every secret in the tables, even in a table that is not going to be built."""
    texts = []
    for label, table in tables.items():
        for name, option in _options_of(label).items():
            raw = table.get(name)
            if option.type is Secret and isinstance(raw, RawOption):
                texts.append(str(raw.value).strip())
    return texts


def _converted(raw: RawOption, annotation: Any, expected: str) -> Any:
    """Convert a value to its type, within its bounds. Raises InvalidValue."""
    value = raw.value
    try:
        if raw.is_from_environment and isinstance(value, str):
            # A variable that is not UTF-8 has lone surrogates, which fail wherever they are sent.
            value.encode()
            value = value.strip()
        return msgspec.convert(value, annotation, strict=not raw.is_from_environment)
    except (msgspec.ValidationError, UnicodeEncodeError):
        raise InvalidValue(f"expected {expected}") from None


def _check_base_url(loader: _Loader) -> None:
    base_url = loader.valid("upstream", "base_url")
    is_plain_allowed = loader.valid("upstream", "allow_plain_http")
    if base_url is None or is_plain_allowed is not False:
        return
    url = urlsplit(base_url)
    if url.scheme == "http" and url.hostname not in _LOCAL_HOSTS:
        loader.report(
            "upstream",
            "base_url",
            "expected https, or allow_plain_http: with http the API key can be read on the way",
        )


def _check_intervals(loader: _Loader) -> None:
    shortest = loader.valid("schedule", "min_interval_seconds")
    longest = loader.valid("schedule", "max_interval_seconds")
    if shortest is None or longest is None:
        return
    if shortest > longest:
        problem = f"expected at most max_interval_seconds, {longest}"
        loader.report("schedule", "min_interval_seconds", problem)


def _check_listen(loader: _Loader) -> None:
    listen = loader.valid("http", "listen")
    token = loader.valid("http", "token")
    if listen is None or token is None or token:
        return
    if not Http(listen=listen).is_local:
        loader.report(
            "http",
            "listen",
            "expected a loopback address, or a token: set http.token_file",
        )


def _check_password_is_set_once(loader: _Loader) -> None:
    password = loader.valid("kafka", "sasl_password")
    client = loader.valid("kafka", "client")
    if password and client is not None and "sasl.password" in client:
        problem = "expected either this or sasl.password in kafka.client"
        loader.report("kafka", "sasl_password", problem)


def _check_feed_names(loader: _Loader, labels: Iterable[str]) -> None:
    names: set[str] = set()
    for label in labels:
        found = loader.valid(label, "name")
        if found is None:
            continue
        # Kafka's metrics replace dots by underscores, so such topics would collide.
        name = found.replace("_", ".")
        if name in names:
            problem = "expected a name unlike those of other feeds ('.' equals '_')"
            loader.report(label, "name", problem)
        names.add(name)
