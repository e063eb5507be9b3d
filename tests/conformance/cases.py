"""The cases: each writes a feed while programs follow it, and says what is right."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import TYPE_CHECKING, Final

from connector.core.model import Kind, Status
from connector.devkit.simulator.settings import EIGHT_SYMBOLS
from connector.kafka.avro import Codec, SingleObject
from connector.kafka.registry import Registry
from connector.kafka.shard_log import Transaction
from tests.conformance import error_cases
from tests.conformance.feed import Feed, Worker
from tests.conformance.judge import Truth, last_sequences
from tests.conformance.stage import Stage
from tests.conformance.story import Symbol, levels, moving_and_staying
from tests.conftest import Names
from tests.support import checker
from tests.support.processes import (
    start_simulator,
    start_worker,
    variables_for,
    wait_until,
)

if TYPE_CHECKING:
    from connector.core.model import State

# More than a client fetches at once from a partition (1 MiB by default).
_MANY_BYTES: Final = 3_000_000
_PART_BYTES: Final = 500_000
# Right programs print nothing within this time, and wrong ones do.
_LOOK_SECONDS: Final = 12.0
_OPEN_SECONDS: Final = 4.0
_LONG_PATIENCE: Final = "600"
_KILLS: Final = 3
_LINES_BETWEEN_KILLS: Final = 24


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
    stage.expect(feed.truth(known))


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
        stage.start("--patience", _LONG_PATIENCE, known=known)
        stage.give_time(_OPEN_SECONDS, count=2)
        worker.commit()
        other.abort()
        stage.wait_restored()
        worker.commit(btc.changed(61_500))
        other.commit(eth.changed(3000))
    stage.expect(feed.truth(known))


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
    stage.expect(feed.truth(known))


def silence(stage: Stage) -> None:
    """A connector that is dead, until another one refreshes the levels without an event."""
    btc, eth = Symbol("BTCUSDT"), Symbol("ETHUSDT")
    feed = stage.feed()
    # A symbol without levels is never refreshed.
    feed.commit(btc.changed(60_000), eth.then(Kind.MISSING, Status.MISSING))
    known = last_sequences(feed.events)
    stage.start(known=known)
    stage.wait_restored()
    stage.wait_note("BTCUSDT: not refreshed")
    with Worker(feed) as worker:

        def refresh() -> None:
            worker.commit(btc.refreshed())

        stage.wait_note("BTCUSDT: refreshed again", meanwhile=refresh)
    stage.expect_no_note("ETHUSDT: ")
    stage.expect(feed.truth(known))


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
    stage.expect_end(feed.truth(known))


def empty_feed(stage: Stage) -> None:
    """A feed without a record; its first events come later."""
    feed = stage.feed(partitions=3)
    stage.start()
    stage.wait_restored()
    feed.commit(Symbol("BTCUSDT").changed(60_000), Symbol("ETHUSDT").changed(3000))
    stage.expect(feed.truth({}))


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
    stage.expect(feed.truth(known))


def old_states(stage: Stage) -> None:
    """Old states that another program has copied to another partition of `current`."""
    btc, eth = Symbol("BTCUSDT"), Symbol("ETHUSDT")
    feed = stage.feed(shards=2)
    with Worker(feed) as first, Worker(feed, shard=1) as second:
        old_btc, old_eth = btc.changed(60_000), eth.changed(3000)
        first.commit(old_btc)
        first.commit(btc.changed(61_000))
        second.commit(old_eth)
        second.commit(eth.changed(3100))
        # In whatever order two partitions are read, one of the copies comes after the
        # newer state.
        first.commit(Transaction([], old_eth.states))
        second.commit(Transaction([], old_btc.states))
        known = last_sequences(feed.events)
        stage.start(known=known)
        stage.wait_restored()
        first.commit(btc.changed(62_000))
        second.commit(eth.changed(3200))
    stage.expect(feed.truth(known))


def partitions_added(stage: Stage) -> None:
    """A symbol moves to a new partition, whose events come before those of its old one."""
    after = 3
    moving, staying = moving_and_staying(after)
    feed = stage.feed()
    feed.commit(moving.changed(60_000), staying.changed(3000))
    known = last_sequences(feed.events)
    # On a busy machine all this can take longer than a program's usual patience.
    stage.start("--patience", _LONG_PATIENCE, known=known)
    stage.wait_restored()
    with Worker(feed) as holder:
        # Its open transaction holds back the next event in the old partition.
        holder.write(staying.changed(3100))
        feed.commit(moving.changed(61_000))
        feed.add_partitions(after)
        feed.commit(moving.changed(62_000), moving.changed(63_000))
        stage.give_time(_LOOK_SECONDS, count=4)
        holder.commit()
    stage.expect(feed.truth(known))


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
    error_cases.gap,
    partitions_added,
    open_at_the_start,
    error_cases.deleted_topic,
    error_cases.deleted_states,
    error_cases.recreated_topic,
    aborted,
    statuses,
    registry,
    silence,
    late_start,
    ends,
    empty_feed,
    strays,
    old_states,
    error_cases.retention,
    error_cases.held_back,
    error_cases.wrong_feed,
    error_cases.not_allowed,
    error_cases.revoked,
    error_cases.unknown_fingerprint,
    error_cases.no_registry_given,
    error_cases.wrong_registry,
    error_cases.newer_schema,
)
