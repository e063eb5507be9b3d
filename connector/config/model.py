"""The configuration: what can be set, and how it is read.

A value comes from the environment, else from the TOML file, else it is the default. An option is its type, its bounds,
a check where these do not say it all, and what it means.
"""

from collections.abc import Mapping
from typing import Annotated, Final

from msgspec import Meta, Struct
from msgspec.structs import fields

from connector.config.options import THRESHOLD_PATHS
from connector.config.secrets import ClientSettings, Secret
from connector.config.values import (
    HOST,
    PORT,
    among,
    each,
    is_loopback,
    matching,
    refusing,
)
from connector.core.diff import LIST_PATHS, Threshold

EXCHANGES: Final = ("deribit", "bybit", "okx", "binance")
INCLUDES: Final = ("expected_move", "max_pain", "ranked", "zones")
IGNORE_PATHS: Final = (*THRESHOLD_PATHS, "ranked", *LIST_PATHS)
"""What can be ignored: a section, one number, or one list."""

REFUSED: Final = {
    "exactly-once depends on it": (
        "acks",
        "enable.auto.commit",
        "enable.idempotence",
        "transactional.id",
    ),
    "a restore depends on it": (
        "auto.offset.reset",
        "enable.partition.eof",
        "isolation.level",
    ),
    "shards are assigned by it": (
        "group.instance.id",
        "partition.assignment.strategy",
        "partitioner",
    ),
    "it is an option of [kafka]": ("bootstrap.servers", "group.id"),
    "it takes a function": ("*_cb", "logger", "on_commit", "on_delivery"),
}
"""Options of librdkafka that cannot be set, by the reason why."""

Hour = Annotated[float, Meta(gt=0, le=3_600)]

api_key_text = matching(
    r"\s*[\x21-\x7e]{1,4096}\s*",
    "1 to 4096 visible ASCII characters without blanks between them",
)
token_text = matching(
    r"\s*[\x21-\x7e]{16,4096}\s*",
    "16 to 4096 visible ASCII characters without blanks between them",
)
_url = matching(
    rf"https?://{HOST}(:(?!0){PORT})?(/[^?#@\\\x00-\x20\x7f-\U0010ffff]*)?",
    "http://host or https://host, a port from 1 to 65535 or none, no user:password@, blanks, '?', '#' and '\\'",
)
_listen = matching(f"{HOST}:{PORT}", "host:port, port 0 to 65535")
_servers = matching(
    r"[\w.:/\[\]-]+(,[\w.:/\[\]-]+)*",
    "host:port, several separated by commas, no blanks",
)
_name = matching(
    r"[a-z0-9][a-z0-9._-]{0,119}",
    "a-z, 0-9, '.', '_', '-', first a letter or digit, at most 120",
)
_prefix = matching(
    r"[A-Za-z0-9][\w.-]{0,119}",
    "A-Z, a-z, 0-9, '.', '_', '-', first a letter or digit, at most 120",
)
_group = matching(r"[\x21-\x7e]{1,200}", "1 to 200 visible ASCII characters")
_replicas = matching(r"-1|[1-9]\d*", "-1 (the broker's default) or more than 0")
_symbols = each(
    r"[A-Z0-9][\w.-]{0,63}",
    "symbols of A-Z, 0-9, '.', '_', '-', at most 64 characters",
    str.upper,
)


class Upstream(Struct, frozen=True, kw_only=True):
    """Where the levels come from."""

    base_url: Annotated[
        str, _url, "Without `/multi/gex/levels`; `https`, or `http` on this machine"
    ] = "https://api.backquant.com/v2"
    allow_plain_http: Annotated[
        bool,
        "`http` to another machine: the key goes in the clear; only for a simulator in a private network",
    ] = False
    api_key: Annotated[Secret, api_key_text, "The API key, here or in a file"]
    api_key_file: Annotated[
        str | None,
        "A file with the key, instead of `api_key`; read again when it changes",
    ] = None
    timeout_seconds: Annotated[
        float, Meta(gt=0, le=600), "For one request, from connecting to the last byte"
    ] = 10.0
    max_requests_per_minute: Annotated[
        Annotated[int, Meta(gt=0, le=100_000)] | None,
        "A cap on the server's limit; none: the server's, or 60 where it says none",
    ] = None
    max_response_bytes: Annotated[
        int, Meta(ge=1_024, le=2**30), "A longer response is not read to its end"
    ] = 1_048_576


class Feed(Struct, frozen=True, kw_only=True):
    """Symbols that are watched in one way and published to the same topics."""

    name: Annotated[str, _name, "Part of the topics' names: a-z, 0-9, `.`, `_`, `-`"]
    symbols: Annotated[
        tuple[str, ...],
        Meta(min_length=1),
        _symbols,
        "Stripped and upper-cased; each once",
    ]
    exchanges: Annotated[
        tuple[str, ...],
        among(EXCHANGES),
        f"Only these of {', '.join(EXCHANGES)}; empty: all",
    ] = ()
    include: Annotated[
        tuple[str, ...], among(INCLUDES), f"Optional sections: {', '.join(INCLUDES)}"
    ] = ()
    ignore: Annotated[
        tuple[str, ...], among(IGNORE_PATHS), "What is no event when it changes"
    ] = ("spot_price",)
    thresholds: Annotated[
        dict[str, Threshold],
        "By path or section, how far a number must move: `{absolute = 5, relative = 0.001}`; exceeding either counts",
    ] = {}
    stale_after_seconds: Annotated[
        float, Meta(gt=0, le=86_400), "Levels computed longer ago are `STALE`"
    ] = 90.0


class Kafka(Struct, frozen=True, kw_only=True):
    """Where the events go: `{prefix}.{feed}.changes`, `{prefix}.{feed}.current` and `{prefix}.quarantine`."""

    bootstrap_servers: Annotated[
        str, _servers, "`host:port`, several separated by commas"
    ] = "127.0.0.1:9092"
    topic_prefix: Annotated[str, _prefix, "What the names of our topics begin with"] = (
        "gex.levels"
    )
    group_id: Annotated[str, _group, "Workers of one group share the shards"] = (
        "gex-connector"
    )
    shards: Annotated[
        int,
        Meta(gt=0, le=1_000),
        "Partitions of `current`: workers that can share a feed; fixed",
    ] = 1
    partitions: Annotated[
        int, Meta(gt=0, le=10_000), "Partitions of `changes`, where we create it"
    ] = 6
    replication_factor: Annotated[
        int, Meta(ge=-1, le=32_767), _replicas, "Of topics we create; -1: the broker's"
    ] = -1
    retention_days: Annotated[
        int,
        Meta(gt=0, le=36_500),
        "Of `changes` and `quarantine`, where we create them",
    ] = 7
    start_timeout_seconds: Annotated[
        Hour, "Kafka or the registry not usable for so long at the start: exit 3"
    ] = 60.0
    client: Annotated[
        ClientSettings, refusing(REFUSED), "Passed to librdkafka; shown by name only"
    ] = ClientSettings()


class SchemaRegistry(Struct, frozen=True, kw_only=True):
    """Where the schemas are registered. Without a `url` events are Avro single-object encoded."""

    url: Annotated[
        str | None,
        _url,
        "Who we are is no part of it, but `basic.auth.user.info` in `client`",
    ] = None
    client: Annotated[
        ClientSettings,
        refusing({"it is an option of [schema_registry]": ("url",)}),
        "Passed on; shown by name only",
    ] = ClientSettings()


class Schedule(Struct, frozen=True, kw_only=True):
    """When the upstream is asked. The budget wins over all of it."""

    target_delay_seconds: Annotated[
        float,
        Meta(ge=0, le=3_600),
        "Mean time from a refresh to the check that shows it; 0: as often as allowed",
    ] = 0.4
    min_interval_seconds: Annotated[
        Hour, "Least time between two checks of a symbol"
    ] = 0.25
    max_interval_seconds: Annotated[
        Hour, "Most time between two checks of a symbol, not below the least"
    ] = 60.0


class Http(Struct, frozen=True, kw_only=True):
    """Metrics, health, status page and API."""

    listen: Annotated[
        str,
        _listen,
        "`host:port` or `[address]:port`; port 0 is any that is free; not on loopback only with a token",
    ] = "127.0.0.1:9464"
    token: Annotated[
        Secret,
        token_text,
        "Whoever brings it may change things by `/api`; 16 characters or more",
    ] = Secret("")
    token_file: Annotated[
        str | None, "A file with the token, instead of `token`; read at the start"
    ] = None
    level_symbols: Annotated[
        int,
        Meta(ge=0, le=1_000),
        "Symbols whose levels are metrics, `gex_level`; 0: none",
    ] = 50

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
    field.name: Feed if field.name == "feeds" else field.type
    for field in fields(Config)
}
"""The tables of the file, of which `feeds` is a list."""
