"""The AsyncAPI document describes the records that a worker writes."""

from __future__ import annotations

import io
from typing import TYPE_CHECKING, Any

import fastavro
import pytest
from jsonschema import (  # type: ignore[import-untyped]  # it has no stubs
    Draft7Validator,
)

from connector.devkit.reference.asyncapi import document
from connector.devkit.reference.event_story import play
from connector.kafka.avro import Codec, SingleObject
from connector.kafka.names import ShardId, Topics
from connector.kafka.records import RecordWriter
from connector.kafka.shard_log import Transaction

if TYPE_CHECKING:
    from collections.abc import Iterator

    from connector.kafka.records import OutgoingRecord

DOCUMENT = document()
PREFIX = "levels.eu"
FEED = "majors"
# The prefix of Avro's single-object encoding.
FRAMING_BYTES = 10


def references(part: Any) -> Iterator[str]:
    """Yield every reference, except those inside of Avro schemas, which have none."""
    if isinstance(part, dict):
        if isinstance(part.get("$ref"), str):
            yield part["$ref"]
        for inner in part.values():
            yield from references(inner)
    elif isinstance(part, list):
        for inner in part:
            yield from references(inner)


def resolved(reference: str) -> Any:
    part: Any = DOCUMENT
    for key in reference.removeprefix("#/").split("/"):
        part = part[key]
    return part


def test_every_reference_leads_somewhere() -> None:
    found = set(references(DOCUMENT))

    assert len(found) == 6
    for reference in found:
        assert resolved(reference)


def written() -> list[OutgoingRecord]:
    """Return the records of a story with an event of every kind."""
    topics = Topics(PREFIX)
    writer = RecordWriter(ShardId(FEED, 0), topics, Codec(SingleObject()))
    records: list[OutgoingRecord] = []
    for _, transition in play():
        events = [] if transition.event is None else [transition.event]
        states = [] if transition.state is None else [transition.state]
        records += writer.records(Transaction(events, states, 0.25))
    return records


RECORDS = written()


@pytest.mark.parametrize("channel", ["changes", "current"])
def test_records_are_as_their_channel_says(channel: str) -> None:
    description = DOCUMENT["channels"][channel]
    topic = description["address"].format(prefix=PREFIX, feed=FEED)
    ((_, reference),) = description["messages"].items()
    message = resolved(reference["$ref"])
    schema = fastavro.parse_schema(message["payload"]["schema"])

    records = [record for record in RECORDS if record.topic == topic]

    assert records
    for record in records:
        headers = dict(record.headers)
        assert set(headers) == set(message["headers"]["properties"])
        Draft7Validator(message["headers"]).validate(headers)
        content = io.BytesIO(record.value[FRAMING_BYTES:])
        value = fastavro.schemaless_reader(content, schema, None)
        assert isinstance(value, dict)
        assert value["symbol"].encode() == record.key
        # Nothing follows the datum.
        assert content.read() == b""


def test_every_kind_of_event_is_among_the_records() -> None:
    message = DOCUMENT["components"]["messages"]["levelsEvent"]
    kinds = message["headers"]["properties"]["ce_type"]["enum"]
    found = {dict(record.headers)["ce_type"] for record in RECORDS}

    assert found == {*kinds, "gex.levels.state"}


def test_a_header_that_is_not_described_would_be_found() -> None:
    message = DOCUMENT["components"]["messages"]["levelsEvent"]
    headers = dict(RECORDS[0].headers) | {"ce_type": "gex.levels.news"}

    assert not Draft7Validator(message["headers"]).is_valid(headers)
