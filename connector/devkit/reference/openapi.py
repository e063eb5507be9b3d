"""Generates `connector/web/page/openapi.json`, the OpenAPI document of the HTTP API.

The schemas come from the structs in `connector.web.answers`, the operations from the
table below.
"""

from __future__ import annotations

import inspect
import json
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

import msgspec

from connector.core.model import Event
from connector.web import answers
from connector.web.api import COMMIT_WAIT_SECONDS
from connector.web.events import EVENTS_KEPT, MAX_STREAMS
from connector.web.levels import READ_SECONDS
from connector.web.server import BODY_BYTES, REQUEST_SECONDS, STREAM_PATH

if TYPE_CHECKING:
    from collections.abc import Mapping

_DESCRIPTION: Final = (
    "The state of one worker, and requests to it. On loopback, reading needs no token; "
    "changes, and everything if the worker listens elsewhere, need it. Moments are "
    "microseconds since the Unix epoch."
)

_SCHEMA_REF: Final = "#/components/schemas/{name}"


@dataclass(frozen=True, kw_only=True)
class _Answer:
    """A successful answer. More than one struct means any of them."""

    description: str
    structs: tuple[type[msgspec.Struct], ...] = ()
    content_type: str = "application/json"


@dataclass(frozen=True, kw_only=True)
class _Operation:
    """A method of a path. `problems` describes each error status."""

    method: str
    path: str
    summary: str
    description: str | None = None
    changes: bool = False
    """True if it changes something, and so needs the token on loopback too."""

    parameters: tuple[Mapping[str, Any], ...] = ()
    body: type[msgspec.Struct] | None = None
    answers: Mapping[int, _Answer]
    no_content: Mapping[int, str] = field(default_factory=dict)
    """Descriptions of answers without a body."""

    problems: Mapping[int, str] = field(default_factory=dict)


def _names_parameter(name: str, description: str) -> dict[str, Any]:
    """Return a query parameter that may come several times."""
    return {
        "name": name,
        "in": "query",
        "schema": {"type": "array", "items": {"type": "string"}},
        "explode": True,
        "description": description,
    }


_HOST_PROBLEM: Final = {421: "On loopback: the Host header names another host"}

_READING_PROBLEMS: Final = {
    401: "Not on loopback: the token is missing or wrong",
    403: "Another site's page sent the request",
    **_HOST_PROBLEM,
}

_CHANGING_PROBLEMS: Final = {
    401: "The token is missing or wrong",
    403: "No token is configured, or another site's page sent the request",
    408: f"The request was not finished within {REQUEST_SECONDS:g} s",
    413: f"The body is larger than {BODY_BYTES // 1024} KiB",
    **_HOST_PROBLEM,
}

OPERATIONS: Final = (
    _Operation(
        method="get",
        path="/api/openapi.json",
        summary="This document",
        answers={200: _Answer(description="OpenAPI 3.1")},
        problems=_READING_PROBLEMS,
    ),
    _Operation(
        method="get",
        path="/api/status",
        summary="This worker, its budget, its group in Kafka, and every symbol",
        answers={
            200: _Answer(
                description="At most 0.5 s old, or 0.5 s for every thousand symbols; "
                "the members of the group may be older",
                structs=(answers.StatusAnswer,),
            )
        },
        problems=_READING_PROBLEMS,
    ),
    _Operation(
        method="get",
        path="/api/schedule",
        summary="The next check of every batch, and the reason for its moment",
        answers={
            200: _Answer(
                description="The current schedule, or {} while the worker starts",
                structs=(answers.ScheduleAnswer, answers.NotStarted),
            )
        },
        problems=_READING_PROBLEMS,
    ),
    _Operation(
        method="get",
        path="/api/levels",
        summary="The levels of every configured symbol, whichever worker publishes it",
        description="The states of this worker's shards are those that it has committed. "
        "Those of other workers' shards are read from Kafka while somebody asks: the first "
        f"answer may take up to {READ_SECONDS:g} s. A 304 says that nothing but the ages "
        "has changed.",
        parameters=(
            _names_parameter("feed", "A feed; repeatable"),
            _names_parameter("symbol", "A symbol, in any case; repeatable"),
            {
                "name": "If-None-Match",
                "in": "header",
                "schema": {"type": "string"},
                "description": "The ETag of an earlier answer",
            },
        ),
        answers={
            200: _Answer(
                description="The last published levels, with an ETag",
                structs=(answers.LevelsAnswer,),
            )
        },
        no_content={
            304: "Nothing but the ages has changed since the answer of the ETag"
        },
        problems={
            **_READING_PROBLEMS,
            400: "Unknown query parameter",
            404: "The feed or the symbol is not configured",
        },
    ),
    _Operation(
        method="get",
        path=STREAM_PATH,
        summary=f"This worker's events as they are committed, the last {EVENTS_KEPT} first",
        parameters=(
            {
                "name": "Last-Event-ID",
                "in": "header",
                "schema": {"type": "string"},
                "description": "An event_id: start after this event, if it is kept",
            },
        ),
        answers={
            200: _Answer(
                description="Server-sent events: `id` is the event_id, `data` an Event "
                "with its levels, named as in the Avro schema. "
                "Ends after an hour, when the worker stops, or if the reader is too slow",
                structs=(Event,),
                content_type="text/event-stream",
            )
        },
        problems={
            **_READING_PROBLEMS,
            503: f"There are {MAX_STREAMS} readers already",
        },
    ),
    _Operation(
        method="post",
        path="/api/symbols/{symbol}/snapshot",
        summary="Publish a symbol's levels again, as one SNAPSHOT with reason `asked`",
        description="Publishes the last levels that were observed, without a request to "
        "the upstream. Takes no body. Requests before it is published share one snapshot.",
        changes=True,
        parameters=(
            {
                "name": "symbol",
                "in": "path",
                "required": True,
                "schema": {"type": "string"},
            },
            {
                "name": "feed",
                "in": "query",
                "schema": {"type": "string"},
                "description": "Required if several feeds have the symbol",
            },
        ),
        answers={
            200: _Answer(description="Committed", structs=(answers.SnapshotAnswer,)),
            202: _Answer(
                description=f"Not committed within {COMMIT_WAIT_SECONDS:g} s; it will be "
                "published as long as this worker owns the shard",
                structs=(answers.SnapshotAnswer,),
            ),
        },
        problems={
            **_CHANGING_PROBLEMS,
            400: "Several feeds have the symbol, or there is a body",
            404: "The symbol is not configured",
            409: "Another worker owns the shard, or there are no levels",
        },
    ),
    _Operation(
        method="put",
        path="/api/log-level",
        summary="Set this worker's log level until it ends",
        changes=True,
        body=answers.LogLevelRequest,
        answers={
            200: _Answer(
                description="The level was set", structs=(answers.LogLevelAnswer,)
            )
        },
        problems={
            **_CHANGING_PROBLEMS,
            400: "The body is not a known level",
            415: "The body is not application/json",
        },
    ),
)


def openapi_reference() -> str:
    """Return `connector/web/page/openapi.json`."""
    return json.dumps(openapi(), indent=2) + "\n"


def openapi() -> dict[str, Any]:
    """Return the document."""
    paths: dict[str, dict[str, Any]] = {}
    for operation in OPERATIONS:
        methods = paths.setdefault(operation.path, {})
        methods[operation.method] = _describe(operation)
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "gex-levels-connector",
            "version": "1",
            "license": {"name": "Apache 2.0", "identifier": "Apache-2.0"},
            "description": _DESCRIPTION,
        },
        "servers": [{"url": "/"}],
        "paths": paths,
        "components": {
            "securitySchemes": {
                "token": {
                    "type": "http",
                    "scheme": "bearer",
                    "description": "`http.token`, or the content of `http.token_file`",
                }
            },
            "schemas": _schemas(),
        },
    }


def _schemas() -> dict[str, Any]:
    # Every operation can answer with a problem.
    structs: set[type[msgspec.Struct]] = {answers.Problem}
    for operation in OPERATIONS:
        for answer in operation.answers.values():
            structs.update(answer.structs)
        if operation.body is not None:
            structs.add(operation.body)
    # In a fixed order, so that the generated file changes only with the API.
    in_order = sorted(structs, key=lambda struct: struct.__name__)
    _, schemas = msgspec.json.schema_components(in_order, ref_template=_SCHEMA_REF)
    for schema in schemas.values():
        # Docstrings of several lines are indented.
        if "description" in schema:
            schema["description"] = inspect.cleandoc(schema["description"])
    return dict(sorted(schemas.items()))


def _describe(operation: _Operation) -> dict[str, Any]:
    """Return the OpenAPI operation object."""
    described: dict[str, Any] = {"summary": operation.summary}
    if operation.description is not None:
        described["description"] = operation.description

    # An empty requirement means that no token is needed: on loopback, for reading.
    with_token: dict[str, list[str]] = {"token": []}
    described["security"] = [with_token] if operation.changes else [{}, with_token]

    if operation.parameters:
        described["parameters"] = list(operation.parameters)
    if operation.body is not None:
        content = {"application/json": {"schema": _ref(operation.body)}}
        described["requestBody"] = {"required": True, "content": content}
    described["responses"] = _responses(operation)
    return described


def _responses(operation: _Operation) -> dict[str, Any]:
    responses = {}
    for status, answer in operation.answers.items():
        # Without a struct, the shape is described elsewhere: in the OpenAPI specification.
        refs = [_ref(struct) for struct in answer.structs]
        if not refs:
            schema: dict[str, Any] = {"type": "object"}
        elif len(refs) == 1:
            schema = refs[0]
        else:
            schema = {"anyOf": refs}
        responses[str(status)] = {
            "description": answer.description,
            "content": {answer.content_type: {"schema": schema}},
        }
    for status, description in operation.no_content.items():
        responses[str(status)] = {"description": description}
    for status, description in sorted(operation.problems.items()):
        responses[str(status)] = {
            "description": description,
            "content": {"application/problem+json": {"schema": _ref(answers.Problem)}},
        }
    return responses


def _ref(struct: type[msgspec.Struct]) -> dict[str, str]:
    return {"$ref": _SCHEMA_REF.format(name=struct.__name__)}
