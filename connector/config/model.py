"""The options: their types, bounds, checks, defaults and meaning.

docs/reference/configuration.md is generated from this module (`make docs`).
"""

from collections.abc import Mapping
from typing import Annotated, Final

from msgspec import Meta, Struct
from msgspec.structs import fields

from connector.config.listen import Address, addresses_of, check_addresses
from connector.config.option import Option
from connector.config.proxy import check_proxy, proxy_secrets
from connector.config.secrets import MIN_SECRET_CHARACTERS, ClientSettings, Secret
from connector.config.values import (
    HOST,
    PORT,
    among,
    each,
    matching,
    matching_address,
    one_of,
    refusing,
)
from connector.core.diff import (
    DEFAULT_IGNORE,
    LIST_PATHS,
    NUMBER_PATHS,
    Threshold,
)
from connector.core.venues import VENUES

POSITIONINGS: Final = ("flow", "std")
INCLUDES: Final = ("expected_move", "max_pain", "ranked", "zones")

_NUMERIC_SECTIONS: Final = tuple(
    dict.fromkeys(path.partition(".")[0] for path in NUMBER_PATHS if "." in path)
)
# The paths that can have a threshold: all numbers of a section, or one number.
THRESHOLD_PATHS: Final = (*_NUMERIC_SECTIONS, *NUMBER_PATHS)

# The paths that can be ignored: a section, one number, or one list.
IGNORE_PATHS: Final = (*THRESHOLD_PATHS, "ranked", *LIST_PATHS)

# Options of librdkafka that cannot be set, by the reason.
REFUSED: Final = {
    "exactly-once delivery depends on it": (
        "acks",
        "enable.auto.commit",
        "enable.auto.offset.store",
        "enable.idempotence",
        "request.required.acks",
        "transactional.id",
    ),
    "restoring the state depends on it": (
        "auto.offset.reset",
        "enable.partition.eof",
        "isolation.level",
    ),
    "the assignment of shards depends on it": (
        "group.instance.id",
        "partition.assignment.strategy",
        "partitioner",
    ),
    "it is an option of [kafka]": (
        "bootstrap.servers",
        "group.id",
        "metadata.broker.list",
    ),
    "its value is a function": ("*_cb", "logger", "on_commit", "on_delivery"),
}

# Settings of topics that cannot be set, by the reason.
REFUSED_OF_TOPICS: Final = {
    "restoring the state depends on it": ("cleanup.policy",),
    "the time of a record is the time of its observation": ("message.timestamp.type",),
    "use kafka.retention_days": ("retention.ms",),
}

ThresholdValue = Annotated[float, Meta(ge=0, le=10**12)]

# A shorter key is a mistake, and masking it would make logs unreadable.
check_api_key = matching(
    rf"\s*[\x21-\x7e]{{{MIN_SECRET_CHARACTERS},4096}}\s*",
    f"{MIN_SECRET_CHARACTERS} to 4096 visible ASCII characters without blanks between them",
)

_check_function = matching(
    r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)*:[A-Za-z_]\w*", "module:function"
)
check_password = matching(r"(?s).*\S.*", "a text that is not blank")

_check_token = matching(
    r"\s*[\x21-\x7e]{16,4096}\s*",
    "16 to 4096 visible ASCII characters without blanks between them",
)
_check_url = matching_address(
    rf"https?://{HOST}(:(?!0){PORT})?(/[^?#@\\\x00-\x20\x7f-\U0010ffff]*)?",
    "http://host or https://host, optionally with a port from 1 to 65535 and a path,"
    " no user:password@, blanks, '?', '#' and '\\'",
)
_check_servers = matching(
    r"[\w.:/\[\]-]+(,[\w.:/\[\]-]+)*",
    "host:port, several separated by commas, no blanks",
)
# Both become parts of topic names, which Kafka limits to 249 characters.
_check_feed_name = matching(
    r"[a-z0-9][a-z0-9._-]{0,119}",
    "a-z, 0-9, '.', '_', '-', first a letter or digit, at most 120",
)
check_topic_prefix = matching(
    r"[A-Za-z0-9][\w.-]{0,119}",
    "A-Z, a-z, 0-9, '.', '_', '-', first a letter or digit, at most 120",
)
_check_group = matching(r"[\x21-\x7e]{1,200}", "1 to 200 visible ASCII characters")
_check_replication = matching(
    r"-1|[1-9]\d*", "-1 (the broker's default) or more than 0"
)
_check_symbols = each(
    r"[A-Z0-9][\w.-]{0,63}",
    "symbols of A-Z, a-z, 0-9, '.', '_', '-', at most 64 characters",
)

# Not only names that are known today. Both limits hold in decoded responses as well.
_check_exchanges = each(
    r"[a-z0-9][a-z0-9_.-]{0,39}",
    "at most 16 names of a-z, 0-9, '.', '_', '-', at most 40 characters",
    str.lower,
    max_items=16,
)


class Upstream(Struct, frozen=True, kw_only=True):
    """The API that the levels come from."""

    base_url: Annotated[
        str,
        Option(
            "Without `/multi/gex/levels`. Must be `https`, or `http` on this machine",
            check=_check_url,
        ),
    ] = "https://api.backquant.com/v2"
    allow_plain_http: Annotated[
        bool,
        Option(
            "Allow `http` to another machine. The API key is sent unencrypted:"
            " only for a simulator in a private network"
        ),
    ] = False
    api_key: Annotated[
        Secret, Option("The API key. Set it here or in a file", check=check_api_key)
    ]
    api_key_file: Annotated[
        str | None,
        Option("A file with the API key, instead of `api_key`. Read again on changes"),
    ] = None
    proxy: Annotated[
        Secret,
        Option(
            "The HTTP proxy on the way: `http://host:port`, optionally with"
            " `user:password@`. `none`: connect directly. If unset, `HTTPS_PROXY`"
            " (`HTTP_PROXY` for an `http` address) applies, except to hosts in `NO_PROXY`"
            " and to this machine",
            check=check_proxy,
        ),
    ] = Secret("")
    timeout_seconds: Annotated[
        float,
        Meta(gt=0, le=600),
        Option("The limit for one request, from connecting to the last byte"),
    ] = 10.0
    max_requests_per_minute: Annotated[
        Annotated[int, Meta(gt=0, le=100_000)] | None,
        Option(
            "A limit below the server's own. If unset, the server's limit applies,"
            " or 60 if the server does not announce one"
        ),
    ] = None
    max_requests_per_month: Annotated[
        Annotated[int, Meta(gt=0, le=1_000_000_000)] | None,
        Option(
            "A limit below the server's own, for the calendar month (UTC). It counts all"
            " programs of the user if the server does. Otherwise it counts this group's"
            " requests since the start, and assumes an even pace before it. If unset, the"
            " server's limit applies, or none"
        ),
    ] = None
    max_response_bytes: Annotated[
        int, Meta(ge=1_024, le=2**30), Option("Larger responses are rejected")
    ] = 1_048_576


class Feed(Struct, frozen=True, kw_only=True):
    """Symbols that are requested with the same parameters and published to the same topics."""

    name: Annotated[
        str,
        Option(
            "Part of the topic names. Allowed: a-z, 0-9, `.`, `_`, `-`",
            check=_check_feed_name,
        ),
    ]
    symbols: Annotated[
        tuple[str, ...],
        Meta(min_length=1),
        Option(
            "The symbols, each once, with the case that the API uses. They are requested,"
            " and are the keys in the topics, as they are written here; but one that is all"
            " lower case becomes upper case",
            check=_check_symbols,
        ),
    ]
    keep_lower_case: Annotated[
        bool,
        Option(
            "Leave symbols that are all lower case as they are, if the API knows them only so"
        ),
    ] = False
    exchanges: Annotated[
        tuple[str, ...],
        Option(
            f"Only these venues: {', '.join(VENUES)}. Other names are allowed, with a"
            " warning: the vendor may add venues. Empty: all",
            check=_check_exchanges,
        ),
    ] = ()
    include: Annotated[
        tuple[str, ...],
        Option(f"Optional sections: {', '.join(INCLUDES)}", check=among(INCLUDES)),
    ] = ()
    positioning: Annotated[
        str | None,
        Option(
            f"The model behind the levels: {' or '.join(POSITIONINGS)}. If unset, the"
            " API chooses",
            check=one_of(POSITIONINGS),
        ),
    ] = None
    ignore: Annotated[
        tuple[str, ...],
        Option("[Paths](#paths) whose changes are not published", among(IGNORE_PATHS)),
    ] = DEFAULT_IGNORE
    thresholds: Annotated[
        dict[str, Threshold],
        Option(
            "By [path](#paths), how far a number must move to count as changed:"
            " `{absolute = 5, relative = 0.001}`. Exceeding either one is enough"
        ),
    ] = {}
    stale_after_seconds: Annotated[
        float,
        Meta(gt=0, le=86_400),
        Option("Levels that were computed longer ago are `STALE`"),
    ] = 90.0


class Kafka(Struct, frozen=True, kw_only=True):
    """The Kafka cluster and the topics.

    The topics are `{prefix}.{feed}.changes`, `{prefix}.{feed}.current` and `{prefix}.quarantine`.
    """

    bootstrap_servers: Annotated[
        str,
        Option("`host:port`, several separated by commas", check=_check_servers),
    ] = "127.0.0.1:9092"
    topic_prefix: Annotated[
        str, Option("The start of every topic name", check=check_topic_prefix)
    ] = "gex.levels"
    group_id: Annotated[
        str,
        Option("The consumer group. Its workers share the shards", check=_check_group),
    ] = "gex-connector"
    shards: Annotated[
        int,
        Meta(gt=0, le=1_000),
        Option(
            "Partitions of `current`, and so the most workers that can share a feed."
            " Cannot be changed later"
        ),
    ] = 1
    partitions: Annotated[
        int,
        Meta(gt=0, le=10_000),
        Option("Partitions of `changes`, if the connector creates the topic"),
    ] = 6
    replication_factor: Annotated[
        int,
        Meta(ge=-1, le=32_767),
        Option(
            "Replicas of the topics that the connector creates. -1: the broker's default",
            check=_check_replication,
        ),
    ] = -1
    retention_days: Annotated[
        int,
        Meta(gt=0, le=36_500),
        Option(
            "Retention of `changes` and `quarantine`, if the connector creates them"
        ),
    ] = 7
    topic: Annotated[
        ClientSettings,
        Option(
            "Settings of every topic that the connector creates, such as"
            ' `"segment.ms" = 3600000`. They replace the connector\'s own; an empty text'
            " leaves a setting to the brokers. Not `cleanup.policy`,"
            " `message.timestamp.type` and `retention.ms`",
            check=refusing(REFUSED_OF_TOPICS),
        ),
    ] = ClientSettings()
    start_timeout_seconds: Annotated[
        float,
        Meta(gt=0, le=3_600),
        Option(
            "How long to wait at the start for Kafka and the registry before giving"
            " up with exit status 3"
        ),
    ] = 60.0
    sasl_password: Annotated[
        Secret,
        Option(
            "The password of `sasl.username`. Set it here, in `client` or in a file",
            check=check_password,
        ),
    ] = Secret("")
    sasl_password_file: Annotated[
        str | None,
        Option(
            "A file with the password, instead of `sasl_password`. A worker ends with exit"
            " status 5 once it holds another one that Kafka accepts"
        ),
    ] = None
    oauth_cb: Annotated[
        str | None,
        Option(
            "`module:function` that returns a token for `sasl.mechanism` OAUTHBEARER, as"
            " Amazon MSK with IAM needs it ([example](../how-to/operations.md#tokens)). Not for"
            " `sasl.oauthbearer.method` `oidc`",
            check=_check_function,
        ),
    ] = None
    client: Annotated[
        ClientSettings,
        Option(
            "Options passed to librdkafka. Of their values, only the paths of files that"
            " cannot be read are ever shown",
            check=refusing(REFUSED),
        ),
    ] = ClientSettings()

    def secrets(self) -> tuple[str, ...]:
        """Return every text that must not be shown."""
        password = (self.sasl_password.reveal(),) if self.sasl_password else ()
        return (*password, *self.client.secrets())


class SchemaRegistry(Struct, frozen=True, kw_only=True):
    """The schema registry. Without a `url`, events use Avro's single-object encoding."""

    url: Annotated[
        str | None,
        Option(
            "The address without credentials; set `basic.auth.user.info` in `client`",
            check=_check_url,
        ),
    ] = None
    client: Annotated[
        ClientSettings,
        Option(
            "Options passed to the registry client. Of their values, only the paths of files"
            " that cannot be read are ever shown",
            check=refusing({"it is an option of [schema_registry]": ("url", "proxy")}),
        ),
    ] = ClientSettings()
    proxy: Annotated[
        Secret,
        Option(
            "The HTTP proxy on the way to the registry, as `upstream.proxy`",
            check=check_proxy,
        ),
    ] = Secret("")

    def secrets(self) -> tuple[str, ...]:
        """Return every text that must not be shown."""
        return (*self.client.secrets(), *proxy_secrets(self.proxy))


class Schedule(Struct, frozen=True, kw_only=True):
    """The timing of requests. The request budget takes precedence over all of it."""

    target_delay_seconds: Annotated[
        float,
        Meta(ge=0, le=3_600),
        Option(
            "Target for the mean time from a refresh to the check that finds it."
            " 0: check as often as allowed"
        ),
    ] = 0.4
    min_interval_seconds: Annotated[
        float,
        Meta(gt=0, le=3_600),
        Option("The shortest time between two checks of a symbol"),
    ] = 0.25
    max_interval_seconds: Annotated[
        float,
        Meta(gt=0, le=3_600),
        Option("The longest time between two checks of a symbol"),
    ] = 60.0


class Http(Struct, frozen=True, kw_only=True):
    """The HTTP server for metrics, health, the status page and the API."""

    listen: Annotated[
        str,
        Option(
            "`host:port` or `[address]:port`, several separated by commas. `[::]:port`"
            " alone is every address of the machine, IPv4 and IPv6. Port 0 picks a free"
            " one. An address that other machines can reach needs a token",
            check=check_addresses,
        ),
    ] = "127.0.0.1:9464"
    token: Annotated[
        Secret,
        Option(
            "The token for changes through `/api`, and for reading it from other"
            " machines. At least 16 characters",
            check=_check_token,
        ),
    ] = Secret("")
    token_file: Annotated[
        str | None,
        Option("A file with the token, instead of `token`. Read once, at the start"),
    ] = None
    level_symbols: Annotated[
        int,
        Meta(ge=0, le=1_000),
        Option("The most symbols with a metric `gex_level` for each level. 0: none"),
    ] = 50

    @property
    def addresses(self) -> tuple[Address, ...]:
        """The addresses in `listen`."""
        return addresses_of(self.listen)

    @property
    def is_local(self) -> bool:
        """True if no other machine can connect."""
        return all(address.is_local for address in self.addresses)


class Config(Struct, frozen=True, kw_only=True):
    """The complete configuration.

    Its repr shows no secret, and it cannot be encoded or pickled while it holds one.
    """

    upstream: Upstream
    feeds: tuple[Feed, ...]
    kafka: Kafka = Kafka()
    schema_registry: SchemaRegistry = SchemaRegistry()
    schedule: Schedule = Schedule()
    http: Http = Http()

    def secrets(self) -> tuple[str, ...]:
        """Return every text that must not be shown, as loaded at the start."""
        own = [
            secret.reveal()
            for secret in (self.upstream.api_key, self.http.token)
            if secret
        ]
        return (
            *own,
            *proxy_secrets(self.upstream.proxy),
            *self.kafka.secrets(),
            *self.schema_registry.secrets(),
        )


# The tables of the file. `feeds` is a list of tables.
TABLES: Final[Mapping[str, type[Struct]]] = {
    field.name: Feed if field.name == "feeds" else field.type
    for field in fields(Config)
}
