"""The configuration: what can be set, and how it is read.

A value comes from the environment, else from the TOML file, else it is the default. An option is its type, its bounds,
a check where these do not say it all, and what it means.
"""

import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Annotated, Any, Final
from urllib.parse import urlsplit

from msgspec import Meta, Struct
from msgspec.structs import fields

from connector.checks import HOST, PORT, among, each, is_loopback, matching, refusing
from connector.core.diff import SECTIONS as LISTS
from connector.core.diff import Threshold
from connector.errors import ConfigError
from connector.hidden import ClientSettings, Secret, printable
from connector.options import THRESHOLD_PATHS, Given, Reader

EXCHANGES: Final = ("deribit", "bybit", "okx", "binance")
INCLUDES: Final = ("expected_move", "max_pain", "ranked", "zones")
IGNORE_PATHS: Final = (*THRESHOLD_PATHS, "ranked", *LISTS)
"""What can be ignored: a section, one number, or one list."""

REFUSED: Final = {
    "exactly-once depends on it": ("acks", "enable.auto.commit", "enable.idempotence", "transactional.id"),
    "a restore depends on it": ("auto.offset.reset", "enable.partition.eof", "isolation.level"),
    "shards are assigned by it": ("group.instance.id", "partition.assignment.strategy", "partitioner"),
    "it is an option of [kafka]": ("bootstrap.servers", "group.id"),
    "it takes a function": ("*_cb", "logger", "on_commit", "on_delivery"),
}
"""Options of librdkafka that cannot be set, by the reason why."""

Hour = Annotated[float, Meta(gt=0, le=3_600)]

_key = matching(r"\s*[\x21-\x7e]{1,4096}\s*", "1 to 4096 visible ASCII characters without blanks between them")
_token = matching(r"\s*[\x21-\x7e]{16,4096}\s*", "16 to 4096 visible ASCII characters without blanks between them")
_url = matching(
    rf"https?://{HOST}(:(?!0){PORT})?(/[^?#@\\\x00-\x20\x7f-\U0010ffff]*)?",
    "http://host or https://host, a port from 1 to 65535 or none, no user:password@, blanks, '?', '#' and '\\'",
)
_listen = matching(f"{HOST}:{PORT}", "host:port, port 0 to 65535")
_servers = matching(r"[\w.:/\[\]-]+(,[\w.:/\[\]-]+)*", "host:port, several separated by commas, no blanks")
_name = matching(r"[a-z0-9][a-z0-9._-]{0,119}", "a-z, 0-9, '.', '_', '-', first a letter or digit, at most 120")
_prefix = matching(r"[A-Za-z0-9][\w.-]{0,119}", "A-Z, a-z, 0-9, '.', '_', '-', first a letter or digit, at most 120")
_group = matching(r"[\x21-\x7e]{1,200}", "1 to 200 visible ASCII characters")
_replicas = matching(r"-1|[1-9]\d*", "-1 (the broker's default) or more than 0")
_symbols = each(r"[A-Z0-9][\w.-]{0,63}", "symbols of A-Z, 0-9, '.', '_', '-', at most 64 characters", str.upper)


class Upstream(Struct, frozen=True, kw_only=True):
    """Where the levels come from."""

    base_url: Annotated[str, _url, "Without `/multi/gex/levels`; `https`, or `http` on this machine"] = (
        "https://api.backquant.com/v2"
    )
    allow_plain_http: Annotated[
        bool, "`http` to another machine: the key goes in the clear; only for a simulator in a private network"
    ] = False
    api_key: Annotated[Secret, _key, "The API key, here or in a file"]
    api_key_file: Annotated[str | None, "A file with the key, instead of `api_key`; read again when it changes"] = None
    timeout_seconds: Annotated[float, Meta(gt=0, le=600), "For one request, from connecting to the last byte"] = 10.0
    max_requests_per_minute: Annotated[
        Annotated[int, Meta(gt=0, le=100_000)] | None,
        "A cap on the server's limit; none: the server's, or 60 where it says none",
    ] = None
    max_response_bytes: Annotated[int, Meta(ge=1_024, le=2**30), "A longer response is not read to its end"] = 1_048_576


class Feed(Struct, frozen=True, kw_only=True):
    """Symbols that are watched in one way and published to the same topics."""

    name: Annotated[str, _name, "Part of the topics' names: a-z, 0-9, `.`, `_`, `-`"]
    symbols: Annotated[tuple[str, ...], Meta(min_length=1), _symbols, "Stripped and upper-cased; each once"]
    exchanges: Annotated[tuple[str, ...], among(EXCHANGES), f"Only these of {', '.join(EXCHANGES)}; empty: all"] = ()
    include: Annotated[tuple[str, ...], among(INCLUDES), f"Optional sections: {', '.join(INCLUDES)}"] = ()
    ignore: Annotated[tuple[str, ...], among(IGNORE_PATHS), "What is no event when it changes"] = ("spot_price",)
    thresholds: Annotated[
        dict[str, Threshold],
        "By path or section, how far a number must move: `{absolute = 5, relative = 0.001}`; exceeding either counts",
    ] = {}
    stale_after_seconds: Annotated[float, Meta(gt=0, le=86_400), "Levels computed longer ago are `STALE`"] = 90.0


class Kafka(Struct, frozen=True, kw_only=True):
    """Where the events go: `{prefix}.{feed}.changes`, `{prefix}.{feed}.current` and `{prefix}.quarantine`."""

    bootstrap_servers: Annotated[str, _servers, "`host:port`, several separated by commas"] = "127.0.0.1:9092"
    topic_prefix: Annotated[str, _prefix, "What the names of our topics begin with"] = "gex.levels"
    group_id: Annotated[str, _group, "Workers of one group share the shards"] = "gex-connector"
    shards: Annotated[int, Meta(gt=0, le=1_000), "Partitions of `current`: workers that can share a feed; fixed"] = 1
    partitions: Annotated[int, Meta(gt=0, le=10_000), "Partitions of `changes`, where we create it"] = 6
    replication_factor: Annotated[int, Meta(ge=-1, le=32_767), _replicas, "Of topics we create; -1: the broker's"] = -1
    retention_days: Annotated[int, Meta(gt=0, le=36_500), "Of `changes` and `quarantine`, where we create them"] = 7
    start_timeout_seconds: Annotated[Hour, "Kafka or the registry not usable for so long at the start: exit 3"] = 60.0
    client: Annotated[ClientSettings, refusing(REFUSED), "Passed to librdkafka; shown by name only"] = ClientSettings()


class SchemaRegistry(Struct, frozen=True, kw_only=True):
    """Where the schemas are registered. Without a `url` events are Avro single-object encoded."""

    url: Annotated[str | None, _url, "Who we are is no part of it, but `basic.auth.user.info` in `client`"] = None
    client: Annotated[
        ClientSettings, refusing({"it is an option of [schema_registry]": ("url",)}), "Passed on; shown by name only"
    ] = ClientSettings()


class Schedule(Struct, frozen=True, kw_only=True):
    """When the upstream is asked. The budget wins over all of it."""

    target_delay_seconds: Annotated[
        float, Meta(ge=0, le=3_600), "Mean time from a refresh to the check that shows it; 0: as often as allowed"
    ] = 0.4
    min_interval_seconds: Annotated[Hour, "Least time between two checks of a symbol"] = 0.25
    max_interval_seconds: Annotated[Hour, "Most time between two checks of a symbol, not below the least"] = 60.0


class Http(Struct, frozen=True, kw_only=True):
    """Metrics, health, status page and API."""

    listen: Annotated[
        str, _listen, "`host:port` or `[address]:port`; port 0 is any that is free; not on loopback only with a token"
    ] = "127.0.0.1:9464"
    token: Annotated[Secret, _token, "Whoever brings it may change things by `/api`; 16 characters or more"] = Secret(
        ""
    )
    token_file: Annotated[str | None, "A file with the token, instead of `token`; read at the start"] = None
    level_symbols: Annotated[int, Meta(ge=0, le=1_000), "Symbols whose levels are metrics, `gex_level`; 0: none"] = 50

    @property
    def host(self) -> str:
        """The host of `listen`, an IPv6 address without its brackets."""
        return self.listen.rpartition(":")[0].strip("[]")

    @property
    def port(self) -> int:
        """The port of `listen`."""
        return int(self.listen.rpartition(":")[2])

    @property
    def is_local(self) -> bool:
        """Whether nobody can come from another machine."""
        return is_loopback(self.host)


class Config(Struct, frozen=True, kw_only=True):
    """Everything that can be set. Shows no secret, and cannot be encoded or pickled as long as it holds one."""

    upstream: Upstream
    feeds: tuple[Feed, ...]
    kafka: Kafka = Kafka()
    schema_registry: SchemaRegistry = SchemaRegistry()
    schedule: Schedule = Schedule()
    http: Http = Http()

    def secrets(self) -> tuple[str, ...]:
        """Every text that must not be shown anywhere, as it was when the configuration was loaded."""
        own = (self.upstream.api_key, self.http.token)
        return (
            *(one.reveal() for one in own if one),
            *self.kafka.client.secrets(),
            *self.schema_registry.client.secrets(),
        )


SECTIONS: Final[Mapping[str, type[Struct]]] = {
    field.name: Feed if field.name == "feeds" else field.type for field in fields(Config)
}
"""The tables of the file, of which `feeds` is a list."""


def load(path: Path | None, environ: Mapping[str, str]) -> Config:
    """The configuration of a file (none: defaults) and an environment, the environment first.

    docs/configuration.md says how they are written. Raises ConfigError with every fault there is, one line each: the
    key, the shape of its value, what was expected, and where the value came from.
    """
    reader = Reader(path, environ, SECTIONS)
    _take_secret(reader, "upstream.api_key", _key)
    _take_secret(reader, "http.token", _token)
    parts: dict[str, Any] = {name: reader.build(name, struct) for name, struct in SECTIONS.items() if name != "feeds"}
    feeds = {label: reader.build(label, Feed) for label in _feed_labels(reader)}
    _check_together(reader, parts["upstream"], parts["schedule"], feeds)
    http: Http | None = parts["http"]
    if http and not http.is_local and not http.token:
        reader.fault("http.listen", "expected an address of loopback, or a token: set http.token_file")
    if reader.faults:
        raise reader.error()
    return Config(**parts, feeds=tuple(filter(None, feeds.values())))


def load_kafka(path: Path | None, environ: Mapping[str, str]) -> tuple[Kafka, SchemaRegistry]:
    """What reading the topics needs, of the same file and environment. Raises ConfigError, as `load` does."""
    reader = Reader(path, environ, SECTIONS)
    kafka, registry = reader.build("kafka", Kafka), reader.build("schema_registry", SchemaRegistry)
    if reader.faults or not kafka or not registry:
        raise reader.error()
    return kafka, registry


def load_feeds(path: Path | None, environ: Mapping[str, str]) -> tuple[Feed, ...]:
    """The feeds of the same file and environment, none where there are none. Raises ConfigError, as `load` does."""
    reader = Reader(path, environ, SECTIONS)
    if not any(key.startswith("feeds") for key in reader.given):
        return ()
    feeds = [reader.build(label, Feed) for label in _feed_labels(reader)]
    if reader.faults:
        raise reader.error()
    return tuple(filter(None, feeds))


def read_key_file(path: str | Path) -> Secret:
    """The API key that a file holds. Raises ConfigError: not readable, or nothing that can be a key."""
    return _read_secret("upstream.api_key_file", path, _key)


def _read_secret(option: str, path: str | Path, check: Callable[[str], str]) -> Secret:
    try:
        return Secret(check(Path(path).read_text("utf-8-sig")))
    except (OSError, ValueError) as error:
        raise ConfigError([printable(f"{option}: '{path}': {getattr(error, 'strerror', error)}")]) from None


def _take_secret(reader: Reader, key: str, check: Callable[[str], str]) -> None:
    """Of a secret and a file with one take that in the environment; and the secret out of its file."""
    given, file = reader.given, f"{key}_file"
    if key in given and file in given:
        if given[key].text == given[file].text:
            reader.fault(key, f"expected either this or {file.partition('.')[2]}")
        del given[file if given[key].text else key]
    if file in given:
        try:
            secret = _read_secret(file, str(given[file].value).strip(), check)
            given[key] = Given(secret.reveal(), given[file].origin)
        except ConfigError as error:
            reader.faults.append(f"{error}; from {given[file].origin}")
            given[key] = Given("unread" * 3, given[file].origin)


def _feed_labels(reader: Reader) -> list[str]:
    """The feeds of the file, `feeds[0]` the first, or in place of all of them the one that variables make."""
    labels = [found[0] for path in reader.given if (found := re.match(r"feeds(\[\d+\])?(?=\.)", path))]
    if labels and "feeds" not in labels:
        return list(dict.fromkeys(labels))
    reader.given.setdefault("feeds.name", Given("all", "default"))
    return ["feeds"]


def _check_together(
    reader: Reader, upstream: Upstream | None, schedule: Schedule | None, feeds: Mapping[str, Feed | None]
) -> None:
    if upstream and not upstream.allow_plain_http:
        url = urlsplit(upstream.base_url)
        if url.scheme == "http" and url.hostname not in {"localhost", "127.0.0.1", "::1"}:
            problem = "expected https, or allow_plain_http: http shows the key to everybody between"
            reader.fault("upstream.base_url", problem)
    if schedule and schedule.min_interval_seconds > schedule.max_interval_seconds:
        problem = f"expected at most max_interval_seconds, {schedule.max_interval_seconds}"
        reader.fault("schedule.min_interval_seconds", problem)
    seen: set[str] = set()
    for label, feed in feeds.items():
        name = feed.name.replace("_", ".") if feed else label  # Kafka's metrics take both for the same
        if name in seen:
            reader.fault(f"{label}.name", "expected another name than other feeds', '.' and '_' being the same")
        seen.add(name)
