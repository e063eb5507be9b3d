"""The cases: each writes a feed while programs follow it, and says what is right."""

from __future__ import annotations

import io
import os
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final

import confluent_kafka as ck
import fastavro
import msgspec

from connector.core.model import Kind, Status
from connector.devkit.simulator.settings import EIGHT_SYMBOLS
from connector.kafka.avro import EVENT, Codec, SingleObject, schema
from connector.kafka.names import partition_of
from connector.kafka.registry import Registry
from tests.conformance.feed import PATIENCE_SECONDS, Feed, Worker
from tests.conformance.judge import Truth, last_sequences
from tests.conformance.page_server import page_server
from tests.conformance.stage import Stage
from tests.conformance.story import Symbol, levels
from tests.conftest import Names
from tests.support import checker
from tests.support.processes import (
    start_simulator,
    start_worker,
    variables_for,
    wait_until,
)

if TYPE_CHECKING:
    from connector.core.model import Event, State

# More than a client fetches at once from a partition (1 MiB by default).
_MANY_BYTES: Final = 3_000_000
_PART_BYTES: Final = 500_000
# Right programs print nothing within this time, and wrong ones do.
_LOOK_SECONDS: Final = 12.0
_OPEN_SECONDS: Final = 4.0
_KILLS: Final = 3
_LINES_BETWEEN_KILLS: Final = 24


def truth_of(feed: Feed, known: dict[str, int]) -> Truth:
    return Truth(feed.events, feed.states, known)


def aborted(stage: Stage) -> None:
    """Two aborted transactions of one producer in one fetch, and a long one in several."""
    btc, eth = Symbol("BTCUSDT"), Symbol("ETHUSDT")
    feed = stage.feed()
    with Worker(feed) as worker, Worker(feed) as other:
        worker.commit(btc.changed(60_000))
        worker.abort(btc.aborted())
        worker.abort(btc.aborted())
        worker.commit(btc.changed(60_500))
        other.abort(eth.aborted())
        known = last_sequences(feed.events)
        stage.start(known=known)
        stage.wait_restored()

        # Until the other worker ends its transaction, nobody may read beyond it. Then all
        # comes in one fetch.
        other.write(eth.aborted())
        worker.abort(btc.aborted())
        worker.commit(btc.changed(61_000))
        worker.abort(btc.aborted())
        worker.abort(btc.aborted())
        worker.commit(btc.changed(61_500))
        other.abort()
        other.commit(eth.changed(3000))

        # The marker of this one comes in a later fetch than its first records.
        for _ in range(_MANY_BYTES // _PART_BYTES):
            # Random, so that it cannot be compressed.
            worker.write(btc.aborted(extra=os.urandom(_PART_BYTES // 2).hex()))
        worker.abort()
        worker.abort(btc.aborted())
        worker.commit(btc.changed(62_000))
        other.commit(eth.changed(3100))
    stage.expect(truth_of(feed, known))


def open_at_the_start(stage: Stage) -> None:
    """A transaction that is open when the program starts, and commits or aborts later."""
    btc, eth = Symbol("BTCUSDT"), Symbol("ETHUSDT")
    feed = stage.feed()
    with Worker(feed) as worker, Worker(feed) as other:
        worker.commit(btc.changed(60_000))
        worker.commit(btc.changed(60_500))
        known = last_sequences(feed.events)
        other.write(eth.aborted())
        worker.write(btc.changed(61_000))
        stage.start(known=known)
        stage.give_time(_OPEN_SECONDS, count=2)
        worker.commit()
        other.abort()
        stage.wait_restored()
        worker.commit(btc.changed(61_500))
        other.commit(eth.changed(3000))
    stage.expect(truth_of(feed, known))


def statuses(stage: Stage) -> None:
    """Every status and kind, other models, absent levels, and a start in the middle."""
    _play_statuses(stage, stage.feed(partitions=3))


def registry(stage: Stage) -> None:
    """The same with a schema registry, and an event of a newer compatible schema."""
    assert stage.world.registry is not None
    framing = Registry(stage.world.registry, {})
    try:
        _play_statuses(
            stage, stage.feed(framing, 3), "--registry", stage.world.registry
        )
    finally:
        framing._client.close()


def _play_statuses(stage: Stage, feed: Feed, *options: str) -> None:
    btc, eth = Symbol("BTCUSDT"), Symbol("ETHUSDT")
    sol, xrp = Symbol("SOLUSDT"), Symbol("XRPUSDT")
    feed.commit(
        btc.then(Kind.SNAPSHOT, Status.LIVE, levels(60_000), reason="asked"),
        eth.then(Kind.SNAPSHOT, Status.LIVE, levels(3000, "std")),
        eth.then(Kind.MISSING, Status.MISSING),
        sol.then(Kind.SNAPSHOT, Status.LIVE, levels(150)),
        sol.then(Kind.STALE, Status.STALE, reason="no_answer"),
        xrp.then(Kind.INVALID, Status.INVALID, is_dated=False),
    )
    known = last_sequences(feed.events)
    stage.start(*options, known=known)
    stage.wait_restored()
    feed.commit(
        btc.then(Kind.STALE, Status.STALE, reason="old"),
        btc.then(Kind.FRESH, Status.LIVE),
        # Another model, one without a name, the first again, and then the other.
        btc.then(
            Kind.SNAPSHOT, Status.LIVE, levels(59_000, "std"), reason="positioning"
        ),
        btc.then(Kind.CHANGED, Status.LIVE, levels(59_100, None)),
        btc.then(Kind.CHANGED, Status.LIVE, levels(59_200, "std")),
        btc.then(Kind.MISSING, Status.MISSING),
        btc.then(
            Kind.SNAPSHOT, Status.LIVE, levels(60_000, "flow"), reason="positioning"
        ),
        eth.then(Kind.RESTORED, Status.LIVE, levels(None, "flow"), is_dated=False),
        sol.then(Kind.FRESH, Status.LIVE, levels(151, "a model of tomorrow")),
        sol.then(Kind.REMOVED, Status.REMOVED),
        xrp.then(Kind.RESTORED, Status.LIVE, levels(0.0)),
        Symbol("NEWUSDT").then(Kind.SNAPSHOT, Status.LIVE, levels(0.000123)),
    )
    stage.expect(truth_of(feed, known))


def ends(stage: Stage) -> None:
    """The option --max-events, in the middle of a feed."""
    btc = Symbol("BTCUSDT")
    feed = stage.feed()
    feed.commit(btc.changed(60_000), btc.changed(60_500))
    known = last_sequences(feed.events)
    stage.start("--max-events", "2", known=known)
    stage.wait_restored()
    feed.commit(btc.changed(61_000), btc.changed(61_500))
    truth = Truth(tuple(feed.events), tuple(feed.states), known)
    feed.commit(btc.changed(62_000))
    stage.expect_end(truth)


def late_start(stage: Stage) -> None:
    """A feed that is at rest, and --seconds 0: only the last state of each symbol."""
    btc, eth = Symbol("BTCUSDT"), Symbol("ETHUSDT")
    feed = stage.feed(partitions=6)
    feed.commit(*(btc.changed(60_000 + number) for number in range(50)))
    feed.commit(eth.changed(3000), eth.then(Kind.REMOVED, Status.REMOVED))
    known = last_sequences(feed.events)
    stage.start("--seconds", "0", known=known)
    stage.expect_end(truth_of(feed, known))


def empty_feed(stage: Stage) -> None:
    """A feed without a record; its first events come later."""
    feed = stage.feed(partitions=3)
    stage.start()
    stage.wait_restored()
    feed.commit(Symbol("BTCUSDT").changed(60_000), Symbol("ETHUSDT").changed(3000))
    stage.expect(truth_of(feed, {}))


def strays(stage: Stage) -> None:
    """Records of other programs and a deleted state, which the connector ignores."""
    btc = Symbol("BTCUSDT")
    feed = stage.feed()
    feed.commit(btc.changed(60_000))
    for topic in (feed.changes, feed.current):
        feed.stray(topic, b"BTCUSDT", b"hello")
        feed.stray(topic, b"BTCUSDT", b"")
    feed.stray(feed.current, b"BTCUSDT", None)
    known = last_sequences(feed.events)
    stage.start(known=known)
    stage.wait_restored()
    feed.stray(feed.changes, b"BTCUSDT", b"hello")
    feed.stray(feed.changes, b"BTCUSDT", None)
    feed.commit(btc.changed(61_000))
    stage.expect(truth_of(feed, known))


def partitions_added(stage: Stage) -> None:
    """A symbol moves to a new partition, whose events come before those of its old one."""
    after = 3
    moving, staying = _moving_and_staying(after)
    feed = stage.feed()
    feed.commit(moving.changed(60_000), staying.changed(3000))
    known = last_sequences(feed.events)
    # On a busy machine all this can take longer than a program's usual patience.
    stage.start("--patience", "600", known=known)
    stage.wait_restored()
    with Worker(feed) as holder:
        # Its open transaction holds back the next event in the old partition.
        holder.write(staying.changed(3100))
        feed.commit(moving.changed(61_000))
        feed.add_partitions(after)
        feed.commit(moving.changed(62_000), moving.changed(63_000))
        stage.give_time(_LOOK_SECONDS, count=4)
        holder.commit()
    stage.expect(truth_of(feed, known))


def _moving_and_staying(partitions: int) -> tuple[Symbol, Symbol]:
    """Return a symbol that leaves partition 0 of 1 when there are more, and one that stays."""
    names = [f"S{number}" for number in range(100)]
    moving = [name for name in names if partition_of(name, partitions) != 0]
    staying = [name for name in names if partition_of(name, partitions) == 0]
    return Symbol(moving[0]), Symbol(staying[0])


def gap(stage: Stage) -> None:
    """An event that is missing for good."""
    btc = Symbol("BTCUSDT")
    feed = stage.feed()
    feed.commit(btc.changed(60_000))
    stage.start("--patience", "1")
    stage.wait_restored()
    btc.skip()
    feed.commit(btc.changed(61_000))
    stage.expect_error("BTCUSDT", "2", "3")


def retention(stage: Stage) -> None:
    """Events that were deleted before the program could read them."""
    btc = Symbol("BTCUSDT")
    feed = stage.feed()
    feed.commit(btc.changed(60_000))
    stage.start()
    stage.wait_restored()
    # A frozen program has one fetch under way at most, which the first event ends.
    stage.freeze()
    feed.commit(*(btc.changed(61_000 + number) for number in range(20)))
    feed.delete_events()
    stage.thaw()
    stage.expect_error(feed.changes, "retention")


def deleted_topic(stage: Stage) -> None:
    """Topics that are deleted while the program follows them."""
    feed = stage.feed()
    feed.commit(Symbol("BTCUSDT").changed(60_000))
    stage.start()
    stage.wait_restored()
    feed.delete_topics()
    stage.expect_error(feed.prefix, "deleted")


def wrong_feed(stage: Stage) -> None:
    """A feed that does not exist."""
    feed = stage.feed()
    stage.start(feed="nosuch")
    stage.expect_error(f"{feed.prefix}.nosuch.", "--feed")


def unknown_fingerprint(stage: Stage) -> None:
    """An event whose schema is in no folder."""
    btc = Symbol("BTCUSDT")
    feed = stage.feed()
    feed.commit(btc.changed(60_000))
    stage.start()
    stage.wait_restored()
    fingerprint = bytes.fromhex("0123456789abcdef")
    _write_event(feed, b"\xc3\x01" + fingerprint)
    stage.expect_error("0123456789abcdef", "schemas")


def no_registry_given(stage: Stage) -> None:
    """A feed with a schema registry, and a program that was not told of it."""
    feed = stage.feed()
    feed.commit(Symbol("BTCUSDT").changed(60_000))
    stage.start()
    stage.wait_restored()
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
    stage.expect(truth_of(feed, known))

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


def not_allowed(stage: Stage) -> None:
    """A user who may not read the events."""
    feed = stage.feed()
    feed.commit(Symbol("BTCUSDT").changed(60_000))
    feed.deny_reading(feed.changes)
    stage.start()
    stage.expect_error(feed.changes, "READ")


def killed_workers(stage: Stage) -> None:
    """Workers that are killed and replaced while programs follow them."""
    kafka, prefix = stage.world.kafka, stage.prefix
    with start_simulator("--period", "0.5", "--jitter", "0.1", "--limit", "0") as api:
        variables = variables_for(kafka, Names(stage.unique), api)

        def every_symbol_has_a_state() -> bool:
            return len(checker.states(kafka, prefix)) == len(EIGHT_SYMBOLS)

        with start_worker(variables) as worker:
            wait_until(every_symbol_has_a_state, "all symbols have a state", worker)
            known = last_sequences(checker.events(kafka, prefix))
            stage.start(known=known)
            stage.wait_restored()
            worker.kill()
        lines = 2 * len(EIGHT_SYMBOLS)
        for kills in range(1, _KILLS + 1):
            with start_worker(variables) as worker:
                stage.wait_lines(lines + kills * _LINES_BETWEEN_KILLS)
                if kills < _KILLS:
                    worker.kill()
                else:
                    assert worker.terminate() == 0

    events = checker.events(kafka, prefix)
    assert checker.violations(events, checker.states(kafka, prefix)) == []
    stage.expect(Truth(events, _all_states(stage), known))


def _all_states(stage: Stage) -> list[State]:
    codec = Codec(SingleObject())
    found = []
    for record in checker.records(stage.world.kafka, f"{stage.prefix}.all.current"):
        found.append(codec.decode_state(record.value))
    return found


Case = Callable[[Stage], None]

# Those that wait longest come first.
ALL_CASES: Final[tuple[Case, ...]] = (
    killed_workers,
    partitions_added,
    open_at_the_start,
    deleted_topic,
    aborted,
    statuses,
    registry,
    late_start,
    ends,
    empty_feed,
    strays,
    gap,
    retention,
    wrong_feed,
    not_allowed,
    unknown_fingerprint,
    no_registry_given,
    wrong_registry,
    newer_schema,
)
