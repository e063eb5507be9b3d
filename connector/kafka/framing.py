"""The framing that the configuration asks for: with a schema registry or without.

It imports the registry's client only if a registry is configured: that client is an
optional extra, and needs 10 MiB.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from connector.config.proxy import proxy_url
from connector.errors import SetupError
from connector.kafka.avro import EVENT, STATE, Framing, SingleObject

if TYPE_CHECKING:
    from collections.abc import Iterable

    from connector.config.model import SchemaRegistry
    from connector.kafka.names import Topics
    from connector.kafka.registry import Registry


def framing_of(registry: SchemaRegistry) -> Framing:
    """Return the framing that the configuration asks for.

    Raises SetupError if the registry's client is not installed, and ConfigError if it
    refuses a setting.
    """
    if registry.url is None:
        return SingleObject()
    return _client(registry, registry.url)


def prepare_framing(framing: Framing, topics: Topics, feeds: Iterable[str]) -> None:
    """Register our schemas, and look up all that is needed to read the topics.

    Raises SetupError, KafkaUnavailable.
    """
    for feed in feeds:
        framing.prepare(topics.changes(feed), EVENT)
        framing.prepare(topics.current(feed), STATE)


def check_schemas(
    registry: SchemaRegistry, url: str, topics: Topics, feeds: Iterable[str]
) -> tuple[str | None, list[str]]:
    """Return the registry's compatibility level, and the schemas to be registered.

    The level is None if the registry does not tell us.

    Raises SetupError, ConfigError, KafkaUnavailable.
    """
    client = _client(registry, url)
    level = client.compatibility()
    missing = []
    for feed in feeds:
        for topic, name in (
            (topics.changes(feed), EVENT),
            (topics.current(feed), STATE),
        ):
            if client.has_schema(topic, name):
                continue
            if client.has_subject(topic):
                missing.append(f"{topic}-value will get a new version")
            else:
                missing.append(f"{topic}-value will be registered")
    return level, missing


def _client(registry: SchemaRegistry, url: str) -> Registry:
    try:
        from connector.kafka.registry import Registry  # noqa: PLC0415 -- an extra
    except ImportError as error:
        raise SetupError(
            f"schema_registry.url needs a client that is not installed ({error}); "
            "install the extra `registry`"
        ) from None
    return Registry(url, registry.client, proxy_url(registry.proxy))
