"""The configuration: what can be set, and how it is read.

A value comes from the environment, else from the TOML file, else it is the default. `load` reports every fault at once.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final
from urllib.parse import unquote, urlsplit

from msgspec import Meta, Struct

from connector import checks
from connector.core.diff import Threshold  # noqa: TC001 - msgspec reads the annotations
from connector.errors import ConfigError
from connector.hidden import ClientSettings, Secret, printable, quote
from connector.options import Given, Layers, Reader

if TYPE_CHECKING:
    from collections.abc import Mapping

MAX_KEY_FILE_BYTES: Final = 4_096

_TEN_MINUTES: Final = 600
_HOUR: Final = 3_600
_DAY: Final = 86_400


class Upstream(Struct, frozen=True, kw_only=True):
    """Where the levels come from."""

    base_url: Annotated[
        str, Meta(description="The API, without `/multi/gex/levels`; `https`, or `http` on this machine")
    ] = "https://api.backquant.com/v2"
    api_key: Annotated[Secret, Meta(description="The API key, here or in a file")]
    api_key_file: Annotated[
        str | None,
        Meta(description="A file with the API key, instead of `api_key`, at most 4 KiB; read again when keys rotate"),
    ] = None
    timeout_seconds: Annotated[
        float, Meta(gt=0, le=_TEN_MINUTES, description="For one request, from connecting to the last byte")
    ] = 10.0
    max_requests_per_minute: Annotated[
        int, Meta(gt=0, le=100_000, description="Our budget; where the server's own limit is lower, that one counts")
    ] = 60
    max_response_bytes: Annotated[
        int, Meta(ge=1_024, le=1_073_741_824, description="A longer response is not read to its end")
    ] = 8_388_608


class Feed(Struct, frozen=True, kw_only=True):
    """Symbols that are watched in one way and published to the same topics."""

    name: Annotated[str, Meta(description="Part of the topics' names: a-z, 0-9, `.`, `_`, `-`")]
    symbols: Annotated[tuple[str, ...], Meta(description="Stripped and upper-cased; each once")]
    exchanges: Annotated[
        tuple[str, ...], Meta(description=f"Only these venues: {', '.join(checks.EXCHANGES)}; empty: all")
    ] = ()
    include: Annotated[tuple[str, ...], Meta(description=f"Optional sections: {', '.join(checks.INCLUDES)}")] = ()
    ignore: Annotated[
        tuple[str, ...], Meta(description="Paths (`all_expiry.hvl`) or sections (`odte`) whose change is no event")
    ] = ("spot_price",)
    thresholds: Annotated[
        dict[str, Threshold],
        Meta(
            description="By path or section, how far a number must move: `{absolute = 5, relative = 0.001}`, "
            "either or both; exceeding either counts"
        ),
    ] = {}
    stale_after_seconds: Annotated[
        float, Meta(gt=0, le=_DAY, description="Levels computed longer ago than this are `STALE`")
    ] = 90.0


class Kafka(Struct, frozen=True, kw_only=True):
    """Where the events go."""

    bootstrap_servers: Annotated[str, Meta(description="`host:port`, several separated by commas")] = "127.0.0.1:9092"
    topic_prefix: Annotated[
        str, Meta(description="Topics are `{prefix}.{feed}.changes`, `{prefix}.{feed}.current`, `{prefix}.quarantine`")
    ] = "gex.levels"
    group_id: Annotated[str, Meta(description="Workers of one group share the shards")] = "gex-connector"
    shards: Annotated[
        int, Meta(gt=0, le=1_000, description="Partitions of `current`: how many workers can share a feed; fixed")
    ] = 1
    partitions: Annotated[int, Meta(gt=0, le=10_000, description="Partitions of `changes`, where we create it")] = 6
    replication_factor: Annotated[
        int, Meta(ge=-1, le=32_767, description="Of topics that we create; -1: the broker's default; 0 is refused")
    ] = -1
    retention_days: Annotated[
        int, Meta(gt=0, le=36_500, description="Of `changes` and `quarantine`, where we create them")
    ] = 7
    start_timeout_seconds: Annotated[
        float, Meta(gt=0, le=_HOUR, description="Kafka or the registry not usable for so long at the start: exit 3")
    ] = 60.0
    client: Annotated[
        ClientSettings,
        Meta(description="Passed to librdkafka as it is, less what exactly-once depends on; shown by name only"),
    ] = ClientSettings()


class SchemaRegistry(Struct, frozen=True, kw_only=True):
    """Where the schemas are registered. Without a `url` events are Avro single-object encoded."""

    url: Annotated[
        str | None, Meta(description="`user:password@` in it is taken out and becomes `basic.auth.user.info`")
    ] = None
    client: Annotated[
        ClientSettings, Meta(description="Passed to the registry's client as it is; shown by name only")
    ] = ClientSettings()


class Schedule(Struct, frozen=True, kw_only=True):
    """When the upstream is asked. The budget wins over all of it."""

    target_delay_seconds: Annotated[
        float, Meta(ge=0, le=_HOUR, description="How long after a refresh is expected it is asked for")
    ] = 0.4
    min_interval_seconds: Annotated[
        float, Meta(gt=0, le=_HOUR, description="Least time between two requests of a worker")
    ] = 0.25
    max_interval_seconds: Annotated[
        float, Meta(gt=0, le=_HOUR, description="Most time between two checks of a symbol, not below the least")
    ] = 60.0


class Http(Struct, frozen=True, kw_only=True):
    """Metrics, health, status page and API."""

    listen: Annotated[str, Meta(description="`host:port` or `[address]:port`; port 0 is any that is free")] = (
        "127.0.0.1:9464"
    )

    @property
    def host(self) -> str:
        """The host of `listen`, an IPv6 address without its brackets."""
        return checks.endpoint(self.listen)[0]

    @property
    def port(self) -> int:
        """The port of `listen`."""
        return checks.endpoint(self.listen)[1]


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
        return (self.upstream.api_key.reveal(), *self.kafka.client.secrets(), *self.schema_registry.client.secrets())


SECTIONS: Final[Mapping[str, type[Struct]]] = {
    "upstream": Upstream,
    "kafka": Kafka,
    "schema_registry": SchemaRegistry,
    "schedule": Schedule,
    "http": Http,
}
"""The tables of the file, `[[feeds]]` aside."""

FEED_VARIABLES: Final = {"GEX_SYMBOLS": "symbols", "GEX_INCLUDE": "include", "GEX_EXCHANGES": "exchanges"}
"""Variables that make one feed called `all`."""


def load(path: Path | None, environ: Mapping[str, str]) -> Config:
    """The configuration of a file (none: defaults) and an environment, the environment first.

    `GEX_<SECTION>__<KEY>` overrides a key: lists separated by commas, `GEX_KAFKA__CLIENT` and
    `GEX_SCHEMA_REGISTRY__CLIENT` as a JSON object that replaces the file's table, one option of theirs as in
    `GEX_KAFKA__CLIENT__SASL_PASSWORD`. `GEX_SYMBOLS` replaces every feed of the file by one called `all`.
    `api_key` and `api_key_file` exclude each other; of one in the file and one in the environment the latter is taken.
    An empty variable counts as not set.

    Raises ConfigError with every fault there is, one line each: the key, what kind of value it has, what was
    expected, and where the value came from.
    """
    reader = Reader(path, environ, SECTIONS, FEED_VARIABLES)
    upstream = reader.build("upstream", Upstream, _with_key(reader))
    kafka = reader.build("kafka", Kafka, reader.given("kafka"))
    registry = _registry(reader)
    schedule = reader.build("schedule", Schedule, reader.given("schedule"))
    http = reader.build("http", Http, reader.given("http"))
    feeds = _feeds(reader)
    if kafka is not None:
        _check_topics(reader, kafka.topic_prefix, feeds)
    if schedule is not None and schedule.min_interval_seconds > schedule.max_interval_seconds:
        found = f"{schedule.min_interval_seconds} above max_interval_seconds {schedule.max_interval_seconds}"
        reader.fault("schedule.min_interval_seconds", found, "expected at most the other", "both")
    if reader.faults or not (upstream and kafka and registry and schedule and http):
        raise ConfigError(reader.lines())
    return Config(upstream=upstream, feeds=feeds, kafka=kafka, schema_registry=registry, schedule=schedule, http=http)


def read_key_file(path: str | Path) -> Secret:
    """The API key that a file holds, blanks around it stripped.

    Raises ConfigError: not readable, longer than 4 KiB, empty, or nothing that can be a key.
    """
    where = f"upstream.api_key_file: {quote(str(path), limit=4_096)}"
    try:
        with Path(path).open("rb") as file:
            content = file.read(MAX_KEY_FILE_BYTES + 1)
        return _key_in(content)
    except OSError as error:
        problem = f"not readable: {error.strerror}"
    except checks.Bad as bad:
        problem = bad.problems[0]
    except ValueError:
        problem = "expected the path of a file"
    raise ConfigError([printable(f"{where}; {problem}")])


def _key_in(content: bytes) -> Secret:
    if len(content) > MAX_KEY_FILE_BYTES:
        raise checks.Bad(f"expected at most {MAX_KEY_FILE_BYTES} bytes")
    return checks.api_key(content.decode("utf-8-sig", errors="replace"))


def _with_key(reader: Reader) -> Layers:
    """What is given of `[upstream]`, with the key out of its file."""
    layers = reader.given("upstream")
    keys, files = layers.get("api_key"), layers.get("api_key_file")
    if keys and files:
        if keys[0].text == files[0].text:
            reader.fault("upstream.api_key", "given with api_key_file", "expected one of the two", keys[0].origin)
        del layers["api_key_file" if keys[0].text else "api_key"]
    file = layers.get("api_key_file", [Given(None, "")])[0]
    if isinstance(file.value, str):
        try:
            layers["api_key"] = [Given(read_key_file(file.value.strip()), file.origin)]
        except ConfigError as error:
            reader.faults.append(f"{error}; from {file.origin}")
            layers["api_key"] = []
    return layers


def _feeds(reader: Reader) -> tuple[Feed, ...]:
    """The feeds without a fault; what is wrong with the others is in the reader's faults."""
    shorthand = reader.variables(FEED_VARIABLES)
    if "symbols" in shorthand:
        tables = {"feeds.all": {"name": [Given("all", "default")], **shorthand}}
    else:
        for key, (given, *_) in shorthand.items():
            reader.fault(f"feeds.all.{key}", "given without symbols", "expected GEX_SYMBOLS too", given.origin)
        tables = reader.tables("feeds")
    if not tables and not shorthand:
        reader.fault("feeds", "not given", "expected [[feeds]] with symbols, or GEX_SYMBOLS", "default")
    built = [reader.build(label, Feed, layers, section="feeds") for label, layers in tables.items()]
    return tuple(feed for feed in built if feed is not None)


def _check_topics(reader: Reader, prefix: str, feeds: tuple[Feed, ...]) -> None:
    """Names that are valid topics, and differ in more than `.` and `_`, which Kafka's metrics take for the same."""
    longest = checks.MAX_TOPIC_CHARACTERS - len(f"{prefix}..changes")
    seen: dict[str, str] = {}
    for feed in feeds:
        if len(feed.name) > longest:
            found = f"{len(feed.name)} characters"
            reader.fault("feeds.name", found, f"expected at most {max(longest, 0)} beside topic_prefix", "all of it")
        other = seen.setdefault(feed.name.replace("_", "."), feed.name)
        if other is not feed.name:
            problem = f"expected another name than {quote(other)}, '.' and '_' being the same"
            reader.fault("feeds.name", quote(feed.name), problem, "all of it")


def _registry(reader: Reader) -> SchemaRegistry | None:
    """`user:password@` goes from the URL to the client's settings, which are never shown."""
    layers = reader.given("schema_registry")
    registry = reader.build("schema_registry", SchemaRegistry, layers)
    if registry is None or registry.url is None or "@" not in registry.url:
        return registry
    if "basic.auth.user.info" in registry.client:
        problem = "expected no user:password@ beside basic.auth.user.info"
        reader.fault("schema_registry.url", "str", problem, layers["url"][0].origin)
    userinfo = urlsplit(registry.url).netloc.rpartition("@")[0]
    client = ClientSettings({**registry.client, "basic.auth.user.info": unquote(userinfo)})
    return SchemaRegistry(url=registry.url.replace(f"{userinfo}@", "", 1), client=client)
