"""Generates `schemas/asyncapi.json`, the AsyncAPI 3 document of the topics.

The payloads are the Avro schemas. Partitions and settings are those of the topics that the
connector creates by default.
"""

from __future__ import annotations

import json
from typing import Any, Final

from connector import __version__
from connector.config.model import Kafka
from connector.core.model import Kind
from connector.kafka.admin import TopicSpec, topic_specs
from connector.kafka.avro import EVENT, STATE, schema
from connector.kafka.names import Topics
from connector.kafka.records import GROUP_HEADER, SPENT_HEADER, WORKER_HEADER

# The version of the specification that names Kafka's bindings.
_BINDING: Final = {"bindingVersion": "0.5.0"}
_AVRO: Final = "application/vnd.apache.avro;version=1.12.0"
_TOPICS: Final = Topics("{prefix}")
_FEED: Final = "{feed}"

_DESCRIPTION: Final = (
    "Every change of gamma-exposure levels, exactly once and in order per symbol. Read with "
    "isolation.level=read_committed: the connector writes in transactions, and aborted "
    "records stay in the topics. Event and state are one transaction. A symbol's events are "
    "numbered by `sequence` without a gap. Restore from `current`, then follow `changes`."
)
_PREFIX: Final = {
    "description": "The connector's kafka.topic_prefix.",
    "default": Kafka().topic_prefix,
}
_FEED_PARAMETER: Final = {
    "description": "The name of a feed. GEX_SYMBOLS makes one feed called `all`.",
    "default": "all",
}
_KEY: Final = {"type": "string", "description": "The symbol, in UTF-8.", "minLength": 1}
_TEXT: Final[dict[str, Any]] = {"type": "string"}


def asyncapi_reference() -> str:
    """Return the content of `schemas/asyncapi.json`."""
    return json.dumps(document(), indent=2, ensure_ascii=False) + "\n"


def document() -> dict[str, Any]:
    """Return the AsyncAPI document."""
    specs = {spec.name: spec for spec in topic_specs(_TOPICS, [_FEED], Kafka())}
    channels = {
        "changes": _channel(
            specs[_TOPICS.changes(_FEED)], "Every event of a feed.", "levelsEvent"
        ),
        "current": _channel(
            specs[_TOPICS.current(_FEED)],
            "The current state of each symbol of a feed. Compacted.",
            "levelsState",
        ),
        "quarantine": _channel(
            specs[_TOPICS.quarantine],
            "Entries of the API that cannot be used, as they came.",
            "quarantinedEntry",
        ),
    }
    operations = {}
    for name, channel in channels.items():
        operations[f"publish_{name}"] = {
            "action": "send",
            "channel": {"$ref": f"#/channels/{name}"},
            "summary": channel["description"],
        }
    return {
        "asyncapi": "3.0.0",
        "info": {
            "title": "gex-levels-connector",
            "version": __version__,
            "description": _DESCRIPTION,
            "license": {"name": "Apache-2.0"},
        },
        "defaultContentType": "application/vnd.apache.avro",
        "channels": channels,
        "operations": operations,
        "components": {"messages": _messages()},
    }


def _channel(spec: TopicSpec, description: str, message: str) -> dict[str, Any]:
    parameters = {"prefix": _PREFIX}
    if _FEED in spec.name:
        parameters["feed"] = _FEED_PARAMETER
    settings: dict[str, Any] = {"cleanup.policy": [spec.config["cleanup.policy"]]}
    if "retention.ms" in spec.config:
        settings["retention.ms"] = int(spec.config["retention.ms"])
    return {
        "address": spec.name,
        "description": description,
        "parameters": parameters,
        "messages": {message: {"$ref": f"#/components/messages/{message}"}},
        "bindings": {
            "kafka": {
                "partitions": spec.partitions,
                "topicConfiguration": settings,
                **_BINDING,
            }
        },
    }


def _messages() -> dict[str, Any]:
    kinds = [f"gex.levels.{kind.lower()}" for kind in Kind]
    event = {
        "name": "LevelsEvent",
        "title": "An event: a change, an absence, or its end",
        "summary": "Act on `status` and `after`; `kind` and `reason` say what happened.",
        "headers": _headers(kinds),
        **_avro(EVENT),
    }
    fraction = {
        "type": "string",
        "pattern": r"^[0-9]+\.[0-9]{3}$",
        "description": "The part of its request budget that the worker used in a minute.",
    }
    state = {
        "name": "LevelsState",
        "title": "The current state of a symbol",
        "summary": "Its `sequence` is that of the symbol's last event.",
        "headers": _headers(["gex.levels.state"], {SPENT_HEADER: fraction}),
        **_avro(STATE),
    }
    return {
        "levelsEvent": event,
        "levelsState": state,
        "quarantinedEntry": _quarantined_entry(),
    }


def _headers(
    kinds: list[str], further: dict[str, dict[str, Any]] | None = None
) -> dict[str, Any]:
    """Return the schema of the headers: CloudEvents in Kafka's binary mode, and the writer."""
    properties: dict[str, dict[str, Any]] = {
        "ce_specversion": {"type": "string", "const": "1.0"},
        "ce_id": _TEXT,
        "ce_type": {"type": "string", "enum": kinds},
        "ce_source": {"type": "string", "description": "`/{prefix}/{feed}`"},
        "ce_time": {
            "type": "string",
            "format": "date-time",
            "description": "When the connector received the response.",
        },
        GROUP_HEADER: {"type": "string", "description": "The workers' consumer group."},
        WORKER_HEADER: {"type": "string", "description": "The worker that wrote it."},
    } | (further or {})
    return {
        "type": "object",
        "required": [*properties],
        "properties": properties,
    }


def _avro(name: str) -> dict[str, Any]:
    """Return payload and bindings of values of an Avro schema, with its types put in."""
    return {
        "contentType": "application/vnd.apache.avro",
        "payload": {"schemaFormat": _AVRO, "schema": _sorted(schema(name))},
        "bindings": {
            "kafka": {
                "key": _KEY,
                # With a registry. Without one, Avro's single-object encoding.
                "schemaIdLocation": "payload",
                "schemaIdPayloadEncoding": "confluent",
                "schemaLookupStrategy": "TopicNameStrategy",
                **_BINDING,
            }
        },
    }


def _sorted(part: Any) -> Any:
    """Return JSON with its keys in order: fastavro's differ from run to run."""
    return json.loads(json.dumps(part, sort_keys=True))


def _quarantined_entry() -> dict[str, Any]:
    properties = {
        "what": {"type": "string", "const": "entry"},
        "where": {
            "type": "string",
            "description": "`{feed}/{symbol}/{request_id}`",
        },
        "why": {"type": "string", "description": "`{reason}: {message}`"},
        "size": {
            "type": "string",
            "pattern": "^[0-9]+$",
            "description": "The bytes of the entry. The value has as many as fit.",
        },
    }
    return {
        "name": "QuarantinedEntry",
        "title": "An entry that cannot be used",
        "summary": "The bytes as the API sent them. They need not be JSON.",
        "contentType": "application/octet-stream",
        "headers": {
            "type": "object",
            "required": [*properties],
            "properties": properties,
        },
        "payload": {"type": "string", "format": "binary"},
        "bindings": {"kafka": {"key": _KEY, **_BINDING}},
    }
