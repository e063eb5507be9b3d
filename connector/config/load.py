"""Load the configuration: from the environment, else from the TOML file, else the default."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from connector.config.model import (
    SECTIONS,
    Config,
    Feed,
    Http,
    Kafka,
    Schedule,
    SchemaRegistry,
    Upstream,
    api_key_text,
    token_text,
)
from connector.config.options import RawOption, Reader
from connector.config.secrets import Secret, printable
from connector.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping


def load(path: Path | None, environ: Mapping[str, str]) -> Config:
    """The configuration of a file (none: defaults) and an environment, the environment first.

    docs/configuration.md says how they are written. Raises ConfigError with every fault there is, one line each: the
    key, the shape of its value, what was expected, and where the value came from.
    """
    reader = Reader(path, environ, SECTIONS)
    _take_secret(reader, "upstream.api_key", api_key_text)
    _take_secret(reader, "http.token", token_text)
    parts: dict[str, Any] = {
        name: reader.build(name, struct)
        for name, struct in SECTIONS.items()
        if name != "feeds"
    }
    feeds = {label: reader.build(label, Feed) for label in _feed_labels(reader)}
    _check_together(reader, parts["upstream"], parts["schedule"], feeds)
    http: Http | None = parts["http"]
    if http and not http.is_local and not http.token:
        reader.fault(
            "http.listen",
            "expected an address of loopback, or a token: set http.token_file",
        )
    if reader.faults:
        raise reader.error()
    return Config(**parts, feeds=tuple(filter(None, feeds.values())))


def load_kafka(
    path: Path | None, environ: Mapping[str, str]
) -> tuple[Kafka, SchemaRegistry]:
    """What reading the topics needs, of the same file and environment. Raises ConfigError, as `load` does."""
    reader = Reader(path, environ, SECTIONS)
    kafka, registry = (
        reader.build("kafka", Kafka),
        reader.build("schema_registry", SchemaRegistry),
    )
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
    return _read_secret("upstream.api_key_file", path, api_key_text)


def _read_secret(option: str, path: str | Path, check: Callable[[str], str]) -> Secret:
    try:
        return Secret(check(Path(path).read_text("utf-8-sig")))
    except (OSError, ValueError) as error:
        raise ConfigError(
            [printable(f"{option}: '{path}': {getattr(error, 'strerror', error)}")]
        ) from None


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
            given[key] = RawOption(secret.reveal(), given[file].origin)
        except ConfigError as error:
            reader.faults.append(f"{error}; from {given[file].origin}")
            given[key] = RawOption("unread" * 3, given[file].origin)


def _feed_labels(reader: Reader) -> list[str]:
    """The feeds of the file, `feeds[0]` the first, or in place of all of them the one that variables make."""
    labels = [
        found[0]
        for path in reader.given
        if (found := re.match(r"feeds(\[\d+\])?(?=\.)", path))
    ]
    if labels and "feeds" not in labels:
        return list(dict.fromkeys(labels))
    reader.given.setdefault("feeds.name", RawOption("all", "default"))
    return ["feeds"]


def _check_together(
    reader: Reader,
    upstream: Upstream | None,
    schedule: Schedule | None,
    feeds: Mapping[str, Feed | None],
) -> None:
    if upstream and not upstream.allow_plain_http:
        url = urlsplit(upstream.base_url)
        if url.scheme == "http" and url.hostname not in {
            "localhost",
            "127.0.0.1",
            "::1",
        }:
            problem = "expected https, or allow_plain_http: http shows the key to everybody between"
            reader.fault("upstream.base_url", problem)
    if schedule and schedule.min_interval_seconds > schedule.max_interval_seconds:
        problem = (
            f"expected at most max_interval_seconds, {schedule.max_interval_seconds}"
        )
        reader.fault("schedule.min_interval_seconds", problem)
    seen: set[str] = set()
    for label, feed in feeds.items():
        name = (
            feed.name.replace("_", ".") if feed else label
        )  # Kafka's metrics take both for the same
        if name in seen:
            reader.fault(
                f"{label}.name",
                "expected another name than other feeds', '.' and '_' being the same",
            )
        seen.add(name)
