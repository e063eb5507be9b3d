"""The tools as whole processes: `check`, `watch`, `history` and `verify` against a real broker and the simulator."""

from __future__ import annotations

import csv
import io
import json
import os
import pty
import signal
import subprocess
import sys
import tempfile
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import confluent_kafka as ck
import confluent_kafka.admin as admin_api
import pytest
from msgspec.structs import replace

from connector.config.model import Kafka
from connector.core.model import Event, State
from connector.devkit.java import LOOPBACK
from connector.kafka.avro import Codec, SingleObject
from connector.kafka.clients import Clients
from connector.kafka.events import Log, Partition
from connector.kafka.names import Topics, partition_of
from connector.tools.verify import verify
from tests.conftest import Names
from tests.integration.test_rights import NEEDED, grant
from tests.support import checker
from tests.support.guarded import GuardedKafka
from tests.support.processes import (
    Program,
    start_simulator,
    start_worker,
    variables_for,
    wait_until,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping
    from pathlib import Path

    from connector.devkit.local_kafka import LocalKafka
    from tests.support.registry import LocalRegistry

SYMBOLS = ("BTCUSDT", "ETHUSDT")
_SECONDS = 90


@pytest.fixture(scope="module")
def simulator() -> Iterator[Program]:
    with start_simulator(
        "--period", "1", "--limit", "600", "--symbols", ",".join((*SYMBOLS, "SOLUSDT"))
    ) as program:
        yield program


@pytest.fixture(scope="module")
def written(kafka: LocalKafka, simulator: Program) -> dict[str, str]:
    """The variables of a worker that has written events of each symbol and was stopped."""
    names = Names("tools-" + os.urandom(4).hex())
    variables = variables_for(kafka, names, simulator, SYMBOLS)
    with start_worker(variables) as worker:
        wait_until(
            lambda: len(checker.events(kafka, names.topic_prefix)) > 12,
            "events",
            worker,
        )
        assert worker.terminate() == 0
    return variables


def tool(*arguments: str, given: Mapping[str, str]) -> tuple[int, str]:
    """Exit status, and everything that was printed."""
    done = subprocess.run(
        [sys.executable, "-m", "connector", *arguments],
        env={**os.environ, **given},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=_SECONDS,
        check=False,
    )
    assert "Traceback" not in done.stdout
    assert given.get("GEX_UPSTREAM__API_KEY", "no key") not in done.stdout
    return done.returncode, done.stdout


def marks(printed: str, mark: str) -> set[str]:
    """The items of a check that have this mark."""
    return {
        line.split()[1]
        for line in printed.splitlines()
        if line.startswith(f"{mark:<4} ")
    }


def test_a_good_set_up_is_ok_and_nothing_is_changed(
    kafka: LocalKafka, registry: LocalRegistry, simulator: Program, names: Names
) -> None:
    given = variables_for(kafka, names, simulator, SYMBOLS) | {
        "GEX_SCHEMA_REGISTRY__URL": registry.url
    }
    code, printed = tool("check", given=given)
    assert (code, marks(printed, "FAIL"), marks(printed, "warn")) == (
        0,
        set(),
        set(),
    ), printed
    assert marks(printed, "ok") == {
        "configuration", "key", "quota", "clock", "symbols", "broker", "topics", "rights", "registry",
    }  # fmt: skip
    admin = admin_api.AdminClient({"bootstrap.servers": kafka.bootstrap_servers})
    assert not [
        topic
        for topic in admin.list_topics(timeout=30).topics
        if topic.startswith(names.topic_prefix)
    ]


FAULTS: dict[str, tuple[dict[str, str], int, str, str]] = {
    "wrong key": (
        {"GEX_UPSTREAM__API_KEY": "bq_live_" + "0" * 32},
        1,
        "key",
        "check upstream.api_key",
    ),
    "unknown symbol": (
        {"GEX_SYMBOLS": "BTCUSDT,ETHUSTD"},
        1,
        "symbols",
        "did you mean ETHUSDT",
    ),
    "dead broker": (
        {"GEX_KAFKA__BOOTSTRAP_SERVERS": f"{LOOPBACK}:1"},
        3,
        "broker",
        "check that the broker runs",
    ),
    "dead registry": (
        {"GEX_SCHEMA_REGISTRY__URL": f"http://{LOOPBACK}:1"},
        3,
        "registry",
        "schema_registry.url",
    ),
    "wrong configuration": (
        {"GEX_KAFKA__SHARDS": "many"},
        2,
        "configuration",
        "kafka.shards",
    ),
    "dead upstream": (
        {"GEX_UPSTREAM__BASE_URL": f"http://{LOOPBACK}:1/v2"},
        1,
        "upstream",
        "upstream.base_url",
    ),
    "other partitions": ({"GEX_KAFKA__SHARDS": "3"}, 3, "topics", "kafka.shards"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_each_fault_is_named_with_its_remedy_and_the_rest_is_tried_all_the_same(
    written: dict[str, str], fault: str
) -> None:
    variables, status, item, said = FAULTS[fault]
    code, printed = tool("check", given={**written, **variables})
    assert (code, marks(printed, "FAIL")) == (status, {item}), printed
    assert said in printed
    if status != 2:
        assert {"key", "broker", "topics"} - {item} <= marks(printed, "ok") | marks(
            printed, "warn"
        ) | {"topics"}


def test_what_cannot_be_tried_says_why_and_only_requests_that_left_are_counted(
    kafka: LocalKafka, names: Names
) -> None:
    with start_simulator("--limit", "5") as simulator:
        given = variables_for(kafka, names, simulator, SYMBOLS)
        wait_until(
            lambda: datetime.now(UTC).second < 30,
            "a minute of the quota that has a while to go",
        )
        simulator.ask("/_control/spend", {"requests": 5})
        code, printed = tool("check", given=given)
        assert (code, marks(printed, "FAIL")) == (0, set()), printed
        assert "quota          used up for another" in printed
        assert "key, clock     not tried" in printed
        assert "no request is left this minute for the symbol list" in printed
        assert printed.splitlines()[-1].startswith(
            f"{simulator.ask('/_control/stats')['requests_total']} request(s)"
        )


def test_creating_topics_is_tried_without_creating_them(
    tmp_path: Path, simulator: Program, names: Names
) -> None:
    guarded = GuardedKafka(tmp_path)
    with guarded.broker:
        guarded.admit()
        variables = {
            **variables_for(guarded.broker, names, simulator, SYMBOLS),
            **guarded.by_password(),
        }
        grant(
            guarded,
            names,
            {name: right for name, right in NEEDED.items() if name != "topic CREATE"},
        )
        code, printed = tool("check", given=variables)
        assert (code, marks(printed, "FAIL")) == (3, {"rights"}), printed
        assert f"creating topic {names.topic_prefix}.all.changes" in printed
        grant(guarded, names, NEEDED)
        before = coordinators(guarded.broker)
        code, printed = tool("check", given=variables)
        assert (code, marks(printed, "FAIL")) == (0, set()), printed
        assert coordinators(guarded.broker) == before
        assert not guarded.admin().list_consumer_groups().result(30).valid


def coordinators(kafka: LocalKafka) -> dict[tuple[str, int], tuple[int, int]]:
    """Where the broker's own topics, of groups and transactions, end: whoever joins or begins moves that."""
    consumer = ck.Consumer(
        {"bootstrap.servers": kafka.bootstrap_servers, "group.id": "unused"}
    )
    topics = consumer.list_topics(timeout=30).topics
    found = {
        (name, partition): consumer.get_watermark_offsets(
            ck.TopicPartition(name, partition), timeout=30
        )
        for name, topic in topics.items()
        for partition in topic.partitions
    }
    consumer.close()
    return found


def test_a_topic_that_is_configured_otherwise_is_named(
    kafka: LocalKafka, written: dict[str, str], names: Names
) -> None:
    prefix = names.topic_prefix
    new = [
        admin_api.NewTopic(
            f"{prefix}.all.current", 1, 1, config={"cleanup.policy": "delete"}
        ),
        admin_api.NewTopic(f"{prefix}.all.changes", 6, 1),
    ]
    admin = admin_api.AdminClient({"bootstrap.servers": kafka.bootstrap_servers})
    for future in admin.create_topics(new).values():
        future.result(30)
    code, printed = tool("check", given={**written, "GEX_KAFKA__TOPIC_PREFIX": prefix})
    assert (code, marks(printed, "FAIL")) == (3, {"topics"}), printed
    assert "cleanup.policy" in printed


# Seven checks, of which the missing right on the group takes 15 s.
@pytest.mark.timeout(300)
def test_each_right_that_is_missing_is_named_and_a_worker_that_runs_is_not_fenced(
    tmp_path: Path, simulator: Program, names: Names
) -> None:
    guarded = GuardedKafka(tmp_path)
    binding: Any = admin_api.AclBindingFilter
    named = admin_api.ResourceType.ANY, None, admin_api.ResourcePatternType.ANY
    everything = binding(
        *named, None, None, admin_api.AclOperation.ANY, admin_api.AclPermissionType.ANY
    )
    with guarded.broker:
        guarded.admit()
        admin = guarded.admin()
        variables = {
            **variables_for(guarded.broker, names, simulator, SYMBOLS),
            **guarded.by_password(),
        }
        grant(guarded, names, NEEDED)
        with start_worker(variables) as worker:
            code, printed = tool("check", given=variables)
            assert (code, marks(printed, "FAIL")) == (0, set()), printed
            before = len(checker.events(guarded.broker, names.topic_prefix))
            wait_until(
                lambda: (
                    len(checker.events(guarded.broker, names.topic_prefix)) > before
                ),
                "events",
                worker,
            )
            assert worker.metric("gex_shard_fenced_total") == 0
            assert worker.terminate() == 0
        for missing in NEEDED:
            if missing == "topic CREATE":  # they are there
                continue
            for future in admin.delete_acls([everything]).values():
                future.result(30)
            grant(
                guarded,
                names,
                {name: right for name, right in NEEDED.items() if name != missing},
            )
            code, printed = tool("check", given=variables)
            assert (code, marks(printed, "FAIL")) == (3, {"rights"}), (missing, printed)
            assert "README, Rights" in printed


def test_history_shows_the_events_of_one_symbol_in_each_form(
    kafka: LocalKafka, written: dict[str, str]
) -> None:
    prefix = written["GEX_KAFKA__TOPIC_PREFIX"]
    its = [
        event for event in checker.events(kafka, prefix) if event.symbol == "BTCUSDT"
    ]
    code, printed = tool("history", "btcusdt", "--json", given=written)
    assert (code, [json.loads(line)["sequence"] for line in printed.splitlines()]) == (
        0,
        [e.sequence for e in its],
    )
    code, printed = tool("history", "BTCUSDT", "--csv", given=written)
    rows = list(csv.DictReader(io.StringIO(printed)))
    assert [(int(row["sequence"]), row["kind"]) for row in rows] == [
        (e.sequence, e.kind) for e in its
    ]
    assert [float(row["all_expiry.hvl"]) for row in rows] == [
        e.after.all_expiry.hvl for e in its if e.after
    ]
    code, printed = tool("history", "BTCUSDT", given=written)
    assert (code, len(printed.splitlines())) == (0, len(its))


def test_history_begins_and_ends_where_it_is_told(
    kafka: LocalKafka, written: dict[str, str]
) -> None:
    its = [
        e
        for e in checker.events(kafka, written["GEX_KAFKA__TOPIC_PREFIX"])
        if e.symbol == "ETHUSDT"
    ]
    epoch = datetime(1970, 1, 1, tzinfo=UTC)
    since, until = (
        (epoch + timedelta(microseconds=its[at].observed_at)).isoformat()
        for at in (1, -2)
    )
    code, printed = tool(
        "history",
        "ETHUSDT",
        "--since",
        since,
        "--until",
        until,
        "--json",
        given=written,
    )
    assert (code, [json.loads(line)["sequence"] for line in printed.splitlines()]) == (
        0,
        [e.sequence for e in its[1:-1]],
    )
    assert tool("history", "ETHUSDT", "--since", "yesterday", given=written)[0] == 2
    assert "no events" in tool("history", "NONEUSDT", given=written)[1]


def test_watch_shows_what_is_asked_for_and_ends_quietly(
    written: dict[str, str],
) -> None:
    command = [sys.executable, "-m", "connector", "watch", "--from-beginning", "--json"]
    with tempfile.TemporaryFile() as log:
        program = Program(
            [*command, "--symbol", "ETHUSDT", "--kind", "changed"], written, log
        )
        wait_until(lambda: len(program.log().splitlines()) > 2, "events", program)
        program.signal(signal.SIGINT)
        assert program.wait() == 0
        shown = [json.loads(line) for line in program.log().splitlines()]
    assert {(event["symbol"], event["kind"]) for event in shown} == {
        ("ETHUSDT", "CHANGED")
    }


def test_on_a_terminal_the_table_has_a_row_for_each_symbol(
    written: dict[str, str],
) -> None:
    ours, theirs = pty.openpty()
    command = [sys.executable, "-m", "connector", "watch", "--table"]
    process = subprocess.Popen(
        command,
        env={**os.environ, **written, "TERM": "xterm"},
        stdout=theirs,
        stderr=theirs,
    )
    try:
        os.close(theirs)
        os.set_blocking(ours, False)
        shown = [b""]

        def rows() -> bool:
            with suppress(BlockingIOError):
                shown[0] += os.read(ours, 65_536)
            return (
                all(symbol.encode() in shown[0] for symbol in SYMBOLS)
                and b"LIVE" in shown[0]
            )

        wait_until(rows, "both rows")
        process.send_signal(signal.SIGINT)
        assert process.wait(30) == 0
    finally:
        process.kill()
        process.wait()
        os.close(ours)


def test_verify_finds_nothing_wrong_while_a_worker_writes(
    kafka: LocalKafka, simulator: Program, names: Names
) -> None:
    variables = variables_for(kafka, names, simulator, SYMBOLS)
    with start_worker(variables) as worker:
        wait_until(
            lambda: len(checker.events(kafka, names.topic_prefix)) > 6, "events", worker
        )
        for _ in range(3):
            code, printed = tool("verify", given=variables)
            assert code == 0, printed
            assert printed.startswith("ok: ")


def test_verify_waits_for_a_transaction_that_hides_events_whose_states_are_seen(
    kafka: LocalKafka, simulator: Program, names: Names
) -> None:
    """A partition of `changes` belongs to all shards: what another one has open hides what came after it."""
    variables = variables_for(kafka, names, simulator, SYMBOLS) | {
        "GEX_KAFKA__PARTITIONS": "1"
    }
    changes = f"{names.topic_prefix}.all.changes"
    with start_worker(variables) as worker:
        wait_until(
            lambda: len(checker.events(kafka, names.topic_prefix)) > 4, "events", worker
        )
        other = ck.Producer(
            {
                "bootstrap.servers": kafka.bootstrap_servers,
                "transactional.id": names.transactional_id,
                "transaction.timeout.ms": 6_000,
            }
        )
        other.init_transactions(30)
        other.begin_transaction()
        other.produce(changes, b"never committed", b"BTCUSDT")
        assert other.flush(30) == 0
        hidden = max(
            state.sequence
            for state in checker.states(kafka, names.topic_prefix).values()
        )
        wait_until(
            lambda: (
                checker.states(kafka, names.topic_prefix)["BTCUSDT"].sequence > hidden
            ),
            "states",
            worker,
        )
        code, printed = tool("verify", given=variables)
        assert code == 0, printed


class Busy(Log):
    """One whose topics get another event and its state after the end of `current` was asked for."""

    def __init__(
        self, clients: Clients, topics: Topics, write: Callable[[], None]
    ) -> None:
        super().__init__(clients, topics)
        self._write = write

    def offsets(self, places: Iterable[Partition], moment: int) -> dict[Partition, int]:
        found = super().offsets(places, moment)
        self._write()
        self._write = lambda: None
        return found


def test_verify_reads_the_states_of_events_that_came_meanwhile(
    kafka: LocalKafka,
    written: dict[str, str],
    names: Names,
    capsys: pytest.CaptureFixture[str],
) -> None:
    old = written["GEX_KAFKA__TOPIC_PREFIX"]
    event = next(one for one in checker.events(kafka, old) if one.symbol == "BTCUSDT")
    codec, topics = Codec(SingleObject()), Topics(names.topic_prefix)
    records = [
        (codec.decode_state(one.value), one.value)
        for one in checker.records(kafka, f"{old}.all.current")
    ]
    state = next(
        value
        for state, value in records
        if (state.symbol, state.sequence) == ("BTCUSDT", 1)
    )
    producer = ck.Producer(
        {"bootstrap.servers": kafka.bootstrap_servers, "partitioner": "murmur2_random"}
    )

    def write(sequence: int) -> None:
        numbered = replace(event, sequence=sequence, event_id=f"all/BTCUSDT/{sequence}")
        numbered = replace(numbered, before=None if sequence == 1 else event.after)
        producer.produce(
            topics.changes("all"), codec.encode_event("", numbered), b"BTCUSDT"
        )
        value = codec.encode_state(
            "", replace(codec.decode_state(state), sequence=sequence)
        )
        producer.produce(topics.current("all"), value, b"BTCUSDT")
        assert producer.flush(30) == 0

    admin = admin_api.AdminClient({"bootstrap.servers": kafka.bootstrap_servers})
    new = [
        admin_api.NewTopic(topics.changes("all"), 1, 1),
        admin_api.NewTopic(topics.current("all"), 1, 1),
    ]
    for future in admin.create_topics(new).values():
        future.result(30)
    write(1)
    clients = Clients(
        Kafka(
            bootstrap_servers=kafka.bootstrap_servers, topic_prefix=names.topic_prefix
        )
    )
    log = Busy(clients, topics, lambda: write(2))
    assert verify(log, topics, codec, {}) == 0, capsys.readouterr()
    log.close()
    assert "ok: 2 events and 2 states of 1 symbols" in capsys.readouterr().out


Tampered = tuple[list[Event], list[State]]


def _other_words(events: list[Event], states: list[State]) -> Tampered:
    levels = events[0].after
    assert levels is not None
    said = replace(levels, all_expiry=replace(levels.all_expiry, hvl=1.0))
    return events, [*states[:-1], replace(states[-1], levels=said, published=None)]


def _back(events: list[Event], states: list[State]) -> Tampered:
    return [
        *events[:3],
        replace(events[3], computed_at=(events[0].computed_at or 0) - 1),
        *events[4:],
    ], states


TAMPERED: dict[
    str, tuple[Callable[[list[Event], list[State]], Tampered], str | None]
] = {
    "whole": (lambda events, states: (events, states), None),
    "a gap": (
        lambda events, states: ([*events[:2], *events[3:]], states),
        "gap in the sequence: it follows #2",
    ),
    "a double": (
        lambda events, states: ([*events, events[-1]], states),
        "duplicate or out of order",
    ),
    "an event less": (
        lambda events, states: (events[:-1], states),
        "but its last event is #",
    ),
    "a state behind": (
        lambda events, states: (
            events,
            [one for one in states if one.sequence < events[-1].sequence],
        ),
        "but its state is #",
    ),
    "another thing said": (
        _other_words,
        "the state differs from the levels its event published",
    ),
    "computed_at goes back": (_back, "computed_at goes back"),
}


@pytest.mark.parametrize("what", TAMPERED)
def test_verify_finds_what_was_tampered_with(
    kafka: LocalKafka, written: dict[str, str], names: Names, what: str
) -> None:
    tamper, said = TAMPERED[what]
    before = written["GEX_KAFKA__TOPIC_PREFIX"]
    events = [
        event for event in checker.events(kafka, before) if event.symbol == "BTCUSDT"
    ]
    codec = Codec(SingleObject())
    states = [
        state
        for record in checker.records(kafka, f"{before}.all.current")
        if (state := codec.decode_state(record.value)).symbol == "BTCUSDT"
    ]
    new_events, new_states = tamper(events, states)
    prefix = names.topic_prefix
    admin = admin_api.AdminClient({"bootstrap.servers": kafka.bootstrap_servers})
    new = [
        admin_api.NewTopic(f"{prefix}.all.changes", 1, 1),
        admin_api.NewTopic(f"{prefix}.all.current", 1, 1),
    ]
    for future in admin.create_topics(new).values():
        future.result(30)
    producer = ck.Producer({"bootstrap.servers": kafka.bootstrap_servers})
    for event in new_events:
        producer.produce(
            f"{prefix}.all.changes",
            codec.encode_event(f"{prefix}.all.changes", event),
            b"BTCUSDT",
        )
    for state in new_states:
        producer.produce(
            f"{prefix}.all.current",
            codec.encode_state(f"{prefix}.all.current", state),
            b"BTCUSDT",
        )
    assert producer.flush(30) == 0
    code, printed = tool("verify", given={**written, "GEX_KAFKA__TOPIC_PREFIX": prefix})
    assert code == (said is not None), printed
    assert printed.splitlines()[-1].startswith("FAULTY" if said else "ok: ")
    assert said is None or said in printed, printed


def test_verify_finds_records_that_are_not_what_or_where_they_should_be(
    kafka: LocalKafka, written: dict[str, str], names: Names
) -> None:
    codec, prefix = Codec(SingleObject()), names.topic_prefix
    events = [
        e
        for e in checker.events(kafka, written["GEX_KAFKA__TOPIC_PREFIX"])
        if e.symbol == "BTCUSDT"
    ]
    changes, current = f"{prefix}.all.changes", f"{prefix}.all.current"
    admin = admin_api.AdminClient({"bootstrap.servers": kafka.bootstrap_servers})
    new = [admin_api.NewTopic(changes, 2, 1), admin_api.NewTopic(current, 1, 1)]
    for future in admin.create_topics(new).values():
        future.result(30)
    right = partition_of("BTCUSDT", 2)
    producer = ck.Producer({"bootstrap.servers": kafka.bootstrap_servers})
    producer.produce(
        changes, codec.encode_event(changes, events[0]), b"ETHUSDT", partition=right
    )
    producer.produce(
        changes,
        codec.encode_event(changes, replace(events[1], event_id="1")),
        b"BTCUSDT",
        partition=right,
    )
    strange = replace(events[2], before=None)
    producer.produce(
        changes, codec.encode_event(changes, strange), b"BTCUSDT", partition=right
    )
    producer.produce(changes, b"not avro", b"BTCUSDT", partition=right)
    producer.flush(30)
    other = replace(events[0], symbol="SOLUSDT", event_id="all/SOLUSDT/1")
    producer.produce(
        changes,
        codec.encode_event(changes, other),
        b"SOLUSDT",
        partition=1 - partition_of("SOLUSDT", 2),
    )
    producer.produce(current, None, b"BTCUSDT")
    assert producer.flush(30) == 0
    code, printed = tool("verify", given={**written, "GEX_KAFKA__TOPIC_PREFIX": prefix})
    faults = [
        "BTCUSDT #1: the record key is not the symbol",
        "BTCUSDT #2: event_id is '1', expected all/BTCUSDT/2",
        "BTCUSDT #3: `before` differs from the levels published last",
        "no schema of this version",
        "SOLUSDT #1: the record is in the wrong partition",
        "unexpected tombstone",
        "BTCUSDT: its last event is #3, but it has no state",
        "SOLUSDT: its last event is #1, but it has no state",
    ]
    assert (code, [fault for fault in faults if fault not in printed]) == (1, []), (
        printed
    )
    assert printed.splitlines()[-1].endswith(f"{len(faults)} faults"), printed


def test_a_pipe_that_ends_ends_the_tool_quietly(written: dict[str, str]) -> None:
    for command in ("history BTCUSDT", "watch --from-beginning", "check"):
        line = f"{sys.executable} -m connector {command} | head -1; exit ${{PIPESTATUS[0]}}"
        done = subprocess.run(
            ["bash", "-c", line],
            check=False,
            env={**os.environ, **written},
            capture_output=True,
            timeout=_SECONDS,
        )
        assert (done.returncode, done.stderr, len(done.stdout.splitlines())) == (
            0,
            b"",
            1,
        )
