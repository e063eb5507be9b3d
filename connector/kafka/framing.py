"""Which framing the configuration asks for."""

from __future__ import annotations

from typing import TYPE_CHECKING

from connector.errors import SetupError
from connector.kafka.avro import EVENT, STATE, Framing, SingleObject

if TYPE_CHECKING:
    from collections.abc import Iterable

    from connector.config.model import SchemaRegistry
    from connector.kafka.names import Topics
    from connector.kafka.registry import Registry


def framing_of(registry: SchemaRegistry) -> Framing:
    """To read with. Raises SetupError where the registry's client is not installed."""
    return SingleObject() if registry.url is None else _client(registry, registry.url)


def _client(registry: SchemaRegistry, url: str) -> Registry:
    try:
        from connector.kafka.registry import Registry  # noqa: PLC0415 -- an extra
    except ImportError as error:
        remedy = "install the extra `registry`"
        raise SetupError(
            f"schema_registry.url needs its client ({error}): {remedy}"
        ) from None
    return Registry(url, registry.client)


def examined(
    registry: SchemaRegistry, url: str, topics: Topics, feeds: Iterable[str]
) -> tuple[str, list[str]]:
    """The registry's compatibility level, and what the first worker registers. Raises SetupError, KafkaUnavailable."""
    client, new = _client(registry, url), []
    level = client.compatibility()
    for feed in feeds:
        new += [
            client.examine(topics.changes(feed), EVENT),
            client.examine(topics.current(feed), STATE),
        ]
    return level, [one for one in new if one is not None]


def prepared(registry: SchemaRegistry, topics: Topics, feeds: Iterable[str]) -> Framing:
    """To write with: our schemas are known to the registry. Raises SetupError, KafkaUnavailable."""
    framing = framing_of(registry)
    for feed in feeds:
        framing.prepare(topics.changes(feed), EVENT)
        framing.prepare(topics.current(feed), STATE)
    return framing
