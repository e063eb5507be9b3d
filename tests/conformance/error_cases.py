"""The cases that a program must end with one clear error."""

from __future__ import annotations

import io
from typing import TYPE_CHECKING, Any

import confluent_kafka as ck
import fastavro
import msgspec

from connector.kafka.avro import EVENT, schema
from connector.kafka.registry import Registry
from tests.conformance.feed import PATIENCE_SECONDS, Feed, Worker
from tests.conformance.judge import last_sequences
from tests.conformance.page_server import page_server
from tests.conformance.story import Symbol, moving_and_staying

if TYPE_CHECKING:
    from connector.core.model import Event
    from tests.conformance.stage import Stage


def followed_feed(stage: Stage) -> Feed:
    """Return a feed with one event, which every program has restored."""
    feed = stage.feed()
    feed.commit(Symbol("ETHUSDT").changed(3000))
    # A gap must not be the first error, however busy the machine is.
    stage.start("--patience", "600")
    stage.wait_restored()
    return feed


def gap(stage: Stage) -> None:
    """An event that is missing for good."""
    btc = Symbol("BTCUSDT")
    feed = stage.feed()
    feed.commit(btc.changed(60_000))
    # The same patience bounds the restore, which a busy machine must not fail.
    stage.start("--patience", "20")
    stage.wait_restored()
    btc.skip()
    feed.commit(btc.changed(61_000))
    stage.expect_error("BTCUSDT", "2", "3")


def retention(stage: Stage) -> None:
    """Events that were deleted in one of two partitions before the program read them."""
    moving, staying = moving_and_staying(2)
    feed = stage.feed(partitions=2)
    feed.commit(moving.changed(60_000), staying.changed(3000))
    stage.start()
    stage.wait_restored()
    # A frozen program has one fetch under way at most, which the first event ends. The
    # other partition delivers its events, so the error does not come alone.
    stage.freeze()
    feed.commit(*(moving.changed(61_000 + number) for number in range(20)))
    feed.commit(*(staying.changed(3100 + number) for number in range(20)))
    feed.delete_events()
    stage.thaw()
    stage.expect_error(feed.changes, "retention")


def held_back(stage: Stage) -> None:
    """A transaction that stays open, so that the states cannot be restored."""
    btc = Symbol("BTCUSDT")
    feed = stage.feed()
    with Worker(feed) as worker:
        worker.commit(btc.changed(60_000))
        worker.write(btc.aborted())
        stage.start("--patience", "1")
        stage.expect_error(feed.current, "transaction")


def deleted_topic(stage: Stage) -> None:
    """Topics that are deleted while the program follows them."""
    feed = followed_feed(stage)
    feed.delete_topics(feed.changes, feed.current)
    stage.expect_error(feed.prefix, "deleted")
    stage.expect_no_topics(feed)


def deleted_states(stage: Stage) -> None:
    """The topic `current` is deleted, so that no worker can write any more."""
    feed = followed_feed(stage)
    feed.delete_topics(feed.current)
    stage.expect_error(feed.current, "deleted")
    stage.expect_no_topics(feed, but=[feed.changes])


def recreated_topic(stage: Stage) -> None:
    """Topics that are deleted and created again while the program follows them."""
    feed = followed_feed(stage)
    # When the program asks again, there are more records than before: the program's
    # position is there, and only the topic's id tells.
    stage.freeze()
    feed.delete_topics(feed.changes, feed.current)
    feed.create_topics()
    btc = Symbol("BTCUSDT")
    feed.commit(*(btc.changed(60_000 + number) for number in range(20)))
    stage.thaw()
    stage.expect_error(feed.prefix, "deleted", "creat")


def wrong_feed(stage: Stage) -> None:
    """A feed that does not exist. The program must not make brokers create its topics."""
    feed = stage.feed()
    stage.start(feed="nosuch")
    stage.expect_error(f"{feed.prefix}.nosuch.", "--feed")
    stage.expect_no_topics(feed, but=[feed.changes, feed.current])


def not_allowed(stage: Stage) -> None:
    """A user who may not read the events."""
    feed = stage.feed()
    feed.commit(Symbol("BTCUSDT").changed(60_000))
    feed.deny_reading(feed.changes)
    stage.start()
    stage.expect_error(feed.changes, "READ")


def revoked(stage: Stage) -> None:
    """A user who may not read the events any more."""
    feed = followed_feed(stage)
    feed.deny_reading(feed.changes)
    stage.expect_error(feed.changes, "READ")


def unknown_fingerprint(stage: Stage) -> None:
    """An event whose schema is in no folder."""
    feed = followed_feed(stage)
    fingerprint = bytes.fromhex("0123456789abcdef")
    _write_event(feed, b"\xc3\x01" + fingerprint)
    stage.expect_error("0123456789abcdef", "schemas")


def no_registry_given(stage: Stage) -> None:
    """A feed with a schema registry, and a program that was not told of it."""
    feed = followed_feed(stage)
    _write_event(feed, _framed(77))
    stage.expect_error("77", "--registry")


def _write_event(feed: Feed, value: bytes) -> None:
    producer = ck.Producer({"bootstrap.servers": feed.bootstrap})
    headers: dict[str, str | bytes | None] = {"ce_type": "gex.levels.changed"}
    producer.produce(feed.changes, value, b"BTCUSDT", headers=headers)
    assert producer.flush(PATIENCE_SECONDS) == 0


def wrong_registry(stage: Stage) -> None:
    """A registry that answers with a page instead of a schema."""
    feed = stage.feed()
    feed.commit(Symbol("BTCUSDT").changed(60_000))
    with page_server() as url:
        stage.start("--registry", url)
        stage.wait_restored()
        _write_event(feed, _framed(77))
        stage.expect_error("77", "registry")


def newer_schema(stage: Stage) -> None:
    """Events of newer schemas: first a compatible one, then one of a newer major."""
    assert stage.world.registry is not None
    framing = Registry(stage.world.registry, {})
    try:
        _play_newer_schemas(stage, framing, stage.world.registry)
    finally:
        framing._client.close()


def _play_newer_schemas(stage: Stage, framing: Registry, url: str) -> None:
    btc = Symbol("BTCUSDT")
    feed = stage.feed(framing)
    feed.commit(btc.changed(60_000))
    known = last_sequences(feed.events)
    stage.start("--registry", url, known=known)
    stage.wait_restored()

    newer = schema(EVENT)
    # Before the last two fields, which are levels.
    added = {"name": "note", "type": ["null", "string"], "default": None}
    newer["fields"].insert(-2, added)
    schema_id = framing._client.register(f"{feed.changes}-value", newer)
    moment = btc.changed(61_000)
    _write_event(feed, _framed(schema_id) + _encoded(newer, moment.events[0]))
    feed.events += moment.events
    stage.expect(feed.truth(known))

    major = schema(EVENT)
    for field in major["fields"]:
        if field["name"] == "sequence":
            field["type"] = "string"
    # The registry would refuse it under the topic's own subject.
    schema_id = framing._client.register(f"{feed.changes}-2-value", major)
    _write_event(feed, _framed(schema_id) + b"never decoded")
    stage.expect_error(str(schema_id), "update")


def _framed(schema_id: int) -> bytes:
    return b"\0" + schema_id.to_bytes(4, "big")


def _encoded(written: Any, event: Event) -> bytes:
    out = io.BytesIO()
    fields = msgspec.to_builtins(event) | {"note": "of tomorrow"}
    fastavro.schemaless_writer(out, fastavro.parse_schema(written), fields)
    return out.getvalue()
